//! Immutable data: chunks of encoded samples, blocks, their index, merging, Parquet.
//!
//! ```text
//! codec ─▶ block ─▶ merge      samples to bytes, bytes to files, files to fewer files
//! index ──▲                    which series, for blocks and for the head
//! parquet                      out, and back in
//! ```
//!
//! Invariants
//! 1. Nothing written is changed later; every byte of a block is under a checksum and a flipped one is an error, never
//!    another value.
//! 2. Codecs give back every bit.
//!
//! The bytes are described in `FORMAT.md`.

pub mod block;
pub mod bytes;
pub mod codec;
pub mod error;
pub mod index;
pub mod merge;
pub mod parquet;

pub use block::{Block, BlockMeta, BlockWriter, ChunkEntry};
pub use bytes::Damaged;
pub use codec::{Chunk, ChunkRef, ChunkStats, Decoder, Encoder, TimeColumn, TimeInterner, ValueStats};
pub use error::StorageError;
pub use index::HeadIndex;
pub use merge::{Deleted, MergeOptions, MergeReport, merge};
pub use parquet::{DayWriter, ParquetExporter, parquet_time_bounds, read_parquet_dir};
