//! The model of names and attributes: two directories of three names each, in which files and empty directories are made, moved,
//! linked and removed.
//!
//! A change of names or attributes is durable and seen by every client before it is answered. So nothing can be lost here, whatever
//! fails; only of a change that was never answered it is not known whether it was made.

use quarry_common::wire::fs::RenameMode;
use quarry_tests::linear::Operation;
use std::collections::BTreeMap;

/// Names of one directory.
pub(crate) const NAMES: usize = 3;
/// Directories.
pub(crate) const DIRS: usize = 2;
/// Names of all directories.
pub(crate) const SLOTS: usize = NAMES * DIRS;

/// What tells an inode from all others: its owner, which is given when it is made and never changes.
pub(crate) type Token = u32;

/// An inode that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Object {
    is_dir: bool,
    /// Its group.
    value: u32,
    /// Its extended attribute.
    label: Option<u32>,
    links: u32,
}

/// All names, and what they name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Names {
    slots: [Option<Token>; SLOTS],
    objects: BTreeMap<Token, Object>,
}

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Exists,
    /// There is no such name, or no such inode any more.
    Missing,
    IsDir,
    NotDir,
    /// A directory has one name.
    NotPermitted,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Make { slot: usize, token: Token, is_dir: bool },
    Remove { slot: usize, is_dir: bool },
    Rename { from: usize, to: usize, mode: RenameMode },
    Link { token: Token, slot: usize },
    SetValue { token: Token, value: u32 },
    SetLabel { token: Token, label: u32 },
}

/// What a name was seen to stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) token: Token,
    pub(crate) is_dir: bool,
    pub(crate) value: u32,
    /// `None` of a directory, which counts otherwise.
    pub(crate) links: Option<u32>,
}

/// An operation, with what it returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Changed(Change),
    Refused(Change, Refusal),
    /// It failed in a way that does not tell, or never returned.
    Maybe(Change),
    Look {
        slot: usize,
        found: Option<Seen>,
    },
    Label {
        token: Token,
        label: Option<u32>,
    },
    List {
        dir: usize,
        names: [bool; NAMES],
    },
    Nothing,
}

impl Names {
    fn place(&mut self, slot: usize, token: Option<Token>) {
        let before = std::mem::replace(&mut self.slots[slot], token);
        if let Some(object) = token.and_then(|token| self.objects.get_mut(&token)) {
            object.links += 1;
        }
        if let Some(token) = before
            && let Some(object) = self.objects.get_mut(&token)
        {
            object.links -= 1;
            if object.links == 0 {
                self.objects.remove(&token);
            }
        }
    }

    fn is_dir(&self, token: Token) -> bool {
        self.objects.get(&token).is_some_and(|object| object.is_dir)
    }
}

impl Change {
    fn made(&self, names: &Names) -> Result<Names, Refusal> {
        let mut after = names.clone();
        match *self {
            Self::Make { slot, token, is_dir } => {
                if names.slots[slot].is_some() {
                    return Err(Refusal::Exists);
                }
                after.objects.insert(token, Object { is_dir, value: 0, label: None, links: 0 });
                after.place(slot, Some(token));
            }
            Self::Remove { slot, is_dir } => {
                let token = names.slots[slot].ok_or(Refusal::Missing)?;
                match (names.is_dir(token), is_dir) {
                    (true, false) => return Err(Refusal::IsDir),
                    (false, true) => return Err(Refusal::NotDir),
                    _ => after.place(slot, None),
                }
            }
            Self::Rename { from, to, mode } => return rename(names, from, to, mode),
            Self::Link { token, slot } => {
                let object = names.objects.get(&token).ok_or(Refusal::Missing)?;
                if names.slots[slot].is_some() {
                    return Err(Refusal::Exists);
                }
                if object.is_dir {
                    return Err(Refusal::NotPermitted);
                }
                after.place(slot, Some(token));
            }
            Self::SetValue { token, value } => {
                after.objects.get_mut(&token).ok_or(Refusal::Missing)?.value = value;
            }
            Self::SetLabel { token, label } => {
                after.objects.get_mut(&token).ok_or(Refusal::Missing)?.label = Some(label);
            }
        }
        Ok(after)
    }

    /// An inode without a name takes attributes until it is gone, and a name that exists is told before an inode that does not.
    fn is_about_unnamed(&self, names: &Names) -> bool {
        match self {
            Self::Link { token, .. } | Self::SetValue { token, .. } | Self::SetLabel { token, .. } => {
                !names.objects.contains_key(token)
            }
            _ => false,
        }
    }
}

fn rename(names: &Names, from: usize, to: usize, mode: RenameMode) -> Result<Names, Refusal> {
    let moved = names.slots[from].ok_or(Refusal::Missing)?;
    let mut after = names.clone();
    match (mode, names.slots[to]) {
        (RenameMode::NoReplace, Some(_)) => return Err(Refusal::Exists),
        (RenameMode::Exchange, None) => return Err(Refusal::Missing),
        // Two names of one inode: nothing happens.
        (_, Some(other)) if other == moved => return Ok(after),
        (RenameMode::Exchange, Some(other)) => {
            (after.slots[from], after.slots[to]) = (Some(other), Some(moved));
            return Ok(after);
        }
        (_, Some(other)) if names.is_dir(other) && !names.is_dir(moved) => return Err(Refusal::IsDir),
        (_, Some(other)) if !names.is_dir(other) && names.is_dir(moved) => return Err(Refusal::NotDir),
        _ => {}
    }
    after.place(to, Some(moved));
    after.place(from, None);
    Ok(after)
}

impl Operation for Tree {
    type State = Names;
    type Outcomes = Vec<Names>;

    fn apply(&self, names: &Names) -> Vec<Names> {
        let only_if = |fits: bool| if fits { vec![names.clone()] } else { Vec::new() };
        match self {
            Self::Changed(Change::Link { .. }) => self.change().made(names).into_iter().collect(),
            Self::Changed(change) if change.is_about_unnamed(names) => only_if(true),
            Self::Changed(change) => change.made(names).into_iter().collect(),
            Self::Refused(change, Refusal::Exists | Refusal::NotPermitted)
                if change.is_about_unnamed(names) =>
            {
                only_if(true)
            }
            Self::Refused(change, why) => only_if(change.made(names) == Err(*why)),
            Self::Maybe(change) => [Ok(names.clone()), change.made(names)].into_iter().flatten().collect(),
            Self::Look { slot, found } => only_if(*found == seen(names, *slot)),
            Self::Label { token, label } => {
                only_if(names.objects.get(token).is_none_or(|object| object.label == *label))
            }
            Self::List { dir, names: listed } => {
                let slots = &names.slots[dir * NAMES..][..NAMES];
                only_if(slots.iter().zip(listed).all(|(slot, listed)| slot.is_some() == *listed))
            }
            Self::Nothing => only_if(true),
        }
    }
}

impl Tree {
    fn change(&self) -> Change {
        match self {
            Self::Changed(change) | Self::Refused(change, _) | Self::Maybe(change) => *change,
            _ => unreachable!("a question changes nothing"),
        }
    }
}

fn seen(names: &Names, slot: usize) -> Option<Seen> {
    let token = names.slots[slot]?;
    let object = names.objects.get(&token)?;
    let links = (!object.is_dir).then_some(object.links);
    Some(Seen { token, is_dir: object.is_dir, value: object.value, links })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_tests::linear::check_in_order;

    fn in_order(operations: &[Tree]) -> Result<(), String> {
        check_in_order(Names::default(), operations)
    }

    fn file(slot: usize, token: Token) -> Tree {
        Tree::Changed(Change::Make { slot, token, is_dir: false })
    }

    fn look(slot: usize, found: Option<(Token, u32, u32)>) -> Tree {
        let found =
            found.map(|(token, value, links)| Seen { token, is_dir: false, value, links: Some(links) });
        Tree::Look { slot, found }
    }

    fn rename(from: usize, to: usize, mode: RenameMode) -> Change {
        Change::Rename { from, to, mode }
    }

    #[test]
    fn names_follow_their_inodes() {
        use RenameMode::{Exchange, NoReplace, Replace};
        let link = |token, slot| Tree::Changed(Change::Link { token, slot });
        let removed = |slot| Tree::Changed(Change::Remove { slot, is_dir: false });
        let moved = |from, to, mode| Tree::Changed(rename(from, to, mode));
        in_order(&[file(0, 7), link(7, 4), look(4, Some((7, 0, 2))), removed(0), look(4, Some((7, 0, 1)))])
            .unwrap();
        in_order(&[file(0, 7), file(1, 8), moved(0, 1, Replace), look(1, Some((7, 0, 1))), look(0, None)])
            .unwrap();
        in_order(&[file(0, 7), file(1, 8), moved(0, 1, Exchange), look(0, Some((8, 0, 1)))]).unwrap();
        let exists = Tree::Refused(rename(0, 1, NoReplace), Refusal::Exists);
        in_order(&[file(0, 7), file(1, 8), exists.clone()]).unwrap();
        in_order(&[file(0, 7), exists]).unwrap_err();
        in_order(&[file(0, 7), removed(0), look(0, Some((7, 0, 1)))]).unwrap_err();
        in_order(&[file(0, 7), moved(0, 5, Replace), look(0, Some((7, 0, 1)))]).unwrap_err();
        in_order(&[file(0, 7), Tree::List { dir: 0, names: [true, false, false] }]).unwrap();
        in_order(&[file(3, 7), Tree::List { dir: 1, names: [false; 3] }]).unwrap_err();
    }

    #[test]
    fn attributes_are_those_that_were_set_last() {
        let set = |value| Tree::Changed(Change::SetValue { token: 7, value });
        let label = |label| Tree::Label { token: 7, label };
        in_order(&[file(0, 7), set(3), set(4), look(0, Some((7, 4, 1)))]).unwrap();
        in_order(&[file(0, 7), set(3), set(4), look(0, Some((7, 3, 1)))]).unwrap_err();
        in_order(&[
            file(0, 7),
            label(None),
            Tree::Changed(Change::SetLabel { token: 7, label: 2 }),
            label(Some(2)),
        ])
        .unwrap();
        in_order(&[file(0, 7), Tree::Changed(Change::SetLabel { token: 7, label: 2 }), label(None)])
            .unwrap_err();
    }

    #[test]
    fn a_change_that_was_not_answered_was_made_or_not_but_not_both() {
        let maybe = Tree::Maybe(rename(0, 1, RenameMode::Replace));
        in_order(&[file(0, 7), maybe.clone(), look(0, None), look(1, Some((7, 0, 1)))]).unwrap();
        in_order(&[file(0, 7), maybe.clone(), look(0, Some((7, 0, 1))), look(1, None)]).unwrap();
        in_order(&[file(0, 7), maybe, look(0, None), look(1, None)]).unwrap_err();
    }
}
