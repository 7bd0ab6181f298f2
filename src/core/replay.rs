//! Reading the log back into the head, one taker per log shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use quiver_model::{BatchSeries, WriteBatch};
use quiver_persistence::log::SegmentId;
use quiver_persistence::{Frame, ReplayShard};
use tokio::sync::Notify;

use crate::ReadError;
use crate::head::Head;
use crate::ingest::FRAME_BATCH;
use crate::interner::Interner;
use crate::record::{NO_SERIES, Record};
use crate::refusal::SeriesCaps;
use crate::store::LOG_DIR;

/// How far the start is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The log is being looked at; it may still be refused.
    Checking,
    /// Frames are coming.
    Replaying,
    /// All is there.
    Ready,
    /// The log could not be read to its end: no writes.
    Failed(String),
}

/// Tells who waits how far the start is.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: Mutex<Phase>,
    changed: Condvar,
    notify: Notify,
    stopped: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Checking),
            changed: Condvar::new(),
            notify: Notify::new(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().clone()
    }

    pub(crate) fn set(&self, phase: Phase) {
        *self.phase.lock() = phase;
        self.changed.notify_all();
        self.notify.notify_waiters();
    }

    /// Is all there that the log holds? What would take the log's place, or is to count for all of it, has to wait for that.
    pub(crate) fn is_whole(&self) -> Result<(), ReadError> {
        let why = match self.phase() {
            Phase::Ready => return Ok(()),
            Phase::Checking | Phase::Replaying => "the log is still being replayed".to_owned(),
            Phase::Failed(why) => format!("the log could not be read to its end and was left unchanged: {why}"),
        };
        Err(ReadError::Io { file: LOG_DIR.into(), what: why })
    }

    /// The frames still to come are passed over.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Was it told to stop?
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn checked(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Checking {
            *phase = Phase::Replaying;
            self.changed.notify_all();
        }
    }

    /// Blocks while the phase is one of `phases`.
    pub(crate) fn wait_while(&self, phases: &[Phase]) -> Phase {
        let mut phase = self.phase.lock();
        while phases.contains(&phase) {
            self.changed.wait(&mut phase);
        }
        phase.clone()
    }

    /// Waits for the end of the replay.
    pub(crate) async fn finished(&self) -> Phase {
        loop {
            let notified = self.notify.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            match self.phase() {
                Phase::Checking | Phase::Replaying => notified.await,
                phase => return phase,
            }
        }
    }
}

/// Takes the frames of one shard into a head.
pub(crate) struct ShardReplay {
    head: Arc<Head>,
    interner: Arc<Interner>,
    progress: Option<Arc<Progress>>,
    /// Ids of the segment's local refs.
    refs: Vec<u32>,
    record: Record,
    names: WriteBatch,
    ids: Vec<u32>,
}

/// Refs are given from 0 on, so a table is as long as the segment has series. A ref beyond this is damage.
const REFS_MAX: u32 = 1 << 28;

impl ShardReplay {
    pub(crate) fn new(head: Arc<Head>, interner: Arc<Interner>, progress: Option<Arc<Progress>>) -> Self {
        Self {
            head,
            interner,
            progress,
            refs: Vec::new(),
            record: Record::default(),
            names: WriteBatch::default(),
            ids: Vec::new(),
        }
    }

    fn define(&mut self, payload: &[u8]) -> Result<(), String> {
        self.names.clear();
        for (r, at) in &self.record.definitions {
            if *r >= REFS_MAX {
                return Err(format!("series ref {r} is out of range"));
            }
            let from = self.names.label_bytes.len() as u32;
            self.names.label_bytes.extend_from_slice(&payload[at.clone()]);
            let labels = (from, self.names.label_bytes.len() as u32);
            self.names.series.push(BatchSeries { labels, ..BatchSeries::default() });
        }
        // What was acknowledged is kept whatever the limit is now.
        self.head.resolve(&self.names, &mut self.ids, SeriesCaps::NONE, &self.interner).map_err(|e| e.to_string())?;
        for ((r, _), id) in self.record.definitions.iter().zip(&self.ids) {
            if *r as usize >= self.refs.len() {
                self.refs.resize(*r as usize + 1, NO_SERIES);
            }
            self.refs[*r as usize] = *id;
        }
        Ok(())
    }
}

impl ReplayShard for ShardReplay {
    fn segment_start(&mut self, _segment: SegmentId) {
        self.refs.clear();
        if let Some(progress) = &self.progress {
            progress.checked();
        }
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<(), String> {
        if self.progress.as_ref().is_some_and(|p| p.is_stopped()) {
            return Ok(());
        }
        if frame.kind != FRAME_BATCH {
            return Err(format!("frame kind {} is unknown", frame.kind));
        }
        self.record.decode(frame.payload).map_err(|e| e.to_string())?;
        if !self.record.definitions.is_empty() {
            self.define(frame.payload)?;
        }
        self.ids.clear();
        self.ids.extend(self.record.refs.iter().map(|r| self.refs.get(*r as usize).copied().unwrap_or(NO_SERIES)));
        let lost = self.ids.iter().filter(|id| **id == NO_SERIES).count();
        self.head.apply(&self.ids, &mut self.record.batch);
        if lost > 0 {
            return Err(format!("{lost} series are named in no readable frame of the segment"));
        }
        Ok(())
    }
}
