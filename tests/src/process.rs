//! The processes of a cluster.

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A part that does not serve after this long never will.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The `quarry` binary beside the running test.
///
/// # Panics
/// When it was not built.
pub fn quarry() -> PathBuf {
    if let Some(path) = std::env::var_os("QUARRY_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("find the running test");
    let path = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("quarry");
    assert!(path.exists(), "{} is missing: run `cargo build -p quarry-cli` first", path.display());
    path
}

/// A running part of a cluster.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `quarry ARGS` and waits until it says that it serves. Its log is appended to `log`.
    ///
    /// # Panics
    /// When it ends or stays silent.
    pub fn start(name: &str, args: &[impl AsRef<OsStr>], log: &Path) -> Self {
        match Self::try_start(name, args, log) {
            Ok(process) => process,
            Err(log) => panic!("{name} did not start; it logged:\n{log}"),
        }
    }

    /// The same, or what it logged when it did not come to serve.
    ///
    /// # Errors
    /// The end of its log.
    pub fn try_start(name: &str, args: &[impl AsRef<OsStr>], log: &Path) -> Result<Self, String> {
        let file = File::options().create(true).append(true).open(log).expect("open a log");
        let mut command = Command::new(quarry());
        command
            .args(args)
            .env("QUARRY_LOG", log_filter())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // A test that is killed must not leave its servers behind.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command.spawn().expect("start quarry");
        let stdout = child.stdout.take().expect("the output is piped");
        let (said, heard) = mpsc::channel();
        // Reads to the end, so that the part never writes into a closed pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        let mut process = Self { name: name.to_owned(), child, log: log.to_path_buf() };
        match heard.recv_timeout(START_LIMIT) {
            Ok(_) => Ok(process),
            Err(_) => {
                process.kill();
                Err(process.log_end(20))
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM, and waits for the end, at most `limit`; `None` if it did not end by then.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// The last lines of its log.
    pub fn log_end(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log\n{}", self.name, self.log_end(30));
        }
        self.kill();
    }
}

fn log_filter() -> String {
    std::env::var("QUARRY_LOG").unwrap_or_else(|_| "info,openraft=warn,fuser=warn".into())
}

/// Runs `quarry ARGS` to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run_quarry(args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(quarry())
        .args(args)
        .env("QUARRY_LOG", "warn")
        .stdin(Stdio::null())
        .output()
        .expect("run quarry")
}

/// What scripts of tests can use besides the shell's own: `fails COMMAND...` demands that the command fails, since `! COMMAND` would
/// be ignored by `set -e`.
const SHELL_PRELUDE: &str = r#"fails() { if "$@" 2>/dev/null; then echo "this must fail: $*" >&2; exit 1; fi; }
"#;

/// Runs a shell command in a directory and gives its output.
///
/// # Panics
/// When it fails.
pub fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("{SHELL_PRELUDE}{script}")])
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("run bash");
    assert!(
        output.status.success(),
        "`{script}` failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
