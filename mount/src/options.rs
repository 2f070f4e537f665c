//! `-o` options as mount(8) and fstab write them.

use std::path::PathBuf;
use std::time::Duration;

/// What `-o` may say about a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro`: refuse every change.
    pub read_only: bool,
    /// What the kernel does for the mount. Without `suid` and `dev` programs of the mount run with their caller's rights, and devices
    /// cannot be opened.
    pub kernel: KernelFlags,
    /// `remount`: change the flags of the mount that is there.
    pub remount: bool,
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

/// Flags of the kernel's mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelFlags {
    /// `suid`: set-user-ID, set-group-ID and capabilities of files count.
    pub suid: bool,
    /// `dev`: device files can be opened.
    pub dev: bool,
    /// `noexec`: no file can be executed.
    pub no_exec: bool,
    /// `nosymfollow`: no symbolic link is followed.
    pub no_symfollow: bool,
    /// `sync`: every write is as with O_SYNC.
    pub sync: bool,
    /// `dirsync`: every change of a directory is synchronous, which it is anyway.
    pub dir_sync: bool,
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

/// For mount(8), systemd and fstab(5), or without a difference here.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "nofail",
    "_netdev",
    "default_permissions",
    "silent",
    "loud",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "mand",
    "nomand",
    "iversion",
    "noiversion",
];
/// The same with a value. `max_read` is for drivers that cannot answer reads of any size.
const IGNORED_WITH_VALUE: &[&str] = &["comment", "user", "helper", "uhelper", "max_read"];
/// How long a soft mount waits if `timeo` does not say.
const SOFT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

impl MountOptions {
    /// Reads the lists given by one or more `-o`, the last one of contradicting options wins.
    ///
    /// # Errors
    /// An option that is unknown or has a bad value. Options for mount(8), systemd and others are accepted and left alone, and so are
    /// those that make no difference here: access times are not kept, and there are no mandatory locks.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let (mut soft, mut timeo) = (false, None);
        let all: Vec<&str> = lists.into_iter().flat_map(|l| l.split(',')).filter(|o| !o.is_empty()).collect();
        let sloppy = all.contains(&"sloppy");
        for option in all {
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
                ("suid", None) => options.kernel.suid = true,
                ("nosuid", None) => options.kernel.suid = false,
                ("dev", None) => options.kernel.dev = true,
                ("nodev", None) => options.kernel.dev = false,
                ("exec", None) => options.kernel.no_exec = false,
                ("noexec", None) => options.kernel.no_exec = true,
                ("symfollow", None) => options.kernel.no_symfollow = false,
                ("nosymfollow", None) => options.kernel.no_symfollow = true,
                ("sync", None) => options.kernel.sync = true,
                ("async", None) => options.kernel.sync = false,
                ("dirsync", None) => options.kernel.dir_sync = true,
                ("remount", None) => options.remount = true,
                (_, None) if IGNORED.contains(&name) => {}
                (_, Some(_)) if IGNORED_WITH_VALUE.contains(&name) => {}
                _ if name.starts_with("x-") || name.starts_with("X-") => {}
                _ if sloppy => {}
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
        assert_eq!(o.kernel, KernelFlags { no_exec: true, ..KernelFlags::default() });
        assert_eq!(o.soft_timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn knows_what_mount_8_knows() {
        for list in [
            "defaults,_netdev,nofail",
            "noatime,nodiratime",
            "rw,exec,suid,dev,async,user,x-systemd.automount,x-systemd.idle-timeout=60",
            "ro,noexec,nosymfollow",
            "nodev,nosuid,relatime,nostrictatime",
            "owner,group,mand,nomand,iversion,noiversion,silent,loud",
            "x-gvfs-hide,comment=backup,X-mount.mkdir",
            "lazytime,nolazytime,norelatime,noauto,users",
            "allow_other,default_permissions,max_read=131072,dirsync,sync",
        ] {
            MountOptions::parse([list]).unwrap();
        }
        assert!(MountOptions::parse(["remount,ro"]).unwrap().remount);
    }

    #[test]
    fn suid_and_dev_must_be_asked_for_and_the_last_word_counts() {
        let flags = |list| MountOptions::parse([list]).unwrap().kernel;
        assert!(!flags("defaults").suid && !flags("defaults").dev);
        assert!(flags("suid,dev").suid && flags("nodev,dev").dev);
        assert!(!flags("suid,nosuid").suid && !flags("noexec,exec").no_exec);
    }

    #[test]
    fn hard_is_the_default_and_outlives_timeo() {
        assert_eq!(MountOptions::parse(["timeo=7"]).unwrap().soft_timeout, None);
        assert_eq!(MountOptions::parse(["soft"]).unwrap().soft_timeout, Some(SOFT_TIMEOUT_DEFAULT));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(MountOptions::parse(["rwx"]), Err(OptionError::Unknown("rwx".into())));
        assert_eq!(MountOptions::parse(["rwx,sloppy"]), Ok(MountOptions::default()));
        assert!(MountOptions::parse(["timeo=0"]).is_err());
        assert!(MountOptions::parse(["timeo=soon"]).is_err());
        assert!(MountOptions::parse(["config="]).is_err());
    }
}
