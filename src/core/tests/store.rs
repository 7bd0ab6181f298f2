//! The whole store on a memory disk.

use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::WriteBatch;
use quiver_persistence::{Disk, LogOptions, MemoryDisk, RealDisk};

use super::oracle::assert_same;
use crate::memory::MemoryStore;
use crate::testing::{arbitrary_batch, batch_of};
use crate::{Health, Ingest, Maintain, OpenError, Source, Store, StoreOptions, WriteError, WriteReceipt};

/// A store that does nothing by itself.
pub(crate) fn options() -> StoreOptions {
    let log = LogOptions { shards: 2, segment_bytes_max: 4096, free_bytes_min: 0, ..LogOptions::default() };
    StoreOptions { log, background: false, ..StoreOptions::default() }
}

pub(crate) fn open(disk: &MemoryDisk) -> Arc<Store> {
    let store = Store::open(Arc::new(disk.clone()), options()).unwrap();
    store.wait_until_ready();
    store
}

/// Runs a future that needs no runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn write(store: &Store, batch: &WriteBatch) -> Result<WriteReceipt, WriteError> {
    block_on(store.write(batch.clone()))
}

#[derive(Clone, Debug)]
enum Step {
    Write(WriteBatch),
    Flush,
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => arbitrary_batch(5).prop_map(Step::Write),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_history_reads_like_the_oracle(steps in proptest::collection::vec(step(), 1..14)) {
        let disk = MemoryDisk::new();
        let oracle = MemoryStore::new();
        let mut store = open(&disk);
        for s in &steps {
            match s {
                Step::Write(batch) => {
                    let want = oracle.write_now(batch).unwrap();
                    prop_assert_eq!(write(&store, batch), Ok(want));
                }
                Step::Flush => prop_assert_eq!(block_on(store.flush()), Ok(())),
                Step::Compact => prop_assert_eq!(block_on(store.compact()), Ok(())),
                Step::Reopen => {
                    store.close();
                    drop(store);
                    store = open(&disk);
                    prop_assert!(store.replay_report().is_clean());
                }
            }
        }
        assert_same(&*store.snapshot(), &*oracle.snapshot());
    }
}

#[test]
fn a_folder_in_use_is_refused_and_free_after_close() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_dir(dir.path(), options()).unwrap();
    assert!(matches!(Store::open_dir(dir.path(), options()), Err(OpenError::InUse { .. })));
    store.close();
    assert_eq!(write(&store, &batch_of(&[("a", &[(1, 1.0)])])), Err(WriteError::Closed));
    Store::open_dir(dir.path(), options()).unwrap();
}

#[test]
fn a_newer_log_is_refused() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    write(&store, &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
    store.close();
    let path = format!("log/{}", disk.list("log").unwrap()[0]);
    let mut bytes = disk.read(&path).unwrap();
    bytes[8] = 9;
    let crc = quiver_persistence::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.put(&path, bytes);
    assert!(matches!(Store::open(Arc::new(disk), options()), Err(OpenError::Newer(_))));
}

#[test]
fn a_real_folder_keeps_what_was_acknowledged_and_opens_fast() {
    let dir = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let store = Store::open_dir(dir.path(), options()).unwrap();
    store.wait_until_ready();
    eprintln!("an empty folder is ready after {:?}", began.elapsed());
    write(&store, &batch_of(&[("a", &[(1, 1.0), (2, 2.0)])])).unwrap();
    assert_eq!(store.health(), Health::Ok);
    drop(store);
    assert!(RealDisk::open(dir.path()).unwrap().list("log").unwrap().len() == 1);
    let store = Store::open_dir(dir.path(), options()).unwrap();
    store.wait_until_ready();
    assert_eq!(store.stats(5).head_series, 1);
    assert_eq!(store.snapshot().time_bounds(), Some(crate::TimeRange { min: 1, max: 2 }));
}

#[test]
fn too_far_ahead_is_rejected_by_name() {
    let store = open(&MemoryDisk::new());
    let error = write(&store, &batch_of(&[("a", &[(i64::MAX, 1.0)])])).unwrap_err();
    assert!(matches!(&error, WriteError::Rejected(text) if text.contains("ahead")), "{error}");
}

#[test]
fn past_the_series_limit_known_series_still_flow() {
    let mut options = options();
    options.limits.active_series_max = 1;
    let store = Store::open(Arc::new(MemoryDisk::new()), options).unwrap();
    write(&store, &batch_of(&[("a", &[(1, 1.0)])])).unwrap();
    let both = batch_of(&[("a", &[(2, 1.0)]), ("b", &[(2, 1.0)])]);
    let receipt = write(&store, &both).unwrap();
    assert_eq!((receipt.floats, receipt.refused_series), (1, 1));
    assert!(matches!(write(&store, &batch_of(&[("b", &[(3, 1.0)])])), Err(WriteError::SeriesLimit(_))));
}
