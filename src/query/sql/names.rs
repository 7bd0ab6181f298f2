//! Names of columns: two of one name are no error, and a column without a name gets PostgreSQL's.
//!
//! DataFusion names an expression by its text, without casts, and refuses a `SELECT` in which two have one name; what
//! `ORDER BY` adds counts, too. So before a statement is planned each such item gets a name of its own, which has a mark no
//! other name has, and the answer's schema gets the shown names back.
//!
//! | item | shown name |
//! | --- | --- |
//! | `job`, `t.job`, `ts::text` | `job`, `job`, `ts` |
//! | `max(value)`, `CASE …`, `EXTRACT(…)` | `max`, `case`, `extract` |
//! | anything else | its text, where PostgreSQL says `?column?` |
//!
//! Invariants
//! 1. A name that a `SELECT` around this one may refer to is not changed, unless two columns have it.
//! 2. `ORDER BY name` means the column of the answer, if there is one, as in PostgreSQL.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    self, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, OrderBy, OrderByKind, Query, Select,
    SelectItem, SetExpr, TrimWhereField, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::StreamExt;
use quiver_core::Snapshot;

use super::errors;
use crate::error::QueryError;

/// Ends a shown name inside of a name that was made unique.
const MARK: char = '\u{2063}';
/// Characters of a name made of an expression's text.
const TEXT_MAX: usize = 63;

/// What was renamed.
#[derive(Debug, Default)]
pub struct Names {
    shown: HashMap<String, String>,
    /// Names between double quotes, which some take for texts.
    quoted: HashSet<String>,
}

/// Makes the names of a statement unique. With `aliases` also those that stand beside a `*`, which may clash with what it
/// stands for.
fn make_unique(statement: &mut Statement, aliases: bool) -> Result<Names, QueryError> {
    let mut namer = Namer { names: Names::default(), first: true, aliases };
    let mut inner = statement;
    while let Statement::Explain(e) = inner {
        inner = &mut e.statement;
    }
    let Statement::Statement(inner) = inner else { return Ok(namer.names) };
    match VisitMut::visit(inner.as_mut(), &mut namer) {
        ControlFlow::Break(e) => Err(e),
        ControlFlow::Continue(()) => Ok(namer.names),
    }
}

impl Names {
    /// The name that an answer shows for a column.
    pub fn shown<'a>(&'a self, name: &'a str) -> &'a str {
        self.shown.get(name).map_or(name, String::as_str)
    }

    /// Was a name written between double quotes?
    pub fn is_quoted(&self, name: &str) -> bool {
        self.quoted.contains(name)
    }

    fn schema(&self, schema: &SchemaRef) -> SchemaRef {
        if schema.fields().iter().all(|f| !self.shown.contains_key(f.name())) {
            return Arc::clone(schema);
        }
        let fields: Vec<_> =
            schema.fields().iter().map(|f| f.as_ref().clone().with_name(self.shown(f.name()))).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// The answer under its shown names; that of `EXPLAIN` is a text with names in it.
    pub fn restore(self, stream: SendableRecordBatchStream, explained: bool) -> SendableRecordBatchStream {
        let schema = self.schema(&stream.schema());
        if self.shown.is_empty() || (Arc::ptr_eq(&schema, &stream.schema()) && !explained) {
            return stream;
        }
        let out = Arc::clone(&schema);
        let stream = stream.map(move |batch| {
            let batch = batch?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let mut columns = batch.columns().to_vec();
            if explained {
                columns.iter_mut().for_each(|c| self.in_column(c));
            }
            Ok(RecordBatch::try_new_with_options(Arc::clone(&out), columns, &options)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, stream))
    }

    fn in_column(&self, column: &mut ArrayRef) {
        if let Some(texts) = column.as_string_opt::<i32>() {
            *column = Arc::new(texts.iter().map(|t| t.map(|t| self.in_text(t))).collect::<StringArray>());
        }
    }

    /// A text of the engine with the shown names.
    pub fn in_text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(MARK) {
            out.push_str(&rest[..at]);
            rest = rest[at + MARK.len_utf8()..].trim_start_matches(|c: char| c.is_ascii_digit());
        }
        out.push_str(rest);
        out
    }
}

/// Plans a statement under unique names.
pub async fn plan(
    state: &SessionState,
    mut statement: Statement,
    snapshot: &dyn Snapshot,
) -> Result<(LogicalPlan, Names), QueryError> {
    let written = has_alias_beside_wildcard(&statement).then(|| statement.clone());
    let names = make_unique(&mut statement, false)?;
    let unique = statement.clone();
    let error = match state.statement_to_plan(statement).await {
        Ok(plan) => return Ok((plan, names)),
        Err(e) => e,
    };
    // `SELECT max(value), max(value::int)`: the planner's own names have no casts.
    if is_clash(&error)
        && let Some(statement) = with_casts_told_apart(unique)
        && let Ok(plan) = state.statement_to_plan(statement).await
    {
        return Ok((plan, names));
    }
    // `SELECT *, value * 2 AS value`: which columns `*` stands for is known to the planner only.
    if let Some(mut statement) = written
        && is_clash(&error)
    {
        let names = make_unique(&mut statement, true)?;
        if let Ok(plan) = state.statement_to_plan(statement).await {
            return Ok((plan, names));
        }
    }
    Err(errors::planning(&error, &names, snapshot))
}

/// The statement with each cast inside of a call that says its type by the number of its arguments, and else gives what the cast does;
/// none if it has no cast.
fn with_casts_told_apart(mut statement: Statement) -> Option<Statement> {
    #[derive(Default)]
    struct Casts {
        types: Vec<DataType>,
    }
    impl VisitorMut for Casts {
        type Break = ();
        fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
            let Expr::Cast { data_type, .. } = e else { return ControlFlow::Continue(()) };
            let known = self.types.iter().position(|t| t == data_type);
            let number = known.unwrap_or_else(|| {
                self.types.push(data_type.clone());
                self.types.len() - 1
            });
            let call = format!("coalesce({})", vec!["NULL"; number + 2].join(", "));
            let parsed = Parser::new(&PostgreSqlDialect {}).try_with_sql(&call).and_then(|mut p| p.parse_expr());
            if let Ok(Expr::Function(mut f)) = parsed
                && let FunctionArguments::List(list) = &mut f.args
                && let Some(first) = list.args.first_mut()
            {
                let cast = std::mem::replace(e, Expr::Value(Value::Null.into()));
                *first = FunctionArg::Unnamed(FunctionArgExpr::Expr(cast));
                *e = Expr::Function(f);
            }
            ControlFlow::Continue(())
        }
    }
    let mut inner = &mut statement;
    while let Statement::Explain(e) = inner {
        inner = &mut e.statement;
    }
    let Statement::Statement(inner) = inner else { return None };
    let mut casts = Casts::default();
    let _ = VisitMut::visit(inner.as_mut(), &mut casts);
    (!casts.types.is_empty()).then_some(statement)
}

struct Namer {
    names: Names,
    /// Is the next query the outermost?
    first: bool,
    aliases: bool,
}

/// An item of a `SELECT`, before and after.
struct Item {
    expr: Expr,
    shown: String,
    name: Option<String>,
}

impl VisitorMut for Namer {
    type Break = QueryError;

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<QueryError> {
        if let Expr::Identifier(Ident { value, quote_style: Some('"'), .. }) = e {
            self.names.quoted.insert(value.clone());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        let outermost = std::mem::replace(&mut self.first, false);
        let items = self.set_expression(&mut query.body, outermost);
        match &mut query.order_by {
            Some(OrderBy { kind: OrderByKind::Expressions(list), .. }) => {
                for o in list {
                    if let Err(e) = order_by(&mut o.expr, &items) {
                        return ControlFlow::Break(e);
                    }
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The item that an `ORDER BY` means, by its name or by its text, under its new name.
fn order_by(by: &mut Expr, items: &[Item]) -> Result<(), QueryError> {
    let named: Vec<&Item> = match &*by {
        Expr::Identifier(name) => items.iter().filter(|i| i.shown == name.value).collect(),
        _ => Vec::new(),
    };
    if let Some((first, others)) = named.split_first()
        && others.iter().any(|o| o.expr != first.expr)
    {
        return Err(QueryError::BadData(format!(
            "ORDER BY {by} is ambiguous: two columns of the answer have this name"
        )));
    }
    // A number is the place of a column.
    let is_place = matches!(by, Expr::Value(_));
    let item = named.first().copied().or_else(|| items.iter().find(|i| i.expr == *by && !is_place));
    if let Some(Item { name: Some(name), .. }) = item {
        *by = Expr::Identifier(Ident::with_quote('"', name.clone()));
    }
    Ok(())
}

impl Namer {
    /// The items of the `SELECT` that gives the names.
    fn set_expression(&mut self, e: &mut SetExpr, outermost: bool) -> Vec<Item> {
        match e {
            SetExpr::Select(s) => self.select(s, outermost),
            SetExpr::SetOperation { left, right, .. } => {
                let items = self.set_expression(left, outermost);
                self.set_expression(right, outermost);
                items
            }
            // A query in parentheses is visited for itself.
            _ => Vec::new(),
        }
    }

    fn unique(&mut self, shown: &str) -> String {
        let name = format!("{shown}{MARK}{}", self.names.shown.len() + 1);
        self.names.shown.insert(name.clone(), shown.to_owned());
        name
    }

    fn select(&mut self, select: &mut Select, outermost: bool) -> Vec<Item> {
        let has_wildcard =
            select.projection.iter().any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        let shown: Vec<Option<String>> = select
            .projection
            .iter()
            .map(|i| match i {
                SelectItem::UnnamedExpr(e) => Some(name_of(e)),
                SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
                _ => None,
            })
            .collect();
        let mut count: HashMap<&str, usize> = HashMap::new();
        for name in shown.iter().flatten() {
            *count.entry(name).or_default() += 1;
        }
        let mut items = Vec::new();
        for (item, name) in select.projection.iter_mut().zip(&shown) {
            let Some(shown) = name else { continue };
            let twice = count[shown.as_str()] > 1;
            let (expr, name) = match &*item {
                SelectItem::UnnamedExpr(e) if is_column(e) => {
                    (e.clone(), (twice || has_wildcard).then(|| self.unique(shown)))
                }
                // It may become several columns.
                SelectItem::UnnamedExpr(e) if is_unnest(e) => (e.clone(), None),
                SelectItem::UnnamedExpr(e) if twice || outermost => (e.clone(), Some(self.unique(shown))),
                SelectItem::UnnamedExpr(e) => (e.clone(), Some(shown.clone())),
                SelectItem::ExprWithAlias { expr, .. } => {
                    let clashes = twice || (self.aliases && has_wildcard && outermost);
                    (expr.clone(), clashes.then(|| self.unique(shown)))
                }
                _ => continue,
            };
            if let Some(name) = &name {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name.clone()) };
            }
            items.push(Item { expr, shown: shown.clone(), name });
        }
        items
    }
}

fn is_column(e: &Expr) -> bool {
    match e {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Nested(e) => is_column(e),
        _ => false,
    }
}

fn is_unnest(e: &Expr) -> bool {
    matches!(e, Expr::Function(f) if f.name.to_string().eq_ignore_ascii_case("unnest"))
}

/// The name of an expression, as PostgreSQL has it; else its text.
fn name_of(e: &Expr) -> String {
    known_name(e).map(|n| n.text).unwrap_or_else(|| {
        let text = e.to_string();
        match text.char_indices().nth(TEXT_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    })
}

/// A name that PostgreSQL has for an expression. A type around a weak one takes its place.
struct Known {
    text: String,
    is_weak: bool,
}

fn known_name(e: &Expr) -> Option<Known> {
    let strong = |text: String| Some(Known { text, is_weak: false });
    let word = |w: &str| Some(Known { text: w.to_owned(), is_weak: false });
    let of_type = |t: &DataType| Some(Known { text: type_name(t), is_weak: true });
    match e {
        Expr::Identifier(i) => strong(i.value.clone()),
        Expr::CompoundIdentifier(list) => list.last().and_then(|i| strong(i.value.clone())),
        Expr::Nested(e) | Expr::Collate { expr: e, .. } => known_name(e),
        // `varchar(2)` became a part of the text ([`super::syntax`]).
        Expr::Cast { expr, data_type, .. } if has_length(data_type) => {
            let of = match expr.as_ref() {
                Expr::Substring { expr, .. } => expr,
                _ => expr,
            };
            known_name(of).filter(|n| !n.is_weak).or_else(|| of_type(data_type))
        }
        Expr::Cast { expr, data_type, .. } => known_name(expr).filter(|n| !n.is_weak).or_else(|| of_type(data_type)),
        Expr::TypedString(t) => of_type(&t.data_type),
        Expr::Function(f) => f.name.0.last().and_then(|p| p.as_ident()).and_then(|i| strong(i.value.to_lowercase())),
        Expr::Case { else_result, .. } => {
            let otherwise = else_result.as_deref().and_then(known_name).filter(|n| !n.is_weak);
            otherwise.or_else(|| Some(Known { text: "case".into(), is_weak: true }))
        }
        Expr::Extract { .. } => word("extract"),
        Expr::Ceil { .. } => word("ceil"),
        Expr::Floor { .. } => word("floor"),
        Expr::Position { .. } => word("position"),
        Expr::Substring { shorthand, .. } => word(if *shorthand { "substr" } else { "substring" }),
        Expr::Overlay { .. } => word("overlay"),
        Expr::Trim { trim_where, .. } => word(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::AtTimeZone { .. } => word("timezone"),
        Expr::Array(_) => word("array"),
        Expr::Exists { .. } => word("exists"),
        Expr::Interval(_) => Some(Known { text: "interval".into(), is_weak: true }),
        Expr::Value(v) if matches!(v.value, Value::Boolean(_)) => Some(Known { text: "bool".into(), is_weak: true }),
        Expr::Subquery(q) => match q.body.as_ref() {
            SetExpr::Select(s) => match s.projection.as_slice() {
                [SelectItem::UnnamedExpr(e)] => known_name(e),
                [SelectItem::ExprWithAlias { alias, .. }] => strong(alias.value.clone()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn has_length(t: &DataType) -> bool {
    matches!(t, DataType::Varchar(Some(_)) | DataType::Char(Some(_)) | DataType::Character(Some(_)))
}

/// PostgreSQL's own name of a type.
fn type_name(t: &DataType) -> String {
    match t {
        DataType::SmallInt(_) | DataType::Int2(_) => "int2".into(),
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4".into(),
        DataType::BigInt(_) | DataType::Int8(_) => "int8".into(),
        DataType::Real | DataType::Float4 => "float4".into(),
        DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 => "float8".into(),
        DataType::Boolean | DataType::Bool => "bool".into(),
        DataType::Varchar(_) | DataType::CharacterVarying(_) => "varchar".into(),
        DataType::Char(_) | DataType::Character(_) => "bpchar".into(),
        DataType::Timestamp(_, zone) => match zone {
            ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz => "timestamptz".into(),
            _ => "timestamp".into(),
        },
        t => t.to_string().to_lowercase(),
    }
}

/// Does an error say that two columns have one name?
fn is_clash(e: &DataFusionError) -> bool {
    match e.find_root() {
        DataFusionError::SchemaError(e, _) => !matches!(e.as_ref(), SchemaError::FieldNotFound { .. }),
        DataFusionError::Plan(text) => text.contains("unique expression names"),
        _ => false,
    }
}

/// May `*` and an alias beside it have the same name?
fn has_alias_beside_wildcard(statement: &Statement) -> bool {
    let inner = match statement {
        Statement::Explain(e) => return has_alias_beside_wildcard(&e.statement),
        Statement::Statement(s) => s,
        _ => return false,
    };
    let ast::Statement::Query(q) = inner.as_ref() else { return false };
    let SetExpr::Select(s) = q.body.as_ref() else { return false };
    let any = |f: fn(&SelectItem) -> bool| s.projection.iter().any(f);
    any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)))
        && any(|i| matches!(i, SelectItem::ExprWithAlias { .. }))
}
