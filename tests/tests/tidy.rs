//! What no compiler checks: documents that tell the truth, files that are one idea, scripts and units that can be used.

use quarry_tests::process::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file that is longer has outgrown its idea.
const LINES_MAX: usize = 1000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files that git tracks, with their contents; what is no text is left out.
fn files(pattern: &str) -> Vec<(String, String)> {
    let list = shell(&root(), &format!("git ls-files '{pattern}'"));
    list.lines()
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

#[test]
fn every_claim_of_the_semantics_names_a_test_that_exists() {
    let semantics = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let mut named = 0;
    for claim in semantics.split('`').skip(1).step_by(2).filter(|c| c.contains("::") && !c.contains(' ')) {
        let (module, test) = claim.split_once("::").expect("contains it");
        if module == "cluster" {
            continue;
        }
        let file = root().join(format!("tests/tests/cluster/{module}.rs"));
        let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("`{claim}`: no {}", file.display()));
        let found = match test.strip_suffix('*') {
            Some(prefix) => text.contains(&format!("fn {prefix}")),
            None => text.contains(&format!("fn {test}()")),
        };
        assert!(found, "docs/semantics.md names `{claim}`, which does not exist");
        named += 1;
    }
    assert!(named > 30, "only {named} claims were found");
}

#[test]
fn files_are_one_idea_and_say_what_they_are() {
    for (name, text) in files("*.rs") {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines");
        let part_of_another = name.ends_with("tests.rs") || name.contains("/tests/");
        assert!(part_of_another || text.starts_with("//!"), "{name} does not say what it is");
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    for (name, text) in files("*.md") {
        let dir = root().join(&name).parent().expect("a file is in a directory").to_path_buf();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(dir.join(target).exists(), "{name} links to {target}, which does not exist");
        }
    }
}

#[test]
fn decisions_are_numbered_and_dated() {
    let mut numbers = std::collections::BTreeSet::new();
    for (name, text) in files("docs/decisions/*.md") {
        let file = name.rsplit('/').next().expect("a path has a last part");
        if file == "README.md" {
            continue;
        }
        let number = file.split('-').next().filter(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit()));
        let number = number.unwrap_or_else(|| panic!("{name} has no number of four digits"));
        assert!(numbers.insert(number.to_owned()), "number {number} is used twice");
        assert!(text.contains("20") && text.lines().take(6).any(|l| l.contains("202")), "{name} has no date");
    }
    assert!(numbers.len() >= 5);
}

#[test]
fn scripts_and_units_can_be_used() {
    for (name, text) in files("scripts/*").into_iter().chain(files(".ci/run")) {
        if text.starts_with("#!") {
            shell(&root(), &format!("bash -n '{name}' && test -x '{name}'"));
        }
    }
    // systemd is not on every machine that runs the tests.
    if Command::new("systemd-analyze").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files("scripts/systemd/*.service") {
            let unit = dir.path().join(name.rsplit('/').next().expect("a path has a last part"));
            // The check wants the program to exist.
            fs::write(&unit, text.replace("/usr/local/bin/quarry", "/bin/true")).unwrap();
            shell(&root(), &format!("systemd-analyze verify '{}'", unit.display()));
        }
    }
}

/// Largest exposure that `systemd-analyze security` may find. A mount must stay in the host's mount namespace, which it counts against
/// it.
const EXPOSURE_MAX: [(&str, f32); 3] =
    [("quarry-namenode.service", 2.0), ("quarry-datanode.service", 2.0), ("quarry-mount@.service", 6.0)];

#[test]
fn units_are_hardened() {
    // systemd is not on every machine that runs the tests.
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return;
    }
    for (unit, limit) in EXPOSURE_MAX {
        let path = root().join("scripts/systemd").join(unit);
        let text = fs::read_to_string(&path).unwrap();
        for setting in
            ["Type=notify", "WatchdogSec=", "ExecReload=", "Restart=", "UMask=0077", "NoNewPrivileges=yes"]
        {
            assert!(text.contains(setting), "{unit} lacks {setting}");
        }
        let command =
            format!("systemd-analyze security --offline=yes --no-pager '{}' | tail -1", path.display());
        let said = shell(&root(), &command);
        let exposure = said.split(':').nth(1).and_then(|rest| rest.split_whitespace().next());
        let exposure: f32 = exposure.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{unit}: {said}"));
        assert!(exposure <= limit, "{unit} has exposure {exposure}, at most {limit} is allowed");
    }
}

/// Crates that run in the simulation, where a process has its own clocks, randomness, disks and tasks.
const SIMULATED: [&str; 5] =
    ["common/net/src", "namenode/src", "namenode/log/src", "datanode/src", "client/src"];
/// The real network and the files of identities, which a simulation replaces.
const NOT_SIMULATED: [&str; 2] = ["common/net/src/transport/quic", "common/net/src/identity"];
/// What only the facades of `quarry-host` may use: nothing in a simulated crate may look past them at the machine.
const MACHINE: [&str; 22] = [
    "tokio::spawn",
    "tokio::task::spawn",
    "spawn_local",
    "Handle::current",
    "std::thread",
    "thread::sleep",
    "block_in_place",
    "block_on(",
    "SystemTime",
    "UNIX_EPOCH",
    "clock_gettime",
    "std::time::Instant::now",
    "rand::rng",
    "rand::random",
    "RandomState",
    "getrandom",
    "std::fs",
    "tokio::fs",
    "rustix::fs",
    "OpenOptions",
    "std::process",
    "std::env",
];

/// The part of a source file that is no test.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

#[test]
fn simulated_crates_use_the_machine_only_through_the_facades() {
    for (name, text) in files("*.rs") {
        let simulated = SIMULATED.iter().any(|dir| name.starts_with(dir))
            && !NOT_SIMULATED.iter().any(|dir| name.starts_with(dir));
        let is_test = name.contains("/tests/") || name.contains("/testing/") || name.ends_with("tests.rs");
        if !simulated || is_test {
            continue;
        }
        let text = production(&text);
        let of_std = |line: &str| line.contains("use std::time::") && line.contains("Instant");
        let std_instant = text.lines().any(of_std);
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let looks_at_clock =
                std_instant && (line.contains("Instant::now()") || line.contains(".elapsed()"));
            let found = MACHINE.iter().find(|word| line.contains(**word));
            assert!(
                found.is_none() && !looks_at_clock,
                "{name} looks past the facades of quarry-host: {line}"
            );
        }
    }
}
