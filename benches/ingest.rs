//! What taking a sample of a known series costs, part by part, and what it allocates.
//!
//! `cargo bench --bench ingest -- [FOLDER]`: the folder decides which disk is written (a temporary one by default). The way
//! is the server's from a request's body on: decompressed, decoded, looked up, logged and synced, applied to the head.
//!
//! ```text
//! decode    decompress, parse, check      by the thread's processor time, one client
//! look-up   label bytes to series         ┐
//! log       encode │ checksum, write,     │ by the store's own counters of processor time; what these and decode
//!           sync, hand-over of threads    │ leave of the process's is the log's second half
//! head      apply, seal chunks            ┘
//! ```
//!
//! Rows: buffers used again as the server does; none used again; and messages as owned objects, the plain way.

use std::alloc::{GlobalAlloc, Layout};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prost::Message;
use quiver_core::{Ingest, Maintain, Store, StoreOptions, process_cpu_ns, thread_cpu_ns};
use quiver_gateway::proto::{v1, v2};
use quiver_gateway::write::decode::{self, DecodeOptions};
use quiver_gateway::write::{Encoding, Scratch, receive};
use quiver_model::{Labels, Limits, WriteBatch};
use quiver_support::fleet::{Fleet, Version};

/// The server's allocator, and how often it is asked while `IS_COUNTING`.
struct Counting(mimalloc::MiMalloc);

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to mimalloc as it came; counting touches atomics only and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.dealloc(at, layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(mimalloc::MiMalloc);

/// How a request becomes a batch.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Pooled,
    Fresh,
    Owned,
}

struct Case {
    name: &'static str,
    version: Version,
    way: Way,
    is_restless: bool,
    /// Samples of one request.
    request: usize,
}

const HOSTS: usize = 10;
const SERIES: usize = 1000;
/// Scrapes before anything is counted; then every series is known and buffers have their size.
const WARM: i64 = 24;
const SCRAPES: i64 = 480;
/// Scrapes whose requests are made at one time, while the clocks stand.
const GROUP: i64 = 24;

/// A batch from a message of owned strings and lists.
fn owned(version: Version, body: &[u8]) -> Result<WriteBatch, String> {
    let message = snap::raw::Decoder::new().decompress_vec(body).map_err(|e| e.to_string())?;
    let mut batch = WriteBatch::default();
    match version {
        Version::V1 => {
            for s in v1::WriteRequest::decode(message.as_slice()).map_err(|e| e.to_string())?.timeseries {
                let labels =
                    Labels::from_pairs(s.labels.iter().map(|l| (&l.name, &l.value))).map_err(|e| e.to_string())?;
                batch.begin_series(labels.iter());
                s.samples.iter().for_each(|x| batch.push_float(x.timestamp, x.value, 0));
            }
        }
        Version::V2 => {
            let request = v2::Request::decode(message.as_slice()).map_err(|e| e.to_string())?;
            for s in request.timeseries {
                let text = |i: &u32| request.symbols.get(*i as usize).cloned().unwrap_or_default();
                let pairs = s.labels_refs.chunks_exact(2).map(|p| (text(&p[0]), text(&p[1])));
                let labels = Labels::from_pairs(pairs).map_err(|e| e.to_string())?;
                batch.begin_series(labels.iter());
                s.samples.iter().for_each(|x| batch.push_float(x.timestamp, x.value.unwrap_or(0.0), 0));
            }
        }
    }
    Ok(batch)
}

fn run(case: &Case, folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let start_ms = 1_700_000_000_000;
    let fleet = Fleet { hosts: HOSTS, series: SERIES, start_ms, step_ms: 15_000, is_restless: case.is_restless };
    let options = StoreOptions { pooled: case.way == Way::Pooled, background: false, ..StoreOptions::default() };
    let data = folder.join("ingest-bench");
    std::fs::remove_dir_all(&data).or_else(|e| if data.exists() { Err(e) } else { Ok(()) })?;
    let store: Arc<Store> = Store::open_dir(&data, options)?;
    store.wait_until_ready();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let limits = Limits::default();
    let options =
        DecodeOptions { limits: &limits, now_ms: i64::MAX / 2, type_and_unit_labels: false, known: Some(&*store) };
    let version = match case.version {
        Version::V1 => decode::Version::V1,
        Version::V2 => decode::Version::V2,
    };
    let mut scratch = Scratch::default();
    let (mut decoding, mut samples, mut used) = (0, 0u64, 0);
    let mut before = store.stats(0);
    let mut message = Vec::new();
    for group in (0..WARM + SCRAPES).step_by(GROUP as usize) {
        let is_counted = group >= WARM;
        if group == WARM {
            before = store.stats(0);
        }
        let mut bodies = Vec::new();
        for k in group..group + GROUP {
            for h in 0..HOSTS {
                for from in (0..SERIES).step_by(case.request) {
                    fleet.message(case.version, h, from..(from + case.request).min(SERIES), k, &mut message);
                    bodies.push(snap::raw::Encoder::new().compress_vec(&message)?);
                }
            }
        }
        let cpu_before = process_cpu_ns();
        IS_COUNTING.store(is_counted, Ordering::Relaxed);
        for body in &bodies {
            let began = thread_cpu_ns();
            let batch = match case.way {
                Way::Pooled => {
                    let mut batch = store.batch();
                    receive(version, Encoding::Snappy, body, &options, &mut scratch, &mut batch)?;
                    batch
                }
                Way::Fresh => {
                    let mut batch = WriteBatch::default();
                    receive(version, Encoding::Snappy, body, &options, &mut Scratch::default(), &mut batch)?;
                    batch
                }
                Way::Owned => owned(case.version, body)?,
            };
            if is_counted {
                decoding += thread_cpu_ns().saturating_sub(began);
                samples += batch.samples() as u64;
            }
            runtime.block_on(store.write(batch))?;
        }
        IS_COUNTING.store(false, Ordering::Relaxed);
        if is_counted {
            used += process_cpu_ns().saturating_sub(cpu_before);
        }
    }
    let after = store.stats(0);
    let per = |ns: u64| ns as f64 / samples as f64;
    let ns = [
        per(decoding),
        per(after.lookup_ns - before.lookup_ns),
        per(after.encode_ns - before.encode_ns),
        per(after.apply_ns - before.apply_ns),
    ];
    let total = per(used);
    let rest = total - ns.iter().sum::<f64>();
    println!(
        "{:<34} {:>8.4} {:>7.1} {:>8.1} {:>8.1} {:>7.1} {:>7.1} {:>7.1} {:>7.1}",
        case.name,
        ALLOCATIONS.swap(0, Ordering::Relaxed) as f64 / samples as f64,
        BYTES.swap(0, Ordering::Relaxed) as f64 / samples as f64,
        ns[0],
        ns[1],
        ns[2],
        rest,
        ns[3],
        total
    );
    drop(store);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temp = tempfile::tempdir()?;
    let folder = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let folder = folder.map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    println!(
        "{HOSTS} hosts x {SERIES} series x {SCRAPES} scrapes, per sample of a known series, in {}",
        folder.display()
    );
    println!(
        "{:<34} {:>8} {:>7} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7}",
        "", "allocs", "bytes", "decode", "look-up", "encode", "log", "head", "CPU ns"
    );
    let case = |name, version, way, is_restless, request| Case { name, version, way, is_restless, request };
    for case in [
        case("1.0, 1000 a request, pooled", Version::V1, Way::Pooled, false, 1000),
        case("  no buffer used again", Version::V1, Way::Fresh, false, 1000),
        case("  owned messages", Version::V1, Way::Owned, false, 1000),
        case("1.0, 500 a request, pooled", Version::V1, Way::Pooled, false, 500),
        case("1.0, 1000, all series change", Version::V1, Way::Pooled, true, 1000),
        case("2.0, 1000 a request, pooled", Version::V2, Way::Pooled, false, 1000),
        case("  no buffer used again", Version::V2, Way::Fresh, false, 1000),
        case("  owned messages", Version::V2, Way::Owned, false, 1000),
    ] {
        run(&case, &folder)?;
    }
    Ok(())
}
