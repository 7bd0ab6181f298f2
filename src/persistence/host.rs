//! What the machine gives this process: memory it takes and memory it may take.

use std::path::Path;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::read_text;

/// Bytes of memory that the process takes, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    let status = read_text(Path::new("/proc/self/status")).ok()?;
    kib_of(&status, "VmRSS:")
}

/// Bytes of memory that the process may take before the system ends it or refuses it more: the least of the machine's memory,
/// the limits of its control group and of those above it (versions 1 and 2), and half of a limit on its address space, in
/// which mapped files count as well. `None` where the system tells nothing.
pub fn memory_bytes() -> Option<u64> {
    let read = |path: &str| read_text(Path::new(path)).ok();
    let space = getrlimit(Resource::As).current.map(|bytes| bytes / 2);
    [memory_by_files(&read), space].into_iter().flatten().min()
}

/// Lets the process open as many files and connections as the system lets it ask for; returns how many. The lower limit that many
/// start with is for programs that wait with `select`.
pub fn raise_descriptors() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where it is refused, what there was is left.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    descriptors_max()
}

/// Files and connections that the process may have open. `None` if there is no limit.
pub fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The name of the machine, or of the container; empty where the system does not tell.
pub fn host_name() -> String {
    read_text(Path::new("/proc/sys/kernel/hostname")).map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

/// Bytes that were written to a socket and that its peer has not acknowledged yet. `None` if the system does not tell.
#[cfg(target_os = "linux")]
pub fn unsent_bytes(socket: std::os::fd::RawFd) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one `int` through the pointer, which is valid for it, and keeps nothing. A number that is no open
    // socket is answered with an error.
    let done = unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &raw mut bytes) };
    u64::try_from(bytes).ok().filter(|_| done == 0)
}

/// Bytes that were written to a socket and that its peer has not acknowledged yet. `None` if the system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn unsent_bytes(_: std::os::fd::RawFd) -> Option<u64> {
    None
}

/// A copy of `bytes` in pages of its own, which return to the system when it is dropped. An allocator keeps memory that a thread
/// other than the one that asked for it frees. `None` if the system gives no pages.
pub fn in_own_pages(bytes: &[u8]) -> Option<memmap2::Mmap> {
    let mut pages = memmap2::MmapMut::map_anon(bytes.len()).ok()?;
    pages.copy_from_slice(bytes);
    pages.make_read_only().ok()
}

/// Processor time that this thread has had, ns. Costs a call of the system: for work of microseconds.
pub fn thread_cpu_ns() -> u64 {
    cpu_ns(ClockId::ThreadCPUTime)
}

/// Processor time that this process has had, all its threads together, ns.
pub fn process_cpu_ns() -> u64 {
    cpu_ns(ClockId::ProcessCPUTime)
}

fn cpu_ns(of: ClockId) -> u64 {
    let t = clock_gettime(of);
    let ns = i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
    u64::try_from(ns).unwrap_or(0)
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn memory_by_files(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let mut least = read("/proc/meminfo").and_then(|text| kib_of(&text, "MemTotal:"));
    // `HIERARCHY:CONTROLLERS:PATH`; version 2 has hierarchy 0 and no controllers.
    for line in read("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // A container sees its own group as the root: groups that are not there say nothing.
        let mut group = path.trim_matches('/');
        loop {
            let slash = if group.is_empty() { "" } else { "/" };
            // No limit is `max`, or a number beyond any memory.
            let limit = read(&format!("{root}{slash}{group}/{file}")).and_then(|t| t.trim().parse::<u64>().ok());
            least = [least, limit].into_iter().flatten().min();
            if group.is_empty() {
                break;
            }
            group = group.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(files: &[(&str, &str)]) -> Option<u64> {
        memory_by_files(&|path| files.iter().find(|(p, _)| *p == path).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        let machine = ("/proc/meminfo", "MemTotal:       16384 kB\nMemFree:  1 kB\n");
        assert_eq!(memory(&[]), None);
        assert_eq!(memory(&[machine]), Some(16 << 20));
        let v2 = ("/proc/self/cgroup", "0::/a/b\n");
        assert_eq!(memory(&[machine, v2, ("/sys/fs/cgroup/a/b/memory.max", "max\n")]), Some(16 << 20));
        assert_eq!(memory(&[machine, v2, ("/sys/fs/cgroup/a/b/memory.max", "1048576\n")]), Some(1 << 20));
        assert_eq!(memory(&[machine, v2, ("/sys/fs/cgroup/a/memory.max", "2048\n")]), Some(2048), "a group above");
        assert_eq!(memory(&[machine, v2, ("/sys/fs/cgroup/memory.max", "4096\n")]), Some(4096), "in a container");
        let v1 = ("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/\n");
        let own = ("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "8192\n");
        assert_eq!(memory(&[machine, v1, own]), Some(8192));
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(&[machine, v1, none]), Some(16 << 20));
        assert_eq!(memory(&[machine, ("/proc/self/cgroup", "rubbish\n::\n")]), Some(16 << 20));
    }

    #[test]
    fn a_copy_in_own_pages_is_the_same() {
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
        assert!(in_own_pages(&bytes).unwrap()[..] == bytes[..]);
        assert!(in_own_pages(&[]).unwrap().is_empty());
    }

    #[test]
    fn this_machine_tells() {
        let (resident, memory) = (resident_bytes().unwrap(), memory_bytes().unwrap());
        assert!(0 < resident && resident < memory, "{resident} of {memory}");
    }
}
