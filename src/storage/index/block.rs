//! The index of a block, read from its bytes. The layout is in [`super::build`].

use bytes::Bytes;
use fst::{IntoStreamer, Streamer};
use quiver_model::{MatchOp, Matcher};
use regex_automata::Anchored;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::{primitives::StateID, start};
use roaring::RoaringBitmap;

use super::build::FST_VALUES_MIN;
use super::postings::PostingsRef;
use super::select::Lookup;
use crate::bytes::{Damaged, Reader};

struct Label {
    name: Box<str>,
    values: usize,
    /// Where in the dictionary: offsets, values, FST; and how long the latter two are.
    table: usize,
    bytes: usize,
    fst: usize,
    /// Where in the postings, and how long.
    postings: usize,
    postings_len: usize,
}

/// Dictionaries and postings of a block.
pub struct BlockIndex {
    dictionary: Bytes,
    postings: Bytes,
    labels: Vec<Label>,
    series: u32,
}

const SHORT: Damaged = Damaged("index ends early");

fn u32_at(bytes: &[u8], at: usize) -> Result<usize, Damaged> {
    let slice = bytes.get(at..at.wrapping_add(4)).ok_or(SHORT)?;
    let mut b = [0; 4];
    b.copy_from_slice(slice);
    Ok(u32::from_le_bytes(b) as usize)
}

impl BlockIndex {
    /// Reads the directory; `dictionary` and `postings` were checked against their checksums.
    pub fn open(dictionary: Bytes, postings: Bytes, series: u32) -> Result<Self, Damaged> {
        let mut r = Reader::new(&dictionary);
        let n = r.count(dictionary.len())?;
        let mut labels: Vec<Label> = Vec::with_capacity(n);
        let mut postings_at = 0usize;
        for _ in 0..n {
            let name: Box<str> = r.str()?.into();
            if labels.last().is_some_and(|l| l.name >= name) {
                return Err(Damaged("label names are not sorted"));
            }
            let values = r.count(series as usize)?;
            let bytes = r.count(dictionary.len())?;
            let fst = r.count(dictionary.len())?;
            let postings_len = r.count(postings.len())?;
            labels.push(Label { name, values, table: 0, bytes, fst, postings: postings_at, postings_len });
            postings_at = postings_at.checked_add(postings_len).ok_or(SHORT)?;
        }
        let mut at = r.position();
        for l in &mut labels {
            l.table = at;
            at = at.saturating_add(4 * (l.values + 1)).saturating_add(l.bytes).saturating_add(l.fst);
        }
        if at != dictionary.len() || postings_at != postings.len() {
            return Err(Damaged("index sections have another length"));
        }
        Ok(Self { dictionary, postings, labels, series })
    }

    fn label(&self, name: &str) -> Option<&Label> {
        self.labels.binary_search_by(|l| (*l.name).cmp(name)).ok().map(|i| &self.labels[i])
    }

    fn value(&self, l: &Label, rank: usize) -> Result<&str, Damaged> {
        if rank >= l.values {
            return Err(Damaged("label value out of bounds"));
        }
        let (a, b) = (u32_at(&self.dictionary, l.table + 4 * rank)?, u32_at(&self.dictionary, l.table + 4 * rank + 4)?);
        if b > l.bytes || a > b {
            return Err(Damaged("label value out of bounds"));
        }
        let base = l.table + 4 * (l.values + 1);
        let bytes = self.dictionary.get(base + a..base + b).ok_or(SHORT)?;
        std::str::from_utf8(bytes).map_err(|_| Damaged("label value is not UTF-8"))
    }

    /// Name and value by their numbers, as series records have them.
    pub fn pair_at(&self, name: usize, value: usize) -> Result<(&str, &str), Damaged> {
        let l = self.labels.get(name).ok_or(Damaged("label name out of bounds"))?;
        Ok((&l.name, self.value(l, value)?))
    }

    /// The rank of a value, or of the first one after it.
    fn rank(&self, l: &Label, value: &str) -> Result<Result<usize, usize>, Damaged> {
        let (mut lo, mut hi) = (0, l.values);
        while lo < hi {
            let mid = (lo + hi) / 2;
            match self.value(l, mid)?.cmp(value) {
                std::cmp::Ordering::Less => lo = mid + 1,
                std::cmp::Ordering::Equal => return Ok(Ok(mid)),
                std::cmp::Ordering::Greater => hi = mid,
            }
        }
        Ok(Err(lo))
    }

    /// Set `k` of a label: 0 is all series with the label, then its values.
    fn set(&self, l: &Label, k: usize) -> Result<PostingsRef<'_>, Damaged> {
        let region = self.postings.get(l.postings..l.postings + l.postings_len).ok_or(SHORT)?;
        let (a, b) = (u32_at(region, 4 * k)?, u32_at(region, 4 * k + 4)?);
        let bytes = region.get(a..b).ok_or(SHORT)?;
        let mut r = Reader::new(bytes);
        let fits =
            |id: u64| if id < u64::from(self.series) { Ok(id as u32) } else { Err(Damaged("series out of bounds")) };
        match r.u8()? {
            0 => {
                let n = r.count(bytes.len())?;
                let mut ids = Vec::with_capacity(n);
                let mut at = 0u64;
                for i in 0..n {
                    let step = r.varint()?;
                    if i > 0 && step == 0 {
                        return Err(Damaged("postings do not ascend"));
                    }
                    at = at.saturating_add(step);
                    ids.push(fits(at)?);
                }
                Ok(PostingsRef::List(ids))
            }
            1 => {
                let first = r.varint()?;
                let end = first.saturating_add(r.varint()?);
                fits(end.saturating_sub(1))?;
                Ok(PostingsRef::Range(first as u32, end as u32))
            }
            2 => {
                let bitmap = RoaringBitmap::deserialize_from(r.rest()).map_err(|_| Damaged("bitmap does not parse"))?;
                if let Some(max) = bitmap.max() {
                    fits(u64::from(max))?;
                }
                Ok(PostingsRef::Owned(bitmap))
            }
            _ => Err(Damaged("unknown postings")),
        }
    }

    /// The size of set `k`, without reading it where it can be told.
    fn set_len(&self, l: &Label, k: usize) -> Result<u64, Damaged> {
        let region = self.postings.get(l.postings..l.postings + l.postings_len).ok_or(SHORT)?;
        let (a, b) = (u32_at(region, 4 * k)?, u32_at(region, 4 * k + 4)?);
        let mut r = Reader::new(region.get(a..b).ok_or(SHORT)?);
        match r.u8()? {
            0 => r.varint(),
            1 => {
                r.varint()?;
                r.varint()
            }
            _ => Ok(self.set(l, k)?.len()),
        }
    }

    /// Names of the labels that any of `among` has (or any series), sorted.
    pub fn label_names(&self, among: Option<&RoaringBitmap>) -> Result<Vec<String>, Damaged> {
        let mut out = Vec::new();
        for l in &self.labels {
            let keep = match among {
                None => true,
                Some(ids) => self.set(l, 0)?.intersects(ids),
            };
            if keep {
                out.push(l.name.to_string());
            }
        }
        Ok(out)
    }

    /// Values of a label that any of `among` has (or any series), sorted.
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>) -> Result<Vec<String>, Damaged> {
        let Some(l) = self.label(name) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for k in 0..l.values {
            let keep = match among {
                None => true,
                Some(ids) => self.set(l, k + 1)?.intersects(ids),
            };
            if keep {
                out.push(self.value(l, k)?.to_owned());
            }
        }
        Ok(out)
    }

    /// Reads every value and every set: whatever does not parse is an error.
    pub fn verify(&self) -> Result<(), Damaged> {
        for l in &self.labels {
            self.set(l, 0)?;
            let mut last: Option<&str> = None;
            for k in 0..l.values {
                let v = self.value(l, k)?;
                if v.is_empty() || last.is_some_and(|last| last >= v) {
                    return Err(Damaged("label values are not sorted"));
                }
                last = Some(v);
                self.set(l, k + 1)?;
            }
            self.verify_fst(l)?;
        }
        Ok(())
    }

    /// Does the FST of a label spell its values, each with its rank?
    fn verify_fst(&self, l: &Label) -> Result<(), Damaged> {
        if l.fst == 0 {
            return Ok(());
        }
        let bad = Damaged("the tree of label values is not theirs");
        let map = self.fst(l)?;
        if map.len() != l.values {
            return Err(bad);
        }
        // The library looks bytes up where a damaged tree says, and panics where there are none.
        let walk = std::panic::AssertUnwindSafe(|| -> Result<usize, Damaged> {
            let (mut stream, mut k) = (map.stream(), 0);
            while let Some((value, rank)) = stream.next() {
                if k >= l.values || rank != k as u64 || value != self.value(l, k)?.as_bytes() {
                    return Err(bad);
                }
                k += 1;
            }
            Ok(k)
        });
        let values = std::panic::catch_unwind(walk).unwrap_or(Err(bad))?;
        if values == l.values { Ok(()) } else { Err(bad) }
    }

    fn fst(&self, l: &Label) -> Result<fst::Map<&[u8]>, Damaged> {
        let base = l.table + 4 * (l.values + 1) + l.bytes;
        let bytes = self.dictionary.get(base..base + l.fst).ok_or(SHORT)?;
        fst::Map::new(bytes).map_err(|_| Damaged("dictionary does not parse"))
    }

    /// Walks the FST with the expression's automaton: whole subtrees are skipped.
    fn walk_fst(&self, l: &Label, m: &Matcher, found: &mut dyn FnMut(PostingsRef<'_>)) -> Result<bool, Damaged> {
        let Some(dfa) = ValueDfa::new(m) else { return Ok(false) };
        let map = self.fst(l)?;
        let mut stream = map.search(dfa).into_stream();
        let mut least = 0;
        while let Some((_, rank)) = stream.next() {
            if rank >= l.values as u64 {
                return Err(Damaged("label value out of bounds"));
            }
            // Values come in order: so a damaged tree, which can spell more of them than there are, has an end.
            if rank < least {
                return Err(Damaged("label values are not sorted"));
            }
            least = rank + 1;
            found(self.set(l, rank as usize + 1)?);
        }
        Ok(true)
    }
}

/// A matcher's automaton over bytes, for the dictionary.
struct ValueDfa<'m> {
    dfa: &'m dense::DFA<Vec<u32>>,
    start: StateID,
}

impl<'m> ValueDfa<'m> {
    /// `None` where the automaton would be large: then testing value by value is better.
    fn new(matcher: &'m Matcher) -> Option<Self> {
        let dfa = matcher.automaton()?;
        let start = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some(Self { dfa, start })
    }
}

impl fst::Automaton for ValueDfa<'_> {
    type State = StateID;

    fn start(&self) -> StateID {
        self.start
    }
    fn is_match(&self, state: &StateID) -> bool {
        self.dfa.is_match_state(*state)
    }
    fn can_match(&self, state: &StateID) -> bool {
        !self.dfa.is_dead_state(*state) && !self.dfa.is_quit_state(*state)
    }
    fn accept(&self, state: &StateID, byte: u8) -> StateID {
        self.dfa.next_state(*state, byte)
    }
    fn accept_eof(&self, state: &StateID) -> Option<StateID> {
        Some(self.dfa.next_eoi_state(*state))
    }
}

impl Lookup for BlockIndex {
    type Error = Damaged;

    fn all(&self) -> Result<RoaringBitmap, Damaged> {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.series);
        Ok(all)
    }

    fn with_label(&self, name: &str) -> Result<PostingsRef<'_>, Damaged> {
        self.label(name).map_or(Ok(PostingsRef::EMPTY), |l| self.set(l, 0))
    }

    fn label_len(&self, name: &str) -> Result<u64, Damaged> {
        self.label(name).map_or(Ok(0), |l| self.set_len(l, 0))
    }

    fn pair(&self, name: &str, value: &str) -> Result<PostingsRef<'_>, Damaged> {
        let Some(l) = self.label(name) else { return Ok(PostingsRef::EMPTY) };
        match self.rank(l, value)? {
            Ok(rank) => self.set(l, rank + 1),
            Err(_) => Ok(PostingsRef::EMPTY),
        }
    }

    fn values_len(&self, name: &str) -> u64 {
        self.label(name).map_or(0, |l| l.values as u64)
    }

    fn pair_len(&self, name: &str, value: &str) -> Result<u64, Damaged> {
        let Some(l) = self.label(name) else { return Ok(0) };
        match self.rank(l, value)? {
            Ok(rank) => self.set_len(l, rank + 1),
            Err(_) => Ok(0),
        }
    }

    fn walk(
        &self,
        matcher: &Matcher,
        prefix: &str,
        accept: bool,
        found: &mut dyn FnMut(PostingsRef<'_>),
    ) -> Result<(), Damaged> {
        let Some(l) = self.label(&matcher.name) else { return Ok(()) };
        let regex_side = (matcher.op == MatchOp::Regex) == accept;
        if regex_side && l.fst > 0 && l.values >= FST_VALUES_MIN && self.walk_fst(l, matcher, found)? {
            return Ok(());
        }
        let from = if prefix.is_empty() { 0 } else { self.rank(l, prefix)?.unwrap_or_else(|at| at) };
        for k in from..l.values {
            let value = self.value(l, k)?;
            if !value.starts_with(prefix) {
                break;
            }
            if matcher.matches(value) == accept {
                found(self.set(l, k + 1)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::IndexBuilder;
    use super::super::head::tests::{any_labels, any_matcher};
    use super::super::select::select;
    use super::*;
    use proptest::prelude::*;
    use quiver_model::{Labels, LabelsRef};

    pub(crate) fn build<'a>(sets: impl Iterator<Item = LabelsRef<'a>>) -> BlockIndex {
        let mut b = IndexBuilder::default();
        sets.for_each(|l| b.add(l, |_, _| {}));
        let series = b.series();
        let built = b.finish().unwrap();
        BlockIndex::open(built.dictionary.into(), built.postings.into(), series).unwrap()
    }

    proptest! {
        #[test]
        fn selects_what_testing_each_series_selects(
            sets in proptest::collection::vec(any_labels(), 0..80),
            matchers in proptest::collection::vec(any_matcher(), 0..4),
        ) {
            let index = build(sets.iter().map(Labels::as_ref));
            index.verify().unwrap();
            let want: Vec<u32> = (0..sets.len() as u32)
                .filter(|i| matchers.iter().all(|m| m.matches_labels(sets[*i as usize].as_ref()))).collect();
            let got = select(&index, &matchers).unwrap();
            prop_assert_eq!(got.iter().collect::<Vec<_>>(), want);
            prop_assert!(super::super::estimate(&index, &matchers).unwrap() >= got.len());
            let values: std::collections::BTreeSet<&str> =
                got.iter().map(|i| sets[i as usize].get("a")).filter(|v| !v.is_empty()).collect();
            prop_assert_eq!(index.label_values("a", Some(&got)).unwrap(), values.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn large_dictionaries_are_walked_by_automaton() {
        let sets: Vec<Labels> = (0..2000)
            .map(|i| {
                Labels::from_pairs([("id", format!("host-{i:04}:9100\n")), ("k", format!("é{}", i % 300))]).unwrap()
            })
            .collect();
        let index = build(sets.iter().map(Labels::as_ref));
        assert!(index.labels.iter().all(|l| l.fst > 0));
        for pattern in [
            "host-.*7:9100.",
            "host-00(1|2).:.*",
            ".*99.*",
            "(?i)HOST-0000.*",
            "host-0",
            "é1.",
            "[^é]*",
            "é2?.|host-1999.*",
        ] {
            for op in [MatchOp::Regex, MatchOp::NotRegex] {
                for name in ["id", "k"] {
                    let m = Matcher::new(op, name, pattern, 1 << 20).unwrap();
                    let want: Vec<u32> = (0..2000).filter(|i| m.matches(sets[*i as usize].get(name))).collect();
                    assert_eq!(
                        select(&index, std::slice::from_ref(&m)).unwrap().iter().collect::<Vec<_>>(),
                        want,
                        "{m}"
                    );
                }
            }
        }
    }
}
