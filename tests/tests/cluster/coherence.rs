//! Several mounts are coherent: once a system call that changes something has returned on one mount, every later system call on
//! another sees the change, whatever that one had cached. Nothing here waits before it looks.

use quarry_tests::mapping::Mapping;
use quarry_tests::process::shell;
use quarry_tests::views::same_mount;
use quarry_tests::{Cluster, Mount, Views, eventually_some};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime};

/// What a client that does not answer may cost another: the rest of its lease's term of 5 s with the margin of 0.25 s, and as much
/// again twice for a machine that is busy.
const RECALL_LIMIT: Duration = Duration::from_secs(15);

fn two() -> (Cluster, Views) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let views = Views::new(&cluster, 2);
    (cluster, views)
}

/// Two views that are two mounts, also where all others are one.
fn two_apart() -> (Cluster, Views) {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let views = Views::apart(&cluster, 2);
    (cluster, views)
}

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// All of a file by positioned reads of a descriptor, which keeps its offset out of it.
fn whole(file: &File) -> Vec<u8> {
    let mut data = vec![0; file.metadata().unwrap().len() as usize + 1];
    let mut length = 0;
    loop {
        match file.read_at(&mut data[length..], length as u64).unwrap() {
            0 => break,
            n => length += n,
        }
    }
    data.truncate(length);
    data
}

/// What stat(2) tells of a path: twice, so that it is cached where that is possible.
fn stat(path: &Path) -> io::Result<fs::Metadata> {
    let first = fs::symlink_metadata(path);
    let second = fs::symlink_metadata(path);
    assert_eq!(first.is_ok(), second.is_ok(), "{path:?}");
    second
}

fn absent(path: &Path) -> bool {
    stat(path).is_err_and(|e| e.kind() == ErrorKind::NotFound)
}

fn names(dir: &Path) -> BTreeSet<String> {
    let list = || fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let first: BTreeSet<String> = list().collect();
    assert_eq!(first, list().collect(), "twice the same");
    first
}

/// The result of something that must not take longer than `limit`.
fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (say, heard) = channel();
    std::thread::spawn(move || say.send(work()));
    heard.recv_timeout(limit).unwrap_or_else(|_| panic!("{what} takes longer than {limit:?}"))
}

#[test]
fn a_write_is_seen_before_close() {
    let (_cluster, views) = two();
    fs::write(views.path(0, "f"), vec![b'o'; 10_000]).unwrap();
    let (writer, reader) = (read_write(&views.path(0, "f")), File::open(views.path(1, "f")).unwrap());
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for round in 1..=12u8 {
        writer.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
        assert_eq!(stat(&views.path(1, "f")).unwrap().modified().unwrap(), long_ago, "round {round}");
        assert_eq!(whole(&reader)[0], if round == 1 { b'o' } else { round - 1 });
        let data = vec![round; 7_000 * usize::from(round)];
        writer.write_all_at(&data, 0).unwrap();
        let seen = fs::metadata(views.path(1, "f")).unwrap();
        assert_eq!(seen.len(), data.len().max(10_000) as u64, "round {round}");
        let here = writer.metadata().unwrap();
        assert!(here.modified().unwrap() > long_ago, "round {round}");
        assert_eq!(seen.modified().unwrap(), here.modified().unwrap(), "round {round}");
        assert!(whole(&reader).starts_with(&data), "round {round}: the open descriptor sees old data");
        assert!(
            fs::read(views.path(1, "f")).unwrap().starts_with(&data),
            "round {round}: open sees old data"
        );
    }
}

#[test]
fn overwrites_in_place_are_seen_by_open_descriptors() {
    let (_cluster, views) = two();
    let mut model = vec![1; 3 << 20];
    fs::write(views.path(0, "f"), &model).unwrap();
    let files = [read_write(&views.path(0, "f")), read_write(&views.path(1, "f"))];
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..60u8 {
        let at = rng.random_range(0..model.len() - 70_000);
        let piece = vec![round; rng.random_range(1..70_000)];
        let (writer, reader) = (&files[usize::from(round % 2)], &files[usize::from(1 - round % 2)]);
        writer.write_all_at(&piece, at as u64).unwrap();
        model[at..at + piece.len()].copy_from_slice(&piece);
        let mut back = vec![0; piece.len() + 200];
        let from = at.saturating_sub(100);
        reader.read_exact_at(&mut back, from as u64).unwrap();
        assert!(back == model[from..from + back.len()], "round {round}, at {at}, {} bytes", piece.len());
    }
    assert!(files.iter().all(|f| whole(f) == model));
}

#[test]
fn truncation_and_extension_are_seen() {
    let (_cluster, views) = two();
    let mut model = vec![7; 200_000];
    fs::write(views.path(0, "f"), &model).unwrap();
    let files = [read_write(&views.path(0, "f")), read_write(&views.path(1, "f"))];
    for (round, size) in [100_000usize, 5_000, 0, 10, 4096, 150_001, 1, 300_000].into_iter().enumerate() {
        let (here, there) = (round % 2, 1 - round % 2);
        files[here].set_len(size as u64).unwrap();
        model.resize(size, 0);
        assert_eq!(stat(&views.path(there, "f")).unwrap().len(), size as u64);
        assert!(whole(&files[there]) == model, "after truncation to {size}");
        files[here].write_all_at(b"tail", size as u64).unwrap();
        model.extend(b"tail");
        assert!(whole(&files[there]) == model, "after an extension of {size}");
    }
    // By name, and with O_TRUNC.
    File::create(views.path(0, "f")).unwrap();
    assert_eq!((stat(&views.path(1, "f")).unwrap().len(), whole(&files[1]).len()), (0, 0));
}

#[test]
fn a_name_that_was_absent_appears() {
    let (_cluster, views) = two();
    fs::write(views.path(0, "origin"), "x").unwrap();
    type Make = fn(&Path, &Path) -> io::Result<()>;
    let ways: [(&str, Make); 6] = [
        ("create", |_, to| File::create_new(to).map(drop)),
        ("mkdir", |_, to| fs::create_dir(to)),
        ("symlink", |_, to| symlink("origin", to)),
        ("mkfifo", |_, to| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            Ok(rustix::fs::mknodat(rustix::fs::CWD, to, rustix::fs::FileType::Fifo, mode, 0)?)
        }),
        ("link", |origin, to| fs::hard_link(origin, to)),
        ("rename", |origin, to| fs::rename(origin, to)),
    ];
    for (what, make) in ways {
        let there = views.path(1, what);
        assert!(absent(&there), "{what}");
        make(&views.path(0, "origin"), &views.path(0, what)).unwrap();
        assert!(!absent(&there), "{what}: still absent");
        assert!(names(views.root(1)).contains(what), "{what}");
    }
    assert!(absent(&views.path(1, "origin")), "it was renamed");
    assert_eq!(stat(&views.path(1, "rename")).unwrap().nlink(), 2, "the link counts");
}

#[test]
fn a_name_that_was_removed_or_replaced_is_so_at_once() {
    let (_cluster, views) = two();
    for round in 0..10 {
        let (here, there) = (round % 2, 1 - round % 2);
        for name in ["gone", "moved", "old", "new"] {
            fs::write(views.path(here, name), name).unwrap();
        }
        fs::create_dir(views.path(here, "dir")).unwrap();
        fs::write(views.path(here, "dir/inside"), "x").unwrap();
        for name in ["gone", "moved", "old", "new", "dir", "dir/inside"] {
            assert!(!absent(&views.path(there, name)), "{name}");
        }
        assert_eq!(fs::read(views.path(there, "old")).unwrap(), b"old");
        let number = stat(&views.path(there, "new")).unwrap().ino();

        fs::remove_file(views.path(here, "gone")).unwrap();
        assert!(absent(&views.path(there, "gone")), "unlink");
        assert_eq!(File::open(views.path(there, "gone")).unwrap_err().kind(), ErrorKind::NotFound);
        fs::rename(views.path(here, "moved"), views.path(here, "dir/moved")).unwrap();
        assert!(absent(&views.path(there, "moved")) && !absent(&views.path(there, "dir/moved")), "rename");
        fs::rename(views.path(here, "new"), views.path(here, "old")).unwrap();
        assert!(absent(&views.path(there, "new")), "rename over");
        assert_eq!(stat(&views.path(there, "old")).unwrap().ino(), number, "rename over");
        assert_eq!(fs::read(views.path(there, "old")).unwrap(), b"new", "rename over");
        // A whole subtree has another name.
        fs::rename(views.path(here, "dir"), views.path(here, "tree")).unwrap();
        assert!(absent(&views.path(there, "dir/inside")) && absent(&views.path(there, "dir")));
        assert_eq!(names(&views.path(there, "tree")), BTreeSet::from(["inside".into(), "moved".into()]));
        fs::remove_file(views.path(here, "tree/inside")).unwrap();
        fs::remove_file(views.path(here, "tree/moved")).unwrap();
        fs::remove_dir(views.path(here, "tree")).unwrap();
        assert!(absent(&views.path(there, "tree")), "rmdir");
        fs::remove_file(views.path(there, "old")).unwrap();
        assert!(names(views.root(here)).is_empty() && names(views.root(there)).is_empty());
    }
}

#[test]
fn listings_show_creations_and_removals_at_once() {
    let (_cluster, views) = two();
    fs::create_dir(views.path(0, "d")).unwrap();
    let mut model = BTreeSet::new();
    let mut rng = StdRng::seed_from_u64(2);
    for round in 0..150 {
        let (here, there) = (round % 2, 1 - round % 2);
        let name = format!("entry-{}", rng.random_range(0..40));
        let path = views.path(here, "d").join(&name);
        if model.remove(&name) {
            fs::remove_file(path).unwrap();
        } else {
            File::create_new(path).unwrap();
            model.insert(name);
        }
        assert_eq!(names(&views.path(there, "d")), model, "round {round}");
        assert_eq!(
            stat(&views.path(there, "d")).unwrap().mtime_nsec(),
            stat(&views.path(here, "d")).unwrap().mtime_nsec()
        );
    }
}

#[test]
fn attributes_are_seen_at_once() {
    let (_cluster, views) = two();
    fs::write(views.path(0, "f"), "x").unwrap();
    for round in 0..10u32 {
        let here = views.path(round as usize % 2, "f");
        let there = views.path(1 - round as usize % 2, "f");
        let before = stat(&there).unwrap();
        let mut value = [0; 16];
        assert_eq!(getxattr(&there, "user.a", &mut value), Err(Errno::NODATA));

        fs::set_permissions(&here, Permissions::from_mode(0o600 + round)).unwrap();
        assert_eq!(stat(&there).unwrap().mode() & 0o7777, 0o600 + round, "chmod");
        chown(&here, Some(1000 + round), Some(2000 + round)).unwrap();
        let owner = stat(&there).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (1000 + round, 2000 + round), "chown");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000 + u64::from(round), 123_456_789);
        read_write(&here).set_times(FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
        let times = stat(&there).unwrap();
        assert_eq!((times.modified().unwrap(), times.accessed().unwrap()), (time, time), "utimensat");
        let changed = |m: &fs::Metadata| (m.ctime(), m.ctime_nsec());
        assert!(changed(&times) >= changed(&before), "the time of change goes on");

        setxattr(&here, "user.a", &round.to_le_bytes(), XattrFlags::empty()).unwrap();
        assert_eq!(getxattr(&there, "user.a", &mut value), Ok(4), "setxattr");
        assert_eq!(value[..4], round.to_le_bytes());
        removexattr(&here, "user.a").unwrap();
        assert_eq!(getxattr(&there, "user.a", &mut value), Err(Errno::NODATA), "removexattr");
    }
}

#[test]
fn acls_and_modes_are_enforced_at_once() {
    let (_cluster, views) = two();
    let run = |view: usize, script: &str| {
        let user = "as() { setpriv --reuid 1000 --regid 1000 --clear-groups \"$@\"; }\n";
        shell(views.root(view), &format!("{user}{script}"))
    };
    for view in [0, 1] {
        run(view, "chmod 755 .; d=$PWD; while [ $d != / ]; do d=$(dirname $d); chmod o+x $d; done");
    }
    run(0, "echo data > f; chmod 600 f; mkdir d; echo x > d/f; chmod 700 d");
    for round in 0..3 {
        let (here, there) = (round % 2, 1 - round % 2);
        run(there, "fails as cat f; fails as cat f; fails as cat d/f; getfacl -cn f >/dev/null");
        run(here, "setfacl -m u:1000:r f; setfacl -m u:1000:x d; chmod 644 d/f");
        run(
            there,
            "as cat f >/dev/null; as cat d/f >/dev/null; getfacl -cn f | grep -x 'user:1000:r--' >/dev/null",
        );
        run(there, "fails as bash -c 'echo y >> f'");
        run(here, "setfacl -b f; setfacl -b d; chmod 600 f d/f; chmod 700 d");
        run(there, "fails getfattr -n system.posix_acl_access f; fails as cat f; fails as cat d/f");
    }
}

/// Two mounts append to one file, `log`, at the same time.
fn append_from_both(views: &Views, append: impl Fn(usize, &mut File) + Sync) {
    File::create(views.path(0, "log")).unwrap();
    std::thread::scope(|s| {
        for view in [0, 1] {
            let (path, append) = (views.path(view, "log"), &append);
            s.spawn(move || append(view, &mut File::options().append(true).open(path).unwrap()));
        }
    });
}

#[test]
fn appends_of_two_mounts_never_overwrite() {
    const RECORDS: usize = 300;
    const RECORD: usize = 100;
    let (_cluster, views) = two();
    append_from_both(&views, |view, log| {
        for n in 0..RECORDS {
            let record = format!("{view} {n:05} ");
            let record = record + &"x".repeat(RECORD - 1);
            assert_eq!(log.write(format!("{}\n", &record[..RECORD - 1]).as_bytes()).unwrap(), RECORD);
        }
    });
    for view in [0, 1] {
        let text = fs::read_to_string(views.path(view, "log")).unwrap();
        assert_eq!(text.len(), 2 * RECORDS * RECORD, "seen by mount {view}");
        let mut next = [0, 0];
        for line in text.lines() {
            assert_eq!(line.len(), RECORD - 1, "{line:?}");
            let writer = usize::from(line.starts_with('1'));
            // Each writer's own order is kept.
            let n = next[writer];
            assert!(
                line.starts_with(&format!("{writer} {n:05} x")) && line.ends_with('x'),
                "{line:?}, not {n}"
            );
            next[writer] += 1;
        }
        assert_eq!(next, [RECORDS; 2]);
    }
}

/// The kernel hands it over in pieces of 1 MiB, the first of them smaller, as the buffer does not begin with a page.
#[test]
fn an_append_of_several_mebibytes_stays_in_one_piece() {
    const RECORDS: u8 = 8;
    const RECORD: usize = 3 << 20;
    let (_cluster, views) = two();
    append_from_both(&views, |view, log| {
        for n in 0..RECORDS {
            let record = vec![view as u8 * RECORDS + n; RECORD + 100];
            assert_eq!(log.write(&record[100..]).unwrap(), RECORD);
        }
    });
    let all = fs::read(views.path(1, "log")).unwrap();
    assert_eq!(all.len(), 2 * usize::from(RECORDS) * RECORD);
    let mut seen = BTreeSet::new();
    for record in all.chunks(RECORD) {
        assert!(record.iter().all(|byte| *byte == record[0]), "a record of {} is torn", record[0]);
        assert!(seen.insert(record[0]), "{} is there twice", record[0]);
    }
}

#[test]
fn a_write_is_seen_through_a_mapping() {
    let (_cluster, views) = two();
    fs::write(views.path(0, "f"), vec![1; 100_000]).unwrap();
    let files = [read_write(&views.path(0, "f")), read_write(&views.path(1, "f"))];
    let there = Mapping::new(&files[1], 100_000).unwrap();
    for round in 2..30u8 {
        let at = usize::from(round) * 3_000;
        assert_ne!(there.read(at, 1), [round], "the page is mapped");
        files[0].write_all_at(&[round; 100], at as u64).unwrap();
        assert_eq!(there.read(at, 100), [round; 100], "round {round}");
    }
}

#[test]
fn a_change_of_a_mapping_is_seen_after_msync() {
    let (_cluster, views) = two();
    fs::write(views.path(0, "f"), vec![1; 100_000]).unwrap();
    let files = [read_write(&views.path(0, "f")), read_write(&views.path(1, "f"))];
    let maps = [0, 1].map(|view: usize| Mapping::new(&files[view], 100_000).unwrap());
    for round in 2..30u8 {
        let (here, there) = (usize::from(round % 2), usize::from(1 - round % 2));
        let at = usize::from(round) * 3_000;
        let mut back = [0; 100];
        files[there].read_exact_at(&mut back, at as u64).unwrap();
        assert_eq!(back, [1; 100], "its page is cached");
        maps[here].write(at, &[round; 100]);
        maps[here].sync().unwrap();
        files[there].read_exact_at(&mut back, at as u64).unwrap();
        assert_eq!(back, [round; 100], "round {round}");
        assert_eq!(maps[there].read(at, 100), [round; 100], "round {round}");
    }
}

/// Lets the second mount cache files, directories and the absence of a name, silences it, and changes all that on the first.
fn change_beside_a_silent_client(views: &mut Views, silence: impl FnOnce(&mut Mount)) {
    fs::create_dir(views.path(0, "d")).unwrap();
    for name in ["f", "d/gone"] {
        fs::write(views.path(0, name), "old").unwrap();
        assert_eq!(fs::read(views.path(1, name)).unwrap(), b"old");
        assert!(stat(&views.path(1, name)).is_ok());
    }
    assert!(absent(&views.path(1, "d/new")));
    assert_eq!(names(&views.path(1, "d")).len(), 1);
    silence(views.mount(1));
    let start = Instant::now();
    let root = views.root(0).to_path_buf();
    within(RECALL_LIMIT, "a change beside a silent client", move || {
        fs::write(root.join("f"), "new").unwrap();
        fs::remove_file(root.join("d/gone")).unwrap();
        File::create_new(root.join("d/new")).unwrap();
        assert_eq!(fs::read(root.join("f")).unwrap(), b"new");
    });
    eprintln!("the changes took {:?}", start.elapsed());
}

fn sees_the_change(views: &Views) {
    assert_eq!(fs::read(views.path(1, "f")).unwrap(), b"new");
    assert!(absent(&views.path(1, "d/gone")) && !absent(&views.path(1, "d/new")));
    assert_eq!(names(&views.path(1, "d")), BTreeSet::from(["new".into()]));
}

#[test]
fn a_stopped_client_delays_a_change_by_its_leases_term_and_then_sees_it() {
    let (_cluster, mut views) = two_apart();
    change_beside_a_silent_client(&mut views, |mount| mount.process().signal(Signal::STOP));
    views.mount(1).process().signal(Signal::CONT);
    sees_the_change(&views);
    fs::write(views.path(1, "f"), "newer").unwrap();
    assert_eq!(fs::read(views.path(0, "f")).unwrap(), b"newer");
}

#[test]
fn a_killed_client_delays_a_change_by_its_leases_term() {
    let (_cluster, mut views) = two_apart();
    change_beside_a_silent_client(&mut views, |mount| mount.process().kill());
    views.mount(1).crash_and_remount();
    sees_the_change(&views);
}

/// The requests of a view's session so far.
fn requests(cluster: &Cluster, root: &Path) -> u64 {
    let status = cluster.status();
    let sessions = status["sessions"].as_array().expect("the NameNode answers");
    let purpose = root.display().to_string();
    let ours = |c: &&serde_json::Value| c["client"].as_str().is_some_and(|c| c.ends_with(&purpose));
    sessions.iter().find(ours).and_then(|c| c["requests"].as_u64()).expect("the mount has a session")
}

/// The same, once what a client does a little later, such as giving files back that were closed, is over.
fn settled_requests(cluster: &Cluster, root: &Path) -> u64 {
    let mut before = requests(cluster, root);
    eventually_some("a mount whose programs do nothing is quiet", Duration::from_secs(10), || {
        std::thread::sleep(Duration::from_millis(200));
        let now = requests(cluster, root);
        (std::mem::replace(&mut before, now) == now).then_some(now)
    })
}

#[test]
fn what_is_cached_costs_no_request_and_yet_changes_show_at_once() {
    let (cluster, views) = two();
    shell(
        views.root(0),
        "git init -q repo && cd repo && git config user.name t && git config user.email t@localhost
         for d in a b a/c; do mkdir $d; for i in 1 2 3 4 5 6 7 8; do echo \"word $d $i\" > $d/f$i; done; done
         head -c 300000 /dev/urandom > big; ln -s a/f1 link
         git add . && git commit -qm first; git status --porcelain >/dev/null",
    );
    // `find` and `grep -r` also ask once each for the kind of the file system, by fstatfs(2). Its answer holds for 2 s.
    // Without optional locks, since a status may write the index anew, which is no re-reading.
    let pass = |view: usize| {
        shell(
            &views.path(view, "repo"),
            "find . >/dev/null; find . -exec stat {} + >/dev/null; grep -r 'word b 5' a b | wc -l
             find . -type f -exec cat {} + >/dev/null; readlink link; fails stat absent
             GIT_OPTIONAL_LOCKS=0 git status --porcelain",
        )
    };
    let clean = "1\na/f1\n";
    for view in [1, 0] {
        // Twice: what the other mount brings in during the first pass, because it was looked at, may be asked for once more.
        assert_eq!(pass(view), clean);
        assert_eq!(pass(view), clean);
        let (start, before) = (Instant::now(), settled_requests(&cluster, views.root(view)));
        for again in 3..=4 {
            assert_eq!(pass(view), clean);
            let made = requests(&cluster, views.root(view)) - before;
            let elapsed = start.elapsed();
            let statfs = 1 + elapsed.as_secs() / 2;
            assert!(
                same_mount() || made <= statfs,
                "mount {view}, pass {again}: {made} requests in {elapsed:?}, {statfs} of them may be for the capacity"
            );
        }
    }
    shell(&views.path(0, "repo"), "echo 'word b 5' > a/f3; rm b/f5; touch absent");
    let seen =
        shell(&views.path(1, "repo"), "grep -rl 'word b 5' a b; GIT_OPTIONAL_LOCKS=0 git status --porcelain");
    assert_eq!(seen, "a/f3\n M a/f3\n D b/f5\n?? absent\n");
}
