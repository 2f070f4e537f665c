//! Chromium and its driver, for one test.

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use quarry_tests::ports::{self, Port};
use quarry_tests::{Cluster, eventually_some};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::runtime::Runtime;

const START_LIMIT: Duration = Duration::from_secs(60);
/// What a page shows after an answer of the gateway.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// WebDriver's codes of keys.
const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';

/// A browser with a profile of its own. Dropping it ends it.
pub(super) struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    driver: Child,
    _port: Port,
}

impl Browser {
    /// Starts driver and browser, without traffic of their own.
    pub(super) fn start(cluster: &Cluster) -> Self {
        let port = ports::reserve();
        let log = File::create(cluster.path("logs/chromedriver.log")).unwrap();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={}", port.number))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("run chromedriver: scripts/test installs chromium-driver");
        eventually_some("the driver listens", START_LIMIT, || {
            TcpStream::connect(("127.0.0.1", port.number)).ok()
        });
        let profile = cluster.path("browser");
        fs::create_dir_all(&profile).unwrap();
        let capabilities = json!({
            "goog:chromeOptions": { "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
                "--window-size=1280,1000", format!("--user-data-dir={}", profile.display()),
            ] },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is an object") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            ClientBuilder::new(HttpConnector::new())
                .capabilities(capabilities)
                .connect(&format!("http://127.0.0.1:{}", port.number))
                .await
        });
        Self { runtime, client: Some(client.expect("start Chromium")), driver, _port: port }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the end")
    }

    pub(super) fn goto(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).unwrap();
    }

    /// Runs a script in the page and gives what it returns.
    pub(super) fn run(&self, script: &str) -> Value {
        self.runtime
            .block_on(self.client().execute(script, Vec::new()))
            .unwrap_or_else(|e| panic!("{script}: {e}"))
    }

    /// The same for a script that calls its last argument when it is done.
    pub(super) fn run_async(&self, script: &str) -> Value {
        self.runtime.block_on(self.client().execute_async(script, Vec::new())).unwrap()
    }

    /// Waits until an expression is true.
    pub(super) fn wait(&self, what: &str, expression: &str) {
        self.wait_for(what, expression, SHOWN_WITHIN);
    }

    pub(super) fn wait_for(&self, what: &str, expression: &str, limit: Duration) {
        let script = format!("return Boolean({expression})");
        let start = std::time::Instant::now();
        while self.run(&script) != true {
            if start.elapsed() > limit {
                self.screenshot("failed");
                let text = self.run("return document.body.innerText");
                panic!("not within {limit:?}: {what}; the page says:\n{}", text.as_str().unwrap_or(""));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn find(&self, css: &str) -> fantoccini::elements::Element {
        self.runtime.block_on(self.client().find(Locator::Css(css))).unwrap_or_else(|e| panic!("{css}: {e}"))
    }

    /// Types into an element.
    pub(super) fn keys(&self, css: &str, text: &str) {
        let element = self.find(css);
        self.runtime.block_on(element.send_keys(&text.replace('\n', &ENTER.to_string()))).unwrap();
    }

    /// Chooses a file, as the dialog of the system would.
    pub(super) fn choose_file(&self, css: &str, path: &str) {
        // The input is hidden; the driver wants it shown.
        self.run(&format!("document.querySelector({}).hidden = false", json!(css)));
        let element = self.find(css);
        self.runtime.block_on(element.send_keys(path)).unwrap();
        self.run(&format!("document.querySelector({}).hidden = true", json!(css)));
    }

    /// Presses a key, wherever the focus is.
    fn press(&self, value: char) {
        let actions = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value })
            .then(KeyAction::Up { value });
        self.runtime.block_on(self.client().perform_actions(actions)).unwrap();
    }

    pub(super) fn tab(&self) {
        self.press(TAB);
    }

    pub(super) fn enter(&self) {
        self.press(ENTER);
    }

    pub(super) fn type_text(&self, text: &str) {
        text.chars().for_each(|c| self.press(c));
    }

    pub(super) fn resize(&self, (width, height): (u32, u32)) {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": true }),
        );
    }

    /// The system's preference for dark pages.
    pub(super) fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] }),
        );
    }

    /// A command of Chromium's own protocol.
    fn command(&self, name: &str, parameters: Value) -> Value {
        self.runtime
            .block_on(self.client().issue_cmd(Vendor::Execute(json!({ "cmd": name, "params": parameters }))))
            .unwrap()
    }

    /// Writes a picture of the whole page.
    pub(super) fn screenshot(&self, name: &str) {
        let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gateway-screenshots");
        fs::create_dir_all(&dir).unwrap();
        let shot = self.command("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let png = base64_decode(shot["data"].as_str().unwrap_or(""));
        fs::write(dir.join(format!("{name}.png")), png).unwrap();
    }

    /// No script failed, and nothing was loaded from elsewhere or refused by the page's own policy.
    pub(super) fn assert_no_errors(&self) {
        let log = self.runtime.block_on(self.client().issue_cmd(Vendor::Log)).unwrap();
        let severe: Vec<&Value> = log.as_array().unwrap().iter().filter(|l| l["level"] == "SEVERE").collect();
        assert!(severe.is_empty(), "{severe:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(10), client.close()).await });
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Commands of chromedriver that WebDriver does not have.
#[derive(Debug)]
enum Vendor {
    Execute(Value),
    Log,
}

impl fantoccini::wd::WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        let session = session.unwrap_or_default();
        base.join(&match self {
            Self::Execute(_) => format!("session/{session}/goog/cdp/execute"),
            Self::Log => format!("session/{session}/se/log"),
        })
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = match self {
            Self::Execute(body) => body.to_string(),
            Self::Log => json!({ "type": "browser" }).to_string(),
        };
        (http::Method::POST, Some(body))
    }
}

fn base64_decode(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).expect("a picture in base64")
}
