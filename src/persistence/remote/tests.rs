//! Every store against the same expectations, and catalogs under writers that race.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quiver_support::s3_server::S3Server;
use quiver_support::s3_service;

use super::s3::S3Objects;
use super::*;
use crate::disk::{Disk, DiskOp, FaultAction, FaultRule, FaultyDisk, Gate, MemoryDisk};
use crate::manifest::{Manifest, ManifestEntry};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn folder() -> Arc<dyn Objects> {
    Arc::new(FolderObjects::new(Arc::new(MemoryDisk::new())))
}

fn file(bytes: &[u8]) -> Arc<dyn DiskRead> {
    let disk = MemoryDisk::new();
    disk.create("f").unwrap().write_all(bytes).unwrap();
    disk.open_read("f").unwrap()
}

fn bucket(address: std::net::SocketAddr, prefix: &str) -> S3Objects {
    bucket_of(address, prefix, "secret")
}

fn bucket_of(address: std::net::SocketAddr, prefix: &str, secret_key: &str) -> S3Objects {
    let settings = S3Settings {
        endpoint: Some(format!("http://{address}")),
        access_key: "key".into(),
        secret_key: Secret::new(secret_key),
        ..S3Settings::default()
    };
    S3Objects::new("bucket", prefix, &settings).unwrap()
}

/// What every store has to do.
async fn behaves(store: &dyn Objects) {
    let kind = |r: Result<(), ObjectError>| r.err().map(|e| e.kind);
    let put = |key: &'static str, text: &'static str| store.put_new(key, Bytes::from(text));
    assert_eq!(put("a/x", "0123456789").await, Ok(()));
    assert_eq!(kind(put("a/x", "other").await), Some(ObjectErrorKind::Exists));
    assert_eq!(store.get_all("a/x").await.unwrap(), "0123456789");
    assert_eq!(store.get("a/x", 2..5).await.unwrap(), "234");
    assert_eq!(store.get("a/x", 0..10).await.unwrap(), "0123456789");
    assert_eq!(store.get("a/x", 3..3).await.unwrap(), "");
    assert!(store.get("a/x", 8..12).await.is_err(), "past the end");
    assert_eq!(kind(store.get("a/none", 0..1).await.map(drop)), Some(ObjectErrorKind::NotFound));
    assert_eq!(kind(store.head("a/none").await.map(drop)), Some(ObjectErrorKind::NotFound));
    assert_eq!(store.head("a/x").await.unwrap().bytes, 10);
    let large: Vec<u8> = (0..(33 << 20) + 17u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.upload("a/b/large", file(&large)).await.unwrap();
    assert_eq!(store.head("a/b/large").await.unwrap().bytes, large.len() as u64);
    assert_eq!(store.get_all("a/b/large").await.unwrap(), large);
    assert_eq!(store.get("a/b/large", 20_000_000..20_000_100).await.unwrap(), large[20_000_000..20_000_100]);
    store.upload("a/b/large", file(b"smaller")).await.unwrap();
    assert_eq!(store.get_all("a/b/large").await.unwrap(), "smaller");
    store.upload("a/empty", file(b"")).await.unwrap();
    assert_eq!(store.get_all("a/empty").await.unwrap(), "");
    for i in 0..7 {
        store.put_new(&format!("many/ä &<{i}>"), Bytes::from("x")).await.unwrap();
    }
    assert_eq!(put("aa", "not under a/").await, Ok(()));
    let names = |list: Vec<ObjectInfo>| list.into_iter().map(|i| (i.key, i.bytes)).collect::<Vec<_>>();
    let under_a = [("a/b/large", 7), ("a/empty", 0), ("a/x", 10)].map(|(k, n)| (k.to_owned(), n));
    assert_eq!(names(store.list("a").await.unwrap()), under_a);
    assert_eq!(names(store.list("many").await.unwrap()).len(), 7);
    assert_eq!(names(store.list("nothing").await.unwrap()), []);
    assert_eq!(store.delete("a/x").await, Ok(()));
    assert_eq!(store.delete("a/x").await, Ok(()), "it is gone already");
    assert_eq!(kind(store.get_all("a/x").await.map(drop)), Some(ObjectErrorKind::NotFound));
    assert_eq!(put("a/x", "again").await, Ok(()));
    for bad in ["", "/a", "a/", "a//b", "../a", "a/..", "a\0"] {
        assert!(store.put_new(bad, Bytes::new()).await.is_err(), "{bad:?}");
        assert!(store.get(bad, 0..1).await.is_err(), "{bad:?}");
    }
}

#[test]
fn stores_behave_alike() {
    runtime().block_on(async {
        behaves(&*folder()).await;
        behaves(&AnyObjects::new(Arc::new(object_store::memory::InMemory::new()), "some/prefix", "memory")).await;
        let (server, address) = S3Server::start().await.unwrap();
        server.set_page(3);
        behaves(&bucket(address, "some/prefix")).await;
        assert_eq!(server.open_uploads(), 0);
        let (_, address) = S3Server::start().await.unwrap();
        behaves(&bucket(address, "")).await;
    });
}

/// A service that is not ours reads the protocol as we do, and checks what we sign.
#[test]
fn a_service_by_others_is_understood() {
    let files = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let address = s3_service::start(files.path(), "bucket", "key", "secret").await.unwrap();
        behaves(&bucket(address, "some/prefix")).await;
        let stranger = bucket_of(address, "some/prefix", "another secret");
        for refused in [
            stranger.get_all("a/x").await.map(drop),
            stranger.put_new("new", Bytes::from("x")).await,
            stranger.list("a").await.map(drop),
        ] {
            let e = refused.unwrap_err();
            assert_eq!(e.kind, ObjectErrorKind::Denied, "{e}");
            assert!(e.to_string().contains("SignatureDoesNotMatch"), "{e}");
        }
    });
}

#[test]
fn a_folder_keeps_what_was_put_over_a_power_loss() {
    let disk = MemoryDisk::new();
    let objects = FolderObjects::new(Arc::new(disk.clone()));
    runtime().block_on(async {
        objects.put_new("catalog/1", Bytes::from("one")).await.unwrap();
        objects.upload("blocks/1", file(b"block")).await.unwrap();
    });
    for seed in 0..20 {
        let after = FolderObjects::new(Arc::new(disk.crash(seed)));
        runtime().block_on(async {
            assert_eq!(after.get_all("catalog/1").await.unwrap(), "one");
            assert_eq!(after.get_all("blocks/1").await.unwrap(), "block");
        });
    }
}

#[test]
fn an_upload_that_fails_half_way_leaves_nothing() {
    let rt = runtime();
    rt.block_on(async {
        let (server, address) = S3Server::start().await.unwrap();
        let store = bucket(address, "p");
        // The file ends before it should.
        #[derive(Debug)]
        struct Cut;
        impl DiskRead for Cut {
            fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, crate::DiskError> {
                Ok(vec![0; if offset == 0 { len } else { len / 2 }])
            }
            fn len(&self) -> Result<u64, crate::DiskError> {
                Ok(40 << 20)
            }
        }
        assert!(store.upload("x", Arc::new(Cut)).await.is_err());
        assert_eq!((server.objects(), server.open_uploads()), (vec![], 0));
    });
}

/// An attempt that takes too long is dropped where it stands; the parts that it sent do not stay.
#[test]
fn an_upload_that_nobody_waits_for_leaves_nothing() {
    runtime().block_on(async {
        let (server, address) = S3Server::start().await.unwrap();
        // The first part is read and sent, the second is never read.
        #[derive(Debug)]
        struct Stuck(Gate);
        impl DiskRead for Stuck {
            fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>, crate::DiskError> {
                if offset > 0 {
                    self.0.stand();
                }
                Ok(vec![0; len])
            }
            fn len(&self) -> Result<u64, crate::DiskError> {
                Ok(20 << 20)
            }
        }
        let gate = Gate::new();
        let arrival = gate.clone();
        let store = bucket(address, "p");
        tokio::select! {
            done = store.upload("x", Arc::new(Stuck(gate.clone()))) => panic!("{done:?}"),
            arrived = tokio::task::spawn_blocking(move || arrival.wait_for_arrival()) => arrived.unwrap(),
        }
        let begun = std::time::Instant::now();
        while server.open_uploads() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "the parts stay");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!((server.objects(), server.requests()), (vec![], 3), "begun, one part, aborted");
        gate.open();
    });
}

fn policy() -> RetryPolicy {
    let ms = Duration::from_millis;
    RetryPolicy { attempt: ms(400), deadline: ms(1500), pause: ms(1), pause_max: ms(4) }
}

#[test]
fn transient_failures_are_tried_again_and_others_not() {
    runtime().block_on(async {
        let (server, address) = S3Server::start().await.unwrap();
        let store = Retrying::new(Arc::new(bucket(address, "p")), policy());
        store.put_new("x", Bytes::from("abc")).await.unwrap();
        server.fail_next(3);
        assert_eq!(store.get("x", 0..3).await.unwrap(), "abc");
        assert_eq!(store.retries(), 3);
        let before = server.requests();
        assert_eq!(store.get("none", 0..3).await.unwrap_err().kind, ObjectErrorKind::NotFound);
        assert_eq!(server.requests() - before, 1);
        server.fail_next(u64::MAX);
        let e = store.get("x", 0..3).await.unwrap_err();
        assert_eq!((e.kind, e.store.as_str(), e.key.as_str()), (ObjectErrorKind::Unavailable, "s3://bucket/p", "x"));
        assert!(e.to_string().contains("SlowDown"), "{e}");
        // Nobody there at all.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let gone = Retrying::new(Arc::new(bucket(nobody, "p")), policy());
        assert_eq!(gone.get("x", 0..1).await.unwrap_err().kind, ObjectErrorKind::Unavailable);
    });
}

#[test]
fn a_stalled_store_is_given_up_in_time() {
    runtime().block_on(async {
        let faulty = Arc::new(FaultyObjects::new(folder()));
        faulty.put_new("x", Bytes::from("abc")).await.unwrap();
        let store = Retrying::new(Arc::clone(&faulty) as Arc<dyn Objects>, policy());
        faulty.fail(ObjectOp::Get, "", ObjectFault::Stall, 2);
        assert_eq!(store.get("x", 0..3).await.unwrap(), "abc", "the third attempt");
        faulty.fail(ObjectOp::Get, "", ObjectFault::Stall, u64::MAX);
        let began = std::time::Instant::now();
        assert_eq!(store.get("x", 0..3).await.unwrap_err().kind, ObjectErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn a_folder_that_hangs_is_given_up_in_time_and_holds_up_nothing() {
    let gate = Gate::new();
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    disk.push(FaultRule::new(DiskOp::Read, FaultAction::Wait(gate.clone())).on("hung"));
    let store = Retrying::new(Arc::new(FolderObjects::new(Arc::new(disk))), policy());
    // One thread for all futures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (hung, fine) = runtime.block_on(async {
        store.put_new("hung", Bytes::from("abc")).await.unwrap();
        store.put_new("fine", Bytes::from("def")).await.unwrap();
        (store.get("hung", 0..3).await, store.get("fine", 0..3).await)
    });
    // The end of the runtime waits for what hangs.
    gate.open();
    assert_eq!(hung.unwrap_err().kind, ObjectErrorKind::TimedOut);
    assert_eq!(fine.unwrap(), "def");
}

#[test]
fn a_refusal_longer_than_what_was_asked_for_is_tried_again() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A gateway answers with a page of its own, then the service with three bytes.
    let gateway = std::thread::spawn(move || {
        let page = "sorry ".repeat(1000);
        for (status, body) in [("503 Service Unavailable", page.as_str()), ("206 Partial Content", "abc")] {
            let mut stream = listener.accept().unwrap().0;
            let (mut asked, mut piece) = (Vec::<u8>::new(), [0u8; 1024]);
            while !asked.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut piece).unwrap();
                assert!(n > 0, "the request ends early");
                asked.extend_from_slice(&piece[..n]);
            }
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
    let patient = RetryPolicy { attempt: Duration::from_secs(5), deadline: Duration::from_secs(20), ..policy() };
    let store = Retrying::new(Arc::new(bucket(address, "p")), patient);
    assert_eq!(runtime().block_on(store.get("x", 0..3)).unwrap(), "abc");
    assert_eq!(store.retries(), 1);
    gateway.join().unwrap();
}

fn catalog(generation: u64, file: &str) -> Manifest {
    let entry = ManifestEntry { id: generation, file: file.to_owned(), ..ManifestEntry::default() };
    Manifest { generation, entries: vec![entry], ..Manifest::default() }
}

fn catalogs(objects: &Arc<FaultyObjects>) -> Catalogs {
    Catalogs::new(Arc::new(RemoteIo::new(Arc::clone(objects) as Arc<dyn Objects>).unwrap()))
}

#[test]
fn of_two_writers_one_publishes() {
    let objects = Arc::new(FaultyObjects::new(folder()));
    let (a, b) = (catalogs(&objects), catalogs(&objects));
    assert_eq!(a.latest(0), Ok(None));
    a.publish(&catalog(1, "a1")).unwrap();
    a.prove_conditional(&catalog(1, "a1")).unwrap();
    assert_eq!(b.latest(0).unwrap().unwrap().manifest, catalog(1, "a1"));
    b.publish(&catalog(2, "b2")).unwrap();
    match a.publish(&catalog(2, "a2")) {
        Err(CatalogError::Taken { found, .. }) => assert_eq!(found.manifest, catalog(2, "b2")),
        other => panic!("{other:?}"),
    }
    // An answer that got lost is no other writer.
    objects.fail(ObjectOp::Put, "catalog", ObjectFault::Lose, 1);
    assert!(b.publish(&catalog(3, "b3")).is_err());
    assert_eq!(b.publish(&catalog(3, "b3")), Ok(()));
    for g in 4..30 {
        b.publish(&catalog(g, "b")).unwrap();
        b.prune(g).unwrap();
    }
    assert_eq!(a.latest(0).unwrap().unwrap().generation, 29);
    let left = a.io.wait(|o| async move { o.list(CATALOG_DIR).await }).unwrap();
    let left: Vec<_> = left.iter().map(|i| i.key["catalog/".len()..].trim_start_matches('0')).collect();
    let wanted = [1, 2, 4, 8, 16, 22, 23, 24, 25, 26, 27, 28, 29].map(|g| format!("{g}.json"));
    assert_eq!(left, wanted, "the newest, and those that lead there");
}

#[test]
fn a_list_that_is_behind_misleads_nobody() {
    let rt = runtime();
    let objects = Arc::new(FaultyObjects::new(folder()));
    let writer = catalogs(&objects);
    rt.block_on(objects.freeze_lists()).unwrap();
    for g in 1..=5 {
        writer.publish(&catalog(g, "x")).unwrap();
    }
    // The list shows nothing at all.
    assert_eq!(writer.latest(0).unwrap().unwrap().generation, 5);
    for g in 6..=20 {
        writer.publish(&catalog(g, "x")).unwrap();
    }
    objects.heal();
    writer.prune(20).unwrap();
    rt.block_on(objects.freeze_lists()).unwrap();
    for g in 21..=25 {
        writer.publish(&catalog(g, "x")).unwrap();
    }
    assert_eq!(writer.latest(3).unwrap().unwrap().generation, 25);
    // It shows what is gone.
    for g in 26..=40 {
        writer.publish(&catalog(g, "x")).unwrap();
    }
    rt.block_on(async {
        for g in 2..33 {
            objects.delete(&format!("catalog/{g:020}.json")).await.unwrap();
        }
    });
    assert!(matches!(writer.latest(0), Err(CatalogError::Lost { .. })), "to be tried again, not to be believed");
    assert_eq!(writer.latest(40).unwrap().unwrap().generation, 40, "what was known helps");
}

#[test]
fn an_empty_list_of_a_store_from_which_most_catalogs_are_gone_begins_no_second_history() {
    let store = folder();
    let writer = Catalogs::new(Arc::new(RemoteIo::new(Arc::clone(&store)).unwrap()));
    let objects = Arc::new(FaultyObjects::new(store));
    runtime().block_on(objects.freeze_lists()).unwrap();
    let behind = catalogs(&objects);
    for g in 1..=100 {
        writer.publish(&catalog(g, "x")).unwrap();
        writer.prune(g).unwrap();
        assert_eq!(behind.latest(0).unwrap().unwrap().generation, g);
    }
    // A file of somebody else is not ours to remove, nor a catalog.
    runtime().block_on(objects.put_new("catalog/00000000000000000000.json", Bytes::from("x"))).unwrap();
    writer.prune(100).unwrap();
    assert_eq!(writer.latest(0).unwrap().unwrap().generation, 100);
}

#[test]
fn damaged_catalogs_and_unconditional_stores_are_refused() {
    let rt = runtime();
    let objects = Arc::new(FaultyObjects::new(folder()));
    let writer = catalogs(&objects);
    writer.publish(&catalog(1, "x")).unwrap();
    objects.fail(ObjectOp::Get, "catalog", ObjectFault::Flip, 1);
    assert!(matches!(writer.latest(0), Err(CatalogError::Unreadable { .. })));
    assert!(writer.latest(0).is_ok());
    let (server, address) = rt.block_on(S3Server::start()).unwrap();
    server.be_unconditional();
    let careless = Catalogs::new(Arc::new(RemoteIo::new(Arc::new(bucket(address, ""))).unwrap()));
    careless.publish(&catalog(1, "x")).unwrap();
    assert!(matches!(careless.prove_conditional(&catalog(1, "x")), Err(CatalogError::NotConditional(_))));
}
