//! Small C programs that make system calls which neither shells nor Python make plainly.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `tests/data/NAME.c` into a directory.
///
/// # Panics
/// When it does not compile.
pub fn compile(name: &str, into: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/{name}.c"));
    let binary = into.join(name);
    let output = Command::new("cc")
        .args(["-O1", "-Wall", "-pthread", "-o"])
        .args([&binary, &source])
        .output()
        .expect("run cc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    binary
}
