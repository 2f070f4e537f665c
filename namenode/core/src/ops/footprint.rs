//! Which inodes a mutation would change: those whose leases stand in its way.

use crate::error::StateError;
use crate::store::Store;
use crate::tx;
use quarry_common::ids::Ino;
use quarry_common::wire::fs::{Mutation, Name};

pub(crate) fn footprint(store: &Store, mutation: &Mutation) -> Result<Vec<Ino>, StateError> {
    let behind =
        |parent: Ino, name: &Name| Ok::<_, StateError>(tx::entry(store, parent, name)?.map(|e| e.ino));
    let mut inos = match mutation {
        Mutation::Create { parent, .. } => vec![*parent],
        Mutation::Link { ino, parent, .. } => vec![*parent, *ino],
        Mutation::Unlink { parent, name } | Mutation::Rmdir { parent, name } => {
            let mut inos = vec![*parent];
            inos.extend(behind(*parent, name)?);
            inos
        }
        Mutation::Rename { from, from_name, to, to_name, .. } => {
            let mut inos = vec![*from, *to];
            inos.extend(behind(*from, from_name)?);
            inos.extend(behind(*to, to_name)?);
            inos
        }
        Mutation::SetAttr { ino, .. }
        | Mutation::SetXattr { ino, .. }
        | Mutation::RemoveXattr { ino, .. }
        | Mutation::Fallocate { ino, .. } => vec![*ino],
        Mutation::Commit(commit) => vec![commit.ino],
        Mutation::CopyRange { to, .. } => vec![*to],
    };
    inos.sort_unstable();
    inos.dedup();
    Ok(inos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Effect;
    use crate::testing::Bench;
    use quarry_common::wire::fs::RenameMode;

    #[test]
    fn it_names_what_the_mutation_then_changes() {
        let mut bench = Bench::new();
        let root = Ino::ROOT;
        let dir = bench.dir(root, "d");
        for name in ["a", "b", "c"] {
            bench.file(root, name);
        }
        let name = |n: &str| Name::from(n.as_bytes());
        let rename = |from_name, to, to_name, mode| Mutation::Rename {
            from: root,
            from_name: name(from_name),
            to,
            to_name: name(to_name),
            mode,
        };
        let mutations = [
            rename("a", dir, "x", RenameMode::Replace),
            rename("b", dir, "x", RenameMode::Replace),
            rename("c", root, "d", RenameMode::Exchange),
            Mutation::Unlink { parent: root, name: name("d") },
        ];
        for mutation in mutations {
            let expected = bench.state.footprint(&mutation).expect("sound");
            bench.mutate(mutation.clone()).expect("done");
            let mut changed: Vec<Ino> = bench
                .effects
                .iter()
                .filter_map(|e| match e {
                    Effect::Changed(ino) => Some(*ino),
                    _ => None,
                })
                .collect();
            changed.sort_unstable();
            assert_eq!(changed, expected, "{mutation:?}");
        }
        bench.check();
    }
}
