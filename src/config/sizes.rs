//! Default sizes, derived from the available memory.
//!
//! ```text
//! a quarter of it      all queries together    up to 2 GiB      half of that: one query
//! an eighth            the head                up to 512 MiB    it may grow to twice that while a flush runs
//! a thirty-second      decoded samples         up to 128 MiB
//! a sixty-fourth       kept answers            up to 64 MiB
//! a thirty-second      answers being sent      up to 64 MiB
//! a sixteenth          bodies of writes        up to 512 MiB
//! a sixteenth          what one write becomes  up to 256 MiB
//! ```
//!
//! The first four together take five eighths at most: the rest is for the index, requests on their way, which mostly take a
//! hundredth of what they may, and the process itself.

use quiver_model::Limits;

/// Sizes for a machine, or for the control group the process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub queries: usize,
    pub query: usize,
    pub head: usize,
    pub cache: usize,
    pub answers: usize,
    pub unsent: usize,
    pub bodies: usize,
    pub write: usize,
}

impl Sizes {
    /// Those for so much memory, bytes; `None`: as much as anybody needs.
    pub(super) fn of(memory: Option<u64>) -> Self {
        let part = |parts: u64, most: usize, least: usize| {
            let share = memory.map_or(usize::MAX, |m| usize::try_from(m / parts).unwrap_or(usize::MAX));
            share.clamp(least, most)
        };
        let queries = part(4, 2 << 30, 32 << 20);
        Self {
            queries,
            query: queries / 2,
            head: part(8, 512 << 20, 16 << 20),
            cache: part(32, 128 << 20, 4 << 20),
            answers: part(64, 64 << 20, 2 << 20),
            unsent: part(32, 64 << 20, 8 << 20),
            // A body of the largest size has room.
            bodies: part(16, 512 << 20, 64 << 20),
            write: part(16, 256 << 20, 32 << 20),
        }
    }

    /// The limits with these sizes.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            write_bodies_bytes_max: self.bodies,
            write_memory_bytes_max: self.write,
            query_memory_bytes_max: self.query,
            query_memory_total_bytes_max: self.queries,
            result_cache_bytes_max: self.answers,
            answer_bytes_max: self.unsent,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_machine_has_the_sizes_of_the_documents_and_a_small_one_lives() {
        let large = Sizes::of(Some(64 << 30));
        assert_eq!(large, Sizes::of(None));
        assert_eq!(large.limits(), Limits::default());
        assert_eq!((large.head, large.cache), (512 << 20, 128 << 20));
        for mib in [256_u64, 512, 1024, 4096, 8192] {
            let s = Sizes::of(Some(mib << 20));
            let most = s.queries + 2 * s.head + s.cache + s.answers;
            assert!(most as u64 <= (mib << 20) * 5 / 8, "{mib} MiB: {most}");
            assert!(s.query * 2 <= s.queries);
        }
    }
}
