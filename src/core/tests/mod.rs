//! The store against its oracle.

mod head;
mod oracle;
mod store;
