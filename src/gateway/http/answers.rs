//! The room for answers that wait for their clients to read them.
//!
//! An answer exists once, as the bytes that hyper writes from, and takes its size of the room until they are written. Where there is
//! no room, connections whose answers do not move are closed, the longest first. A small answer finds room that large ones do
//! not get; one that is larger than the room is sent while no other of its kind is.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::peers::{Peer, Peers};
use crate::Counter;

/// Answers up to this are small.
const SMALL_BYTES: usize = 64 << 10;
/// Answers up to this take no room: what is in them is less than what a connection takes anyhow.
pub const TINY_BYTES: usize = 1 << 10;
/// Time an answer waits for room.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a waiting answer looks again for connections to close.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The room that the answers of all connections share.
#[derive(Debug)]
pub struct AnswerRoom {
    bytes_max: usize,
    state: Mutex<State>,
    freed: Notify,
    peers: Arc<Peers>,
    /// Answers that found no room.
    pub refused: Counter,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// Bytes of answers that are made and wait for room.
    waiting: usize,
    /// One larger than the room is being sent.
    has_oversize: bool,
}

/// There is no room for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("answers that clients have not read fill answer_bytes_max: try again later")]
pub struct NoRoom;

impl AnswerRoom {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize, peers: Arc<Peers>) -> Self {
        Self { bytes_max, state: Mutex::default(), freed: Notify::new(), peers, refused: Counter::default() }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    /// Takes room, now or never.
    pub fn try_take(self: &Arc<Self>, peer: &Arc<Peer>, bytes: usize) -> Option<Taken> {
        let mut state = self.state.lock();
        let most = if bytes <= SMALL_BYTES { self.bytes_max } else { self.bytes_max / 4 * 3 };
        let is_oversize = bytes > most;
        if is_oversize {
            if std::mem::replace(&mut state.has_oversize, true) {
                return None;
            }
        } else if state.used + bytes > most {
            return None;
        } else {
            state.used += bytes;
        }
        drop(state);
        peer.held.fetch_add(bytes, Relaxed);
        Some(Taken { room: Arc::clone(self), peer: Arc::clone(peer), bytes, is_oversize })
    }

    /// Takes room, after a while if need be.
    pub async fn take(self: &Arc<Self>, peer: &Arc<Peer>, bytes: usize) -> Result<Taken, NoRoom> {
        if let Some(taken) = self.try_take(peer, bytes) {
            return Ok(taken);
        }
        let Some(_waiting) = Waiting::begin(self, bytes) else {
            self.refused.add(1);
            return Err(NoRoom);
        };
        let until = Instant::now() + WAIT_MAX;
        loop {
            let freed = self.freed.notified();
            if let Some(taken) = self.try_take(peer, bytes) {
                return Ok(taken);
            }
            self.peers.close_stalled(bytes);
            let look = Instant::now() + LOOK_INTERVAL;
            if look >= until {
                self.refused.add(1);
                return Err(NoRoom);
            }
            let _ = tokio::time::timeout_at(look, freed).await;
        }
    }
}

/// An answer that waits; what it takes meanwhile is bounded, too.
struct Waiting<'a>(&'a AnswerRoom, usize);

impl<'a> Waiting<'a> {
    fn begin(room: &'a AnswerRoom, bytes: usize) -> Option<Self> {
        let mut state = room.state.lock();
        if state.waiting > 0 && state.waiting + bytes > room.bytes_max / 4 {
            return None;
        }
        state.waiting += bytes;
        Some(Self(room, bytes))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= self.1;
    }
}

/// Room that an answer takes; given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    room: Arc<AnswerRoom>,
    peer: Arc<Peer>,
    bytes: usize,
    is_oversize: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.peer.held.fetch_sub(self.bytes, Relaxed);
        let mut state = self.room.state.lock();
        if self.is_oversize {
            state.has_oversize = false;
        } else {
            state.used -= self.bytes;
        }
        let waits = state.waiting > 0;
        drop(state);
        if waits {
            self.room.freed.notify_waiters();
        }
    }
}

impl Taken {
    /// The bytes, which hold the room for as long as any of them are there.
    pub fn over(self: Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _taken: self })
    }
}

/// Answers from this size on wait in pages of their own.
const OWN_PAGES_BYTES: usize = 1 << 20;

/// The bytes of an answer as they wait for the client. Those of a large one return to the system as soon as they are sent: another
/// thread than the one that wrote the answer frees them, so that an allocator would keep them.
pub fn settled(body: Vec<u8>) -> Bytes {
    let pages = if body.len() < OWN_PAGES_BYTES { None } else { quiver_core::in_own_pages(&body) };
    pages.map_or_else(|| Bytes::from(body), Bytes::from_owner)
}

struct Held {
    bytes: Bytes,
    _taken: Arc<Taken>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_take_room_and_give_it_back() {
        let peers = Arc::new(Peers::default());
        let room = Arc::new(AnswerRoom::new(4 << 20, Arc::clone(&peers)));
        let place = peers.add(-1);
        let take = |n: usize| room.try_take(&place.peer, n);
        let first = take(2 << 20).unwrap();
        let bytes = Arc::new(first).over(Bytes::from(vec![1; 10]));
        let part = bytes.slice(3..5);
        drop(bytes);
        assert_eq!((room.used(), place.peer.held.load(Relaxed)), (2 << 20, 2 << 20));
        // Large ones get three quarters, small ones all; one that does not fit at all is alone of its kind.
        assert!(take(2 << 20).is_none());
        let _small = take(SMALL_BYTES).unwrap();
        let oversize = take(5 << 20).unwrap();
        assert!(take(6 << 20).is_none());
        drop(oversize);
        drop(take(6 << 20).unwrap());
        let all: Vec<_> = std::iter::from_fn(|| take(SMALL_BYTES)).collect();
        assert_eq!(all.len(), 31);
        drop(part);
        assert_eq!(room.used(), 32 * SMALL_BYTES);
        drop(all);
        let _large = take(2 << 20).unwrap();
        // One waits, one more finds even that place taken.
        let waits = room.take(&place.peer, 1 << 20);
        let refused = async {
            tokio::task::yield_now().await;
            assert_eq!(room.take(&place.peer, 1 << 20).await.err(), Some(NoRoom));
            drop(_large);
        };
        assert!(tokio::join!(waits, refused).0.is_ok());
        assert_eq!((room.refused.get(), room.used()), (1, SMALL_BYTES));
    }
}
