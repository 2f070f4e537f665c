//! The steps: store, look, kill, detect, heal, read back.

use super::REPLICAS;
use super::screen::Screen;
use crate::commands::locate::{Piece, find, table_of};
use crate::commands::transport;
use crate::commands::up::{Layout, Part};
use crate::output::{bytes, duration_ms, hex};
use anyhow::{Context, bail};
use bytes::Bytes;
use quarry_client::{ClientConfig, FileSystem, OpenMode};
use quarry_common::ids::{Ino, NodeId, PgId};
use quarry_common::wire::cluster::{NodeState, Placement};
use quarry_common::wire::fs::{Attr, Caller};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const FILE: &str = "/demo.bin";
/// Bytes of one write and one read.
const PIECE: usize = 1 << 20;
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(200);
/// Detection takes 15 s with the default settings; a loaded machine may take longer.
const DEATH_TIMEOUT: Duration = Duration::from_secs(60);
/// Enough to copy the largest file of the demonstration at 10 MB/s.
const HEALING_TIMEOUT: Duration = Duration::from_secs(180);

/// A connected client, the processes, and what is known so far.
pub(super) struct Story<'a> {
    fs: FileSystem,
    parts: &'a mut [Part],
    screen: &'a Screen,
}

impl<'a> Story<'a> {
    /// Connects to the cluster that runs.
    pub(super) async fn new(
        layout: &Layout,
        parts: &'a mut [Part],
        screen: &'a Screen,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::load(&layout.client_config())?;
        config.purpose = "demo".to_owned();
        // Nothing is cached: what is read at the end comes from the DataNodes.
        config.cache_bytes = 0;
        let transport = transport(&config.certs)?;
        let fs = FileSystem::connect(config, transport).await?;
        Ok(Self { fs, parts, screen })
    }

    /// Goes through all steps.
    pub(super) async fn tell(mut self, size: u64) -> anyhow::Result<()> {
        let told = self.steps(size).await;
        self.fs.shutdown().await;
        told
    }

    async fn steps(&mut self, size: u64) -> anyhow::Result<()> {
        self.wait_for_nodes().await?;
        let written = self.store(size).await?;
        let pieces = self.look().await?;
        let victim = self.kill(&pieces)?;
        let killed = Instant::now();
        self.watch_detection(victim, killed).await?;
        self.watch_healing(victim, &pieces, killed).await?;
        self.read_back(size, &written).await
    }

    /// All DataNodes have registered: the groups of the file can have three members.
    async fn wait_for_nodes(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DEATH_TIMEOUT;
        loop {
            let nodes = self.fs.placement().await?.nodes;
            let healthy = nodes.iter().filter(|n| n.state == NodeState::Healthy).count();
            if healthy == super::DATANODES as usize {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("only {healthy} of {} DataNodes are healthy", super::DATANODES);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn store(&self, size: u64) -> anyhow::Result<Vec<u8>> {
        self.screen.title(&format!("Store {FILE}, {} of random bytes, and fsync it", bytes(size)));
        let root = self.fs.resolve("/").await?;
        let mode = OpenMode { write: true, ..OpenMode::default() };
        let caller = Caller { uid: 0, gid: 0 };
        let name = FILE.trim_start_matches('/').as_bytes();
        let (_, file) = self.fs.create_open(root.ino, name, 0o644, 0o022, caller, mode).await?;
        let started = Instant::now();
        let bar = self.screen.bar(size, "writing");
        let mut hash = Sha256::new();
        let mut random = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
        for offset in (0..size).step_by(PIECE) {
            let mut piece = vec![0; PIECE.min((size - offset) as usize)];
            std::io::Read::read_exact(&mut random, &mut piece).context("cannot read /dev/urandom")?;
            hash.update(&piece);
            file.write(offset, Bytes::from(piece), false).await?;
            bar.set(offset);
        }
        file.fsync().await?;
        file.release().await;
        drop(bar);
        let sum = hash.finalize().to_vec();
        self.screen.line(&format!("fsync returned after {}", since(started)));
        self.screen.line(&format!("SHA-256 {}", hex(&sum)));
        Ok(sum)
    }

    async fn look(&self) -> anyhow::Result<Vec<Piece>> {
        self.screen.title("Its chunks, and the DataNodes that hold them");
        let pieces = find(&self.fs, FILE).await?;
        self.screen.block(&table_of(&pieces));
        Ok(pieces)
    }

    /// Kills a DataNode that holds part of the file.
    fn kill(&mut self, pieces: &[Piece]) -> anyhow::Result<NodeId> {
        let group = pieces.first().and_then(|p| p.group.as_ref()).context("the file has no chunk")?;
        let victim = group.serving().next().context("the first chunk has no replica")?;
        let name = format!("datanode-{victim}");
        let part = self.parts.iter_mut().find(|p| p.name() == name).context("no such DataNode")?;
        self.screen.title(&format!("Kill DataNode {victim} (kill -9)"));
        part.kill();
        Ok(victim)
    }

    async fn watch_detection(&self, victim: NodeId, killed: Instant) -> anyhow::Result<()> {
        self.screen.title("The NameNode misses its heartbeats");
        let bar = self.screen.bar(15_000, "last heartbeat");
        let mut last = None;
        while killed.elapsed() < DEATH_TIMEOUT {
            let status = self.fs.cluster_status().await?;
            let node = status.nodes.iter().find(|n| n.node.id == victim).context("the node is not listed")?;
            bar.set(node.heartbeat_age_ms.unwrap_or(0));
            if last != Some(node.node.state) {
                last = Some(node.node.state);
                let text =
                    format!("{:>7}  {}{}", since(killed), node.node.state.word(), effect(node.node.state));
                bar.line(self.screen, &text);
            }
            if node.node.state == NodeState::Dead {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("DataNode {victim} is not found dead after {DEATH_TIMEOUT:?}")
    }

    async fn watch_healing(&self, victim: NodeId, pieces: &[Piece], killed: Instant) -> anyhow::Result<()> {
        self.screen.title("Its replicas are restored on the spare DataNode");
        let groups: BTreeSet<PgId> = pieces.iter().map(|p| p.chunk.id.pg()).collect();
        let bar = self.screen.bar(groups.len() as u64, "groups with three replicas");
        let deadline = Instant::now() + HEALING_TIMEOUT;
        loop {
            let placement = self.fs.placement().await?;
            let whole = groups.iter().filter(|pg| is_whole(&placement, **pg, victim)).count();
            bar.set(whole as u64);
            if whole == groups.len() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{whole} of {} groups have three replicas after {HEALING_TIMEOUT:?}", groups.len());
            }
            tokio::time::sleep(LOOK).await;
        }
        drop(bar);
        self.screen.line(&format!("{:>7}  every chunk of the file has three replicas again", since(killed)));
        self.screen.block(&table_of(&find(&self.fs, FILE).await?));
        Ok(())
    }

    async fn read_back(&self, size: u64, written: &[u8]) -> anyhow::Result<()> {
        self.screen.title("Read the file back");
        let attr: Attr = self.fs.resolve(FILE).await?;
        let sum = self.hash(attr.ino, size).await?;
        self.screen.line(&format!("SHA-256 {}", hex(&sum)));
        if sum != written {
            bail!("the file is not what was stored: its SHA-256 was {}", hex(written));
        }
        self.screen.line("The same: nothing is lost.");
        Ok(())
    }

    async fn hash(&self, ino: Ino, size: u64) -> anyhow::Result<Vec<u8>> {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let file = self.fs.open(ino, mode).await?;
        let bar = self.screen.bar(size, "reading");
        let mut hash = Sha256::new();
        let mut offset = 0;
        while offset < size {
            let piece = file.read(offset, PIECE as u32).await?;
            if piece.is_empty() {
                bail!("the file ends after {offset} bytes");
            }
            hash.update(&piece);
            offset += piece.len() as u64;
            bar.set(offset);
        }
        file.release().await;
        Ok(hash.finalize().to_vec())
    }
}

/// Whether a group has all its replicas, and none of them on the lost node.
fn is_whole(placement: &Placement, pg: PgId, victim: NodeId) -> bool {
    let group = placement.groups.iter().find(|g| g.id == pg);
    group.is_some_and(|g| g.serving().filter(|n| *n != victim).count() >= usize::from(REPLICAS))
}

/// What a state means for the cluster.
fn effect(state: NodeState) -> &'static str {
    match state {
        NodeState::Healthy => "",
        NodeState::Suspect => ": no new chunk goes to it, and it is read last",
        NodeState::Dead => ": its replicas are to be restored elsewhere",
        NodeState::Full | NodeState::Failing => ": it takes no new chunks",
    }
}

fn since(start: Instant) -> String {
    duration_ms(start.elapsed().as_millis() as u64)
}
