//! Configuration: defaults, then a JSON file, then environment, then flags; one schema for all.
//!
//! Invariants
//! 1. A key of the file is the name of a flag; unknown keys and wrong types are errors that name the key.
//! 2. What is not said has a default that works: data in `./quiver-data`, loopback only.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use quiver_model::Limits;
use quiver_persistence::remote::Secret;
use quiver_query::Features;
use quiver_query::promql::{ParseOptions, parse_metric_selector};
use serde::Deserialize;

mod sizes;
mod tier;

use sizes::Sizes;
use tier::TierFile;
pub(crate) use tier::s3_variables;
pub use tier::{CacheConfig, TierArgs, TierConfig};

/// An address to listen on, or not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Do not listen.
    Off,
    /// Listen there.
    On(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s.eq_ignore_ascii_case("off") {
            return Ok(Listen::Off);
        }
        // `:9095` and `localhost:9095` are what people type.
        let full = match s.strip_prefix(':') {
            Some(port) => format!("0.0.0.0:{port}"),
            None => s.replacen("localhost:", "127.0.0.1:", 1),
        };
        full.parse().map(Listen::On).map_err(|_| format!("{s:?} is not an address like 127.0.0.1:9095, nor \"off\""))
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "on" | "true" | "1" => Ok(Switch(true)),
            "off" | "false" | "0" => Ok(Switch(false)),
            _ => Err(format!("{s:?} is neither \"on\" nor \"off\"")),
        }
    }
}

/// Flags of `quiver serve`. Each is also a key of the JSON file and an environment variable `QUIVER_…`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Folder that holds the data; made where it does not exist [default: ./quiver-data]
    #[arg(long, env = "QUIVER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the HTTP port, or "off" [default: 127.0.0.1:9095]
    #[arg(long, env = "QUIVER_HTTP_LISTEN", value_name = "ADDR|off")]
    pub http_listen: Option<Listen>,
    /// Address of the gRPC port (OTLP), or "off" [default: 127.0.0.1:4317]
    #[arg(long, env = "QUIVER_GRPC_LISTEN", value_name = "ADDR|off")]
    pub grpc_listen: Option<Listen>,
    /// Address of the Postgres port; only "off" for now [default: off]
    #[arg(long, env = "QUIVER_PG_LISTEN", value_name = "ADDR|off")]
    pub pg_listen: Option<Listen>,
    /// Read settings from a JSON file with the same keys as these flags
    #[arg(long, env = "QUIVER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Switch on features, by Prometheus's names, separated by commas
    #[arg(long, env = "QUIVER_ENABLE_FEATURE", value_name = "NAME,…", value_delimiter = ',')]
    pub enable_feature: Vec<String>,
    /// Record the server's own metrics as series every 15 s [default: on]
    #[arg(long, env = "QUIVER_SELF_METRICS", value_name = "on|off")]
    pub self_metrics: Option<Switch>,
    /// Serve POST /api/v1/admin/… [default: off]
    #[arg(long, env = "QUIVER_ADMIN_API", value_name = "on|off")]
    pub admin_api: Option<Switch>,
    /// Drop data older than this, such as 30d; off: keep everything [default: off]
    #[arg(long, env = "QUIVER_RETENTION", value_name = "DURATION|off")]
    pub retention: Option<String>,
    /// Drop the oldest blocks while blocks and log take more bytes than this, such as 10GB [default: off]
    #[arg(long, env = "QUIVER_RETENTION_SIZE", value_name = "BYTES|off")]
    pub retention_size: Option<String>,
    /// When a write is acknowledged: "commit" (after its sync) or "interval" (a sync every 100 ms) [default: commit]
    #[arg(long, env = "QUIVER_DURABILITY", value_name = "commit|interval")]
    pub durability: Option<String>,
    /// Bytes of samples the head may hold before it is flushed, such as 512MiB [default: an eighth of the memory, at most 512MiB]
    #[arg(long, env = "QUIVER_HEAD_BYTES", value_name = "BYTES")]
    pub head_bytes: Option<String>,
    /// Map the files of blocks; off: read them when they are opened, and keep them in memory [default: on]
    #[arg(long, env = "QUIVER_MAP_BLOCKS", value_name = "on|off")]
    pub map_blocks: Option<Switch>,
    /// What is logged: error, warn, info, debug, trace, or a list like info,quiver_core=debug [default: info]
    #[arg(long, env = "QUIVER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// The remote tier and the caches.
    #[command(flatten)]
    pub tier: TierArgs,
    /// Set a limit of the README's table, such as query_timeout_ms=30000 or query_memory_bytes_max=256MiB; repeatable
    #[arg(long, env = "QUIVER_LIMIT", value_name = "NAME=VALUE,…", value_delimiter = ',')]
    pub limit: Vec<String>,
}

/// The file's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    data_dir: Option<PathBuf>,
    http_listen: Option<String>,
    grpc_listen: Option<String>,
    pg_listen: Option<String>,
    enable_feature: Option<Vec<String>>,
    self_metrics: Option<String>,
    admin_api: Option<String>,
    retention: Option<String>,
    retention_size: Option<String>,
    /// Only here: series that are kept for another time than `retention`.
    retention_rules: Option<Vec<FileRule>>,
    durability: Option<String>,
    head_bytes: Option<String>,
    map_blocks: Option<String>,
    log: Option<String>,
    tier_url: Option<String>,
    tier_after: Option<String>,
    tier_drop_after: Option<String>,
    tier_cache_size: Option<String>,
    tier_takeover: Option<String>,
    tier_endpoint: Option<String>,
    tier_region: Option<String>,
    tier_ca_file: Option<PathBuf>,
    tier_access_key: Option<String>,
    tier_secret_key: Option<Secret>,
    cache_size: Option<String>,
    memory_budget: Option<String>,
    prefetch: Option<String>,
    limit: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

impl File {
    /// The keys of tier and caches.
    fn tier(&mut self) -> TierFile {
        TierFile {
            tier_url: self.tier_url.take(),
            tier_after: self.tier_after.take(),
            tier_drop_after: self.tier_drop_after.take(),
            tier_cache_size: self.tier_cache_size.take(),
            tier_takeover: self.tier_takeover.take(),
            tier_endpoint: self.tier_endpoint.take(),
            tier_region: self.tier_region.take(),
            tier_ca_file: self.tier_ca_file.take(),
            tier_access_key: self.tier_access_key.take(),
            tier_secret_key: self.tier_secret_key.take(),
            cache_size: self.cache_size.take(),
            memory_budget: self.memory_budget.take(),
            prefetch: self.prefetch.take(),
        }
    }
}

/// A rule of the file's `retention-rules`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileRule {
    selector: String,
    duration: String,
}

/// Series of a selector and how long they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// PromQL selector.
    pub selector: String,
    /// How long, ms; `None`: for ever.
    pub keep_ms: Option<i64>,
}

impl Rule {
    /// As the store takes it.
    pub fn parse(&self) -> Result<quiver_core::RetentionRule, ConfigError> {
        let options =
            ParseOptions::new(&Limits::default(), Features { unquoted_utf8_names: true, ..Features::default() });
        let parsed = parse_metric_selector(&self.selector, &options);
        let matchers = parsed.map_err(|e| ConfigError::Value {
            key: "retention-rules",
            why: format!("{:?} is not a selector: {e}", self.selector),
        })?;
        Ok(quiver_core::RetentionRule { matchers, keep_ms: self.keep_ms })
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The file does not parse.
    #[error("{path}:{line}:{column}: {why}")]
    Syntax {
        /// Which.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        why: String,
    },
    /// A value that cannot be.
    #[error("{key}: {why}")]
    Value {
        /// Flag or key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Settings in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data folder.
    pub data_dir: PathBuf,
    /// HTTP port.
    pub http: Listen,
    /// gRPC port.
    pub grpc: Listen,
    /// Features switched on.
    pub features: quiver_query::Features,
    /// Records own metrics.
    pub self_metrics: bool,
    /// Serves the admin API.
    pub admin_api: bool,
    /// Retention, ms.
    pub retention_ms: Option<i64>,
    /// Series that are kept for another time.
    pub retention_rules: Vec<Rule>,
    /// Bytes that blocks and log may take.
    pub retention_bytes: Option<u64>,
    /// `None`: synced before the acknowledgement; else synced every so many ms.
    pub sync_interval_ms: Option<u64>,
    /// Head size that starts a flush.
    pub head_bytes: usize,
    /// Maps the files of blocks.
    pub map_blocks: bool,
    /// What is logged.
    pub log: String,
    /// Limits.
    pub limits: Limits,
    /// The remote tier and the caches.
    pub caches: CacheConfig,
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let shown = path.display().to_string();
    let text = quiver_persistence::read_text(path)
        .map_err(|why| ConfigError::Unreadable { path: shown.clone(), why: why.to_string() })?;
    serde_json::from_str(&text).map_err(|e| ConfigError::Syntax {
        path: shown,
        line: e.line(),
        column: e.column(),
        why: e.to_string(),
    })
}

/// A size such as `512MiB`, `1G` or a plain number of bytes.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let factor: usize = match text[digits..].trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(format!("{text:?} is not a size like 512MiB")),
    };
    text[..digits]
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is not a size like 512MiB"))
}

/// A limit is a number, or a size such as `256MiB`.
fn set_limit(limits: &mut Limits, name: &str, value: &str) -> Result<(), ConfigError> {
    let failed = |why| ConfigError::Value { key: "limit", why };
    let n = parse_bytes(value).map_err(|_| failed(format!("{value:?} is not a number or a size like 256MiB")))?;
    limits.set(name.trim(), n as u64).map_err(failed)
}

impl Config {
    /// Merges defaults, file, environment and flags (clap has merged the last two).
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        let mut file = match &args.config {
            Some(path) => read_file(path)?,
            None => File::default(),
        };
        let tier_file = file.tier();
        fn pick<T: FromStr<Err = String>>(
            key: &'static str,
            flag: Option<T>,
            file: Option<&str>,
            default: T,
        ) -> Result<T, ConfigError> {
            match (flag, file) {
                (Some(v), _) => Ok(v),
                (None, Some(text)) => text.parse().map_err(|why| ConfigError::Value { key, why }),
                (None, None) => Ok(default),
            }
        }
        let address = |port| Listen::On(SocketAddr::from(([127, 0, 0, 1], port)));
        let http = pick("http-listen", args.http_listen, file.http_listen.as_deref(), address(9095))?;
        let grpc = pick("grpc-listen", args.grpc_listen, file.grpc_listen.as_deref(), address(4317))?;
        if pick("pg-listen", args.pg_listen, file.pg_listen.as_deref(), Listen::Off)? != Listen::Off {
            let why = "the Postgres protocol is not part of this version: use --pg-listen off".into();
            return Err(ConfigError::Value { key: "pg-listen", why });
        }
        let names = if args.enable_feature.is_empty() {
            file.enable_feature.unwrap_or_default()
        } else {
            args.enable_feature.clone()
        };
        let (features, unknown) = quiver_query::Features::parse(&names.join(","));
        if let Some(name) = unknown.first() {
            let why = format!("there is no feature {name:?}");
            return Err(ConfigError::Value { key: "enable-feature", why });
        }
        let duration = |key: &'static str, text: &str| match text {
            "off" | "0" => Ok(None),
            // With a unit, unlike in requests: whoever means 30 days must not lose all but 30 seconds.
            text => match quiver_model::duration::parse_ms(text) {
                Some(ms) if ms > 0 => Ok(Some(ms)),
                _ => Err(ConfigError::Value { key, why: format!("{text:?} is not a duration with a unit, like 30d") }),
            },
        };
        let retention = args.retention.clone().or(file.retention).unwrap_or_else(|| "off".into());
        let retention_ms = duration("retention", &retention)?;
        let mut retention_rules = Vec::new();
        for r in file.retention_rules.unwrap_or_default() {
            let keep_ms = duration("retention-rules", &r.duration)?;
            let rule = Rule { selector: r.selector, keep_ms };
            rule.parse()?;
            retention_rules.push(rule);
        }
        let size = args.retention_size.clone().or(file.retention_size).unwrap_or_else(|| "off".into());
        let retention_bytes = match size.as_str() {
            "off" | "0" => None,
            text => {
                let bytes = parse_bytes(text).map_err(|why| ConfigError::Value { key: "retention-size", why })?;
                Some(bytes as u64)
            }
        };
        let durability = args.durability.clone().or(file.durability).unwrap_or_else(|| "commit".into());
        let sync_interval_ms = match durability.as_str() {
            "commit" => None,
            "interval" => Some(100),
            other => {
                let why = format!("{other:?} is neither \"commit\" nor \"interval\"");
                return Err(ConfigError::Value { key: "durability", why });
            }
        };
        let sizes = Sizes::of(quiver_persistence::memory_bytes());
        let mut limits = sizes.limits();
        for (name, value) in file.limit.unwrap_or_default() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            set_limit(&mut limits, &name, &text)?;
        }
        for pair in &args.limit {
            let Some((name, value)) = pair.split_once('=') else {
                let why = format!("{pair:?} is not NAME=VALUE");
                return Err(ConfigError::Value { key: "limit", why });
            };
            set_limit(&mut limits, name, value)?;
        }
        let log = args.log.clone().or(file.log).filter(|f| !f.is_empty()).unwrap_or_else(|| "info".into());
        if let Err(e) = tracing_subscriber::EnvFilter::try_new(&log) {
            return Err(ConfigError::Value { key: "log", why: format!("{log:?}: {e}") });
        }
        let head_bytes = match args.head_bytes.clone().or(file.head_bytes) {
            Some(text) => parse_bytes(&text).map_err(|why| ConfigError::Value { key: "head-bytes", why })?,
            None => sizes.head,
        };
        Ok(Self {
            data_dir: args.data_dir.clone().or(file.data_dir).unwrap_or_else(|| "quiver-data".into()),
            http,
            grpc,
            features,
            self_metrics: pick("self-metrics", args.self_metrics, file.self_metrics.as_deref(), Switch(true))?.0,
            admin_api: pick("admin-api", args.admin_api, file.admin_api.as_deref(), Switch(false))?.0,
            retention_ms,
            retention_rules,
            retention_bytes,
            sync_interval_ms,
            head_bytes,
            map_blocks: pick("map-blocks", args.map_blocks, file.map_blocks.as_deref(), Switch(true))?.0,
            log,
            limits,
            caches: CacheConfig::load(&args.tier, tier_file, sizes.cache, &|name| std::env::var(name).ok())?,
        })
    }

    /// The settings as flags, for the status page.
    pub fn flags(&self) -> Vec<(String, String)> {
        let listen = |l: Listen| match l {
            Listen::Off => "off".to_owned(),
            Listen::On(a) => a.to_string(),
        };
        let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
        [
            ("data-dir", self.data_dir.display().to_string()),
            ("http-listen", listen(self.http)),
            ("grpc-listen", listen(self.grpc)),
            ("self-metrics", switch(self.self_metrics)),
            ("admin-api", switch(self.admin_api)),
            ("retention", self.retention_ms.map_or("off".into(), |ms| format!("{}s", ms / 1000))),
            ("retention-size", self.retention_bytes.map_or("off".into(), |n| n.to_string())),
            ("durability", self.durability().to_owned()),
            ("head-bytes", self.head_bytes.to_string()),
            ("map-blocks", switch(self.map_blocks)),
            ("log", self.log.clone()),
        ]
        .into_iter()
        .chain(self.caches.flags())
        .map(|(n, v)| (n.to_owned(), v))
        .chain(self.limits.list().into_iter().map(|(n, v)| (format!("limit.{n}"), v.to_string())))
        .collect()
    }

    /// `commit` or `interval`.
    pub fn durability(&self) -> &'static str {
        if self.sync_interval_ms.is_some() { "interval" } else { "commit" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_work_and_flags_win() {
        let c = Config::load(&ServeArgs::default()).unwrap();
        assert_eq!(c.http, "127.0.0.1:9095".parse().unwrap());
        assert!(c.self_metrics && !c.admin_api);
        let args = ServeArgs { http_listen: Some(Listen::Off), retention: Some("30d".into()), ..Default::default() };
        let c = Config::load(&args).unwrap();
        assert_eq!((c.http, c.retention_ms), (Listen::Off, Some(30 * 86_400_000)));
        let args = ServeArgs { retention_size: Some("10GB".into()), ..Default::default() };
        assert_eq!(Config::load(&args).unwrap().retention_bytes, Some(10 << 30));
    }

    #[test]
    fn rules_of_retention_come_from_the_file() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("c.json");
            std::fs::write(&path, text).unwrap();
            Config::load(&ServeArgs { config: Some(path), ..Default::default() })
        };
        let rules = r#"{"retention": "30d", "retention-rules": [
            {"selector": "{job=\"debug\"}", "duration": "1d"}, {"selector": "audit_log", "duration": "off"}]}"#;
        let c = load(rules).unwrap();
        assert_eq!(c.retention_rules.iter().map(|r| r.keep_ms).collect::<Vec<_>>(), [Some(86_400_000), None]);
        assert_eq!(c.retention_rules[0].parse().unwrap().matchers.len(), 1);
        let bad = |text: &str| load(text).unwrap_err().to_string();
        for (text, key) in [
            (r#"{"retention": "30"}"#, "retention: "),
            (r#"{"retention": "1.5"}"#, "retention: "),
            (r#"{"retention-rules": [{"selector": "up", "duration": "30"}]}"#, "retention-rules: "),
        ] {
            let why = bad(text);
            assert!(why.starts_with(key) && why.contains("with a unit"), "{why}");
        }
        let selector = bad(r#"{"retention-rules": [{"selector": "{", "duration": "1d"}]}"#);
        assert!(selector.starts_with("retention-rules: ") && selector.contains("selector"), "{selector}");
        assert!(bad(r#"{"retention-rules": [{"selector": "a", "duration": "soon"}]}"#).contains("soon"));
        assert!(bad(r#"{"retention-rules": [{"selector": "a"}]}"#).contains("duration"));
    }

    #[test]
    fn wrong_values_name_their_key() {
        let args = ServeArgs { retention: Some("soon".into()), ..Default::default() };
        assert_eq!(
            Config::load(&args).unwrap_err().to_string(),
            "retention: \"soon\" is not a duration with a unit, like 30d"
        );
        let args = ServeArgs { enable_feature: vec!["warp".into()], ..Default::default() };
        assert!(Config::load(&args).unwrap_err().to_string().contains("warp"));
    }

    #[test]
    fn limits_by_name() {
        let limit = |text: &str| {
            let args = ServeArgs { limit: vec![text.into()], ..Default::default() };
            Config::load(&args).map(|c| c.limits).map_err(|e| e.to_string())
        };
        assert_eq!(limit("query_timeout_ms=1500").unwrap().query_timeout_ms, 1500);
        assert_eq!(limit("query_memory_bytes_max=2MiB").unwrap().query_memory_bytes_max, 2 << 20);
        assert_eq!(limit("patience=1").unwrap_err(), "limit: there is no limit \"patience\"");
        assert_eq!(limit("query_depth_max").unwrap_err(), "limit: \"query_depth_max\" is not NAME=VALUE");
        assert!(limit("query_depth_max=deep").unwrap_err().contains("not a number"));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        assert_eq!(parse_bytes("17"), Ok(17));
        assert!(parse_bytes("many").is_err());
    }
}
