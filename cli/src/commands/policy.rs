//! `quarry policy`

use super::{Cluster, node::decide};
use clap::{Args, Subcommand};
use quarry_common::wire::cluster::Administer;

/// Decide how safe data must be.
#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Set how many members of a placement group must take a write: with fewer, writes wait.
    ///
    /// By itself this is the replication less half of it, rounded down: 2 of 3, 1 of 2. A lower bound lets programs go on while
    /// nodes are away, and puts what they write at the risk of the next loss.
    MinReplicas(MinReplicas),
}

#[derive(Args)]
pub(crate) struct MinReplicas {
    /// A number, or `default`.
    #[arg(value_parser = bound)]
    number: Bound,
    #[command(flatten)]
    cluster: Cluster,
}

/// A bound; `None` is what the replication says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound(Option<u8>);

fn bound(text: &str) -> Result<Bound, String> {
    match text {
        "default" => Ok(Bound(None)),
        _ => text.parse().map(|n| Bound(Some(n))).map_err(|_| "give a number, or `default`".to_owned()),
    }
}

impl Policy {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::MinReplicas(MinReplicas { number, cluster }) = self;
        decide(&cluster, "policy min-replicas", Administer::MinReplicas(number.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_number_or_the_default() {
        assert_eq!((bound("2"), bound("default")), (Ok(Bound(Some(2))), Ok(Bound(None))));
        assert!(bound("none").is_err() && bound("256").is_err());
    }
}
