//! The built binary as a child process on a port of its own: started, asked, killed, started again on the same folder.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Client, Response};

/// The binary under test.
pub const QUIVER: &str = env!("CARGO_BIN_EXE_quiver");
/// The binary under test, or another build of it: `QUIVER_TEST_BINARY` names one, for figures that a debug build cannot give.
pub fn binary() -> String {
    std::env::var("QUIVER_TEST_BINARY").unwrap_or_else(|_| QUIVER.to_owned())
}

/// Time a server has to announce itself and to be ready, however busy the machine.
const START_MAX: Duration = Duration::from_secs(60);

/// A server and its folder. Dropped: killed.
pub struct Server {
    child: Child,
    address: SocketAddr,
    grpc: Option<SocketAddr>,
    /// Its data folder.
    pub data: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    _folder: Option<TempDir>,
}

/// How a server is started.
pub struct Start {
    data: Option<PathBuf>,
    without: Vec<String>,
    with: Vec<String>,
    environment: Vec<(String, String)>,
    takes_faults: bool,
}

impl Start {
    /// On a new folder.
    pub fn new() -> Self {
        Self { data: None, without: Vec::new(), with: Vec::new(), environment: Vec::new(), takes_faults: false }
    }

    /// On this folder.
    pub fn on(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// With more flags.
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.with.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// With an environment variable; an empty one is taken away.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its disk takes faults and its clock is set, see [`Server::faults`] and [`Server::set_clock`].
    pub fn with_faults(mut self) -> Self {
        self.takes_faults = true;
        self
    }

    /// Without one of the flags that every server here gets.
    pub fn without(mut self, flag: &str) -> Self {
        self.without.push(flag.to_owned());
        self
    }

    /// Starts it and waits until it has announced its address.
    pub fn announced(self) -> Result<Server, String> {
        let folder = self.data.is_none().then(|| tempfile::tempdir().expect("a temporary folder"));
        let data = match (&self.data, &folder) {
            (Some(d), _) => d.clone(),
            (None, Some(f)) => f.path().join("data"),
            (None, None) => unreachable!("one of them was made"),
        };
        let log = data.with_extension("log");
        let pairs = [
            ["--http-listen", "127.0.0.1:0"],
            ["--grpc-listen", "off"],
            ["--pg-listen", "off"],
            ["--self-metrics", "off"],
            ["--admin-api", "on"],
        ];
        let usual = pairs.iter().filter(|[name, _]| !self.without.iter().any(|w| w == name)).flatten();
        let flags: Vec<String> = usual.map(ToString::to_string).chain(self.with).collect();
        let mut environment = self.environment;
        if self.takes_faults {
            for (variable, extension) in [("QUIVER_FAULTS", "faults"), ("QUIVER_CLOCK", "clock")] {
                environment.push((variable.to_owned(), format!("@{}", data.with_extension(extension).display())));
            }
        }
        let (child, address, grpc) = spawn(&data, &log, &flags, &environment)?;
        Ok(Server { child, address, grpc, data, log, flags, environment, _folder: folder })
    }

    /// Starts it and waits until it is ready.
    pub fn ready(self) -> Server {
        let mut server = self.announced().unwrap_or_else(|e| panic!("{e}"));
        server.wait_ready();
        server
    }
}

fn command(data: &Path, flags: &[String], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(binary());
    command.arg("serve").arg("--data-dir").arg(data).args(flags);
    command.env_remove("QUIVER_CONFIG").env("QUIVER_LOG", "info").stdin(Stdio::null());
    for (name, value) in environment {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command
}

type Spawned = (Child, SocketAddr, Option<SocketAddr>);

fn spawn(data: &Path, log: &Path, flags: &[String], environment: &[(String, String)]) -> Result<Spawned, String> {
    let stderr = File::options().create(true).append(true).open(log).map_err(|e| e.to_string())?;
    let mut child = command(data, flags, environment)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|e| format!("cannot start {QUIVER}: {e}"))?;
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let (tell, told) = mpsc::channel();
    // Reads to the end, so that the pipe never fills.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("http://")
                && let Ok(address) = rest.split('/').next().unwrap_or("").parse::<SocketAddr>()
            {
                let _ = tell.send((line.contains("gRPC"), address));
            }
        }
    });
    let is_grpc_on = !flags.windows(2).any(|w| w == ["--grpc-listen", "off"]);
    let (mut http, mut grpc) = (None, None);
    while http.is_none() || (is_grpc_on && grpc.is_none()) {
        match told.recv_timeout(START_MAX) {
            Ok((true, address)) => grpc = Some(address),
            Ok((false, address)) => http = http.or(Some(address)),
            Err(_) => break,
        }
    }
    match http {
        Some(http) => Ok((child, http, grpc)),
        None => {
            let _ = child.kill();
            let status = child.wait().map_err(|e| e.to_string())?;
            Err(format!("the server ended with {status}: {}", tail(log)))
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

impl Server {
    /// A ready server on a new folder.
    pub fn start() -> Self {
        Start::new().ready()
    }

    /// A client of its own.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for gRPC, if it does.
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// `http://HOST:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `/-/ready` answers 200.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        loop {
            if self.client().get("/-/ready", &[]).is_ok_and(|r| r.status == 200) {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server ended with {status}: {}", tail(&self.log));
            }
            assert!(begun.elapsed() < START_MAX, "not ready after {START_MAX:?}: {}", tail(&self.log));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Is the process there?
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it at once, as `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait().expect("a child can be waited for");
        assert_eq!(status.signal(), Some(9), "the server had ended before: {status}\n{}", tail(&self.log));
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill -{name}");
    }

    /// How it ended, if it does within a time.
    pub fn ended_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if begun.elapsed() > time {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Rules of faults that its disk follows from now on (`sync@log/=slow:200`, see `src/persistence/disk/injected.rs`); none:
    /// it is well.
    pub fn faults(&self, rules: &str) {
        self.tell("faults", rules);
    }

    /// Its clock is so many milliseconds ahead from now on.
    pub fn set_clock(&self, ahead_ms: i64) {
        self.tell("clock", &ahead_ms.to_string());
    }

    /// A file beside the data folder, whole at every moment.
    fn tell(&self, extension: &str, text: &str) {
        let next = self.data.with_extension("next");
        let done =
            std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, self.data.with_extension(extension)));
        done.expect("a file beside the data folder");
    }

    /// One of its own metrics, by name and labels as they are printed.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", &[]).text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no metric {name}: {text}"))
    }

    /// Waits until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < START_MAX, "{what}: not after {START_MAX:?}\n{}", tail(&self.log));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> ExitStatus {
        let done = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill -TERM");
        self.child.wait().expect("a child can be waited for")
    }

    /// Starts it again on the same folder; it may still replay when this returns.
    pub fn restart_unready(&mut self) -> Result<(), String> {
        (self.child, self.address, self.grpc) = spawn(&self.data, &self.log, &self.flags, &self.environment)?;
        Ok(())
    }

    /// Starts it again on the same folder, and waits until it is ready.
    pub fn restart(&mut self) {
        self.restart_unready().unwrap_or_else(|e| panic!("{e}"));
        self.wait_ready();
    }

    /// GET that has to be answered.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Response {
        self.client().get(path, parameters).unwrap_or_else(|e| panic!("GET {path}: {e}\n{}", tail(&self.log)))
    }

    /// Form POST that has to be answered.
    pub fn post(&self, path: &str, parameters: &[(&str, &str)]) -> Response {
        self.client().post(path, parameters).unwrap_or_else(|e| panic!("POST {path}: {e}\n{}", tail(&self.log)))
    }

    /// Instant query at a time in seconds: the `data.result` of a success.
    pub fn query(&self, promql: &str, time: &str) -> Value {
        let r = self.post("/api/v1/query", &[("query", promql), ("time", time)]);
        assert_eq!(r.status, 200, "{promql}: {}", r.text());
        r.json()["data"]["result"].take()
    }

    /// Rows of a SQL answer.
    pub fn sql(&self, statement: &str) -> Vec<Vec<Value>> {
        let r = self.post("/api/v1/sql", &[("query", statement)]);
        assert_eq!(r.status, 200, "{statement}: {}", r.text());
        serde_json::from_value(r.json()["data"]["rows"].take()).expect("rows")
    }

    /// Flush or compact, done when it returns.
    pub fn admin(&self, verb: &str) {
        let r = self.post(&format!("/api/v1/admin/tsdb/{verb}"), &[]);
        assert_eq!(r.status, 204, "{verb}: {}", r.text());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log ends with:\n{}", tail(&self.log));
        }
    }
}

/// Copies a folder with all below it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
