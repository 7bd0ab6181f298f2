//! A fleet of hosts as its scraper sees it: the same series from every host, values of the kinds that real exporters
//! have, and the remote write requests that carry them. The same numbers every time.

/// A fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Hosts.
    pub hosts: usize,
    /// Series of one host.
    pub series: usize,
    /// Time of the first scrape, ms.
    pub start_ms: i64,
    /// Time between scrapes, ms.
    pub step_ms: i64,
    /// Every series changes with every scrape; else half of them never do.
    pub is_restless: bool,
}

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Remote write 1.0.
    V1,
    /// Remote write 2.0.
    V2,
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const PARTS: [&str; 8] = ["cpu", "memory", "disk", "network", "filesystem", "process", "http", "scheduler"];
const WORDS: [&str; 5] = ["requests_total", "bytes_total", "seconds_total", "utilization_ratio", "queue_length"];
const REGIONS: [&str; 4] = ["eu-central-1", "eu-west-1", "us-east-1", "ap-southeast-2"];

impl Fleet {
    /// Labels of series `j` of host `h`, sorted by name.
    pub fn labels(&self, h: usize, j: usize) -> Vec<(&'static str, String)> {
        let metric = j / 5;
        let name = format!("node_{}_{}_{}", PARTS[metric % 8], metric / 8, WORDS[metric % 5]);
        vec![
            ("__name__", name),
            ("device", format!("dev{}", j % 5)),
            ("env", "production".to_owned()),
            ("instance", format!("host-{h:05}.example.org:9100")),
            ("job", "node".to_owned()),
            ("region", REGIONS[h % 4].to_owned()),
            ("zone", format!("{}{}", REGIONS[h % 4], ["a", "b", "c"][h % 3])),
        ]
    }

    /// Value of that series at scrape `k`.
    pub fn value(&self, h: usize, j: usize, k: i64) -> f64 {
        let series = mix((h as u64) << 32 | j as u64);
        let noise = mix(series ^ (k as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = if self.is_restless { 5 + j % 5 } else { j % 10 };
        match kind {
            5 | 6 => (series % 1_000_000) as f64 + (k * 100 + (noise % 90) as i64) as f64,
            7 => ((series % 100_000) as i64 + k * 1400 + (noise % 100) as i64) as f64 / 100.0,
            8 => (noise % 500) as f64,
            9 => (noise % 1000) as f64 / 1000.0,
            _ => (series % 16) as f64,
        }
    }

    /// Time of scrape `k`, ms.
    pub fn time(&self, k: i64) -> i64 {
        self.start_ms + k * self.step_ms
    }

    /// The message with series `from..to` of host `h` at scrape `k`, not compressed.
    pub fn message(&self, version: Version, h: usize, series: std::ops::Range<usize>, k: i64, out: &mut Vec<u8>) {
        match version {
            Version::V1 => {
                self.history(h, series, k..k + 1, out);
            }
            Version::V2 => {
                out.clear();
                let mut symbols: Vec<String> = vec![String::new()];
                let mut known = std::collections::HashMap::from([(String::new(), 0u64)]);
                let mut of = |text: &str| {
                    *known.entry(text.to_owned()).or_insert_with(|| {
                        symbols.push(text.to_owned());
                        symbols.len() as u64 - 1
                    })
                };
                let mut all = Vec::new();
                for j in series {
                    let labels = self.labels(h, j);
                    let mut refs = Vec::new();
                    for (n, v) in &labels {
                        varint(&mut refs, of(n));
                        varint(&mut refs, of(v));
                    }
                    let mut metadata = vec![1 << 3, 1 + (j / 5 % 2) as u8, 3 << 3];
                    varint(&mut metadata, of(&format!("What {} tells about a host.", labels[0].1)));
                    let mut body = Vec::with_capacity(64);
                    bytes(&mut body, 1, &refs);
                    bytes(&mut body, 2, &self.sample(h, j, k));
                    bytes(&mut body, 5, &metadata);
                    bytes(&mut all, 5, &body);
                }
                for s in &symbols {
                    bytes(out, 4, s.as_bytes());
                }
                out.extend_from_slice(&all);
            }
        }
    }

    /// A 1.0 message with series `series` of host `h`, all of their samples of some scrapes together, as a backfill has them.
    pub fn history(&self, h: usize, series: std::ops::Range<usize>, scrapes: std::ops::Range<i64>, out: &mut Vec<u8>) {
        out.clear();
        for j in series {
            let mut body = Vec::with_capacity(256);
            for (n, v) in self.labels(h, j) {
                let mut label = Vec::with_capacity(64);
                bytes(&mut label, 1, n.as_bytes());
                bytes(&mut label, 2, v.as_bytes());
                bytes(&mut body, 1, &label);
            }
            scrapes.clone().for_each(|k| bytes(&mut body, 2, &self.sample(h, j, k)));
            bytes(out, 1, &body);
        }
    }

    fn sample(&self, h: usize, j: usize, k: i64) -> Vec<u8> {
        let mut out = vec![1 << 3 | 1];
        out.extend_from_slice(&self.value(h, j, k).to_bits().to_le_bytes());
        out.push(2 << 3);
        varint(&mut out, self.time(k) as u64);
        out
    }
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, body: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, body.len() as u64);
    out.extend_from_slice(body);
}
