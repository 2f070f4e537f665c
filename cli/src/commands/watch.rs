//! `quarry watch`

use super::Cluster;
use crate::output::{Reader, complain, hex, print, printable};
use crate::supervise::until_signal;
use anyhow::Context;
use clap::Args;
use quarry_client::{Changes, ChangesError, FileSystem};
use quarry_common::ids::Ino;
use quarry_common::wire::changes::{CHANGES_MAX, ChangeEvent, ChangeKind};
use quarry_common::wire::error::FsError;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// A pause after the cluster did not answer, on top of the time that it had.
const PAUSE: Duration = Duration::from_secs(1);

/// Show what changes below a directory, or in a file, as it happens, whichever mount does it.
///
/// One line for each change: position, kind (create, change, attributes, rename, exchange, delete), path, and for a rename
/// the new path. A file that is being written is shown when the data reaches the cluster.
#[derive(Args)]
pub(crate) struct Watch {
    /// A directory or file: its path on a mount of the cluster, or within the cluster (/ for everything).
    path: String,
    #[command(flatten)]
    cluster: Cluster,
    /// One JSON object a line: position, kind, ino, path, and `to` for a rename or exchange.
    #[arg(long)]
    json: bool,
    /// Go on behind this position, as an earlier watch printed it. Without it: from now on.
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
}

impl Watch {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.cluster.with("watch", async |fs| {
            let stop = until_signal()?;
            tokio::select! {
                result = self.watch(&fs) => result,
                () = stop.cancelled() => Ok(()),
            }
        })
    }

    async fn watch(&self, fs: &FileSystem) -> anyhow::Result<()> {
        let path = &self.cluster.path_in_cluster(&self.path)?;
        let below = fs.resolve(path).await.with_context(|| path.clone())?.ino;
        let mut position = match self.from {
            Some(position) => position,
            None => fs.changes(below, None, 1).await?.next,
        };
        complain(format_args!("watching {} from position {position}", printable(path.as_bytes())));
        loop {
            let Changes { events, next } = patiently(fs, below, position).await?;
            for event in &events {
                let line = if self.json { to_json(event).to_string() } else { to_text(event) };
                if print(format_args!("{line}\n"))? == Reader::Gone {
                    return Ok(());
                }
            }
            position = next;
        }
    }
}

/// The next events, however long the cluster is away.
async fn patiently(fs: &FileSystem, below: Ino, after: u64) -> anyhow::Result<Changes> {
    let mut is_away = false;
    loop {
        match fs.changes(below, Some(after), CHANGES_MAX).await {
            Err(ChangesError::Fs(FsError::TimedOut)) => {
                if !is_away {
                    tracing::warn!("the cluster does not answer; the watch goes on when it does");
                }
                is_away = true;
                tokio::time::sleep(PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}

fn kind(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Create => "create",
        ChangeKind::Change => "change",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Rename => "rename",
        ChangeKind::Exchange => "exchange",
        ChangeKind::Delete => "delete",
    }
}

fn to_text(event: &ChangeEvent) -> String {
    let mut line = format!("{}  {:<10}  {}", event.position, kind(event.kind), printable(&event.path));
    if let Some(to) = &event.to {
        let arrow = if event.kind == ChangeKind::Exchange { "<->" } else { "->" };
        // A string takes what is written to it.
        let _ = write!(line, " {arrow} {}", printable(to));
    }
    line
}

fn to_json(event: &ChangeEvent) -> Value {
    let mut object = json!({ "position": event.position, "kind": kind(event.kind), "ino": event.ino });
    let mut put = |name: &str, path: &[u8]| {
        object[name] = String::from_utf8_lossy(path).into();
        // JSON has no way to hold other bytes.
        if std::str::from_utf8(path).is_err() {
            object[format!("{name}_hex")] = hex(path).into();
        }
    };
    put("path", &event.path);
    if let Some(to) = &event.to {
        put("to", to);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &[u8], to: Option<&[u8]>) -> ChangeEvent {
        let kind = if to.is_some() { ChangeKind::Rename } else { ChangeKind::Create };
        ChangeEvent { position: 9, kind, ino: Ino(5), path: path.into(), to: to.map(Into::into) }
    }

    #[test]
    fn an_event_is_one_line_whatever_its_name() {
        assert_eq!(to_text(&event(b"/a b", None)), "9  create      /a b");
        assert_eq!(
            to_text(&event(b"/\xffa\n\\", Some("/ä".as_bytes()))),
            "9  rename      /\\xffa\\n\\\\ -> /ä"
        );
        let json = to_json(&event(b"/\xff", Some(b"/b\n")));
        assert_eq!(json["path_hex"], "2fff");
        assert_eq!((&json["to"], &json["ino"], &json["position"]), (&json!("/b\n"), &json!(5), &json!(9)));
        assert!(json.get("to_hex").is_none() && !json.to_string().contains('\n'));
    }
}
