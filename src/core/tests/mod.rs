//! The store against its oracle.

mod crash;
mod head;
mod oracle;
mod store;
