//! What is beneath a layer: the layers below it as one tree, as overlayfs shows them.

use std::cell::Cell;
use std::io;

use crate::error::Error;
use crate::read::{DIRECTORY, Image, Inode, ReadAt, SYMLINK};
use crate::xattr;

/// Symbolic links followed for one name, as in Linux.
const FOLLOW_MAX: u32 = 40;
/// Names looked up in lower layers for one layer, in each of them. Real layers look up
/// thousands; without a bound small ones could cost hours.
const LOOKUPS_MAX: u64 = 4 << 20;

/// The layers beneath one that is being converted.
///
/// They are asked for only if the layer leans on them: they may not be there yet when
/// its conversion begins.
pub trait Beneath {
    /// Their images, the base first. May wait until they are complete.
    ///
    /// # Errors
    /// One of them is not to be had.
    fn images(&self) -> io::Result<Vec<Image<Box<dyn ReadAt>>>>;
}

/// There is nothing beneath a base layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Beneath for Nothing {
    fn images(&self) -> io::Result<Vec<Image<Box<dyn ReadAt>>>> {
        Ok(Vec::new())
    }
}

/// A stack of images as one tree.
pub(crate) struct Below {
    /// The uppermost first.
    images: Vec<Image<Box<dyn ReadAt>>>,
    lookups: Cell<u64>,
}

/// A directory: what of it is in which image, the uppermost first.
type Merged = Vec<(usize, Inode)>;

/// What a name leads to.
pub(crate) struct Found {
    image: usize,
    pub(crate) inode: Inode,
}

/// A name, in parts, without symbolic links in its parents; and what it leads to.
pub(crate) type Place = (Vec<Vec<u8>>, Found);

impl Below {
    pub(crate) fn new(beneath: &dyn Beneath) -> io::Result<Self> {
        let mut images = beneath.images()?;
        images.reverse();
        Ok(Self {
            images,
            lookups: Cell::new(0),
        })
    }

    /// Finds a name. Its last part is not followed; symbolic links among the others
    /// are if `follow` is set, and otherwise lead nowhere.
    pub(crate) fn find(&self, parts: &[&[u8]], follow: bool) -> Result<Option<Place>, Error> {
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        // The directories on the way, and their names.
        let mut stack: Vec<(Vec<u8>, Merged)> = vec![(Vec::new(), self.merged_root()?)];
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let Some((_, directory)) = stack.last() else {
                return Ok(None);
            };
            let found = self.lookup(directory, &part)?;
            let Some((image, inode)) = found.first().cloned() else {
                return Ok(None);
            };
            if todo.is_empty() {
                let names = stack.into_iter().skip(1).map(|(name, _)| name);
                let names = names.chain([part]).collect();
                return Ok(Some((names, Found { image, inode })));
            }
            match inode.file_type() {
                DIRECTORY => stack.push((part, found)),
                SYMLINK if follow => {
                    links += 1;
                    let Some(holder) = self.images.get(image).filter(|_| links <= FOLLOW_MAX)
                    else {
                        return Ok(None);
                    };
                    let target = holder.target(&inode).map_err(Error::Beneath)?;
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let parts = target.split(|&byte| byte == b'/');
                    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                    todo.extend(parts.rev().map(<[u8]>::to_vec));
                }
                _ => return Ok(None),
            }
        }
        let root = stack.into_iter().next().and_then(|(_, root)| first(&root));
        Ok(root.map(|root| (Vec::new(), root)))
    }

    /// The target of a symbolic link that was found.
    pub(crate) fn target(&self, link: &Found) -> io::Result<Vec<u8>> {
        self.image(link)?.target(&link.inode)
    }

    /// The content of a file that was found.
    pub(crate) fn content(&self, file: &Found) -> io::Result<impl io::Read + '_> {
        self.image(file)?.content(&file.inode)
    }

    /// Its extended attributes, as they are on disk.
    pub(crate) fn xattrs(&self, found: &Found) -> io::Result<Vec<u8>> {
        self.image(found)?.xattrs(&found.inode)
    }

    fn image(&self, found: &Found) -> io::Result<&Image<Box<dyn ReadAt>>> {
        let image = self.images.get(found.image);
        image.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn merged_root(&self) -> Result<Merged, Error> {
        let roots = self.images.iter().map(Image::root);
        let roots = roots.collect::<io::Result<Vec<_>>>();
        self.down_to_opaque(roots.map_err(Error::Beneath)?.into_iter().enumerate())
    }

    /// A name in a directory: of a directory all that merges, of anything else the
    /// uppermost; nothing if it is not there.
    fn lookup(&self, directory: &Merged, name: &[u8]) -> Result<Merged, Error> {
        let mut found: Merged = Vec::new();
        for (index, inode) in directory {
            let Some(image) = self.images.get(*index) else {
                continue;
            };
            self.lookups.set(self.lookups.get() + 1);
            if self.lookups.get() > LOOKUPS_MAX {
                return Err(Error::Limit {
                    what: "the number of names looked up in lower layers",
                    limit: LOOKUPS_MAX,
                    unit: "names",
                });
            }
            let Some(inode) = image.lookup(inode, name).map_err(Error::Beneath)? else {
                continue;
            };
            if inode.is_whiteout() {
                break;
            }
            let is_directory = inode.file_type() == DIRECTORY;
            if !is_directory && !found.is_empty() {
                break;
            }
            found.push((*index, inode));
            if !is_directory {
                break;
            }
        }
        self.down_to_opaque(found.into_iter())
    }

    fn down_to_opaque(&self, found: impl Iterator<Item = (usize, Inode)>) -> Result<Merged, Error> {
        let mut merged = Vec::new();
        for (index, inode) in found {
            let xattrs = self.images.get(index).map(|image| image.xattrs(&inode));
            let xattrs = xattrs.transpose().map_err(Error::Beneath)?;
            merged.push((index, inode));
            if xattr::is_opaque(&xattrs.unwrap_or_default()) {
                break;
            }
        }
        Ok(merged)
    }
}

fn first(merged: &Merged) -> Option<Found> {
    let (image, inode) = merged.first().cloned()?;
    Some(Found { image, inode })
}
