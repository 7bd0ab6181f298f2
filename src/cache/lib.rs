//! The hierarchy under the scan: what was read stays near for the next query, each tier with a size of its own.
//!
//! ```text
//! query ─▶ L1 working_set   decoded columns, weighed in bytes                   memory
//!       ─▶ L2               mapped blocks and mapped pages                      the kernel's
//!       ─▶ L3 pages         pages of remote blocks, in segments on the disk     survive a restart
//!       ─▶ remote           ranges of objects, joined, one request in flight for each, checked by the block
//!
//! predict   a dashboard asks again, a step later: what it will need is fetched and decoded before it asks
//! budget    L1 gives way where the process grows past its share
//! ```
//!
//! Invariants
//! 1. A key names immutable bytes, so nothing here ever goes stale.
//! 2. One load per key is in flight; those who come meanwhile wait for it. A failed load is nobody's value.
//! 3. A scan of everything passes through without emptying any tier.
//! 4. Nothing here is needed for an answer: a tier that cannot write or whose bytes rot is a miss.

pub mod budget;
mod pages;
pub mod predict;
mod remote;
mod working_set;

pub use pages::{PageFigures, PageOptions, PageStore};
pub use remote::{Begun, FetchCounts, RemoteBlock, RemoteCache, RemoteFigures, fetch_counts};
pub use working_set::{Admission, ColumnKey, WorkingSet, WorkingSetFigures, weight_of};
