//! What Quiver puts right in DataFusion's planning: rules, functions, settings.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::functions::math::signum;
use datafusion::functions_aggregate::bool_and_or::bool_and_udaf;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::{Analyzer, AnalyzerRule};

use super::float_order::FloatOrder;
use super::meaning::{FineTimes, Meaning};
use super::min_max;
use super::multiset::Multisets;

/// A session with Quiver's rules.
pub fn apply(mut builder: SessionStateBuilder) -> SessionState {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(Multisets), Arc::new(Meaning)];
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
    // PostgreSQL's names.
    let _ = state.register_udaf(Arc::new(bool_and_udaf().as_ref().clone().with_aliases(["every"])));
    let _ = state.register_udf(Arc::new(signum().as_ref().clone().with_aliases(["sign"])));
    let _ = state.register_udf(Arc::new(ScalarUDF::new_from_impl(Mod::default())));
    state
}

/// `mod(a, b)`, which becomes `a % b` before it is evaluated ([`super::meaning`]).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Mod(Signature);

impl Default for Mod {
    fn default() -> Self {
        Self(Signature::any(2, Volatility::Immutable))
    }
}

impl ScalarUDFImpl for Mod {
    fn name(&self) -> &str {
        "mod"
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        BinaryTypeCoercer::new(&types[0], &Operator::Modulo, &types[1]).get_result_type()
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("mod takes two numbers")
    }
}
