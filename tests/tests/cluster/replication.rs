//! How often data is kept, and where.

use quarry_tests::Cluster;
use quarry_tests::process::shell;

#[test]
fn all_means_every_node() {
    let mut cluster = Cluster::options().datanodes(4).replication("all").start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "for i in $(seq 8); do head -c 2500000 /dev/urandom > f$i; done; sync f*; cat f* | sha256sum > ../sum",
    );
    let chunks = cluster.locate("/f1")["chunks"].as_array().unwrap().clone();
    assert_eq!(chunks.len(), 2);
    for chunk in &chunks {
        assert_eq!(chunk["nodes"].as_array().unwrap().len(), 4);
        assert_eq!(chunk["sha256"].as_str().unwrap().len(), 64);
    }
    // Any single node has it all.
    for n in 1..=3 {
        cluster.kill_datanode(n);
    }
    mount.remount();
    shell(mount.root(), "cat f* | sha256sum | cmp - ../sum");
}

#[test]
fn chunks_are_files_with_their_data_at_the_front() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "head -c 5000000 /dev/urandom > f; sync f");
    let located = cluster.locate("/f");
    let chunks = located["chunks"].as_array().unwrap();
    assert_eq!(chunks.len(), 3);
    for chunk in chunks {
        let (id, length) = (chunk["id"].as_str().unwrap(), chunk["length"].as_u64().unwrap());
        assert!(length <= 2 << 20);
        for node in chunk["nodes"].as_array().unwrap() {
            let dir = cluster.path(&format!("datanode-{}/data_blocks", node["node"]));
            let sum = shell(
                &dir,
                &format!("find . -name '{id}*' -type f | head -1 | xargs head -c {length} | sha256sum"),
            );
            assert_eq!(sum.split_whitespace().next(), chunk["sha256"].as_str());
        }
    }
}

#[test]
fn a_rotten_replica_is_neither_served_nor_kept() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount();
    shell(mount.root(), "head -c 1500000 /dev/urandom > f; sync f; sha256sum f > ../sum");
    let id = cluster.locate("/f")["chunks"][0]["id"].as_str().unwrap().to_owned();
    for node in [1, 2] {
        let dir = cluster.path(&format!("datanode-{node}/data_blocks"));
        shell(
            &dir,
            &format!(
                "f=$(find . -name '{id}*' -type f); printf XXXXXXXX | dd of=$f bs=1 seek=700000 conv=notrunc status=none"
            ),
        );
    }
    mount.remount();
    shell(mount.root(), "sha256sum -c --quiet ../sum");
    // A deep check finds what no reader met, and what was found is replaced from the good replica.
    let config = cluster.client_config().display().to_string();
    quarry_tests::eventually(
        "a deep check finds nothing any more",
        std::time::Duration::from_secs(60),
        || quarry_tests::process::run_quarry(&["fsck", "--deep", "--config", &config]).status.success(),
    );
}
