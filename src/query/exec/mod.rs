//! Physical operators and the tile they exchange.

pub mod tile;
