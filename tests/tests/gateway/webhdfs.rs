//! WebHDFS, request by request, with curl.

use crate::support::{Answer, Gateway, add_user, curl, noise, users_file, write_file};
use quarry_tests::Cluster;
use quarry_tests::process::shell;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

struct Hdfs<'a>(&'a Gateway);

impl Hdfs<'_> {
    fn url(&self, path: &str, query: &str) -> String {
        self.0.url(&format!("/webhdfs/v1{path}?op={query}"))
    }

    fn ask(&self, method: &str, path: &str, query: &str) -> Answer {
        curl(&["-L", "-X", method, &self.url(path, query)])
    }

    /// An answer that must be a success.
    fn ok(&self, method: &str, path: &str, query: &str) -> Value {
        let answer = self.ask(method, path, query);
        assert_eq!(answer.status, 200, "{method} {path} {query}: {}", answer.text());
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// The exception of an answer that must be a failure.
    fn fails(&self, method: &str, path: &str, query: &str) -> String {
        let answer = self.ask(method, path, query);
        assert!(answer.status >= 400, "{method} {path} {query}: {}", answer.text());
        answer.json()["RemoteException"]["exception"].as_str().unwrap_or("").to_owned()
    }

    fn put(&self, path: &str, query: &str, file: &str) -> Answer {
        curl(&["-L", "-T", file, &self.url(path, query)])
    }
}

#[test]
fn files_are_created_appended_read_and_joined() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    let data = noise(3_000_000);
    let source = write_file(&cluster, "source", &data);
    let first = curl(&["-X", "PUT", "-D", "-", &hdfs.url("/d/f", "CREATE")]);
    assert_eq!(first.status, 307);
    assert!(first.text().contains("data=true"), "{}", first.text());
    let plain = hdfs.ok("PUT", "/d/f", "CREATE&noredirect=true");
    assert_eq!(curl(&["-T", &source, plain["Location"].as_str().unwrap()]).status, 201);
    assert!(fs::read(mount.path("d/f")).unwrap() == data);
    assert_eq!(
        hdfs.put("/d/f", "CREATE", &source).json()["RemoteException"]["exception"],
        "FileAlreadyExistsException"
    );
    assert_eq!(hdfs.put("/d/f", "CREATE&overwrite=true&permission=600", &source).status, 201);
    let appended =
        curl(&["-L", "-X", "POST", "--data-binary", &format!("@{source}"), &hdfs.url("/d/f", "APPEND")]);
    assert_eq!(appended.status, 200, "{}", appended.text());
    assert!(fs::read(mount.path("d/f")).unwrap() == [&data[..], &data[..]].concat());
    let part = hdfs.ask("GET", "/d/f", "OPEN&offset=2999990&length=20");
    assert!(part.body == [&data[2_999_990..], &data[..10]].concat());
    assert!(hdfs.ok("GET", "/d/f", "OPEN&noredirect=true")["Location"].is_string());
    assert_eq!(hdfs.fails("GET", "/d/none", "OPEN"), "FileNotFoundException");
    assert_eq!(hdfs.fails("GET", "/d/f", "OPEN&offset=99999999"), "IllegalArgumentException");
    fs::write(mount.path("d/g"), "g").unwrap();
    fs::write(mount.path("d/h"), "h").unwrap();
    hdfs.ok("POST", "/d/g", "CONCAT&sources=/d/h,/d/f");
    let joined = fs::read(mount.path("d/g")).unwrap();
    assert!(joined.starts_with(b"gh") && joined.len() == 6_000_002);
    assert!(!mount.path("d/h").exists() && !mount.path("d/f").exists());
    assert_eq!(hdfs.ok("POST", "/d/g", "TRUNCATE&newlength=2")["boolean"], true);
    assert_eq!(fs::read(mount.path("d/g")).unwrap(), b"gh");
    assert_eq!(hdfs.fails("POST", "/d/g", "TRUNCATE&newlength=3"), "IllegalArgumentException");
}

#[test]
fn names_and_attributes() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    assert_eq!(hdfs.ok("PUT", "/a/b", "MKDIRS&permission=750")["boolean"], true);
    assert_eq!(fs::metadata(mount.path("a/b")).unwrap().permissions().mode() & 0o777, 0o750);
    fs::write(mount.path("a/f"), "12345").unwrap();
    assert_eq!(hdfs.fails("PUT", "/a/f/x", "MKDIRS"), "ParentNotDirectoryException");
    let status = &hdfs.ok("GET", "/a/f", "GETFILESTATUS")["FileStatus"];
    assert_eq!(
        (&status["type"], &status["length"], &status["owner"], &status["replication"]),
        (&"FILE".into(), &5.into(), &"root".into(), &3.into())
    );
    assert_eq!(hdfs.fails("GET", "/none", "GETFILESTATUS"), "FileNotFoundException");
    assert_eq!(hdfs.ok("PUT", "/a/f", "RENAME&destination=/a/b")["boolean"], true);
    assert!(mount.path("a/b/f").exists(), "into the directory, as HDFS does");
    assert_eq!(hdfs.ok("PUT", "/none", "RENAME&destination=/x")["boolean"], false);
    fs::write(mount.path("a/g"), "g").unwrap();
    assert_eq!(
        hdfs.fails("PUT", "/a/g", "RENAME&destination=/a/b/f&renameoptions=NONE"),
        "FileAlreadyExistsException"
    );
    hdfs.ok("PUT", "/a/g", "RENAME&destination=/a/b/f&renameoptions=OVERWRITE");
    assert_eq!(fs::read_to_string(mount.path("a/b/f")).unwrap(), "g");
    hdfs.ok("PUT", "/a/b/f", "SETPERMISSION&permission=640");
    hdfs.ok("PUT", "/a/b/f", "SETOWNER&owner=daemon&group=1234");
    hdfs.ok("PUT", "/a/b/f", "SETTIMES&modificationtime=1234567&accesstime=-1");
    let meta = fs::metadata(mount.path("a/b/f")).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid(), meta.mtime()), (0o640, 1, 1234, 1234));
    assert_eq!(hdfs.ok("PUT", "/a", "SETREPLICATION&replication=2")["boolean"], true);
    assert_eq!(hdfs.ok("PUT", "/a/b/f", "SETREPLICATION&replication=9")["boolean"], false);
    hdfs.ok("PUT", "/link", "CREATESYMLINK&destination=/a/b/f");
    assert_eq!(hdfs.ok("GET", "/link", "GETLINKTARGET")["Path"], "/a/b/f");
    assert_eq!(hdfs.ok("GET", "/link", "GETFILELINKSTATUS")["FileStatus"]["type"], "SYMLINK");
    assert_eq!(hdfs.ok("GET", "/link", "GETFILESTATUS")["FileStatus"]["type"], "FILE");
    hdfs.ok("GET", "/a/b/f", "CHECKACCESS&fsaction=rw-");
    assert_eq!(hdfs.fails("GET", "/a/b/f", "CHECKACCESS&fsaction=--x"), "AccessControlException");
    let summary = &hdfs.ok("GET", "/a", "GETCONTENTSUMMARY")["ContentSummary"];
    assert_eq!(
        (&summary["directoryCount"], &summary["fileCount"], &summary["length"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(hdfs.ok("GET", "/a", "GETQUOTAUSAGE")["QuotaUsage"]["fileAndDirectoryCount"], 3);
    assert_eq!(hdfs.ok("GET", "/", "GETHOMEDIRECTORY")["Path"], "/user/root");
    assert_eq!(hdfs.ok("GET", "/a", "GETTRASHROOT")["Path"], "/user/root/.Trash");
    assert!(hdfs.ok("GET", "/", "GETSTATUS")["FsStatus"]["capacity"].as_u64() > Some(0));
    assert_eq!(hdfs.fails("DELETE", "/a", "DELETE"), "PathIsNotEmptyDirectoryException");
    assert_eq!(hdfs.ok("DELETE", "/a", "DELETE&recursive=true")["boolean"], true);
    assert_eq!(hdfs.ok("DELETE", "/a", "DELETE")["boolean"], false);
    assert_eq!(hdfs.fails("GET", "/", "NOSUCHOP"), "IllegalArgumentException");
    assert_eq!(hdfs.fails("PUT", "/x", "MKDIRS&doas=somebody"), "AccessControlException");
}

#[test]
fn a_large_directory_is_listed_whole_and_in_batches() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    shell(mount.root(), "mkdir d e && cd d && seq 2300 | sed 's/^/n/' | xargs touch && ln -s n1 link");
    let names = |list: &Value| -> Vec<String> {
        let all = list["FileStatuses"]["FileStatus"].as_array().unwrap().iter();
        all.map(|s| s["pathSuffix"].as_str().unwrap().to_owned()).collect()
    };
    let mut whole = names(&hdfs.ok("GET", "/d", "LISTSTATUS"));
    assert_eq!(names(&hdfs.ok("GET", "/e", "LISTSTATUS")), [""; 0]);
    assert_eq!(names(&hdfs.ok("GET", "/d/n7", "LISTSTATUS")), [""]);
    let (mut batches, mut after) = (Vec::new(), String::new());
    loop {
        let listing = hdfs.ok("GET", "/d", &format!("LISTSTATUS_BATCH{after}"))["DirectoryListing"].clone();
        batches.extend(names(&listing["partialListing"]));
        if listing["remainingEntries"] == 0 {
            break;
        }
        after = format!("&startAfter={}", batches.last().unwrap());
    }
    whole.sort();
    batches.sort();
    assert_eq!(whole.len(), 2301);
    assert_eq!(whole, batches);
}

#[test]
fn acls_and_extended_attributes() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    shell(mount.root(), "mkdir d && touch d/f && chmod 640 d/f");
    hdfs.ok("PUT", "/d/f", "MODIFYACLENTRIES&aclspec=user:1234:rw-,group:77:--x");
    assert_eq!(
        shell(mount.root(), "getfacl -cn d/f").split_whitespace().collect::<Vec<_>>().join(" "),
        "user::rw- user:1234:rw- group::r-- group:77:--x mask::rwx other::---"
    );
    let status = &hdfs.ok("GET", "/d/f", "GETACLSTATUS")["AclStatus"];
    assert_eq!(status["entries"], serde_json::json!(["user:1234:rw-", "group::r--", "group:77:--x"]));
    assert_eq!((&status["permission"], &status["stickyBit"]), (&"670".into(), &false.into()));
    assert_eq!(hdfs.ok("GET", "/d/f", "GETFILESTATUS")["FileStatus"]["aclBit"], true);
    hdfs.ok("PUT", "/d/f", "REMOVEACLENTRIES&aclspec=user:1234");
    assert!(!shell(mount.root(), "getfacl -cn d/f").contains("1234"));
    hdfs.ok("PUT", "/d/f", "REMOVEACL");
    assert_eq!(fs::metadata(mount.path("d/f")).unwrap().mode() & 0o777, 0o640);
    hdfs.ok("PUT", "/d", "SETACL&aclspec=user::rwx,group::r-x,other::---,default:user:1234:rwx");
    assert!(shell(mount.root(), "getfacl -cn d").contains("default:user:1234:rwx"));
    hdfs.ok("PUT", "/d", "REMOVEDEFAULTACL");
    assert!(!shell(mount.root(), "getfacl -cn d").contains("default"));
    assert_eq!(hdfs.fails("PUT", "/d", "SETACL&aclspec=nonsense"), "IllegalArgumentException");

    hdfs.ok("PUT", "/d/f", "SETXATTR&xattr.name=user.a&xattr.value=0x616263&flag=CREATE");
    assert_eq!(shell(mount.root(), "getfattr -n user.a --only-values d/f"), "abc");
    assert_eq!(
        hdfs.fails("PUT", "/d/f", "SETXATTR&xattr.name=user.a&xattr.value=x&flag=CREATE"),
        "FileAlreadyExistsException"
    );
    let attributes = &hdfs.ok("GET", "/d/f", "GETXATTRS&xattr.name=user.a&encoding=base64")["XAttrs"];
    assert_eq!(attributes, &serde_json::json!([{ "name": "user.a", "value": "0sYWJj" }]));
    assert_eq!(hdfs.ok("GET", "/d/f", "LISTXATTRS")["XAttrNames"], "[\"user.a\"]");
    hdfs.ok("PUT", "/d/f", "REMOVEXATTR&xattr.name=user.a");
    assert_eq!(hdfs.ok("GET", "/d/f", "GETXATTRS&encoding=text")["XAttrs"], serde_json::json!([]));
}

#[test]
fn checksums_and_locations() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    fs::write(mount.path("check"), "123456789").unwrap();
    let sum = &hdfs.ok("GET", "/check", "GETFILECHECKSUM&combinemode=COMPOSITE_CRC")["FileChecksum"];
    assert_eq!((&sum["algorithm"], &sum["bytes"]), (&"COMPOSITE-CRC32C".into(), &"e3069283".into()));
    let sum = &hdfs.ok("GET", "/check", "GETFILECHECKSUM")["FileChecksum"];
    assert_eq!(sum["algorithm"], "MD5-of-0MD5-of-512CRC32C");
    fs::write(mount.path("check"), "123456780").unwrap();
    assert_ne!(
        &hdfs.ok("GET", "/check", "GETFILECHECKSUM")["FileChecksum"],
        sum,
        "a changed file has another"
    );
    // Two blocks and a bit.
    shell(mount.root(), "head -c 300000000 /dev/zero > big && sync big");
    let sum = &hdfs.ok("GET", "/big", "GETFILECHECKSUM")["FileChecksum"];
    assert_eq!(sum["algorithm"], "MD5-of-262144MD5-of-512CRC32C");
    let blocks = hdfs.ok("GET", "/big", "GETFILEBLOCKLOCATIONS")["BlockLocations"]["BlockLocation"].clone();
    let blocks = blocks.as_array().unwrap();
    let lengths: Vec<u64> = blocks.iter().map(|b| b["length"].as_u64().unwrap()).collect();
    assert_eq!(lengths, [134_217_728, 134_217_728, 31_564_544]);
    assert!(blocks.iter().all(|b| b["hosts"].as_array().unwrap().len() == 3), "{blocks:?}");
}

#[test]
fn users_and_delegation_tokens() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let users = users_file(&cluster);
    let token = add_user(&users, "alice", 1001, "user", None);
    let gateway = Gateway::with(&cluster, &["--users", &users.display().to_string()]);
    let hdfs = Hdfs(&gateway);
    shell(mount.root(), "mkdir home && chown 1001 home");
    assert_eq!(hdfs.fails("GET", "/home", "LISTSTATUS&user.name=root"), "SecurityException");
    let header = format!("Authorization: Bearer {token}");
    let with_header =
        |method: &str, path: &str, query: &str| curl(&["-H", &header, "-X", method, &hdfs.url(path, query)]);
    assert_eq!(with_header("PUT", "/home/d", "MKDIRS").status, 200);
    assert_eq!(fs::metadata(mount.path("home/d")).unwrap().uid(), 1001);
    assert_eq!(
        with_header("PUT", "/d", "MKDIRS").json()["RemoteException"]["exception"],
        "AccessControlException"
    );
    let issued = with_header("GET", "/", "GETDELEGATIONTOKEN").json()["Token"]["urlString"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(hdfs.ok("GET", "/", &format!("GETHOMEDIRECTORY&delegation={issued}"))["Path"], "/user/alice");
    let expiry =
        with_header("PUT", "/", &format!("RENEWDELEGATIONTOKEN&token={issued}")).json()["long"].as_u64();
    assert!(expiry > Some(1_700_000_000_000));
    assert_eq!(with_header("PUT", "/", &format!("CANCELDELEGATIONTOKEN&token={issued}")).status, 200);
    assert_eq!(hdfs.fails("GET", "/", &format!("GETHOMEDIRECTORY&delegation={issued}")), "SecurityException");
}

#[test]
fn without_login_a_name_of_this_machine_gives_its_rights() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let hdfs = Hdfs(&gateway);
    shell(mount.root(), "mkdir home && chown daemon home && chmod 700 home");
    hdfs.ok("PUT", "/home/d", "MKDIRS&user.name=daemon");
    assert_eq!(fs::metadata(mount.path("home/d")).unwrap().uid(), 1);
    assert_eq!(hdfs.fails("GET", "/home", "LISTSTATUS&user.name=nobody"), "AccessControlException");
    assert_eq!(hdfs.ok("GET", "/", "GETHOMEDIRECTORY&user.name=daemon")["Path"], "/user/daemon");
}
