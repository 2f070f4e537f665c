//! Users: who gets in, and what each may do.

use crate::support::{Gateway, add_user, curl, remove_user, users_file, write_file};
use quarry_tests::process::{Process, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

#[test]
fn every_operation_is_checked_against_mode_and_acl() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let users = users_file(&cluster);
    let alice = add_user(&users, "alice", 1001, "user", None);
    let bob = add_user(&users, "bob", 1002, "user", None);
    let gateway = Gateway::with(&cluster, &["--users", &users.display().to_string()]);
    let source = write_file(&cluster, "source", b"data");
    fs::create_dir(mount.path("home")).unwrap();
    chown(mount.path("home"), Some(1001), Some(1001)).unwrap();
    fs::set_permissions(mount.path("home"), fs::Permissions::from_mode(0o750)).unwrap();
    let ask = |token: &str, args: &[&str], path: &str| {
        let header = format!("Authorization: Bearer {token}");
        let url = gateway.url(path);
        curl(&[&["-H", header.as_str()][..], args, &[url.as_str()]].concat())
    };
    assert_eq!(ask(&alice, &["-T", &source], "/api/v1/files/home/f").status, 201);
    let meta = fs::metadata(mount.path("home/f")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 1001);
    // Bob may not even look, and nobody may write where only root may.
    for (args, path) in [
        (&[][..], "/api/v1/files/home/f"),
        (&[], "/api/v1/entries/home"),
        (&[], "/api/v1/attributes/home/f"),
        (&[], "/api/v1/archive/home"),
        (&[], "/api/v1/chunks/home/f"),
        (&["-T", &source], "/api/v1/files/home/g"),
        (&["-X", "DELETE"], "/api/v1/files/home/f"),
        (&["-X", "POST"], "/api/v1/entries/home/d"),
        (&["-X", "POST"], "/api/v1/entries/d"),
        (&["-T", &source], "/api/v1/files/root-file"),
    ] {
        let answer = ask(&bob, args, path);
        assert_eq!((answer.status, answer.code().as_str()), (403, "permission_denied"), "{args:?} {path}");
    }
    let json = ["-X", "PATCH", "-H", "Content-Type: application/json", "-d"];
    assert_eq!(
        ask(&alice, &[&json[..], &["{\"uid\":0}"]].concat(), "/api/v1/attributes/home/f").code(),
        "not_permitted"
    );
    assert_eq!(
        ask(&alice, &[&json[..], &["{\"mode\":\"0600\"}"]].concat(), "/api/v1/attributes/home/f").status,
        200
    );
    // An ACL opens the door for Bob alone.
    shell(mount.root(), "chmod 644 home/f && setfacl -m u:1002:rx home");
    assert_eq!(ask(&bob, &[], "/api/v1/files/home/f").body, b"data");
    assert_eq!(ask(&bob, &["-X", "DELETE"], "/api/v1/files/home/f").status, 403);
    shell(mount.root(), "setfacl -m u:1002:rwx home && chmod +t home");
    assert_eq!(ask(&bob, &["-X", "DELETE"], "/api/v1/files/home/f").code(), "not_permitted", "sticky");
    shell(mount.root(), "chmod -t home");
    assert_eq!(ask(&bob, &["-X", "DELETE"], "/api/v1/files/home/f").status, 204);
    // A symbolic link of Bob's leads Bob nowhere that he may not go.
    shell(mount.root(), "setfacl -b home && echo secret > home/s && chmod 600 home/s && ln -s /home/s link");
    assert_eq!(ask(&bob, &[], "/api/v1/files/link").status, 403);
}

#[test]
fn users_log_in_by_password_token_and_cookie_and_are_gone_when_removed() {
    let cluster = Cluster::start();
    let users = users_file(&cluster);
    let token = add_user(&users, "alice", 1001, "admin", Some("correct horse"));
    let file = users.display().to_string();
    let gateway = Gateway::with(&cluster, &["--users", &file]);
    let url = gateway.url("/api/v1/status");
    assert_eq!(gateway.get("/api/v1/status").code(), "unauthenticated");
    assert_eq!(curl(&["-H", "Authorization: Bearer quarry_00", &url]).code(), "wrong_credentials");
    assert_eq!(curl(&["-H", &format!("Authorization: Bearer {token}"), &url]).status, 200);
    assert_eq!(curl(&["-u", "alice:correct horse", &url]).status, 200);
    assert_eq!(curl(&["-u", "alice:wrong horse", &url]).code(), "wrong_credentials");
    let jar = cluster.path("jar").display().to_string();
    let login = |password: &str| {
        let body = serde_json::json!({ "name": "alice", "password": password }).to_string();
        let args =
            ["-c", &jar, "-H", "Content-Type: application/json", "-d", &body, &gateway.url("/api/v1/login")];
        curl(&args).status
    };
    assert_eq!(login("wrong horse"), 401);
    assert_eq!(login("correct horse"), 200);
    let cookies = fs::read_to_string(&jar).unwrap();
    assert!(cookies.contains("#HttpOnly_"), "{cookies}");
    assert_eq!(curl(&["-b", &jar, &url]).status, 200);
    curl(&["-b", &jar, "-X", "POST", &gateway.url("/api/v1/logout")]);
    assert_eq!(curl(&["-b", &jar, &url]).status, 401);
    assert_eq!(login("correct horse"), 200);
    remove_user(&users, "alice");
    eventually("the user is gone", Duration::from_secs(10), || curl(&["-b", &jar, &url]).status == 401);
    assert_eq!(curl(&["-u", "alice:correct horse", &url]).status, 401);
}

#[test]
fn only_administrators_start_checks() {
    let cluster = Cluster::start();
    let users = users_file(&cluster);
    let (user, admin) = (add_user(&users, "u", 1, "user", None), add_user(&users, "a", 2, "admin", None));
    let gateway = Gateway::with(&cluster, &["--users", &users.display().to_string()]);
    let check = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        curl(&[
            "-H",
            &header,
            "-H",
            "Content-Type: application/json",
            "-d",
            "{}",
            &gateway.url("/api/v1/check"),
        ])
    };
    assert_eq!(check(&user).code(), "forbidden");
    assert_eq!(check(&admin).status, 200);
}

#[test]
fn an_address_of_a_network_demands_users_and_tls() {
    let cluster = Cluster::start();
    let config = cluster.client_config().display().to_string();
    let users = users_file(&cluster);
    add_user(&users, "alice", 1001, "user", None);
    let users = users.display().to_string();
    let start = |more: &[&str]| {
        let args = [&["gateway", "--config", &config, "--listen", "0.0.0.0:0"][..], more].concat();
        Process::try_start("gateway", &args, &cluster.path("logs/refused.log"))
    };
    assert!(start(&[]).err().expect("refused").contains("demands users"));
    assert!(start(&["--users", &users]).err().expect("refused").contains("clear text"));
    assert!(start(&["--users", &users, "--tls"]).is_ok());
}

#[test]
fn a_client_certificate_is_a_user() {
    let cluster = Cluster::start();
    let users = users_file(&cluster);
    // The certificate of the cluster's test client names `test`.
    add_user(&users, "test", 1001, "user", None);
    let gateway =
        Gateway::with(&cluster, &["--users", &users.display().to_string(), "--tls", "--client-certificates"]);
    let certs = cluster.path("certs/client-test");
    let file = |name: &str| certs.join(name).display().to_string();
    let url = gateway.url("/api/v1/session");
    let anonymous = curl(&["-k", &url]);
    assert_eq!(anonymous.json()["user"], serde_json::Value::Null);
    let known = curl(&["-k", "--cert", &file("cert.pem"), "--key", &file("key.pem"), &url]);
    assert_eq!(known.json()["user"]["name"], "test");
    // A certificate of another authority does not even connect.
    let other = Cluster::options().datanodes(1).replication("1").start();
    let foreign = other.path("certs/client-test");
    let (cert, key) =
        (foreign.join("cert.pem").display().to_string(), foreign.join("key.pem").display().to_string());
    assert_eq!(curl(&["-k", "--cert", &cert, "--key", &key, &url]).status, 0);
}
