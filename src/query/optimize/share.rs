//! Parts of a plan that occur more than once are evaluated once: `a / (a + b)` reads `a` once.
//!
//! Equal means equal but for positions; what the one evaluation reports is reported for every place.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::logical_expr::LogicalPlan;
use smallvec::SmallVec;

use crate::exec::tile::StepGrid;
use crate::plan::node::{PromNode, PromOp};
use crate::promql::ast::Position;

/// Positions in the first occurrence, and where they are in another.
pub type Translation = Vec<(Position, Position)>;

/// The parts of a plan that occur more than once.
///
/// Every node gets a number, equal nodes the same one, from its operation and the numbers of its inputs: so the whole is
/// linear in the size of the plan, however deep it is.
#[derive(Debug, Default)]
pub struct Repeats<'p> {
    numbers: HashMap<*const PromNode, u32>,
    parts: HashMap<u32, Part<'p>>,
}

/// One such part.
#[derive(Debug)]
pub struct Part<'p> {
    /// Occurrences.
    pub count: usize,
    /// The occurrences, in the order of the query.
    pub occurrences: Vec<&'p PromNode>,
    /// For each occurrence but the first.
    pub translations: Arc<Vec<Translation>>,
    /// The node above each occurrence; none above the whole plan.
    pub parents: Vec<&'p PromNode>,
}

impl<'p> Part<'p> {
    /// The number of an occurrence.
    pub fn occurrence(&self, node: &PromNode) -> usize {
        self.occurrences.iter().position(|o| std::ptr::eq(*o, node)).unwrap_or(0)
    }

    /// The first occurrence, which is the one that is evaluated: what is reported names places in it.
    pub fn first(&self) -> Option<&'p PromNode> {
        self.occurrences.first().copied()
    }

    /// Is every occurrence the input of an aggregation with one accumulator for each group and step?
    pub fn is_aggregated(&self) -> bool {
        let dense = |p: &&PromNode| matches!(&p.op, PromOp::Aggregate { op, .. } if op.is_dense());
        self.parents.len() == self.count && self.parents.iter().all(dense)
    }
}

type Key<'p> = (&'p PromOp, StepGrid, SmallVec<[u32; 2]>);

#[derive(Default)]
struct Numbering<'p> {
    numbers: HashMap<*const PromNode, u32>,
    known: HashMap<Key<'p>, u32>,
    /// Is there a selector in the node of this number?
    reads: Vec<bool>,
}

impl<'p> Numbering<'p> {
    fn number(&mut self, node: &'p PromNode) -> u32 {
        let mut inputs = SmallVec::new();
        let mut reads = matches!(node.op, PromOp::Scan(_));
        for i in node.inputs.iter().filter_map(PromNode::of) {
            let n = self.number(i);
            reads |= self.reads[n as usize];
            inputs.push(n);
        }
        let next = self.reads.len() as u32;
        let n = *self.known.entry((&node.op, node.grid, inputs)).or_insert(next);
        if n == next {
            self.reads.push(reads);
        }
        self.numbers.insert(std::ptr::from_ref(node), n);
        n
    }
}

impl<'p> Repeats<'p> {
    /// Looks for them.
    pub fn of(plan: &'p LogicalPlan) -> Self {
        let Some(root) = PromNode::of(plan).filter(|_| scans(plan) > 1) else { return Self::default() };
        let mut n = Numbering::default();
        n.number(root);
        let mut seen: HashMap<u32, Vec<Occurrence<'p>>> = HashMap::new();
        visit(root, None, &n, &mut seen);
        let parts = seen
            .into_iter()
            .filter(|(_, all)| all.len() > 1)
            .map(|(number, all)| {
                let translations = all.iter().skip(1).map(|other| translation(all[0].node, other.node)).collect();
                let occurrences = all.iter().map(|o| o.node).collect();
                let parents = all.iter().filter_map(|o| o.parent).collect();
                (number, Part { count: all.len(), occurrences, translations: Arc::new(translations), parents })
            })
            .collect();
        Self { numbers: n.numbers, parts }
    }

    /// The part a node is an occurrence of, and its number.
    pub fn get(&self, node: &PromNode) -> Option<(u32, &Part<'p>)> {
        let number = self.numbers.get(&std::ptr::from_ref(node))?;
        self.parts.get(number).map(|p| (*number, p))
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

struct Occurrence<'p> {
    node: &'p PromNode,
    parent: Option<&'p PromNode>,
}

/// Outermost first; what is inside a repeated part is shared with it and not counted again.
fn visit<'p>(
    node: &'p PromNode,
    parent: Option<&'p PromNode>,
    n: &Numbering<'p>,
    seen: &mut HashMap<u32, Vec<Occurrence<'p>>>,
) {
    let Some(number) = n.numbers.get(&std::ptr::from_ref(node)) else { return };
    let reads = n.reads.get(*number as usize).is_some_and(|r| *r);
    if matches!(node.op, PromOp::Scan(_) | PromOp::RawWindow { .. }) || !reads {
        return;
    }
    let all = seen.entry(*number).or_default();
    all.push(Occurrence { node, parent });
    if all.len() > 1 {
        return;
    }
    for i in node.inputs.iter().filter_map(PromNode::of) {
        visit(i, Some(node), n, seen);
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
