//! `quarry top`: the cluster live in a terminal.

mod rates;
mod view;

use super::Cluster;
use crate::exit::UsageError;
use clap::Args;
use quarry_client::FileSystem;
use quarry_common::wire::cluster::ClusterStatus;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rates::Rates;
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A NameNode that has not answered after this long is shown as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often the keyboard is looked at.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// Show live what the cluster does: nodes, throughput, operations, the slowest requests of the last minute. q ends it.
#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    cluster: Cluster,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
}

impl Top {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !std::io::stdout().is_terminal() {
            let why = "quarry top needs a terminal; `quarry status --json` is for programs";
            return Err(UsageError(why.to_owned()).into());
        }
        let every = Duration::try_from_secs_f64(self.every.clamp(0.1, 60.0)).unwrap_or(ANSWER_WITHIN);
        self.cluster.with("top", async |fs| {
            // Restored also when the process panics.
            let terminal = ratatui::try_init()?;
            let shown = show(&fs, terminal, every).await;
            ratatui::try_restore()?;
            shown
        })
    }
}

/// What is on the screen.
struct Shown {
    status: ClusterStatus,
    rates: Rates,
    /// Since the last answer, if the NameNode does not answer.
    away: Option<Instant>,
}

async fn show(fs: &FileSystem, mut terminal: DefaultTerminal, every: Duration) -> anyhow::Result<()> {
    let mut shown = Shown { status: ClusterStatus::default(), rates: Rates::default(), away: None };
    let mut keys = keys();
    let mut answered = Instant::now();
    let mut looks = tokio::time::interval(every);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                match tokio::time::timeout(ANSWER_WITHIN, fs.cluster_status()).await {
                    Ok(Ok(status)) => {
                        shown.rates.add(&status, Instant::now());
                        (shown.status, shown.away, answered) = (status, None, Instant::now());
                    }
                    _ => shown.away = Some(answered),
                }
            }
            key = keys.recv() => match key {
                Some(Key::Redraw) => {}
                Some(Key::End) | None => return Ok(()),
            },
        }
        terminal.draw(|frame| view::draw(frame, &shown))?;
    }
}

/// What a person wants.
enum Key {
    End,
    /// The terminal has another size.
    Redraw,
}

/// Reads the terminal on a thread of its own, which ends with the process or when nobody listens any more.
fn keys() -> mpsc::Receiver<Key> {
    let (pressed, keys) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            match event::poll(KEYS_EVERY) {
                Ok(false) => continue,
                Ok(true) => {}
                // The terminal is gone.
                Err(_) => return,
            }
            let key = match event::read() {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => Key::End,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::End,
                    _ => continue,
                },
                Ok(Event::Resize(..)) => Key::Redraw,
                Ok(_) => continue,
                Err(_) => return,
            };
            if pressed.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}
