//! What operators compute, as pure functions over slices: no DataFusion, no I/O.
pub mod histogram;
pub mod operators;
