//! `quarry demo`: a temporary cluster stores a file, loses a DataNode, restores the replicas, and gives the file back.

mod screen;
mod story;

use super::block_on;
use super::up::{Layout, Part};
use anyhow::Context;
use clap::Args;
use quarry_common::wire::cluster::Replication;
use screen::Screen;
use std::path::PathBuf;
use std::time::Duration;
use story::Story;
use tokio_util::sync::CancellationToken;

/// One DataNode more than there are replicas: the spare takes the place of the lost one.
const DATANODES: u32 = 4;
const REPLICAS: u8 = 3;
/// A part that does not serve after this long has failed to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A server gets this long to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Show on a temporary cluster what happens when a DataNode is lost.
///
/// Starts a NameNode and four DataNodes on this machine, stores a file with three replicas, kills a DataNode that holds
/// it, follows the detection and the healing, reads the file back and compares its SHA-256. The exit code is 0 when the
/// file comes back whole and every chunk has three replicas again. Nothing of the cluster is left behind.
#[derive(Args)]
pub(crate) struct Demo {
    /// End after the last step. Without it the cluster runs on until Ctrl-C, to be looked at.
    #[arg(long)]
    once: bool,
    /// Size of the file in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: u32,
    /// An existing directory in which the temporary cluster is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Demo {
    pub(crate) fn run(self, log: &str) -> anyhow::Result<()> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let home = tempfile::Builder::new()
            .prefix("quarry-demo-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let layout = Layout::open_or_make(
            &home.path().join("cluster"),
            Some("demo"),
            Some(DATANODES),
            Some(Replication::Factor(REPLICAS)),
        )?;
        block_on(self.perform(&layout, log))
    }

    async fn perform(&self, layout: &Layout, log: &str) -> anyhow::Result<()> {
        let stop = crate::supervise::until_signal()?;
        let log = ["--log", log];
        let mut parts = vec![Part::namenode(layout, &log)];
        parts.extend((1..=DATANODES).map(|n| Part::datanode(layout, n, &log)));
        let told = self.until_stopped(layout, &mut parts, &stop).await;
        for part in &mut parts {
            part.terminate();
        }
        for part in &mut parts {
            part.wait(STOP_TIMEOUT).await;
        }
        told
    }

    async fn until_stopped(
        &self,
        layout: &Layout,
        parts: &mut [Part],
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let tell = async {
            let screen = Screen::new();
            screen.title("A cluster of one NameNode and four DataNodes, three replicas of each chunk");
            for part in parts.iter_mut() {
                part.start(START_TIMEOUT).await?;
                screen.line(&part.to_string());
            }
            Story::new(layout, parts, &screen).await?.tell(u64::from(self.size) << 20).await?;
            if !self.once {
                screen.line(&format!(
                    "The cluster runs on: quarry status --config {}. Ctrl-C ends and removes it.",
                    layout.client_config().display()
                ));
                stop.cancelled().await;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            told = tell => told,
            () = stop.cancelled() => anyhow::bail!("stopped before the end"),
        }
    }
}
