//! Settings of the remote tier and of the caches: `tier-…`, `cache-size`, `memory-budget`, `prefetch`.
//!
//! Where a tier is comes from flags, environment and file alone, never from a request. Credentials have no flags, since the
//! flags of a process can be read by everybody: they come from Amazon's usual variables, or from the file.

use std::path::PathBuf;

use clap::Args;
use quiver_persistence::remote::{S3Settings, Secret, TierTarget, TierUrl, open_target};

use super::{ConfigError, Switch, parse_bytes};

/// Flags of the remote tier and of the caches.
#[derive(Args, Clone, Debug, Default)]
pub struct TierArgs {
    /// Move old blocks to a remote store: s3://BUCKET/PREFIX or file:///FOLDER [default: off]
    #[arg(long, env = "QUIVER_TIER_URL", value_name = "URL|off")]
    pub tier_url: Option<String>,
    /// Age of a block's newest sample after which the block goes to the remote store [default: 7d]
    #[arg(long, env = "QUIVER_TIER_AFTER", value_name = "DURATION")]
    pub tier_after: Option<String>,
    /// Age after which the local file of a block in the remote store goes [default: as tier-after]
    #[arg(long, env = "QUIVER_TIER_DROP_AFTER", value_name = "DURATION")]
    pub tier_drop_after: Option<String>,
    /// Bytes of remote blocks kept on the local disk, or "off" [default: 2GiB]
    #[arg(long, env = "QUIVER_TIER_CACHE_SIZE", value_name = "BYTES|off")]
    pub tier_cache_size: Option<String>,
    /// Begin, in an empty data folder, with what another one left in the remote store; it can publish nothing from then on
    /// [default: off]
    #[arg(long, env = "QUIVER_TIER_TAKEOVER", value_name = "on|off")]
    pub tier_takeover: Option<Switch>,
    /// Endpoint of an S3-compatible service, such as http://127.0.0.1:9000 [default: AWS_ENDPOINT_URL, else Amazon's]
    #[arg(long, env = "QUIVER_TIER_ENDPOINT", value_name = "URL")]
    pub tier_endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, else us-east-1]
    #[arg(long, env = "QUIVER_TIER_REGION", value_name = "NAME")]
    pub tier_region: Option<String>,
    /// Certificates (PEM) to trust for the endpoint, beside those of the system
    #[arg(long, env = "QUIVER_TIER_CA_FILE", value_name = "FILE")]
    pub tier_ca_file: Option<PathBuf>,
    /// Memory for decoded samples of blocks, or "off" [default: a 32nd of the memory, at most 128MiB]
    #[arg(long, env = "QUIVER_CACHE_SIZE", value_name = "BYTES|off")]
    pub cache_size: Option<String>,
    /// Memory the process should stay under: decoded samples give way first [default: off]
    #[arg(long, env = "QUIVER_MEMORY_BUDGET", value_name = "BYTES|off")]
    pub memory_budget: Option<String>,
    /// Read ahead of what dashboards ask for again and again [default: on]
    #[arg(long, env = "QUIVER_PREFETCH", value_name = "on|off")]
    pub prefetch: Option<Switch>,
}

/// The same as keys of the file, and credentials.
#[derive(Default)]
#[cfg_attr(test, derive(serde::Deserialize), serde(deny_unknown_fields, rename_all = "kebab-case"))]
pub(super) struct TierFile {
    pub tier_url: Option<String>,
    pub tier_after: Option<String>,
    pub tier_drop_after: Option<String>,
    pub tier_cache_size: Option<String>,
    pub tier_takeover: Option<String>,
    pub tier_endpoint: Option<String>,
    pub tier_region: Option<String>,
    pub tier_ca_file: Option<PathBuf>,
    pub tier_access_key: Option<String>,
    pub tier_secret_key: Option<Secret>,
    pub cache_size: Option<String>,
    pub memory_budget: Option<String>,
    pub prefetch: Option<String>,
}

/// The remote tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Where.
    pub target: TierTarget,
    /// Age after which blocks go there, ms.
    pub after_ms: i64,
    /// Age after which their local files go, ms.
    pub drop_after_ms: i64,
    /// Bytes of remote blocks kept on the local disk.
    pub cache_bytes: u64,
    /// Begins with what is there.
    pub takeover: bool,
}

/// Tier and caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The remote tier, where there is one.
    pub tier: Option<TierConfig>,
    /// Memory for decoded samples.
    pub cache_bytes: usize,
    /// Memory the process should stay under; 0: none.
    pub process_bytes: u64,
    /// Reads ahead of dashboards.
    pub prefetch: bool,
}

impl TierConfig {
    /// As the store takes it; what is wrong with the target is the error.
    pub fn options(&self) -> Result<quiver_core::TierOptions, ConfigError> {
        let objects = open_target(&self.target).map_err(|why| ConfigError::Value { key: "tier-url", why })?;
        Ok(quiver_core::TierOptions {
            after_ms: self.after_ms,
            drop_after_ms: self.drop_after_ms,
            cache_bytes_max: self.cache_bytes,
            takeover: self.takeover,
            ..quiver_core::TierOptions::new(objects)
        })
    }
}

fn bytes(key: &'static str, text: &str) -> Result<u64, ConfigError> {
    match text {
        "off" | "0" => Ok(0),
        text => Ok(parse_bytes(text).map_err(|why| ConfigError::Value { key, why })? as u64),
    }
}

fn switch(key: &'static str, flag: Option<Switch>, file: Option<&str>, default: bool) -> Result<bool, ConfigError> {
    match (flag, file) {
        (Some(Switch(on)), _) => Ok(on),
        (None, Some(text)) => text.parse::<Switch>().map(|s| s.0).map_err(|why| ConfigError::Value { key, why }),
        (None, None) => Ok(default),
    }
}

fn age(key: &'static str, text: &str) -> Result<i64, ConfigError> {
    match text {
        "0" | "0s" => Ok(0),
        text => match quiver_gateway::http::params::parse_duration(text) {
            Ok(ms) if ms > 0 => Ok(ms),
            _ => Err(ConfigError::Value { key, why: format!("{text:?} is not a duration like 7d") }),
        },
    }
}

/// What Amazon's usual variables, which `variable` reads, say of a service.
pub(crate) fn s3_variables(variable: &dyn Fn(&str) -> Option<String>) -> S3Settings {
    let first = |names: &[&str]| names.iter().find_map(|n| variable(n).filter(|v| !v.is_empty()));
    S3Settings {
        endpoint: first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
        region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
        access_key: first(&["AWS_ACCESS_KEY_ID"]).unwrap_or_default(),
        secret_key: first(&["AWS_SECRET_ACCESS_KEY"]).map(Secret::new).unwrap_or_default(),
        session_token: first(&["AWS_SESSION_TOKEN"]).map(Secret::new),
        ca_file: None,
    }
}

impl CacheConfig {
    /// Merges flags, file, and Amazon's variables, which `variable` reads; `cache_default` bytes for decoded samples where
    /// nothing is said.
    pub(super) fn load(
        args: &TierArgs,
        file: TierFile,
        cache_default: usize,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let said = |text: Option<String>| text.filter(|t| !t.is_empty());
        let url = said(args.tier_url.clone()).or(file.tier_url).filter(|u| u != "off");
        let after = said(args.tier_after.clone()).or(file.tier_after).unwrap_or_else(|| "7d".into());
        let after_ms = age("tier-after", &after)?;
        let drop_after = said(args.tier_drop_after.clone()).or(file.tier_drop_after);
        let drop_after_ms = drop_after.map_or(Ok(after_ms), |text| age("tier-drop-after", &text))?;
        if drop_after_ms < after_ms {
            let why = "local files cannot go before their blocks are in the remote store (tier-after)".into();
            return Err(ConfigError::Value { key: "tier-drop-after", why });
        }
        let cache = said(args.tier_cache_size.clone()).or(file.tier_cache_size).unwrap_or_else(|| "2GiB".into());
        let cache_bytes = bytes("tier-cache-size", &cache)?;
        let takeover = switch("tier-takeover", args.tier_takeover, file.tier_takeover.as_deref(), false)?;
        let variables = s3_variables(variable);
        let s3 = S3Settings {
            endpoint: said(args.tier_endpoint.clone()).or(file.tier_endpoint).or(variables.endpoint),
            region: said(args.tier_region.clone()).or(file.tier_region).or(variables.region),
            access_key: file.tier_access_key.unwrap_or(variables.access_key),
            secret_key: file.tier_secret_key.unwrap_or(variables.secret_key),
            session_token: variables.session_token,
            ca_file: args.tier_ca_file.clone().or(file.tier_ca_file),
        };
        let tier = match url {
            None => None,
            Some(url) => {
                let url: TierUrl = url.parse().map_err(|why| ConfigError::Value { key: "tier-url", why })?;
                let target = TierTarget { url, s3 };
                Some(TierConfig { target, after_ms, drop_after_ms, cache_bytes, takeover })
            }
        };
        let cache_bytes_max = match said(args.cache_size.clone()).or(file.cache_size) {
            Some(text) => usize::try_from(bytes("cache-size", &text)?).unwrap_or(usize::MAX),
            None => cache_default,
        };
        let budget = said(args.memory_budget.clone()).or(file.memory_budget).unwrap_or_else(|| "off".into());
        Ok(Self {
            tier,
            cache_bytes: cache_bytes_max,
            process_bytes: bytes("memory-budget", &budget)?,
            prefetch: switch("prefetch", args.prefetch, file.prefetch.as_deref(), true)?,
        })
    }

    /// The settings as flags, for the status page; no secrets.
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let off = || "off".to_owned();
        let size = |n: u64| if n == 0 { off() } else { n.to_string() };
        let switch = |on: bool| if on { "on".to_owned() } else { off() };
        let mut out = vec![
            ("cache-size", size(self.cache_bytes as u64)),
            ("memory-budget", size(self.process_bytes)),
            ("prefetch", switch(self.prefetch)),
            ("tier-url", self.tier.as_ref().map_or_else(off, |t| t.target.url.to_string())),
        ];
        if let Some(t) = &self.tier {
            let s3 = &t.target.s3;
            out.extend([
                ("tier-after", format!("{}s", t.after_ms / 1000)),
                ("tier-drop-after", format!("{}s", t.drop_after_ms / 1000)),
                ("tier-cache-size", size(t.cache_bytes)),
                ("tier-takeover", switch(t.takeover)),
                ("tier-endpoint", s3.endpoint.clone().unwrap_or_default()),
                ("tier-region", s3.region.clone().unwrap_or_default()),
            ]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &TierArgs, file: &str, variables: &[(&str, &str)]) -> Result<CacheConfig, ConfigError> {
        let file: TierFile = serde_json::from_str(file).unwrap();
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        CacheConfig::load(args, file, 128 << 20, &variable)
    }

    #[test]
    fn a_tier_comes_from_flags_file_and_variables() {
        let none = load(&TierArgs::default(), "{}", &[]).unwrap();
        assert_eq!((none.tier, none.cache_bytes, none.process_bytes, none.prefetch), (None, 128 << 20, 0, true));
        let args = TierArgs { tier_url: Some("s3://b/p".into()), prefetch: Some(Switch(false)), ..Default::default() };
        let file = r#"{"tier-after": "3d", "tier-drop-after": "30d", "tier-cache-size": "off", "memory-budget": "1GiB",
                       "tier-endpoint": "http://minio:9000"}"#;
        let aws = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_REGION", "eu-x-1")];
        let c = load(&args, file, &aws).unwrap();
        assert!(!format!("{c:?} {:?}", c.flags()).contains("hunter2"));
        assert_eq!((c.process_bytes, c.prefetch), (1 << 30, false));
        let t = c.tier.unwrap();
        assert_eq!((t.after_ms, t.drop_after_ms, t.cache_bytes), (3 * 86_400_000, 30 * 86_400_000, 0));
        assert_eq!(t.target.s3.endpoint.as_deref(), Some("http://minio:9000"));
        assert_eq!((t.target.s3.region.as_deref(), t.target.s3.access_key.as_str()), (Some("eu-x-1"), "id"));
        assert_eq!(t.target.s3.secret_key.reveal(), "hunter2");
        assert!(t.options().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = |args: &TierArgs, file: &str| match load(args, file, &[]) {
            Err(e) => e.to_string(),
            Ok(c) => c.tier.map_or(String::new(), |t| t.options().err().map_or(String::new(), |e| e.to_string())),
        };
        let file = |f: &str| text(&TierArgs::default(), f);
        assert!(file(r#"{"tier-url": "gs://b"}"#).starts_with("tier-url: "));
        assert!(file(r#"{"tier-url": "s3://b"}"#).contains("AWS_ACCESS_KEY_ID"));
        assert!(file(r#"{"tier-after": "soon"}"#).starts_with("tier-after: "));
        assert!(file(r#"{"tier-after": "2d", "tier-drop-after": "1d"}"#).starts_with("tier-drop-after: "));
        assert!(file(r#"{"cache-size": "much"}"#).starts_with("cache-size: "));
        assert!(file(r#"{"prefetch": "maybe"}"#).starts_with("prefetch: "));
        let metadata = r#"{"tier-url": "s3://b", "tier-access-key": "a", "tier-secret-key": "b",
                           "tier-endpoint": "http://169.254.169.254"}"#;
        assert!(file(metadata).contains("credentials"));
    }
}
