//! What Quiver puts right in DataFusion's planning: rules, functions, settings.

use std::sync::Arc;

use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::optimizer::{Analyzer, AnalyzerRule};

use super::float_order::FloatOrder;
use super::meaning::{FineTimes, Meaning};
use super::min_max;

/// A session with Quiver's rules.
pub fn apply(mut builder: SessionStateBuilder) -> SessionState {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(Meaning)];
    rules.extend(Analyzer::new().rules);
    rules.push(Arc::new(FineTimes));
    rules.push(Arc::new(FloatOrder));
    if let Some(config) = builder.config() {
        let options = &mut config.options_mut().optimizer;
        // Its heap takes no nulls and no floats: `SELECT DISTINCT value … ORDER BY value DESC LIMIT 3` panics.
        options.enable_topk_aggregation = false;
        // Else a sort with a limit is pushed below the aggregation over sorted inputs, which then merges some of the rows
        // that were counted: `SELECT DISTINCT … ORDER BY … LIMIT n` over a union of sorted parts has fewer than n.
        options.prefer_existing_sort = true;
    }
    let mut state = builder.with_default_features().with_analyzer_rules(rules).build();
    for f in min_max::functions() {
        // The functions of the same names are replaced.
        let _ = state.register_udaf(Arc::new(f));
    }
    state
}
