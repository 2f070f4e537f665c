//! Suites that others wrote: pjdfstest and fsx.

use quarry_tests::Cluster;
use quarry_tests::process::shell;
use std::fs;
use std::path::{Path, PathBuf};

fn tool(name: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"));
    let installed = home.join("bin").join(name);
    assert!(installed.exists(), "{} is missing: scripts/test installs it", installed.display());
    installed
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name)
}

#[test]
fn pjdfstest() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "chmod 755 . ; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
    // Lines of the list are `test  # reason`.
    let excluded = fs::read_to_string(data("pjdfstest-excluded.txt")).unwrap();
    let excluded: Vec<&str> = excluded
        .lines()
        .map(|l| l.split('#').next().unwrap_or("").trim())
        .filter(|l| !l.is_empty())
        .collect();
    let (out, config) = (cluster.path("pjdfstest.txt"), data("pjdfstest.toml"));
    let script = format!(
        "'{}' -c '{}' -p '{}' > '{}' 2>&1 || true",
        tool("pjdfstest").display(),
        config.display(),
        mount.root().display(),
        out.display()
    );
    shell(&cluster.path(""), &script);
    let output = fs::read_to_string(&out).unwrap();
    let failed: Vec<&str> = output
        .lines()
        .filter(|l| l.contains("FAILED"))
        .filter(|l| !excluded.iter().any(|e| l.contains(e)))
        .collect();
    let tail: Vec<&str> = output.lines().rev().take(3).collect();
    eprintln!("pjdfstest: {tail:?}");
    assert!(output.contains("Summary:"), "pjdfstest did not run to its end:\n{output}");
    assert!(failed.is_empty(), "{}\n{output}", failed.join("\n"));
}

fn fsx(name: &str, config: &str, operations: u64, seeds: u64, mount_args: &[&str]) {
    let cluster = Cluster::start();
    let mount = cluster.mount_with(mount_args);
    let base: u64 = std::env::var("QUARRY_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| rand::random::<u32>().into());
    for seed in base..base + seeds {
        eprintln!("QUARRY_SEED={seed}");
        let script = format!(
            "'{}' -f '{}' -S {seed} -N {operations} '{}' > ../fsx.txt 2>&1 || {{ tail -n 60 ../fsx.txt; exit 1; }}",
            tool("fsx").display(),
            data(config).display(),
            mount.path(name).display()
        );
        shell(mount.root(), &script);
    }
    cluster.assert_sound(true);
}

/// `scripts/soak` asks for more.
fn scale() -> u64 {
    std::env::var("QUARRY_FSX_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

#[test]
fn fsx_small_files() {
    fsx("small", "fsx-small.toml", 4000 * scale(), 3, &[]);
}

#[test]
fn fsx_files_of_many_chunks() {
    fsx("large", "fsx-large.toml", 2500 * scale(), 2, &[]);
}

/// fsx cannot open with O_DIRECT, so the mount makes every open a direct one.
#[test]
fn fsx_direct() {
    fsx("direct", "fsx-small.toml", 2000 * scale(), 2, &["-o", "direct_io"]);
}
