//! What the store knows about an image.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::ImageConfig;
use crate::digest::Digest;

/// An image that is whole and can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The image id: the digest of its configuration.
    pub id: Digest,
    /// Names with a tag, normalised: `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Names with the digest of the manifest or index they were found under:
    /// `docker.io/library/busybox@sha256:…`. Empty for docker archives, which
    /// carry no manifest.
    pub repo_digests: Vec<String>,
    /// Bytes of the image's layers as the store keeps them.
    pub size_bytes: u64,
    /// What a container of it runs.
    pub config: ImageConfig,
    /// The file systems, base first, to be stacked in this order. A layer that
    /// occurs twice in the configuration is here once, at its upper place: its
    /// lower occurrence cannot be seen.
    pub layers: Vec<Layer>,
    /// When it came into this store.
    pub imported_at: SystemTime,
    /// Pinned images are not offered for garbage collection.
    pub pinned: bool,
}

/// One layer as an EROFS image file, read-only and shared by every pod that
/// uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed layer archive: the layer's identity.
    pub diff_id: Digest,
    /// The EROFS image; its length is a multiple of 4096 bytes.
    pub erofs_path: PathBuf,
    /// Its length in bytes.
    pub erofs_bytes: u64,
}

/// What the image file system holds, for CRI's ImageFsInfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// The store's directory.
    pub path: PathBuf,
    /// Bytes that its files occupy on disk.
    pub used_bytes: u64,
    /// Files and directories in it.
    pub inodes_used: u64,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The image that is gone from every list.
    pub id: Digest,
    /// The names that it had.
    pub repo_tags: Vec<String>,
    /// Bytes freed at once. Layers that another image or a pod still uses stay;
    /// those of pods go with the last [`crate::Hold`].
    pub freed_bytes: u64,
}

/// Something in the store that is damaged and was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is damaged: an image id, or the key of an unreadable record.
    pub what: String,
    /// What is wrong and what mends it.
    pub reason: String,
}

/// What a look at all of the store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Images that can be run.
    pub images: usize,
    /// Layers that were read.
    pub layers: usize,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// What is damaged, or was.
    pub problems: Vec<Problem>,
    /// Whether it was taken out of the store.
    pub repaired: bool,
}
