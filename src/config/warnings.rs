//! Warnings about valid settings that are probably a mistake: logged at the start and after a reload, and printed by
//! `quiver config check`.

use quiver_model::Limits;
use quiver_model::duration::format_ms;

use super::{Config, Listen, about_bytes, show_bytes};

/// A retention below this deletes while people still look, ms.
const RETENTION_MS_FEW: i64 = 3_600_000;
/// Blocks that move sooner than this are moved before they are merged, ms.
const AGE_MS_FEW: i64 = 3_600_000;
/// A head below this is flushed every few seconds by any real load.
const HEAD_BYTES_FEW: usize = 1 << 20;
/// Below this nothing is left for a cache.
const PROCESS_BYTES_FEW: u64 = 64 << 20;

impl Config {
    /// What is to be said of these settings, on a machine (or in a container) with so much memory, bytes.
    pub fn warnings(&self, memory: Option<u64>) -> Vec<String> {
        let mut all = Vec::new();
        self.exposed(&mut all);
        self.deletes_soon(&mut all);
        if let Some(memory) = memory {
            self.takes_too_much(memory, &mut all);
        }
        let Limits { query_memory_bytes_max: one, query_memory_total_bytes_max: total, .. } = self.limits;
        if one > total {
            all.push(format!(
                "query_memory_bytes_max ({}) is more than query_memory_total_bytes_max ({}): no query gets more than the latter",
                show_bytes(one as u64),
                show_bytes(total as u64)
            ));
        }
        if self.head_bytes < HEAD_BYTES_FEW {
            all.push(format!(
                "head-bytes is {}: the head will be flushed very often",
                show_bytes(self.head_bytes as u64)
            ));
        }
        let budget = self.caches.process_bytes;
        if budget > 0 && budget < PROCESS_BYTES_FEW {
            all.push(format!("memory-budget is {}: no decoded samples will be cached", show_bytes(budget)));
        }
        all
    }

    /// Ports that other machines reach.
    fn exposed(&self, all: &mut Vec<String>) {
        for (what, listen) in [("HTTP", self.http), ("gRPC", self.grpc)] {
            let Listen::On(address) = listen else { continue };
            if address.ip().is_loopback() {
                continue;
            }
            let place = if address.ip().is_unspecified() { "on all interfaces" } else { "beyond this machine" };
            let can = match (what, self.admin_api) {
                ("gRPC", _) => "write",
                (_, true) => "read, write and delete (admin-api is on)",
                (_, false) => "read and write",
            };
            all.push(format!(
                "{what} is served on {address}, {place}, without authentication and without TLS: anyone who reaches it can {can}"
            ));
        }
    }

    fn deletes_soon(&self, all: &mut Vec<String>) {
        let rules = self.retention_rules.iter().map(|r| r.keep_ms);
        for ms in rules.chain([self.retention_ms]).flatten().filter(|ms| *ms < RETENTION_MS_FEW) {
            all.push(format!("retention is {}: samples older than that are deleted", format_ms(ms)));
        }
        if let Some(bytes) = self.retention_bytes.filter(|bytes| *bytes < (1 << 20)) {
            all.push(format!("retention-size is {}: nearly all data is deleted", show_bytes(bytes)));
        }
        if let Some(tier) = &self.caches.tier
            && tier.after_ms < AGE_MS_FEW
        {
            all.push(format!(
                "tier-after is {}: blocks are uploaded almost as soon as they are written, and their local files are deleted at an age of {}",
                format_ms(tier.after_ms),
                format_ms(tier.drop_after_ms)
            ));
        }
    }

    fn takes_too_much(&self, memory: u64, all: &mut Vec<String>) {
        let sizes = self.limits.list().into_iter().filter(|(name, _)| name.ends_with("bytes_max"));
        let own = [("head-bytes", self.head_bytes as u64), ("cache-size", self.caches.cache_bytes as u64)];
        let before = all.len();
        for (name, bytes) in sizes.chain(own).filter(|(_, bytes)| *bytes > memory) {
            all.push(format!(
                "{name} is {}, more than the available memory ({}): the system may kill the server before it is reached",
                show_bytes(bytes),
                about_bytes(memory)
            ));
        }
        // The head may grow to twice its size while it is flushed.
        let queries = self.limits.query_memory_total_bytes_max as u64;
        let sum = queries
            .saturating_add((self.head_bytes as u64).saturating_mul(2))
            .saturating_add(self.caches.cache_bytes as u64);
        if all.len() == before && sum > memory {
            all.push(format!(
                "queries ({}), head (twice {}) and cache ({}) together may take more than the available memory ({})",
                show_bytes(queries),
                show_bytes(self.head_bytes as u64),
                show_bytes(self.caches.cache_bytes as u64),
                about_bytes(memory)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ServeArgs;
    use super::*;

    fn told(args: &ServeArgs, memory: u64) -> Vec<String> {
        Config::load(args).unwrap().warnings(Some(memory))
    }

    #[test]
    fn what_works_and_is_probably_a_slip_is_told() {
        const GIB: u64 = 1 << 30;
        let usual = ServeArgs { limit: vec!["labels_max=7".into()], ..Default::default() };
        assert_eq!(told(&usual, 64 * GIB), Vec::<String>::new());
        let args = |change: &dyn Fn(&mut ServeArgs)| {
            let mut args = ServeArgs::default();
            change(&mut args);
            told(&args, 23 * GIB).join("; ")
        };
        let all = args(&|a| a.http_listen = Some(":9095".parse().unwrap()));
        assert!(all.contains("HTTP is served on 0.0.0.0:9095, on all interfaces, without authentication"), "{all}");
        let one = args(&|a| {
            a.grpc_listen = Some("192.0.2.1:4317".parse().unwrap());
            a.http_listen = Some("[::1]:1".parse().unwrap());
        });
        assert!(
            one.starts_with("gRPC is served on 192.0.2.1:4317, beyond this machine") && !one.contains("HTTP"),
            "{one}"
        );
        let large = args(&|a| a.limit = vec!["query_memory_bytes_max=256GiB".into()]);
        assert!(large.contains("query_memory_bytes_max is 256GiB, more than the available memory (23 GiB)"), "{large}");
        assert!(large.contains("no query gets more than the latter"), "{large}");
        let sum = args(&|a| a.head_bytes = Some("12GiB".into()));
        assert!(sum.contains("together may take more"), "{sum}");
        let huge = args(&|a| a.head_bytes = Some("15EiB".into()));
        assert!(huge.contains("head-bytes is 15EiB, more than the available memory"), "{huge}");
        let soon = args(&|a| {
            a.retention = Some("5m".into());
            a.retention_size = Some("1500B".into());
            a.head_bytes = Some("100KiB".into());
            a.tier.tier_url = Some("file:///tmp/tier".into());
            a.tier.tier_after = Some("30s".into());
        });
        for word in ["retention is 5m", "retention-size is 1500B", "head-bytes is 100KiB", "tier-after is 30s"] {
            assert!(soon.contains(word), "{word}: {soon}");
        }
    }
}
