//! Merging against a map of (series, time).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::{Exemplar, Labels, Matcher, Metadata, Need, SampleColumn, TimeRange, Value};
use quiver_persistence::{Disk, MemoryDisk};

use super::*;
use crate::codec::chunk::tests::any_column;
use crate::index::head::tests::any_labels;

type Oracle = BTreeMap<Labels, BTreeMap<i64, (Value, i64)>>;

fn block(disk: &Arc<MemoryDisk>, name: &str, series: &BTreeMap<Labels, SampleColumn>, chunk: usize) -> Arc<Block> {
    let mut w = BlockWriter::create(disk.clone(), name).unwrap();
    for (l, c) in series {
        let chunks = w.encode(c, chunk);
        w.push(l.as_ref(), &chunks).unwrap();
    }
    w.finish().unwrap();
    Arc::new(Block::open(&**disk, name).unwrap())
}

fn add(oracle: &mut Oracle, series: &BTreeMap<Labels, SampleColumn>) {
    for (l, c) in series {
        let have = oracle.entry(l.clone()).or_default();
        for i in 0..c.len() {
            let new = (c.value_at(i), c.start_at(i));
            match have.get_mut(&c.ts[i]) {
                None => {
                    have.insert(c.ts[i], new);
                }
                Some(old) => match new.0.precedence(&old.0) {
                    std::cmp::Ordering::Greater => *old = new,
                    std::cmp::Ordering::Equal => old.1 = old.1.max(new.1),
                    std::cmp::Ordering::Less => {}
                },
            }
        }
    }
}

fn contents(block: &Block) -> Oracle {
    block.verify().unwrap();
    let mut out = Oracle::new();
    for id in block.select(&[], TimeRange::ALL).unwrap() {
        let mut c = SampleColumn::default();
        block.read(id, TimeRange::ALL, Need::ALL, &mut Decoder::new(), &mut c).unwrap();
        let samples = (0..c.len()).map(|i| (c.ts[i], (c.value_at(i), c.start_at(i)))).collect();
        out.insert(block.labels(id).unwrap(), samples);
    }
    out
}

fn same(a: &Oracle, b: &Oracle) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (l, x) in a {
        let y = &b[l];
        prop_assert_eq!(x.keys().collect::<Vec<_>>(), y.keys().collect::<Vec<_>>());
        for (t, (v, start)) in x {
            let (w, other) = &y[t];
            prop_assert!(v.precedence(w).is_eq(), "{} at {}: {:?} {:?}", l, t, v, w);
            prop_assert_eq!(start, other);
        }
    }
    Ok(())
}

const HOLE: TimeRange = TimeRange { min: 10, max: 20 };

fn gone(l: LabelsRef<'_>, t: i64) -> bool {
    l.get("a") == "x" && HOLE.overlaps(t, t)
}

/// The same deletion in every input.
struct Everywhere;

impl Deleted for Everywhere {
    fn ranges(&self, _input: usize, _id: u32, labels: LabelsRef<'_>) -> Vec<TimeRange> {
        if labels.get("a") == "x" { vec![HOLE] } else { vec![] }
    }
    fn exemplar(&self, _input: usize, labels: LabelsRef<'_>, ts: i64) -> bool {
        gone(labels, ts)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_merge_is_the_union_under_the_conflict_rule(
        inputs in proptest::collection::vec(
            (proptest::collection::btree_map(any_labels(), any_column(50), 0..8), 1usize..40, 0u8..3), 1..5),
        size in 1usize..60, cut in prop::option::of((-1_000_000i64..1_000_000, 0i64..1_000_000)),
    ) {
        let disk = Arc::new(MemoryDisk::new());
        let mut oracle = Oracle::new();
        let mut blocks = Vec::new();
        for (k, (mut series, chunk, near)) in inputs.into_iter().enumerate() {
            if near > 0 {
                // Times of all near each other, so that inputs overlap and collide.
                for c in series.values_mut() {
                    let begin = c.ts[0];
                    c.ts.iter_mut().for_each(|t| *t -= begin);
                }
            }
            add(&mut oracle, &series);
            blocks.push(block(&disk, &k.to_string(), &series, chunk));
        }
        let mut options = MergeOptions { chunk_samples: size, ..MergeOptions::default() };
        let deleted = Everywhere;
        if let Some((min, width)) = cut {
            options.keep = TimeRange { min, max: min + width };
            options.deleted = Some(&deleted);
            for (l, samples) in &mut oracle {
                samples.retain(|t, _| options.keep.overlaps(*t, *t) && !gone(l.as_ref(), *t));
            }
            oracle.retain(|_, s| !s.is_empty());
        }
        let run = |blocks: &[Arc<Block>], name: &str| {
            let writer = BlockWriter::create(disk.clone(), name).unwrap();
            let report = merge(blocks, writer, &options).unwrap().unwrap();
            (report, Arc::new(Block::open(&*disk, name).unwrap()))
        };
        let (_, merged) = run(&blocks, "merged");
        same(&contents(&merged), &oracle)?;
        let backwards: Vec<_> = blocks.iter().rev().cloned().collect();
        same(&contents(&run(&backwards, "backwards").1), &oracle)?;
        let (report, again) = run(&[merged.clone(), merged.clone()], "again");
        same(&contents(&again), &oracle)?;
        prop_assert_eq!(report.conflicts, 0);
    }
}

fn labels(name: &str) -> Labels {
    Labels::from_pairs([("__name__", name)]).unwrap()
}

fn ramp(from: i64, n: i64) -> SampleColumn {
    let mut c = SampleColumn::default();
    for i in from..from + n {
        c.push_float(i * 15_000, (i % 100) as f64, 0);
    }
    c
}

#[test]
fn chunks_that_lie_alone_are_copied_and_small_ones_joined() {
    let disk = Arc::new(MemoryDisk::new());
    let series = |from, n| BTreeMap::from([(labels("up"), ramp(from, n))]);
    let a = block(&disk, "a", &series(0, 960), 480);
    let b = block(&disk, "b", &series(960, 480), 480);
    let w = BlockWriter::create(disk.clone(), "c").unwrap();
    let report = merge(&[a, b], w, &MergeOptions::default()).unwrap().unwrap();
    assert_eq!((report.copied, report.encoded), (3, 0));
    let small: Vec<_> = (0..20).map(|k| block(&disk, &format!("s{k}"), &series(k * 40, 40), 40)).collect();
    let w = BlockWriter::create(disk.clone(), "d").unwrap();
    let report = merge(&small, w, &MergeOptions::default()).unwrap().unwrap();
    assert_eq!((report.copied, report.encoded, report.meta.samples), (0, 2, 800));
}

#[test]
fn exemplars_and_metadata_are_joined_and_a_merge_can_be_stopped() {
    let disk = Arc::new(MemoryDisk::new());
    let exemplar = |ts| Exemplar { labels: labels("x"), value: 1.0, ts };
    let help = |text: &str| Metadata { help: text.into(), ..Metadata::default() };
    let mut blocks = Vec::new();
    for k in 0..2 {
        let name = format!("b{k}");
        let mut w = BlockWriter::create(disk.clone(), &name).unwrap();
        w.push_column(labels("up").as_ref(), &ramp(k * 10, 10)).unwrap();
        w.push_exemplars(labels("up").as_ref(), &[exemplar(5), exemplar(10 - k)]);
        w.push_metadata("up", &[help("same"), help(&format!("from {k}"))]);
        w.finish().unwrap();
        blocks.push(Arc::new(Block::open(&*disk, &name).unwrap()));
    }
    let w = BlockWriter::create(disk.clone(), "m").unwrap();
    merge(&blocks, w, &MergeOptions::default()).unwrap().unwrap();
    let merged = Block::open(&*disk, "m").unwrap();
    assert_eq!(merged.exemplars().unwrap(), [(labels("up"), vec![exemplar(5), exemplar(9), exemplar(10)])]);
    assert_eq!(merged.metadata().unwrap(), [("up".into(), vec![help("same"), help("from 1"), help("from 0")])]);
    assert_eq!(merged.select(&[Matcher::equal("__name__", "up")], TimeRange::ALL).unwrap(), [0]);

    let files: BTreeSet<String> = disk.list("").unwrap().into_iter().collect();
    let w = BlockWriter::create(disk.clone(), "stopped").unwrap();
    let stop = |done: u32| done > 0;
    let options = MergeOptions { go_on: Some(&stop), ..MergeOptions::default() };
    assert_eq!(merge(&blocks, w, &options).unwrap(), None);
    assert_eq!(disk.list("").unwrap().into_iter().collect::<BTreeSet<_>>(), files);
}

/// Deletes all of the first input, and metadata and exemplars with it.
struct OfFirst(TimeRange);

impl Deleted for OfFirst {
    fn ranges(&self, input: usize, _id: u32, _labels: LabelsRef<'_>) -> Vec<TimeRange> {
        if input == 0 { vec![self.0] } else { vec![] }
    }
    fn exemplar(&self, input: usize, _labels: LabelsRef<'_>, ts: i64) -> bool {
        input == 0 && self.0.overlaps(ts, ts)
    }
    fn family(&self, family: &str) -> bool {
        family == "gone"
    }
}

#[test]
fn a_deletion_counts_for_its_own_input_only() {
    let disk = Arc::new(MemoryDisk::new());
    let write = |name: &str, from: i64, chunk: usize| {
        let mut w = BlockWriter::create(disk.clone(), name).unwrap();
        let chunks = w.encode(&ramp(from, 100), chunk);
        w.push(labels("up").as_ref(), &chunks).unwrap();
        w.push_exemplars(labels("up").as_ref(), &[Exemplar { labels: labels("x"), value: 1.0, ts: from * 15_000 }]);
        w.push_metadata("gone", &[Metadata::default()]);
        w.push_metadata("up", &[Metadata::default()]);
        w.finish().unwrap();
        Arc::new(Block::open(&*disk, name).unwrap())
    };
    for chunk in [7, 100] {
        let (old, new) = (write("old", 0, chunk), write("new", 50, chunk));
        for hole in [TimeRange::ALL, TimeRange { min: 0, max: 120 * 15_000 }] {
            let deleted = OfFirst(hole);
            let options = MergeOptions { deleted: Some(&deleted), chunk_samples: 50, ..MergeOptions::default() };
            let w = BlockWriter::create(disk.clone(), "m").unwrap();
            let report = merge(&[old.clone(), new.clone()], w, &options).unwrap().unwrap();
            let merged = Block::open(&*disk, "m").unwrap();
            merged.verify().unwrap();
            // Of the new one nothing is missing: it holds 50..150.
            assert_eq!(report.meta.samples, 100, "{hole:?}, {chunk}");
            assert_eq!((merged.meta().min_time, merged.meta().max_time), (50 * 15_000, 149 * 15_000));
            assert_eq!(merged.exemplars().unwrap()[0].1.len(), 1);
            assert_eq!(merged.metadata().unwrap(), [("up".to_owned(), vec![Metadata::default()])]);
            assert_eq!(report.families, 1);
        }
        let deleted = OfFirst(TimeRange::ALL);
        let options = MergeOptions { deleted: Some(&deleted), ..MergeOptions::default() };
        let w = BlockWriter::create(disk.clone(), "none").unwrap();
        let report = merge(&[old], w, &options).unwrap().unwrap();
        assert_eq!((report.meta.series, report.meta.samples, report.dropped), (0, 0, 100));
        let none = Block::open(&*disk, "none").unwrap();
        assert_eq!(none.label_names(None).unwrap(), [""; 0]);
    }
}
