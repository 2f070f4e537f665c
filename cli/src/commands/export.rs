//! The namespace as JSON lines, of `quarry meta export`.
//!
//! A directory comes before what is in it. A file with several names comes once for each, with the same inode.

use crate::output::hex;
use anyhow::{Context, bail};
use quarry_common::ids::Ino;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::fs::{Attr, DirEntry, FileKind, Query, QueryReply, Timestamp};
use quarry_namenode_core::State;
use serde_json::{Map, Value, json};
use std::io::{ErrorKind, Write};

/// Prints every name below the root directory, and the root itself.
pub(crate) fn print(state: &State) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let printed = walk(state, &mut |line| Ok(writeln!(out, "{line}")?)).and_then(|()| Ok(out.flush()?));
    match printed {
        // The reader has seen enough.
        Err(error) if error.downcast_ref().map(std::io::Error::kind) == Some(ErrorKind::BrokenPipe) => Ok(()),
        printed => printed,
    }
}

/// A directory that is being listed.
struct Level {
    path: Vec<u8>,
    ino: Ino,
    after: u64,
}

fn walk(state: &State, each: &mut dyn FnMut(Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
    each(line(state, Ino::ROOT, b"/")?)?;
    let mut levels = vec![Level { path: Vec::new(), ino: Ino::ROOT, after: 0 }];
    while let Some(level) = levels.last_mut() {
        let (entries, end) = list(state, level)?;
        let path = level.path.clone();
        let mut below = Vec::new();
        for entry in entries {
            let path = [&path[..], b"/", &entry.name].concat();
            each(line(state, entry.ino, &path)?)?;
            if entry.kind == FileKind::Dir {
                below.push(Level { path, ino: entry.ino, after: 0 });
            }
        }
        if end {
            levels.pop();
        }
        levels.extend(below);
    }
    Ok(())
}

/// The next page of a directory, and whether it is the last.
fn list(state: &State, level: &mut Level) -> anyhow::Result<(Vec<DirEntry>, bool)> {
    let query =
        Query::ReadDir { ino: level.ino, after: level.after, limit: READDIR_ENTRIES_MAX, plus: false };
    match state.query(&query)? {
        Ok(QueryReply::Entries { entries, end, .. }) => {
            level.after = entries.last().map_or(level.after, |e| e.cookie);
            Ok((entries, end))
        }
        other => bail!("cannot list inode {}: {other:?}", level.ino),
    }
}

fn line(state: &State, ino: Ino, path: &[u8]) -> anyhow::Result<Value> {
    let attr = state.attr(ino)?.with_context(|| format!("inode {ino} has a name and is not there"))?;
    let mut line = Map::new();
    text(&mut line, "path", path);
    about(&mut line, &attr);
    if attr.kind == FileKind::Symlink
        && let Ok(QueryReply::Bytes(target)) = state.query(&Query::ReadLink { ino })?
    {
        text(&mut line, "target", &target);
    }
    if let Some(replication) = state.inode(ino)?.and_then(|inode| inode.replication()) {
        line.insert("replication".to_owned(), replication.to_string().into());
    }
    let xattrs = xattrs(state, ino)?;
    if !xattrs.is_empty() {
        line.insert("xattrs".to_owned(), xattrs.into());
    }
    Ok(line.into())
}

fn about(line: &mut Map<String, Value>, attr: &Attr) {
    let fields = json!({
        "ino": attr.ino,
        "kind": attr.kind.word(),
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "nlink": attr.nlink,
        "size": attr.size,
        "allocated": attr.allocated,
        "rdev": attr.rdev,
        "mtime": seconds(attr.mtime),
        "ctime": seconds(attr.ctime),
        "btime": seconds(attr.btime),
    });
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
}

fn xattrs(state: &State, ino: Ino) -> anyhow::Result<Map<String, Value>> {
    let Ok(QueryReply::Bytes(names)) = state.query(&Query::ListXattr { ino })? else { return Ok(Map::new()) };
    let mut found = Map::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if let Ok(QueryReply::Bytes(value)) = state.query(&Query::GetXattr { ino, name: name.into() })? {
            found.insert(String::from_utf8_lossy(name).into_owned(), hex(&value).into());
        }
    }
    Ok(found)
}

/// Bytes as text; what is not UTF-8 is there in hexadecimal as well.
fn text(line: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    line.insert(key.to_owned(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        line.insert(format!("{key}_hex"), hex(bytes).into());
    }
}

/// Seconds since 1970 with all nanoseconds, as text: a number would lose some.
fn seconds(time: Timestamp) -> String {
    let (seconds, nanos) = (time.0.div_euclid(1_000_000_000), time.0.rem_euclid(1_000_000_000));
    format!("{seconds}.{nanos:09}")
}
