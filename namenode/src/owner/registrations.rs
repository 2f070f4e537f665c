//! Which process speaks for each DataNode: one, also when a machine was cloned and two have the same identity.

use quarry_common::ids::NodeId;
use std::collections::BTreeMap;

/// A process that has registered.
#[derive(Debug)]
struct Registration {
    /// Number of its connection: a later process has a larger one.
    connection: u64,
    /// Where clients reach it.
    address: String,
}

/// The registrations of all nodes.
#[derive(Debug, Default)]
pub(super) struct Registrations(BTreeMap<NodeId, Registration>);

impl Registrations {
    /// A process registers. It takes the place of one at the same address, which it has replaced, and of one that is gone or no
    /// longer `heard`; beside any other it is refused.
    pub(super) fn take(
        &mut self,
        node: NodeId,
        connection: u64,
        address: &str,
        is_heard: bool,
    ) -> Result<(), String> {
        if let Some(other) = self.0.get(&node)
            && other.connection != connection
            && other.address != address
            && is_heard
        {
            return Err(format!(
                "DataNode {node} runs at {} already, and a second one at {address} has the same identity: stop one of them, \
                 and give a cloned machine a certificate and data folders of its own",
                other.address
            ));
        }
        self.0.insert(node, Registration { connection, address: address.to_owned() });
        Ok(())
    }

    /// Whether what a connection says counts as said by the node.
    pub(super) fn speaks_for(&self, node: NodeId, connection: u64) -> bool {
        self.0.get(&node).is_some_and(|r| r.connection == connection)
    }

    /// A connection ended: the next process may take its place at once.
    pub(super) fn gone(&mut self, node: NodeId, connection: u64) {
        if self.speaks_for(node, connection) {
            self.0.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn a_second_process_is_refused_with_both_addresses_until_the_first_is_gone() {
        let mut registrations = Registrations::default();
        registrations.take(NODE, 1, "a:1", false).unwrap();
        let why = registrations.take(NODE, 2, "b:2", true).unwrap_err();
        assert!(why.contains("a:1") && why.contains("b:2"), "{why}");
        assert!(registrations.speaks_for(NODE, 1) && !registrations.speaks_for(NODE, 2));
        registrations.gone(NODE, 2);
        assert!(registrations.speaks_for(NODE, 1), "a connection that is not registered ends nothing");
        registrations.gone(NODE, 1);
        registrations.take(NODE, 2, "b:2", true).unwrap();
        assert!(registrations.speaks_for(NODE, 2));
    }

    #[test]
    fn a_restarted_or_silent_process_gives_way() {
        let mut registrations = Registrations::default();
        registrations.take(NODE, 1, "a:1", false).unwrap();
        registrations.take(NODE, 2, "a:1", true).unwrap();
        assert!(!registrations.speaks_for(NODE, 1));
        registrations.take(NODE, 3, "b:2", false).unwrap();
        registrations.take(NodeId(2), 4, "b:2", true).unwrap();
        assert!(registrations.speaks_for(NODE, 3));
    }
}
