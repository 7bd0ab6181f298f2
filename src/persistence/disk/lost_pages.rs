//! Pages of mapped files that the medium does not give: the kernel says so with a signal, not with an error.
//!
//! ```text
//! a read of a mapped page ─▶ the medium fails, or the file is shorter now ─▶ SIGBUS with the address
//!      ├─ in a watched mapping:  a page of zeros takes its place, the mapping is marked, the read goes on
//!      └─ anywhere else:         whoever handled the signal before does; by default the process ends, as ever
//! ```
//!
//! Whoever reads a mapping looks at [`Watched::is_lost`] before it believes what it read.
//!
//! Invariants
//! 1. The handler touches atomics and makes two system calls, nothing else: no lock, no allocation.
//! 2. A mapping that cannot be watched (the table is full, the handler cannot be installed) is not used at all.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Mappings at once; a block has one. More blocks than that are read instead.
const PLACES: usize = 16 << 10;

/// Addresses of a mapping; `end` is 0 where the place is free.
struct Place {
    start: AtomicUsize,
    end: AtomicUsize,
    is_lost: AtomicBool,
}

static PLACE: [Place; PLACES] =
    [const { Place { start: AtomicUsize::new(0), end: AtomicUsize::new(0), is_lost: AtomicBool::new(false) } }; PLACES];
/// Places that were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Places that were given back.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);
/// Who handled the signal before; set before the handler is.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A mapping under watch, until it is dropped.
#[derive(Debug)]
pub(super) struct Watched(usize);

impl Watched {
    /// Watches `len` bytes from an address on.
    pub(super) fn new(start: usize, len: usize) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let number = FREE.lock().pop().or_else(|| {
            let next = |n: usize| (n < PLACES).then_some(n + 1);
            USED.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()
        })?;
        let place = &PLACE[number];
        place.is_lost.store(false, Ordering::Relaxed);
        place.start.store(start, Ordering::Relaxed);
        place.end.store(start.saturating_add(len), Ordering::Release);
        Some(Self(number))
    }

    /// Was a page of it lost?
    pub(super) fn is_lost(&self) -> bool {
        PLACE[self.0].is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        PLACE[self.0].end.store(0, Ordering::Release);
        FREE.lock().push(self.0);
    }
}

/// Installs the handler with the first mapping.
fn is_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: plain system calls on values that live through them. `sigaction` is plain data for which zeros are a value.
        // The handler keeps to what a signal handler may do, see `on_bus`; it runs on the alternate stack that the runtime
        // gives each thread, where there is one.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE);
            let Ok(page) = usize::try_from(page) else { return false };
            PAGE_BYTES.store(page, Ordering::Relaxed);
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 || BEFORE.set(before).is_err() {
                return false;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) == 0
        }
    })
}

/// The place of an address.
fn place_of(address: usize) -> Option<&'static Place> {
    let used = USED.load(Ordering::Acquire).min(PLACES);
    PLACE[..used].iter().find(|p| {
        let end = p.end.load(Ordering::Acquire);
        // Looked at twice: in between the place may have become that of another mapping.
        p.start.load(Ordering::Relaxed) <= address && address < end && p.end.load(Ordering::Acquire) == end
    })
}

extern "C" fn on_bus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel calls this with a valid `info`. What follows is safe in a signal handler: atomics, `mmap`, which is a
    // bare system call, and `sigaction`. The page that is replaced lies in a mapping of ours that is alive, since it is
    // being read: no other memory changes, and the mapping stays as long as it was. The bytes of that page could not be read
    // before, or came from a page that the kernel has dropped since; readers take any bytes there may be, and believe them
    // only while the mapping is not marked. `errno` is as it was.
    unsafe {
        let errno = libc::__errno_location();
        let errno_before = *errno;
        let address = (*info).si_addr() as usize;
        if let Some(place) = place_of(address) {
            let bytes = PAGE_BYTES.load(Ordering::Relaxed);
            let page = (address & !(bytes - 1)) as *mut libc::c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            // Marked before the zeros can be seen.
            place.is_lost.store(true, Ordering::Release);
            if libc::mmap(page, bytes, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED {
                *errno = errno_before;
                return;
            }
        }
        let default = libc::SIG_DFL;
        match BEFORE.get().map(|b| (b.sa_sigaction, b.sa_flags)) {
            Some((handler, flags)) if handler != default && handler != libc::SIG_IGN => {
                if flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
            _ => {
                // The instruction runs again and meets the default: the end.
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = default;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        *errno = errno_before;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use crate::disk::{Disk, DiskErrorKind, RealDisk};

    #[test]
    fn a_page_that_is_gone_is_noticed_and_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let content: Vec<u8> = (0..5 * 65_536_u32).map(|i| (i % 251) as u8 + 1).collect();
        for name in ["cut", "whole"] {
            disk.create(name).unwrap().write_all(&content).unwrap();
        }
        let (cut, whole) = (disk.map("cut").unwrap(), disk.map("whole").unwrap());
        assert!(cut.is_mapped() && whole.is_mapped());
        assert!(!cut.is_lost());
        disk.truncate("cut", 65_536).unwrap();
        assert_eq!(&cut[..65_536], &content[..65_536], "what is there is read as ever");
        assert!(!cut.is_lost());
        let (at, end) = (2 * 65_536, 3 * 65_536);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(cut[at..end].iter().all(|b| *b == 0), "zeros, and the process lives"));
            }
        });
        assert!(cut.is_lost() && !whole.is_lost());
        assert_eq!(&whole[..], &content[..]);
        // Past the mapping: what is there, and no more.
        assert_eq!(cut.read_at(65_530, 100).unwrap(), &content[65_530..65_536]);
        disk.remove("cut").unwrap();
        assert_eq!(cut.read_at(0, 1).unwrap_err().kind, DiskErrorKind::NotFound);
        // A new mapping in the same place begins whole.
        drop(cut);
        let again = disk.map("whole").unwrap();
        assert!(!again.is_lost());
    }

    #[test]
    fn any_other_bus_error_ends_the_process_as_ever() {
        const CHILD: &str = "QUIVER_TEST_BUS_ERROR";
        if let Ok(path) = std::env::var(CHILD) {
            let (disk, name) = (RealDisk::open(&path).unwrap(), "x");
            let _watched = disk.map(name).unwrap();
            let file = std::fs::File::open(std::path::Path::new(&path).join(name)).unwrap();
            // SAFETY: a test of what happens when the promise is broken.
            let foreign = unsafe { memmap2::Mmap::map(&file) }.unwrap();
            disk.truncate(name, 0).unwrap();
            std::process::exit(i32::from(foreign[70_000]));
        }
        let folder = tempfile::tempdir().unwrap();
        RealDisk::open(folder.path()).unwrap().create("x").unwrap().write_all(&[7; 100_000]).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "disk::lost_pages::tests::any_other_bus_error_ends_the_process_as_ever"]);
        let status = child.env(CHILD, folder.path()).output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}");
    }
}
