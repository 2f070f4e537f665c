//! Trees of files to copy and compare.

use crate::process::shell;
use std::path::{Path, PathBuf};

/// A real tree with thousands of files of all sizes: the sources that cargo keeps of Quarry's own dependencies, or this
/// machine's headers.
///
/// # Panics
/// When the machine has neither.
pub fn real_tree() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let crates =
        home.map(|h| h.join("registry/src")).and_then(|src| std::fs::read_dir(src).ok()?.next()?.ok());
    let tree = crates.and_then(|index| {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(index.path()).ok()?.flatten().map(|e| e.path()).collect();
        found.sort();
        found
            .into_iter()
            .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("openraft-0")))
    });
    tree.unwrap_or_else(|| PathBuf::from("/usr/include"))
}

/// Demands that two trees are alike: names, contents, link targets, modes, sizes and times.
///
/// # Panics
/// When they differ.
pub fn assert_same(a: &Path, b: &Path) {
    shell(a, &format!("diff -r --no-dereference --exclude='*fifo*' . '{}'", b.display()));
    let list = "find . -printf '%y %m %s %T@ %l %p\\n' | grep -v '^d' | sort";
    assert_eq!(shell(a, list), shell(b, list), "attributes differ");
}
