//! Configuration: defaults, then a JSON file, then environment, then flags; one schema for all.
//!
//! ```text
//! file.rs      the JSON file, with the place of every value      values.rs    what texts mean
//! tier.rs      the remote tier and the caches                    warnings.rs  settings that work and are probably a slip
//! sizes.rs     defaults that follow the memory of the machine
//! ```
//!
//! Invariants
//! 1. A key of the file is the name of a flag and means the same. Errors name the flag, the environment variable, or the file with line,
//!    column and key; all errors are told at once.
//! 2. What is not said has a default that works: data in `./quiver-data`, loopback only.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use quiver_gateway::http::origin::Allowed;
use quiver_model::{Limits, did_you_mean, duration};
use quiver_query::Features;
use quiver_query::promql::{ParseOptions, parse_metric_selector};

mod file;
mod sizes;
mod tier;
mod values;
mod warnings;

use file::{Said, Settings};
use sizes::Sizes;
pub(crate) use tier::s3_variables;
pub use tier::{CacheConfig, TierArgs, TierConfig};
pub use values::{about_bytes, parse_bytes, show_bytes};

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
        let full = match (s.strip_prefix(':'), s.strip_prefix("localhost:")) {
            (Some(port), _) => format!("0.0.0.0:{port}"),
            (None, Some(port)) => format!("127.0.0.1:{port}"),
            (None, None) => s.to_owned(),
        };
        full.parse().map(Listen::On).map_err(|_| {
            let whole = if s.parse::<u16>().is_ok() {
                format!(": write 127.0.0.1:{s}, or :{s} for all interfaces")
            } else {
                String::new()
            };
            format!("{s:?} is not an address like 127.0.0.1:9095, nor \"off\"{whole}")
        })
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
    /// Folder that holds the data; created if missing [default: ./quiver-data]
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
    /// Record the server's own metrics as series, every second in the first minute and every 15 s then [default: on]
    #[arg(long, env = "QUIVER_SELF_METRICS", value_name = "on|off")]
    pub self_metrics: Option<Switch>,
    /// Serve POST /api/v1/admin/… [default: off]
    #[arg(long, env = "QUIVER_ADMIN_API", value_name = "on|off")]
    pub admin_api: Option<Switch>,
    /// Web pages of these origins may use the API from a browser, such as https://grafana.example.com; "*": all may read [default: none]
    #[arg(long, env = "QUIVER_CORS_ORIGINS", value_name = "ORIGIN,…", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Host names that a proxy on this machine may use in browsers' requests, such as quiver.example.com [default: none]
    #[arg(long, env = "QUIVER_ALLOWED_HOSTS", value_name = "HOST,…", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,
    /// Delete data older than this, such as 30d or 1y; off: keep everything [default: off]
    #[arg(long, env = "QUIVER_RETENTION", value_name = "DURATION|off")]
    pub retention: Option<String>,
    /// Delete the oldest blocks while blocks and log take more than this, such as 10GB or 1TB [default: off]
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
    /// What is logged: error, warn, info, debug, trace or off, or a list like info,quiver_core=debug [default: info]
    #[arg(long, env = "QUIVER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// The remote tier and the caches.
    #[command(flatten)]
    pub tier: TierArgs,
    /// Set a limit of the README's table, such as query_timeout_ms=30000 or query_memory_bytes_max=256MiB; repeatable
    #[arg(long, env = "QUIVER_LIMIT", value_name = "NAME=VALUE,…", value_delimiter = ',')]
    pub limit: Vec<String>,
    /// Print all limits with their values and exit
    #[arg(long)]
    pub list_limits: bool,
}

/// Keys of the file that are no flags: lists of rules, and secrets, which no other process should read.
const FILE_ONLY: [&str; 3] = ["retention-rules", "tier-access-key", "tier-secret-key"];
/// Flags that are no settings.
const FLAG_ONLY: [&str; 2] = ["config", "list-limits"];

/// The keys of the file.
fn keys() -> Vec<String> {
    let flags = ServeArgs::augment_args(clap::Command::new("serve"));
    let names = flags.get_arguments().filter_map(|a| a.get_long()).filter(|name| !FLAG_ONLY.contains(name));
    names.chain(FILE_ONLY).map(str::to_owned).collect()
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
            place: "retention-rules".to_owned(),
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
    #[error("{path}, line {line}, column {column}: {why}")]
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
    #[error("{place}: {why}")]
    Value {
        /// Flag, environment variable, or key with its place in the file.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than one of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<ConfigError>),
}

impl ConfigError {
    /// One error of all; `None` without any.
    fn of(mut all: Vec<ConfigError>) -> Option<Self> {
        if all.len() > 1 { Some(ConfigError::Several(all)) } else { all.pop() }
    }
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
    /// Pages of other origins, and names of this server, that browsers may use.
    pub allowed: Allowed,
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

/// Names of features, for suggestions.
const FEATURES: [&str; 6] = [
    "promql-experimental-functions",
    "promql-binop-fill-modifiers",
    "promql-unquoted-utf8-names",
    "promql-delayed-name-removal",
    "use-start-timestamps",
    "type-and-unit-labels",
];

/// Flags and environment over a file, and what is wrong with any of them.
struct Loading<'a> {
    file: Settings,
    variable: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<ConfigError>,
}

impl Loading<'_> {
    /// A text that was given as a flag or by the environment, which clap does not tell apart.
    fn given(&self, key: &str, text: &str) -> Said {
        let name = format!("QUIVER_{}", key.replace('-', "_").to_uppercase());
        let place = if (self.variable)(&name).is_some_and(|v| v == text) { name } else { format!("--{key}") };
        Said { text: text.to_owned(), place }
    }

    fn note<T: Default>(&mut self, read: Result<T, ConfigError>) -> T {
        read.unwrap_or_else(|e| {
            self.errors.push(e);
            T::default()
        })
    }

    /// What is said of a key: by flag or environment, else by the file. An empty text says nothing.
    fn said(&mut self, key: &str, flag: Option<&str>) -> Option<Said> {
        match flag.filter(|text| !text.is_empty()) {
            Some(text) => Some(self.given(key, text)),
            None => {
                let read = self.file.scalar(key);
                self.note(read).filter(|said| !said.text.is_empty())
            }
        }
    }

    /// The value of a key; a wrong one is noted, and the default stands in for it.
    fn value<T>(&mut self, key: &str, flag: Option<&str>, default: T, read: impl Fn(&str) -> Result<T, String>) -> T {
        let Some(said) = self.said(key, flag) else { return default };
        read(&said.text).unwrap_or_else(|why| {
            self.errors.push(said.wrong(why));
            default
        })
    }

    /// [`Loading::value`] of a flag that is read already.
    fn typed<T: FromStr<Err = String>>(&mut self, key: &str, flag: Option<T>, default: T) -> T {
        match flag {
            Some(value) => value,
            None => self.value(key, None, default, str::parse),
        }
    }

    /// The texts of a key that takes several: by flag or environment, else by the file.
    fn texts(&mut self, key: &str, flags: &[String]) -> Vec<Said> {
        match flags {
            [] => {
                let read = self.file.list(key);
                self.note(read)
            }
            flags => flags.iter().map(|text| self.given(key, text)).collect(),
        }
    }

    /// Origins and hosts that browsers may use.
    fn allowed(&mut self, origins: &[String], hosts: &[String]) -> Allowed {
        let mut allowed = Allowed::default();
        for said in self.texts("cors-origins", origins) {
            if let Err(why) = allowed.add_origin(&said.text) {
                self.errors.push(said.wrong(why));
            }
        }
        for said in self.texts("allowed-hosts", hosts) {
            if let Err(why) = allowed.add_host(&said.text) {
                self.errors.push(said.wrong(why));
            }
        }
        allowed
    }

    fn features(&mut self, flags: &[String]) -> Features {
        let names = self.texts("enable-feature", flags);
        for said in &names {
            for name in Features::parse(&said.text).1 {
                let near = did_you_mean(&name, FEATURES);
                self.errors.push(said.wrong(format!("unknown feature {name:?}{near}")));
            }
        }
        let all: Vec<&str> = names.iter().map(|said| said.text.as_str()).collect();
        Features::parse(&all.join(",")).0
    }

    fn retention_rules(&mut self) -> Vec<Rule> {
        let read = self.file.objects("retention-rules", &["selector", "duration"]);
        let mut rules = Vec::new();
        for mut object in self.note(read) {
            let (Some(selector), Some(keep)) = (object.remove("selector"), object.remove("duration")) else { continue };
            let keep_ms = values::retention(&keep.text).map_err(|why| keep.wrong(why));
            let rule = Rule { selector: selector.text.clone(), keep_ms: self.note(keep_ms) };
            match rule.parse() {
                Ok(_) => rules.push(rule),
                Err(ConfigError::Value { why, .. }) => self.errors.push(selector.wrong(why)),
                Err(e) => self.errors.push(e),
            }
        }
        rules
    }

    fn limits(&mut self, flags: &[String], mut limits: Limits) -> Limits {
        let read = self.file.pairs("limit");
        let mut pairs = self.note(read);
        // By name: a flag for one limit leaves the variable's others. (clap takes the one or the other.)
        let name = "QUIVER_LIMIT";
        let by_variable = (self.variable)(name).unwrap_or_default();
        let by_variable: Vec<&str> = by_variable.split(',').filter(|text| !text.trim().is_empty()).collect();
        let by_flags = if flags == by_variable { &[] } else { flags };
        let all =
            by_variable.iter().map(|text| (*text, name)).chain(by_flags.iter().map(|text| (text.as_str(), "--limit")));
        for (text, place) in all {
            let read = file::pair(Said { text: text.to_owned(), place: place.to_owned() });
            pairs.extend(read.map_err(|e| self.errors.push(e)));
        }
        for (name, said) in pairs {
            if let Err(why) = values::set_limit(&mut limits, &name, &said.text) {
                self.errors.push(said.wrong(why));
            }
        }
        limits
    }
}

impl Config {
    /// Merges defaults, file, environment and flags (clap has merged the last two).
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        Self::load_with(args, &|name| std::env::var(name).ok())
    }

    /// Reads a file as `quiver serve --config FILE` would, without other flags, and tries what can be tried without a start.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub fn check(file: &Path) -> Result<Self, ConfigError> {
        let config = Self::load(&ServeArgs { config: Some(file.to_owned()), ..ServeArgs::default() })?;
        if let Some(tier) = &config.caches.tier {
            tier.options()?;
        }
        Ok(config)
    }

    fn load_with(args: &ServeArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => Settings::read(path)?,
            None => Settings::default(),
        };
        let errors = file.wrong_keys(&keys());
        let mut of = Loading { file, variable, errors };
        let address = |port| Listen::On(SocketAddr::from(([127, 0, 0, 1], port)));
        if of.typed("pg-listen", args.pg_listen, Listen::Off) != Listen::Off {
            let why = "the Postgres protocol is not part of this version: use --pg-listen off".into();
            of.errors.push(ConfigError::Value { place: "pg-listen".into(), why });
        }
        let sizes = Sizes::of(quiver_persistence::memory_bytes());
        let folder = args.data_dir.as_ref().map(|d| d.display().to_string());
        let default_folder = || PathBuf::from("quiver-data");
        let config = Self {
            // A path that is no text stays as it was given.
            data_dir: match &args.data_dir {
                Some(path) if !path.as_os_str().is_empty() => path.clone(),
                _ => of.said("data-dir", folder.as_deref()).map_or_else(default_folder, |said| said.text.into()),
            },
            http: of.typed("http-listen", args.http_listen, address(9095)),
            grpc: of.typed("grpc-listen", args.grpc_listen, address(4317)),
            features: of.features(&args.enable_feature),
            self_metrics: of.typed("self-metrics", args.self_metrics, Switch(true)).0,
            admin_api: of.typed("admin-api", args.admin_api, Switch(false)).0,
            allowed: of.allowed(&args.cors_origins, &args.allowed_hosts),
            retention_ms: of.value("retention", args.retention.as_deref(), None, values::retention),
            retention_rules: of.retention_rules(),
            retention_bytes: match of.value("retention-size", args.retention_size.as_deref(), 0, values::size_or_off) {
                0 => None,
                bytes => Some(bytes),
            },
            sync_interval_ms: of.value("durability", args.durability.as_deref(), None, |text| match text {
                "commit" => Ok(None),
                "interval" => Ok(Some(100)),
                other => Err(format!("{other:?} is neither \"commit\" nor \"interval\"")),
            }),
            head_bytes: of.value("head-bytes", args.head_bytes.as_deref(), sizes.head, values::head_bytes),
            map_blocks: of.typed("map-blocks", args.map_blocks, Switch(true)).0,
            log: of.value("log", args.log.as_deref(), "info".to_owned(), values::log_filter),
            limits: of.limits(&args.limit, sizes.limits()),
            caches: CacheConfig::load(&args.tier, &mut of, sizes.cache),
        };
        match ConfigError::of(of.errors) {
            Some(wrong) => Err(wrong),
            None => Ok(config),
        }
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
            ("cors-origins", self.allowed.origins_text()),
            ("allowed-hosts", self.allowed.hosts_text()),
            ("retention", keep_text(self.retention_ms)),
            ("retention-size", self.retention_bytes.map_or("off".into(), show_bytes)),
            ("retention-rules", self.rules_text()),
            ("durability", self.durability().to_owned()),
            ("head-bytes", show_bytes(self.head_bytes as u64)),
            ("map-blocks", switch(self.map_blocks)),
            ("log", self.log.clone()),
        ]
        .into_iter()
        .chain(self.caches.flags())
        .map(|(n, v)| (n.to_owned(), v))
        .chain(self.limits.list().into_iter().map(|(n, v)| (format!("limit.{n}"), v.to_string())))
        .collect()
    }

    fn rules_text(&self) -> String {
        let rules = self.retention_rules.iter().map(|r| format!("{} {}", r.selector, keep_text(r.keep_ms)));
        rules.collect::<Vec<_>>().join(", ")
    }

    /// `commit` or `interval`.
    pub fn durability(&self) -> &'static str {
        if self.sync_interval_ms.is_some() { "interval" } else { "commit" }
    }
}

/// How long something is kept: `30d`, `off`.
pub fn keep_text(keep_ms: Option<i64>) -> String {
    keep_ms.map_or_else(|| "off".to_owned(), duration::format_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &ServeArgs, variables: &[(&str, &str)]) -> Result<Config, String> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Config::load_with(args, &variable).map_err(|e| e.to_string())
    }

    fn load_file(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        std::fs::write(&path, text).unwrap();
        let loaded = load(&ServeArgs { config: Some(path), ..Default::default() }, &[]);
        loaded.map_err(|e| e.replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn defaults_work_and_flags_win() {
        let c = load(&ServeArgs::default(), &[]).unwrap();
        assert_eq!(c.http, "127.0.0.1:9095".parse().unwrap());
        assert!(c.self_metrics && !c.admin_api);
        assert_eq!(load_file("{}").unwrap(), c);
        let args = ServeArgs { http_listen: Some(Listen::Off), retention: Some("30d".into()), ..Default::default() };
        let c = load(&args, &[]).unwrap();
        assert_eq!((c.http, c.retention_ms), (Listen::Off, Some(30 * 86_400_000)));
        let args = ServeArgs { retention_size: Some("1TB".into()), ..Default::default() };
        assert_eq!(load(&args, &[]).unwrap().retention_bytes, Some(1 << 40));
    }

    #[test]
    fn a_limit_by_flag_leaves_those_of_the_variable() {
        let args = ServeArgs { limit: vec!["labels_max=70".into(), "query_depth_max=50".into()], ..Default::default() };
        let limits = load(&args, &[("QUIVER_LIMIT", "query_depth_max=90,query_queue_max=7")]).unwrap().limits;
        assert_eq!((limits.labels_max, limits.query_depth_max, limits.query_queue_max), (70, 50, 7));
        // What clap took from the variable is not told twice.
        let args = ServeArgs { limit: vec!["labels=1".into()], ..Default::default() };
        let why = load(&args, &[("QUIVER_LIMIT", "labels=1")]).unwrap_err();
        assert!(why.contains("QUIVER_LIMIT") && why.matches("unknown limit").count() == 1, "{why}");
    }

    /// Every setting, as the text after its flag, as a text in the file, and as JSON's own kind of value.
    #[test]
    fn a_value_means_the_same_in_flag_and_file() {
        let with = |flag: &str, text: &str| {
            let command = ServeArgs::augment_args(clap::Command::new("serve"));
            let parsed =
                command.try_get_matches_from(["serve", &format!("--{flag}={text}")]).map_err(|e| e.to_string())?;
            let args = <ServeArgs as clap::FromArgMatches>::from_arg_matches(&parsed).map_err(|e| e.to_string())?;
            load(&args, &[])
        };
        let switches = ["self-metrics", "admin-api", "map-blocks", "tier-takeover", "prefetch"];
        for (text, json) in
            [("on", "\"on\""), ("off", "\"off\""), ("true", "true"), ("false", "false"), ("1", "1"), ("0", "0")]
        {
            for key in switches {
                let file = load_file(&format!("{{\"{key}\": {json}}}"));
                assert_eq!(file.unwrap(), with(key, text).unwrap(), "{key} {text}");
            }
        }
        for (key, text, json) in [
            ("http-listen", ":9095", "\":9095\""),
            ("grpc-listen", "off", "\"off\""),
            ("retention", "30d", "\"30d\""),
            ("retention-size", "1073741824", "1073741824"),
            ("head-bytes", "2097152", "2097152"),
            ("cache-size", "0", "0"),
            ("memory-budget", "1GiB", "\"1GiB\""),
            ("durability", "interval", "\"interval\""),
            ("log", "debug", "\"debug\""),
            ("limit", "labels_max=7", "{\"labels_max\": 7}"),
            ("limit", "labels_max=7", "\"labels_max=7\""),
            ("enable-feature", "type-and-unit-labels", "[\"type-and-unit-labels\"]"),
            ("cors-origins", "https://a.example.com,*", "[\"https://a.example.com\", \"*\"]"),
            ("cors-origins", "http://[::1]:3000", "\"http://[::1]:3000\""),
            ("allowed-hosts", "a.example.com,b", "[\"a.example.com\", \"b\"]"),
            ("enable-feature", "type-and-unit-labels", "\"type-and-unit-labels\""),
            ("data-dir", "here", "\"here\""),
        ] {
            let (file, flag) = (load_file(&format!("{{\"{key}\": {json}}}")).unwrap(), with(key, text).unwrap());
            assert_eq!(file, flag, "{key}");
            assert_ne!(file, load_file("{}").unwrap(), "{key} says something");
        }
        for (key, text) in [
            ("http-listen", "9095"),
            ("retention", "30"),
            ("retention", "0d"),
            ("retention-size", "10"),
            ("head-bytes", "1"),
            ("cache-size", "64"),
            ("tier-after", "30"),
            ("tier-drop-after", "30"),
            ("log", "loud"),
            ("admin-api", "maybe"),
            ("cors-origins", "grafana.example.com"),
            ("allowed-hosts", "https://quiver.example.com"),
            ("durability", "never"),
            ("enable-feature", "warp"),
            ("limit", "query_timeout_ms=0"),
            ("limit", "patience=1"),
        ] {
            let (flag, file) =
                (with(key, text).unwrap_err(), load_file(&format!("{{\"{key}\": \"{text}\"}}")).unwrap_err());
            assert!(file.starts_with(&format!("c.json, line 1, column {}: {key}: ", key.len() + 6)), "{file}");
            let why = file.split_once(&format!("{key}: ")).unwrap().1;
            assert!(flag.contains(why), "{key}: {flag} and {file}");
        }
    }

    #[test]
    fn every_error_is_told_with_its_place() {
        let text = "{\n  \"retention\": \"soon\",\n  \"retentoin\": 1,\n  \"limit\": {\"query_timeout\": 5},\n  \"log\": \"loud\"\n}";
        let why = load_file(text).unwrap_err();
        for line in [
            "c.json, line 3, column 3: unknown key \"retentoin\"; did you mean \"retention\"?",
            "c.json, line 2, column 16: retention: \"soon\" is not a duration",
            "c.json, line 4, column 30: limit: unknown limit \"query_timeout\"; did you mean \"query_timeout_ms\"?",
            "c.json, line 5, column 10: log: \"loud\" is not a level",
        ] {
            assert!(why.lines().any(|l| l.starts_with(line)), "{line}: {why}");
        }
        assert_eq!(why.lines().count(), 4, "{why}");
        let args = ServeArgs { retention: Some("soon".into()), ..Default::default() };
        assert!(load(&args, &[]).unwrap_err().starts_with("--retention: \"soon\""));
        assert!(load(&args, &[("QUIVER_RETENTION", "soon")]).unwrap_err().starts_with("QUIVER_RETENTION: "));
        let missing = ServeArgs { config: Some("/no/such/file.json".into()), ..Default::default() };
        assert!(load(&missing, &[]).unwrap_err().contains("/no/such/file.json"));
    }

    #[test]
    fn rules_of_retention_come_from_the_file() {
        let rules = r#"{"retention": "30d", "retention-rules": [
            {"selector": "{job=\"debug\"}", "duration": "1d"}, {"selector": "audit_log", "duration": "off"}]}"#;
        let c = load_file(rules).unwrap();
        assert_eq!(c.retention_rules.iter().map(|r| r.keep_ms).collect::<Vec<_>>(), [Some(86_400_000), None]);
        assert_eq!(c.retention_rules[0].parse().unwrap().matchers.len(), 1);
        assert!(c.flags().contains(&("retention-rules".into(), "{job=\"debug\"} 1d, audit_log off".into())));
        for (rule, want) in [
            (
                r#"{"selector": "up", "duration": "30"}"#,
                "c.json, line 1, column 53: retention-rules: \"30\" has no unit",
            ),
            (
                r#"{"selector": "{", "duration": "1d"}"#,
                "c.json, line 1, column 35: retention-rules: \"{\" is not a selector",
            ),
            (r#"{"selector": "a", "duration": "0d"}"#, "would delete everything"),
            (r#"{"selector": "a"}"#, "the key \"duration\" is missing"),
            (r#"{"selector": "a", "duraton": "1d"}"#, "did you mean \"duration\"?"),
            ("7", "a list of objects with the keys selector and duration is expected"),
        ] {
            let why = load_file(&format!("{{\"retention-rules\": [{rule}]}}")).unwrap_err();
            assert!(why.contains(want), "{rule}: {why}");
        }
    }

    #[test]
    fn addresses_as_people_type_them() {
        let read = |text: &str| text.parse::<Listen>();
        assert_eq!(read(":9095"), read("0.0.0.0:9095"));
        assert_eq!(read("localhost:1"), read("127.0.0.1:1"));
        assert_eq!(read("OFF"), Ok(Listen::Off));
        assert!(read("9095").unwrap_err().contains("write 127.0.0.1:9095"));
        assert!(read("mylocalhost:1").is_err() && read("somewhere").is_err());
    }
}
