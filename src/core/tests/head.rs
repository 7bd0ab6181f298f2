//! Heads alone: what goes in comes out, in whatever order and however spread over generations.

use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::{Matcher, SampleColumn, WriteBatch};

use super::oracle::assert_same;
use crate::head::{Counters, Head};
use crate::interner::Interner;
use crate::memory::MemoryStore;
use crate::refusal::SeriesCaps;
use crate::snapshot::{StoreSnapshot, View};
use crate::testing::{arbitrary_batch, batch_of, histogram};
use crate::{Need, Snapshot, Source, TimeRange};

fn write(head: &Head, batch: &WriteBatch) {
    let mut ids = Vec::new();
    assert_eq!(head.resolve(batch, &mut ids, SeriesCaps::NONE, &Interner::default()).map(|r| r.count), Ok(0));
    head.apply(&ids, &mut batch.clone());
}

fn snapshot(heads: &[Arc<Head>]) -> StoreSnapshot {
    StoreSnapshot::new(0, &View { heads: heads.to_vec(), ..View::default() }, None)
}

proptest! {
    #[test]
    fn two_generations_of_random_batches_read_like_the_oracle(
        batches in proptest::collection::vec((arbitrary_batch(6), any::<bool>()), 1..12),
    ) {
        let counters = Arc::new(Counters::default());
        let heads = [Arc::new(Head::new(2, Arc::clone(&counters))), Arc::new(Head::new(1, counters))];
        let oracle = MemoryStore::new();
        for (batch, newer) in &batches {
            oracle.write_now(batch).unwrap();
            if *newer {
                write(&heads[0], batch);
            } else {
                write(&heads[1], batch);
            }
        }
        assert_same(&snapshot(&heads), &*oracle.snapshot());
    }
}

/// Long columns: many seals, shared and parting times, late samples in every place.
#[test]
fn long_columns_with_seals_gaps_and_late_samples_read_like_the_oracle() {
    let head = Arc::new(Head::new(1, Arc::default()));
    let oracle = MemoryStore::new();
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let names: Vec<String> = (0..40).map(|i| format!("m{i}")).collect();
    for step in 0..1500i64 {
        let mut batch = WriteBatch::default();
        for (i, name) in names.iter().enumerate() {
            if random(50) == 0 {
                continue;
            }
            batch.begin_series([("__name__", name.as_str())]);
            let late = if random(20) == 0 { random(700) as i64 * 1000 } else { 0 };
            let t = step * 1000 - late + i64::from(i % 3 == 2) * 17;
            match i % 4 {
                0 => batch.push_float(t, 5.0, 0),
                3 if random(3) == 0 => batch.push_histogram(t, histogram(random(10) as u8), random(2) as i64),
                _ => batch.push_float(t, random(3) as f64, i64::from(random(10) == 0)),
            }
        }
        oracle.write_now(&batch).unwrap();
        write(&head, &batch);
        if random(10) == 0 {
            write(&head, &batch);
        }
    }
    let heads = [head];
    assert_same(&snapshot(&heads), &*oracle.snapshot());
    let set = snapshot(&heads).select(&[Matcher::equal("__name__", "m0")], TimeRange::ALL, 1).unwrap();
    let mut column = SampleColumn::default();
    set.read(0, TimeRange { min: 900_000, max: 1_000_000 }, Need::ALL, &mut column).unwrap();
    assert!(column.len() > 90 && column.ts[0] >= 900_000 && column.ts[column.len() - 1] <= 1_000_000);
}

#[test]
fn a_roster_that_is_cached_sees_new_samples_and_the_generation_tells_of_new_series() {
    let counters = Arc::new(Counters::default());
    let head = Arc::new(Head::new(1, Arc::clone(&counters)));
    let generation = || counters.generation.load(std::sync::atomic::Ordering::Acquire);
    let start = 1 << 40;
    write(&head, &batch_of(&[("a", &[(start, 1.0)])]));
    let first = generation();
    let set = snapshot(&[Arc::clone(&head)]).select(&[], TimeRange { min: start, max: start + 100 }, 9).unwrap();
    write(&head, &batch_of(&[("a", &[(start + 50, 2.0)])]));
    assert_eq!(generation(), first);
    let mut column = SampleColumn::default();
    set.read(0, TimeRange::ALL, Need::ALL, &mut column).unwrap();
    assert_eq!(column.values, [1.0, 2.0]);
    write(&head, &batch_of(&[("b", &[(start, 1.0)])]));
    assert!(generation() > first);
    let second = generation();
    write(&head, &batch_of(&[("a", &[(start + (1 << 21), 2.0)])]));
    assert!(generation() > second, "the span that rosters know grew");
}

#[test]
fn past_the_limit_only_new_series_are_refused() {
    let head = Arc::new(Head::new(1, Arc::default()));
    let mut ids = Vec::new();
    let batch = batch_of(&[("a", &[(1, 1.0)]), ("b", &[(1, 1.0)])]);
    let caps = SeriesCaps { series: 1, ..SeriesCaps::NONE };
    let refused = head.resolve(&batch, &mut ids, caps, &Interner::default()).unwrap();
    assert_eq!((refused.count, refused.label().map(|l| l.name.as_str())), (1, Some("__name__")));
    assert_eq!(ids, [0, crate::record::NO_SERIES]);
    head.apply(&ids, &mut batch.clone());
    assert_eq!(head.samples(), 1);
}
