//! Calls of table functions, told apart.
//!
//! DataFusion 55.2 compares scans by the name of their table, and the name of `generate_series(1, 3)` is `generate_series()`. Two scalar
//! subqueries that differ only in the arguments of a table function are therefore one to it, and both get the value of the first.
//! So each call with other arguments gets another name, under which the same function is registered for the statement.

use std::ops::ControlFlow;

use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, TableFactor, VisitMut, VisitorMut};

/// A new name, and the name of the function it stands for.
pub type Renamed = (String, String);

/// Gives calls with different arguments different names: the first of each function keeps its own.
pub fn tell_apart(statement: &mut Statement) -> Vec<Renamed> {
    match statement {
        Statement::Statement(inner) => {
            let mut calls = Calls::default();
            let _ = VisitMut::visit(inner.as_mut(), &mut calls);
            calls.renamed
        }
        Statement::Explain(e) => tell_apart(&mut e.statement),
        _ => Vec::new(),
    }
}

/// Registers each function under its new names, too.
pub fn register(state: &mut SessionState, renamed: &[Renamed]) {
    for (new, name) in renamed {
        if let Some(function) = state.table_functions().get(name).map(|f| f.function().clone()) {
            state.register_udtf(new, function);
        }
    }
}

#[derive(Default)]
struct Calls {
    /// Functions and arguments seen so far.
    seen: Vec<(String, String)>,
    renamed: Vec<Renamed>,
}

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args: Some(args), .. } = factor else { return ControlFlow::Continue(()) };
        let Some(function) = name.0.last().and_then(|n| n.as_ident()).map(|n| n.value.clone()) else {
            return ControlFlow::Continue(());
        };
        let call = (function.clone(), args.args.iter().map(|a| format!("{a}, ")).collect::<String>());
        let others = self.seen.iter().filter(|c| c.0 == function && **c != call).count();
        let number = match self.seen.iter().position(|c| *c == call) {
            // As many others came before it as when it was seen first.
            Some(at) => self.seen[..at].iter().filter(|c| c.0 == function).count(),
            None => {
                self.seen.push(call);
                others
            }
        };
        if number > 0 {
            let new = format!("{function}_{}", number + 1);
            *name = ObjectName::from(vec![Ident::new(&new)]);
            if !self.renamed.iter().any(|r| r.0 == new) {
                self.renamed.push((new, function));
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::guard;

    #[test]
    fn calls_with_other_arguments_get_other_names() {
        let sql = "SELECT (SELECT max(value) FROM generate_series(1, 3)), (SELECT max(value) FROM generate_series(1, 5) a), \
                   (SELECT min(value) FROM generate_series(1, 3)), (SELECT min(value) FROM generate_series(1, 5)), \
                   (SELECT 1 FROM f(1, 5) JOIN t ON true)";
        let mut statement = guard::parse(sql, &quiver_model::Limits::default()).unwrap();
        let renamed = tell_apart(&mut statement);
        assert_eq!(renamed, [("generate_series_2".to_owned(), "generate_series".to_owned())]);
        let text = statement.to_string();
        assert_eq!(text.matches("generate_series_2(1, 5)").count(), 2, "{text}");
        assert_eq!(text.matches("generate_series(1, 3)").count(), 2, "{text}");
        assert!(text.contains("FROM f(1, 5) JOIN t"), "{text}");
    }
}
