//! Requests that mean harm, and clients that are slow.

use crate::support::{Gateway, curl};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends bytes and gives what comes back until the gateway closes, or the beginning of it.
fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The gateway may answer and close before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[test]
fn paths_never_leave_the_cluster() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::create_dir(mount.path("d")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", mount.path("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc/passwd", mount.path("relative")).unwrap();
    for path in [
        "/api/v1/files/../../etc/passwd",
        "/api/v1/files/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/files/d/..%2f..%2f..%2fetc/passwd",
        "/api/v1/files/absolute",
        "/api/v1/files/relative",
        "/api/v1/files/d%00/../../etc/passwd",
        "/assets/../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
    ] {
        let answer = gateway.get(path);
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.text().contains("root:"), "{path}");
    }
}

#[test]
fn other_hosts_and_other_origins_are_refused() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("f"), "x").unwrap();
    for host in ["evil.example", "evil.example:80", "10.0.0.1", "127.0.0.1.evil.example", ""] {
        for path in ["/", "/api/v1/status", "/api/v1/files/f", "/webhdfs/v1/?op=LISTSTATUS"] {
            let answer = curl(&["-H", &format!("Host: {host}"), &gateway.url(path)]);
            assert!(matches!(answer.status, 400 | 403), "{host} {path}: {}", answer.status);
        }
    }
    let own = gateway.url("");
    for header in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        for (method, path) in [
            ("GET", "/api/v1/live"),
            ("GET", "/api/v1/files/f"),
            ("DELETE", "/api/v1/files/f"),
            ("POST", "/api/v1/entries/d"),
            ("POST", "/api/v1/login"),
            ("PUT", "/webhdfs/v1/d?op=MKDIRS"),
            ("DELETE", "/webhdfs/v1/f?op=DELETE"),
        ] {
            let answer = curl(&["-X", method, "-H", header, &gateway.url(path)]);
            assert_eq!(answer.status, 403, "{header}: {method} {path}");
        }
    }
    assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1, "nothing happened");
    let same = curl(&[
        "-H",
        &format!("Origin: {own}"),
        "-H",
        "Sec-Fetch-Site: same-origin",
        &gateway.url("/api/v1/status"),
    ]);
    assert_eq!(same.status, 200);
}

#[test]
fn data_of_files_does_nothing_in_a_browser() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("x.html"), "<script>alert(1)</script>").unwrap();
    let head = curl(&["-I", &gateway.url("/api/v1/files/x.html")]).text();
    assert!(head.contains("content-security-policy: sandbox;"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    let page = curl(&["-I", &gateway.url("/")]).text();
    assert!(page.contains("script-src 'self'") && page.contains("frame-ancestors 'none'"), "{page}");
}

#[test]
fn heads_and_bodies_without_end_are_cut_off() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let head = format!("GET /api/v1/status HTTP/1.1\r\nHost: {}\r\n", gateway.address());
    let huge = format!("{head}X: {}\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(&gateway, huge.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("{head}{}\r\n", "X: y\r\n".repeat(100_000));
    let answer = raw(&gateway, many.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(&gateway, long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let body = cluster.path("body");
    fs::write(&body, vec![b' '; 2 << 20]).unwrap();
    let data = format!("@{}", body.display());
    let answer = curl(&[
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        &data,
        &gateway.url("/api/v1/rename"),
    ]);
    assert_eq!(answer.status, 413);
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"\r\n\r\n\r\n", b"GET\0/\0HTTP", &[0xff; 5000]] {
        raw(&gateway, garbage);
    }
    assert_eq!(gateway.get("/api/v1/status").status, 200);
}

#[test]
fn a_slow_head_is_cut_off_and_delays_nobody() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let mut slow: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: 127").unwrap();
    }
    assert_eq!(gateway.get("/api/v1/status").status, 200);
    eventually("the slow ones are cut off", Duration::from_secs(90), || {
        slow.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            let mut answer = [0; 64];
            // An answer, the end of the stream or a reset: all of them are its end.
            stream.read(&mut answer).is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
        });
        slow.is_empty()
    });
}

#[test]
fn thousands_of_listeners_are_turned_away_and_make_room_again() {
    let cluster = Cluster::start();
    let gateway = Gateway::start(&cluster);
    let request = format!("GET /api/v1/live HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address());
    let mut streams = Vec::new();
    let mut refused = 0;
    // More than the listeners that are served; the connections of those that were refused are closed again.
    for _ in 0..2000 {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        match &answer {
            b"HTTP/1.1 200 OK" => streams.push(stream),
            b"HTTP/1.1 503 Se" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!((streams.len(), refused), (256, 2000 - 256));
    assert_eq!(gateway.get("/api/v1/status").status, 200, "everything else goes on");
    streams.clear();
    eventually("there is room again", Duration::from_secs(30), || {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        &answer == b"HTTP/1.1 200 OK"
    });
}
