//! The flags that say for when a query is asked.

use clap::Args;
use quiver_gateway::http::params::parse_duration;
use quiver_model::{Clock, SystemClock};

use super::exit::Failure;
use super::{seconds, times};

/// Points of a range without `--step`.
const POINTS_DEFAULT: i64 = 240;
const HOUR_MS: i64 = 3_600_000;

/// Flags of an instant or a range.
#[derive(Args, Debug)]
pub struct TimeArgs {
    /// Time of the query [default: now]: now-1h, -1h, yesterday, 2026-12-01, 2026-12-01T12:10 (local time), 12:10,
    /// 2026-12-01T12:10:00Z or Unix seconds
    #[arg(long, value_name = "TIME", conflicts_with_all = ["range", "start", "end"], allow_hyphen_values = true)]
    time: Option<String>,
    /// Query a range of this length, such as 1h: from --start, else up to --end or now
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    range: Option<String>,
    /// Start of the range, written like --time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    start: Option<String>,
    /// End of the range, written like --time [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    end: Option<String>,
    /// Step of the range, counted from its start [default: the range / 240, counted from its end]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    step: Option<String>,
}

/// When to evaluate, ms; a step of 0 means an instant.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// First instant.
    pub start: i64,
    /// Last instant.
    pub end: i64,
    /// Distance.
    pub step: i64,
}

/// The time of a flag, ms, or a default if the flag is not given.
pub fn flag(name: &str, text: Option<&String>, now: i64, default: i64) -> Result<i64, Failure> {
    text.map_or(Ok(default), |t| times::parse(t, now)).map_err(|e| Failure::Usage(format!("--{name}: {e}")))
}

impl TimeArgs {
    /// Reads the flags; `hour` asks for the last hour if they name neither an instant nor a range.
    pub fn when(&self, hour: bool) -> Result<When, Failure> {
        let now = SystemClock.now_ms();
        let end = flag("end", self.end.as_ref(), now, now)?;
        let (start, end) = match (&self.range, &self.start) {
            (Some(_), Some(_)) if self.end.is_some() => {
                return Err(Failure::Usage("--start, --end and --range say it twice: two of them are enough".into()));
            }
            (Some(r), Some(_)) => {
                let start = flag("start", self.start.as_ref(), now, end)?;
                (start, start.saturating_add(duration("range", r)?))
            }
            (Some(r), None) => (end.saturating_sub(duration("range", r)?), end),
            (None, Some(_)) => (flag("start", self.start.as_ref(), now, end)?, end),
            (None, None) if hour => {
                let end = flag("time", self.time.as_ref(), now, end)?;
                (end.saturating_sub(HOUR_MS), end)
            }
            (None, None) if self.step.is_some() => {
                return Err(Failure::Usage("--step needs a range: add --range or --start".into()));
            }
            (None, None) => {
                let t = flag("time", self.time.as_ref(), now, end)?;
                return Ok(When { start: t, end: t, step: 0 });
            }
        };
        if start > end {
            let (start, end) = (times::stamp(start), times::stamp(end));
            return Err(Failure::Usage(format!("--start is after --end: {start} is later than {end}")));
        }
        if let Some(s) = &self.step {
            return Ok(When { start, end, step: duration("step", s)? });
        }
        // The last step is at the end: the newest samples are what is looked for.
        let step = (end.saturating_sub(start) / POINTS_DEFAULT).max(1000) / 1000 * 1000;
        let start = start.saturating_add(end.saturating_sub(start) % step);
        Ok(When { start, end, step })
    }
}

fn duration(flag: &str, text: &str) -> Result<i64, Failure> {
    if let Some(length) = text.trim().strip_prefix(['-', '+']) {
        return Err(Failure::Usage(format!("--{flag} takes a length without a sign: {length}")));
    }
    match parse_duration(text) {
        Ok(ms) if ms > 0 => Ok(ms),
        Ok(_) => Err(Failure::Usage(format!("--{flag}: {text:?} is not positive"))),
        Err(_) => {
            Err(Failure::Usage(format!("--{flag}: cannot read {text:?} as a duration; valid are 30s, 5m, 1h30m, 7d")))
        }
    }
}

impl When {
    /// The path of the HTTP API that answers, and its parameters.
    pub fn request(&self, expression: &str) -> (&'static str, Vec<(&'static str, String)>) {
        let mut form = vec![("query", expression.to_owned())];
        if self.step == 0 {
            form.push(("time", seconds(self.start)));
            return ("/api/v1/query", form);
        }
        form.extend([("start", seconds(self.start)), ("end", seconds(self.end)), ("step", seconds(self.step))]);
        ("/api/v1/query_range", form)
    }

    /// The times, for people.
    pub fn shown(&self) -> String {
        // Milliseconds of the present say nothing.
        let whole = |ms: i64| ms.div_euclid(1000) * 1000;
        if self.step == 0 {
            format!("{} {}", times::stamp(whole(self.start)), times::zone(self.start))
        } else {
            times::span(whole(self.start), whole(self.end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(flags: &[(&str, &str)], hour: bool) -> Result<When, String> {
        let said = |name: &str| flags.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let (time, range, start, end, step) = (said("time"), said("range"), said("start"), said("end"), said("step"));
        TimeArgs { time, range, start, end, step }.when(hour).map_err(|e| format!("{e:?}"))
    }

    #[test]
    fn two_of_start_end_and_range_are_enough() {
        let seconds = |flags: &[(&str, &str)]| when(flags, false).map(|w| [w.start, w.end, w.step].map(|ms| ms / 1000));
        assert_eq!(seconds(&[("start", "1000"), ("range", "10m")]), Ok([1000, 1600, 2]));
        assert_eq!(seconds(&[("end", "1600"), ("range", "10m")]), Ok([1000, 1600, 2]));
        assert_eq!(seconds(&[("start", "1000"), ("end", "1600"), ("step", "7s")]), Ok([1000, 1600, 7]));
        assert_eq!(seconds(&[("time", "1000")]), Ok([1000, 1000, 0]));
        assert!(seconds(&[("start", "1"), ("end", "2"), ("range", "1s")]).unwrap_err().contains("two of them"));
        assert!(seconds(&[("range", "-5m")]).unwrap_err().contains("--range takes a length without a sign: 5m"));
    }

    #[test]
    fn the_last_step_is_at_the_end() {
        for (start, end) in [("0", "62498"), ("0", "1"), ("0", "0"), ("5", "246"), ("-9000000000", "9000000000")] {
            let w = when(&[("start", start), ("end", end)], false).unwrap();
            assert_eq!((w.end - w.start) % w.step, 0, "{w:?}");
            assert!(w.start - start.parse::<i64>().unwrap() * 1000 < w.step, "{w:?}");
        }
    }
}
