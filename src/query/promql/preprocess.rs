//! From the tree as written to the tree as evaluated.
//!
//! 1. `start()`, `end()`, `range()` and `step()` become numbers.
//! 2. Computed durations become milliseconds.
//! 3. `@ start()` and `@ end()` become times; what does not depend on the step is marked
//!    [`Expr::StepInvariant`], as high up as it can be; parentheses around arguments go away.
//! 4. [`set_offsets`] folds `@` into offsets relative to one evaluation time.
//!
//! Ranges and literals are never marked themselves. The marks are where Prometheus has them, so that what is evaluated
//! once there is evaluated once here, and reports its annotations once.

use super::ast::*;
use super::number::{float_to_int, seconds_of_ms};

/// What a query is evaluated over, ms. A single evaluation has `start == end` and `step == 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalRange {
    /// First evaluation.
    pub start: i64,
    /// Last evaluation, or up to a step later.
    pub end: i64,
    /// Between evaluations.
    pub step: i64,
}

/// Prepares a parsed query for evaluation over a range; steps 1 to 4 above, offsets relative to `start`. The error is
/// the message for the client.
pub fn preprocess(expr: Expr, start: i64, end: i64, step: i64) -> Result<Expr, String> {
    let range = EvalRange { start, end, step };
    super::with_stack(|| {
        let mut expr = fold_context(expr, range);
        resolve_durations(&mut expr, range)?;
        let found = mark(&mut expr, range);
        if found.wrap {
            expr = Expr::StepInvariant(Box::new(expr));
        }
        set_offsets(&mut expr, start);
        Ok(expr)
    })
}

/// Step 1.
fn fold_context(expr: Expr, range: EvalRange) -> Expr {
    let fold = |e: Expr| fold_context(e, range);
    match expr {
        Expr::Call(mut c) => {
            let value = match c.func.name {
                "start" => Some(range.start as f64 / 1000.0),
                "end" => Some(range.end as f64 / 1000.0),
                "range" => Some(seconds_of_ms(range.end.saturating_sub(range.start))),
                "step" if range.start == range.end => Some(0.0),
                "step" => Some(seconds_of_ms(range.step)),
                _ => None,
            };
            if let Some(value) = value {
                return Expr::Number(NumberLiteral { value, duration: false, pos: c.pos });
            }
            c.args = c.args.into_iter().map(fold).collect();
            Expr::Call(c)
        }
        Expr::Binary(mut b) => {
            b.lhs = fold(b.lhs);
            b.rhs = fold(b.rhs);
            Expr::Binary(b)
        }
        Expr::Aggregate(mut a) => {
            a.expr = fold(a.expr);
            a.param = a.param.map(fold);
            Expr::Aggregate(a)
        }
        Expr::Unary(mut u) => {
            u.expr = fold(u.expr);
            Expr::Unary(u)
        }
        Expr::Paren(mut p) => {
            p.expr = fold(p.expr);
            Expr::Paren(p)
        }
        Expr::Subquery(mut s) => {
            s.expr = fold(s.expr);
            Expr::Subquery(s)
        }
        leaf => leaf,
    }
}

/// Step 2.
fn resolve_durations(expr: &mut Expr, range: EvalRange) -> Result<(), String> {
    let resolve = |e: &Option<Box<DurationExpr>>, out: &mut i64, negative: bool| match e {
        Some(d) => duration_ms(d, range, negative).map(|ms| *out = ms),
        None => Ok(()),
    };
    match expr {
        Expr::Vector(v) => resolve(&v.original_offset_expr, &mut v.original_offset, true),
        Expr::Matrix(m) => {
            resolve(&m.range_expr, &mut m.range, false)?;
            resolve(&m.selector.original_offset_expr, &mut m.selector.original_offset, true)
        }
        Expr::Subquery(s) => {
            resolve(&s.original_offset_expr, &mut s.original_offset, true)?;
            resolve(&s.step_expr, &mut s.step, false)?;
            resolve(&s.range_expr, &mut s.range, false)?;
            resolve_durations(&mut s.expr, range)
        }
        Expr::Aggregate(a) => {
            resolve_durations(&mut a.expr, range)?;
            a.param.as_mut().map_or(Ok(()), |p| resolve_durations(p, range))
        }
        Expr::Binary(b) => {
            resolve_durations(&mut b.lhs, range)?;
            resolve_durations(&mut b.rhs, range)
        }
        Expr::Call(c) => c.args.iter_mut().try_for_each(|a| resolve_durations(a, range)),
        Expr::Paren(p) => resolve_durations(&mut p.expr, range),
        Expr::Unary(u) => resolve_durations(&mut u.expr, range),
        Expr::StepInvariant(e) => resolve_durations(e, range),
        Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => Ok(()),
    }
}

fn duration_ms(d: &DurationExpr, range: EvalRange, negative: bool) -> Result<i64, String> {
    let at = |what: &str| Err(format!("{}:{}: {what}", d.pos.start, d.pos.end));
    let seconds = duration_seconds(d, range)?;
    if !seconds.is_finite() {
        return at("duration is NaN or infinite");
    }
    if seconds <= 0.0 && !negative {
        return at("duration must be greater than 0");
    }
    if super::number::duration_out_of_range(seconds) {
        return at("duration is out of range");
    }
    Ok(float_to_int(seconds * 1000.0))
}

fn duration_seconds(d: &DurationExpr, range: EvalRange) -> Result<f64, String> {
    let side = |e: &Option<Expr>| match e {
        Some(Expr::Number(n)) => Ok(n.value),
        Some(Expr::Duration(d)) => duration_seconds(d, range),
        _ => Ok(0.0),
    };
    let (l, r) = (side(&d.lhs)?, side(&d.rhs)?);
    let nonzero = |what: &str| {
        if r == 0.0 { Err(format!("{}:{}: {what} by zero", d.pos.start, d.pos.end)) } else { Ok(()) }
    };
    Ok(match d.op {
        DurationOp::Step => seconds_of_ms(range.step),
        DurationOp::Range => seconds_of_ms(range.end.saturating_sub(range.start)),
        DurationOp::MinOf | DurationOp::MaxOf if l.is_nan() || r.is_nan() => min_max_nan(d.op, l, r),
        DurationOp::MinOf => l.min(r),
        DurationOp::MaxOf => l.max(r),
        DurationOp::Add if d.lhs.is_none() => r,
        DurationOp::Sub if d.lhs.is_none() => -r,
        DurationOp::Add => l + r,
        DurationOp::Sub => l - r,
        DurationOp::Mul => l * r,
        DurationOp::Div => {
            nonzero("division")?;
            l / r
        }
        DurationOp::Mod => {
            nonzero("modulo")?;
            l % r
        }
        DurationOp::Pow => crate::kernels::elementwise::math::pow(l, r),
    })
}

/// An infinity of the wanted sign wins over NaN; otherwise NaN wins.
fn min_max_nan(op: DurationOp, l: f64, r: f64) -> f64 {
    let winner = if op == DurationOp::MinOf { f64::NEG_INFINITY } else { f64::INFINITY };
    if l == winner || r == winner { winner } else { f64::NAN }
}

/// What [`mark`] found out about a subtree.
#[derive(Clone, Copy)]
struct Found {
    /// Its value does not depend on the step.
    invariant: bool,
    /// It is worth a mark: not a literal, a range or a subquery.
    wrap: bool,
}

impl Found {
    const NO: Found = Found { invariant: false, wrap: false };
    const WRAP: Found = Found { invariant: true, wrap: true };
}

/// Functions whose value depends on the evaluation time even if their arguments do not.
const TIME_DEPENDENT: [&str; 15] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "end",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "range",
    "start",
    "step",
    "time",
    "timestamp",
    "year",
];

/// Step 3.
fn mark(expr: &mut Expr, range: EvalRange) -> Found {
    match expr {
        Expr::Vector(v) => {
            resolve_boundary(&mut v.timestamp, v.start_or_end, range);
            let fixed = v.timestamp.is_some();
            Found { invariant: fixed, wrap: fixed }
        }
        Expr::Matrix(m) => {
            resolve_boundary(&mut m.selector.timestamp, m.selector.start_or_end, range);
            Found { invariant: m.selector.timestamp.is_some(), wrap: false }
        }
        Expr::Aggregate(a) => {
            strip_parens(&mut a.expr);
            if let Some(p) = &mut a.param {
                strip_parens(p);
            }
            mark(&mut a.expr, range)
        }
        Expr::Binary(b) => {
            let l = mark(&mut b.lhs, range);
            let r = mark(&mut b.rhs, range);
            if l.invariant && r.invariant {
                return Found::WRAP;
            }
            if l.wrap {
                wrap(&mut b.lhs);
            }
            if r.wrap {
                wrap(&mut b.rhs);
            }
            Found::NO
        }
        Expr::Call(c) => mark_call(c, range),
        // A subquery's inside is evaluated once per subquery if it can be, whether or not the subquery is fixed.
        Expr::Subquery(s) => {
            if mark(&mut s.expr, range).invariant {
                wrap(&mut s.expr);
            }
            resolve_boundary(&mut s.timestamp, s.start_or_end, range);
            Found { invariant: s.timestamp.is_some(), wrap: false }
        }
        Expr::Paren(p) => mark(&mut p.expr, range),
        Expr::Unary(u) => mark(&mut u.expr, range),
        Expr::StepInvariant(_) => Found { invariant: true, wrap: false },
        Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => Found { invariant: true, wrap: false },
    }
}

fn mark_call(c: &mut Call, range: EvalRange) -> Found {
    let is_info = c.func.name == "info";
    let mut invariant = !TIME_DEPENDENT.contains(&c.func.name);
    // The time of a fixed selector's own samples does not depend on the step.
    let mut fixed_timestamp = c.func.name == "timestamp";
    let mut wraps = Vec::with_capacity(c.args.len());
    for (i, arg) in c.args.iter_mut().enumerate() {
        strip_parens(arg);
        let found = mark(arg, range);
        if is_info && i == 1 {
            wraps.push(false);
            continue;
        }
        wraps.push(found.wrap);
        invariant &= found.invariant;
        fixed_timestamp &= found.invariant && matches!(arg, Expr::Vector(_));
    }
    if is_info {
        invariant &= c.args.first().is_some_and(|a| info_reference(a).2);
    }
    if invariant || fixed_timestamp {
        return Found::WRAP;
    }
    for (arg, _) in c.args.iter_mut().zip(wraps).filter(|(_, w)| *w) {
        wrap(arg);
    }
    Found::NO
}

fn resolve_boundary(timestamp: &mut Option<i64>, boundary: Option<AtBoundary>, range: EvalRange) {
    match boundary {
        Some(AtBoundary::Start) => *timestamp = Some(range.start),
        Some(AtBoundary::End) => *timestamp = Some(range.end),
        None => {}
    }
}

fn take(e: &mut Expr) -> Expr {
    let placeholder = NumberLiteral { value: 0.0, duration: false, pos: Position::default() };
    std::mem::replace(e, Expr::Number(placeholder))
}

fn wrap(e: &mut Expr) {
    let inner = take(e);
    *e = Expr::StepInvariant(Box::new(inner));
}

fn strip_parens(e: &mut Expr) {
    while let Expr::Paren(_) = e {
        if let Expr::Paren(p) = take(e) {
            *e = p.expr;
        }
    }
}

/// For the first argument of `info()`: the `@` time and offset (ms) that its selectors share, and whether all of them
/// share it and nothing in it is without a selector. With `false` the evaluation time is the reference.
pub fn info_reference(e: &Expr) -> (Option<i64>, i64, bool) {
    let mut found = Reference { first: None, uniform: true };
    let mut subqueries = Vec::new();
    found.visit(e, &mut subqueries);
    match found.first {
        None => (None, 0, false),
        Some((timestamp, offset)) => (timestamp, offset, found.uniform),
    }
}

struct Reference {
    first: Option<(Option<i64>, i64)>,
    uniform: bool,
}

impl Reference {
    /// Is there a selector inside? `outer`: offset and time of the subqueries around.
    fn visit(&mut self, e: &Expr, outer: &mut Vec<(i64, Option<i64>)>) -> bool {
        if !matches!(e.value_type(), ValueType::Vector | ValueType::Matrix) {
            return false;
        }
        let found = match e {
            Expr::Vector(v) => return self.selector(v, outer),
            Expr::Matrix(m) => self.selector(&m.selector, outer),
            Expr::Call(c) if c.func.name == "info" => return c.args.first().is_some_and(|a| self.visit(a, outer)),
            Expr::Call(c) => c.args.iter().fold(false, |any, a| self.visit(a, outer) | any),
            Expr::Aggregate(a) => {
                let any = self.visit(&a.expr, outer);
                a.param.as_ref().is_some_and(|p| self.visit(p, outer)) | any
            }
            Expr::Binary(b) => self.visit(&b.lhs, outer) | self.visit(&b.rhs, outer),
            Expr::Subquery(s) => {
                outer.push((s.original_offset, s.timestamp));
                let any = self.visit(&s.expr, outer);
                outer.pop();
                any
            }
            Expr::Paren(p) => self.visit(&p.expr, outer),
            Expr::Unary(u) => self.visit(&u.expr, outer),
            Expr::StepInvariant(inner) => self.visit(inner, outer),
            Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => false,
        };
        self.uniform &= found;
        found
    }

    fn selector(&mut self, v: &VectorSelector, outer: &[(i64, Option<i64>)]) -> bool {
        let (mut timestamp, mut offset) = (v.timestamp, v.original_offset);
        for (o, t) in outer.iter().rev() {
            if timestamp.is_some() {
                break;
            }
            offset = offset.wrapping_add(*o);
            timestamp = *t;
        }
        match self.first {
            None => self.first = Some((timestamp, offset)),
            // Two fixed references are the same if they read at the same time.
            Some(first) => {
                self.uniform &= match (first, timestamp) {
                    ((Some(a), o), Some(b)) => a.wrapping_sub(o) == b.wrapping_sub(offset),
                    (first, t) => first == (t, offset),
                }
            }
        }
        true
    }
}

/// What the subqueries around a node add up to.
#[derive(Clone, Copy, Default)]
struct Outer {
    offset: i64,
    timestamp: Option<i64>,
}

/// Step 4: sets every `offset` in the tree so that a selector with `@`, evaluated at `eval_time`, reads at its own time.
///
/// To be repeated for the inside of a subquery whose first evaluation is not at `eval_time`.
pub fn set_offsets(expr: &mut Expr, eval_time: i64) {
    offsets(expr, eval_time, Outer::default());
}

/// Milliseconds to nanoseconds and back the way Prometheus does it: times past the year 2262 wrap.
const NS: i64 = 1_000_000;

fn offset_at(timestamp: Option<i64>, (original, rest): (i64, i64), eval_time: i64, outer: Outer) -> i64 {
    let Some(ts) = timestamp else { return original };
    let ns = |ms: i64| ms.wrapping_mul(NS);
    let mut around = ns(outer.offset);
    if let Some(t) = outer.timestamp {
        around = around.wrapping_add(ns(eval_time.wrapping_sub(t)));
    }
    let shift = ns(eval_time.wrapping_sub(ts)).wrapping_sub(around);
    ns(original).wrapping_add(rest).wrapping_add(shift) / NS
}

fn offsets(expr: &mut Expr, eval_time: i64, outer: Outer) {
    match expr {
        Expr::Vector(v) => v.offset = offset_at(v.timestamp, (v.original_offset, v.offset_ns), eval_time, outer),
        Expr::Matrix(m) => {
            let v = &mut m.selector;
            v.offset = offset_at(v.timestamp, (v.original_offset, v.offset_ns), eval_time, outer);
        }
        Expr::Subquery(s) => {
            s.offset = offset_at(s.timestamp, (s.original_offset, s.offset_ns), eval_time, outer);
            let inner = match s.timestamp {
                Some(_) => Outer { offset: s.original_offset, timestamp: s.timestamp },
                None => Outer { offset: outer.offset.wrapping_add(s.original_offset), ..outer },
            };
            offsets(&mut s.expr, eval_time, inner);
        }
        Expr::Aggregate(a) => {
            offsets(&mut a.expr, eval_time, outer);
            if let Some(p) = &mut a.param {
                offsets(p, eval_time, outer);
            }
        }
        Expr::Binary(b) => {
            offsets(&mut b.lhs, eval_time, outer);
            offsets(&mut b.rhs, eval_time, outer);
        }
        Expr::Call(c) => c.args.iter_mut().for_each(|a| offsets(a, eval_time, outer)),
        Expr::Paren(p) => offsets(&mut p.expr, eval_time, outer),
        Expr::Unary(u) => offsets(&mut u.expr, eval_time, outer),
        Expr::StepInvariant(e) => offsets(e, eval_time, outer),
        Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => {}
    }
}
