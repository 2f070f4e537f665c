//! Watching over the directories: free space, disks that stall or fail, and disks that come back.

use super::Store;
use super::error::OpenError;
use super::index::Place;
use super::meta::META;
use super::open::ANOTHER_STORE;
use quarry_common::ids::ChunkId;
use std::io;
use std::time::Duration;

/// A disk that has answered nothing for this long is failed and its chunks are given up, to be restored from other nodes. Until
/// then it is only left alone: a controller that resets its bus takes some seconds.
const FAILED_AFTER: Duration = Duration::from_secs(15);
/// One look in so many probes the disk with a small file, so that one that hangs or fails shows before a chunk needs it.
const PROBE_TURNS: u32 = 3;

impl Store {
    /// Directories, by number.
    pub(crate) fn numbers(&self) -> std::ops::Range<u16> {
        0..self.volumes.len() as u16
    }

    /// Looks after one directory. Called again and again; takes as long as a stalled disk is waited for.
    pub(crate) fn tend(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        let silent = volume.load().silent;
        if silent >= FAILED_AFTER {
            volume.health.fail(&format!("the disk has not answered for {} s", silent.as_secs()));
            self.give_up(number);
        }
        if volume.is_stalled() {
            volume.health.probed(false);
            return;
        }
        if volume.health.is_failed() {
            self.probe_failed(number);
        } else {
            self.refresh(number);
            self.probe(number);
            self.remove_strays(number);
        }
    }

    /// Asks the file system of a directory how much room there is.
    pub(super) fn refresh(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        match volume.run(|dir| dir.check_identity().and_then(|()| dir.space())) {
            Ok(space) => volume.health.refresh(space),
            Err(e) => self.probe_refused(number, &e),
        }
    }

    /// Probes a disk now and then.
    fn probe(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        if volume.is_probe_due(PROBE_TURNS)
            && let Err(e) = volume.run(|dir| dir.probe())
        {
            self.probe_refused(number, &e);
        }
    }

    fn probe_refused(&self, number: u16, error: &io::Error) {
        let volume = &self.volumes[usize::from(number)];
        tracing::warn!(dir = %volume.dir().path().display(), %error, "a data directory does not answer as it should");
        self.write_failed(number, error);
    }

    /// Probes a failed directory, and takes it back after some probes that went well.
    fn probe_failed(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        let (owner, store_id) = (self.owner.clone(), self.store_id);
        let given_up = volume.health.is_given_up();
        let probed = volume.run_long(move |dir, _| {
            if given_up {
                // It may be another disk by now, which an administrator has put in its place.
                match dir.open(&owner, false)? {
                    Some(id) if id == store_id => {}
                    Some(_) => {
                        return Err(OpenError::Refused {
                            dir: dir.path().to_owned(),
                            why: ANOTHER_STORE.to_owned(),
                        });
                    }
                    None => {
                        let why = format!("it has no {META}: is the disk mounted?");
                        return Err(OpenError::Refused { dir: dir.path().to_owned(), why });
                    }
                }
            }
            Ok(dir.probe()?)
        });
        let answered = match probed {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                volume.health.explain(&error.to_string());
                if matches!(&error, OpenError::Io(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle) {
                    self.give_up(number);
                }
                false
            }
            Err(_) => false,
        };
        if volume.health.probed(answered) {
            self.take_back(number);
        }
    }

    /// Puts a directory into use again that had failed.
    fn take_back(&self, number: u16) {
        let volume = &self.volumes[usize::from(number)];
        if volume.health.is_given_up() {
            match volume.run_long(|dir, progress| dir.recover(true, progress)) {
                Ok(Ok(chunks)) => self.adopt(number, chunks),
                Ok(Err(error)) => return volume.health.fail(&error.to_string()),
                Err(error) => return volume.health.fail(&error.to_string()),
            }
        }
        volume.health.returned();
        tracing::info!(dir = %volume.dir().path().display(), "a data directory is in use again");
        self.refresh(number);
    }

    /// Counts on the chunks of a directory again. Files of those that were restored elsewhere meanwhile are removed.
    fn adopt(&self, number: u16, chunks: Vec<(ChunkId, u32)>) {
        for (id, length) in chunks {
            let _claim = self.claims.take(id);
            if self.has(id) {
                self.remove_file(id, number);
            } else {
                self.index_mut().insert(id, Place { dir: number, length, synced: false });
            }
        }
    }

    /// Removes files of chunks that are kept in another directory.
    fn remove_strays(&self, number: u16) {
        for id in self.volumes[usize::from(number)].take_strays() {
            let _claim = self.claims.take(id);
            if self.index().place(id).is_none_or(|place| place.dir != number) {
                self.remove_file(id, number);
            }
        }
    }
}
