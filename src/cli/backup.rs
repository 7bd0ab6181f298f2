//! `quiver snapshot` and `quiver restore`: backups to a folder or a remote store, and back.
//!
//! From a server: a snapshot is made there, its missing blocks are fetched, the snapshot is dropped again. From a data
//! folder: read where it stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use quiver_core::backup::{Backup, BackupError, BackupFile, BackupReport, restore as restore_folder, restore_remote};
use quiver_model::{Clock, SystemClock};
use quiver_persistence::manifest::{MANIFEST_FILE, parse};
use quiver_persistence::{Manifest, RealDisk};
use serde::Deserialize;

use super::client::Server;
use super::data::{Data, DataArgs};
use super::exit::{self, Failure};
use super::place::{Place, Scratch, StoreArgs};
use super::progress::Bytes as Progress;
use super::terminal::elapsed;
use super::{counted, grouped, shown_bytes};

/// Flags of `quiver snapshot`.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Destination: a folder or s3://BUCKET/PREFIX, empty or with an earlier backup, which is brought up to date
    #[arg(long, value_name = "DIR|URL")]
    out: String,
    /// Read the blocks of the earlier backup again, and replace damaged ones
    #[arg(long)]
    verify: bool,
    /// Leave out what is not in blocks yet
    #[arg(long, conflicts_with = "data_dir")]
    skip_head: bool,
    /// Folder for one block at a time on its way from a server to a store [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Flags of `quiver restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Backup to restore: where `quiver snapshot` put it, or a server's snapshots/NAME
    #[arg(long, value_name = "DIR|URL")]
    from: String,
    /// Data folder to create; it must be empty or missing
    #[arg(long, value_name = "DIR", env = "QUIVER_DATA_DIR")]
    data_dir: PathBuf,
    /// If the data folder is not empty, move its contents to its folder quarantine/ first. Nothing is deleted
    #[arg(long)]
    force_aside: bool,
    #[command(flatten)]
    store: StoreArgs,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Runs `quiver snapshot`.
pub async fn snapshot(args: SnapshotArgs) -> Result<(), Failure> {
    let data = args.data.find();
    let (place, now) = (args.store.place(&args.out).map_err(Failure::Usage)?, SystemClock.now_ms());
    // Dropped last.
    let mut scratch = None;
    let backup = match place {
        Place::Folder(folder) => blocking(move || Backup::open(&folder)).await?,
        Place::Store(objects) => {
            let disk = scratch.insert(Scratch::new(args.scratch).map_err(|e| e.to_string())?).disk();
            blocking(move || Backup::remote(objects, disk, now)).await?
        }
    };
    let backup = Arc::new(backup);
    let (progress, begun) = (Progress::new(), Instant::now());
    let report = match data {
        Data::Folder(folder) => {
            let (done, total, verify) = (progress.done(), progress.total(), args.verify);
            blocking(move || backup.of_folder(&folder, verify, now, &done, &total)).await?
        }
        Data::Server(url) => {
            let server = Server::new(&url).map_err(|e| Failure::Usage(e.to_string()))?;
            let form = [("skip_head", args.skip_head.to_string())];
            let made = server.post_all("/api/v1/admin/tsdb/snapshot", &form).await.map_err(|e| e.to_string())?;
            let name = serde_json::from_slice::<Envelope<Name>>(&made).map_err(|e| e.to_string())?.data.name;
            let fetched = tokio::select! {
                fetched = fetch(&server, &name, backup, args.verify, &progress) => fetched,
                // The server must not keep the snapshot for that.
                _ = tokio::signal::ctrl_c() => Err("interrupted; the same command again completes the backup".to_owned()),
            };
            // It served its purpose, whatever came of it.
            let path = format!("/api/v1/admin/tsdb/snapshots/{name}");
            if let Err(e) = server.send(Method::DELETE, &path).await {
                exit::warning(&format!("the server keeps its snapshot {name}: {e}"));
            }
            fetched?
        }
    };
    drop(progress);
    super::print(&told(&report, &args.out, begun.elapsed()));
    Ok(())
}

fn told(report: &BackupReport, out: &str, took: Duration) -> String {
    let mut done = Vec::new();
    if report.copied > 0 || report.written == 0 {
        done.push(format!("{} copied now ({})", grouped(report.copied), shown_bytes(report.copied_bytes)));
    }
    if report.written > 0 {
        let (n, bytes) = (grouped(report.written), shown_bytes(report.written_bytes));
        done.push(format!("{n} written now from the log ({bytes})"));
    }
    format!(
        "{} ({}) in {out}: {}, {} no longer needed and deleted, in {}\n",
        counted(report.blocks, "block"),
        shown_bytes(report.bytes),
        done.join(", "),
        grouped(report.pruned),
        elapsed(took)
    )
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct Files {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    crc32c: String,
}

async fn fetch(
    server: &Server,
    name: &str,
    backup: Arc<Backup>,
    verify: bool,
    progress: &Progress,
) -> Result<BackupReport, String> {
    let base = format!("/api/v1/admin/tsdb/snapshots/{name}");
    let list = server.send(Method::GET, &base).await.map_err(|e| e.to_string())?;
    let list = server.body(list).await.map_err(|e| e.to_string())?;
    let files = serde_json::from_slice::<Envelope<Files>>(&list).map_err(|e| e.to_string())?.data.files;
    let manifest = server.send(Method::GET, &format!("{base}/{MANIFEST_FILE}")).await.map_err(|e| e.to_string())?;
    let manifest = server.body(manifest).await.map_err(|e| e.to_string())?;
    let manifest: Manifest = parse(&manifest).map_err(|e| e.to_string())?;
    let crc = |path: &str| {
        let file = files.iter().find(|f| f.path == path);
        let crc = file.and_then(|f| u32::from_str_radix(&f.crc32c, 16).ok());
        crc.ok_or_else(|| BackupError::Io(format!("the server does not list {path}")))
    };
    let mut plan = backup.plan(&manifest, crc).map_err(|e| e.to_string())?;
    if verify {
        let held = Arc::clone(&backup);
        plan = blocking(move || held.verify(&mut plan).map(|()| plan)).await?;
    }
    progress.total()(plan.iter().filter(|f| !f.is_there).map(|f| f.bytes).sum());
    for file in plan.iter().filter(|f| !f.is_there) {
        fetch_block(server, &format!("{base}/{}", file.from), &backup, file, &progress.done()).await?;
    }
    blocking(move || backup.publish(&manifest, &plan, SystemClock.now_ms())).await
}

async fn fetch_block(
    server: &Server,
    path: &str,
    backup: &Arc<Backup>,
    file: &BackupFile,
    done: &AtomicU64,
) -> Result<(), String> {
    let response = server.send(Method::GET, path).await.map_err(|e| e.to_string())?;
    let mut body = response.into_body();
    let (pieces, mut arriving) = tokio::sync::mpsc::channel::<Bytes>(4);
    let (held, file) = (Arc::clone(backup), file.clone());
    let writer = tokio::task::spawn_blocking(move || {
        let mut out = held.receive(&file)?;
        while let Some(piece) = arriving.blocking_recv() {
            out.push(&piece)?;
        }
        out.finish()
    });
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame.map(|f| f.into_data()) {
            Ok(Ok(piece)) => {
                done.fetch_add(piece.len() as u64, Ordering::Relaxed);
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(Err(_)) => {}
            Err(e) => {
                broken = Some(format!("{path} broke off: {e}"));
                break;
            }
        }
    }
    drop(pieces);
    let written = writer.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string());
    broken.map_or(written, Err)
}

/// Runs `quiver restore`.
pub async fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let (progress, begun) = (Progress::new(), Instant::now());
    let (done, total) = (progress.done(), progress.total());
    let place = args.store.place(&args.from).map_err(Failure::Usage)?;
    let (to, aside) = (args.data_dir.clone(), args.force_aside);
    let work = move || match place {
        Place::Folder(from) => restore_folder(&from, &to, aside, &done, &total),
        Place::Store(objects) => restore_remote(objects, Arc::new(RealDisk::create(&to)?), aside, &done, &total),
    };
    let report = blocking(work).await?;
    drop(progress);
    if let Some(folder) = &report.set_aside {
        super::print(&format!("moved what was in {0} to {0}/{folder}\n", args.data_dir.display()));
    }
    let (blocks, bytes) = (counted(report.blocks, "block"), shown_bytes(report.bytes));
    let took = elapsed(begun.elapsed());
    super::print(&format!("{blocks} ({bytes}) restored to {}, in {took}\n", args.data_dir.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_counted() {
        let copied = BackupReport { blocks: 3, bytes: 3072, copied: 2, copied_bytes: 2048, ..BackupReport::default() };
        let took = Duration::from_millis(250);
        let said = told(&copied, "new", took);
        assert_eq!(
            said,
            "3 blocks (3.0 KiB) in new: 2 copied now (2.0 KiB), 0 no longer needed and deleted, in 250 ms\n"
        );
        let said = told(&BackupReport { written: 1, written_bytes: 1024, ..copied }, "new", took);
        assert!(said.contains(": 2 copied now (2.0 KiB), 1 written now from the log (1.0 KiB), 0 no longer"), "{said}");
        let log = BackupReport { blocks: 1, bytes: 1024, written: 1, written_bytes: 1024, ..BackupReport::default() };
        let said = told(&log, "new", took);
        assert!(said.starts_with("1 block (1.0 KiB) in new: 1 written now from the log (1.0 KiB), 0 no"), "{said}");
        assert!(told(&BackupReport::default(), "new", took).contains("0 copied now (0 B)"));
    }
}
