//! Groups of an aggregation: which output series each input series goes to, found once from the roster.
//!
//! ```text
//! sid 0 {a="1", b="x"}   by (a) ──▶ group 0 {a="1"}
//! sid 1 {a="2", b="x"}   by (a) ──▶ group 1 {a="2"}
//! sid 2 {a="2", b="y"}   by (a) ──▶ group 1
//! ```
//!
//! Invariant: groups are numbered in label order, so a group number is a sid of the output roster.

use hashbrown::HashMap;
use quiver_model::labels::push_packed;
use quiver_model::{Labels, METRIC_NAME};

use crate::exec::tile::{Roster, RosterRow};

/// Label of a metric's type, where types and units are labels.
pub const METRIC_TYPE: &str = "__type__";
/// Label of a metric's unit.
pub const METRIC_UNIT: &str = "__unit__";

/// Is it one of the labels that say what a metric is: name, type, unit?
pub fn is_metadata_label(name: &str) -> bool {
    name == METRIC_NAME || name == METRIC_TYPE || name == METRIC_UNIT
}

/// The labels without name, type and unit.
pub fn drop_metadata_labels(labels: &Labels) -> Labels {
    if labels.iter().any(|(n, _)| is_metadata_label(n)) {
        labels.filtered(|n| !is_metadata_label(n))
    } else {
        labels.clone()
    }
}

/// Packs the labels that `keep` accepts into `out`, replacing what was there.
pub(super) fn pack(labels: &Labels, out: &mut Vec<u8>, keep: impl Fn(&str) -> bool) {
    out.clear();
    for (n, v) in labels.iter() {
        if keep(n) {
            push_packed(out, n, v);
        }
    }
}

/// Packs the labels of a `by`/`without` or `on`/`ignoring` key.
pub(super) fn pack_key(labels: &Labels, names: &[String], on: bool, out: &mut Vec<u8>) {
    if on {
        pack(labels, out, |n| names.iter().any(|x| x == n));
    } else {
        pack(labels, out, |n| !is_metadata_label(n) && !names.iter().any(|x| x == n));
    }
}

/// Labels from bytes that this module packed.
pub(super) fn unpack(packed: &[u8]) -> Labels {
    Labels::from_packed(packed).unwrap_or_default()
}

/// Numbers label sets as they come, then renumbers them in label order.
#[derive(Debug, Default)]
pub(super) struct LabelNumbers {
    map: HashMap<Labels, u32>,
    rows: Vec<RosterRow>,
}

impl LabelNumbers {
    /// The number of a label set; the drop-name mark of the first to ask for it stays.
    pub fn id(&mut self, labels: &Labels, drop_name: bool) -> u32 {
        if let Some(id) = self.map.get(labels) {
            return *id;
        }
        let id = self.rows.len() as u32;
        self.map.insert(labels.clone(), id);
        self.rows.push(RosterRow { labels: labels.clone(), drop_name });
        id
    }

    /// The roster in the order label sets came.
    pub fn unsorted(self) -> (Roster, Vec<u32>) {
        let same = (0..self.rows.len() as u32).collect();
        (Roster { rows: self.rows }, same)
    }

    /// The roster in label order, and the new number of each old one.
    pub fn finish(self) -> (Roster, Vec<u32>) {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        let row = |i: u32| &self.rows[i as usize];
        order.sort_unstable_by(|a, b| row(*a).labels.cmp(&row(*b).labels));
        let mut renumber = vec![0u32; order.len()];
        for (new, old) in order.iter().enumerate() {
            renumber[*old as usize] = new as u32;
        }
        let rows = order.iter().map(|i| row(*i).clone()).collect();
        (Roster { rows }, renumber)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Grouping {
    /// Group of each sid.
    pub ids: Vec<u32>,
    /// Labels of each group.
    pub labels: Vec<Labels>,
    /// Has any series of the group its name to be dropped?
    pub drop_name: Vec<bool>,
    /// Series of each group.
    pub members: Vec<u32>,
}

impl Grouping {
    /// Groups the series of `roster` by `names`, or by all other labels.
    pub fn new(roster: &Roster, names: &[String], without: bool) -> Self {
        let mut map: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut ids = Vec::with_capacity(roster.rows.len());
        let mut key = Vec::new();
        for row in &roster.rows {
            pack_key(&row.labels, names, !without, &mut key);
            let next = map.len() as u32;
            ids.push(*map.entry_ref(key.as_slice()).or_insert(next));
        }
        let mut found: Vec<(Labels, u32)> = map.into_iter().map(|(k, id)| (unpack(&k), id)).collect();
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut renumber = vec![0u32; found.len()];
        for (new, (_, old)) in found.iter().enumerate() {
            renumber[*old as usize] = new as u32;
        }
        let mut drop_name = vec![false; found.len()];
        let mut members = vec![0u32; found.len()];
        for (id, row) in ids.iter_mut().zip(&roster.rows) {
            *id = renumber[*id as usize];
            members[*id as usize] += 1;
            drop_name[*id as usize] |= row.drop_name;
        }
        Self { ids, labels: found.into_iter().map(|(l, _)| l).collect(), drop_name, members }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// No group at all?
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The groups as an output roster.
    pub fn roster(&self) -> Roster {
        let row = |(l, d): (&Labels, &bool)| RosterRow { labels: l.clone(), drop_name: *d };
        Roster { rows: self.labels.iter().zip(&self.drop_name).map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::operators::testing::{labels, roster};

    fn names(n: &[&str]) -> Vec<String> {
        n.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn by_and_without() {
        let r = roster(&["__name__=m,a=2,b=x", "__name__=m,a=1,b=x", "__name__=m,a=2,b=y", "__name__=m,b=y"]);
        let g = Grouping::new(&r, &names(&["a", "nope"]), false);
        assert_eq!(g.labels, [labels(""), labels("a=1"), labels("a=2")]);
        assert_eq!(g.ids, [2, 1, 2, 0]);
        assert_eq!(g.members, [1, 1, 2]);
        let g = Grouping::new(&r, &names(&["b"]), true);
        assert_eq!(g.labels, [labels(""), labels("a=1"), labels("a=2")]);
        let g = Grouping::new(&r, &[], false);
        assert_eq!((g.len(), g.members[0]), (1, 4));
        assert!(Grouping::new(&Roster::default(), &[], false).is_empty());
    }
}
