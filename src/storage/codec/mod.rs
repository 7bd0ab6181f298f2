//! Samples as bytes: lossless to the bit, picked per chunk by size and by what decoding costs.
//!
//! ```text
//! chunk ── time ──── first + i·step │ deviations           shared by the series of a target
//!      └── float ─── constant │ decimal │ bits │ xor │ raw  ─┐
//!      └── histogram  layouts once, buckets over time        ├─ ints ─ frames ─ pack
//!      └── start timestamps                                 ─┘
//! ```
//!
//! Invariants
//! 1. What an encoder takes, its decoder gives back, bit for bit, whatever the bits: NaN payloads, −0.0, markers.
//! 2. A decoder given any bytes returns an error or values; it does not panic and allocates in proportion to the bytes
//!    and to [`SAMPLES_MAX`]. That bytes are the ones written is for the checksums of the file to say.

pub mod chunk;
pub mod float;
pub mod frames;
pub mod histogram;
pub mod ints;
pub mod pack;
pub mod time;

pub use chunk::{Chunk, ChunkRef, ChunkStats, Decoder, Encoder, ValueStats};
pub use time::{TimeColumn, TimeInterner};

/// The most samples one chunk may hold.
pub const SAMPLES_MAX: usize = 1 << 16;
/// Samples after which a head seals a chunk: two hours at 15 s.
pub const CHUNK_SAMPLES: usize = 480;

/// Histograms of one chunk take at most this in memory, bytes, unless one alone takes more: a chunk is decoded whole.
pub const CHUNK_HISTOGRAM_BYTES: usize = 16 << 20;
