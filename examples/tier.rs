//! What a remote tier costs a dashboard, and what reading ahead gains: 20 panels over six hours, refreshed again and again,
//! on blocks in an S3-compatible store with 5 ms latency, beside the same data on the local disk.
//!
//! ```sh
//! cargo run --release --example tier              # or: … --example tier -- [series-per-panel [refreshes [seconds-between]]]
//! ```
//!
//! The store is a small one in this process; a wait before every answer is its latency. Both databases take turns, so that
//! other work on the machine slows both.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quiver_core::{Ingest, Maintain, Source, Store, StoreOptions, TierOptions};
use quiver_model::{Clock, SystemClock, WriteBatch};
use quiver_persistence::remote::{S3Settings, Secret, TierTarget, TierUrl, open_target};
use quiver_query::{Engine, EngineOptions, PromqlRequest, QueryOptions};
use quiver_support::s3_server::S3Server;

const PANELS: usize = 20;
const STEP_MS: i64 = 15_000;
const HOUR_MS: i64 = 3_600_000;
/// Data in blocks before the run, and in the head.
const OLD_HOURS: i64 = 10;
const HEAD_HOURS: i64 = 2;
/// What a panel shows, and how far it moves with every refresh.
const WINDOW_HOURS: i64 = 6;
const MOVE_MS: i64 = 10_000;

struct Run {
    store: Arc<Store>,
    engine: Engine,
    series: usize,
}

fn value(panel: usize, host: usize, t: i64) -> f64 {
    let n = t / STEP_MS;
    let noise = ((n.wrapping_mul(2_654_435_761) ^ (host as i64 * 40_503)) >> 7) & 63;
    if panel.is_multiple_of(2) { (n * (5 + host as i64 % 7) + noise) as f64 } else { 20.0 + noise as f64 / 8.0 }
}

fn batch(series: usize, from: i64, to: i64) -> WriteBatch {
    let mut b = WriteBatch::default();
    for panel in 0..PANELS {
        for host in 0..series {
            let (name, host_name) = (format!("panel_{panel}_total"), format!("host-{host:04}"));
            b.begin_series([("__name__", name.as_str()), ("host", host_name.as_str()), ("job", "node")]);
            (from..to).step_by(STEP_MS as usize).for_each(|t| b.push_float(t, value(panel, host, t), 0));
        }
    }
    b
}

impl Run {
    fn open(dir: &Path, series: usize, tier: Option<TierOptions>, foresee: bool) -> Result<Self, Box<dyn Error>> {
        let options =
            StoreOptions { tier, foresee, flush_interval_ms: i64::MAX, ladder_ms: vec![], ..Default::default() };
        let store = Store::open_dir(dir, options)?;
        store.wait_until_ready();
        let engine = Engine::new(Arc::clone(&store) as Arc<dyn Source>, EngineOptions::default())?;
        Ok(Self { store, engine, series })
    }

    async fn fill(&self, end: i64) -> Result<(), Box<dyn Error>> {
        for hour in 0..OLD_HOURS + HEAD_HOURS {
            let from = end - (OLD_HOURS + HEAD_HOURS - hour) * HOUR_MS;
            for part in 0..4 {
                let from = from + part * HOUR_MS / 4;
                self.store.write(batch(self.series, from, from + HOUR_MS / 4)).await?;
            }
            if hour < OLD_HOURS && hour % 2 == 1 {
                self.store.flush().await?;
            }
        }
        self.store.tier().await?;
        Ok(())
    }

    /// All panels, one after the other; ms.
    async fn refresh(&self, end: i64) -> Result<f64, Box<dyn Error>> {
        let began = Instant::now();
        for panel in 0..PANELS {
            let function = if panel % 2 == 0 { "rate" } else { "avg_over_time" };
            let query = format!("sum by (job) ({function}(panel_{panel}_total[5m]))");
            let (start, step) = (end - WINDOW_HOURS * HOUR_MS, 60_000);
            // The scan is to be measured, not the answers that were kept.
            let options = QueryOptions { nocache: true, ..QueryOptions::default() };
            let answer = self.engine.promql(PromqlRequest { query, start, end, step, options }).await?;
            std::hint::black_box(answer);
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ratio(part: u64, rest: u64) -> String {
    if part + rest == 0 { "–".into() } else { format!("{:.1} %", 100.0 * part as f64 / (part + rest) as f64) }
}

/// Refreshes of both in turns, each first every other time. In the middle two hours of the head become a block, and move. Gives ms of every refresh.
async fn turns(
    local: &Run,
    remote: &Run,
    end: &mut i64,
    refreshes: usize,
    pause: Duration,
) -> Result<(Vec<f64>, Vec<f64>, [f64; 2]), Box<dyn Error>> {
    let (mut near, mut far, mut after) = (Vec::new(), Vec::new(), [0.0; 2]);
    let mut ticks = tokio::time::interval(pause);
    for n in 0..refreshes {
        ticks.tick().await;
        *end += MOVE_MS;
        for run in [local, remote] {
            run.store.write(batch(run.series, *end / STEP_MS * STEP_MS, *end / STEP_MS * STEP_MS + 1)).await?;
        }
        if n == refreshes / 2 {
            for run in [local, remote] {
                run.store.flush().await?;
                run.store.tier().await?;
            }
            after = [local.refresh(*end).await?, remote.refresh(*end).await?];
            continue;
        }
        if n % 2 == 0 {
            near.push(local.refresh(*end).await?);
            far.push(remote.refresh(*end).await?);
        } else {
            far.push(remote.refresh(*end).await?);
            near.push(local.refresh(*end).await?);
        }
    }
    Ok((near, far, after))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let number = |i: usize, default: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (series, refreshes, pause) = (number(1, 100), number(2, 30), number(3, 2));
    let pause = Duration::from_secs(pause as u64);
    let (server, address) = S3Server::start().await?;
    let target = TierTarget {
        url: TierUrl::S3 { bucket: "bucket".into(), prefix: "quiver".into() },
        s3: S3Settings {
            endpoint: Some(format!("http://{address}")),
            access_key: "key".into(),
            secret_key: Secret::new("secret"),
            ..S3Settings::default()
        },
    };
    let tier = TierOptions { after_ms: 0, drop_after_ms: 0, ..TierOptions::new(open_target(&target)?) };
    let folder = std::env::temp_dir().join(format!("quiver-tier-{}", std::process::id()));
    println!(
        "{PANELS} panels × {series} series × {WINDOW_HOURS} h, {} h of data, latency of the store 5 ms",
        OLD_HOURS + HEAD_HOURS
    );
    for foresee in [false, true] {
        let word = if foresee { "on" } else { "off" };
        let dir = |name: &str| folder.join(format!("{name}-{word}"));
        let prefixed = |p: &str| -> Result<TierOptions, Box<dyn Error>> {
            let url = TierUrl::S3 { bucket: "bucket".into(), prefix: p.into() };
            Ok(TierOptions { objects: open_target(&TierTarget { url, ..target.clone() })?, ..tier.clone() })
        };
        let mut end = SystemClock.now_ms() / 60_000 * 60_000 - HOUR_MS;
        let local = Run::open(&dir("local"), series, None, foresee)?;
        let remote = Run::open(&dir("remote"), series, Some(prefixed(word)?), foresee)?;
        local.fill(end).await?;
        remote.fill(end).await?;
        // Uploads read back what they wrote past L3, so this is a store never read from.
        server.set_latency(Duration::from_millis(5));
        let (requests, cold) = (server.requests(), remote.refresh(end).await?);
        let cold_requests = server.requests() - requests;
        let cold_local = local.refresh(end).await?;
        let (near, far, after) = turns(&local, &remote, &mut end, refreshes, pause).await?;
        let pairs: Vec<_> = near.iter().zip(&far).skip(2).map(|(near, far)| far / near).collect();
        let (near, far) = (median(near[2..].to_vec()), median(far[2..].to_vec()));
        let stats = remote.store.stats(0);
        let (l1, reads) = (stats.caches.working_set, stats.caches.reads);
        let pages = stats.tier.as_ref().map(|t| t.reads.pages).unwrap_or_default();
        let blocks = stats.tier.as_ref().map_or((0, 0), |t| (t.remote_blocks, t.remote_bytes));
        remote.store.close();
        drop(remote);
        let remote = Run::open(&dir("remote"), series, Some(prefixed(word)?), foresee)?;
        let (requests, restarted) = (server.requests(), remote.refresh(end).await?);
        let again = server.requests() - requests;
        println!("\nreading ahead {word}: {} blocks, {:.1} MB in the store", blocks.0, blocks.1 as f64 / 1e6);
        println!("  refresh, ms                    local    remote   ratio");
        let line = |what: &str, a: f64, b: f64, ratio: f64, more: String| {
            println!("  {what:<28} {a:>8.1}  {b:>8.1}  {ratio:>6.2}{more}")
        };
        line("first, nothing at hand", cold_local, cold, cold / cold_local, format!("   {cold_requests} requests"));
        line("warm, median", near, far, median(pairs), "   of each pair".to_owned());
        line("first after a new block", after[0], after[1], after[1] / after[0], String::new());
        let restart = restarted / cold_local;
        line("first after a restart", cold_local, restarted, restart, format!("   {again} requests: L3 was kept"));
        println!(
            "  hit ratios: L1 {}, L2 {} of what L1 lacks is mapped here, L3 {} of pages",
            ratio(l1.hits, l1.misses),
            ratio(reads.mapped_chunks, reads.remote_chunks),
            ratio(pages.hits, reads.pages_fetched)
        );
        let f = stats.caches.foresight;
        if foresee {
            println!(
                "  ahead: {} of windows came as expected, {} columns decoded, {} of them used; {:.1} MB decoded, {:.2} MB \
                 fetched, {:.0} ms in {} runs",
                ratio(f.learnt.hits, f.learnt.misses),
                f.columns,
                ratio(f.used, f.columns.saturating_sub(f.used)),
                f.bytes as f64 / 1e6,
                f.fetched_bytes as f64 / 1e6,
                f.took_us as f64 / 1e3,
                f.runs
            );
        }
        server.set_latency(Duration::ZERO);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
