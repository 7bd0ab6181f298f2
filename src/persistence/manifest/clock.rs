//! What a manifest keeps of the clock: the latest time that was believed, and a jump that is not believed yet.
//!
//! Kept in the `extra` of the manifest, so that the format of version 1 is what it was. When entries were published says less:
//! a merge by a wrong clock publishes everything anew.

use serde::{Deserialize, Serialize};

use super::Manifest;

/// Key in `extra`.
const CLOCK_KEY: &str = "clock";

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMark {
    /// The latest time that was believed, ms.
    pub believed_ms: i64,
    /// It is believed only because the clock showed it for long, after a jump.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_after_jump: bool,
    /// The clock shows a time that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<ClockDoubt>,
}

/// A time that is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockDoubt {
    /// What the clock showed, ms.
    pub clock_ms: i64,
    /// Running for so long as it shows that, ms, makes it believed.
    pub left_ms: u64,
}

impl Manifest {
    /// What is known of the clock. A mark that cannot be read is none.
    pub fn clock(&self) -> Option<ClockMark> {
        ClockMark::deserialize(self.extra.get(CLOCK_KEY)?).ok()
    }

    /// Notes what is known of the clock; with nothing known, what was noted before stays.
    pub fn note_clock(&mut self, mark: Option<ClockMark>) {
        if let Some(value) = mark.and_then(|mark| serde_json::to_value(mark).ok()) {
            self.extra.insert(CLOCK_KEY.to_owned(), value);
        }
    }
}
