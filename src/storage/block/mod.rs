//! Blocks: one immutable file each, every byte under a checksum.
//!
//! ```text
//! header │ chunks of series 0, 1, 2, … and columns of times │ exemplars │ metadata │ dictionary │ postings │ series │
//! times  │ footer │ trailer
//! ```
//!
//! Read from the end: the trailer finds the footer, the footer all sections, the series section the chunks. A block can
//! be read by ranges from anywhere; what is read is checked then.
//!
//! Invariants
//! 1. Series stand in label order, their chunks in order of time, without overlap.
//! 2. A block is written to a temporary name, synced, renamed, its folder synced: a file with the final name is whole.
//! 3. A flipped byte is [`StorageError::Corrupt`](crate::StorageError) for whatever touches it, and for nothing else.

mod format;
mod inspect;
mod reader;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use format::BlockMeta;
pub use inspect::{BlockSummary, Share};
pub use reader::{Block, BlockBytes, ChunkEntry};
pub use tail::{Tailed, tail_file};
pub use writer::BlockWriter;
