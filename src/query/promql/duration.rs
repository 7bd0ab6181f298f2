//! Durations that are computed: `[5m * 2]`, `offset -(step() + 1m)`.
//!
//! The same loop as for expressions, over numbers, durations, `step()`, `range()`, `min_of` and `max_of`. Behind
//! `offset`, an operator after a bare duration belongs to the expression around it; after a parenthesis it does not.

use super::ast::*;
use super::number::duration_out_of_range;
use super::parser::{Fail, Parsed, Parser, Tall, position};
use super::token::{Kind, Precedence, Token};

/// What waits for its right operand.
enum Pending {
    Sign { minus: bool, pos: Position },
    Binary { lhs: Tall<Expr>, op: DurationOp, op_pos: Position, precedence: Precedence },
}

fn binary(kind: Kind) -> Option<(DurationOp, Precedence)> {
    Some(match kind {
        Kind::Add => (DurationOp::Add, Precedence::Add),
        Kind::Sub => (DurationOp::Sub, Precedence::Add),
        Kind::Mul => (DurationOp::Mul, Precedence::Mul),
        Kind::Div => (DurationOp::Div, Precedence::Mul),
        Kind::Mod => (DurationOp::Mod, Precedence::Mul),
        Kind::Pow => (DurationOp::Pow, Precedence::Pow),
        _ => return None,
    })
}

fn is_sign(kind: Kind) -> bool {
    matches!(kind, Kind::Add | Kind::Sub)
}

impl<'a> Parser<'a> {
    /// A range or a step.
    pub fn positive_duration(&mut self) -> Parsed<Expr> {
        let e = self.duration(None)?.node;
        match &e {
            Expr::Number(n) if n.value <= 0.0 => self.fail(n.pos, "duration must be greater than 0"),
            _ => Ok(e),
        }
    }

    /// What follows `offset`.
    pub fn offset_duration(&mut self) -> Parsed<Expr> {
        let kind = self.peek()?;
        if is_sign(kind) {
            let sign = self.bump()?;
            let minus = kind == Kind::Sub;
            let next = self.peek()?;
            if is_sign(next) {
                return Ok(self.duration(Some(&sign))?.node);
            }
            let mut operand = self.duration_primary(next, false)?;
            if next == Kind::LeftParen {
                if let Expr::Duration(d) = &mut operand.node
                    && let (DurationOp::Add, None, Some(Expr::Number(n))) = (d.op, &d.lhs, &d.rhs)
                {
                    d.pos = n.pos;
                }
                return Ok(self.signed_duration(minus, position(&sign), operand)?.node);
            }
            return match operand.node {
                Expr::Number(mut n) => {
                    n.value = if minus { -n.value } else { n.value };
                    if duration_out_of_range(n.value) {
                        return self.fail(position(&sign), "duration out of range");
                    }
                    n.pos.start = sign.pos as u32;
                    Ok(Expr::Number(n))
                }
                e => {
                    // Unlike inside brackets, a plus sign is kept here.
                    let op = if minus { DurationOp::Sub } else { DurationOp::Add };
                    let pos = Position { start: sign.pos as u32, end: e.pos().end };
                    Ok(duration_node(op, None, Some(e), pos))
                }
            };
        }
        if kind == Kind::LeftParen {
            return Ok(self.duration(None)?.node);
        }
        Ok(self.duration_primary(kind, true)?.node)
    }

    /// A whole duration expression; `sign` has been taken already.
    fn duration(&mut self, sign: Option<&Token<'_>>) -> Parsed<Tall<Expr>> {
        let mut stack: Vec<Pending> = Vec::new();
        let push = |stack: &mut Vec<Pending>, t: &Token<'_>| {
            stack.push(Pending::Sign { minus: t.kind == Kind::Sub, pos: position(t) });
        };
        if let Some(t) = sign {
            push(&mut stack, t);
        }
        loop {
            let kind = self.peek()?;
            if is_sign(kind) {
                let t = self.bump()?;
                self.check_pending(stack.len())?;
                push(&mut stack, &t);
                continue;
            }
            let mut operand = self.duration_primary(kind, true)?;
            let next = binary(self.peek()?);
            while let Some(top) = stack.pop() {
                let reduce = match (&top, next) {
                    (_, None) => true,
                    (Pending::Sign { .. }, Some((_, p))) => p <= Precedence::Mul,
                    (Pending::Binary { precedence, .. }, Some((_, p))) => {
                        p < *precedence || (p == *precedence && p != Precedence::Pow)
                    }
                };
                if !reduce {
                    stack.push(top);
                    break;
                }
                operand = match top {
                    Pending::Sign { minus, pos } => self.signed_duration(minus, pos, operand)?,
                    Pending::Binary { lhs, op, op_pos, .. } => self.binary_duration(lhs, op, op_pos, operand)?,
                };
            }
            let Some((op, precedence)) = next else {
                return Ok(operand);
            };
            let op_pos = position(&self.bump()?);
            self.check_pending(stack.len())?;
            stack.push(Pending::Binary { lhs: operand, op, op_pos, precedence });
        }
    }

    fn binary_duration(
        &mut self,
        lhs: Tall<Expr>,
        op: DurationOp,
        op_pos: Position,
        rhs: Tall<Expr>,
    ) -> Parsed<Tall<Expr>> {
        if matches!(&rhs.node, Expr::Number(n) if n.value == 0.0) {
            match op {
                DurationOp::Div => return self.fail(op_pos, "division by zero"),
                DurationOp::Mod => return self.fail(op_pos, "modulo by zero"),
                _ => {}
            }
        }
        let height = self.above(lhs.height.max(rhs.height))?;
        let pos = Position { start: lhs.node.pos().start, end: rhs.node.pos().end };
        Ok(Tall { node: duration_node(op, Some(lhs.node), Some(rhs.node), pos), height })
    }

    fn signed_duration(&mut self, minus: bool, sign: Position, operand: Tall<Expr>) -> Parsed<Tall<Expr>> {
        match operand.node {
            Expr::Number(mut n) => {
                n.value = if minus { -n.value } else { n.value };
                if duration_out_of_range(n.value) {
                    return self.fail(sign, "duration out of range");
                }
                n.pos.start = sign.start;
                Ok(Tall { node: Expr::Number(n), height: operand.height })
            }
            e if minus => {
                let height = self.above(operand.height)?;
                let pos = Position { start: sign.start, end: e.pos().end };
                Ok(Tall { node: duration_node(DurationOp::Sub, None, Some(e), pos), height })
            }
            e => Ok(Tall { node: e, height: operand.height }),
        }
    }

    /// An operand; `checked`: a literal must be a possible duration.
    fn duration_primary(&mut self, kind: Kind, checked: bool) -> Parsed<Tall<Expr>> {
        match kind {
            Kind::Number | Kind::Duration => {
                let n = self.number_literal()?;
                if checked && duration_out_of_range(n.value) {
                    return self.fail(n.pos, "duration out of range");
                }
                Ok(Tall { node: Expr::Number(n), height: 1 })
            }
            Kind::Step | Kind::Range => {
                let op = if kind == Kind::Step { DurationOp::Step } else { DurationOp::Range };
                let word = self.bump()?;
                self.expect(Kind::LeftParen)?;
                let close = self.expect(Kind::RightParen)?;
                let pos = Position::new(word.pos, close.end());
                Ok(Tall { node: duration_node(op, None, None, pos), height: 1 })
            }
            Kind::MaxOf | Kind::MinOf => {
                let op = if kind == Kind::MaxOf { DurationOp::MaxOf } else { DurationOp::MinOf };
                let word = self.bump()?;
                self.expect(Kind::LeftParen)?;
                let a = self.deeper(|p| p.duration(None))?;
                self.expect(Kind::Comma)?;
                let b = self.deeper(|p| p.duration(None))?;
                let close = self.expect(Kind::RightParen)?;
                let height = self.above(a.height.max(b.height))?;
                let pos = Position::new(word.pos, close.end());
                Ok(Tall { node: duration_node(op, Some(a.node), Some(b.node), pos), height })
            }
            Kind::LeftParen => {
                let open = self.bump()?;
                let inner = self.deeper(|p| p.duration(None))?;
                self.expect(Kind::RightParen)?;
                match inner.node {
                    Expr::Duration(mut d) => {
                        d.wrapped = true;
                        Ok(Tall { node: Expr::Duration(d), height: inner.height })
                    }
                    e => {
                        // A number cannot be marked, so an empty sign around it carries the mark.
                        let height = self.above(inner.height)?;
                        let pos = Position { start: open.pos as u32, end: e.pos().end };
                        let d = DurationExpr { op: DurationOp::Add, lhs: None, rhs: Some(e), wrapped: true, pos };
                        Ok(Tall { node: Expr::Duration(Box::new(d)), height })
                    }
                }
            }
            _ => Err(Fail::Unexpected),
        }
    }
}

fn duration_node(op: DurationOp, lhs: Option<Expr>, rhs: Option<Expr>, pos: Position) -> Expr {
    Expr::Duration(Box::new(DurationExpr { op, lhs, rhs, wrapped: false, pos }))
}
