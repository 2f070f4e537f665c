//! What the kernel stacks on a mount: overlays, as container engines use them.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, Mount};

fn cluster() -> (Cluster, Mount) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    (cluster, mount)
}

#[test]
fn a_mount_serves_as_the_upper_layer_of_an_overlay() {
    let (_cluster, mount) = cluster();
    let made = shell(
        mount.root(),
        r#"
        mkdir -p lower/dir/deep lower/gone upper work merged
        echo old > lower/changed; echo old > lower/dir/deep/f; echo old > lower/removed; echo old > lower/gone/f
        over() { mount -t overlay over -o lowerdir=lower,upperdir=upper,workdir=work merged; }
        trap 'umount -l merged 2>/dev/null || true' EXIT
        over
        echo new > merged/made; echo more >> merged/changed; rm merged/removed; rm -r merged/gone
        mkdir merged/gone; touch merged/gone/other; mv merged/dir/deep/f merged/dir/moved
        setfattr -n user.a -v 1 merged/made; ln merged/made merged/linked; chown 5:6 merged/changed
        look() { (cd merged; find . | sort; cat changed made dir/moved; stat -c '%u %g %h' changed made); }
        look > before; umount merged; over; look > after; umount merged
        cmp before after; cat after; stat -c '%F %t %T' upper/removed
        "#,
    );
    let expected = "
.
./changed
./dir
./dir/deep
./dir/moved
./gone
./gone/other
./linked
./made
old
more
new
old
5 6 1
0 0 2
character special file 0 0
";
    assert_eq!(made.trim(), expected.trim());
}
