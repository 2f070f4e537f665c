//! What goes into the state machine through the log, and what comes out.

use quarry_common::ids::{ChunkId, Epoch, Ino, LeaseGeneration, NamespaceId, NodeId, PgId, SessionId};
use quarry_common::wire::cluster::{Member, NodeMode, RegisterNode, Replication};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::fs::{Mutation, MutationReply, Timestamp};
use quarry_common::wire::session::{ClientInfo, LeaseId};
use serde::{Deserialize, Serialize};

/// Milliseconds during which NameNodes have served this state: orders what is due. It goes on from where the state has it
/// with the time that passes on the proposer's machine, so it never runs ahead of real time, and never back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogicalTime(pub u64);

/// One step of the state machine. Everything that is not determined by the state is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The proposer's wall clock: what files show. It may jump, so nothing is ordered or due by it.
    pub now: Timestamp,
    /// The proposer's logical clock.
    pub clock: LogicalTime,
    /// What to do.
    pub body: Body,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The first command of a new cluster. Outcome: [`Outcome::Done`].
    Format {
        /// Cluster name.
        cluster: String,
        /// The new file system's identity.
        namespace: NamespaceId,
        /// Its first generation: milliseconds of Unix time.
        generation: u64,
        /// Policy where no directory says otherwise.
        default_replication: Replication,
    },
    /// A NameNode begins to serve. Outcome: [`Outcome::Run`].
    BeginRun,
    /// A client's change of the namespace. Outcome: [`Outcome::Mutation`].
    Mutate {
        /// Whose.
        session: SessionId,
        /// The session's slot.
        slot: u16,
        /// The slot's count.
        sequence: u64,
        /// The change.
        mutation: Mutation,
    },
    /// Outcome: [`Outcome::Session`].
    OpenSession {
        /// Id of the client's certificate.
        owner: String,
        /// For people.
        info: ClientInfo,
        /// No lease of an earlier generation is of this session. A client whose session ended may send changes again in this one
        /// that were buffered under a lease of that one.
        fenced_below: LeaseGeneration,
    },
    /// Outcome: [`Outcome::Done`], also if there is no such session.
    EndSession {
        /// Which.
        session: SessionId,
        /// The client did not ask for it, and may still ask what became of its last mutations.
        expired: bool,
    },
    /// Leases of a session are broken: what was buffered under them is refused from now on. Outcome: [`Outcome::Done`],
    /// also if there is no such session.
    Fence {
        /// Whose.
        session: SessionId,
        /// Which.
        fence: Fence,
    },
    /// The session has dropped what it buffered under these broken leases. Outcome: [`Outcome::Done`].
    ReleaseFences {
        /// Whose.
        session: SessionId,
        /// Which.
        leases: Vec<LeaseId>,
    },
    /// Frees orphans that no session has open, and the erased windows of files that have a name. The work of one command is
    /// bounded. Outcome: [`Outcome::Reaped`].
    Reap {
        /// Which.
        inos: Vec<Ino>,
    },
    /// A DataNode shows up, or has a new address. Outcome: [`Outcome::Done`].
    RegisterNode(RegisterNode),
    /// What an administrator has decided about a DataNode. Outcome: [`Outcome::Done`] or [`Outcome::Refused`].
    SetNodeMode {
        /// Which.
        node: NodeId,
        /// What.
        mode: NodeMode,
    },
    /// Forgets a DataNode that is in no group. Outcome: [`Outcome::Done`] or [`Outcome::Refused`].
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// Sets the members below which a group takes no chunks; `None`: what the policy says. Outcome: [`Outcome::Done`].
    SetMinReplicas(Option<u8>),
    /// Changes placement groups, all of the list or none. Outcome: [`Outcome::Done`] or [`Outcome::Refused`].
    ChangeGroups(Vec<GroupChange>),
    /// Sets sequence numbers of a group aside for new chunks. Outcome: [`Outcome::Reserved`].
    ReserveChunks {
        /// The group.
        pg: PgId,
        /// How many.
        count: u32,
    },
    /// New chunks of these groups get sequence numbers from these on at the earliest: DataNodes hold chunks below them that
    /// this file system did not hand out. A group that does not exist is noted as well, and its number is not given to a new
    /// one. Outcome: [`Outcome::Done`].
    SkipChunks(Vec<(PgId, u64)>),
    /// These entries of the delete queue are gone from all DataNodes. Outcome: [`Outcome::Done`].
    ChunksDeleted {
        /// As [`State::delete_queue`](crate::State::delete_queue) gave them.
        entries: Vec<(LogicalTime, ChunkId)>,
    },
    /// From now on a chunk of the group with a smaller sequence number cannot be brought in any more: one that no
    /// file refers to is garbage. Outcome: [`Outcome::Done`].
    RaiseFloor {
        /// The group.
        pg: PgId,
        /// The first sequence that may still come.
        sequence: u64,
    },
}

/// The leases of a session that a [`Body::Fence`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fence {
    /// This one, and earlier ones on its inode.
    Lease(LeaseId),
    /// All with a smaller generation.
    Below(LeaseGeneration),
}

/// A new member list for a placement group, checked against the one it was decided on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupChange {
    /// The group.
    pub pg: PgId,
    /// The epoch that the decision saw; 0 makes a new group, whose members must all be serving.
    pub expected: Epoch,
    /// The group's policy; must stay the same.
    pub replication: Replication,
    /// All members afterwards. One that is new starts syncing; a stale one must sync before it serves; at least one
    /// that served goes on serving.
    pub members: Vec<Member>,
    /// Why, for the log.
    pub reason: String,
}

/// The answer to a command.
#[expect(clippy::large_enum_variant, reason = "nearly all are mutations, and each is moved once")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To the client.
    Mutation(Result<MutationReply, ServiceError>),
    /// The number of this run: greater than that of all earlier ones.
    Run(u64),
    /// A new session.
    Session(SessionId),
    /// `count` consecutive ids from `first` on are the proposer's to hand out.
    Reserved {
        /// The first id.
        first: ChunkId,
        /// How many.
        count: u32,
    },
    /// Orphans of the command that still have data: reap them again.
    Reaped {
        /// In the command's order.
        left: Vec<Ino>,
    },
    /// Done.
    Done,
    /// Nothing happened, for this reason.
    Refused(String),
}

/// What the shell may have to act on after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The inode's attributes, data, extended attributes or entries changed.
    Changed(Ino),
    /// The inode lost its last name: reap it when nobody has it open.
    Orphaned(Ino),
    /// A file has erased windows: reap it until none is left.
    Erased,
    /// The delete queue grew.
    DeleteChunks,
    /// Nodes or groups changed.
    PlacementChanged,
    /// A session ended.
    SessionEnded(SessionId),
}
