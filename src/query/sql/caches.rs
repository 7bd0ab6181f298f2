//! `system.caches`: what each tier of the caches did since the start, a row for each.
//!
//! | tier | level | a hit | a miss |
//! | --- | --- | --- | --- |
//! | `decoded` | L1 | a column found decoded | a column decoded, kept or not |
//! | `mapped` | L2 | a chunk decoded from a local block | a chunk decoded from a remote one |
//! | `pages` | L3 | a page of a remote block that a query found on the local disk | one it had to fetch |
//! | `ahead` | | a window that came as expected | a window that did not |
//! | `answers` | | a range query of which steps were known | one of which none were used |
//!
//! A query fetches what it knows it will read, then reads it: such a page is a miss and then a hit, as in `explain`.
//!
//! Invariants
//! 1. A ratio of nothing is none: 0 would be an alarm and 1 a praise, both for a cache that nobody has asked.
//! 2. The table and the gauges of `/metrics` are made of the same rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use quiver_core::{Maintain, StoreStats};

use crate::engine::{Engine, ReuseFigures};

/// What one tier did since the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheTier {
    /// Its name.
    pub tier: &'static str,
    /// Its place under the scan, where it has one.
    pub level: Option<&'static str>,
    /// What was asked for and was there.
    pub hits: u64,
    /// What was asked for and was not.
    pub misses: u64,
    /// Bytes held, where it holds any of its own.
    pub bytes: Option<u64>,
    /// Bytes it may hold.
    pub bytes_max: Option<u64>,
    /// What made room for others, where that is counted.
    pub evictions: Option<u64>,
}

impl CacheTier {
    fn new(tier: &'static str, level: Option<&'static str>, hits: u64, misses: u64) -> Self {
        Self { tier, level, hits, misses, bytes: None, bytes_max: None, evictions: None }
    }

    /// The part of what was asked for that was there, 0 to 1; none where nothing was asked.
    pub fn hit_ratio(&self) -> Option<f64> {
        let hits = self.hits as f64;
        let asked = hits + self.misses as f64;
        (asked > 0.0).then(|| hits / asked)
    }
}

/// The tiers: `decoded`, `mapped`, `pages`, `ahead`, `answers`.
pub fn cache_tiers(stats: &StoreStats, engine: &Engine) -> [CacheTier; 5] {
    tiers(stats, &engine.reuse(), engine.options().limits.result_cache_bytes_max as u64)
}

fn tiers(stats: &StoreStats, reuse: &ReuseFigures, answers_bytes_max: u64) -> [CacheTier; 5] {
    let (l1, reads) = (&stats.caches.working_set, &stats.caches.reads);
    let learnt = &stats.caches.foresight.learnt;
    let l3 = stats.tier.as_ref().map(|t| &t.reads.pages);
    [
        CacheTier {
            bytes: Some(l1.bytes),
            bytes_max: Some(l1.capacity),
            evictions: Some(l1.evictions),
            ..CacheTier::new("decoded", Some("L1"), l1.hits, l1.misses.saturating_add(l1.passed))
        },
        // What is mapped is the system's to hold and to let go.
        CacheTier::new("mapped", Some("L2"), reads.mapped_chunks, reads.remote_chunks),
        // Both sides are those of queries: the pages' own counter of hits has reading ahead and merges in it, too.
        CacheTier {
            bytes: l3.map(|p| p.bytes),
            bytes_max: l3.map(|p| p.capacity),
            evictions: l3.map(|p| p.evictions),
            ..CacheTier::new("pages", Some("L3"), reads.pages_found, reads.pages_fetched)
        },
        CacheTier::new("ahead", None, learnt.hits, learnt.misses),
        // The two are counted one after the other, and a query may come between.
        CacheTier {
            bytes: Some(reuse.bytes),
            bytes_max: Some(answers_bytes_max),
            ..CacheTier::new("answers", None, reuse.hits, reuse.asked.saturating_sub(reuse.hits))
        },
    ]
}

/// Where the rows come from: a store that keeps figures, if there is one, and the engine that keeps answers.
#[derive(Clone)]
pub struct Caches {
    maintain: Option<Arc<dyn Maintain>>,
    engine: Arc<Engine>,
}

impl Caches {
    /// Of these; without a store that keeps figures the table has no rows.
    pub fn new(maintain: Option<Arc<dyn Maintain>>, engine: Arc<Engine>) -> Self {
        Self { maintain, engine }
    }

    /// The table, as things are now.
    pub fn table(&self) -> Result<MemTable> {
        let rows = self.maintain.as_ref().map(|m| cache_tiers(&m.stats(0), &self.engine));
        table(rows.as_ref().map_or(&[][..], |r| &r[..]))
    }
}

fn table(rows: &[CacheTier]) -> Result<MemTable> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("tier", DataType::Utf8, false),
        Field::new("level", DataType::Utf8, true),
        Field::new("hits", DataType::Int64, false),
        Field::new("misses", DataType::Int64, false),
        Field::new("hit_ratio", DataType::Float64, true),
        Field::new("bytes", DataType::Int64, true),
        Field::new("bytes_max", DataType::Int64, true),
        Field::new("evictions", DataType::Int64, true),
    ]));
    // Signed, so that a difference of two columns is a number and not an error.
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let numbers = |of: fn(&CacheTier) -> Option<u64>| -> ArrayRef {
        Arc::new(rows.iter().map(|t| of(t).map(signed)).collect::<Int64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|t| Some(t.tier)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|t| t.level).collect::<StringArray>()),
        numbers(|t| Some(t.hits)),
        numbers(|t| Some(t.misses)),
        Arc::new(rows.iter().map(CacheTier::hit_ratio).collect::<Float64Array>()),
        numbers(|t| t.bytes),
        numbers(|t| t.bytes_max),
        numbers(|t| t.evictions),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}

#[cfg(test)]
mod tests {
    use quiver_core::TierFigures;

    use super::*;

    #[test]
    fn a_cache_that_nobody_asked_is_neither_good_nor_bad() {
        for t in tiers(&StoreStats::default(), &ReuseFigures::default(), 0) {
            assert_eq!(t.hit_ratio(), None, "{t:?}");
        }
        let ratio = |hits, misses| CacheTier::new("decoded", None, hits, misses).hit_ratio();
        assert_eq!((ratio(0, 7), ratio(7, 0), ratio(3, 1)), (Some(0.0), Some(1.0), Some(0.75)));
        assert_eq!(ratio(u64::MAX, u64::MAX), Some(0.5));
    }

    #[test]
    fn every_tier_has_the_figures_of_its_own() {
        let mut s = StoreStats::default();
        let l1 = &mut s.caches.working_set;
        (l1.hits, l1.misses, l1.passed) = (90, 6, 4);
        (l1.bytes, l1.capacity, l1.evictions) = (11, 12, 13);
        let reads = &mut s.caches.reads;
        (reads.mapped_chunks, reads.remote_chunks) = (3, 1);
        (reads.pages_found, reads.pages_fetched) = (1, 3);
        (s.caches.foresight.learnt.hits, s.caches.foresight.learnt.misses) = (1, 1);
        // As it is read while a query comes in between.
        let reuse = ReuseFigures { asked: 4, hits: 5, bytes: 21, ..ReuseFigures::default() };

        let [decoded, mapped, pages, ahead, answers] = tiers(&s, &reuse, 22);
        assert_eq!(decoded.hit_ratio(), Some(0.9), "what passed was decoded, too");
        assert_eq!((decoded.bytes, decoded.bytes_max, decoded.evictions), (Some(11), Some(12), Some(13)));
        assert_eq!((mapped.hit_ratio(), mapped.bytes, mapped.evictions), (Some(0.75), None, None));
        assert_eq!((pages.hit_ratio(), pages.bytes, pages.bytes_max), (Some(0.25), None, None), "there is no tier");
        assert_eq!(ahead.hit_ratio(), Some(0.5));
        assert_eq!((answers.hit_ratio(), answers.misses), (Some(1.0), 0));
        assert_eq!((answers.bytes, answers.bytes_max), (Some(21), Some(22)));

        let mut tier = TierFigures::default();
        (tier.reads.pages.hits, tier.reads.pages.bytes) = (1_000, 31);
        s.tier = Some(tier);
        let [_, _, pages, _, _] = tiers(&s, &reuse, 22);
        assert_eq!((pages.hits, pages.bytes), (1, Some(31)), "hits of whoever is no query do not count");
    }

    #[test]
    fn there_is_a_row_for_each_and_none_without_a_store() {
        use datafusion::catalog::TableProvider;

        let rows = tiers(&StoreStats::default(), &ReuseFigures::default(), 0);
        assert_eq!(table(&rows).unwrap().schema(), table(&[]).unwrap().schema());
    }
}
