use quiver_model::{LabelsRef, Matcher};
use roaring::RoaringBitmap;
use std::collections::BTreeMap;
#[derive(Default)]
pub(crate) struct HeadIndex {
    map: BTreeMap<String, BTreeMap<String, RoaringBitmap>>,
    all: RoaringBitmap,
}
impl HeadIndex {
    pub(crate) fn insert(&mut self, id: u32, labels: LabelsRef<'_>) {
        self.all.insert(id);
        for (n, v) in labels.iter() {
            self.map.entry(n.to_owned()).or_default().entry(v.to_owned()).or_default().insert(id);
        }
    }
    pub(crate) fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let mut out = self.all.clone();
        for m in matchers {
            let mut hit = RoaringBitmap::new();
            let mut with = RoaringBitmap::new();
            for (v, b) in self.map.get(&*m.name).into_iter().flatten() {
                with |= b;
                if m.matches(v) {
                    hit |= b;
                }
            }
            if m.matches_empty() {
                hit |= &self.all - &with;
            }
            out &= hit;
        }
        out
    }
}
