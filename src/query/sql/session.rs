//! The session that every statement starts from: its settings, functions and rules.
//!
//! [`rules`] adds functions and rules of our own; functions that are not safe here are removed.

use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;

use super::{guard, rules};

/// The state that the session of each statement is made from. `partitions`: how many parts a plan is split into.
pub fn template(partitions: usize) -> SessionState {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(partitions)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema("quiver", "public");
    // Metric and label names are case-sensitive.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    // Each statement brings a memory pool of its own.
    let mut state = rules::apply(SessionStateBuilder::new().with_config(config));
    for name in guard::REMOVED_FUNCTIONS {
        guard::remove_function(&mut state, name);
    }
    state
}
