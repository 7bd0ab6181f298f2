//! The store against its oracle.

mod crash;
mod handover;
mod head;
mod oracle;
mod report;
mod store;
