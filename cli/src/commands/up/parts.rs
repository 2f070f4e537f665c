//! The processes that `quarry up` looks after.

use super::layout::Layout;
use crate::output::{complain, say};
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// Pause before a part that failed is started again: the first, and the longest to which failures in a row double it.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Lines of a log that are shown when its part fails to start.
const LOG_LINES: usize = 5;

/// One process of the cluster.
pub(in crate::commands) struct Part {
    /// `namenode`, `datanode-1`, `mount`: names the log and the pid file.
    name: String,
    /// Where it listens or is mounted, for people.
    place: String,
    args: Vec<OsString>,
    log: PathBuf,
    pid_file: PathBuf,
    child: Option<Child>,
    started: Option<Instant>,
    /// When it is started again.
    due: Option<Instant>,
    pause: Duration,
    /// Kept open: a part that writes to a closed pipe would die.
    stdout: Option<BufReader<ChildStdout>>,
}

impl Part {
    fn new(layout: &Layout, name: String, place: String, log_args: &[&str], args: &[OsString]) -> Self {
        Self {
            log: layout.logs().join(format!("{name}.log")),
            pid_file: layout.run().join(format!("{name}.pid")),
            args: log_args.iter().map(OsString::from).chain(args.iter().cloned()).collect(),
            name,
            place,
            child: None,
            started: None,
            due: None,
            pause: PAUSE_FIRST,
            stdout: None,
        }
    }

    pub(in crate::commands) fn namenode(layout: &Layout, log_args: &[&str]) -> Self {
        let args = ["namenode".into(), "--config".into(), layout.namenode_config().into_os_string()];
        Self::new(layout, "namenode".into(), layout.namenode_address(), log_args, &args)
    }

    pub(in crate::commands) fn datanode(layout: &Layout, number: u32, log_args: &[&str]) -> Self {
        let args = ["datanode".into(), "--config".into(), layout.datanode_config(number).into_os_string()];
        Self::new(layout, format!("datanode-{number}"), layout.datanode_address(number), log_args, &args)
    }

    pub(super) fn mount(layout: &Layout, mountpoint: &Path, options: &[String], log_args: &[&str]) -> Self {
        let mut args: Vec<OsString> = vec![
            "mount".into(),
            mountpoint.as_os_str().to_owned(),
            "--config".into(),
            layout.client_config().into_os_string(),
        ];
        for list in options {
            args.extend(["-o".into(), list.into()]);
        }
        Self::new(layout, "mount".into(), mountpoint.display().to_string(), log_args, &args)
    }

    pub(super) fn gateway(layout: &Layout, listen: &str, log_args: &[&str]) -> Self {
        let args: Vec<OsString> = vec![
            "gateway".into(),
            "--config".into(),
            layout.gateway_config().into_os_string(),
            "--listen".into(),
            listen.into(),
            "--state".into(),
            layout.dir().join("gateway").into_os_string(),
        ];
        Self::new(layout, "gateway".into(), format!("http://{listen}/"), log_args, &args)
    }

    /// A mount or a gateway, which need the servers until their end.
    pub(super) fn is_client(&self) -> bool {
        self.name == "mount" || self.is_gateway()
    }

    pub(super) fn is_gateway(&self) -> bool {
        self.name == "gateway"
    }

    /// What it is called.
    pub(in crate::commands) fn name(&self) -> &str {
        &self.name
    }

    /// Kills it, as a crash would.
    pub(in crate::commands) fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Where it listens or is mounted.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Starts the process and waits until it says that it serves.
    pub(in crate::commands) async fn start(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        // A group of its own: Ctrl-C must reach us alone, since the parts have to end in order.
        command.env(crate::SLOW_VARIABLE, quarry_host::trace::slow_seconds().to_string());
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // If we are killed, nobody else would end the parts.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        if let Some(pid) = child.id() {
            std::fs::write(&self.pid_file, format!("{pid}\n"))
                .with_context(|| format!("cannot write {}", self.pid_file.display()))?;
        }
        let mut stdout = BufReader::new(child.stdout.take().context("the part has no output")?);
        self.child = Some(child);
        self.started = Some(Instant::now());
        self.due = None;
        let mut line = String::new();
        match tokio::time::timeout(timeout, stdout.read_line(&mut line)).await {
            Ok(Ok(n)) if n > 0 => {
                self.stdout = Some(stdout);
                Ok(())
            }
            Ok(_) => bail!("{} did not start:\n{}", self.name, self.log_end()),
            Err(_) => bail!("{} does not serve after {timeout:?}:\n{}", self.name, self.log_end()),
        }
    }

    /// Starts it again if it ended.
    pub(super) async fn start_if_dead(&mut self, timeout: Duration) -> anyhow::Result<()> {
        self.notice_end();
        if self.child.is_some() {
            return Ok(());
        }
        self.start(timeout).await?;
        say(format_args!("started again: {self}"));
        Ok(())
    }

    /// Starts it again if it failed and its pause is over.
    pub(super) async fn start_if_due(&mut self, timeout: Duration) -> anyhow::Result<()> {
        if self.due.is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        let started = self.start_if_dead(timeout).await;
        if started.is_err() {
            // It is not left half started.
            self.wait(Duration::ZERO).await;
            self.put_off();
        }
        started
    }

    /// Says so if the process ended. One that was stopped, as a mount is by umount(8), stays so until SIGHUP.
    pub(super) fn notice_end(&mut self) {
        let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) else { return };
        self.forget();
        if status.success() {
            say(format_args!("{} ended: {}; SIGHUP starts it again", self.name, describe(status)));
            return;
        }
        if self.started.is_some_and(|started| started.elapsed() > PAUSE_MAX) {
            self.pause = PAUSE_FIRST;
        }
        say(format_args!(
            "{} ended: {}; it is started again in {:?}",
            self.name,
            describe(status),
            self.pause
        ));
        self.put_off();
    }

    fn put_off(&mut self) {
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Asks it to end.
    pub(in crate::commands) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end, and forces it after the timeout.
    pub(in crate::commands) async fn wait(&mut self, timeout: Duration) {
        let Some(child) = &mut self.child else { return };
        if tokio::time::timeout(timeout, child.wait()).await.is_err() {
            complain(format_args!("quarry: {} does not end by itself; killing it", self.name));
            let _ = child.kill().await;
        }
        self.forget();
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(id as i32));
        if let Some(pid) = pid {
            // It may have ended this moment, which is what we want.
            let _ = kill_process(pid, signal);
        }
    }

    fn forget(&mut self) {
        self.child = None;
        self.stdout = None;
        let _ = std::fs::remove_file(&self.pid_file);
    }

    fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("{end}\n(log: {})", self.log.display())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12} {:<24} ", self.name, self.place)?;
        match self.child.as_ref().and_then(Child::id) {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("not running"),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "stopped".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "gone".to_owned(),
    }
}
