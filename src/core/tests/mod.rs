//! The store against its oracle.

mod backup;
mod check;
mod crash;
mod deletes;
mod faults;
mod handover;
mod head;
mod oracle;
mod orders;
mod report;
mod retention;
mod snapshots;
mod store;
mod tier;
