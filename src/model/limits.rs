//! Every limit, in one place, with its default. Each has a line in the README's table of limits.
//!
//! [`LiveLimits`] is the one set that all layers of a process look at, and that a reload of the configuration replaces.

use std::sync::{Arc, PoisonError, RwLock};

use crate::nearest::did_you_mean;

/// Bounds on what one request, one query and the whole process may cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Body of a write as received, bytes.
    pub write_body_bytes_max: usize,
    /// Body of a write after decompression, bytes. Checked against the declared length first.
    pub write_decoded_bytes_max: usize,
    /// Bodies of all writes that are being received, bytes.
    pub write_bodies_bytes_max: usize,
    /// What one write may become in memory, bytes: the labels of each series written out (remote write 2.0 says once what many
    /// share), histograms, exemplars, metadata.
    pub write_memory_bytes_max: usize,
    /// Buckets, spans or bounds of one histogram.
    pub histogram_buckets_max: usize,
    /// Labels of one series.
    pub labels_max: usize,
    /// Bytes of one label name.
    pub label_name_bytes_max: usize,
    /// Bytes of one label value.
    pub label_value_bytes_max: usize,
    /// How far ahead of the clock a sample may be, ms.
    pub future_ms_max: i64,
    /// Writes waiting in one log shard's queue.
    pub write_queue_max: usize,
    /// Active series in the head; new ones past it are left out of writes, known ones are kept (400, or a partial success of OTLP).
    pub active_series_max: usize,
    /// Active series of one metric; the same. It counts where it is below the limit on all.
    pub metric_series_max: usize,
    /// Values of one label among the active series; the same.
    pub label_values_max: usize,
    /// Length of a query's text, bytes.
    pub query_bytes_max: usize,
    /// Nesting depth of a query.
    pub query_depth_max: usize,
    /// Points per series of a range query.
    pub query_points_max: i64,
    /// Samples one query may hold at a time.
    pub query_samples_max: u64,
    /// Samples one query may read from storage in all.
    pub query_samples_read_max: u64,
    /// Samples that the windows over subqueries of one query look at in all, as planned; a tenth of it for one series.
    pub query_window_samples_max: u64,
    /// Bytes of one label value that a query makes.
    pub query_label_bytes_max: usize,
    /// Series one selector may match.
    pub query_series_max: usize,
    /// Time one query may take, ms.
    pub query_timeout_ms: u64,
    /// Queries that run at once: PromQL, SQL and exports together.
    pub query_concurrency_max: usize,
    /// Queries of one class (PromQL, SQL, exports) that wait for their turn.
    pub query_queue_max: usize,
    /// Memory one query may reserve, bytes; PromQL inside a statement counts for the statement.
    pub query_memory_bytes_max: usize,
    /// Memory all queries together may reserve, bytes.
    pub query_memory_total_bytes_max: usize,
    /// Answers of range queries kept for when they are asked again, bytes; 0: none.
    pub result_cache_bytes_max: usize,
    /// Answers that wait for their clients to read them, bytes.
    pub answer_bytes_max: usize,
    /// Time a client may be slower than 1 KiB a second while it sends a body or reads an answer, ms.
    pub slow_client_ms_max: u64,
    /// Compiled size of one regular expression, bytes.
    pub regex_bytes_max: usize,
    /// Operators in one SQL statement.
    pub sql_operators_max: usize,
    /// Rows of one SQL answer.
    pub sql_rows_max: usize,
    /// Temporary files of all SQL statements together, bytes: of sorts, aggregations and joins that need more than their memory.
    pub sql_spill_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            write_body_bytes_max: 32 << 20,
            write_decoded_bytes_max: 32 << 20,
            write_bodies_bytes_max: 512 << 20,
            write_memory_bytes_max: 256 << 20,
            histogram_buckets_max: 20_000,
            labels_max: 64,
            label_name_bytes_max: 1 << 10,
            label_value_bytes_max: 4 << 10,
            future_ms_max: 2 * 24 * 3600 * 1000,
            write_queue_max: 1024,
            active_series_max: 5_000_000,
            metric_series_max: 5_000_000,
            label_values_max: 5_000_000,
            query_bytes_max: 1 << 20,
            query_depth_max: 128,
            query_points_max: 11_000,
            query_samples_max: 50_000_000,
            query_samples_read_max: 5_000_000_000,
            query_window_samples_max: 10_000_000_000,
            query_label_bytes_max: 64 << 10,
            query_series_max: 2_000_000,
            query_timeout_ms: 120_000,
            query_concurrency_max: 20,
            query_queue_max: 100,
            query_memory_bytes_max: 1 << 30,
            query_memory_total_bytes_max: 2 << 30,
            result_cache_bytes_max: 64 << 20,
            answer_bytes_max: 64 << 20,
            slow_client_ms_max: 20_000,
            regex_bytes_max: 10 << 20,
            sql_operators_max: 500,
            sql_rows_max: 10_000_000,
            sql_spill_bytes_max: 4 << 30,
        }
    }
}

macro_rules! by_name {
    ($($name:ident: $kind:ty),* $(,)?) => {
        impl Limits {
            /// All limits by their names, with their values.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), u64::try_from(self.$name).unwrap_or(u64::MAX))),*]
            }

            /// Sets a limit by its name.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => {
                        self.$name = <$kind>::try_from(value).map_err(|_| format!("{value} is too large for {name}"))?;
                    })*
                    _ => {
                        let near = did_you_mean(name, self.list().into_iter().map(|(n, _)| n));
                        let end = if near.is_empty() { "." } else { "" };
                        return Err(format!("unknown limit {name:?}{near}{end} All limits: quiver serve --list-limits"));
                    }
                }
                Ok(())
            }
        }
    };
}

by_name! {
    write_body_bytes_max: usize,
    write_decoded_bytes_max: usize,
    write_bodies_bytes_max: usize,
    write_memory_bytes_max: usize,
    histogram_buckets_max: usize,
    labels_max: usize,
    label_name_bytes_max: usize,
    label_value_bytes_max: usize,
    future_ms_max: i64,
    write_queue_max: usize,
    active_series_max: usize,
    metric_series_max: usize,
    label_values_max: usize,
    query_bytes_max: usize,
    query_depth_max: usize,
    query_points_max: i64,
    query_samples_max: u64,
    query_samples_read_max: u64,
    query_window_samples_max: u64,
    query_label_bytes_max: usize,
    query_series_max: usize,
    query_timeout_ms: u64,
    query_concurrency_max: usize,
    query_queue_max: usize,
    query_memory_bytes_max: usize,
    query_memory_total_bytes_max: usize,
    result_cache_bytes_max: usize,
    answer_bytes_max: usize,
    slow_client_ms_max: u64,
    regex_bytes_max: usize,
    sql_operators_max: usize,
    sql_rows_max: usize,
    sql_spill_bytes_max: u64,
}

impl Limits {
    /// Those that are looked at once, at the start: queues and pools that are made of a size.
    pub const FIXED: [&'static str; 4] =
        ["answer_bytes_max", "write_bodies_bytes_max", "write_queue_max", "result_cache_bytes_max"];

    /// Those for which 0 says something: no answer is kept, no query waits, no sample may be ahead of the clock. Any other limit of 0
    /// would refuse everything.
    pub const MAY_BE_ZERO: [&'static str; 3] = ["result_cache_bytes_max", "query_queue_max", "future_ms_max"];

    /// What each limit bounds, by its name: the comments of the fields above.
    pub fn descriptions() -> Vec<(&'static str, String)> {
        let fields = include_str!("limits.rs").split_once("pub struct Limits {").map_or("", |(_, rest)| rest);
        let mut all = Vec::new();
        let mut text = String::new();
        for line in fields.lines().map(str::trim).take_while(|line| *line != "}") {
            if let Some(words) = line.strip_prefix("/// ") {
                text.push_str(if text.is_empty() { "" } else { " " });
                text.push_str(words);
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|l| l.split_once(':')) {
                all.push((name, std::mem::take(&mut text)));
            }
        }
        all
    }
}

/// Limits in force, shared: what one holder sets, all see. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LiveLimits(Arc<RwLock<Arc<Limits>>>);

impl LiveLimits {
    /// The limits of this moment; a request looks once.
    pub fn get(&self) -> Arc<Limits> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces them.
    pub fn set(&self, limits: Limits) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }
}

impl From<Limits> for LiveLimits {
    fn from(limits: Limits) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(limits))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holder_sets_all_see() {
        let limits = LiveLimits::from(Limits { labels_max: 3, ..Limits::default() });
        let other = limits.clone();
        let before = other.get();
        limits.set(Limits::default());
        assert_eq!((before.labels_max, other.get().labels_max), (3, Limits::default().labels_max));
        let names: Vec<_> = before.list().into_iter().map(|(n, _)| n).collect();
        assert!(Limits::FIXED.iter().all(|n| names.contains(n)));
    }

    #[test]
    fn every_limit_is_described() {
        let described = Limits::descriptions();
        let names: Vec<_> = Limits::default().list().into_iter().map(|(n, _)| n).collect();
        assert!(names.iter().all(|n| described.iter().any(|(d, text)| d == n && text.len() > 10)), "{described:?}");
        assert_eq!(described.len(), names.len());
        assert!(Limits::MAY_BE_ZERO.iter().all(|n| names.contains(n)));
    }

    #[test]
    fn every_limit_is_set_by_its_name() {
        let defaults = Limits::default();
        let mut limits = defaults.clone();
        // A debug text names every field: none is missing from the list.
        let fields = format!("{defaults:?}").matches(": ").count();
        assert_eq!(limits.list().len(), fields);
        for (name, value) in defaults.list() {
            limits.set(name, value + 1).unwrap();
        }
        assert!(limits.list().iter().zip(defaults.list()).all(|(new, old)| new.1 == old.1 + 1));
        let unknown = "unknown limit \"patience\". All limits: quiver serve --list-limits";
        assert_eq!(limits.set("patience", 1), Err(unknown.into()));
        let near = "unknown limit \"query_timeout\"; did you mean \"query_timeout_ms\"? All limits: quiver serve --list-limits";
        assert_eq!(limits.set("query_timeout", 1), Err(near.into()));
        assert!(limits.set("future_ms_max", u64::MAX).is_err());
    }
}
