//! `quarry demo`: the story that the README tells.

use quarry_tests::process::run_quarry;
use std::fs;

#[test]
fn a_file_survives_the_loss_of_a_datanode_and_its_replicas_are_restored() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().display().to_string();
    let output = run_quarry(&["demo", "--once", "--size", "5", "--dir", &dir]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no `{what}` in {text}"));
    let order =
        ["kill -9", "suspect", "dead", "three replicas again", "Read the file back", "nothing is lost"];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{text}");
    let sums: Vec<_> = text.lines().filter_map(|l| l.trim().strip_prefix("SHA-256 ")).collect();
    assert_eq!(sums.len(), 2, "{text}");
    assert_eq!(sums[0], sums[1]);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "the cluster is removed");
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    let output = run_quarry(&["demo", "--once", "--dir", "/no/such/directory"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/directory"));
}
