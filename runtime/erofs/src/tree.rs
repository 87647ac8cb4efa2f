//! The layer's directory tree, as far as it is known.
//!
//! A *node* is a name in a directory, an *inode* what it names; hard links are
//! nodes with one inode. Nodes are found by (directory, name) through a hash
//! table of node numbers. Nothing is ever moved or freed: a name that gets a new
//! inode of another kind gets a new node, and the old node, with everything
//! beneath it, is out of reach and skipped in the end.
//!
//! Every item is counted against the layer's bound on memory before it is made.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::arena::{Chunked, Strings};
use crate::error::Error;
use crate::xattr::XattrSets;

/// Most hard links to one file, as in ext4.
pub(crate) const LINKS_MAX: u16 = 65_000;

/// Names looked at to move others, in one layer: see [`Tree::merge`].
const WALKED_MAX: u64 = 1 << 28;

/// The root's node and inode.
pub(crate) const ROOT: u32 = 0;
/// "No node" or "no inode".
const NONE: u32 = u32::MAX;

/// What an inode is. The values are the file type bits of `st_mode`, and some
/// of our own for what is not a file type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Fifo = 0x1000,
    Char = 0x2000,
    /// A hard link whose target did not come yet; `data` is the target's path.
    Pending = 0x3000,
    Dir = 0x4000,
    Block = 0x6000,
    /// A regular file in one run of blocks from `data` on.
    File = 0x8000,
    /// A regular file with holes; `data` is the number of its chunk map.
    Sparse = 0x9000,
    Symlink = 0xa000,
    /// An overlay whiteout: becomes a character device 0:0.
    Whiteout = 0xf000,
}

/// Flags in a directory's `data` until its place on disk is known.
pub(crate) const DIR_OPAQUE: u32 = 1;
/// A directory that is not the one beneath, which the layer has removed: opaque as well.
pub(crate) const DIR_NEW: u32 = 4;
/// The directory has no entry of its own in the archive.
pub(crate) const DIR_IMPLIED: u32 = 2;

/// An inode in 40 bytes: a million of them must fit in memory.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    /// Seconds in the upper 34 bits, nanoseconds in the lower 30.
    mtime: u64,
    /// Bytes of content; of a symbolic link, of its target.
    pub(crate) size: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Number of its set of extended attributes.
    pub(crate) xattrs: u32,
    /// By kind: first block, chunk map, device number, target string, flags.
    pub(crate) data: u32,
    /// Place in the inode table, in slots of 32 bytes; 0 until it has one.
    pub(crate) slot: u32,
    /// Kind in the upper 4 bits, permissions in the lower 12.
    mode: u16,
    /// Names that it has; not kept for directories.
    pub(crate) links: u16,
}

impl Inode {
    pub(crate) fn new(kind: Kind, permissions: u16) -> Self {
        Self {
            mtime: 0,
            size: 0,
            uid: 0,
            gid: 0,
            xattrs: 0,
            data: 0,
            slot: 0,
            mode: kind as u16 | permissions & 0o7777,
            links: 0,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.mode & 0xf000 {
            0x1000 => Kind::Fifo,
            0x2000 => Kind::Char,
            0x3000 => Kind::Pending,
            0x4000 => Kind::Dir,
            0x6000 => Kind::Block,
            0x8000 => Kind::File,
            0x9000 => Kind::Sparse,
            0xa000 => Kind::Symlink,
            _ => Kind::Whiteout,
        }
    }

    pub(crate) fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Sets the time; seconds beyond 34 bits (the years 1697 to 2242) are
    /// brought to the nearest bound.
    pub(crate) fn set_mtime(&mut self, (seconds, nanos): (i64, u32)) {
        let seconds = seconds.clamp(-(1 << 33), (1 << 33) - 1);
        self.mtime = (seconds << 30).cast_unsigned() | u64::from(nanos.min(999_999_999));
    }

    pub(crate) fn mtime(&self) -> (i64, u32) {
        let nanos = self.mtime & ((1 << 30) - 1);
        (
            self.mtime.cast_signed() >> 30,
            u32::try_from(nanos).unwrap_or(0),
        )
    }
}

struct Node {
    parent: u32,
    name: u32,
    inode: u32,
}

/// The tree.
pub(crate) struct Tree {
    nodes: Chunked<Node>,
    inodes: Chunked<Inode>,
    pub(crate) strings: Strings,
    pub(crate) xattrs: XattrSets,
    /// Open addressing, linear probing; a power of two of places, at most
    /// three quarters taken.
    table: Vec<u32>,
    hasher: RandomState,
    /// Places of the table that moved nodes have left.
    moved: u32,
    /// Names that were looked at to move others.
    walked: u64,
    memory: u64,
    memory_max: u64,
}

impl Tree {
    /// Bytes of memory that a node takes: itself, its places in the hash table
    /// (up to 1.5 times as many entries while it grows) and in the two arrays
    /// of the end.
    const NODE_COST: u64 = 12 + 16 + 8;
    const INODE_COST: u64 = 40;

    pub(crate) fn new(memory_max: u64) -> Self {
        let mut tree = Self {
            nodes: Chunked::new(),
            inodes: Chunked::new(),
            strings: Strings::new(),
            xattrs: XattrSets::new(),
            table: vec![NONE; 1024],
            hasher: RandomState::new(),
            moved: 0,
            walked: 0,
            memory: 0,
            memory_max,
        };
        let mut root = Inode::new(Kind::Dir, 0o755);
        root.data = DIR_IMPLIED;
        tree.inodes.push(root);
        let name = tree.strings.put(b"");
        tree.nodes.push(Node {
            parent: ROOT,
            name,
            inode: ROOT,
        });
        tree
    }

    /// Counts memory that is about to be used.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), Error> {
        self.memory += bytes;
        if self.memory <= self.memory_max {
            return Ok(());
        }
        let limit = self.memory_max;
        Err(Error::Limit {
            what: "the layer's directory tree",
            limit,
            unit: "bytes of memory",
        })
    }

    pub(crate) fn node_count(&self) -> u32 {
        self.nodes.len()
    }

    pub(crate) fn parent(&self, node: u32) -> u32 {
        self.nodes[node].parent
    }

    pub(crate) fn name(&self, node: u32) -> &[u8] {
        self.strings.get(self.nodes[node].name)
    }

    /// The inode of a node that is not out of reach.
    pub(crate) fn inode(&self, node: u32) -> &Inode {
        &self.inodes[self.nodes[node].inode]
    }

    pub(crate) fn inode_mut(&mut self, node: u32) -> &mut Inode {
        let inode = self.nodes[node].inode;
        &mut self.inodes[inode]
    }

    pub(crate) fn inode_number(&self, node: u32) -> u32 {
        self.nodes[node].inode
    }

    /// Whether the node itself was replaced. Nodes beneath one that was are not
    /// marked.
    pub(crate) fn is_replaced(&self, node: u32) -> bool {
        self.nodes[node].inode == NONE
    }

    /// Whether the node can be reached from the root.
    pub(crate) fn is_reachable(&self, mut node: u32) -> bool {
        while node != ROOT {
            if self.is_replaced(node) {
                return false;
            }
            node = self.nodes[node].parent;
        }
        true
    }

    /// Finds a name in a directory.
    pub(crate) fn lookup(&self, parent: u32, name: &[u8]) -> Option<u32> {
        match self.table[self.place(parent, name)] {
            NONE => None,
            node if self.is_replaced(node) => None,
            node => Some(node),
        }
    }

    /// Gives a name in a directory a new inode. Returns the node.
    pub(crate) fn insert(&mut self, parent: u32, name: &[u8], inode: Inode) -> Result<u32, Error> {
        self.charge(Self::INODE_COST)?;
        let number = self.inodes.push(inode);
        self.link(parent, name, number)
    }

    /// Gives a name in a directory the inode with this number; what had the
    /// name is out of reach from then on.
    pub(crate) fn link(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<u32, Error> {
        self.charge(Self::NODE_COST + 2 + name.len() as u64)?;
        self.make_room();
        let place = self.place(parent, name);
        let old = self.table[place];
        let name = match old {
            NONE => self.strings.put(name),
            // The same name: its string serves again.
            old => self.nodes[old].name,
        };
        let node = self.nodes.push(Node {
            parent,
            name,
            inode,
        });
        self.table[place] = node;
        if old != NONE {
            self.nodes[old].inode = NONE;
        }
        Ok(node)
    }

    /// Makes a pending node a name of `inode`.
    pub(crate) fn relink(&mut self, node: u32, inode: u32) {
        self.nodes[node].inode = inode;
    }

    /// Takes a name out of the tree. What is in it can be [merged](Self::merge) into
    /// another directory.
    pub(crate) fn detach(&mut self, node: u32) {
        self.nodes[node].inode = NONE;
    }

    /// Moves what is in a detached directory into another one. Of two of one name the
    /// later in the archive counts, but for what [`Builder`](crate::build::Builder) says
    /// of whiteouts; directories merge. Walks all nodes for each directory that merges.
    pub(crate) fn merge(&mut self, from: u32, into: u32) -> Result<(), Error> {
        let mut todo = vec![(from, into)];
        while let Some((from, into)) = todo.pop() {
            self.walked += u64::from(self.node_count());
            if self.walked > WALKED_MAX {
                return Err(Error::Limit {
                    what: "the work to move entries to where lower layers' links lead",
                    limit: WALKED_MAX,
                    unit: "names",
                });
            }
            for node in 1..self.node_count() {
                if self.nodes[node].parent != from || self.is_replaced(node) {
                    continue;
                }
                let name = self.name(node).to_vec();
                let Some(other) = self.lookup(into, &name) else {
                    self.reparent(node, into)?;
                    continue;
                };
                match (self.inode(node).kind(), self.inode(other).kind()) {
                    (Kind::Dir, Kind::Dir) => {
                        let mut moved = self.inode(node).clone();
                        let hiding = DIR_OPAQUE | DIR_NEW;
                        let opaque = (moved.data | self.inode(other).data) & hiding;
                        let implied = moved.data & DIR_IMPLIED != 0;
                        if !implied && (node > other || self.is_implied(other)) {
                            moved.data |= opaque;
                            *self.inode_mut(other) = moved;
                        }
                        self.inode_mut(other).data |= opaque;
                        self.detach(node);
                        todo.push((node, other));
                    }
                    // An entry of this layer stays, and a directory is opaque then.
                    (Kind::Whiteout, kind) => {
                        if kind == Kind::Dir {
                            self.inode_mut(other).data |= DIR_OPAQUE | DIR_NEW;
                        }
                        self.detach(node);
                    }
                    (kind, Kind::Whiteout) => {
                        if kind == Kind::Dir {
                            self.inode_mut(node).data |= DIR_OPAQUE | DIR_NEW;
                        }
                        self.detach(other);
                        self.reparent(node, into)?;
                    }
                    _ if node > other => {
                        self.detach(other);
                        self.reparent(node, into)?;
                    }
                    _ => self.detach(node),
                }
            }
        }
        Ok(())
    }

    fn is_implied(&self, node: u32) -> bool {
        self.inode(node).data & DIR_IMPLIED != 0
    }

    /// Puts a node into another directory. Its former place in the table stays taken:
    /// no name leads there.
    fn reparent(&mut self, node: u32, parent: u32) -> Result<(), Error> {
        self.charge(8)?;
        self.moved += 1;
        self.make_room();
        self.nodes[node].parent = parent;
        let place = self.place(parent, self.name(node));
        self.table[place] = node;
        Ok(())
    }

    fn make_room(&mut self) {
        if (self.nodes.len() + self.moved) as usize >= self.table.len() / 4 * 3 {
            self.grow();
        }
    }

    /// Frees what only the building of the tree needs.
    pub(crate) fn freeze(&mut self) {
        self.table = vec![NONE; 1];
    }

    /// The place in the table where the name is or would be.
    fn place(&self, parent: u32, name: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        // Only the lower bits are used.
        #[allow(clippy::cast_possible_truncation)]
        let mut place = self.hasher.hash_one((parent, name)) as usize & mask;
        loop {
            match self.table[place] {
                NONE => return place,
                node if self.nodes[node].parent == parent && self.name(node) == name => {
                    return place;
                }
                _ => place = (place + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.table);
        self.table = vec![NONE; old.len() * 2];
        let live = |node: &u32| *node != NONE && !self.is_replaced(*node);
        let live: Vec<u32> = old.into_iter().filter(live).collect();
        for node in live {
            let place = self.place(self.nodes[node].parent, self.name(node));
            self.table[place] = node;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size_of::<Inode>(), 40);
        assert_eq!(size_of::<Node>(), 12);
    }

    #[test]
    fn replaced_names() {
        let mut tree = Tree::new(1 << 20);
        let dir = tree
            .insert(ROOT, b"a", Inode::new(Kind::Dir, 0o700))
            .unwrap();
        let below = tree
            .insert(dir, b"b", Inode::new(Kind::File, 0o600))
            .unwrap();
        assert_eq!(tree.lookup(dir, b"b"), Some(below));
        let file = tree
            .insert(ROOT, b"a", Inode::new(Kind::File, 0o644))
            .unwrap();
        assert_eq!(tree.lookup(ROOT, b"a"), Some(file));
        assert!(!tree.is_reachable(below));
        let again = tree
            .insert(ROOT, b"a", Inode::new(Kind::Dir, 0o755))
            .unwrap();
        assert_eq!(tree.lookup(again, b"b"), None, "a new directory is empty");
    }

    #[test]
    fn grows_and_stops_at_its_bound() {
        let mut tree = Tree::new(1 << 20);
        let mut count = 0u32;
        let error = loop {
            let name = format!("name-{count}");
            match tree.insert(ROOT, name.as_bytes(), Inode::new(Kind::File, 0)) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(error.is_limit());
        assert!(count > 8_000, "{count}");
        for i in 0..count {
            assert!(tree.lookup(ROOT, format!("name-{i}").as_bytes()).is_some());
        }
    }

    #[test]
    fn times_survive() {
        let mut inode = Inode::new(Kind::File, 0);
        for time in [
            (0, 0),
            (-1, 999_999_999),
            (1 << 33, 5),
            (1_700_000_000, 123_456_789),
        ] {
            inode.set_mtime(time);
            let expected = (time.0.min((1 << 33) - 1), time.1);
            assert_eq!(inode.mtime(), expected);
        }
        inode.set_mtime((i64::MIN, 0));
        assert_eq!(inode.mtime().0, -(1 << 33));
    }
}
