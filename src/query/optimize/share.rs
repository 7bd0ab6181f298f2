//! Parts of a plan that occur more than once are evaluated once: `a / (a + b)` reads `a` once.
//!
//! Equal means equal but for positions; what the one evaluation reports is reported for every place.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;

use crate::plan::node::{PromNode, PromOp};
use crate::promql::ast::Position;

/// Positions in the first occurrence, and where they are in another.
pub type Translation = Vec<(Position, Position)>;

/// The parts of a plan that occur more than once.
#[derive(Debug, Default)]
pub struct Repeats<'p> {
    parts: HashMap<&'p PromNode, Part>,
}

/// One such part.
#[derive(Debug, Default)]
pub struct Part {
    /// Occurrences.
    pub count: usize,
    /// For each occurrence but the first.
    pub translations: Arc<Vec<Translation>>,
}

impl<'p> Repeats<'p> {
    /// Looks for them.
    // A plan's cells of run-time state are no part of its identity.
    #[allow(clippy::mutable_key_type)]
    pub fn of(plan: &'p LogicalPlan) -> Self {
        if scans(plan) < 2 {
            return Self::default();
        }
        let mut seen: HashMap<&'p PromNode, Vec<&'p PromNode>> = HashMap::new();
        visit(plan, &mut seen);
        let parts = seen
            .into_iter()
            .filter(|(_, all)| all.len() > 1)
            .map(|(first, all)| {
                let translations = all.iter().skip(1).map(|other| translation(first, other)).collect();
                (first, Part { count: all.len(), translations: Arc::new(translations) })
            })
            .collect();
        Self { parts }
    }

    /// The part a node is an occurrence of.
    pub fn get(&self, node: &PromNode) -> Option<&Part> {
        self.parts.get(node)
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

fn scans(plan: &LogicalPlan) -> usize {
    match PromNode::of(plan) {
        Some(n) if matches!(n.op, PromOp::Scan(_)) => 1,
        Some(n) => n.inputs.iter().map(scans).sum(),
        None => 0,
    }
}

/// Outermost first; what is inside a repeated part is shared with it and not counted again.
#[allow(clippy::mutable_key_type)]
fn visit<'p>(plan: &'p LogicalPlan, seen: &mut HashMap<&'p PromNode, Vec<&'p PromNode>>) {
    let Some(node) = PromNode::of(plan) else { return };
    if matches!(node.op, PromOp::Scan(_) | PromOp::RawWindow { .. }) || scans(plan) == 0 {
        return;
    }
    let all = seen.entry(node).or_default();
    all.push(node);
    if all.len() > 1 {
        return;
    }
    for i in &node.inputs {
        visit(i, seen);
    }
}

fn translation(first: &PromNode, other: &PromNode) -> Translation {
    let mut out = Vec::new();
    translate(first, other, &mut out);
    out
}

fn translate(a: &PromNode, b: &PromNode, out: &mut Translation) {
    out.push((a.pos, b.pos));
    out.extend(a.arg_pos.iter().copied().zip(b.arg_pos.iter().copied()));
    for (x, y) in a.inputs.iter().zip(&b.inputs) {
        if let (Some(x), Some(y)) = (PromNode::of(x), PromNode::of(y)) {
            translate(x, y, out);
        }
    }
}
