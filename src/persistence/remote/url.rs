//! Where a tier is: `s3://bucket/prefix` or `file:///folder`, and what else it takes to get there.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::disk::RealDisk;

use super::s3::S3Objects;
use super::{FolderObjects, Objects};

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; not for messages.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The kinds of tiers that a URL can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierUrl {
    /// A bucket and a prefix in it, which may be empty.
    S3 {
        /// Bucket.
        bucket: String,
        /// Prefix, without slashes at its ends.
        prefix: String,
    },
    /// A folder.
    File(PathBuf),
}

impl FromStr for TierUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("{text:?} {why}: use s3://BUCKET/PREFIX or file:///FOLDER"));
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_matches('/');
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
            if bucket.is_empty() || !bucket.bytes().all(|b| plain(b.to_ascii_lowercase())) {
                return bad("has no bucket");
            }
            if !prefix.is_empty() && prefix.split('/').any(|p| p.is_empty() || p == "." || p == "..") {
                return bad("has no plain prefix");
            }
            return Ok(TierUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(TierUrl::File(PathBuf::from(path))),
            Some(_) => bad("is not an absolute path"),
            None => bad("is not supported"),
        }
    }
}

impl fmt::Display for TierUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TierUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            TierUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            TierUrl::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// How to get at an S3-compatible service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// `http(s)://host[:port]`; none: Amazon's for the region.
    pub endpoint: Option<String>,
    /// Region; none: `us-east-1`.
    pub region: Option<String>,
    /// Access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Secret,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// A file of certificates (PEM) to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
}

/// A tier with all it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierTarget {
    /// Where.
    pub url: TierUrl,
    /// For `s3`.
    pub s3: S3Settings,
}

/// Is it an address where clouds hand out credentials?
pub(super) fn is_metadata_address(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => a.is_link_local() || a.octets() == [100, 100, 100, 200],
        Ok(IpAddr::V6(a)) => {
            (a.segments()[0] & 0xffc0) == 0xfe80
                || a.segments()[..2] == [0xfd00, 0x0ec2]
                || a.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local())
        }
        Err(_) => host.eq_ignore_ascii_case("metadata.google.internal"),
    }
}

/// Opens a tier; nothing is read yet. What is wrong with the settings is the error.
pub fn open_target(target: &TierTarget) -> Result<Arc<dyn Objects>, String> {
    match &target.url {
        TierUrl::File(path) => {
            let disk = RealDisk::create(path).map_err(|e| e.to_string())?;
            Ok(Arc::new(FolderObjects::new(Arc::new(disk))))
        }
        TierUrl::S3 { bucket, prefix } => Ok(Arc::new(S3Objects::new(bucket, prefix, &target.s3)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_strange_ones_refused() {
        let s3 = |b: &str, p: &str| Ok(TierUrl::S3 { bucket: b.into(), prefix: p.into() });
        assert_eq!("s3://bucket".parse(), s3("bucket", ""));
        assert_eq!("s3://my-bucket.x/a/b/".parse(), s3("my-bucket.x", "a/b"));
        assert_eq!("file:///data/tier".parse(), Ok(TierUrl::File("/data/tier".into())));
        for bad in
            ["", "s3://", "s3:///x", "s3://a b/c", "s3://b/a/../c", "s3://b/a//c", "file://", "file:///", "file://rel"]
        {
            assert!(bad.parse::<TierUrl>().is_err(), "{bad}");
        }
        for other in ["gs://b", "http://h/", "/data", "ftp://x/y", "s4://b"] {
            assert!(other.parse::<TierUrl>().is_err(), "{other}");
        }
        assert_eq!("s3://b/p".parse::<TierUrl>().map(|u| u.to_string()), Ok("s3://b/p".into()));
    }

    #[test]
    fn places_that_hand_out_credentials_are_known() {
        for host in
            ["169.254.169.254", "[fd00:ec2::254]", "fe80::1", "metadata.google.internal", "[::ffff:169.254.1.1]"]
        {
            assert!(is_metadata_address(host), "{host}");
        }
        for host in ["127.0.0.1", "10.0.0.1", "s3.example.org", "[::1]", "minio"] {
            assert!(!is_metadata_address(host), "{host}");
        }
    }

    #[test]
    fn a_secret_does_not_print() {
        let settings = S3Settings { secret_key: Secret::new("hunter2"), ..S3Settings::default() };
        assert!(!format!("{settings:?} {}", settings.secret_key).contains("hunter2"));
        assert_eq!(settings.secret_key.reveal(), "hunter2");
    }
}
