//! Reading the configuration again while the server runs: by `SIGHUP`, or `POST /-/reload` where the admin API is on.
//!
//! ```text
//! file ─▶ load and check all of it ─▶ limits, retention, log level: replaced ─▶ what else differs is named: next start
//!              └─ anything wrong: nothing changes; log line, metric, runtimeinfo, the answer of /-/reload
//! ```
//!
//! Invariant: what is in force is one file's settings, never a mixture of a good and a bad one. Flags and environment win over the
//! file at a reload as they do at the start.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use quiver_core::Retention;
use quiver_gateway::Gateway;
use quiver_model::{Clock, Limits};

use crate::config::{Config, ConfigError, ServeArgs, keep_text};
use crate::database::Database;

/// Sets the filter of the log.
pub type SetLog = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Where the configuration comes from, and what besides the database follows it.
pub struct Origin {
    /// Flags and environment, which name the file.
    pub args: ServeArgs,
    /// Sets the filter of the log.
    pub set_log: SetLog,
}

/// See the module.
pub struct Reload {
    origin: Origin,
    in_force: Mutex<Config>,
    database: Database,
    gateway: OnceLock<Weak<Gateway>>,
    clock: Arc<dyn Clock>,
}

/// The retention of a configuration, as the store takes it.
pub fn retention_of(config: &Config) -> Result<Retention, ConfigError> {
    let rules = config.retention_rules.iter().map(|r| r.parse()).collect::<Result<Vec<_>, _>>()?;
    Ok(Retention { keep_ms: config.retention_ms, rules, bytes_max: config.retention_bytes })
}

/// Retention as people read it.
pub fn retention_text(config: &Config) -> String {
    keep_text(config.retention_ms)
}

impl Reload {
    /// Reloads for a database that runs under `config`.
    pub fn new(origin: Origin, config: Config, database: Database, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { origin, in_force: Mutex::new(config), database, gateway: OnceLock::new(), clock })
    }

    /// Tells this gateway how reloads go.
    pub fn tell(&self, gateway: &Arc<Gateway>) {
        let _ = self.gateway.set(Arc::downgrade(gateway));
    }

    /// Reads the configuration again. Blocks.
    pub fn run(&self) -> Result<(), String> {
        let mut in_force = self.in_force.lock();
        let done = self.apply(&mut in_force).map_err(|e| e.to_string());
        let gateway = self.gateway.get().and_then(Weak::upgrade);
        match &done {
            Ok(done) if done.later.is_empty() => tracing::info!("{done}"),
            Ok(done) => tracing::warn!("{done}"),
            Err(e) => tracing::error!("the configuration was not reloaded, the old one stays in force: {e}"),
        }
        if let Some(g) = gateway {
            let mut settings = g.settings.lock();
            match &done {
                Ok(_) => {
                    g.counters.reloads.add(1);
                    settings.read_ms = self.clock.now_ms();
                    settings.error = None;
                    settings.retention = retention_text(&in_force);
                    settings.flags = in_force.flags();
                }
                Err(e) => {
                    settings.error = Some(e.clone());
                    g.counters.reload_failures.add(1);
                }
            }
        }
        done.map(|_| ())
    }

    fn apply(&self, in_force: &mut Config) -> Result<Changes, ConfigError> {
        let mut new = Config::load(&self.origin.args)?;
        let retention = retention_of(&new)?;
        (self.origin.set_log)(&new.log).map_err(|why| ConfigError::Value { place: "log".to_owned(), why })?;
        let asked = new.clone();
        let before = in_force.clone();
        keep_fixed(&mut new.limits, &in_force.limits);
        self.database.limits().set(new.limits.clone());
        self.database.set_retention(retention);
        let Config { limits, retention_ms, retention_rules, retention_bytes, log, .. } = new;
        *in_force = Config { limits, retention_ms, retention_rules, retention_bytes, log, ..in_force.clone() };
        let memory = quiver_persistence::memory_bytes();
        let known = before.warnings(memory);
        in_force.warnings(memory).iter().filter(|w| !known.contains(w)).for_each(|w| tracing::warn!("{w}"));
        Ok(Changes::between(&before, in_force, &asked))
    }
}

/// What a reload changed, and what it could not change.
#[derive(Debug, PartialEq)]
struct Changes {
    /// Setting, old value, new value.
    applied: Vec<(String, String, String)>,
    /// Settings that differ and wait for a restart.
    later: Vec<String>,
}

impl Changes {
    fn between(before: &Config, now: &Config, asked: &Config) -> Self {
        let different = |old: &Config, new: &Config| -> Vec<(String, String, String)> {
            let old = old.flags();
            let value = |name: &str| old.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str()).to_owned();
            let pairs = new.flags().into_iter().map(|(name, new)| (value(&name), name, new));
            pairs.filter(|(old, _, new)| old != new).map(|(old, name, new)| (name, old, new)).collect()
        };
        let mut later: Vec<String> = different(now, asked).into_iter().map(|(name, ..)| name).collect();
        // What is not shown anywhere may have changed, too.
        if asked.features != now.features {
            later.push("enable-feature".into());
        }
        if asked.caches != now.caches && !later.iter().any(|n| is_of_caches(n)) {
            // A tier that was switched off has no flags left; else it is a secret.
            later.push("tier-access-key, tier-secret-key or another secret of the remote store".into());
        }
        Self { applied: different(before, now), later }
    }
}

fn is_of_caches(name: &str) -> bool {
    ["tier", "cache", "memory-budget", "prefetch"].iter().any(|start| name.starts_with(start))
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("configuration reloaded")?;
        let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
        let changes = self.applied.iter().map(|(name, old, new)| format!("{name} {} → {}", shown(old), shown(new)));
        let changes = changes.collect::<Vec<_>>().join(", ");
        match (changes.as_str(), self.later.is_empty()) {
            ("", true) => f.write_str("; nothing changed"),
            ("", false) => write!(f, "; restart to apply: {}", self.later.join(", ")),
            (changes, true) => write!(f, " ({changes})"),
            (changes, false) => write!(f, " ({changes}); restart to apply: {}", self.later.join(", ")),
        }
    }
}

/// Limits that queues and pools were made of stay as they are.
fn keep_fixed(limits: &mut Limits, old: &Limits) {
    for (name, value) in old.list() {
        if Limits::FIXED.contains(&name) {
            // It was set by this name before.
            let _ = limits.set(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_says_what_changed_and_what_waits() {
        let before =
            Config::load(&ServeArgs { retention: Some("30d".into()), ..ServeArgs::default() }).expect("defaults");
        let text = |now: &Config, asked: &Config| Changes::between(&before, now, asked).to_string();
        assert_eq!(text(&before, &before), "configuration reloaded; nothing changed");
        let mut now = before.clone();
        now.retention_ms = Some(3 * 86_400_000);
        now.limits.labels_max = 7;
        assert_eq!(text(&now, &now), "configuration reloaded (retention 30d → 3d, limit.labels_max 64 → 7)");
        let mut asked = now.clone();
        asked.http = "127.0.0.1:1".parse().expect("an address");
        asked.features.fill_modifiers = true;
        let want = "configuration reloaded (retention 30d → 3d, limit.labels_max 64 → 7); restart to apply: http-listen, enable-feature";
        assert_eq!(text(&now, &asked), want);
        let asked = Config { head_bytes: 7 << 20, ..before.clone() };
        assert_eq!(text(&before, &asked), "configuration reloaded; restart to apply: head-bytes");
    }
}
