//! The page in a real browser: Chromium, driven by its own driver. Each state leaves a screenshot in `target/gateway-screenshots`.

mod driver;

use crate::support::{Gateway, add_user, curl, noise, users_file, write_file};
use driver::Browser;
use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const PHONE: (u32, u32) = (390, 844);

fn row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#listing tbody tr')].find(r => r.querySelector('.name').textContent === {})",
        json!(name)
    )
}

fn has_row(name: &str) -> String {
    format!("!!{}", row(name))
}

/// Presses a button of a row.
fn press(browser: &Browser, name: &str, button: &str) {
    browser.run(&format!(
        "[...{}.querySelectorAll('.actions button')].find(b => b.textContent === {}).click()",
        row(name),
        json!(button)
    ));
}

#[test]
fn a_file_goes_up_comes_down_is_renamed_and_deleted() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let browser = Browser::start(&cluster);
    let data = noise(50 << 20);
    let source = write_file(&cluster, "fifty.bin", &data);
    browser.goto(&gateway.url("/#/files/"));
    browser.wait("an empty folder", "!document.getElementById('listing-empty').hidden");
    browser.screenshot("files-empty");
    browser.choose_file("#pick-files", &source);
    browser.wait("an upload with progress", "document.querySelector('#transfer-list progress') !== null");
    browser.screenshot("files-uploading");
    browser.wait_for("the file is listed", &has_row("fifty.bin"), Duration::from_secs(120));
    assert!(fs::read(mount.path("fifty.bin")).unwrap() == data, "on the mount it is the same");
    let link = browser.run(&format!("return {}.querySelector('a[download]').href", row("fifty.bin")));
    assert!(curl(&[link.as_str().unwrap()]).body == data, "what the link downloads is the same");
    press(&browser, "fifty.bin", "Details");
    browser.wait("its chunks", "document.querySelectorAll('#chunks tbody tr').length === 25");
    browser.screenshot("files-details");
    browser.run("document.getElementById('verify').click()");
    browser.wait(
        "every replica is verified",
        "document.getElementById('verify-text').textContent.includes('All 75 replicas are good')",
    );
    browser.run("document.getElementById('details').close()");
    press(&browser, "fifty.bin", "Rename");
    browser.run("document.getElementById('ask-input').value = 'renamed.bin'; document.getElementById('ask-yes').click()");
    browser.wait("the new name", &has_row("renamed.bin"));
    assert!(mount.path("renamed.bin").exists() && !mount.path("fifty.bin").exists());
    press(&browser, "renamed.bin", "Delete");
    browser.screenshot("files-delete-question");
    browser.run("document.getElementById('ask-yes').click()");
    browser.wait("it is gone", &format!("!{}", has_row("renamed.bin")));
    assert!(!mount.path("renamed.bin").exists());
    browser.assert_no_errors();
}

#[test]
fn a_dead_datanode_shows_as_suspect_then_dead_and_healing_begins_and_ends() {
    let mut cluster = Cluster::options().datanodes(4).start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), noise(60 << 20)).unwrap();
    shell(mount.root(), "sync f");
    let gateway = Gateway::start(&cluster);
    let browser = Browser::start(&cluster);
    browser.goto(&gateway.url("/"));
    browser.wait("all is well", "document.getElementById('health').dataset.level === 'ok'");
    // So that sparklines have something to show.
    browser.wait("some seconds of history", "document.querySelector('.spark path') !== null");
    let disks = "[...document.querySelectorAll('#disks tbody .state')].map((s) => s.textContent).join()";
    browser.wait("four disks that work", &format!("{disks} === 'working,working,working,working'"));
    browser.wait("the NameNode's memory", "document.getElementById('namenode').textContent.includes('MiB')");
    browser.screenshot("cluster-healthy");
    cluster.kill_datanode(2);
    let state =
        |s: &str| format!("document.querySelector('#nodes tr[data-key=\"2\"] .state').textContent === '{s}'");
    browser.wait_for("suspect", &state("suspect"), Duration::from_secs(12));
    browser.screenshot("cluster-suspect");
    browser.wait_for("dead", &state("dead"), Duration::from_secs(40));
    browser.screenshot("cluster-dead");
    let event = |text: &str| format!("document.getElementById('events').textContent.includes('{text}')");
    browser.wait_for("healing is told", &event("Healing of"), SOON);
    browser.wait_for("healing ends", &event("Healing is done"), Duration::from_secs(90));
    browser.screenshot("cluster-healed");
    browser.assert_no_errors();
}

#[test]
fn a_user_without_rights_sees_a_clear_refusal() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let users = users_file(&cluster);
    add_user(&users, "bob", 1002, "user", Some("correct horse"));
    shell(mount.root(), "mkdir private && chmod 700 private && echo x > f && chmod 600 f");
    let gateway = Gateway::with(&cluster, &["--users", &users.display().to_string()]);
    let browser = Browser::start(&cluster);
    browser.goto(&gateway.url("/"));
    browser.wait("the login", "!document.getElementById('view-login').hidden");
    browser.screenshot("login");
    browser.keys("#login-name", "bob");
    browser.keys("#login-password", "wrong horse\n");
    browser
        .wait("a refusal", "document.getElementById('login-error').textContent.includes('wrong user name')");
    browser.run("document.getElementById('login-password').value = ''");
    browser.keys("#login-password", "correct horse\n");
    browser.wait("the dashboard", "document.getElementById('health').dataset.level === 'ok'");
    assert_eq!(
        browser.run("return document.getElementById('check-now').disabled"),
        true,
        "only administrators start checks"
    );
    browser.run("location.hash = '#/files/private'");
    browser.wait("a refusal", "document.getElementById('files-error').textContent.startsWith('Not allowed')");
    browser.screenshot("files-refused");
    browser.run("location.hash = '#/files/'");
    browser.wait("the listing", &has_row("f"));
    press(&browser, "f", "Delete");
    browser.run("document.getElementById('ask-yes').click()");
    browser.wait("a refusal", "document.getElementById('files-error').textContent.startsWith('Not allowed')");
    assert!(mount.path("f").exists());
    browser.run("document.getElementById('logout').click()");
    browser.wait("the login again", "!document.getElementById('view-login').hidden");
}

#[test]
fn a_name_with_quotes_html_and_newlines_does_no_harm() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    let evil = "<img src=x onerror=\"document.title='harmed'\">'\"\n&amp;%2f#?";
    fs::write(mount.path(evil), "harmless").unwrap();
    fs::create_dir(mount.path("<b>\"dir'")).unwrap();
    fs::write(mount.path("<b>\"dir'/page.html"), "<script>document.title='harmed'</script>").unwrap();
    let browser = Browser::start(&cluster);
    browser.goto(&gateway.url("/#/files/"));
    browser.wait("both are listed", "document.querySelectorAll('#listing tbody tr').length === 2");
    assert_eq!(browser.run("return document.querySelectorAll('#listing img, #listing b').length"), 0);
    assert_eq!(browser.run(&format!("return {}", has_row(evil))), true, "shown as it is");
    press(&browser, evil, "Details");
    browser.wait("its text", "document.querySelector('#details .preview')?.textContent === 'harmless'");
    browser.screenshot("files-odd-name");
    browser.run("document.getElementById('details').close()");
    browser.run(
        "[...document.querySelectorAll('#listing .name a')].find(a => a.textContent.endsWith('/')).click()",
    );
    browser.wait("the folder", &has_row("page.html"));
    let link = browser.run("return document.querySelector('#listing .name a').href");
    browser.goto(link.as_str().unwrap());
    assert_eq!(browser.run("return document.title"), "", "the script in a file does not run");
    browser.goto(&gateway.url("/#/files/"));
    browser.wait("both are listed", "document.querySelectorAll('#listing tbody tr').length === 2");
    press(&browser, evil, "Delete");
    browser.run("document.getElementById('ask-yes').click()");
    browser.wait("it is gone", "document.querySelectorAll('#listing tbody tr').length === 1");
    assert!(!mount.path(evil).exists());
    assert_ne!(browser.run("return document.title"), "harmed");
}

#[test]
fn the_page_works_on_a_phone_and_by_keyboard_alone() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("a-rather-long-file-name-for-a-phone.txt"), "hello").unwrap();
    let browser = Browser::start(&cluster);
    browser.resize(PHONE);
    browser.goto(&gateway.url("/"));
    browser.wait("all is well", "document.getElementById('health').dataset.level === 'ok'");
    let fits = "return document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(browser.run(fits), true, "nothing is wider than the phone");
    browser.screenshot("phone-cluster");
    browser.dark(true);
    browser.screenshot("phone-cluster-dark");
    browser.dark(false);
    // By keyboard: from the top to the files, into the dialog for a new folder, and out again.
    browser.run("document.activeElement.blur()");
    let focus = "return document.activeElement.id || document.activeElement.textContent";
    let tab_to = |wanted: &str| {
        for _ in 0..60 {
            if browser.run(focus) == wanted {
                return;
            }
            browser.tab();
        }
        panic!("{wanted} is not reached by the keyboard");
    };
    tab_to("nav-files");
    browser.enter();
    browser.wait("the listing", "document.querySelectorAll('#listing tbody tr').length === 1");
    assert_eq!(browser.run(fits), true, "nothing is wider than the phone");
    browser.screenshot("phone-files");
    tab_to("new-folder");
    browser.enter();
    browser.wait("a question", "document.getElementById('ask').open");
    browser.type_text("by-keyboard");
    browser.enter();
    browser.wait("the folder", &has_row("by-keyboard/"));
    assert!(mount.path("by-keyboard").is_dir());
    browser.assert_no_errors();
}

#[test]
fn axe_finds_nothing_serious() {
    let cluster = Cluster::start();
    let (gateway, mount) = (Gateway::start(&cluster), cluster.mount());
    fs::write(mount.path("f.txt"), "hello").unwrap();
    let axe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools/node_modules/axe-core/axe.min.js");
    let axe = fs::read_to_string(&axe)
        .unwrap_or_else(|e| panic!("{}: {e}; scripts/test installs it", axe.display()));
    let browser = Browser::start(&cluster);
    let check = |state: &str| {
        browser.run(&axe);
        let found = browser.run_async(
            "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(r => done(r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html).slice(0, 3)])))",
        );
        let serious: Vec<_> =
            found.as_array().unwrap().iter().filter(|v| v[0] == "serious" || v[0] == "critical").collect();
        assert!(serious.is_empty(), "{state}: {serious:#?}");
    };
    for dark in [false, true] {
        browser.dark(dark);
        browser.goto(&gateway.url("/"));
        browser.wait("all is well", "document.getElementById('health').dataset.level === 'ok'");
        check("cluster");
        browser.screenshot(if dark { "cluster-dark" } else { "cluster-light" });
        browser.run("location.hash = '#/files/'");
        browser.wait("the listing", &has_row("f.txt"));
        check("files");
        press(&browser, "f.txt", "Details");
        browser.wait("the details", "document.querySelector('#details .preview') !== null");
        check("details");
        browser.run("document.getElementById('details').close()");
        press(&browser, "f.txt", "Delete");
        check("question");
        browser.run("document.getElementById('ask').close()");
    }
}

#[test]
fn a_page_goes_on_when_its_gateway_was_away() {
    let cluster = Cluster::start();
    let mut gateway = Gateway::start(&cluster);
    let browser = Browser::start(&cluster);
    browser.goto(&gateway.url("/"));
    browser.wait("all is well", "document.getElementById('health').dataset.level === 'ok'");
    gateway.process.kill();
    browser.wait("it says so", "document.getElementById('connection').textContent !== ''");
    browser.screenshot("cluster-gateway-away");
    gateway.crash_and_restart(&cluster);
    browser.wait("it goes on", "document.getElementById('connection').textContent === ''");
    eventually("the stream flows", SOON, || {
        let age = "return document.querySelector('#nodes .age').textContent";
        let first = browser.run(age);
        std::thread::sleep(Duration::from_millis(600));
        first != browser.run(age)
    });
}
