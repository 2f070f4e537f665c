//! `quarry top` in a pseudo terminal, which script(1) makes.

use quarry_tests::process::{quarry, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a terminal of this size was sent.
struct Terminal {
    child: Child,
    typescript: std::path::PathBuf,
}

impl Terminal {
    fn start(cluster: &Cluster) -> Self {
        let typescript = cluster.path("typescript");
        let config = cluster.client_config();
        let command = format!(
            "stty cols 130 rows 45; exec '{}' top --every 0.3 --config '{}'",
            quarry().display(),
            config.display()
        );
        let child = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &command])
            .arg(&typescript)
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, typescript }
    }

    /// All that was written, without the sequences that place it. Only what changes is written, so words of the first picture
    /// are whole.
    fn text(&self) -> String {
        let raw = String::from_utf8_lossy(&fs::read(&self.typescript).unwrap_or_default()).into_owned();
        let mut text = String::new();
        let mut rest = raw.chars();
        while let Some(c) = rest.next() {
            if c != '\x1b' {
                text.push(c);
            } else if rest.next() == Some('[') && rest.by_ref().find(char::is_ascii_alphabetic) == Some('H') {
                // The cursor is moved instead of spaces written.
                text.push(' ');
            }
        }
        text
    }

    fn type_in(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_cluster_is_shown_live_and_q_ends_it() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let mut terminal = Terminal::start(&cluster);
    eventually("the first picture", Duration::from_secs(20), || {
        let text = terminal.text();
        ["DataNodes", "healthy", "Requests per second", "Slowest requests", "Sessions"]
            .iter()
            .all(|w| text.contains(w))
    });
    // What a mount does shows as requests that took their time.
    shell(mount.root(), "for n in $(seq 40); do echo $n > f$n; sync f$n; done");
    // Its first letter may be there already, that of another request.
    eventually("a slow request", Duration::from_secs(20), || terminal.text().contains("ommit"));
    cluster.kill_datanode(2);
    eventually("a node falls silent", Duration::from_secs(20), || terminal.text().contains("suspect"));
    terminal.type_in("q");
    eventually("q ends it", Duration::from_secs(10), || terminal.child.try_wait().unwrap().is_some());
    assert!(terminal.child.wait().unwrap().success());
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let cluster = Cluster::start();
    let output = run_quarry(&["top", "--config", &cluster.client_config().display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("status --json"));
}
