//! Which series of two vectors belong together: signatures, numbered once from the rosters.
//!
//! ```text
//! left  {job="a",i="1"} ┐            ┌ match id 0
//! left  {job="a",i="2"} ┼─ on (job) ─┤
//! right {job="a"}       ┘            └ …          per step only ids are compared
//! ```

use hashbrown::HashMap;
use quiver_model::Labels;

use super::group::{is_metadata_label, pack, pack_key, unpack};
use crate::exec::tile::Roster;
use crate::promql::ast::{BinaryOp, Cardinality, VectorMatching};

/// The sides of a binary operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Before the operator.
    Left,
    /// After it.
    Right,
}

/// Signature numbers of both sides.
#[derive(Clone, Debug, Default)]
pub struct MatchIds {
    /// Of each left sid.
    pub left: Vec<u32>,
    /// Of each right sid.
    pub right: Vec<u32>,
    /// How many there are.
    pub count: usize,
}

impl MatchIds {
    /// Numbers the signatures of two rosters.
    pub fn new(matching: &VectorMatching, left: &Roster, right: &Roster) -> Self {
        let mut map: HashMap<Vec<u8>, u32> = HashMap::with_capacity(left.rows.len().max(right.rows.len()));
        let mut key = Vec::new();
        let mut number = |r: &Roster| -> Vec<u32> {
            let id = |row: &crate::exec::tile::RosterRow| {
                pack_key(&row.labels, &matching.labels, matching.on, &mut key);
                let next = map.len() as u32;
                *map.entry_ref(key.as_slice()).or_insert(next)
            };
            r.rows.iter().map(id).collect()
        };
        let (left, right) = (number(left), number(right));
        Self { left, right, count: map.len() }
    }

    /// Which series of a side have a partner on the other side (what a scan may be narrowed to).
    pub fn matched(&self, side: Side) -> Vec<bool> {
        let (mine, other) = match side {
            Side::Left => (&self.left, &self.right),
            Side::Right => (&self.right, &self.left),
        };
        let mut there = vec![false; self.count];
        for id in other {
            there[*id as usize] = true;
        }
        mine.iter().map(|id| there[*id as usize]).collect()
    }
}

/// The labels two series are matched by.
pub fn match_labels(labels: &Labels, matching: &VectorMatching) -> Labels {
    let mut key = Vec::new();
    pack_key(labels, &matching.labels, matching.on, &mut key);
    unpack(&key)
}

/// Does the result mean something else than the operand, so that name, type and unit go?
pub fn changes_metric(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Add | Sub | Div | Mul | Pow | Mod | Atan2)
}

/// Labels of the result of a series of the many side (the left one of one-to-one) and one of the one side.
pub fn result_labels(
    many: &Labels,
    one: &Labels,
    op: BinaryOp,
    matching: &VectorMatching,
    drop_metadata: bool,
) -> Labels {
    let drop_metadata = drop_metadata || changes_metric(op);
    let listed = |n: &str| matching.labels.iter().any(|x| x == n);
    let keep = |n: &str| {
        if drop_metadata && is_metadata_label(n) {
            return false;
        }
        matching.card != Cardinality::OneToOne || listed(n) == matching.on
    };
    if matching.include.is_empty() {
        if many.iter().all(|(n, _)| keep(n)) {
            return many.clone();
        }
        let mut packed = Vec::with_capacity(many.packed().len());
        pack(many, &mut packed, keep);
        return unpack(&packed);
    }
    let mut b = many.filtered(keep).to_builder();
    for name in &matching.include {
        b.set(name, one.get(name));
    }
    b.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{labels, roster};

    fn matching(on: bool, names: &[&str]) -> VectorMatching {
        VectorMatching { on, labels: names.iter().map(|s| (*s).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn ids_and_labels() {
        let l = roster(&["__name__=a,job=x,i=1", "__name__=a,job=y,i=1"]);
        let r = roster(&["__name__=b,job=y,i=2", "__name__=b,job=z,i=1"]);
        let ids = MatchIds::new(&matching(true, &["job"]), &l, &r);
        assert_eq!((ids.left.as_slice(), ids.right.as_slice(), ids.count), (&[0, 1][..], &[1, 2][..], 3));
        assert_eq!(ids.matched(Side::Left), [false, true]);
        let ids = MatchIds::new(&matching(false, &["job"]), &l, &r);
        assert_eq!((ids.left.as_slice(), ids.right.as_slice()), (&[0, 0][..], &[1, 0][..]));

        let (a, b) = (labels("__name__=m,job=x,i=1"), labels("__name__=n,job=x,v=3"));
        let on = matching(true, &["job"]);
        assert_eq!(result_labels(&a, &b, BinaryOp::Add, &on, false), labels("job=x"));
        let ign = matching(false, &["i"]);
        assert_eq!(result_labels(&a, &b, BinaryOp::Gtr, &ign, false), labels("__name__=m,job=x"));
        assert_eq!(result_labels(&a, &b, BinaryOp::Gtr, &ign, true), labels("job=x"));
        let group = VectorMatching { card: Cardinality::ManyToOne, include: vec!["v".into(), "i".into()], ..on };
        assert_eq!(result_labels(&a, &b, BinaryOp::Mul, &group, false), labels("job=x,v=3"));
    }
}
