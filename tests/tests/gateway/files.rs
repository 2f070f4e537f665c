//! The file API.

use crate::support::{Gateway, curl, noise, write_file};
use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

const MIB: usize = 1 << 20;

#[test]
fn a_file_is_the_same_through_gateway_and_mount() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let data = noise(5 * MIB + 77);
    let source = write_file(&cluster, "source", &data);
    let url = gateway.url("/api/v1/files/dir%20one/f");
    assert_eq!(curl(&["-T", &source, &url]).code(), "not_found", "its folder is missing");
    assert_eq!(curl(&["-X", "POST", &gateway.url("/api/v1/entries/dir%20one")]).status, 201);
    assert_eq!(curl(&["-T", &source, &url]).status, 201);
    assert_eq!(fs::read(mount.path("dir one/f")).unwrap(), data);
    assert!(gateway.get("/api/v1/files/dir%20one/f").body == data);

    fs::write(mount.path("dir one/f"), &data[7..]).unwrap();
    assert!(gateway.get("/api/v1/files/dir%20one/f").body == data[7..], "what a mount wrote is seen at once");
    assert_eq!(curl(&["-T", &source, &url]).status, 200, "replaced");
    assert_eq!(curl(&["-T", &source, &format!("{url}?overwrite=false")]).code(), "exists");
    assert_eq!(shell(mount.root(), "ls -A 'dir one'").trim(), "f", "no part is left");
    cluster.assert_sound(false);
}

#[test]
fn ranges_and_conditions() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let data = noise(3 * MIB);
    let source = write_file(&cluster, "source", &data);
    let url = gateway.url("/api/v1/files/f");
    curl(&["-T", &source, &url]);
    for (range, expected) in [
        ("0-0", &data[..1]),
        ("1000000-2999999", &data[1_000_000..3_000_000]),
        ("-5", &data[3 * MIB - 5..]),
        ("3000000-", &data[3_000_000..]),
    ] {
        let answer = curl(&["-H", &format!("Range: bytes={range}"), &url]);
        assert_eq!(answer.status, 206, "{range}");
        assert!(answer.body == expected, "{range}");
    }
    assert_eq!(curl(&["-H", "Range: bytes=99999999-", &url]).status, 416);
    let head = String::from_utf8(curl(&["-I", &url]).body).unwrap();
    let tag = head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap().trim().to_owned();
    assert_eq!(curl(&["-H", &format!("If-None-Match: {tag}"), &url]).status, 304);
    assert_eq!(curl(&["-H", "Range: bytes=0-0", "-H", &format!("If-Range: {tag}"), &url]).status, 206);
    curl(&["-T", &source, &url]);
    assert_eq!(curl(&["-H", &format!("If-None-Match: {tag}"), &url]).status, 200);
    assert_eq!(curl(&["-H", "Range: bytes=0-0", "-H", &format!("If-Range: {tag}"), &url]).status, 200);
}

#[test]
fn an_upload_in_pieces_goes_on_after_a_crash_of_the_gateway() {
    let cluster = Cluster::start();
    let mut gateway = Gateway::start(&cluster);
    let mount = cluster.mount();
    fs::write(mount.path("f"), "old").unwrap();
    let data = noise(6 * MIB + 1);
    let first = write_file(&cluster, "first", &data[..4 * MIB]);
    let second = write_file(&cluster, "second", &data[4 * MIB..]);
    let id = "0123456789abcdef0123456789abcdef";
    let url = |g: &Gateway, more: &str| g.url(&format!("/api/v1/uploads/f?id={id}{more}"));
    assert_eq!(curl(&["-T", &first, &url(&gateway, "&offset=0")]).json()["offset"], 4 * MIB);
    assert_eq!(curl(&["-T", &second, &url(&gateway, "&offset=1")]).code(), "conflict");
    assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "old", "until the end the old content is there");
    gateway.crash_and_restart(&cluster);
    let offset = curl(&[&url(&gateway, "")]).json()["offset"].as_u64().unwrap() as usize;
    assert!(offset <= 4 * MIB, "{offset}");
    let rest = write_file(&cluster, "rest", &data[offset..]);
    assert_eq!(curl(&["-T", &rest, &url(&gateway, &format!("&offset={offset}"))]).status, 200);
    assert_eq!(curl(&["-X", "POST", &url(&gateway, "&size=7")]).code(), "conflict");
    assert_eq!(curl(&["-X", "POST", &url(&gateway, &format!("&size={}", data.len()))]).status, 200);
    assert!(fs::read(mount.path("f")).unwrap() == data);
    assert_eq!(shell(mount.root(), "ls -A").trim(), "f");
}

#[test]
fn a_broken_upload_leaves_the_old_file_and_no_part() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("f"), "old").unwrap();
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    let head = format!(
        "PUT /api/v1/files/f HTTP/1.1\r\nHost: {}\r\nContent-Length: 9000000\r\n\r\n",
        gateway.address()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&noise(3 * MIB)).unwrap();
    eventually("the part is there", Duration::from_secs(20), || {
        shell(mount.root(), "ls -A").contains(".quarry-upload-")
    });
    drop(stream);
    eventually("the part is gone", Duration::from_secs(20), || shell(mount.root(), "ls -A").trim() == "f");
    assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "old");
}

#[test]
fn names_are_made_listed_moved_and_removed() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    assert_eq!(curl(&["-X", "POST", &gateway.url("/api/v1/entries/a/b/c?parents=true")]).status, 201);
    assert_eq!(curl(&["-X", "POST", &gateway.url("/api/v1/entries/a")]).code(), "exists");
    let odd = "a/\u{fc} \"<b>'\n%2f";
    fs::write(mount.path(odd), "x").unwrap();
    shell(mount.root(), "touch $'a/\\xff' && ln -s target a/link");
    let page = gateway.json("/api/v1/entries/a");
    let paths: Vec<String> =
        page["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap().to_owned()).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    for path in paths.iter().filter(|p| p.as_str() != "/a/b") {
        assert_eq!(
            curl(&["-X", "DELETE", &gateway.url(&format!("/api/v1/files{path}"))]).status,
            204,
            "{path}"
        );
    }
    assert_eq!(curl(&["-X", "DELETE", &gateway.url("/api/v1/files/a")]).code(), "not_empty");
    let json = ["-X", "POST", "-H", "Content-Type: application/json", "-d"];
    let rename = |from: &str, to: &str, overwrite: bool| {
        let body = serde_json::json!({ "from": from, "to": to, "overwrite": overwrite }).to_string();
        curl(&[&json[..], &[&body, &gateway.url("/api/v1/rename")]].concat())
    };
    assert_eq!(rename("/a/b", "/moved%20here", false).status, 200);
    assert!(mount.path("moved here/c").is_dir());
    assert_eq!(rename("/moved%20here", "/moved%20here/c/d", false).code(), "invalid");
    fs::write(mount.path("x"), "x").unwrap();
    fs::write(mount.path("y"), "y").unwrap();
    assert_eq!(rename("/x", "/y", false).code(), "exists");
    assert_eq!(rename("/x", "/y", true).status, 200);
    let attributes = ["-X", "PATCH", "-H", "Content-Type: application/json", "-d"];
    let change = [
        &attributes[..],
        &["{\"mode\":\"0640\",\"uid\":5,\"mtime_ms\":1500}", &gateway.url("/api/v1/attributes/y")],
    ];
    assert_eq!(curl(&change.concat()).status, 200);
    let meta = fs::metadata(mount.path("y")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.mtime()), (0o640, 5, 1));
    assert_eq!(
        curl(&["-X", "DELETE", &gateway.url("/api/v1/files/?recursive=true")]).code(),
        "not_permitted"
    );
    assert_eq!(
        curl(&["-X", "DELETE", &gateway.url("/api/v1/files/moved%20here?recursive=true")]).status,
        204
    );
    assert!(!mount.path("moved here").exists());
}

#[test]
fn a_large_directory_comes_in_pages_and_is_searched_and_removed() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    shell(
        mount.root(),
        "mkdir -p d/sub && cd d && seq 2500 | sed 's/^/entry-/' | xargs touch && touch sub/needle-Ä",
    );
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = gateway.json(&format!("/api/v1/entries/d?limit=1000{after}"));
        let entries = page["entries"].as_array().unwrap();
        names.extend(entries.iter().map(|e| e["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 2501);
    let found = gateway.get("/api/v1/search/?name=NEEDLE").text();
    assert!(found.contains("needle-") && found.lines().last().unwrap().contains("\"done\":true"), "{found}");
    assert_eq!(curl(&["-X", "DELETE", &gateway.url("/api/v1/files/d?recursive=true")]).status, 204);
    assert!(!mount.path("d").exists());
}

#[test]
fn a_folder_comes_as_a_tar_stream() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let long = "n".repeat(250);
    fs::create_dir_all(mount.path(&format!("d/{long}/{long}"))).unwrap();
    let data = noise(3 * MIB + 5);
    fs::write(mount.path(&format!("d/{long}/{long}/f")), &data).unwrap();
    fs::set_permissions(mount.path("d"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("t".repeat(300), mount.path("d/link")).unwrap();
    let out = cluster.path("out");
    fs::create_dir(&out).unwrap();
    shell(&out, &format!("curl -sS '{}' | tar x", gateway.url("/api/v1/archive/d")));
    assert!(fs::read(out.join(format!("d/{long}/{long}/f"))).unwrap() == data);
    assert_eq!(fs::read_link(out.join("d/link")).unwrap().as_os_str().len(), 300);
    assert_eq!(gateway.get("/api/v1/archive/nowhere").status, 404);
}

#[test]
fn a_folder_comes_as_a_zip_that_others_can_read() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::create_dir_all(mount.path("d/ä und ö/empty")).unwrap();
    let data = noise(3 * MIB + 5);
    fs::write(mount.path("d/ä und ö/data"), &data).unwrap();
    fs::write(mount.path("d/nothing"), "").unwrap();
    fs::set_permissions(mount.path("d/nothing"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../far", mount.path("d/link")).unwrap();
    shell(
        mount.root(),
        "touch -d 2024-02-29T12:34:56Z d/nothing; for n in $(seq 300); do echo $n > d/f$n; done",
    );
    let out = cluster.path("out");
    fs::create_dir(&out).unwrap();
    let url = gateway.url("/api/v1/archive/d?format=zip");
    shell(
        &out,
        &format!("curl -sS -D head -o d.zip '{url}' && grep -i 'content-type: application/zip' head"),
    );
    let check = r#"
import zipfile
z = zipfile.ZipFile('d.zip')
assert z.testzip() is None
info = z.getinfo('d/nothing')
assert info.external_attr >> 16 == 0o100755, oct(info.external_attr)
assert info.date_time == (2024, 2, 29, 12, 34, 56), info.date_time
assert z.read('d/link') == b'../far' and z.getinfo('d/link').external_attr >> 28 == 0o12
assert len(z.namelist()) == 305, len(z.namelist())
z.extractall('x')
"#;
    fs::write(out.join("check.py"), check).unwrap();
    shell(&out, "python3 check.py");
    assert!(fs::read(out.join("x/d/ä und ö/data")).unwrap() == data);
    assert!(out.join("x/d/ä und ö/empty").is_dir());
    assert_eq!(fs::read_to_string(out.join("x/d/f300")).unwrap(), "300\n");
    assert_eq!(gateway.get("/api/v1/archive/d?format=rar").status, 400);
}

#[test]
fn a_file_of_a_gigabyte_is_not_kept_in_memory() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let source = cluster.path("sparse");
    fs::File::create(&source).unwrap().set_len(1 << 30).unwrap();
    let url = gateway.url("/api/v1/files/f");
    let source = source.display().to_string();
    assert_eq!(curl(&["-T", &source, &url]).status, 201);
    let sum = shell(cluster.path("").as_path(), &format!("curl -sS '{url}' | sha256sum"));
    assert!(sum.starts_with("49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14"), "{sum}");
    let mut status = String::new();
    let file = format!("/proc/{}/status", gateway.process.pid());
    fs::File::open(file).unwrap().read_to_string(&mut status).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 900_000, "{peak} kB: more than the caches of the client library");
}

#[test]
fn chunks_are_shown_and_every_replica_is_verified() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("f"), noise(5 * MIB)).unwrap();
    shell(mount.root(), "sync f");
    let shown = gateway.json("/api/v1/chunks/f");
    let located = cluster.locate("/f");
    let ids = |v: &serde_json::Value| -> Vec<(String, String)> {
        let chunks = v["chunks"].as_array().unwrap().iter();
        chunks
            .map(|c| (c["id"].as_str().unwrap().to_owned(), c["sha256"].as_str().unwrap().to_owned()))
            .collect()
    };
    assert_eq!(ids(&shown), ids(&located));
    let verify = || curl(&["-X", "POST", &gateway.url("/api/v1/verify/f")]).json();
    let faults = |report: &serde_json::Value| {
        let replicas =
            report["chunks"].as_array().unwrap().iter().flat_map(|c| c["replicas"].as_array().unwrap());
        replicas.filter(|r| !r["fault"].is_null()).count()
    };
    let report = verify();
    let replicas: usize =
        report["chunks"].as_array().unwrap().iter().map(|c| c["replicas"].as_array().unwrap().len()).sum();
    assert_eq!((replicas, faults(&report)), (9, 0), "{report}");
    // One byte of one replica rots.
    let chunk = &ids(&shown)[0].0;
    shell(
        cluster.path("datanode-2").as_path(),
        &format!(
            "f=$(find . -name '*{chunk}*' -type f | head -1); printf X | dd of=$f bs=1 seek=100000 conv=notrunc status=none"
        ),
    );
    assert_eq!(faults(&verify()), 1);
}
