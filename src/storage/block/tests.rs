//! Blocks: round trips, and every byte flipped.

use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::{Exemplar, Labels, Matcher, Metadata, MetricKind, Need, STALE_NAN, SampleColumn, TimeRange};
use quiver_persistence::testing::{Row, is_nightly};
use quiver_persistence::{Disk, MemoryDisk, RealDisk};

use super::format::{Footer, Section, SectionKind, TRAILER_LEN, placed_crc, trailer};
use super::*;
use crate::codec::chunk::tests::{any_column, equal_to_the_bit};
use crate::codec::{Chunk, Decoder, Encoder};
use crate::error::StorageError;
use crate::index::head::tests::{any_labels, any_matcher};

fn write(series: &[(Labels, SampleColumn)]) -> (Arc<MemoryDisk>, BlockMeta) {
    let disk = Arc::new(MemoryDisk::new());
    let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
    for (l, c) in series {
        w.push_column(l.as_ref(), c).unwrap();
    }
    let meta = w.finish().unwrap();
    (disk, meta)
}

fn sorted(series: Vec<(Labels, SampleColumn)>) -> Vec<(Labels, SampleColumn)> {
    series.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn blocks_give_back_what_was_written(
        series in proptest::collection::vec((any_labels(), any_column(40)), 0..25),
        matchers in proptest::collection::vec(any_matcher(), 0..3),
        from in -1_000_000i64..1_000_000, width in 0i64..500_000,
    ) {
        let series = sorted(series);
        let (disk, meta) = write(&series);
        for block in [Block::open(&*disk, "b").unwrap(), Block::open_unmapped(&*disk, "b").unwrap()] {
            prop_assert_eq!(*block.meta(), meta);
            block.verify().unwrap();
            let range = TimeRange { min: from, max: from + width };
            for range in [TimeRange::ALL, range] {
                let matches = |l: &Labels| matchers.iter().all(|m| m.matches_labels(l.as_ref()));
                let overlaps = |c: &SampleColumn| range.overlaps(c.ts[0], c.ts[c.len() - 1]);
                let want: Vec<&(Labels, SampleColumn)> =
                    series.iter().filter(|(l, c)| matches(l) && overlaps(c)).collect();
                let got = block.select(&matchers, range).unwrap();
                prop_assert_eq!(got.len(), want.len());
                let mut decoder = Decoder::new();
                for (id, (labels, column)) in got.into_iter().zip(want) {
                    prop_assert_eq!(&block.labels(id).unwrap(), labels);
                    let lo = column.ts.partition_point(|t| *t < range.min);
                    let hi = column.ts.partition_point(|t| *t <= range.max);
                    let (mut part, mut out) = (SampleColumn::default(), SampleColumn::default());
                    part.extend_from(column, lo..hi);
                    block.read(id, range, Need::ALL, &mut decoder, &mut out).unwrap();
                    equal_to_the_bit(&part, &out).map_err(TestCaseError::fail)?;
                    let kinds = block.kinds(id).unwrap();
                    prop_assert_eq!(kinds.histograms, !column.histograms.is_empty());
                    prop_assert_eq!(kinds.floats, column.histograms.len() < column.len());
                }
            }
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

/// A small block with a chunk of every codec, exemplars and metadata.
fn every_codec() -> (Vec<(Labels, SampleColumn)>, bytes::Bytes) {
    let mut series = Vec::new();
    let floats: [(&str, fn(i64) -> f64); 8] = [
        ("a_constant", |_| 1.5),
        ("b_decimal", |i| (i * 37 % 11) as f64 / 100.0),
        ("c_patched", |i| if i == 7 { STALE_NAN } else { i as f64 }),
        ("d_wide", |i| 9e15 + (i * 4096) as f64),
        ("e_bits", |i| 1.0 + (i as f64).sqrt()),
        ("f_xor", |i| f64::from_bits(0x3ff0_1234_5678_9abc ^ (((((i as u64 + 1) * 0x9e37_79b9) >> 20) & 31) << 51))),
        ("g_raw", |i| f64::from_bits((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        ("h_nan", |_| f64::from_bits(0x7ff8_0000_0000_0042)),
    ];
    for (k, (name, f)) in floats.iter().enumerate() {
        let mut c = SampleColumn::default();
        for i in 0..30i64 {
            c.push_float(
                1_000_000 + i * 15_000 + (i * 7 % 5) * i64::from(k % 2 == 0),
                f(i),
                if k == 3 { 5 + i } else { 0 },
            );
        }
        series.push((labels(&[("__name__", name), ("instance", "host:9100")]), c));
    }
    for (name, half) in [("i_histogram", 0.0), ("j_histogram", 0.5)] {
        let mut c = SampleColumn::default();
        for i in 0..12i64 {
            let h = quiver_model::Histogram {
                schema: 3,
                zero_threshold: 0.001,
                count: (10 * i) as f64 + half,
                zero_count: i as f64,
                sum: i as f64 * 2.5,
                positive_spans: vec![quiver_model::Span { offset: 1, length: 3 }],
                positive_buckets: vec![i as f64 + half, (2 * i) as f64, 7.0],
                ..Default::default()
            };
            c.push_histogram(1_000_000 + i * 15_000, Arc::new(h), 0);
        }
        series.push((labels(&[("__name__", name)]), c));
    }
    let disk = Arc::new(MemoryDisk::new());
    let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
    for (l, c) in &series {
        w.push_column(l.as_ref(), c).unwrap();
    }
    w.push_exemplars(series[0].0.as_ref(), &exemplars());
    w.push_metadata("a_constant", &metadata());
    w.finish().unwrap();
    let bytes = disk.read("b").unwrap().into();
    (series, bytes)
}

fn exemplars() -> Vec<Exemplar> {
    vec![Exemplar { labels: labels(&[("trace_id", "abc")]), value: 0.25, ts: 1_000_001 }]
}

fn metadata() -> Vec<Metadata> {
    vec![Metadata { kind: MetricKind::Counter, unit: "bytes".into(), help: "Some help.".repeat(80) }]
}

/// Reads everything a block can tell; any difference to what was written is the string.
fn read_all(bytes: bytes::Bytes, series: &[(Labels, SampleColumn)]) -> Result<Result<(), String>, StorageError> {
    let block = Block::from_bytes("b", bytes)?;
    let ids = block
        .select(&[Matcher::new(quiver_model::MatchOp::Regex, "__name__", ".+", 1 << 20).unwrap()], TimeRange::ALL)?;
    let mut wrong = String::new();
    if ids.len() != series.len() {
        wrong = format!("{} series", ids.len());
    }
    let mut first = None;
    let mut decoder = Decoder::new();
    for (id, (l, c)) in ids.into_iter().zip(series) {
        let mut out = SampleColumn::default();
        match block.read(id, TimeRange::ALL, Need::ALL, &mut decoder, &mut out) {
            Ok(()) => {
                if let Err(e) = equal_to_the_bit(c, &out) {
                    wrong = e;
                }
            }
            Err(e) => first = first.or(Some(e)),
        }
        if block.labels(id)? != *l {
            wrong = "labels".into();
        }
        for name in ["__name__", "instance"] {
            let m = Matcher::equal(name, l.get(name));
            if !block.select(&[m], TimeRange::ALL)?.contains(&id) {
                wrong = "selection".into();
            }
        }
    }
    if block.exemplars()? != vec![(series[0].0.clone(), exemplars())] {
        wrong = "exemplars".into();
    }
    if block.metadata()? != vec![("a_constant".to_owned(), metadata())] {
        wrong = "metadata".into();
    }
    match first {
        Some(e) => Err(e),
        None => Ok(if wrong.is_empty() { Ok(()) } else { Err(wrong) }),
    }
}

#[test]
fn a_block_has_every_codec() {
    let (series, bytes) = every_codec();
    assert_eq!(read_all(bytes.clone(), &series), Ok(Ok(())));
    let block = Block::from_bytes("b", bytes).unwrap();
    block.verify().unwrap();
    let mut seen: Vec<&str> =
        (0..block.meta().series).flat_map(|id| block.chunks(id).unwrap()).map(|c| c.as_ref().codec_name()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["bits", "constant", "decimal", "patched", "raw", "wide", "xor"]);
}

#[test]
fn blocks_of_version_1_are_read() {
    let (series, _) = every_codec();
    let kept = bytes::Bytes::from_static(include_bytes!("version-1.block"));
    assert_eq!(read_all(kept.clone(), &series), Ok(Ok(())));
    Block::from_bytes("version-1.block", kept).unwrap().verify().unwrap();
}

#[test]
fn every_flipped_byte_is_found() {
    let row = Row::begin("7", "every byte of a block of every codec flipped");
    let (series, bytes) = every_codec();
    let masks: Vec<u8> = if is_nightly() { (1..=255).collect() } else { vec![0x01, 0x80, 0xff] };
    for at in 0..bytes.len() {
        for mask in &masks {
            let mut broken = bytes.to_vec();
            broken[at] ^= mask;
            match read_all(broken.into(), &series) {
                Err(StorageError::Corrupt { .. } | StorageError::Version { .. }) => {}
                other => panic!("byte {at} of {} ^ {mask:#x}: {other:?}", bytes.len()),
            }
        }
    }
    for len in 0..bytes.len() {
        assert!(Block::from_bytes("b", bytes.slice(..len)).is_err(), "cut at {len}");
    }
    row.passed(format_args!("{} flips, {} cuts", bytes.len() * masks.len(), bytes.len()), 0);
}

#[test]
fn damage_in_one_chunk_costs_that_chunk() {
    let (series, bytes) = every_codec();
    let block = Block::from_bytes("b", bytes.clone()).unwrap();
    let e = block.chunk_entries(3, TimeRange::ALL).unwrap()[0];
    let mut broken = bytes.to_vec();
    broken[e.offset as usize + 4] ^= 4;
    let block = Block::from_bytes("b", broken.into()).unwrap();
    let mut out = SampleColumn::default();
    for id in 0..series.len() as u32 {
        let read = block.read(id, TimeRange::ALL, Need::ALL, &mut Decoder::new(), &mut out);
        assert_eq!(read.is_err(), id == 3);
        if id == 3 {
            assert!(matches!(read, Err(StorageError::Corrupt { offset, .. }) if offset == e.offset));
        }
    }
}

#[test]
fn series_of_a_target_share_their_times() {
    let mut series = Vec::new();
    for host in 0..3 {
        for k in 0..20 {
            let mut c = SampleColumn::default();
            for i in 0..600i64 {
                c.push_float(i * 15_000 + (i * (host + 3) * 7919 % 11), (i * k % 7) as f64, 0);
            }
            series.push((labels(&[("__name__", &format!("m{k:02}")), ("host", &host.to_string())]), c));
        }
    }
    let (disk, meta) = write(&sorted(series));
    assert_eq!((meta.series, meta.chunks, meta.time_columns, meta.samples), (60, 120, 6, 36_000));
    // The same, each chunk encoded on its own.
    let block = Block::open(&*disk, "b").unwrap();
    let mut w = BlockWriter::create(disk.clone(), "c").unwrap();
    for id in 0..60 {
        let mut out = SampleColumn::default();
        block.read(id, TimeRange::ALL, Need::ALL, &mut Decoder::new(), &mut out).unwrap();
        let chunks: Vec<Chunk> = [0..480, 480..600].map(|r| Encoder::new().encode(&out, r)).into();
        w.push(block.labels(id).unwrap().as_ref(), &chunks).unwrap();
    }
    assert_eq!(w.finish().unwrap().time_columns, 6);
    assert_eq!(disk.read("b").unwrap(), disk.read("c").unwrap());
}

/// Every series has times of its own, so many that they are written in several groups while series come.
#[test]
fn times_in_groups_leave_every_chunk_where_its_series_says() {
    let mut times: Vec<u64> = Vec::new();
    let mut state = 7u64;
    let disk = Arc::new(MemoryDisk::new());
    let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
    let column = |times: &[u64]| {
        let mut c = SampleColumn::default();
        times.iter().enumerate().for_each(|(i, t)| c.push_float(*t as i64, i as f64, 0));
        c
    };
    for k in 0..4_000 {
        let mut t = 0;
        for _ in 0..300 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            t += 1 + (state >> 24);
            times.push(t);
        }
        let series = labels(&[("__name__", "m"), ("k", &format!("{k:04}"))]);
        w.push_column(series.as_ref(), &column(&times[k * 300..])).unwrap();
    }
    w.finish().unwrap();
    let block = Block::open(&*disk, "b").unwrap();
    assert!(block.time_extents().unwrap().iter().map(|(_, len)| len).sum::<u64>() > 5 << 20, "more than one group");
    assert!(block.verify_samples(&mut || true).unwrap());
    block.verify_all(&mut |e| panic!("{e}"));
    let (mut out, mut decoder) = (SampleColumn::default(), Decoder::new());
    for k in 0..4_000u32 {
        out.clear();
        block.read(k, TimeRange::ALL, Need::ALL, &mut decoder, &mut out).unwrap();
        equal_to_the_bit(&out, &column(&times[k as usize * 300..][..300])).unwrap();
    }
}

#[test]
fn order_is_checked_and_an_unfinished_block_leaves_nothing() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut column = SampleColumn::default();
    column.push_float(1, 1.0, 0);
    let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
    w.push_column(labels(&[("a", "2")]).as_ref(), &column).unwrap();
    assert!(matches!(w.push_column(labels(&[("a", "1")]).as_ref(), &column), Err(StorageError::Misuse(_))));
    let chunk = Encoder::new().encode(&column, 0..1);
    let twice = [chunk.clone(), chunk];
    assert!(matches!(w.push(labels(&[("a", "3")]).as_ref(), &twice), Err(StorageError::Misuse(_))));
    drop(w);
    assert_eq!(disk.list("").unwrap(), Vec::<String>::new());
    let (disk, meta) = write(&[]);
    assert_eq!((meta.series, meta.samples), (0, 0));
    assert_eq!(Block::open(&*disk, "b").unwrap().select(&[], TimeRange::ALL).unwrap(), Vec::<u32>::new());
}

#[test]
fn a_section_of_few_bytes_does_not_become_much() {
    // What shrinks that much is written as it is.
    let help = "a".repeat(4 << 20);
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let mut w = BlockWriter::create(disk.clone(), "b").unwrap();
    let said = Metadata { help: help.clone(), ..Metadata::default() };
    w.push_metadata("up", std::slice::from_ref(&said));
    w.finish().unwrap();
    let bytes = disk.read("b").unwrap();
    assert!(bytes.len() > help.len());
    assert_eq!(
        Block::from_bytes("b", bytes.clone().into()).unwrap().metadata().unwrap(),
        [("up".to_owned(), vec![said])]
    );
    // A footer that claims more is not believed.
    let end = bytes.len() - TRAILER_LEN;
    let len = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    let mut footer = Footer::parse(&bytes[end - len..end]).unwrap();
    let mut hostile = bytes[..end - len].to_vec();
    let packed = zstd::bulk::compress(help.as_bytes(), 3).unwrap();
    assert!(packed.len() < 1024);
    let section = &mut footer.sections[SectionKind::Metadata as usize];
    *section = Section {
        offset: hostile.len() as u64,
        len: packed.len() as u64,
        raw_len: help.len() as u64,
        crc: placed_crc(&packed, hostile.len() as u64),
    };
    hostile.extend_from_slice(&packed);
    let footer = footer.encode();
    hostile.extend_from_slice(&footer);
    hostile.extend_from_slice(&trailer(&footer));
    let refused = Block::from_bytes("b", hostile.into()).unwrap().metadata().unwrap_err();
    assert!(refused.to_string().contains("does not decompress"), "{refused}");
}

#[test]
fn a_newer_version_is_refused_untouched() {
    let (_, bytes) = every_codec();
    let mut newer = bytes.to_vec();
    newer[8] = 2;
    let crc = crate::bytes::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(Block::from_bytes("b", newer.into()), Err(StorageError::Version { found: 2, .. })));
}

#[test]
fn pages_that_get_lost_are_read_again_or_named() {
    let mut series = Vec::new();
    for k in 0..60_u64 {
        let mut c = SampleColumn::default();
        for i in 0..400_u64 {
            let noise = (k * 400 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            c.push_float(1_000_000 + i as i64 * 15_000, f64::from_bits(noise), 0);
        }
        series.push((labels(&[("__name__", "noise"), ("k", &format!("{k:02}"))]), c));
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
    let mut w = BlockWriter::create(disk.clone(), "whole").unwrap();
    series.iter().for_each(|(l, c)| w.push_column(l.as_ref(), c).unwrap());
    w.finish().unwrap();
    let bytes = disk.read("whole").unwrap();
    assert!(bytes.len() > 20 * 8192, "{}", bytes.len());
    // What can be read is right, what cannot is an error: the series read.
    let read = |block: &Block| {
        let (mut decoder, mut right) = (Decoder::new(), 0);
        let Ok(ids) = block.select(&[], TimeRange::ALL) else { return right };
        assert_eq!(ids.len(), series.len());
        for (id, (labels, column)) in ids.into_iter().zip(&series) {
            let mut out = SampleColumn::default();
            if let (Ok(found), Ok(())) =
                (block.labels(id), block.read(id, TimeRange::ALL, Need::ALL, &mut decoder, &mut out))
            {
                assert_eq!(found, *labels);
                equal_to_the_bit(column, &out).unwrap();
                right += 1;
            }
        }
        right
    };
    let mut lost = 0;
    for cut in (1..bytes.len() / 8192).map(|n| n * 8192) {
        for is_warm in [false, true] {
            let name = format!("{cut}-{is_warm}");
            disk.create(&name).unwrap().write_all(&bytes).unwrap();
            let block = Block::open(&*disk, &name).unwrap();
            if is_warm {
                assert_eq!(read(&block), series.len());
            }
            disk.truncate(&name, cut as u64).unwrap();
            let right = read(&block);
            assert!(right < series.len(), "{name}: {right}");
            lost += usize::from(block.is_lost());
            // The medium recovers: so does the block, without being opened again.
            disk.open_append(&name).unwrap().write_all(&bytes[cut..]).unwrap();
            assert_eq!(read(&block), series.len(), "{name}");
            disk.remove(&name).unwrap();
        }
    }
    assert!(lost > 20, "{lost}");
}
