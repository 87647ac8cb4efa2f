//! What a layer takes from those beneath it.
//!
//! containerd applies a layer to a tree that has the lower ones in it already, and so
//! an entry can mean something that is not in its own layer:
//!
//! * A hard link's target may be a file of a lower layer. That file is copied into this
//!   one, under both names: then they are one inode, as they would be after a copy-up.
//! * An entry's parents may have no entries of their own. They are those of the lower
//!   layer, with its attributes; and where the lower layer has a symbolic link there,
//!   the entry is where that leads.
//!
//! Only a layer that does such a thing depends on what is beneath it; for any other,
//! nobody is asked.

use std::io::{Seek, Write};

use crate::below::{Below, Beneath, Found};
use crate::build::Builder;
use crate::disk::NAME_MAX;
use crate::error::{EntryFault, Error, Name};
use crate::read::{self, DIRECTORY};
use crate::tree::{DIR_IMPLIED, DIR_NEW, DIR_OPAQUE, Inode, Kind, ROOT};
use crate::xattr;

/// Directories that lower layers' symbolic links lead elsewhere, in one layer. Real ones
/// have a few (`/lib`, `/bin`); each costs a walk through the tree.
const REDIRECTS_MAX: u32 = 256;

/// The layers beneath, once they are asked for.
pub(crate) struct Lean<'b> {
    beneath: &'b dyn Beneath,
    below: Option<Below>,
    /// Whether they were asked: on others the layer may be another one.
    pub(crate) leans: bool,
    redirects: u32,
}

impl<'b> Lean<'b> {
    pub(crate) fn new(beneath: &'b dyn Beneath) -> Self {
        Self {
            beneath,
            below: None,
            leans: false,
            redirects: 0,
        }
    }

    fn below(&mut self) -> Result<&Below, Error> {
        let below = match self.below.take() {
            Some(below) => below,
            None => Below::new(self.beneath).map_err(Error::Beneath)?,
        };
        Ok(self.below.insert(below))
    }

    /// Copies the file that a hard link means into the layer, under its own name and
    /// the link's.
    pub(crate) fn link<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<'_, W>,
        link: u32,
        target: &[u8],
    ) -> Result<(), Error> {
        let missing = |builder: &Builder<'_, W>, fault: fn(Name) -> EntryFault| {
            Error::entry(builder.tree.name(link), fault(Name::new(target)))
        };
        let parts = builder
            .clean(target)
            .map_err(|fault| Error::entry(target, fault))?;
        // What is there, or is not, is another thing on another base.
        self.leans = true;
        let below = self.below()?;
        let found = below.find(&parts, true)?;
        let Some((place, found)) = found else {
            return Err(missing(builder, EntryFault::LinkMissing));
        };
        if found.inode.file_type() == DIRECTORY {
            return Err(missing(builder, EntryFault::LinkToDirectory));
        }
        let parts: Vec<&[u8]> = place.iter().map(Vec::as_slice).collect();
        let Some((name, parents)) = parts.split_last() else {
            return Err(missing(builder, EntryFault::LinkToDirectory));
        };
        let Some(parent) = builder.walk(target, parents, true)? else {
            return Err(missing(builder, EntryFault::LinkMissing));
        };
        let node = match builder.tree.lookup(parent, name) {
            // Where the way there leads through this layer, it may have it after all.
            Some(node) => match builder.tree.inode(node).kind() {
                Kind::Dir => return Err(missing(builder, EntryFault::LinkToDirectory)),
                Kind::Whiteout | Kind::Pending => {
                    return Err(missing(builder, EntryFault::LinkMissing));
                }
                _ => node,
            },
            None => {
                let inode = copy(builder, below, &found)?;
                builder.tree.insert(parent, name, inode)?
            }
        };
        let inode = builder.tree.inode_number(node);
        builder.tree.relink(link, inode);
        Ok(())
    }

    /// Gives directories that the archive only implies the attributes that they have
    /// beneath; or moves what is in them to where symbolic links lead.
    pub(crate) fn directories<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<'_, W>,
    ) -> Result<(), Error> {
        // Not the root: a container's is its writable layer's.
        let mut node = ROOT + 1;
        // Those that come to be on the way are looked at as well.
        while node < builder.tree.node_count() {
            let implied = !builder.tree.is_replaced(node)
                && builder.tree.inode(node).kind() == Kind::Dir
                && builder.tree.inode(node).data & DIR_IMPLIED != 0;
            if implied
                && !is_cut_off(builder, node)
                && builder.tree.is_reachable(node)
                && self.directory(builder, node)?
            {
                // What was moved may have been looked at too early.
                node = ROOT;
            }
            node += 1;
        }
        Ok(())
    }

    /// Whether what is in it was moved.
    fn directory<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<'_, W>,
        node: u32,
    ) -> Result<bool, Error> {
        let path = path_of(builder, node);
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        // What is there, or is not, is another thing on another base.
        self.leans = true;
        let below = self.below()?;
        let Some((_, found)) = below.find(&parts, false)? else {
            return Ok(false);
        };
        match found.inode.file_type() {
            DIRECTORY => {
                adopt(builder, node, below, &found)?;
                Ok(false)
            }
            read::SYMLINK => {
                let target = below.target(&found).map_err(Error::Beneath)?;
                self.redirect(builder, node, &path, &target)?;
                Ok(true)
            }
            // What is no directory is in the way, and this layer's takes its place.
            _ => Ok(false),
        }
    }

    /// Moves what is in a directory to where a symbolic link in its place leads.
    fn redirect<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<'_, W>,
        node: u32,
        path: &[Vec<u8>],
        target: &[u8],
    ) -> Result<(), Error> {
        let shown = path.join(&b'/');
        self.redirects += 1;
        if self.redirects > REDIRECTS_MAX {
            return Err(Error::entry(&shown, EntryFault::LinkLoop));
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        if !target.starts_with(b"/") {
            let parents = path.len().saturating_sub(1);
            parts.extend(path.iter().take(parents).map(Vec::as_slice));
        }
        let target = target.split(|&byte| byte == b'/');
        parts.extend(target.filter(|part| !matches!(*part, b"" | b".")));
        if parts.iter().any(|part| part.len() > NAME_MAX) {
            return Err(Error::entry(&shown, EntryFault::NameTooLong));
        }
        let opaque = builder.tree.inode(node).data & (DIR_OPAQUE | DIR_NEW);
        builder.tree.detach(node);
        let Some(into) = builder.walk(&shown, &parts, true)? else {
            return Err(Error::entry(&shown, EntryFault::LinkLoop));
        };
        builder.tree.inode_mut(into).data |= opaque;
        builder.tree.merge(node, into)
    }
}

/// Whether a directory has nothing to do with what is beneath it: this layer has removed
/// that, or one above it hides what it holds. One that is opaque itself hides only what
/// is in it.
fn is_cut_off<W: Write + Seek>(builder: &Builder<'_, W>, mut node: u32) -> bool {
    let tree = &builder.tree;
    if tree.is_replaced(node) || tree.inode(node).data & DIR_NEW != 0 {
        return true;
    }
    while node != ROOT {
        node = tree.parent(node);
        if tree.is_replaced(node) || tree.inode(node).data & DIR_OPAQUE != 0 {
            return true;
        }
    }
    false
}

fn path_of<W: Write + Seek>(builder: &Builder<'_, W>, mut node: u32) -> Vec<Vec<u8>> {
    let mut path = Vec::new();
    while node != ROOT {
        path.push(builder.tree.name(node).to_vec());
        node = builder.tree.parent(node);
    }
    path.reverse();
    path
}

/// Gives a directory the attributes of another one.
fn adopt<W: Write + Seek>(
    builder: &mut Builder<'_, W>,
    node: u32,
    below: &Below,
    found: &Found,
) -> Result<(), Error> {
    let mut inode = attributes(builder, Kind::Dir, below, found)?;
    inode.data = builder.tree.inode(node).data & !DIR_IMPLIED;
    *builder.tree.inode_mut(node) = inode;
    Ok(())
}

fn attributes<W: Write + Seek>(
    builder: &mut Builder<'_, W>,
    kind: Kind,
    below: &Below,
    found: &Found,
) -> Result<Inode, Error> {
    let from = &found.inode;
    let mut inode = Inode::new(kind, from.mode & 0o7777);
    (inode.uid, inode.gid) = (from.uid, from.gid);
    inode.set_mtime(from.mtime);
    let xattrs = below.xattrs(found).map_err(Error::Beneath)?;
    let xattrs = xattr::without_opaque(&xattrs);
    let (set, cost) = builder.tree.xattrs.intern(xattrs);
    builder.tree.charge(cost)?;
    inode.xattrs = set;
    Ok(inode)
}

/// An inode like one beneath, with its content.
fn copy<W: Write + Seek>(
    builder: &mut Builder<'_, W>,
    below: &Below,
    found: &Found,
) -> Result<Inode, Error> {
    let from = &found.inode;
    let kind = match from.file_type() {
        read::REGULAR => Kind::File,
        read::SYMLINK => Kind::Symlink,
        read::CHARACTER => Kind::Char,
        0x6000 => Kind::Block,
        _ => Kind::Fifo,
    };
    let mut inode = attributes(builder, kind, below, found)?;
    match kind {
        Kind::File if from.size > 0 => {
            inode.size = from.size;
            inode.data = builder.out.block();
            let mut content = below.content(found).map_err(Error::Beneath)?;
            builder
                .out
                .copy(&mut content, from.size, |_, error| Error::Beneath(error))?;
            builder.out.pad()?;
        }
        Kind::Symlink => {
            let target = below.target(found).map_err(Error::Beneath)?;
            builder.tree.charge(6 + target.len() as u64)?;
            inode.size = target.len() as u64;
            inode.data = builder.tree.strings.put(&target);
        }
        Kind::Char | Kind::Block => inode.data = from.device,
        _ => {}
    }
    Ok(inode)
}
