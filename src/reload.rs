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

use crate::config::{Config, ConfigError, ServeArgs};
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
    config.retention_ms.map_or_else(|| "off".to_owned(), |ms| format!("{}s", ms / 1000))
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
            Ok(later) if later.is_empty() => tracing::info!("the configuration is read again"),
            Ok(later) => tracing::warn!(settings = ?later, "the configuration is read again; these need a new start"),
            Err(e) => tracing::error!(error = e, "the configuration is wrong: the old one stays in force"),
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

    /// Settings that differ and have to wait for a new start.
    fn apply(&self, in_force: &mut Config) -> Result<Vec<String>, ConfigError> {
        let mut new = Config::load(&self.origin.args)?;
        let retention = retention_of(&new)?;
        (self.origin.set_log)(&new.log).map_err(|why| ConfigError::Value { key: "log", why })?;
        let asked = new.clone();
        keep_fixed(&mut new.limits, &in_force.limits);
        self.database.limits().set(new.limits.clone());
        self.database.set_retention(retention);
        let Config { limits, retention_ms, retention_rules, retention_bytes, log, .. } = new;
        *in_force = Config { limits, retention_ms, retention_rules, retention_bytes, log, ..in_force.clone() };
        let have = in_force.flags();
        let differs = |(name, value): &(String, String)| have.iter().all(|(n, v)| n != name || v != value);
        let mut later: Vec<String> = asked.flags().into_iter().filter(differs).map(|(name, _)| name).collect();
        // What is not shown anywhere may have changed, too.
        if asked.features != in_force.features && !later.iter().any(|n| n == "enable-feature") {
            later.push("enable-feature".into());
        }
        if asked.caches != in_force.caches && !later.iter().any(|n| n.starts_with("tier") || n.starts_with("cache")) {
            later.push("tier-access-key, tier-secret-key or another secret of the remote store".into());
        }
        Ok(later)
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
