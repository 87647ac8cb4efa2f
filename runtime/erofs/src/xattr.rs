//! Extended attributes: which are kept, and their form on disk.
//!
//! Source: Linux fs/erofs/erofs_fs.h (`erofs_xattr_entry`). Each entry is a
//! 4-byte header (name length, name index, value size), the name without its
//! prefix, the value, and padding to 4 bytes. Equal sets are stored once in
//! memory; on disk they follow each inode.
//!
//! Kept: `user.*`, `trusted.*`, `security.*` (file capabilities, IMA, labels)
//! and the POSIX ACLs. Dropped: other namespaces, which EROFS cannot hold, and
//! `trusted.overlay.*` and `user.overlay.*`: these steer the overlay that the
//! layers are stacked with, so an image must not bring its own.

use std::collections::HashMap;
use std::rc::Rc;

use crate::error::{EntryFault, Name};

/// `trusted.overlay.opaque=y`: hides what lower layers have in a directory.
const OPAQUE_NAME: &[u8] = b"overlay.opaque";
const OPAQUE_VALUE: &[u8] = b"y";

const TRUSTED: u8 = 4;

/// Namespaces and their indexes, and the names that are their own.
const NAMESPACES: [(u8, &[u8]); 3] = [(1, b"user."), (TRUSTED, b"trusted."), (6, b"security.")];
const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// All distinct sets of extended attributes of a layer. Set 0 is the empty one.
pub(crate) struct XattrSets {
    sets: Vec<Rc<[u8]>>,
    known: HashMap<Rc<[u8]>, u32>,
}

impl XattrSets {
    pub(crate) fn new() -> Self {
        Self {
            sets: vec![Rc::from([])],
            known: HashMap::new(),
        }
    }

    /// The entries of a set, as they are on disk.
    pub(crate) fn entries(&self, set: u32) -> &[u8] {
        &self.sets[set as usize]
    }

    /// Bytes that a set takes after an inode: a header of 12 bytes and the
    /// entries, or nothing.
    pub(crate) fn disk_size(&self, set: u32) -> usize {
        match self.entries(set).len() {
            0 => 0,
            entries => 12 + entries,
        }
    }

    /// Finds or adds a set. The second value is how many bytes of memory it
    /// newly takes.
    pub(crate) fn intern(&mut self, entries: Vec<u8>) -> (u32, u64) {
        if entries.is_empty() {
            return (0, 0);
        }
        if let Some(&set) = self.known.get(entries.as_slice()) {
            return (set, 0);
        }
        let entries: Rc<[u8]> = entries.into();
        let cost = entries.len() as u64 + 64;
        // The tree's bound on memory keeps this far below u32::MAX.
        let set = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        self.sets.push(entries.clone());
        self.known.insert(entries, set);
        (set, cost)
    }

    /// The set that is `set` and marks a directory as opaque.
    pub(crate) fn with_opaque(&mut self, set: u32) -> (u32, u64) {
        let mut entries = self.entries(set).to_vec();
        push_entry(&mut entries, TRUSTED, OPAQUE_NAME, OPAQUE_VALUE);
        self.intern(entries)
    }
}

/// Whether entries as they are on disk mark a directory as opaque.
pub(crate) fn is_opaque(entries: &[u8]) -> bool {
    split(entries).any(|(key, value, _)| key == (TRUSTED, OPAQUE_NAME) && value == OPAQUE_VALUE)
}

/// Entries as they are on disk, but for the mark of an opaque directory.
pub(crate) fn without_opaque(entries: &[u8]) -> Vec<u8> {
    let others = split(entries).filter(|(key, ..)| *key != (TRUSTED, OPAQUE_NAME));
    others.flat_map(|(.., raw)| raw).copied().collect()
}

/// Full names and values of entries as they are on disk; of a namespace that the writer
/// does not write, nothing.
pub(crate) fn names(entries: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let full = |((index, rest), value, _): ((u8, &[u8]), &[u8], _)| {
        let prefix = match index {
            2 => ACCESS,
            3 => DEFAULT,
            other => NAMESPACES.iter().find(|(index, _)| *index == other)?.1,
        };
        Some(([prefix, rest].concat(), value.to_vec()))
    };
    split(entries).filter_map(full).collect()
}

/// Of each entry: namespace and name, value, and all of it. What makes no sense ends it.
fn split(mut entries: &[u8]) -> impl Iterator<Item = ((u8, &[u8]), &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let [name_len, index, low, high, ..] = *entries else {
            return None;
        };
        let name_end = 4 + usize::from(name_len);
        let end = name_end + usize::from(u16::from_le_bytes([low, high]));
        let (name, value) = (entries.get(4..name_end)?, entries.get(name_end..end)?);
        let (raw, rest) = entries.split_at_checked(end.next_multiple_of(4))?;
        entries = rest;
        Some(((index, name), value, raw))
    })
}

/// Encodes the attributes that are kept, sorted by name. Returns the entries
/// and how many attributes were dropped.
pub(crate) fn encode(
    xattrs: &mut [(Vec<u8>, Vec<u8>)],
    max: usize,
) -> Result<(Vec<u8>, u64), EntryFault> {
    // A stable sort: of equal names the last in the archive comes last, and wins.
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    let mut entries = Vec::new();
    let mut dropped = 0;
    for (at, (name, value)) in xattrs.iter().enumerate() {
        if xattrs.get(at + 1).is_some_and(|next| next.0 == *name) {
            continue;
        }
        let Some((index, suffix)) = classify(name) else {
            dropped += 1;
            continue;
        };
        if name.len() > 255 || value.len() > usize::from(u16::MAX) {
            return Err(EntryFault::Xattr(Name::new(name)));
        }
        push_entry(&mut entries, index, suffix, value);
        if entries.len() > max {
            return Err(EntryFault::Xattr(Name::new(name)));
        }
    }
    Ok((entries, dropped))
}

/// The index of a name's namespace and the rest of the name.
fn classify(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        ACCESS => return Some((2, b"")),
        DEFAULT => return Some((3, b"")),
        _ => {}
    }
    NAMESPACES
        .into_iter()
        .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
        .filter(|(index, rest)| !(rest.is_empty() || *index != 6 && rest.starts_with(b"overlay.")))
        .filter(|(_, rest)| !rest.contains(&0))
}

/// Appends one entry. `name` and `value` fit their length fields: names were
/// checked to be at most 255 bytes and values 65,535.
fn push_entry(entries: &mut Vec<u8>, index: u8, name: &[u8], value: &[u8]) {
    let name_len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let value_len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    entries.extend_from_slice(&[name_len, index]);
    entries.extend_from_slice(&value_len.to_le_bytes());
    entries.extend_from_slice(name);
    entries.extend_from_slice(value);
    entries.resize(entries.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode_one(name: &[u8], value: &[u8]) -> Result<(Vec<u8>, u64), EntryFault> {
        encode(&mut [(name.to_vec(), value.to_vec())], 1 << 17)
    }

    #[test]
    fn entries_on_disk() {
        let (entries, dropped) = encode_one(b"user.ab", b"v").unwrap();
        assert_eq!(entries, [2, 1, 1, 0, b'a', b'b', b'v', 0]);
        assert_eq!(dropped, 0);
        let (entries, _) = encode_one(b"system.posix_acl_access", b"1234").unwrap();
        assert_eq!(entries, [0, 2, 4, 0, b'1', b'2', b'3', b'4']);
    }

    #[test]
    fn the_overlays_own_attributes_are_dropped() {
        for name in [
            &b"trusted.overlay.redirect"[..],
            b"user.overlay.opaque",
            b"btrfs.x",
            b"user.",
            b"plain",
        ] {
            assert_eq!(
                encode_one(name, b"y").unwrap(),
                (vec![], 1),
                "{}",
                name.escape_ascii()
            );
        }
        assert!(
            !encode_one(b"security.overlay.x", b"y")
                .unwrap()
                .0
                .is_empty()
        );
    }

    #[test]
    fn bounds() {
        let long = [b"user.".as_slice(), &[b'n'; 251]].concat();
        assert!(matches!(encode_one(&long, b""), Err(EntryFault::Xattr(_))));
        assert!(matches!(
            encode_one(b"user.a", &[0; 65_536]),
            Err(EntryFault::Xattr(_))
        ));
        assert!(encode_one(b"user.a", &[0; 65_535]).is_ok());
    }

    #[test]
    fn equal_sets_are_one() {
        let mut sets = XattrSets::new();
        let (a, cost) = sets.intern(encode_one(b"user.a", b"1").unwrap().0);
        assert!(cost > 0);
        assert_eq!(sets.intern(encode_one(b"user.a", b"1").unwrap().0), (a, 0));
        let (opaque, _) = sets.with_opaque(a);
        assert_ne!(opaque, a);
        assert_eq!(sets.disk_size(opaque), 12 + 8 + 20);
        assert_eq!(sets.disk_size(0), 0);
    }
}
