//! What is beneath a layer: the layers below it as one tree, as overlayfs shows them.

use std::io;

use crate::read::{DIRECTORY, Image, Inode, ReadAt, SYMLINK};
use crate::xattr;

/// Symbolic links followed for one name, as in Linux.
const FOLLOW_MAX: u32 = 40;
/// Name parts walked for one name.
const PARTS_MAX: u32 = 4096;

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
        Ok(Self { images })
    }

    /// The root directory, if there is any layer.
    pub(crate) fn root(&self) -> io::Result<Option<Found>> {
        Ok(first(&self.merged_root()?))
    }

    /// Finds a name. Its last part is not followed; symbolic links among the others
    /// are if `follow` is set, and otherwise lead nowhere.
    pub(crate) fn find(&self, parts: &[&[u8]], follow: bool) -> io::Result<Option<Place>> {
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        // The directories on the way, and their names.
        let mut stack: Vec<(Vec<u8>, Merged)> = vec![(Vec::new(), self.merged_root()?)];
        let (mut links, mut walked) = (0, 0);
        while let Some(part) = todo.pop() {
            walked += 1;
            if walked > PARTS_MAX {
                return Ok(None);
            }
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
                    let target = holder.target(&inode)?;
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
        let root = stack.first().and_then(|(_, root)| first(root));
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

    fn image(&self, found: &Found) -> io::Result<&Image<Box<dyn ReadAt>>> {
        let image = self.images.get(found.image);
        image.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn merged_root(&self) -> io::Result<Merged> {
        let roots = self.images.iter().map(Image::root);
        let roots = roots.collect::<io::Result<Vec<_>>>()?;
        Ok(down_to_opaque(roots.into_iter().enumerate()))
    }

    /// A name in a directory: of a directory all that merges, of anything else the
    /// uppermost; nothing if it is not there.
    fn lookup(&self, directory: &Merged, name: &[u8]) -> io::Result<Merged> {
        let mut found: Merged = Vec::new();
        for (index, inode) in directory {
            let Some(image) = self.images.get(*index) else {
                continue;
            };
            let Some(inode) = image.lookup(inode, name)? else {
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
        Ok(down_to_opaque(found.into_iter()))
    }
}

fn down_to_opaque(found: impl Iterator<Item = (usize, Inode)>) -> Merged {
    let mut merged = Vec::new();
    for (index, inode) in found {
        let opaque = xattr::is_opaque(&inode.xattrs);
        merged.push((index, inode));
        if opaque {
            break;
        }
    }
    merged
}

fn first(merged: &Merged) -> Option<Found> {
    let (image, inode) = merged.first().cloned()?;
    Some(Found { image, inode })
}
