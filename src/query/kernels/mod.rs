//! What operators compute, as pure functions over slices: no DataFusion, no I/O.

pub mod elementwise;
pub mod histogram;
pub mod instant;
pub mod operators;
pub mod range;
