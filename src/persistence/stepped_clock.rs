//! A clock that is set from outside, for tests of a whole server: by so many milliseconds, or by what a file says.
//!
//! ```text
//! QUIVER_CLOCK=3600000        an hour ahead
//! QUIVER_CLOCK=-315360000000  ten years behind
//! QUIVER_CLOCK=@/tmp/ahead    the milliseconds that stand in the file whenever the time is asked for; none: the right time
//! ```
//!
//! Without the variable the clock is the machine's own. Time that passes is never touched: a monotonic clock cannot be set either.

use std::path::PathBuf;
use std::sync::Arc;

use quiver_model::{Clock, SystemClock};

/// The environment variable that sets the clock.
pub const CLOCK_VARIABLE: &str = "QUIVER_CLOCK";

/// The machine's clock, or, where [`CLOCK_VARIABLE`] asks for it, one that is set.
pub fn open_clock() -> Result<Arc<dyn Clock>, String> {
    let Ok(text) = std::env::var(CLOCK_VARIABLE) else { return Ok(Arc::new(SystemClock)) };
    let ahead = Ahead::parse(&text)?;
    tracing::warn!(ahead = text, "the clock is set by {CLOCK_VARIABLE}");
    Ok(Arc::new(SteppedClock { ahead }))
}

#[derive(Debug)]
enum Ahead {
    Fixed(i64),
    File(PathBuf),
}

impl Ahead {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(path) => Ok(Self::File(path.into())),
            None => {
                let ms = text.trim().parse();
                ms.map(Self::Fixed).map_err(|_| format!("{CLOCK_VARIABLE}={text:?}: neither milliseconds nor @FILE"))
            }
        }
    }

    fn ms(&self) -> i64 {
        match self {
            Self::Fixed(ms) => *ms,
            // Whoever rewrites the file renames another over it: it is whole or missing.
            Self::File(path) => std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0),
        }
    }
}

#[derive(Debug)]
struct SteppedClock {
    ahead: Ahead,
}

impl Clock for SteppedClock {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms().saturating_add(self.ahead.ms())
    }

    fn elapsed_ms(&self) -> u64 {
        SystemClock.elapsed_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_as_far_ahead_as_it_was_told() {
        let is_ahead = |text: &str, ms: i64| {
            let clock = SteppedClock { ahead: Ahead::parse(text).unwrap() };
            let before = SystemClock.now_ms() + ms;
            let now = clock.now_ms();
            assert!(before <= now && now <= SystemClock.now_ms() + ms, "{text}");
        };
        is_ahead("3600000", 3_600_000);
        is_ahead("-315360000000", -315_360_000_000);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ahead");
        let named = format!("@{}", file.display());
        is_ahead(&named, 0);
        std::fs::write(&file, "1000\n").unwrap();
        is_ahead(&named, 1000);
        assert!(Ahead::parse("soon").unwrap_err().contains("QUIVER_CLOCK=\"soon\""));
    }
}
