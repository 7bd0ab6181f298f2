//! quiver
