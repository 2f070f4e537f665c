//! The end of a run: all faults stop, and what then must come true within some time.

use crate::Plant;
use crate::faults::DATA;
use crate::machine::Machine;
use crate::scenario::{CONVERGENCE, Run};
use crate::tree_worker::TreeWorker;
use crate::workload::{read_all, remove_files};
use quarry_client::FileSystem;
use quarry_common::wire::cluster::FsckOptions;
use quarry_common::wire::error::FsError;
use rand::Rng;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// An operation that was called when nothing went wrong any more returns within this time.
const ANSWER: Duration = Duration::from_secs(90);
/// After all faults every group has all its members again within this time.
const HEALTHY: Duration = Duration::from_secs(300);
/// After all files were removed no chunk is left within this time: sessions end, unused chunk ids grow old, audits find what is left.
const CLEAN: Duration = Duration::from_secs(600);
/// Pause between two looks at the cluster.
const LOOK: Duration = Duration::from_secs(5);

impl Run {
    /// From here on everything works: a new client must be able to read every file.
    pub(crate) async fn stop_faults(&mut self, plant: Option<Plant>) {
        self.cluster.network.heal();
        self.cluster.network.set_quality(0, 0);
        self.history.note("faults are over");
        sleep(self.millis(100..3_000)).await;
        let index = self.random.random_range(0..self.cluster.clients.len());
        let other = &self.cluster.clients[(index + 1) % self.cluster.clients.len()];
        match plant {
            Some(Plant::LinkStaysCut) => self.cluster.network.cut(other.id, self.cluster.namenode.id),
            Some(Plant::NameNodeStaysStopped) => {
                self.cluster.namenode.life().iter().for_each(|life| life.pause());
            }
            _ => {}
        }
        self.trouble(self.numbers[index], Duration::ZERO);
        self.cluster.clients[index].kill().await;
        self.numbers.remove(index);
        self.lives += 1;
        let (number, files, history) = (self.lives, self.files, self.history.clone());
        let tree = self.dirs.map(|dirs| (dirs, self.values.clone()));
        let (done, read) = oneshot::channel();
        self.cluster.start_client(index).run(move |fs| async move {
            read_all(&fs, number, files, &history).await;
            if let Some((dirs, values)) = tree {
                TreeWorker { fs, number, history, dirs, values }.look_at_all().await;
            }
            let _ = done.send(());
        });
        if timeout(CONVERGENCE, read).await.is_err() {
            self.history.violation("the cluster does not answer after all faults are over".to_owned());
        }
    }

    /// Everyone else gets answers, groups become healthy, everything fits together, and what is removed goes away.
    pub(crate) async fn converge(&mut self, plant: Option<Plant>) {
        // A file that a sick disk neither gave nor let go of is found when the node starts again.
        for sick in std::mem::take(&mut self.sick) {
            self.cluster.datanodes[sick].kill().await;
            self.cluster.start_datanode(sick);
        }
        sleep(ANSWER).await;
        self.history.find_hanging(&self.numbers, ANSWER);
        for client in self.cluster.clients.clone() {
            client.kill().await;
        }
        let replicas = self.replicas();
        if let Some((machine, replica)) = replicas.first() {
            match plant {
                Some(Plant::ReplicaRots) => machine.disk().rot(replica, 0),
                Some(Plant::ReplicaVanishes) => machine.disk().lose(replica),
                _ => {}
            }
        }
        let (done, judged) = oneshot::channel();
        let (files, dirs, history) = (self.files, self.dirs, self.history.clone());
        let values = self.values.clone();
        self.cluster.start_admin().run(move |fs| async move {
            let mut wrong = Vec::new();
            wrong.extend(until_healthy(&fs).await.err());
            wrong.extend(check(&fs).await.err());
            let mut removed = remove_files(&fs, files).await;
            if let Some(dirs) = dirs {
                let worker = TreeWorker { fs: fs.clone(), number: 0, history, dirs, values };
                removed = removed.and(worker.remove_all().await);
            }
            wrong.extend(removed.err().map(|error| format!("not everything can be removed: {error}")));
            fs.shutdown().await;
            let _ = done.send(wrong);
        });
        match timeout(HEALTHY + CONVERGENCE, judged).await {
            Ok(Ok(wrong)) => wrong.into_iter().for_each(|wrong| self.history.violation(wrong)),
            other => self.history.violation(format!("the administrator gets no answers: {other:?}")),
        }
        self.history.note("everything is removed");
        self.until_clean().await;
    }

    /// The chunk files on all DataNodes.
    fn replicas(&self) -> Vec<(Arc<Machine>, PathBuf)> {
        let of = |machine: &Arc<Machine>| {
            let (machine, path) = (machine.clone(), Path::new(DATA).join("data_blocks"));
            machine.disk().files_below(&path).into_iter().map(move |file| (machine.clone(), file))
        };
        self.cluster.datanodes[..self.started].iter().flat_map(of).collect()
    }

    async fn until_clean(&self) {
        let mut left = Vec::new();
        for _ in 0..CLEAN.as_secs() / LOOK.as_secs() {
            left = self.replicas();
            if left.is_empty() {
                return self.history.note("no chunk is left");
            }
            sleep(LOOK).await;
        }
        let shown: Vec<_> = left
            .iter()
            .take(10)
            .map(|(machine, file)| (machine.name(), file.display().to_string()))
            .collect();
        self.history.violation(format!("{} chunks of no file are left: {shown:?}", left.len()));
    }

    /// Judges the histories.
    pub(crate) fn judge(&self) {
        for ended in self.cluster.ended() {
            self.history.violation(ended);
        }
        self.history.judge();
    }
}

/// Waits until every group has all its members.
async fn until_healthy(fs: &FileSystem) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..HEALTHY.as_secs() / LOOK.as_secs() {
        match fs.cluster_status().await {
            Ok(status) if status.groups_degraded == 0 && status.groups_healing == 0 => return Ok(()),
            Ok(status) => {
                last = format!("{} degraded, {} healing", status.groups_degraded, status.groups_healing);
            }
            Err(error) => last = error.to_string(),
        }
        sleep(LOOK).await;
    }
    Err(format!("groups do not become healthy: {last}"))
}

/// The cluster's own check of everything, replicas read and hashed.
async fn check(fs: &FileSystem) -> Result<(), String> {
    let failed = |error: FsError| format!("the check cannot be done: {error}");
    let mut progress = fs.fsck_start(FsckOptions { deep: true }).await.map_err(failed)?;
    while !progress.done {
        sleep(LOOK).await;
        progress = fs.fsck_poll(progress.run).await.map_err(failed)?;
    }
    if progress.problem_count > 0 || !progress.unreachable.is_empty() {
        return Err(format!(
            "the check finds {:?}, unreachable {:?}",
            progress.problems, progress.unreachable
        ));
    }
    Ok(())
}
