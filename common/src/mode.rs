//! Bits of an inode's mode.

/// Set-user-ID.
pub const S_ISUID: u16 = 0o4000;
/// Set-group-ID; on a directory: new entries take its group.
pub const S_ISGID: u16 = 0o2000;
/// The group may execute. Without it, set-group-ID of a file asks for mandatory locks.
pub const S_IXGRP: u16 = 0o010;

/// A file's mode after a change by an unprivileged process: without set-user-ID, and without set-group-ID where the group may
/// execute.
pub fn without_suidgid(mode: u16) -> u16 {
    let sgid = if mode & S_IXGRP != 0 { S_ISGID } else { 0 };
    mode & !(S_ISUID | sgid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_group_id_stays_where_the_group_may_not_execute() {
        assert_eq!(without_suidgid(0o6755), 0o755);
        assert_eq!(without_suidgid(0o6745), 0o2745);
    }
}
