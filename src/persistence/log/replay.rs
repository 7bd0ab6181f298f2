//! Reading a log back: streaming, shards in parallel, segments in order, damage stepped over and reported.
//!
//! ```text
//! segment ─▶ header ─▶ frame ─▶ frame ─▶ ✗ ─▶ frame ─▶ … ─▶ end
//!                                        │                   └─ incomplete: a torn tail, normal after a crash
//!                                        └─ damaged: reported; go on at the length the header vouches for,
//!                                           else at the next valid header
//! ```
//!
//! Invariants
//! 1. A frame is handed on only if header and payload pass their checksums, and once: a copy of it is skipped.
//! 2. Damage costs the frames it touches. Later frames and later segments are read whatever happened before them.
//! 3. What a power loss left of the last batch is a torn tail, holes in it included: damage is only what a frame of a later
//!    batch, or the next segment's header, proves to have been acknowledged.
//! 4. Memory is a window of 1 MiB per thread, or the largest frame.
//! 5. A segment of an unknown version stops the replay before anything is changed.
//! 6. A segment goes only below the floor, and its name is durable before its first frame is acknowledged. So one at or above the
//!    floor that the header of a later one counts frames of has to be there. Of the last one a process wrote nobody counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::crc32c;
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskRead, join};

use super::frame::{FRAME_HEADER_BYTES, FRAME_MAGIC, FRAME_VERSION, Frame, FrameHeader};
use super::segment::{Previous, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeader, SegmentId, read_header};
use super::{LogFloor, LogPosition};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// What a medium error costs at least.
const PAGE_BYTES: usize = 4096;

/// Damages listed one by one; the rest is only counted.
const DAMAGE_LISTED_MAX: usize = 10_000;

/// Takes the frames of one shard, on one thread.
pub trait ReplayShard: Send {
    /// A segment begins: what its frames say of label sets starts anew.
    fn segment_start(&mut self, _segment: SegmentId) {}
    /// The next frame. An error is reported as damage of that frame.
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), String>;
    /// The segment ends. An error is reported as damage of it.
    fn segment_end(&mut self, _segment: SegmentId) -> Result<(), String> {
        Ok(())
    }
}

/// Why a range of a segment is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// The segment's header does not pass its checksum; its frames are read nevertheless.
    SegmentHeader,
    /// The file is another segment's under a wrong name.
    Misnamed(SegmentId),
    /// No valid frame header where one should be.
    FrameHeader,
    /// The payload does not pass its checksum.
    Payload,
    /// The frame would end beyond the segment.
    Truncated,
    /// A copy of a frame that was there before.
    Duplicate,
    /// So many acknowledged frames are missing from the end.
    Missing(u32),
    /// The segment is not there; it had so many acknowledged frames.
    Gone(u32),
    /// The medium does not give the bytes.
    Unreadable,
    /// The payload is whole but says nothing that can be understood.
    Rejected(String),
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DamageReason::SegmentHeader => f.write_str("bad segment header"),
            DamageReason::Misnamed(id) => write!(f, "the file is segment {} under another name", id.file_name()),
            DamageReason::FrameHeader => f.write_str("no valid frame"),
            DamageReason::Payload => f.write_str("a frame fails its checksum"),
            DamageReason::Truncated => f.write_str("a frame is cut"),
            DamageReason::Duplicate => f.write_str("the frame occurs twice"),
            DamageReason::Missing(frames) => write!(f, "{frames} acknowledged frames are missing from the end"),
            DamageReason::Gone(frames) => write!(f, "the segment is missing, with {frames} acknowledged frames"),
            DamageReason::Unreadable => f.write_str("the medium does not give the bytes"),
            DamageReason::Rejected(what) => write!(f, "a frame is whole but cannot be understood: {what}"),
        }
    }
}

/// A range of a segment that was stepped over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which segment.
    pub segment: SegmentId,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// Why.
    pub reason: DamageReason,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.segment.file_name();
        match self.len {
            0 => write!(f, "{file}: {}", self.reason),
            len => write!(f, "{file}: {len} bytes at {}: {}", self.offset, self.reason),
        }
    }
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Segments read.
    pub segments: usize,
    /// Segments below the floor, left alone.
    pub segments_below: usize,
    /// Frames handed on.
    pub frames: u64,
    /// Bytes of the segments read.
    pub bytes: u64,
    /// Frames that are known to be missing, by their numbers.
    pub frames_lost: u64,
    /// Ranges stepped over, by segment and offset.
    pub damage: Vec<Damage>,
    /// Damages beyond those listed.
    pub damage_unlisted: u64,
    /// Incomplete ends of segments, normal after a crash: nothing acknowledged was there.
    pub torn: Vec<Damage>,
}

impl ReplayReport {
    /// Was every byte in order, torn tails aside?
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.damage_unlisted == 0
    }

    /// What was found first, and how much there is; `None` where it is clean.
    pub fn first_damage(&self) -> Option<String> {
        let first = self.damage.first()?;
        let more = (self.damage.len() as u64).saturating_add(self.damage_unlisted).saturating_sub(1);
        Some(if more == 0 { first.to_string() } else { format!("{first}, and {more} more") })
    }

    fn add(&mut self, damage: Damage) {
        tracing::warn!(%damage, "the log is damaged");
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(damage);
        } else {
            self.damage_unlisted += 1;
        }
    }

    /// A segment ends early: what looked like its torn tail was more.
    fn cut_short(&mut self, segment: SegmentId, frames: u32) {
        let torn: Vec<Damage> = self.torn.extract_if(.., |torn| torn.segment == segment).collect();
        let offset = torn.iter().map(|t| t.offset).min().unwrap_or(0);
        let len = torn.iter().map(|t| t.offset + t.len).max().unwrap_or(0) - offset;
        self.frames_lost += u64::from(frames);
        self.add(Damage { segment, offset, len, reason: DamageReason::Missing(frames) });
    }

    /// A segment is not there at all.
    fn gone(&mut self, segment: SegmentId, frames: u32) {
        self.frames_lost += u64::from(frames);
        self.add(Damage { segment, offset: 0, len: 0, reason: DamageReason::Gone(frames) });
    }

    fn merge(&mut self, other: ReplayReport) {
        self.segments += other.segments;
        self.segments_below += other.segments_below;
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.frames_lost += other.frames_lost;
        self.damage.extend(other.damage);
        self.damage_unlisted += other.damage_unlisted;
        self.torn.extend(other.torn);
    }
}

/// Why a log cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Written by a newer program.
    #[error(
        "{file} has log format {found}, this program knows format {known}: it was written by a newer version; \
         nothing was changed"
    )]
    OtherVersion {
        /// Which file.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The disk did not let us read. Nothing is lost, but going on would be without these entries.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Reads the log of a folder from `floor` on. `make` gives the taker of a shard's frames; shards run on up to `threads`
/// threads (0: as many as there are processors). A missing folder is an empty log.
pub fn replay<V: ReplayShard>(
    disk: &dyn Disk,
    dir: &str,
    floor: &LogFloor,
    threads: usize,
    make: impl Fn(u32) -> V + Sync,
) -> Result<ReplayReport, ReplayError> {
    let mut report = ReplayReport::default();
    let mut shards: BTreeMap<u32, Vec<SegmentId>> = BTreeMap::new();
    let names = match disk.list(dir) {
        Err(e) if e.is_not_found() => return Ok(report),
        names => names?,
    };
    for id in names.iter().filter_map(|name| SegmentId::parse(name)) {
        if id.number < floor.of(id.shard) {
            report.segments_below += 1;
        } else {
            shards.entry(id.shard).or_default().push(id);
        }
    }
    let mut jobs: Vec<(u32, Vec<SegmentId>)> = shards.into_iter().collect();
    for (_, segments) in &mut jobs {
        segments.sort_unstable();
        for id in segments {
            check_version(disk, dir, *id)?;
        }
    }
    let threads = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<u32, Result<ReplayReport, ReplayError>>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                while let Some((shard, segments)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = replay_shard(disk, dir, floor.of(*shard), segments, &mut make(*shard));
                    results.lock().insert(*shard, result);
                }
            });
        }
    });
    for result in results.into_inner().into_values() {
        report.merge(result?);
    }
    Ok(report)
}

/// Reads one segment of a folder, and compares it with no other.
pub fn read_segment<V: ReplayShard>(
    disk: &dyn Disk,
    dir: &str,
    id: SegmentId,
    visitor: &mut V,
) -> Result<ReplayReport, ReplayError> {
    let mut reading = ShardReading::above(u64::MAX);
    reading.read(disk, dir, id, visitor)?;
    Ok(reading.into_report())
}

/// Looks at the version before any frame is handed on.
fn check_version(disk: &dyn Disk, dir: &str, id: SegmentId) -> Result<(), ReplayError> {
    let file = join(dir, &id.file_name());
    match disk.read_at(&file, 0, SEGMENT_HEADER_BYTES) {
        Ok(bytes) => match read_header(&bytes) {
            SegmentHeader::OtherVersion(found) => {
                Err(ReplayError::OtherVersion { file, found, known: SEGMENT_VERSION })
            }
            _ => Ok(()),
        },
        Err(e) if e.kind == DiskErrorKind::Media => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn replay_shard<V: ReplayShard>(
    disk: &dyn Disk,
    dir: &str,
    floor: u64,
    segments: &[SegmentId],
    visitor: &mut V,
) -> Result<ReplayReport, ReplayError> {
    let mut reading = ShardReading::above(floor);
    for id in segments {
        reading.read_known(disk, dir, *id, visitor)?;
    }
    Ok(reading.into_report())
}

/// The segments of a shard, read one after the other.
#[derive(Debug)]
pub struct ShardReading {
    accounts: Accounts,
    report: ReplayReport,
}

impl ShardReading {
    /// Nothing is read yet. Segments below `floor` may be gone.
    pub fn above(floor: u64) -> Self {
        Self { accounts: Accounts { floor, frames: BTreeMap::new() }, report: ReplayReport::default() }
    }

    /// Reads the next segment: one of the same shard and of a higher number than those before.
    pub fn read<V: ReplayShard>(
        &mut self,
        disk: &dyn Disk,
        dir: &str,
        id: SegmentId,
        visitor: &mut V,
    ) -> Result<(), ReplayError> {
        check_version(disk, dir, id)?;
        self.read_known(disk, dir, id, visitor)
    }

    /// What was found so far.
    pub fn into_report(self) -> ReplayReport {
        self.report
    }

    /// [`ShardReading::read`] for one whose version was looked at.
    fn read_known<V: ReplayShard>(
        &mut self,
        disk: &dyn Disk,
        dir: &str,
        id: SegmentId,
        visitor: &mut V,
    ) -> Result<(), ReplayError> {
        let file = join(dir, &id.file_name());
        let window = Window::open(disk.open_read(&file)?)?;
        let report = &mut self.report;
        let mut reader = SegmentReader { id, file, window, numbers: Numbers::default(), holes: None, report };
        if let Some(claimed) = reader.header() {
            self.accounts.compare(id, claimed, reader.report);
        }
        visitor.segment_start(id);
        reader.frames(visitor)?;
        let size = reader.window.size;
        let (frames, lost) = reader.finish();
        self.accounts.frames.insert(id.number, frames);
        self.report.segments += 1;
        self.report.bytes += size;
        self.report.frames_lost += lost;
        if let Err(what) = visitor.segment_end(id) {
            self.report.add(Damage { segment: id, offset: 0, len: size, reason: DamageReason::Rejected(what) });
        }
        Ok(())
    }
}

/// How many frames are accounted for, against what the headers of later segments say.
#[derive(Debug)]
struct Accounts {
    /// Segments below it may be gone.
    floor: u64,
    /// By number of the segment. The one that a header counts need not be the last one read: one without frames may lie between.
    frames: BTreeMap<u64, u32>,
}

impl Accounts {
    /// The header of `id` says how many frames an earlier segment has.
    fn compare(&mut self, id: SegmentId, claimed: Previous, report: &mut ReplayReport) {
        if claimed.number < self.floor || claimed.number >= id.number {
            return;
        }
        let segment = SegmentId { shard: id.shard, number: claimed.number };
        let found = self.frames.get(&claimed.number).copied();
        match claimed.frames.saturating_sub(found.unwrap_or(0)) {
            0 => return,
            lost if found.is_some() => report.cut_short(segment, lost),
            lost => report.gone(segment, lost),
        }
        // Another header may say the same: it is reported once.
        self.frames.insert(claimed.number, claimed.frames);
    }
}

/// One segment being read.
struct SegmentReader<'a> {
    id: SegmentId,
    file: String,
    window: Window,
    numbers: Numbers,
    holes: Option<Holes>,
    report: &'a mut ReplayReport,
}

/// Ranges that are torn, or damaged, by whether a later batch follows.
struct Holes {
    /// Sequence of the first frame of the batch they lie in.
    batch_start: u32,
    ranges: Vec<Damage>,
}

/// What lies at an offset.
enum Found {
    Frame(FrameHeader),
    /// The header is good, the payload is not.
    BadPayload(FrameHeader),
    /// The header is good, the file ends before the payload does.
    Cut,
    Nothing,
}

impl SegmentReader<'_> {
    fn damage(&mut self, from: u64, to: u64, reason: DamageReason) {
        let segment = self.id;
        self.report.add(Damage { segment, offset: from, len: to.saturating_sub(from), reason });
    }

    /// Notes a range stepped over before the frame at `next`, or the end.
    fn step_over(&mut self, from: u64, next: Option<(u64, FrameHeader)>, reason: DamageReason) {
        let Some((to, header)) = next else { return self.torn(from, reason) };
        match header.batch_start() {
            // The frames lost may all be of the batch of the frame that follows.
            Some(batch_start) if header.place > 0 && batch_start <= self.numbers.next => {
                self.settle(batch_start);
                let segment = self.id;
                let range = Damage { segment, offset: from, len: to.saturating_sub(from), reason };
                self.holes.get_or_insert_with(|| Holes { batch_start, ranges: Vec::new() }).ranges.push(range);
            }
            _ => self.damage(from, to, reason),
        }
    }

    /// A frame of the batch that starts at `batch_start` is there: holes in an earlier batch were acknowledged bytes.
    fn settle(&mut self, batch_start: u32) {
        if let Some(holes) = self.holes.take_if(|holes| holes.batch_start != batch_start) {
            for damage in holes.ranges {
                self.report.add(damage);
            }
        }
    }

    /// Ends the segment: how many frames are accounted for, and how many acknowledged ones are known to be missing.
    fn finish(&mut self) -> (u32, u64) {
        let Some(holes) = self.holes.take() else { return (self.numbers.next, self.numbers.missing_below(u32::MAX)) };
        self.report.torn.extend(holes.ranges);
        let acknowledged = self.numbers.missing_below(holes.batch_start);
        let torn = self.numbers.missing_below(u32::MAX) - acknowledged;
        (self.numbers.next - u32::try_from(torn).unwrap_or(0), acknowledged)
    }

    /// Reads the header; gives what it says of the segment before.
    fn header(&mut self) -> Option<Previous> {
        let size = self.window.size;
        let header = read_header(self.window.get(0, SEGMENT_HEADER_BYTES));
        let end = (SEGMENT_HEADER_BYTES as u64).min(size);
        match header {
            SegmentHeader::Ok { id, previous } if id == self.id => return previous,
            SegmentHeader::Ok { id, .. } => self.damage(0, size, DamageReason::Misnamed(id)),
            SegmentHeader::OtherVersion(_) | SegmentHeader::Damaged => {
                // A crash while the segment was made leaves no frame: that is a torn tail, found below.
                // With frames of the first batch only, it may be one of that batch's holes.
                if let Some(at) = self.search(0) {
                    let first = self.header_at(at).filter(|header| header.batch_start() == Some(0));
                    let range = Damage { segment: self.id, offset: 0, len: end, reason: DamageReason::SegmentHeader };
                    match first {
                        Some(_) => self.holes = Some(Holes { batch_start: 0, ranges: vec![range] }),
                        None => self.report.add(range),
                    }
                }
            }
        }
        None
    }

    /// Hands on all frames.
    fn frames<V: ReplayShard>(&mut self, visitor: &mut V) -> Result<(), ReplayError> {
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        let size = self.window.size;
        if size <= offset {
            if size < offset && size > 0 {
                self.torn(0, DamageReason::Truncated);
            }
            return self.window.result();
        }
        while offset < size {
            let (next, reason) = match self.look(offset)? {
                Found::Frame(header) => {
                    self.hand_on(offset, header, visitor);
                    offset += header.total_bytes();
                    continue;
                }
                Found::BadPayload(header) => {
                    let end = offset + header.total_bytes();
                    // Believe the length where it leads to the end or to a frame.
                    if end == size {
                        (None, DamageReason::Payload)
                    } else if self.header_at(end).is_some() {
                        (Some(end), DamageReason::Payload)
                    } else {
                        (self.search(offset + 1), DamageReason::Payload)
                    }
                }
                Found::Cut => (self.search(offset + 1), DamageReason::Truncated),
                Found::Nothing => (self.search(offset + 1), DamageReason::FrameHeader),
            };
            self.window.result()?;
            let is_unreadable = self.window.was_unreadable(offset, next.unwrap_or(size));
            let reason = if is_unreadable { DamageReason::Unreadable } else { reason };
            if is_unreadable {
                self.damage(offset, next.unwrap_or(size), reason);
            } else {
                let following = next.and_then(|at| Some((at, self.header_at(at)?)));
                self.step_over(offset, following, reason);
            }
            let Some(next) = next else { break };
            offset = next;
        }
        self.window.result()
    }

    fn torn(&mut self, offset: u64, reason: DamageReason) {
        let len = self.window.size - offset;
        self.report.torn.push(Damage { segment: self.id, offset, len, reason });
    }

    fn hand_on<V: ReplayShard>(&mut self, offset: u64, header: FrameHeader, visitor: &mut V) {
        let end = offset + header.total_bytes();
        if !self.numbers.take(header.sequence) {
            return self.damage(offset, end, DamageReason::Duplicate);
        }
        if let Some(batch_start) = header.batch_start() {
            self.settle(batch_start);
        }
        let position = LogPosition { shard: self.id.shard, segment: self.id.number, offset };
        let payload = self.window.get(offset + FRAME_HEADER_BYTES as u64, header.length as usize);
        self.report.frames += 1;
        if let Err(what) = visitor.frame(Frame { kind: header.kind, sequence: header.sequence, position, payload }) {
            let segment = self.id;
            let range = Damage { segment, offset, len: end - offset, reason: DamageReason::Rejected(what) };
            // It may refer to what a hole in its batch has taken.
            match &mut self.holes {
                Some(holes) => holes.ranges.push(range),
                None => self.report.add(range),
            }
        }
    }

    fn header_at(&mut self, offset: u64) -> Option<FrameHeader> {
        FrameHeader::read(self.window.get(offset, FRAME_HEADER_BYTES), self.id)
    }

    fn look(&mut self, offset: u64) -> Result<Found, ReplayError> {
        let Some(header) = self.header_at(offset) else { return Ok(Found::Nothing) };
        if header.version != FRAME_VERSION {
            let found = u32::from(header.version);
            return Err(ReplayError::OtherVersion { file: self.file.clone(), found, known: u32::from(FRAME_VERSION) });
        }
        if offset + header.total_bytes() > self.window.size {
            return Ok(Found::Cut);
        }
        let total = FRAME_HEADER_BYTES + header.length as usize;
        let payload = self.window.get(offset, total).get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let is_good = payload.len() == header.length as usize && crc32c(payload) == header.payload_crc;
        Ok(if is_good { Found::Frame(header) } else { Found::BadPayload(header) })
    }

    /// The first valid frame header at or after `offset`.
    fn search(&mut self, offset: u64) -> Option<u64> {
        let mut at = offset;
        while at + FRAME_HEADER_BYTES as u64 <= self.window.size {
            let id = self.id;
            let bytes = self.window.get(at, WINDOW_BYTES);
            let mut seen = 0;
            while let Some(hit) = bytes.get(seen..).and_then(|rest| rest.iter().position(|b| *b == FRAME_MAGIC[0])) {
                let start = seen + hit;
                let Some(candidate) = bytes.get(start..start + FRAME_HEADER_BYTES) else { break };
                if FrameHeader::read(candidate, id).is_some() {
                    return Some(at + start as u64);
                }
                seen = start + 1;
            }
            let step = bytes.len().saturating_sub(FRAME_HEADER_BYTES - 1);
            if step == 0 {
                break;
            }
            at += step as u64;
        }
        None
    }
}

/// The frame numbers of a segment that have been seen.
#[derive(Debug, Default)]
struct Numbers {
    next: u32,
    missing: BTreeSet<u32>,
    /// Missing numbers that are only counted: a gap too wide to list.
    missing_more: u64,
}

/// Gaps wider than this are counted, not listed.
const GAP_LISTED_MAX: u32 = 100_000;

impl Numbers {
    /// Notes a number; false if it was there before.
    fn take(&mut self, number: u32) -> bool {
        if number < self.next {
            return self.missing.remove(&number);
        }
        let gap = number - self.next;
        if gap <= GAP_LISTED_MAX {
            self.missing.extend(self.next..number);
        } else {
            self.missing_more += u64::from(gap);
        }
        self.next = number.saturating_add(1);
        true
    }

    /// How many numbers below `limit` (and below the last one seen) are missing.
    fn missing_below(&self, limit: u32) -> u64 {
        self.missing.range(..limit).count() as u64 + self.missing_more
    }
}

/// A file seen through a buffer that moves forward.
#[derive(Debug)]
struct Window {
    file: Arc<dyn DiskRead>,
    size: u64,
    base: u64,
    bytes: Vec<u8>,
    unreadable: Vec<(u64, u64)>,
    error: Option<DiskError>,
}

impl Window {
    fn open(file: Arc<dyn DiskRead>) -> Result<Self, DiskError> {
        let size = file.len()?;
        Ok(Self { file, size, base: 0, bytes: Vec::new(), unreadable: Vec::new(), error: None })
    }

    /// `len` bytes at `offset`; fewer at the end of the file. Bytes that the medium does not give read as zeros; another
    /// error is kept for [`Window::result`].
    fn get(&mut self, offset: u64, len: usize) -> &[u8] {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let is_inside = offset >= self.base && offset + len as u64 <= self.base + self.bytes.len() as u64;
        if !is_inside {
            self.base = offset;
            self.bytes = self.load(offset, len.max(WINDOW_BYTES).min(left));
        }
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
        self.bytes.get(start..start.saturating_add(len)).unwrap_or_default()
    }

    fn load(&mut self, offset: u64, len: usize) -> Vec<u8> {
        match self.file.read_at(offset, len) {
            Ok(bytes) => bytes,
            Err(e) if e.kind == DiskErrorKind::Media => self.load_pages(offset, len),
            Err(e) => {
                self.error.get_or_insert(e);
                Vec::new()
            }
        }
    }

    /// Page by page, so that one bad page costs only itself.
    fn load_pages(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let to_page_end = PAGE_BYTES - usize::try_from(at % PAGE_BYTES as u64).unwrap_or(0);
            let want = to_page_end.min(len - bytes.len());
            let target = bytes.len() + want;
            match self.file.read_at(at, want) {
                Ok(page) => bytes.extend_from_slice(&page),
                Err(_) => self.unreadable.push((at, at + want as u64)),
            }
            bytes.resize(target, 0);
        }
        bytes
    }

    fn was_unreadable(&self, from: u64, to: u64) -> bool {
        self.unreadable.iter().any(|(start, end)| *start < to && from < *end)
    }

    fn result(&self) -> Result<(), ReplayError> {
        self.error.clone().map_or(Ok(()), |e| Err(e.into()))
    }
}
