//! Which series a selector picks: postings per label pair, dictionaries of values, matchers in order of their price.
//!
//! ```text
//! label name ─▶ sorted values ─▶ postings (series numbers)
//!                  ▲ a regular expression walks these, from its literal prefix on; never the series
//! ```
//!
//! [`HeadIndex`] grows with the head; a block's index is read from its bytes. Both are picked from by
//! [`select`](select::select).

pub mod block;
pub mod build;
pub mod head;
pub mod postings;
pub mod select;

pub use block::BlockIndex;
pub use build::{BuiltIndex, IndexBuilder};
pub use head::{HeadIndex, NamedCount};
pub use postings::{Postings, PostingsRef};
pub use select::{IndexUse, Lookup, MatcherStep, Picked, Way, estimate, pick, select};
