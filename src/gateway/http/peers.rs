//! The connections that are open, and what each of them is waited for.
//!
//! A connection and its request note in a [`Peer`] what they do; a sweep once a second judges all of them. A peer is slow only
//! while bytes wait to be moved: a query that computes for long and a connection that is kept open are not.
//!
//! | phase | closed |
//! | --- | --- |
//! | nothing has come yet | after [`SILENT_MS`] |
//! | a head of a request comes | after [`HEAD_MS`], with 408 |
//! | a body is waited for | below [`RATE_BYTES`] a second for `slow_client_ms_max`, with 503 |
//! | an answer waits to be read, in this process or in the kernel | below [`RATE_BYTES`] a second for `slow_client_ms_max` |
//! | kept open | after [`IDLE_MS`]; earlier where all places are taken |

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::Counter;
use crate::rejections::Door;

/// Bytes a second that a peer has to move while bytes wait.
pub const RATE_BYTES: u64 = 1 << 10;
/// Time from the first byte of a request to the end of its headers, ms.
pub const HEAD_MS: u64 = 10_000;
/// Time a new connection may say nothing, ms.
pub const SILENT_MS: u64 = 60_000;
/// Time a connection is kept open between two requests, ms. Prometheus: 5 minutes.
pub const IDLE_MS: u64 = 300_000;
/// Time the rest of a request that was refused is read and thrown away, ms.
pub const CLOSING_MS: u64 = 5_000;
/// An answer of which nothing moved for so long makes room for others, ms.
pub const STALLED_MS: u64 = 2_000;
/// How often all connections are looked at.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Connections closed at once where a new one finds no place.
const IDLE_CLOSED: usize = 64;

/// Why a connection is closed by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseReason {
    /// The headers did not come in time.
    SlowHead = 1,
    /// The body came too slowly.
    SlowBody,
    /// The answer was read too slowly.
    SlowReader,
    /// The answer was not read while others waited for its memory.
    AnswerRoom,
    /// Nothing was asked for long.
    Idle,
    /// The longest idle made room for a new connection.
    Places,
    /// A client went on sending what had been refused.
    Refused,
    /// What came was no request.
    Malformed,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [CloseReason; 8] = [
        CloseReason::SlowHead,
        CloseReason::SlowBody,
        CloseReason::SlowReader,
        CloseReason::AnswerRoom,
        CloseReason::Idle,
        CloseReason::Places,
        CloseReason::Refused,
        CloseReason::Malformed,
    ];

    /// Those of slow clients that the log does not tell of otherwise.
    pub const SLOW: [CloseReason; 3] = [CloseReason::SlowHead, CloseReason::SlowReader, CloseReason::AnswerRoom];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::SlowHead => "slow_head",
            CloseReason::SlowBody => "slow_body",
            CloseReason::SlowReader => "slow_reader",
            CloseReason::AnswerRoom => "answer_room",
            CloseReason::Idle => "idle",
            CloseReason::Places => "places",
            CloseReason::Refused => "refused",
            CloseReason::Malformed => "malformed",
        }
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Opened, and nothing came yet.
    New,
    /// Between two requests.
    Idle,
    /// The head of a request comes.
    Head,
    /// A request is handled; its body may still come.
    Working,
    /// An answer is sent.
    Answering,
    /// Refused; what still comes is thrown away.
    Closing,
}

const PHASES: [Phase; 6] = [Phase::New, Phase::Idle, Phase::Head, Phase::Working, Phase::Answering, Phase::Closing];

/// One connection. The task that serves it writes, the sweep reads.
#[derive(Debug)]
pub struct Peer {
    socket: RawFd,
    began: Instant,
    phase: AtomicU8,
    /// When the phase began.
    since_ms: AtomicU64,
    /// Bodies of requests that have not come whole: the present one, and one that is read on after its answer.
    bodies_open: AtomicUsize,
    /// The handler waits for the body.
    pub body_wanted: AtomicBool,
    /// All of the answer was handed to the connection.
    pub answer_ended: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
    /// When bytes were last written.
    moved_ms: AtomicU64,
    /// The kernel takes no more.
    blocked: AtomicBool,
    /// Bytes of answers in the room for answers.
    pub held: AtomicUsize,
    /// What came was no request: the door it was meant for, and why.
    pub misspoken: OnceLock<(Door, &'static str)>,
    verdict: AtomicU8,
    waker: AtomicWaker,
}

impl Peer {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What it does.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Acquire))]
    }

    /// It begins something else.
    pub fn enter(&self, phase: Phase) {
        // The time first: a sweep in between must not take the age of the phase before for that of this one.
        self.since_ms.store(self.now_ms(), Relaxed);
        self.phase.store(phase as u8, Release);
    }

    /// A body begins to come.
    pub fn body_begins(&self) {
        self.bodies_open.fetch_add(1, Relaxed);
    }

    /// A body has come whole, or nobody waits for the rest.
    pub fn body_ends(&self) {
        self.bodies_open.fetch_sub(1, Relaxed);
    }

    /// Does a body still come?
    pub fn has_open_body(&self) -> bool {
        self.bodies_open.load(Relaxed) > 0
    }

    /// Bytes came.
    pub fn has_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// The kernel took bytes, or none.
    pub fn has_sent(&self, bytes: Option<usize>) {
        match bytes {
            Some(n) => {
                self.sent.fetch_add(n as u64, Relaxed);
                self.moved_ms.store(self.now_ms(), Relaxed);
                self.blocked.store(false, Relaxed);
            }
            None if self.blocked.load(Relaxed) => {}
            None => {
                self.moved_ms.store(self.now_ms(), Relaxed);
                self.blocked.store(true, Relaxed);
            }
        }
    }

    /// Why it is to be closed, if it is.
    pub fn verdict(&self) -> Option<CloseReason> {
        let n = self.verdict.load(Relaxed);
        CloseReason::ALL.into_iter().find(|c| *c as u8 == n)
    }

    /// Is the connection to be closed at once? One whose body is slow is answered first.
    pub fn is_over(&self) -> bool {
        let n = self.verdict.load(Relaxed);
        n != 0 && n != CloseReason::SlowBody as u8
    }

    /// Its task is woken by this when something was decided.
    pub fn watch(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    fn condemn(&self, cause: CloseReason, closed: &Closed) {
        if self.verdict.compare_exchange(0, cause as u8, Relaxed, Relaxed).is_ok() {
            closed.add(cause);
            self.waker.wake();
        }
    }
}

/// Connections closed by this side, by cause.
#[derive(Debug, Default)]
pub struct Closed([Counter; CloseReason::ALL.len()]);

impl Closed {
    /// Counts one.
    fn add(&self, cause: CloseReason) {
        self.0[cause as usize - 1].add(1);
    }

    /// How many for this cause.
    pub fn of(&self, cause: CloseReason) -> u64 {
        self.0[cause as usize - 1].get()
    }
}

/// What a sweep remembers of a connection.
#[derive(Debug, Default)]
struct Seen {
    /// When the body began to be waited for, and bytes received until then.
    body: Option<(u64, u64)>,
    /// When bytes began to wait to be read; bytes acknowledged and bytes written until then.
    answer: Option<(u64, u64, u64)>,
    /// Bytes written when none waited.
    drained: u64,
}

/// All connections of a port.
#[derive(Debug)]
pub struct Peers {
    began: Instant,
    list: Mutex<(u64, HashMap<u64, (Arc<Peer>, Seen)>)>,
    /// Those closed by this side.
    pub closed: Closed,
    stalled_looked_ms: AtomicU64,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            list: Mutex::default(),
            closed: Closed::default(),
            stalled_looked_ms: AtomicU64::new(0),
        }
    }
}

impl Peers {
    /// Notes a connection. The place has to be dropped before the socket is closed.
    pub fn add(self: &Arc<Self>, socket: RawFd) -> Place {
        let peer = Arc::new(Peer {
            socket,
            began: self.began,
            phase: AtomicU8::new(Phase::New as u8),
            since_ms: AtomicU64::new(0),
            bodies_open: AtomicUsize::new(0),
            body_wanted: AtomicBool::new(false),
            answer_ended: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            misspoken: OnceLock::new(),
            verdict: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        });
        peer.enter(Phase::New);
        let mut list = self.list.lock();
        list.0 += 1;
        let id = list.0;
        list.1.insert(id, (Arc::clone(&peer), Seen::default()));
        Place { peers: Arc::clone(self), id, peer }
    }

    /// Judges every connection.
    pub fn sweep(&self, slow_ms: u64) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut list = self.list.lock();
        for (peer, seen) in list.1.values_mut() {
            // The socket is open: a place leaves the list before its socket is closed.
            if let Some(cause) = judge(peer, seen, now, slow_ms, quiver_core::unsent_bytes) {
                peer.condemn(cause, &self.closed);
            }
        }
    }

    /// Closes connections whose answers did not move for [`STALLED_MS`], the longest first, until so many bytes are free.
    pub fn close_stalled(&self, bytes: usize) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Every answer that is sent wakes all that wait: one of them looks. Who comes too early leaves the time as it is.
        let looked = self.stalled_looked_ms.load(Relaxed);
        if now.saturating_sub(looked) < 20
            || self.stalled_looked_ms.compare_exchange(looked, now, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let list = self.list.lock();
        let stalled = |p: &Peer| {
            p.verdict.load(Relaxed) == 0
                && p.held.load(Relaxed) > 0
                && p.blocked.load(Relaxed)
                && now.saturating_sub(p.moved_ms.load(Relaxed)) >= STALLED_MS
        };
        let mut found: Vec<&Arc<Peer>> = list.1.values().map(|(p, _)| p).filter(|p| stalled(p)).collect();
        found.sort_by_key(|p| p.moved_ms.load(Relaxed));
        let mut freed = 0;
        for peer in found {
            if freed >= bytes {
                break;
            }
            freed += peer.held.load(Relaxed);
            peer.condemn(CloseReason::AnswerRoom, &self.closed);
        }
    }

    /// Closes the connections that have been idle longest, for a new one that finds no place.
    pub fn close_idle(&self) {
        self.close_longest(|phase| matches!(phase, Phase::New | Phase::Idle));
    }

    /// Closes the connections that have said nothing for longest. Those that were answered before are kept: without descriptors
    /// they could not come back.
    pub fn close_silent(&self) {
        self.close_longest(|phase| phase == Phase::New);
    }

    fn close_longest(&self, is_meant: impl Fn(Phase) -> bool) {
        let list = self.list.lock();
        let is_idle = |p: &Peer| p.verdict.load(Relaxed) == 0 && is_meant(p.phase());
        let mut found: Vec<&Arc<Peer>> = list.1.values().map(|(p, _)| p).filter(|p| is_idle(p)).collect();
        found.sort_by_key(|p| p.since_ms.load(Relaxed));
        found.iter().take(IDLE_CLOSED).for_each(|p| p.condemn(CloseReason::Places, &self.closed));
    }
}

fn judge(
    peer: &Peer,
    seen: &mut Seen,
    now: u64,
    slow_ms: u64,
    unsent: impl Fn(RawFd) -> Option<u64>,
) -> Option<CloseReason> {
    if peer.verdict.load(Relaxed) != 0 {
        return None;
    }
    let phase = peer.phase();
    let age_ms = now.saturating_sub(peer.since_ms.load(Relaxed));
    let late = match phase {
        Phase::New => (SILENT_MS, CloseReason::Idle),
        Phase::Idle => (IDLE_MS, CloseReason::Idle),
        Phase::Head => (HEAD_MS, CloseReason::SlowHead),
        Phase::Closing => (CLOSING_MS, CloseReason::Refused),
        Phase::Working | Phase::Answering => (u64::MAX, CloseReason::Idle),
    };
    if age_ms >= late.0 {
        return Some(late.1);
    }
    let least = |ms: u64| RATE_BYTES.saturating_mul(ms) / 1000;
    let received = peer.received.load(Relaxed);
    if phase == Phase::Working && peer.body_wanted.load(Relaxed) {
        let (began, before) = *seen.body.get_or_insert((now, received));
        let waited = now - began;
        if received.saturating_sub(before) >= least(slow_ms.max(1)) {
            seen.body = Some((now, received));
        } else if waited >= slow_ms {
            return Some(CloseReason::SlowBody);
        }
    } else {
        seen.body = None;
    }
    let sent = peer.sent.load(Relaxed);
    let is_blocked = peer.blocked.load(Relaxed);
    if !is_blocked && sent == seen.drained {
        return None;
    }
    // If the system does not tell, a blocked answer waits.
    let waiting = unsent(peer.socket).unwrap_or(u64::from(is_blocked));
    let acknowledged = sent.saturating_sub(waiting);
    if waiting == 0 && !is_blocked {
        (seen.drained, seen.answer) = (sent, None);
        return None;
    }
    let (began, before, written) = *seen.answer.get_or_insert((now, acknowledged, sent));
    if acknowledged >= written || acknowledged.saturating_sub(before) >= least(slow_ms.max(1)) {
        seen.answer = Some((now, acknowledged, sent));
    } else if now - began >= slow_ms {
        return Some(CloseReason::SlowReader);
    }
    None
}

/// A connection's place in the list.
#[derive(Debug)]
pub struct Place {
    peers: Arc<Peers>,
    id: u64,
    /// The connection.
    pub peer: Arc<Peer>,
}

impl Place {
    /// What came was no request, and was answered so.
    pub fn count_malformed(&self) {
        self.peers.closed.add(CloseReason::Malformed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.list.lock().1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps a second apart; bytes the peer reads in each. When it is closed, and why.
    fn read_at(rate: u64, has_more: bool) -> Option<(u64, CloseReason)> {
        let peers = Arc::new(Peers::default());
        let place = peers.add(-1);
        place.peer.enter(Phase::Answering);
        place.peer.sent.store(100_000, Relaxed);
        place.peer.blocked.store(has_more, Relaxed);
        let mut seen = Seen::default();
        (0..100).find_map(|s| {
            let read = (rate * s).min(100_000);
            judge(&place.peer, &mut seen, s * 1000, 20_000, |_| Some(100_000 - read)).map(|c| (s, c))
        })
    }

    #[test]
    fn a_reader_below_the_rate_is_closed_and_one_above_it_is_not() {
        assert_eq!(read_at(1, true), Some((20, CloseReason::SlowReader)));
        // What is left is in the kernel.
        assert_eq!(read_at(1, false), Some((20, CloseReason::SlowReader)));
        assert_eq!(read_at(500, false), Some((20, CloseReason::SlowReader)));
        assert_eq!(read_at(2_000, false), None);
        assert_eq!(read_at(100_000, false), None);
    }

    #[test]
    fn only_a_body_that_is_waited_for_is_slow() {
        let peers = Arc::new(Peers::default());
        let place = peers.add(-1);
        place.peer.enter(Phase::Working);
        let judged = |seen: &mut Seen, s: u64| judge(&place.peer, seen, s * 1000, 20_000, |_| Some(0));
        let mut seen = Seen::default();
        // A query that computes.
        assert!((0..1000).all(|s| judged(&mut seen, s).is_none()));
        place.peer.body_wanted.store(true, Relaxed);
        for s in 1000..1020 {
            place.peer.has_received(1);
            assert_eq!(judged(&mut seen, s), None);
        }
        assert_eq!(judged(&mut seen, 1020), Some(CloseReason::SlowBody));
        let mut seen = Seen::default();
        for s in 2000..2100 {
            place.peer.has_received(2_000);
            assert_eq!(judged(&mut seen, s), None);
        }
    }

    #[test]
    fn phases_have_their_times() {
        let peers = Arc::new(Peers::default());
        let place = peers.add(-1);
        for (phase, ms, cause) in [
            (Phase::New, SILENT_MS, CloseReason::Idle),
            (Phase::Idle, IDLE_MS, CloseReason::Idle),
            (Phase::Head, HEAD_MS, CloseReason::SlowHead),
            (Phase::Closing, CLOSING_MS, CloseReason::Refused),
        ] {
            place.peer.enter(phase);
            let since = place.peer.since_ms.load(Relaxed);
            let mut seen = Seen::default();
            assert_eq!(judge(&place.peer, &mut seen, since + ms - 1, 20_000, |_| None), None);
            assert_eq!(judge(&place.peer, &mut seen, since + ms, 20_000, |_| None), Some(cause));
        }
        drop(place);
        assert!(peers.list.lock().1.is_empty());
    }
}
