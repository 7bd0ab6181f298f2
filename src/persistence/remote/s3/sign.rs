//! Signatures, version 4: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use quiver_model::calendar::date_of;
use ring::{digest, hmac};

use crate::remote::{S3Settings, Secret};

/// Signs the requests of one account.
pub(super) struct Signer {
    access_key: String,
    secret_key: Secret,
    session_token: Option<Secret>,
    region: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, {})", self.access_key, self.region)
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for b in bytes {
        out.push(char::from(b"0123456789abcdef"[usize::from(b >> 4)]));
        out.push(char::from(b"0123456789abcdef"[usize::from(b & 15)]));
    }
    out
}

fn hmac_of(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn encode(text: &str, keep: &[u8], out: &mut String) {
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || keep.contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
}

/// A path as it is sent and signed.
pub(super) fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    encode(path, b"/", &mut out);
    out
}

/// A query as it is sent and signed: sorted by name.
pub(super) fn encode_query(pairs: &[(&str, &str)]) -> String {
    let mut encoded: Vec<(String, String)> = pairs
        .iter()
        .map(|(name, value)| {
            let (mut n, mut v) = (String::new(), String::new());
            encode(name, b"", &mut n);
            encode(value, b"", &mut v);
            (n, v)
        })
        .collect();
    encoded.sort();
    encoded.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("&")
}

/// `20130524T000000Z`
fn amz_date(seconds: u64) -> String {
    let (year, month, day) = date_of((seconds / 86_400) as i64);
    let rest = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

impl Signer {
    pub(super) fn new(settings: &S3Settings, region: &str) -> Self {
        Self {
            access_key: settings.access_key.clone(),
            secret_key: settings.secret_key.clone(),
            session_token: settings.session_token.clone(),
            region: region.to_owned(),
        }
    }

    /// Adds what signs a request to its headers, which are all that is signed (`host` has to be among them).
    pub(super) fn sign(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        headers: &mut Vec<(&'static str, String)>,
        body: &[u8],
    ) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.sign_at(now, method, path, query, headers, body);
    }

    fn sign_at(
        &self,
        now: u64,
        method: &Method,
        path: &str,
        query: &str,
        headers: &mut Vec<(&'static str, String)>,
        body: &[u8],
    ) {
        let time = amz_date(now);
        let date = time.get(..8).unwrap_or_default();
        let body_hash = hex(digest::digest(&digest::SHA256, body).as_ref());
        headers.push(("x-amz-content-sha256", body_hash.clone()));
        headers.push(("x-amz-date", time.clone()));
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token", token.reveal().to_owned()));
        }
        headers.sort();
        let names = headers.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{method}\n{path}\n{query}\n");
        for (name, value) in headers.iter() {
            canonical.push_str(&format!("{name}:{}\n", value.trim()));
        }
        canonical.push_str(&format!("\n{names}\n{body_hash}"));
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let secret = format!("AWS4{}", self.secret_key.reveal());
        let mut key = hmac_of(secret.as_bytes(), date);
        for part in [self.region.as_str(), "s3", "aws4_request"] {
            key = hmac_of(key.as_ref(), part);
        }
        let signature = hex(hmac_of(key.as_ref(), &to_sign).as_ref());
        let credential = format!("{}/{scope}", self.access_key);
        let value = format!("AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={signature}");
        headers.push(("authorization", value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Amazon's documentation.
    #[test]
    fn the_published_examples_are_signed_as_published() {
        let settings = S3Settings {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            ..S3Settings::default()
        };
        let signer = Signer::new(&settings, "us-east-1");
        let host = ("host", "examplebucket.s3.amazonaws.com".to_owned());
        let now = 1_369_353_600; // Friday, 24 May 2013
        let signature = |path: &str, query: &str, mut headers: Vec<(&'static str, String)>| {
            signer.sign_at(now, &Method::GET, path, query, &mut headers, b"");
            headers.pop().map(|(_, v)| v.rsplit('=').next().unwrap_or("").to_owned()).unwrap_or_default()
        };
        assert_eq!(
            signature("/test.txt", "", vec![host.clone(), ("range", "bytes=0-9".into())]),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            signature("/", &encode_query(&[("prefix", "J"), ("max-keys", "2")]), vec![host.clone()]),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert_eq!(
            signature("/", &encode_query(&[("lifecycle", "")]), vec![host]),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
    }

    #[test]
    fn names_are_encoded_once() {
        assert_eq!(encode_path("/a b/ä+c~d"), "/a%20b/%C3%A4%2Bc~d");
        assert_eq!(encode_query(&[("b", "1/2"), ("a", "x y")]), "a=x%20y&b=1%2F2");
    }
}
