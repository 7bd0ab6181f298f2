//! Settings of the remote tier and of the caches: `tier-…`, `cache-size`, `memory-budget`, `prefetch`.
//!
//! Where a tier is comes from flags, environment and file alone, never from a request. Credentials have no flags, since the
//! flags of a process can be read by everybody: they come from Amazon's usual variables, or from the file.

use std::path::PathBuf;

use clap::Args;
use quiver_model::duration::format_ms;
use quiver_persistence::remote::{S3Settings, Secret, TierTarget, TierUrl, open_target};

use super::values::{age, show_bytes, size_or_off};
use super::{ConfigError, Loading, Switch};

const DAY_MS: i64 = 86_400_000;

/// Flags of the remote tier and of the caches.
#[derive(Args, Clone, Debug, Default)]
pub struct TierArgs {
    /// Move old blocks to a remote store: s3://BUCKET/PREFIX or file:///FOLDER [default: off]
    #[arg(long, env = "QUIVER_TIER_URL", value_name = "URL|off")]
    pub tier_url: Option<String>,
    /// Upload a block when its newest sample is older than this [default: 7d]
    #[arg(long, env = "QUIVER_TIER_AFTER", value_name = "DURATION")]
    pub tier_after: Option<String>,
    /// Delete the local copy of an uploaded block at this age [default: same as --tier-after]
    #[arg(long, env = "QUIVER_TIER_DROP_AFTER", value_name = "DURATION")]
    pub tier_drop_after: Option<String>,
    /// Disk space for parts of remote blocks that were read, or "off" [default: 2GiB]
    #[arg(long, env = "QUIVER_TIER_CACHE_SIZE", value_name = "BYTES|off")]
    pub tier_cache_size: Option<String>,
    /// Start this empty data folder from the blocks in the remote store and become the server that writes there. The previous
    /// one can no longer upload [default: off]
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
    /// Memory that the process should stay under; the cache of decoded samples shrinks first [default: off]
    #[arg(long, env = "QUIVER_MEMORY_BUDGET", value_name = "BYTES|off")]
    pub memory_budget: Option<String>,
    /// Read ahead what dashboards ask for repeatedly [default: on]
    #[arg(long, env = "QUIVER_PREFETCH", value_name = "on|off")]
    pub prefetch: Option<Switch>,
}

/// The remote tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Where.
    pub target: TierTarget,
    /// Age after which blocks go there, ms.
    pub after_ms: i64,
    /// Age at which their local files are deleted, ms.
    pub drop_after_ms: i64,
    /// Bytes of remote blocks kept on the local disk.
    pub cache_bytes: u64,
    /// Starts from the blocks in the remote store.
    pub takeover: bool,
}

/// Tier and caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The remote tier, if configured.
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
        let objects =
            open_target(&self.target).map_err(|why| ConfigError::Value { place: "tier-url".to_owned(), why })?;
        Ok(quiver_core::TierOptions {
            after_ms: self.after_ms,
            drop_after_ms: self.drop_after_ms,
            cache_bytes_max: self.cache_bytes,
            takeover: self.takeover,
            ..quiver_core::TierOptions::new(objects)
        })
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
    /// Merges flags, file, and Amazon's variables; `cache_default` bytes for decoded samples where nothing is said.
    pub(super) fn load(args: &TierArgs, of: &mut Loading<'_>, cache_default: usize) -> Self {
        let text = |of: &mut Loading<'_>, key: &str, flag: Option<&str>| of.said(key, flag).map(|said| said.text);
        let after_ms = of.value("tier-after", args.tier_after.as_deref(), 7 * DAY_MS, age);
        let drop_after = args.tier_drop_after.as_deref();
        let drop_after_ms = of.value("tier-drop-after", drop_after, after_ms, age);
        if drop_after_ms < after_ms
            && let Some(said) = of.said("tier-drop-after", drop_after)
        {
            of.errors.push(
                said.wrong("local files cannot be deleted before their blocks are in the remote store (tier-after)"),
            );
        }
        let cache_bytes = of.value("tier-cache-size", args.tier_cache_size.as_deref(), 2 << 30, size_or_off);
        let takeover = of.typed("tier-takeover", args.tier_takeover, Switch(false)).0;
        let variables = s3_variables(of.variable);
        let ca_file = text(of, "tier-ca-file", args.tier_ca_file.as_ref().and_then(|p| p.to_str()));
        let s3 = S3Settings {
            endpoint: text(of, "tier-endpoint", args.tier_endpoint.as_deref()).or(variables.endpoint),
            region: text(of, "tier-region", args.tier_region.as_deref()).or(variables.region),
            access_key: text(of, "tier-access-key", None).unwrap_or(variables.access_key),
            secret_key: text(of, "tier-secret-key", None).map(Secret::new).unwrap_or(variables.secret_key),
            session_token: variables.session_token,
            ca_file: ca_file.map(PathBuf::from).or_else(|| args.tier_ca_file.clone()),
        };
        let url = of.value("tier-url", args.tier_url.as_deref(), None, |text| match text {
            "off" => Ok(None),
            text => text.parse::<TierUrl>().map(Some),
        });
        let tier = url.map(|url| {
            let target = TierTarget { url, s3 };
            TierConfig { target, after_ms, drop_after_ms, cache_bytes, takeover }
        });
        let cache_size = of.value("cache-size", args.cache_size.as_deref(), cache_default as u64, size_or_off);
        Self {
            tier,
            cache_bytes: usize::try_from(cache_size).unwrap_or(usize::MAX),
            process_bytes: of.value("memory-budget", args.memory_budget.as_deref(), 0, size_or_off),
            prefetch: of.typed("prefetch", args.prefetch, Switch(true)).0,
        }
    }

    /// The settings as flags, for the status page; no secrets.
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let off = || "off".to_owned();
        let size = |n: u64| if n == 0 { off() } else { show_bytes(n) };
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
                ("tier-after", format_ms(t.after_ms)),
                ("tier-drop-after", format_ms(t.drop_after_ms)),
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
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let file = super::super::Settings::parse("c.json", file)?;
        let mut of = Loading { file, variable: &variable, errors: Vec::new() };
        let config = CacheConfig::load(args, &mut of, 128 << 20);
        ConfigError::of(of.errors).map_or(Ok(config), Err)
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
        assert!(file(r#"{"tier-url": "gs://b"}"#).starts_with("c.json, line 1, column 14: tier-url: "));
        assert!(file(r#"{"tier-url": "s3://b"}"#).contains("AWS_ACCESS_KEY_ID"));
        assert!(file(r#"{"tier-after": "soon"}"#).contains("tier-after: \"soon\" is not a duration"));
        assert!(file(r#"{"tier-after": "30"}"#).contains("tier-after: \"30\" has no unit"));
        assert!(file(r#"{"tier-after": "2d", "tier-drop-after": "1d"}"#).contains("tier-drop-after: local files"));
        assert!(file(r#"{"cache-size": "much"}"#).contains("cache-size: \"much\" is not a size"));
        assert!(file(r#"{"prefetch": "maybe"}"#).contains("prefetch: \"maybe\""));
        let metadata = r#"{"tier-url": "s3://b", "tier-access-key": "a", "tier-secret-key": "b",
                           "tier-endpoint": "http://169.254.169.254"}"#;
        assert!(file(metadata).contains("credentials"));
    }
}
