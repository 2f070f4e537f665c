//! WebHDFS with clients that others wrote. `scripts/test` installs them into `target/test-tools`.

use crate::support::{Gateway, noise};
use quarry_tests::Cluster;
use quarry_tests::process::shell;
use std::fs;
use std::path::{Path, PathBuf};

fn tools(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools").join(name);
    assert!(path.exists(), "{} is missing: scripts/test makes it", path.display());
    // Not resolved: a virtual environment's Python is a link that knows its place by its own path.
    path
}

fn python(cluster: &Cluster, script: &str) -> String {
    let file = cluster.path("client.py");
    fs::write(&file, script).unwrap();
    shell(cluster.path("").as_path(), &format!("'{}' client.py", tools("venv/bin/python").display()))
}

#[test]
fn the_python_package_hdfs() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let script = r#"
import os
from hdfs import InsecureClient
from hdfs.util import HdfsError
client = InsecureClient("URL", user="root")
data = os.urandom(3_000_000)
client.write("/d/f", data)
with client.read("/d/f") as reader:
    assert reader.read() == data
with client.read("/d/f", offset=10, length=100) as reader:
    assert reader.read() == data[10:110]
with client.write("/d/text", encoding="utf-8") as writer:
    for n in range(1000): writer.write(f"line {n}\n")
client.write("/d/text", "more\n", append=True, encoding="utf-8")
with client.read("/d/text", encoding="utf-8", delimiter="\n") as reader:
    # requests splits an empty line off where a piece of the answer ends with the delimiter.
    lines = [line for line in reader if line]
assert lines[999] == "line 999" and lines[1000] == "more", lines[-3:]
assert sorted(client.list("/d")) == ["f", "text"]
assert client.status("/d/f")["length"] == 3_000_000
assert client.content("/d")["fileCount"] == 2
assert client.checksum("/d/f")["algorithm"].startswith("MD5-of-0MD5-of-512CRC32C")
client.rename("/d/f", "/d/g"); client.set_permission("/d/g", 700); client.set_owner("/d/g", "daemon")
client.set_times("/d/g", modification_time=5000)
assert client.status("/d/g")["permission"] == "700" and client.status("/d/g")["modificationTime"] == 5000
client.set_acl("/d/g", "user:daemon:rw-", clear=False)
assert "group::---" in client.acl_status("/d/g")["entries"]
client.makedirs("/d/deep/deeper"); client.upload("/d/deep", "client.py"); client.download("/d", "copy", n_threads=2)
assert open("copy/g", "rb").read() == data and os.path.exists("copy/deep/client.py")
assert [p for p, _, _ in client.walk("/d")] == ["/d", "/d/deep", "/d/deep/deeper"]
try: client.status("/none"); raise SystemExit("no error")
except HdfsError as e: assert e.exception == "FileNotFoundException", e
assert client.status("/none", strict=False) is None
assert client.delete("/d", recursive=True) and not client.delete("/d")
print("passed")
"#;
    assert!(python(&cluster, &script.replace("URL", &gateway.url(""))).contains("passed"));
    assert!(!mount.path("d").exists());
}

#[test]
fn the_python_package_fsspec() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("seen"), noise(2_500_000)).unwrap();
    let script = r#"
import fsspec, os, hashlib
fs = fsspec.filesystem("webhdfs", host="127.0.0.1", port=PORT, user="root")
data = fs.cat("/seen")
assert len(data) == 2_500_000 and fs.cat_file("/seen", start=100, end=200) == data[100:200]
with fs.open("/seen", "rb", block_size=65536) as f:
    f.seek(1_234_567); assert f.read(1000) == data[1_234_567:1_235_567]
fs.mkdirs("/x/y", exist_ok=True)
with fs.open("/x/y/f", "wb") as f:
    for n in range(0, len(data), 100_000): f.write(data[n:n + 100_000])
assert fs.cat("/x/y/f") == data and fs.size("/x/y/f") == len(data)
assert fs.tail("/x/y/f", 3) == data[-3:]
fs.pipe({"/x/a": b"a", "/x/b": b"b"})
assert sorted(fs.ls("/x", detail=False)) == ["/x/a", "/x/b", "/x/y"]
assert sorted(fs.find("/x")) == ["/x/a", "/x/b", "/x/y/f"] and fs.glob("/x/?") == ["/x/a", "/x/b", "/x/y"]
assert fs.isdir("/x") and fs.isfile("/x/a") and not fs.exists("/none") and fs.du("/x/y") == len(data)
fs.mv("/x/a", "/x/c"); fs.put("client.py", "/x/put"); fs.get("/x/put", "got")
assert open("got").read() == open("client.py").read()
assert fs.ukey("/x/b") and fs.content_summary("/x")["fileCount"] == 4
try: fs.cat("/none"); raise SystemExit("no error")
except FileNotFoundError: pass
fs.rm("/x", recursive=True); assert not fs.exists("/x")
print("passed")
"#;
    let port = gateway.address().split(':').next_back().unwrap().to_owned();
    assert!(python(&cluster, &script.replace("PORT", &port)).contains("passed"));
}

#[test]
fn hadoops_own_shell() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let data = noise(9_000_000);
    fs::write(cluster.path("source"), &data).unwrap();
    let conf = cluster.path("conf");
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("core-site.xml"), format!(
        "<configuration><property><name>fs.defaultFS</name><value>webhdfs://{}</value></property></configuration>",
        gateway.address()
    )).unwrap();
    fs::write(conf.join("hdfs-site.xml"), "<configuration/>").unwrap();
    let jars = tools("hadoop").display().to_string();
    // One JVM for all commands: each start costs seconds.
    fs::write(cluster.path("Shell.java"), r#"
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.*;
import org.apache.hadoop.util.ToolRunner;
import org.apache.hadoop.shaded.javax.ws.rs.core.*;
import org.apache.hadoop.shaded.javax.ws.rs.ext.RuntimeDelegate;
import java.nio.file.Files;
import java.nio.file.Paths;
public class Shell {
    /** The jar's JAX-RS lacks its implementation; of it the WebHDFS client needs the parser of content types. */
    static class Delegate extends RuntimeDelegate {
        public <T> HeaderDelegate<T> createHeaderDelegate(Class<T> type) {
            return new HeaderDelegate<T>() {
                @SuppressWarnings("unchecked")
                public T fromString(String text) {
                    String[] parts = text.split(";")[0].trim().split("/");
                    return (T) new MediaType(parts[0], parts[1]);
                }
                public String toString(T value) { return value.toString(); }
            };
        }
        public <T> T createEndpoint(Application a, Class<T> type) { throw new UnsupportedOperationException(); }
        public UriBuilder createUriBuilder() { throw new UnsupportedOperationException(); }
        public Response.ResponseBuilder createResponseBuilder() { throw new UnsupportedOperationException(); }
        public Variant.VariantListBuilder createVariantListBuilder() { throw new UnsupportedOperationException(); }
        public Link.Builder createLinkBuilder() { throw new UnsupportedOperationException(); }
    }
    public static void main(String[] args) throws Exception {
        RuntimeDelegate.setInstance(new Delegate());
        for (String line : Files.readAllLines(Paths.get(args[0]))) {
            boolean fails = line.startsWith("! ");
            String[] words = (fails ? line.substring(2) : line).split(" ");
            int rc = ToolRunner.run(new Configuration(), new FsShell(), words);
            if ((rc == 0) == fails) { System.err.println("exit code " + rc + ": " + line); System.exit(1); }
        }
        FileSystem fs = FileSystem.get(new Configuration());
        FileChecksum one = fs.getFileChecksum(new Path("/d/f")), two = fs.getFileChecksum(new Path("/d/copy"));
        if (one == null || !one.equals(two)) { System.err.println("checksums differ: " + one + " " + two); System.exit(1); }
        for (BlockLocation l : fs.getFileBlockLocations(new Path("/d/f"), 0, Long.MAX_VALUE))
            if (l.getHosts().length != 3) { System.err.println(l); System.exit(1); }
        System.out.println("passed");
    }
}
"#).unwrap();
    let commands = [
        "-mkdir -p /d/e",
        "-put source /d/f",
        "-ls -R /",
        "-cp /d/f /d/copy",
        "-get /d/copy back",
        "-appendToFile source /d/copy2",
        "-appendToFile source /d/copy2",
        "-stat %n-%b-%r-%o /d/f",
        "-checksum /d/f",
        "-du -s /d",
        "-count -q /d",
        "-chmod 640 /d/f",
        "-chown daemon:daemon /d/f",
        "-setfacl -m user:daemon:rwx /d/f",
        "-getfacl /d/f",
        "-setfattr -n user.k -v v /d/f",
        "-getfattr -d /d/f",
        "-mv /d/copy2 /d/e/moved",
        "-tail /d/e/moved",
        "-truncate -w 5 /d/e/moved",
        "-test -e /d/e/moved",
        "! -test -e /d/none",
        "-touchz /d/empty",
        "-find /d -name moved",
        "! -rmdir /d/e",
        "-rm -r -skipTrash /d/e",
        "-df -h /",
    ];
    fs::write(cluster.path("commands"), commands.join("\n")).unwrap();
    let out = shell(
        cluster.path("").as_path(),
        &format!(
            "export HADOOP_USER_NAME=root; java -Dlog4j2.level=ERROR -cp 'conf:{jars}/*' Shell.java commands 2>&1"
        ),
    );
    assert!(out.contains("passed"), "{out}");
    assert!(fs::read(cluster.path("back")).unwrap() == data);
    assert!(shell(mount.root(), "getfacl -cn d/f").contains("user:1:rwx"));
}
