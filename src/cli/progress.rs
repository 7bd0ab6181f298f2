//! How far a long run is, on a terminal: nothing of it is printed elsewhere, or before it takes a moment.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use quiver_model::number::grouped;

/// Time between two looks at how far it is.
const TICK: Duration = Duration::from_millis(100);

fn target(bar: ProgressBar) -> ProgressBar {
    let is_shown = std::io::stderr().is_terminal();
    bar.set_draw_target(if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    bar
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Parts done of a known number. Cleared when it is dropped.
pub struct Bar {
    bar: ProgressBar,
    begun: Instant,
}

impl Bar {
    /// Of so many parts, such as days.
    pub fn of_parts(parts: u64, noun: &str) -> Self {
        let template = format!("{{bar:20}} {noun} {{human_pos}} of {{human_len}}, {{msg}} [{{elapsed}}, {{eta}} left]");
        let bar = styled(target(ProgressBar::new(parts)), &template);
        bar.enable_steady_tick(TICK);
        Self { bar, begun: Instant::now() }
    }

    /// Of parts whose number is not known.
    pub fn of_unknown() -> Self {
        let bar = styled(target(ProgressBar::new_spinner()), "{spinner} {msg} [{elapsed}]");
        bar.enable_steady_tick(TICK);
        Self { bar, begun: Instant::now() }
    }

    /// Standard error is no terminal: no progress is shown.
    pub fn is_hidden(&self) -> bool {
        self.bar.is_hidden()
    }

    /// Another part is done.
    pub fn part_done(&self) {
        self.bar.inc(1);
    }

    /// Says more; `rate` writes how much of something that is a second.
    pub fn say(&self, text: impl FnOnce(&dyn Fn(u64, &str) -> String) -> String) {
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = |n: u64, noun: &str| match seconds {
            s if s < 0.5 => String::new(),
            s => format!(" ({} {noun}/s)", grouped((n as f64 / s) as u64)),
        };
        self.bar.set_message(text(&rate));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes done of a number that is known a little later. Cleared when it is dropped.
pub struct Bytes {
    done: Arc<AtomicU64>,
    bar: ProgressBar,
    ticks: tokio::task::JoinHandle<()>,
}

impl Bytes {
    /// Nothing is done yet.
    pub fn new() -> Self {
        let template = "{bar:20} {bytes} of {total_bytes}, {bytes_per_sec} [{elapsed}, {eta} left]";
        let bar = styled(target(ProgressBar::new(0)), template);
        let done = Arc::new(AtomicU64::new(0));
        let (counted, shown) = (Arc::clone(&done), bar.clone());
        let ticks = tokio::spawn(async move {
            let mut every = tokio::time::interval(TICK);
            loop {
                every.tick().await;
                shown.set_position(counted.load(Ordering::Relaxed));
            }
        });
        Self { done, bar, ticks }
    }

    /// Counts the bytes that are done.
    pub fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// Something that says how many bytes there are, from any thread.
    pub fn total(&self) -> impl Fn(u64) + Send + 'static {
        let bar = self.bar.clone();
        move |n| bar.set_length(n)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.ticks.abort();
        self.bar.finish_and_clear();
    }
}
