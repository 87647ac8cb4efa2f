//! Bounds on what a layer may hold.

/// Bounds on what a layer may hold. A layer is outside input: without bounds it
/// could ask for any amount of memory or disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for what must be remembered until the end of the layer:
    /// names, inodes, link targets, extended attributes. An entry with a name
    /// of 16 bytes counts 94 of it, so that the default of 56 MiB is enough for
    /// 620,000 entries; the process then peaks below 64 MiB.
    pub metadata_bytes: u64,
    /// Entries in the archive, also those that later ones replace.
    pub entries: u64,
    /// Bytes of file content written to the image.
    pub data_bytes: u64,
    /// Bytes of a path, as Linux bounds it.
    pub path_bytes: usize,
    /// Directories above an entry.
    pub depth: u32,
    /// Bytes of all extended attributes of one entry.
    pub xattr_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metadata_bytes: 56 << 20,
            entries: 4_000_000,
            data_bytes: 64 << 30,
            path_bytes: 4096,
            depth: 512,
            xattr_bytes: 128 * 1024,
        }
    }
}
