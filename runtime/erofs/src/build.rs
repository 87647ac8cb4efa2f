//! Takes entries of the archive into the tree.
//!
//! What an entry's name means follows containerd's layer application, seen from
//! one layer alone (for what it takes from others, see `lean`):
//!
//! * Names are cleaned as text: `.` and empty parts vanish, `..` takes back the
//!   part before it and stops at the root. Absolute names begin at the root.
//! * The parent is looked up in the tree; symbolic links of this layer on the
//!   way are followed, within the root. Missing directories are made, owned by
//!   root, 0755. The last part is never followed.
//! * A later entry replaces an earlier one of the same name. Only directory upon
//!   directory merges: the later attributes count.
//! * `.wh.NAME` becomes an overlay whiteout of NAME, `.wh..wh..opq` makes its
//!   directory opaque (OCI image-spec, layer.md). Whiteouts speak of lower
//!   layers: an entry of this layer stays, whichever comes first, and a
//!   directory that is also whited out is opaque.
//! * A hard link may come before its target, and mean a file of a lower layer.

use std::io::{Read, Seek, Write};

use crate::data::ImageWriter;
use crate::disk::{self, BLOCK, HOLE, NAME_MAX};
use crate::error::{EntryFault, Error, Name};
use crate::lean::Lean;
use crate::limits::Limits;
use crate::tar::{Entry, EntryKind, Extent, TarReader};
use crate::tree::{DIR_IMPLIED, DIR_NEW, DIR_OPAQUE, Inode, Kind, LINKS_MAX, ROOT, Tree};
use crate::xattr;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Longest target of a symbolic link, as in Linux.
const LINK_MAX: usize = 4095;
/// Symbolic links followed for one name, as in Linux.
const FOLLOW_MAX: u32 = 40;
/// Name parts walked through symbolic links in one layer. Real layers walk few;
/// without a bound short entries could cost long walks.
const FOLLOWED_PARTS_MAX: u64 = 4 << 20;
/// Most chunks of a sparse file.
const CHUNKS_MAX: u64 = 65_536;
/// Largest sparse file: 256 TiB.
const SPARSE_MAX: u64 = 1 << 48;

/// Where the content of a sparse file is.
pub(crate) struct ChunkMap {
    /// Blocks of a chunk, as an exponent of 2.
    pub(crate) bits: u8,
    /// First block of each chunk, or [`HOLE`].
    pub(crate) blocks: Box<[u32]>,
}

/// Where what a hard link means is.
enum Target {
    /// A node of this layer.
    Here(u32),
    /// A name that this layer does not have.
    Beneath(Vec<u8>),
}

/// Builds a tree from entries, writing their content on the way.
pub(crate) struct Builder<'a, W> {
    pub(crate) tree: Tree,
    pub(crate) out: ImageWriter<W>,
    pub(crate) chunk_maps: Vec<ChunkMap>,
    pub(crate) dropped_xattrs: u64,
    pub(crate) whiteouts: u64,
    pending: Vec<u32>,
    limits: &'a Limits,
    followed: u64,
}

impl<'a, W: Write + Seek> Builder<'a, W> {
    pub(crate) fn new(out: ImageWriter<W>, limits: &'a Limits) -> Self {
        Self {
            tree: Tree::new(limits.metadata_bytes),
            out,
            chunk_maps: Vec::new(),
            dropped_xattrs: 0,
            whiteouts: 0,
            pending: Vec::new(),
            limits,
            followed: 0,
        }
    }

    /// Takes one entry, reading its payload from `archive`.
    pub(crate) fn add<R: Read>(
        &mut self,
        mut entry: Entry,
        archive: &mut TarReader<R>,
    ) -> Result<(), Error> {
        let path = std::mem::take(&mut entry.path);
        let fail = |fault| Error::entry(&path, fault);
        let mut parts = self.clean(&path).map_err(fail)?;
        let Some(name) = parts.pop() else {
            if entry.kind != EntryKind::Directory {
                return Err(fail(EntryFault::RootNotDirectory));
            }
            return self.set_directory(ROOT, &path, &mut entry);
        };
        let Some(parent) = self.walk(&path, &parts, true)? else {
            return Err(fail(EntryFault::LinkLoop));
        };
        // Directories of AUFS's own, `.wh..wh.plnk` and others, hold targets of
        // hard links at the root. They are real until the end.
        let aufs = parent == ROOT && name.starts_with(b".wh..wh.");
        if name == OPAQUE {
            self.tree.inode_mut(parent).data |= DIR_OPAQUE;
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| !aufs) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(fail(EntryFault::Whiteout));
            }
            return self.whiteout(parent, hidden);
        }
        match entry.kind {
            EntryKind::Directory => {
                let node = self.directory(parent, name, 0)?;
                self.set_directory(node, &path, &mut entry)
            }
            EntryKind::HardLink => self.hard_link(&path, parent, name, &entry.link),
            _ => {
                let inode = self.file(&path, &mut entry, archive)?;
                self.tree.insert(parent, name, inode).map(drop)
            }
        }
    }

    /// Ends the tree: gives links their targets, and directories without an entry
    /// their attributes.
    pub(crate) fn complete(&mut self, lean: &mut Lean<'_>) -> Result<(), Error> {
        for node in std::mem::take(&mut self.pending) {
            if !self.tree.is_reachable(node) {
                continue;
            }
            match self.pending_target(node)? {
                Target::Here(target) => {
                    let inode = self.tree.inode_number(target);
                    self.tree.relink(node, inode);
                }
                Target::Beneath(path) => lean.link(self, node, &path)?,
            }
        }
        lean.directories(self)
    }

    /// Follows pending links to what they mean in the end.
    fn pending_target(&mut self, link: u32) -> Result<Target, Error> {
        let fail = |tree: &Tree, fault: fn(Name) -> EntryFault, target: &[u8]| {
            Error::entry(tree.name(link), fault(Name::new(target)))
        };
        let mut node = link;
        for _ in 0..FOLLOW_MAX {
            let path = self.tree.strings.get(self.tree.inode(node).data).to_vec();
            let Some(target) = self.find(&path)? else {
                return Ok(Target::Beneath(path));
            };
            match self.tree.inode(target).kind() {
                Kind::Pending => node = target,
                Kind::Dir => return Err(fail(&self.tree, EntryFault::LinkToDirectory, &path)),
                Kind::Whiteout => return Err(fail(&self.tree, EntryFault::LinkMissing, &path)),
                _ => return Ok(Target::Here(target)),
            }
        }
        Err(Error::entry(self.tree.name(link), EntryFault::LinkLoop))
    }

    fn hard_link(
        &mut self,
        path: &[u8],
        parent: u32,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), Error> {
        let fail = |fault| Error::entry(path, fault);
        if target.is_empty() || target.len() > LINK_MAX {
            return Err(fail(EntryFault::LinkTarget));
        }
        let found = self.find(target)?;
        if found.is_some() && found == self.tree.lookup(parent, name) {
            // A link to itself changes nothing.
            return Ok(());
        }
        let found = found.filter(|&node| {
            !matches!(self.tree.inode(node).kind(), Kind::Pending | Kind::Whiteout)
        });
        let Some(node) = found else {
            self.tree.charge(6 + target.len() as u64)?;
            let mut inode = Inode::new(Kind::Pending, 0);
            inode.data = self.tree.strings.put(target);
            let node = self.tree.insert(parent, name, inode)?;
            self.pending.push(node);
            return Ok(());
        };
        if self.tree.inode(node).kind() == Kind::Dir {
            return Err(fail(EntryFault::LinkToDirectory(Name::new(target))));
        }
        // Counted again in the end, of what is left; this stops excess early.
        let inode = self.tree.inode_mut(node);
        inode.links = inode.links.saturating_add(1);
        if inode.links > LINKS_MAX {
            return Err(fail(EntryFault::TooManyLinks));
        }
        let inode = self.tree.inode_number(node);
        self.tree.link(parent, name, inode).map(drop)
    }

    fn whiteout(&mut self, parent: u32, name: &[u8]) -> Result<(), Error> {
        self.whiteouts += 1;
        match self.tree.lookup(parent, name) {
            Some(node) => {
                let inode = self.tree.inode_mut(node);
                if inode.kind() == Kind::Dir {
                    inode.data |= DIR_OPAQUE | DIR_NEW;
                }
                Ok(())
            }
            None => self
                .tree
                .insert(parent, name, Inode::new(Kind::Whiteout, 0))
                .map(drop),
        }
    }

    /// Finds or makes a directory.
    fn directory(&mut self, parent: u32, name: &[u8], flags: u32) -> Result<u32, Error> {
        let mut inode = Inode::new(Kind::Dir, 0o755);
        inode.data = flags;
        if let Some(node) = self.tree.lookup(parent, name) {
            match self.tree.inode(node).kind() {
                Kind::Dir => return Ok(node),
                Kind::Whiteout => inode.data |= DIR_OPAQUE | DIR_NEW,
                _ => {}
            }
        }
        self.tree.insert(parent, name, inode)
    }

    /// Gives a directory the attributes of its entry.
    fn set_directory(&mut self, node: u32, path: &[u8], entry: &mut Entry) -> Result<(), Error> {
        let mut inode = self.attributes(path, Kind::Dir, entry)?;
        inode.data = self.tree.inode(node).data & !DIR_IMPLIED;
        *self.tree.inode_mut(node) = inode;
        Ok(())
    }

    /// An inode of `kind` with the entry's mode, owner, time and attributes.
    fn attributes(&mut self, path: &[u8], kind: Kind, entry: &mut Entry) -> Result<Inode, Error> {
        let fail = |fault| Error::entry(path, fault);
        let permissions = u16::try_from(entry.mode & 0o7777).unwrap_or(0);
        let mut inode = Inode::new(kind, permissions);
        inode.uid = u32::try_from(entry.uid).map_err(|_| fail(EntryFault::Owner))?;
        inode.gid = u32::try_from(entry.gid).map_err(|_| fail(EntryFault::Owner))?;
        inode.set_mtime(entry.mtime);
        if !entry.xattrs.is_empty() {
            let (entries, dropped) =
                xattr::encode(&mut entry.xattrs, self.limits.xattr_bytes).map_err(fail)?;
            self.dropped_xattrs += dropped;
            let (set, cost) = self.tree.xattrs.intern(entries);
            self.tree.charge(cost)?;
            inode.xattrs = set;
        }
        Ok(inode)
    }

    /// An inode for anything but directories and hard links; a file's content
    /// is written.
    fn file<R: Read>(
        &mut self,
        path: &[u8],
        entry: &mut Entry,
        archive: &mut TarReader<R>,
    ) -> Result<Inode, Error> {
        let fail = |fault| Error::entry(path, fault);
        let kind = match entry.kind {
            EntryKind::Symlink => Kind::Symlink,
            EntryKind::CharDevice => Kind::Char,
            EntryKind::BlockDevice => Kind::Block,
            EntryKind::Fifo => Kind::Fifo,
            _ => match &entry.sparse {
                Some(extents) if has_holes(extents, entry.size) => Kind::Sparse,
                _ => Kind::File,
            },
        };
        let mut inode = self.attributes(path, kind, entry)?;
        match kind {
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > LINK_MAX {
                    return Err(fail(EntryFault::LinkTarget));
                }
                if entry.link.contains(&0) {
                    return Err(fail(EntryFault::Nul));
                }
                self.tree.charge(6 + entry.link.len() as u64)?;
                inode.size = entry.link.len() as u64;
                inode.data = self.tree.strings.put(&entry.link);
            }
            Kind::Char | Kind::Block => {
                let (major, minor) = entry.device;
                inode.data = disk::device_number(major, minor)
                    .ok_or_else(|| fail(EntryFault::Device(major, minor)))?;
            }
            Kind::File if entry.size > 0 => {
                inode.size = entry.size;
                inode.data = self.out.block();
                self.out.copy(archive, entry.size, TarReader::read_error)?;
                self.out.pad()?;
            }
            Kind::Sparse => {
                if entry.size > SPARSE_MAX {
                    return Err(fail(EntryFault::Size(entry.size)));
                }
                inode.size = entry.size;
                let extents = entry.sparse.take().unwrap_or_default();
                let map = self.sparse(&extents, entry.size, archive)?;
                inode.data = u32::try_from(self.chunk_maps.len()).unwrap_or(u32::MAX);
                self.chunk_maps.push(map);
            }
            _ => {}
        }
        Ok(inode)
    }

    /// Writes a sparse file in chunks that are as small as the bound on their
    /// number allows; those without content stay holes.
    fn sparse<R: Read>(
        &mut self,
        extents: &[Extent],
        size: u64,
        archive: &mut TarReader<R>,
    ) -> Result<ChunkMap, Error> {
        let blocks = size.div_ceil(BLOCK as u64);
        let mut bits = 0;
        while blocks.div_ceil(1 << bits) > CHUNKS_MAX {
            bits += 1;
        }
        let chunk = (BLOCK as u64) << bits;
        let count = size.div_ceil(chunk);
        self.tree.charge(count * 4 + 32)?;
        let mut map = vec![HOLE; usize::try_from(count).unwrap_or(0)].into_boxed_slice();

        // The chunk being written, and how far: chunks and extents both ascend.
        let mut open: Option<u64> = None;
        let mut at = 0;
        for extent in extents {
            let (mut offset, mut left) = (extent.offset, extent.length);
            while left > 0 {
                let index = offset / chunk;
                if open != Some(index) {
                    self.close_chunk(open, at, chunk, size)?;
                    if let Some(slot) = map.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
                        *slot = self.out.block();
                    }
                    open = Some(index);
                    at = index * chunk;
                }
                let now = left.min((index + 1) * chunk - offset);
                self.out.zeros(offset - at)?;
                self.out.copy(archive, now, TarReader::read_error)?;
                offset += now;
                at = offset;
                left -= now;
            }
        }
        self.close_chunk(open, at, chunk, size)?;
        Ok(ChunkMap { bits, blocks: map })
    }

    /// Fills the rest of a chunk, or of the file, with zeros.
    fn close_chunk(
        &mut self,
        open: Option<u64>,
        at: u64,
        chunk: u64,
        size: u64,
    ) -> Result<(), Error> {
        let Some(index) = open else { return Ok(()) };
        self.out.zeros(((index + 1) * chunk).min(size) - at)?;
        self.out.pad()
    }

    /// Splits a name into its parts, cleaned as text.
    pub(crate) fn clean<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, EntryFault> {
        if path.len() > self.limits.path_bytes {
            return Err(EntryFault::NameTooLong);
        }
        if path.contains(&0) {
            return Err(EntryFault::Nul);
        }
        let mut parts = Vec::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part if part.len() > NAME_MAX => return Err(EntryFault::NameTooLong),
                part => parts.push(part),
            }
        }
        Ok(parts)
    }

    /// Finds what a path means; its last part is not followed.
    fn find(&mut self, path: &[u8]) -> Result<Option<u32>, Error> {
        let mut parts = self
            .clean(path)
            .map_err(|fault| Error::entry(path, fault))?;
        let Some(name) = parts.pop() else {
            return Ok(Some(ROOT));
        };
        let parent = self.walk(path, &parts, false)?;
        Ok(parent.and_then(|parent| self.tree.lookup(parent, name)))
    }

    /// Walks to a directory, following symbolic links within the root. Makes
    /// what is missing, or returns `None` for it. `path` is for messages.
    pub(crate) fn walk(
        &mut self,
        path: &[u8],
        parts: &[&[u8]],
        make: bool,
    ) -> Result<Option<u32>, Error> {
        let mut node = ROOT;
        let mut depth = 0u32;
        let mut links = 0;
        // Parts still to walk, last first: those of links on top of the path's.
        let mut todo: Vec<Vec<u8>> = Vec::new();
        let mut rest = parts.iter();
        loop {
            let followed;
            let part: &[u8] = match todo.pop() {
                Some(part) => {
                    self.followed += 1;
                    if self.followed > FOLLOWED_PARTS_MAX {
                        return Err(Error::Limit {
                            what: "the number of parts walked through symbolic links",
                            limit: FOLLOWED_PARTS_MAX,
                            unit: "parts",
                        });
                    }
                    followed = part;
                    &followed
                }
                None => match rest.next() {
                    Some(part) => part,
                    None => return Ok(Some(node)),
                },
            };
            if part == b".." {
                node = self.tree.parent(node);
                depth = depth.saturating_sub(1);
                continue;
            }
            let next = match self.tree.lookup(node, part) {
                Some(next) => next,
                None if !make => return Ok(None),
                None => self.directory(node, part, DIR_IMPLIED)?,
            };
            match self.tree.inode(next).kind() {
                Kind::Dir => node = next,
                Kind::Whiteout if make => node = self.directory(node, part, DIR_IMPLIED)?,
                Kind::Symlink => {
                    links += 1;
                    if links > FOLLOW_MAX {
                        return Err(Error::entry(path, EntryFault::LinkLoop));
                    }
                    let target = self.tree.strings.get(self.tree.inode(next).data);
                    if target.starts_with(b"/") {
                        node = ROOT;
                        depth = 0;
                    }
                    let before = todo.len();
                    for part in target.split(|&byte| byte == b'/') {
                        if part.len() > NAME_MAX {
                            return Err(Error::entry(path, EntryFault::NameTooLong));
                        }
                        if !matches!(part, b"" | b".") {
                            todo.push(part.to_vec());
                        }
                    }
                    todo[before..].reverse();
                    continue;
                }
                _ if !make => return Ok(None),
                _ => {
                    let name = Name::new(part);
                    return Err(Error::entry(path, EntryFault::NotADirectory(name)));
                }
            }
            depth += 1;
            if depth > self.limits.depth {
                return Err(Error::Limit {
                    what: "the depth of the directory tree",
                    limit: u64::from(self.limits.depth),
                    unit: "directories",
                });
            }
        }
    }
}

fn has_holes(extents: &[Extent], size: u64) -> bool {
    // Extents do not overlap and lie within the file.
    extents.iter().map(|extent| extent.length).sum::<u64>() < size
}
