//! `-o` options as mount(8) and fstab write them.

use std::path::PathBuf;
use std::time::Duration;

/// What `-o` may say about a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: refuse every change.
    pub read_only: bool,
    /// `nosuid`, `nodev`, `noexec`, `noatime`, `sync`, `dirsync`: passed to the kernel.
    pub kernel: Vec<KernelFlag>,
    /// `owner_only`: other users than the one who mounts are refused. The default admits all and lets the kernel check
    /// their permissions.
    pub owner_only: bool,
    /// `direct_io`: every file bypasses the kernel's page cache, as if opened with O_DIRECT but without its alignment.
    pub direct_io: bool,
    /// `nonempty`: the directory may have entries, which cannot be seen while it is mounted on.
    pub over: bool,
    /// `config=FILE`: the client's configuration.
    pub config: Option<PathBuf>,
    /// `soft` with `timeo=SECONDS`: give up on a cluster that is away after this long. Without it wait for it.
    pub soft_timeout: Option<Duration>,
}

/// A flag of the kernel's mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KernelFlag {
    NoSuid,
    NoDev,
    NoExec,
    NoAtime,
    Sync,
    DirSync,
}

/// An option that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option `{0}`; see `quarry mount --help`")]
    Unknown(String),
    /// Its value makes no sense.
    #[error("mount option `{option}` needs {needs}")]
    BadValue {
        /// As given.
        option: String,
        /// What it needs.
        needs: &'static str,
    },
}

/// How long a soft mount waits if `timeo` does not say.
const SOFT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

impl MountOptions {
    /// Reads the lists given by one or more `-o`, the last one of contradicting options wins.
    ///
    /// # Errors
    /// An option that is unknown or has a bad value. Options for others (`_netdev`, `nofail`, `noauto`, `user`, `x-...`,
    /// `defaults`) are accepted and left alone.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let (mut soft, mut timeo) = (false, None);
        for option in lists.into_iter().flat_map(|l| l.split(',')).filter(|o| !o.is_empty()) {
            let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
            match (name, value) {
                ("ro", None) => options.read_only = true,
                ("rw", None) => options.read_only = false,
                ("allow_other", None) => options.owner_only = false,
                ("owner_only", None) => options.owner_only = true,
                ("direct_io", None) => options.direct_io = true,
                ("nonempty", None) => options.over = true,
                ("hard", None) => soft = false,
                ("soft", None) => soft = true,
                ("timeo", Some(v)) => {
                    timeo = match v.parse::<u64>() {
                        Ok(s) if s >= 1 => Some(Duration::from_secs(s)),
                        _ => return Err(bad(option, "a number of seconds, at least 1")),
                    };
                }
                ("config", Some(v)) if !v.is_empty() => options.config = Some(PathBuf::from(v)),
                ("config", _) => return Err(bad(option, "the path of a file")),
                ("nosuid", None) => options.kernel.push(KernelFlag::NoSuid),
                ("nodev", None) => options.kernel.push(KernelFlag::NoDev),
                ("noexec", None) => options.kernel.push(KernelFlag::NoExec),
                ("noatime", None) => options.kernel.push(KernelFlag::NoAtime),
                ("sync", None) => options.kernel.push(KernelFlag::Sync),
                ("dirsync", None) => options.kernel.push(KernelFlag::DirSync),
                ("suid" | "dev" | "exec" | "atime" | "async" | "relatime" | "strictatime", None)
                | (
                    "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "nofail" | "_netdev",
                    None,
                )
                | ("default_permissions", None)
                | ("comment", Some(_)) => {}
                _ if name.starts_with("x-") => {}
                _ => return Err(OptionError::Unknown(option.to_owned())),
            }
        }
        options.soft_timeout = soft.then(|| timeo.unwrap_or(SOFT_TIMEOUT_DEFAULT));
        Ok(options)
    }
}

fn bad(option: &str, needs: &'static str) -> OptionError {
    OptionError::BadValue { option: option.to_owned(), needs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_fstab_writes() {
        let o =
            MountOptions::parse(["rw,_netdev,nofail,x-systemd.automount,noexec", "soft,timeo=7,ro"]).unwrap();
        assert!(o.read_only);
        assert_eq!(o.kernel, [KernelFlag::NoExec]);
        assert_eq!(o.soft_timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn hard_is_the_default_and_outlives_timeo() {
        assert_eq!(MountOptions::parse(["timeo=7"]).unwrap().soft_timeout, None);
        assert_eq!(MountOptions::parse(["soft"]).unwrap().soft_timeout, Some(SOFT_TIMEOUT_DEFAULT));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(MountOptions::parse(["rwx"]), Err(OptionError::Unknown("rwx".into())));
        assert!(MountOptions::parse(["timeo=0"]).is_err());
        assert!(MountOptions::parse(["timeo=soon"]).is_err());
        assert!(MountOptions::parse(["config="]).is_err());
    }
}
