//! The built binary on a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::server::QUIVER;

/// Time that something has to appear, however busy the machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Screen {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

/// A process and the other side of its terminal. Dropped: killed.
pub struct Pty {
    child: Child,
    keys: File,
    screen: Arc<Screen>,
    seen: usize,
}

fn open(columns: u16) -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the two numbers and the size outlive the call; no name and no settings are asked for.
    let done = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(done, 0, "a pseudo-terminal: {}", std::io::Error::last_os_error());
    // SAFETY: both were opened just now and belong to nobody else.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

impl Pty {
    /// Starts it on a terminal of so many columns.
    pub fn start(arguments: &[&str], columns: u16, environment: &[(&str, &str)]) -> Self {
        let (ours, theirs) = open(columns);
        let side = || Stdio::from(theirs.try_clone().expect("a copy of a descriptor"));
        let mut command = Command::new(QUIVER);
        command.args(arguments).env_remove("QUIVER_URL").envs(environment.iter().copied());
        command.stdin(side()).stdout(side()).stderr(side());
        let lead = || {
            // SAFETY: both calls are allowed between fork and exec; descriptor 0 is the terminal.
            let done = unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 };
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: what runs in the child allocates nothing and takes no lock.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().expect("the binary runs");
        drop(command);
        drop(theirs);
        let keys = File::from(ours);
        let screen = Arc::new(Screen::default());
        let (mut read, shown) = (keys.try_clone().expect("a copy of a descriptor"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // At the end of the process the terminal gives an error.
            while let Ok(n @ 1..) = read.read(&mut bytes) {
                shown.text.lock().unwrap().0.push_str(&String::from_utf8_lossy(&bytes[..n]));
                shown.changed.notify_all();
            }
            shown.text.lock().unwrap().1 = true;
            shown.changed.notify_all();
        });
        Self { child, keys, screen, seen: 0 }
    }

    fn wait(&self, what: &str, holds: impl Fn(&str, bool) -> bool) -> String {
        let begun = Instant::now();
        let mut text = self.screen.text.lock().unwrap();
        while !holds(&text.0, text.1) {
            let left = WAIT_MAX.checked_sub(begun.elapsed()).unwrap_or_default();
            assert!(!left.is_zero() && !text.1, "{what:?} did not appear: {}", text.0);
            text = self.screen.changed.wait_timeout(text, left).unwrap().0;
        }
        text.0.clone()
    }

    /// Waits until a text appears below what was waited for before.
    pub fn wait_for(&mut self, wanted: &str) {
        let text = self.wait(wanted, |text, _| text.get(self.seen..).is_some_and(|t| t.contains(wanted)));
        self.seen += text[self.seen..].find(wanted).unwrap_or(0) + wanted.len();
    }

    /// Types keys.
    pub fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal takes keys");
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) {
        self.send(&format!("{line}\r"));
    }

    /// Waits until the process has closed the terminal: all that it has written, with plain line ends.
    pub fn end(&mut self) -> String {
        self.wait("the end", |_, ended| ended).replace('\r', "")
    }

    /// Its exit code.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().expect("a child can be waited for").code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
