//! `quarry doctor`

use crate::exit::Exit;
use crate::options::certs_in;
use crate::output::{bytes, print, printable};
use clap::Args;
use quarry_host::private;
use quarry_net::identity::Credentials;
use rustix::process::{Resource, geteuid, getrlimit};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Kernel from which mounts can tell it to forget names.
const KERNEL: (u32, u32) = (6, 16);
/// Open files of a DataNode: one for each connection and each chunk that is read or written.
const OPEN_FILES: u64 = 65_536;
/// Socket buffer that the transport asks for.
const SOCKET_BUFFER: u64 = 4 << 20;
/// Free space below which a data folder is too small to begin with: what a DataNode leaves free by default.
const FREE: u64 = 256 << 20;
/// Syncs that are measured; the median counts.
const SYNCS: usize = 15;
/// A change of the namespace waits for one sync: slower disks make slow clusters.
const SYNC_SLOW: Duration = Duration::from_millis(10);
/// A certificate that ends sooner is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// Check whether this host is fit for Quarry, and say what to do where it is not.
///
/// Exit code 0: fit, perhaps with warnings; 1: not fit.
#[derive(Args)]
pub(crate) struct Doctor {
    /// A directory with ca.pem, cert.pem and key.pem to check.
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// A directory for data to check: its owner, its space, how fast it syncs. Give it once for each.
    #[arg(long = "dir", value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// An address that a server shall listen on. Give it once for each.
    #[arg(long = "listen", value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Good(String),
    /// It works, but not as well as it could; what to do.
    Weak(String, String),
    /// It does not work; what to do.
    Bad(String, String),
}

use Finding::{Bad, Good, Weak};

impl Doctor {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let mut findings = vec![
            ("kernel", kernel(&read("/proc/sys/kernel/osrelease"))),
            ("fuse", fuse(Path::new("/dev/fuse"))),
            ("open files", open_files(getrlimit(Resource::Nofile).maximum)),
            ("socket buffers", socket_buffers(&read("/proc/sys/net/core/rmem_max"), geteuid().is_root())),
            ("clock", clock(&read_clock())),
        ];
        findings.extend(self.certs.iter().map(|dir| ("certificate", certificate(dir))));
        findings.extend(self.listen.iter().map(|address| ("port", port(*address))));
        for dir in &self.dirs {
            findings.extend([("folder", folder(dir)), ("space", space(dir)), ("sync", sync(dir))]);
        }
        print(to_text(&findings))?;
        let is_bad = findings.iter().any(|(_, finding)| matches!(finding, Bad(..)));
        Ok(if is_bad { Exit::Failed } else { Exit::Success })
    }
}

fn to_text(findings: &[(&str, Finding)]) -> String {
    let mut text = String::new();
    for (name, finding) in findings {
        let (mark, found, remedy) = match finding {
            Good(found) => ("ok  ", found, None),
            Weak(found, remedy) => ("weak", found, Some(remedy)),
            Bad(found, remedy) => ("BAD ", found, Some(remedy)),
        };
        // A string takes what is written to it.
        let _ = writeln!(text, "{mark}  {name:<15} {}", printable(found.as_bytes()));
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "      {:<15} -> {}", "", printable(remedy.as_bytes()));
        }
    }
    text
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Weak(
            format!("Linux `{release}`"),
            "its version cannot be read; mounts want 6.16 or later".into(),
        );
    };
    if (major, minor) >= KERNEL {
        return Good(format!("Linux {release}"));
    }
    let remedy =
        format!("mounts work, but ask for each name; use {}.{} or later for them", KERNEL.0, KERNEL.1);
    Weak(format!("Linux {release}"), remedy)
}

fn fuse(device: &Path) -> Finding {
    let found = device.display().to_string();
    match File::options().read(true).write(true).open(device) {
        Ok(_) => Good(found),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Bad(format!("{found} is missing"), "for mounts: modprobe fuse".into())
        }
        Err(e) => Weak(format!("{found}: {e}"), "mounts need root".into()),
    }
}

fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES => Weak(
            format!("at most {limit}"),
            format!("for a DataNode: LimitNOFILE={OPEN_FILES} in its unit, or ulimit -n {OPEN_FILES}"),
        ),
        Some(limit) => Good(format!("up to {limit}")),
        None => Good("without limit".into()),
    }
}

fn socket_buffers(maximum: &str, is_root: bool) -> Finding {
    match maximum.parse::<u64>() {
        // Root may exceed the limit.
        Ok(max) if max < SOCKET_BUFFER && !is_root => Weak(
            format!("at most {}", bytes(max)),
            format!("sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}"),
        ),
        Ok(max) => Good(format!("up to {}", bytes(max.max(if is_root { SOCKET_BUFFER } else { 0 })))),
        Err(_) => Weak("unknown".into(), "net.core.rmem_max cannot be read".into()),
    }
}

/// What the kernel knows of its clock.
struct Clock {
    is_synchronised: bool,
    error: Duration,
}

fn read_clock() -> Option<Clock> {
    // SAFETY: all bytes zero are a valid `timex` that changes nothing (`modes` is 0).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives until the call returns.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    let error = Duration::from_micros(timex.maxerror.max(0).unsigned_abs());
    (state >= 0).then_some(Clock { is_synchronised: state != libc::TIME_ERROR, error })
}

fn clock(clock: &Option<Clock>) -> Finding {
    match clock {
        Some(Clock { is_synchronised: true, error }) => Good(format!("synchronised to {error:?}")),
        Some(_) => Weak(
            "not synchronised".into(),
            "times of files come from it, and certificates depend on it: run chrony or systemd-timesyncd"
                .into(),
        ),
        None => Weak("unknown".into(), "the kernel does not say whether it is synchronised".into()),
    }
}

fn certificate(dir: &Path) -> Finding {
    match Credentials::load(&certs_in(dir)) {
        Ok(credentials) => {
            let left = credentials.expires().duration_since(SystemTime::now()).unwrap_or_default();
            let found = format!("{}, for {} days more", credentials.identity(), left.as_secs() / 86_400);
            if left < ENDS_SOON {
                Weak(found, "issue a new one: quarry cert issue".into())
            } else {
                Good(found)
            }
        }
        Err(error) => Bad(error.to_string(), format!("quarry cert issue CA --out {} ...", dir.display())),
    }
}

fn port(address: SocketAddr) -> Finding {
    match UdpSocket::bind(address) {
        Ok(_) => Good(format!("{address} is free")),
        Err(e) => {
            Bad(format!("{address}: {e}"), format!("ss -ulpn 'sport = :{}' shows who has it", address.port()))
        }
    }
}

fn folder(dir: &Path) -> Finding {
    let found = dir.display().to_string();
    match private::make_folder(dir).and_then(|()| private::check_entries(dir)) {
        Ok(()) => Good(found),
        Err(error) => Bad(error.to_string(), "run this as the user that the server will have".into()),
    }
}

fn space(dir: &Path) -> Finding {
    match rustix::fs::statvfs(dir) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{}: {} free", dir.display(), bytes(free));
            if free >= FREE {
                Good(found)
            } else {
                Bad(found, format!("a DataNode leaves {} free; choose another disk", bytes(FREE)))
            }
        }
        Err(e) => Bad(format!("{}: {e}", dir.display()), "it must be there to be checked".into()),
    }
}

fn sync(dir: &Path) -> Finding {
    match median_sync(dir) {
        Ok(median) if median > SYNC_SLOW => Weak(
            format!("{}: {median:.1?} for one", dir.display()),
            "every change of the namespace and every fsync waits for it: give the NameNode a disk with a durable cache".into(),
        ),
        Ok(median) => Good(format!("{}: {median:.1?} for one", dir.display())),
        Err(e) => Bad(format!("{}: {e}", dir.display()), "files cannot be written and synced there".into()),
    }
}

fn median_sync(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(".quarry-doctor");
    let measure = || {
        let mut file = File::create(&path)?;
        let mut took = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            file.write_all(&[0; 4096])?;
            let begun = Instant::now();
            file.sync_data()?;
            took.push(begun.elapsed());
        }
        took.sort();
        Ok(took[SYNCS / 2])
    };
    let result = measure();
    let _ = std::fs::remove_file(&path);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_what_to_do() {
        assert!(matches!(kernel("6.18.2-amd64"), Good(_)));
        assert!(matches!(kernel("6.1.0"), Weak(..)) && matches!(kernel("odd"), Weak(..)));
        assert!(matches!(fuse(Path::new("/no/such/device")), Bad(..)));
        assert!(matches!(open_files(Some(1024)), Weak(..)) && matches!(open_files(None), Good(_)));
        assert!(matches!(socket_buffers("212992", false), Weak(..)));
        assert!(matches!(socket_buffers("212992", true), Good(_)));
        let clock_of = |is_synchronised| clock(&Some(Clock { is_synchronised, error: Duration::ZERO }));
        assert!(matches!(clock_of(true), Good(_)) && matches!(clock_of(false), Weak(..)));
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(matches!(port(taken.local_addr().unwrap()), Bad(..)));
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(folder(dir.path()), Good(_)));
        assert!(!matches!(sync(dir.path()), Bad(..)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        assert!(matches!(certificate(dir.path()), Bad(..)));
        let text = to_text(&[("disk", Bad("full\u{1b}".into(), "empty it".into()))]);
        assert!(text.contains("BAD") && text.contains("-> empty it") && !text.contains('\u{1b}'));
    }
}
