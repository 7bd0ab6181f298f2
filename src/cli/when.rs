//! The flags that say for when a query is asked.

use super::seconds;
use clap::Args;
use quiver_gateway::http::params::{parse_duration, parse_time};
use quiver_model::{Clock, SystemClock};

/// Points of a range without `--step`.
const POINTS_DEFAULT: i64 = 240;

/// Flags of an instant or a range.
#[derive(Args, Debug)]
pub struct TimeArgs {
    /// Instant to ask for: Unix seconds or RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["range", "start"])]
    time: Option<String>,
    /// Ask for a range that ends now (or at --end), such as 1h
    #[arg(long, value_name = "DURATION", conflicts_with = "start")]
    range: Option<String>,
    /// Start of the range
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// End of the range [default: now]
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Step of the range [default: the range / 240]
    #[arg(long, value_name = "DURATION")]
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

impl TimeArgs {
    /// Reads the flags; `hour` asks for the last hour where they name neither an instant nor a range.
    pub fn when(&self, hour: bool) -> Result<When, String> {
        let now = SystemClock.now_ms();
        let time = |flag: &str, text: &Option<String>, default: i64| match text {
            None => Ok(default),
            Some(t) if t == "now" => Ok(now),
            Some(t) => parse_time(t).map_err(|e| format!("--{flag}: {e}")),
        };
        let duration = |flag: &str, text: &str| {
            parse_duration(text)
                .map_err(|e| format!("--{flag}: {e}"))
                .and_then(|ms| if ms > 0 { Ok(ms) } else { Err(format!("--{flag}: {text:?} is not positive")) })
        };
        let end = time("end", &self.end, now)?;
        let start = match (&self.range, &self.start) {
            (Some(r), _) => end.saturating_sub(duration("range", r)?),
            (None, Some(_)) => time("start", &self.start, end)?,
            (None, None) if hour => end - 3_600_000,
            (None, None) => {
                let t = time("time", &self.time, end)?;
                return Ok(When { start: t, end: t, step: 0 });
            }
        };
        if start > end {
            return Err("--start is after --end".into());
        }
        let step = match &self.step {
            Some(s) => duration("step", s)?,
            None => ((end - start) / POINTS_DEFAULT).max(1000) / 1000 * 1000,
        };
        Ok(When { start, end, step })
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
}
