//! Quiver, a time series database on Apache Arrow and DataFusion, as a library.
//!
//! [`Database`] is the façade: open a folder, write samples, ask PromQL and SQL, close. The server is built on it, so what
//! works here works there. `examples/embed.rs` is a program that uses it.

pub mod cli;
pub mod config;
pub mod database;
pub mod reload;
pub mod server;

/// Version, commit and its date, as `quiver --version` prints them.
pub const VERSION: &str = env!("QUIVER_VERSION");
/// The commit this was built from, or `unknown`.
pub const COMMIT: &str = env!("QUIVER_BUILD_COMMIT");
/// The date of that commit, or `unknown`.
pub const COMMIT_DATE: &str = env!("QUIVER_BUILD_DATE");

pub use database::{Database, DatabaseError, OpenOptions};
pub use quiver_core::{Health, StoreStats, WriteError, WriteReceipt};
pub use quiver_model as model;
pub use quiver_query::{Answer, AnswerSeries, AnswerValue, PromqlRequest, QueryError, QueryOptions};
