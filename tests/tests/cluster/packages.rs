//! The Debian package, installed into a directory.

use quarry_tests::process::{quarry, shell};
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// dpkg on a system in a directory.
fn dpkg(root: &Path, args: &str) -> String {
    shell(
        root,
        &format!(
            "dpkg --root='{}' --force-not-root --force-depends --force-script-chrootless --force-confold --log=/dev/null {args}",
            root.display()
        ),
    )
}

#[test]
fn a_package_installs_upgrades_and_goes_without_touching_data() {
    let dir = tempfile::tempdir().unwrap();
    let (out, root) = (dir.path().join("out"), dir.path().join("root"));
    shell(
        &repository(),
        &format!("scripts/deb --binary '{}' --out '{}' >/dev/null", quarry().display(), out.display()),
    );
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let package = format!("{}/quarry_*.deb", out.display());
    dpkg(&root, &format!("-i {package}"));
    let installed = root.join("usr/bin/quarry");
    let (built, stripped) = (fs::metadata(quarry()).unwrap().len(), fs::metadata(&installed).unwrap().len());
    assert!(stripped < built / 2, "{stripped} of {built} bytes: not stripped");
    shell(&root, &format!("'{}' --version", installed.display()));
    for file in [
        "usr/sbin/mount.fuse.quarry",
        "usr/lib/systemd/system/quarry-namenode.service",
        "usr/lib/systemd/system/quarry-datanode.service",
        "usr/lib/systemd/system/quarry-mount@.service",
        "usr/lib/sysctl.d/60-quarry.conf",
        "usr/share/bash-completion/completions/quarry",
        "usr/share/man/man1/quarry-mount.1.gz",
        "usr/share/doc/quarry/copyright",
        "etc/quarry/namenode.toml",
    ] {
        assert!(root.join(file).exists(), "{file} is missing");
    }
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/quarry-namenode.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/quarry namenode"), "{unit}");

    // What an administrator wrote and the servers keep outlives an upgrade and the end of the package.
    fs::write(root.join("etc/quarry/namenode.toml"), "# ours\n").unwrap();
    fs::create_dir_all(root.join("var/lib/quarry/namenode")).unwrap();
    fs::write(root.join("var/lib/quarry/namenode/data"), "precious").unwrap();
    dpkg(&root, &format!("-i {package}"));
    assert_eq!(fs::read_to_string(root.join("etc/quarry/namenode.toml")).unwrap(), "# ours\n");
    dpkg(&root, "-r quarry");
    assert!(!installed.exists());
    assert_eq!(fs::read_to_string(root.join("etc/quarry/namenode.toml")).unwrap(), "# ours\n");
    dpkg(&root, "-P quarry");
    assert!(!root.join("etc/quarry/namenode.toml").exists());
    assert_eq!(fs::read_to_string(root.join("var/lib/quarry/namenode/data")).unwrap(), "precious");

    let symbols = format!("dpkg-deb -c {}/quarry-dbgsym_*.deb", out.display());
    assert!(shell(&root, &symbols).contains(".debug"));
}
