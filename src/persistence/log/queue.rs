//! The queue of a shard: many threads push, the writer takes all that waits.
//!
//! Invariants
//! 1. Bounded by entries and by bytes, both counted until an entry is committed; a single entry larger than the bound
//!    passes alone.
//! 2. A rotation is taken after all that was pushed before it and before all that was pushed after it.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::LogError;

/// Where the writer of a rotated shard reports its first new segment.
pub(super) type RotateReply = Sender<Result<u64, LogError>>;

#[derive(Debug)]
pub(super) struct Queue<E> {
    state: Mutex<State<E>>,
    wake: Condvar,
    entries_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct State<E> {
    items: VecDeque<Item<E>>,
    /// Entries waiting and in the writer's hands.
    entries: usize,
    bytes: usize,
    is_closed: bool,
}

#[derive(Debug)]
enum Item<E> {
    Entry(E, usize),
    Rotate(RotateReply),
}

/// What the writer has to do next.
#[derive(Debug)]
pub(super) enum Work {
    /// Entries were moved to the batch.
    Batch,
    /// Start a new segment and say so.
    Rotate(RotateReply),
    /// The deadline has passed.
    Due,
    /// Nothing is left and nothing will come.
    Closed,
}

impl<E> Queue<E> {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let state = State { items: VecDeque::new(), entries: 0, bytes: 0, is_closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), entries_max: entries_max.max(1), bytes_max }
    }

    pub(super) fn push(&self, entry: E, bytes: usize) -> Result<(), LogError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(LogError::Closed);
        }
        let is_over = state.entries >= self.entries_max || state.bytes.saturating_add(bytes) > self.bytes_max;
        if is_over && state.entries > 0 {
            return Err(LogError::Busy);
        }
        state.entries += 1;
        state.bytes += bytes;
        state.items.push_back(Item::Entry(entry, bytes));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn push_rotate(&self, reply: RotateReply) -> Result<(), LogError> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(LogError::Closed);
        }
        state.items.push_back(Item::Rotate(reply));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work. A batch is what waits, up to `bytes_max` by hint (at least one entry).
    pub(super) fn take(&self, batch: &mut VecDeque<(E, usize)>, bytes_max: usize, due: Option<Instant>) -> Work {
        let mut state = self.state.lock();
        loop {
            let mut bytes = 0;
            loop {
                match state.items.pop_front() {
                    Some(Item::Entry(entry, hint)) if batch.is_empty() || bytes + hint <= bytes_max => {
                        bytes += hint;
                        batch.push_back((entry, hint));
                    }
                    Some(Item::Rotate(reply)) if batch.is_empty() => return Work::Rotate(reply),
                    Some(other) => {
                        state.items.push_front(other);
                        return Work::Batch;
                    }
                    None if batch.is_empty() => break,
                    None => return Work::Batch,
                }
            }
            if state.is_closed {
                return Work::Closed;
            }
            match due {
                None => self.wake.wait(&mut state),
                Some(due) => {
                    if self.wake.wait_until(&mut state, due).timed_out() && state.items.is_empty() {
                        return Work::Due;
                    }
                }
            }
        }
    }

    /// Makes room for as much again.
    pub(super) fn done(&self, entries: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.entries = state.entries.saturating_sub(entries);
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Entries and bytes that wait or are being written.
    pub(super) fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.entries, state.bytes)
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// Closes it and gives back what was not taken.
    pub(super) fn abandon(&self) -> Vec<E> {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.entries = 0;
        state.bytes = 0;
        let items = std::mem::take(&mut state.items);
        items.into_iter().filter_map(|item| if let Item::Entry(entry, _) = item { Some(entry) } else { None }).collect()
    }
}
