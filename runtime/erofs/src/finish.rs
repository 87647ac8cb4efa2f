//! Lays out and writes what is known at the end: directories and inodes.
//!
//! ```text
//! block 0        superblock (at byte 1024)
//! from block 1   content of files, in the archive's order
//! then           whole blocks of directories, long link targets
//! meta block     inodes, each with its extended attributes and the tail of its
//!                directory or its link target; slots of 32 bytes
//! ```
//!
//! Inodes are placed breadth first from the root, so the inodes of a directory
//! lie together. A tail lies in the same block as its inode. Slot 0 stays empty:
//! programs take inode number 0 for "none". Slots are 32 bits, the root's 16.

use std::io::{Seek, Write};

use crate::build::Builder;
use crate::disk::{self, BLOCK, DIRENT_SIZE, DiskInode, INODE_SIZE, Layout, SLOT, Super};
use crate::error::{EntryFault, Error};
use crate::lean::Lean;
use crate::tree::{DIR_IMPLIED, DIR_OPAQUE, Inode, Kind, LINKS_MAX, ROOT, Tree};

/// What the finished image holds.
pub(crate) struct Finished<W> {
    pub(crate) out: W,
    pub(crate) inodes: u64,
    pub(crate) implied_directories: u64,
    pub(crate) blocks: u32,
}

/// Writes the rest of the image.
pub(crate) fn finish<W: Write + Seek>(
    mut builder: Builder<'_, W>,
    lean: &mut Lean<'_>,
    uuid: [u8; 16],
) -> Result<Finished<W>, Error> {
    builder.complete(lean)?;
    builder.tree.freeze();
    let sorted = sorted_names(&builder.tree);
    let mut meta = Metadata {
        builder,
        sorted,
        order: Vec::new(),
        cursor: SLOT,
        implied_directories: 0,
    };
    meta.place_all()?;
    let first_block = meta.builder.out.block();
    meta.write_blocks()?;
    let meta_block = meta.builder.out.block();
    meta.write_inodes(first_block)?;
    meta.builder.out.pad()?;
    let blocks = meta.builder.out.block();
    let inodes = meta.order.len() as u64;
    let first = Super {
        // The root is placed first, so its slot is small.
        root_slot: u16::try_from(meta.builder.tree.inode(ROOT).slot).unwrap_or(0),
        inodes,
        blocks,
        meta_block,
        uuid,
        has_chunks: !meta.builder.chunk_maps.is_empty(),
    }
    .encode();
    let out = meta.builder.out.finish(&first)?;
    Ok(Finished {
        out,
        inodes,
        implied_directories: meta.implied_directories,
        blocks,
    })
}

/// All nodes but the root, by directory and name: each directory's names are
/// one range. Directories in which AUFS kept its own things end here.
fn sorted_names(tree: &Tree) -> Vec<u32> {
    let mut sorted = Vec::with_capacity(tree.node_count() as usize);
    sorted.extend((1..tree.node_count()).filter(|&node| {
        let aufs = tree.parent(node) == ROOT && tree.name(node).starts_with(b".wh..wh.");
        !tree.is_replaced(node) && !aufs
    }));
    sorted.sort_unstable_by(|&a, &b| {
        tree.parent(a)
            .cmp(&tree.parent(b))
            .then_with(|| tree.name(a).cmp(tree.name(b)))
    });
    sorted
}

/// The names in a directory.
fn names<'s>(tree: &Tree, sorted: &'s [u32], dir: u32) -> &'s [u32] {
    let start = sorted.partition_point(|&node| tree.parent(node) < dir);
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|&node| tree.parent(node) == dir)]
}

/// A name and the node that it leads to.
type Dirent<'t> = (&'t [u8], u32);

/// Splits a directory's entries, `.` and `..` among them, into blocks: greedily,
/// in the order of their bytes. `emit` gets each block's entries and how many
/// bytes of the block they take.
fn for_each_block<'t>(
    tree: &'t Tree,
    sorted: &[u32],
    dir: u32,
    mut emit: impl FnMut(&[Dirent<'t>], usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let dots: [Dirent<'t>; 2] = [(b".", dir), (b"..", tree.parent(dir))];
    let mut dots = dots.into_iter().peekable();
    let mut names = names(tree, sorted, dir)
        .iter()
        .map(|&node| (tree.name(node), node))
        .peekable();
    let mut block: Vec<Dirent<'t>> = Vec::new();
    let mut used = 0;
    loop {
        let dot_next = match (dots.peek(), names.peek()) {
            (Some(dot), Some(name)) => dot.0 < name.0,
            (dot, _) => dot.is_some(),
        };
        let Some(entry) = (if dot_next { dots.next() } else { names.next() }) else {
            break;
        };
        let size = DIRENT_SIZE + entry.0.len();
        if used + size > BLOCK {
            emit(&block, used)?;
            block.clear();
            used = 0;
        }
        block.push(entry);
        used += size;
    }
    emit(&block, used)
}

/// Where the content of a directory or symbolic link goes: the layout, the
/// number of whole blocks and the bytes of the tail after the inode.
fn split(size: u64, xattr_size: usize) -> (Layout, u64, usize) {
    let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if tail > 0 && INODE_SIZE + xattr_size + tail <= BLOCK {
        (Layout::Inline, size / BLOCK as u64, tail)
    } else {
        (Layout::Plain, size.div_ceil(BLOCK as u64), 0)
    }
}

struct Metadata<'a, W> {
    builder: Builder<'a, W>,
    sorted: Vec<u32>,
    /// One node for each inode, in the order of the inodes on disk.
    order: Vec<u32>,
    /// End of the last inode placed, in bytes from the inode table's start.
    cursor: u64,
    implied_directories: u64,
}

impl<W: Write + Seek> Metadata<'_, W> {
    /// Gives every inode that can be reached its slot.
    fn place_all(&mut self) -> Result<(), Error> {
        self.place(ROOT)?;
        let mut next = 0;
        while let Some(&dir) = self.order.get(next) {
            next += 1;
            if self.builder.tree.inode(dir).kind() != Kind::Dir {
                continue;
            }
            let start = self
                .sorted
                .partition_point(|&node| self.builder.tree.parent(node) < dir);
            for at in start..self.sorted.len() {
                let node = self.sorted[at];
                if self.builder.tree.parent(node) != dir {
                    break;
                }
                self.place_name(node)?;
            }
        }
        Ok(())
    }

    /// Counts a name of an inode; the first one places it.
    fn place_name(&mut self, node: u32) -> Result<(), Error> {
        if self.builder.tree.inode(node).slot == 0 {
            self.builder.tree.inode_mut(node).links = 1;
            return self.place(node);
        }
        let inode = self.builder.tree.inode_mut(node);
        inode.links = inode.links.saturating_add(1);
        if inode.links > LINKS_MAX {
            return Err(Error::entry(
                self.builder.tree.name(node),
                EntryFault::TooManyLinks,
            ));
        }
        Ok(())
    }

    fn place(&mut self, node: u32) -> Result<(), Error> {
        if self.builder.tree.inode(node).kind() == Kind::Dir {
            self.complete_directory(node)?;
        }
        let tree = &self.builder.tree;
        let inode = tree.inode(node);
        let xattr_size = tree.xattrs.disk_size(inode.xattrs);
        let (tail, table) = match inode.kind() {
            Kind::Dir | Kind::Symlink => (split(inode.size, xattr_size).2, 0),
            Kind::Sparse => (
                0,
                self.builder.chunk_maps[inode.data as usize].blocks.len() * 4,
            ),
            _ => (0, 0),
        };
        let together = if tail > 0 {
            INODE_SIZE + xattr_size + tail
        } else {
            INODE_SIZE
        };
        let mut start = self.cursor.next_multiple_of(SLOT);
        if start % BLOCK as u64 + together as u64 > BLOCK as u64 {
            start = start.next_multiple_of(BLOCK as u64);
        }
        self.cursor = start + (INODE_SIZE + xattr_size + tail + table) as u64;
        let slot = u32::try_from(start / SLOT).map_err(|_| Error::Limit {
            what: "the inode table",
            limit: u64::from(u32::MAX),
            unit: "slots",
        })?;
        self.builder.tree.inode_mut(node).slot = slot;
        self.order.push(node);
        Ok(())
    }

    /// Finds a directory's size and the attribute that makes it opaque.
    fn complete_directory(&mut self, node: u32) -> Result<(), Error> {
        let (mut last, mut blocks) = (0, 0);
        for_each_block(&self.builder.tree, &self.sorted, node, |_, used| {
            last = used;
            blocks += 1;
            Ok(())
        })?;
        let tree = &mut self.builder.tree;
        let flags = tree.inode(node).data;
        self.implied_directories += u64::from(flags & DIR_IMPLIED != 0);
        if flags & DIR_OPAQUE != 0 {
            let (set, cost) = tree.xattrs.with_opaque(tree.inode(node).xattrs);
            tree.charge(cost)?;
            tree.inode_mut(node).xattrs = set;
        }
        tree.inode_mut(node).size = (blocks - 1) * BLOCK as u64 + last as u64;
        Ok(())
    }

    /// Writes whole blocks of directories and of long link targets.
    fn write_blocks(&mut self) -> Result<(), Error> {
        let Builder { tree, out, .. } = &mut self.builder;
        for &node in &self.order {
            let inode = tree.inode(node);
            let (_, whole, _) = split(inode.size, tree.xattrs.disk_size(inode.xattrs));
            match inode.kind() {
                _ if whole == 0 => {}
                Kind::Dir => {
                    let mut left = whole;
                    for_each_block(tree, &self.sorted, node, |entries, _| {
                        if left > 0 {
                            left -= 1;
                            write_dirents(tree, out, entries)?;
                            out.pad()?;
                        }
                        Ok(())
                    })?;
                }
                Kind::Symlink => {
                    out.write(tree.strings.get(inode.data))?;
                    out.pad()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the inode table. `next_block` is where the whole blocks began;
    /// they were written in the order of the inodes.
    fn write_inodes(&mut self, mut next_block: u32) -> Result<(), Error> {
        let table = self.builder.out.position();
        let Builder {
            tree,
            out,
            chunk_maps,
            ..
        } = &mut self.builder;

        for (number, &node) in (1..).zip(&self.order) {
            let inode = tree.inode(node);
            let xattr_size = tree.xattrs.disk_size(inode.xattrs);
            let (layout, whole, tail) = match inode.kind() {
                Kind::Dir | Kind::Symlink => split(inode.size, xattr_size),
                Kind::Sparse => (Layout::Chunks, 0, 0),
                _ => (Layout::Plain, 0, 0),
            };
            let map = match inode.kind() {
                Kind::Sparse => chunk_maps.get(inode.data as usize),
                _ => None,
            };
            let union = match (inode.kind(), map) {
                (_, Some(map)) => u32::from(map.bits),
                (Kind::Dir | Kind::Symlink, _) if whole > 0 => next_block,
                (Kind::File | Kind::Char | Kind::Block, _) => inode.data,
                _ => 0,
            };
            next_block = next_block.saturating_add(u32::try_from(whole).unwrap_or(u32::MAX));
            out.zeros(table + u64::from(inode.slot) * SLOT - out.position())?;
            let disk_inode = DiskInode {
                layout,
                xattr_size,
                mode: mode(inode),
                size: inode.size,
                union,
                number,
                uid: inode.uid,
                gid: inode.gid,
                mtime: inode.mtime(),
                links: links(tree, &self.sorted, node),
            };
            out.write(&disk_inode.encode())?;
            if xattr_size > 0 {
                // The header: no name filter, no shared attributes.
                out.write(&[0; 12])?;
                out.write(tree.xattrs.entries(inode.xattrs))?;
            }
            if let Some(map) = map {
                for block in &map.blocks {
                    out.write(&block.to_le_bytes())?;
                }
            }
            match inode.kind() {
                _ if tail == 0 => {}
                Kind::Symlink => out.write(tree.strings.get(inode.data))?,
                _ => {
                    let mut left = whole;
                    for_each_block(tree, &self.sorted, node, |entries, _| {
                        if left == 0 {
                            write_dirents(tree, out, entries)?;
                        }
                        left = left.saturating_sub(1);
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn write_dirents<W: Write + Seek>(
    tree: &Tree,
    out: &mut crate::data::ImageWriter<W>,
    entries: &[Dirent<'_>],
) -> Result<(), Error> {
    let mut name_at = entries.len() * DIRENT_SIZE;
    for (name, node) in entries {
        let inode = tree.inode(*node);
        // Offsets are below a block's size.
        let offset = u16::try_from(name_at).unwrap_or(u16::MAX);
        out.write(&disk::dirent(inode.slot, offset, file_type(inode.kind())))?;
        name_at += name.len();
    }
    entries.iter().try_for_each(|(name, _)| out.write(name))
}

/// `st_nlink`. A directory has its name, its `.` and its children's `..`.
fn links(tree: &Tree, sorted: &[u32], node: u32) -> u32 {
    let inode = tree.inode(node);
    if inode.kind() != Kind::Dir {
        return u32::from(inode.links);
    }
    let is_dir = |&&child: &&u32| tree.inode(child).kind() == Kind::Dir;
    let below = names(tree, sorted, node).iter().filter(is_dir).count();
    u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2)
}

/// `st_mode`.
fn mode(inode: &Inode) -> u16 {
    let kind = match inode.kind() {
        Kind::Sparse => Kind::File,
        Kind::Whiteout => Kind::Char,
        kind => kind,
    };
    kind as u16 | inode.permissions()
}

/// The file type in a directory entry (`FT_*` in Linux fs_types.h).
fn file_type(kind: Kind) -> u8 {
    match kind {
        Kind::File | Kind::Sparse => 1,
        Kind::Dir => 2,
        Kind::Char | Kind::Whiteout => 3,
        Kind::Block => 4,
        Kind::Fifo => 5,
        Kind::Symlink => 7,
        Kind::Pending => 0,
    }
}
