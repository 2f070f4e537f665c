//! What a client's certificate lets it do: every request passes here before it reaches the owner of the state.
//!
//! Each request and each mutation is named, so that a new one cannot be forgotten. A refused mutation uses up no number of
//! its slot.

use quarry_common::wire::cluster::FsckOptions;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::Mutation;
use quarry_common::wire::session::Request;
use quarry_net::identity::{Rights, Squash};

/// The request as it may be carried out.
///
/// # Errors
/// `Unauthorised` when the certificate does not allow it.
pub(crate) fn judge(rights: &Rights, mut request: Request) -> Result<Request, ServiceError> {
    match &mut request {
        Request::FsckStart(FsckOptions { deep: true, .. }) => require_admin(rights, "start a deep check")?,
        Request::Mutate { mutation, .. } => {
            refuse_read_only(rights)?;
            if let Some(squash) = rights.squash {
                replace_owners(squash, mutation);
            }
        }
        Request::Administer(_) => require_admin(rights, "decide how the cluster is run")?,
        Request::Metadata { .. } => require_admin(rights, "read all metadata")?,
        // Both only serve to change something.
        Request::AllocChunks { .. } | Request::Lease { .. } => refuse_read_only(rights)?,
        Request::OpenSession(_)
        | Request::ResumeSession { .. }
        | Request::CloseSession
        | Request::Renew { .. }
        | Request::Query(_)
        | Request::Fate { .. }
        | Request::Open { .. }
        | Request::Close { .. }
        | Request::SetLock { .. }
        | Request::TestLock { .. }
        | Request::CancelLock { .. }
        | Request::Placement
        | Request::ClusterStatus
        | Request::FsckStart(_)
        | Request::FsckPoll { .. }
        | Request::RecallDone { .. }
        | Request::ReturnLeases { .. }
        | Request::BringingIn { .. }
        | Request::Changes { .. } => {}
    }
    Ok(request)
}

fn require_admin(rights: &Rights, what: &str) -> Result<(), ServiceError> {
    if rights.admin {
        return Ok(());
    }
    let why = format!("only an administrator's certificate may {what} (quarry cert issue --role admin)");
    Err(ServiceError::Unauthorised(why))
}

fn refuse_read_only(rights: &Rights) -> Result<(), ServiceError> {
    if !rights.read_only {
        return Ok(());
    }
    Err(ServiceError::Unauthorised("this certificate may only read".to_owned()))
}

/// Owners that the mutation gives to files.
fn replace_owners(squash: Squash, mutation: &mut Mutation) {
    match mutation {
        Mutation::Create { caller, .. } => {
            (caller.uid, caller.gid) = (squash.uid(caller.uid), squash.gid(caller.gid));
        }
        Mutation::SetAttr { set, .. } => {
            set.uid = set.uid.map(|uid| squash.uid(uid));
            set.gid = set.gid.map(|gid| squash.gid(gid));
        }
        Mutation::Link { .. }
        | Mutation::Unlink { .. }
        | Mutation::Rmdir { .. }
        | Mutation::Rename { .. }
        | Mutation::SetXattr { .. }
        | Mutation::RemoveXattr { .. }
        | Mutation::Commit(_)
        | Mutation::Fallocate { .. }
        | Mutation::CopyRange { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::Ino;
    use quarry_common::wire::fs::{Caller, NewNode, SetAttr};

    fn create(uid: u32, gid: u32) -> Request {
        let mutation = Mutation::Create {
            parent: Ino::ROOT,
            name: b"f"[..].into(),
            node: NewNode::File { open: false },
            mode: 0o644,
            umask: 0,
            caller: Caller { uid, gid },
        };
        Request::Mutate { slot: 0, sequence: 1, mutation }
    }

    #[test]
    fn a_certificate_that_may_only_read_changes_nothing() {
        let rights = Rights { read_only: true, ..Rights::default() };
        let alloc = Request::AllocChunks { ino: Ino(2), count: 1, avoid: Vec::new() };
        for request in [create(0, 0), alloc, Request::Lease { ino: Ino(2) }] {
            assert!(matches!(judge(&rights, request), Err(ServiceError::Unauthorised(_))));
        }
        assert!(judge(&rights, Request::Open { ino: Ino(2) }).is_ok());
        assert!(judge(&Rights::default(), create(0, 0)).is_ok());
    }

    #[test]
    fn only_administrators_start_deep_checks() {
        let deep = || Request::FsckStart(FsckOptions { deep: true });
        assert!(judge(&Rights::default(), deep()).is_err());
        assert!(judge(&Rights { admin: true, ..Rights::default() }, deep()).is_ok());
        assert!(judge(&Rights::default(), Request::FsckStart(FsckOptions { deep: false })).is_ok());
    }

    #[test]
    fn owners_are_squashed() {
        let rights = Rights { squash: Some(Squash::All { uid: 7, gid: 8 }), ..Rights::default() };
        assert_eq!(judge(&rights, create(0, 1000)), Ok(create(7, 8)));
        let chown = |uid, gid| Request::Mutate {
            slot: 0,
            sequence: 1,
            mutation: Mutation::SetAttr {
                ino: Ino(2),
                set: SetAttr { uid, gid, ..SetAttr::default() },
                keep_sgid: false,
            },
        };
        assert_eq!(judge(&rights, chown(Some(0), None)), Ok(chown(Some(7), None)));
    }
}
