//! The session that every statement starts from: its settings, functions and rules.
//!
//! Functions, analyzer rules and optimizer rules of our own are registered in [`register`] and nowhere else.

use std::sync::Arc;

use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

use super::guard;
use crate::error::QueryError;

/// The state that the session of each statement is made from. `partitions`: how many parts a plan is split into.
pub fn template(partitions: usize, memory_bytes_max: usize) -> Result<SessionState, QueryError> {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(partitions)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema("quiver", "public");
    // Metric and label names are case-sensitive.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let runtime_env = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes_max)))
        .build_arc()
        .map_err(|e| super::error(&e))?;
    let mut state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime_env).with_default_features().build();
    register(&mut state);
    Ok(state)
}

/// Adds our functions and rules, and removes functions that are not safe here.
fn register(state: &mut SessionState) {
    for name in guard::REMOVED_FUNCTIONS {
        guard::remove_function(state, name);
    }
}
