//! The syntax tree of PromQL, every node with its position in the text.
//!
//! Positions are byte offsets, half open, as Prometheus counts them; `(line:column)` is computed when a message is
//! shown ([`Position::line_column`]). Durations and offsets are milliseconds.

use quiver_model::Matcher;

/// A half-open range of bytes of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Position {
    /// A position.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// Line and column of the first byte, both from 1; the column counts bytes, as Prometheus does.
    pub fn line_column(self, query: &str) -> (usize, usize) {
        let before = &query.as_bytes()[..(self.start as usize).min(query.len())];
        let line = before.iter().filter(|b| **b == b'\n').count();
        let column = before.len() - before.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        (line + 1, column + 1)
    }
}

/// The four types of PromQL values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One float per step.
    Scalar,
    /// Series with at most one sample per step.
    Vector,
    /// Series with a window of samples per step.
    Matrix,
    /// A string literal.
    String,
}

impl ValueType {
    /// The word in messages and in `resultType`.
    pub fn as_str(self) -> &'static str {
        match self {
            ValueType::Scalar => "scalar",
            ValueType::Vector => "vector",
            ValueType::Matrix => "matrix",
            ValueType::String => "string",
        }
    }
}

/// Any expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `sum by (job) (x)`
    Aggregate(Box<AggregateExpr>),
    /// `a + b`
    Binary(Box<BinaryExpr>),
    /// `rate(x[5m])`
    Call(Box<Call>),
    /// `x[5m]`
    Matrix(Box<MatrixSelector>),
    /// `x[5m:1m]`
    Subquery(Box<SubqueryExpr>),
    /// `1`, `0x1F`, `5m`
    Number(NumberLiteral),
    /// `(x)`
    Paren(Box<ParenExpr>),
    /// `"text"`
    String(StringLiteral),
    /// `-x`
    Unary(Box<UnaryExpr>),
    /// `x{job="a"}`
    Vector(Box<VectorSelector>),
    /// An expression whose value does not depend on the step; made by [`super`]'s preprocessing, never by the parser.
    StepInvariant(Box<Expr>),
    /// `5m + step()`, only below a range, a step or an offset.
    Duration(Box<DurationExpr>),
}

/// Binary operators, by rising precedence class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Or,
    And,
    Unless,
    Eql,
    Neq,
    Lte,
    Lss,
    Gte,
    Gtr,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Atan2,
    Pow,
    /// `</`: keep the observations below.
    TrimUpper,
    /// `>/`: keep the observations above.
    TrimLower,
}

impl BinaryOp {
    /// As written in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Or => "or",
            BinaryOp::And => "and",
            BinaryOp::Unless => "unless",
            BinaryOp::Eql => "==",
            BinaryOp::Neq => "!=",
            BinaryOp::Lte => "<=",
            BinaryOp::Lss => "<",
            BinaryOp::Gte => ">=",
            BinaryOp::Gtr => ">",
            BinaryOp::Add => "+",
            BinaryOp::Sub => "-",
            BinaryOp::Mul => "*",
            BinaryOp::Div => "/",
            BinaryOp::Mod => "%",
            BinaryOp::Atan2 => "atan2",
            BinaryOp::Pow => "^",
            BinaryOp::TrimUpper => "</",
            BinaryOp::TrimLower => ">/",
        }
    }

    /// `==`, `!=`, `<`, `<=`, `>`, `>=`
    pub fn is_comparison(self) -> bool {
        matches!(self, BinaryOp::Eql | BinaryOp::Neq | BinaryOp::Lte | BinaryOp::Lss | BinaryOp::Gte | BinaryOp::Gtr)
    }

    /// `</`, `>/`
    pub fn is_trim(self) -> bool {
        matches!(self, BinaryOp::TrimUpper | BinaryOp::TrimLower)
    }

    /// `and`, `or`, `unless`
    pub fn is_set(self) -> bool {
        matches!(self, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless)
    }
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AggregateOp {
    Avg,
    Bottomk,
    Count,
    CountValues,
    Group,
    Limitk,
    LimitRatio,
    Max,
    Min,
    Quantile,
    Stddev,
    Stdvar,
    Sum,
    Topk,
}

impl AggregateOp {
    /// Does it keep one accumulator for each group and step? The others look at samples of a step together.
    pub fn is_dense(self) -> bool {
        use AggregateOp::*;
        matches!(self, Sum | Avg | Count | Group | Min | Max | Stddev | Stdvar)
    }

    /// As written in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            AggregateOp::Avg => "avg",
            AggregateOp::Bottomk => "bottomk",
            AggregateOp::Count => "count",
            AggregateOp::CountValues => "count_values",
            AggregateOp::Group => "group",
            AggregateOp::Limitk => "limitk",
            AggregateOp::LimitRatio => "limit_ratio",
            AggregateOp::Max => "max",
            AggregateOp::Min => "min",
            AggregateOp::Quantile => "quantile",
            AggregateOp::Stddev => "stddev",
            AggregateOp::Stdvar => "stdvar",
            AggregateOp::Sum => "sum",
            AggregateOp::Topk => "topk",
        }
    }

    /// Does it take a parameter?
    pub fn has_param(self) -> bool {
        matches!(
            self,
            AggregateOp::Bottomk
                | AggregateOp::Topk
                | AggregateOp::Limitk
                | AggregateOp::LimitRatio
                | AggregateOp::Quantile
                | AggregateOp::CountValues
        )
    }
}

/// Aggregation over a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateExpr {
    /// Operator.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Expr,
    /// Parameter of `topk`, `quantile`, …
    pub param: Option<Expr>,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` instead of `by`.
    pub without: bool,
    /// Whole expression.
    pub pos: Position,
}

/// Which side may hold several series of one signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// Neither.
    #[default]
    OneToOne,
    /// `group_left`
    ManyToOne,
    /// `group_right`
    OneToMany,
    /// Set operators.
    ManyToMany,
}

impl Cardinality {
    /// As Prometheus names it in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Cardinality::OneToOne => "one-to-one",
            Cardinality::ManyToOne => "many-to-one",
            Cardinality::OneToMany => "one-to-many",
            Cardinality::ManyToMany => "many-to-many",
        }
    }
}

/// How the sides of a binary operation over two vectors are matched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorMatching {
    /// Cardinality.
    pub card: Cardinality,
    /// Labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// `on` rather than `ignoring`.
    pub on: bool,
    /// Labels of `group_left(…)` and `group_right(…)`.
    pub include: Vec<String>,
    /// Stands in for a missing left sample.
    pub fill_left: Option<f64>,
    /// Stands in for a missing right sample.
    pub fill_right: Option<f64>,
}

/// A binary operation.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryExpr {
    /// Operator.
    pub op: BinaryOp,
    /// Left.
    pub lhs: Expr,
    /// Right.
    pub rhs: Expr,
    /// Set where both sides are vectors.
    pub matching: Option<VectorMatching>,
    /// `bool`: 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// From the start of `lhs` to the end of `rhs`.
    pub pos: Position,
}

/// A function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Which function; its signature is in [`super`]'s function table.
    pub func: &'static super::functions::Function,
    /// Arguments as written.
    pub args: Vec<Expr>,
    /// Whole call.
    pub pos: Position,
}

/// `@ start()` and `@ end()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AtBoundary {
    /// `start()`
    Start,
    /// `end()`
    End,
}

/// `x{…}` with its modifiers.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// Metric name as written before the braces (or quoted as their first element), or empty.
    pub name: String,
    /// All matchers, that of the name included.
    pub matchers: Vec<Matcher>,
    /// `offset` as written, ms.
    pub original_offset: i64,
    /// Nanoseconds of it beyond whole milliseconds.
    pub offset_ns: i64,
    /// `offset` as a duration expression.
    pub original_offset_expr: Option<Box<DurationExpr>>,
    /// Offset in force, ms: set by preprocessing, where `@` and outer subqueries are taken into account.
    pub offset: i64,
    /// `@ time`, ms.
    pub timestamp: Option<i64>,
    /// `@ start()`, `@ end()`; preprocessing turns it into `timestamp`.
    pub start_or_end: Option<AtBoundary>,
    /// `anchored`
    pub anchored: bool,
    /// `smoothed`
    pub smoothed: bool,
    /// Second argument of `info()`: may match everything.
    pub bypass_empty_matcher_check: bool,
    /// Whole selector.
    pub pos: Position,
}

/// `x[5m]`
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    /// The selector.
    pub selector: VectorSelector,
    /// Range, ms.
    pub range: i64,
    /// Range as a duration expression; preprocessing turns it into `range`.
    pub range_expr: Option<Box<DurationExpr>>,
    /// Whole selector with range and modifiers.
    pub pos: Position,
}

/// `expr[5m:1m]`
#[derive(Clone, Debug, PartialEq)]
pub struct SubqueryExpr {
    /// What is evaluated.
    pub expr: Expr,
    /// Range, ms.
    pub range: i64,
    /// Range as a duration expression.
    pub range_expr: Option<Box<DurationExpr>>,
    /// Step, ms; 0: the default interval.
    pub step: i64,
    /// Is a step written, be it below a millisecond?
    pub step_written: bool,
    /// Step as a duration expression.
    pub step_expr: Option<Box<DurationExpr>>,
    /// `offset` as written, ms.
    pub original_offset: i64,
    /// Nanoseconds of it beyond whole milliseconds.
    pub offset_ns: i64,
    /// `offset` as a duration expression.
    pub original_offset_expr: Option<Box<DurationExpr>>,
    /// Offset in force, ms.
    pub offset: i64,
    /// `@ time`, ms.
    pub timestamp: Option<i64>,
    /// `@ start()`, `@ end()`.
    pub start_or_end: Option<AtBoundary>,
    /// Whole expression.
    pub pos: Position,
}

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberLiteral {
    /// Value; of a duration: seconds.
    pub value: f64,
    /// Written as a duration.
    pub duration: bool,
    /// Position.
    pub pos: Position,
}

/// A string.
#[derive(Clone, Debug, PartialEq)]
pub struct StringLiteral {
    /// Value, unquoted.
    pub value: String,
    /// The value's bytes where they are not UTF-8 (`"\xff"`); `value` has U+FFFD in their place.
    pub bytes: Option<Box<[u8]>>,
    /// Position.
    pub pos: Position,
}

/// `(…)`
#[derive(Clone, Debug, PartialEq)]
pub struct ParenExpr {
    /// What is inside.
    pub expr: Expr,
    /// Position with the parentheses.
    pub pos: Position,
}

/// `+x` and `-x`
#[derive(Clone, Debug, PartialEq)]
pub struct UnaryExpr {
    /// Minus rather than plus.
    pub minus: bool,
    /// Operand.
    pub expr: Expr,
    /// Position with the sign.
    pub pos: Position,
}

/// Operators and functions of duration expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    MinOf,
    MaxOf,
    /// `step()`
    Step,
    /// `range()`
    Range,
}

/// A duration that is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationExpr {
    /// Operator.
    pub op: DurationOp,
    /// Left operand: a number or another duration expression; none for unary signs, `step()` and `range()`.
    pub lhs: Option<Expr>,
    /// Right operand.
    pub rhs: Option<Expr>,
    /// Written in parentheses.
    pub wrapped: bool,
    /// Position.
    pub pos: Position,
}

impl Expr {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Expr::Aggregate(_) | Expr::Vector(_) => ValueType::Vector,
            Expr::Binary(b) => {
                if b.lhs.value_type() == ValueType::Scalar && b.rhs.value_type() == ValueType::Scalar {
                    ValueType::Scalar
                } else {
                    ValueType::Vector
                }
            }
            Expr::Call(c) => c.func.return_type,
            Expr::Matrix(_) | Expr::Subquery(_) => ValueType::Matrix,
            Expr::Number(_) | Expr::Duration(_) => ValueType::Scalar,
            Expr::Paren(p) => p.expr.value_type(),
            Expr::String(_) => ValueType::String,
            Expr::Unary(u) => u.expr.value_type(),
            Expr::StepInvariant(e) => e.value_type(),
        }
    }

    /// Where it stands.
    pub fn pos(&self) -> Position {
        match self {
            Expr::Aggregate(e) => e.pos,
            Expr::Binary(e) => e.pos,
            Expr::Call(e) => e.pos,
            Expr::Matrix(e) => e.pos,
            Expr::Subquery(e) => e.pos,
            Expr::Number(e) => e.pos,
            Expr::Paren(e) => e.pos,
            Expr::String(e) => e.pos,
            Expr::Unary(e) => e.pos,
            Expr::Vector(e) => e.pos,
            Expr::StepInvariant(e) => e.pos(),
            Expr::Duration(e) => e.pos,
        }
    }

    /// The expression without parentheses and step-invariance marks around it.
    pub fn unwrapped(&self) -> &Expr {
        let mut e = self;
        loop {
            match e {
                Expr::Paren(p) => e = &p.expr,
                Expr::StepInvariant(inner) => e = inner,
                _ => return e,
            }
        }
    }
}
