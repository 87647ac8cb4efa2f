//! Bounds on what an import accepts.

/// Bounds on what an import accepts, and on what images take. Everything in an image is outside input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest or an index. Registries refuse more than 4 MiB.
    pub manifest_bytes: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Bytes of manifests, indexes and configurations of all images in one archive: they are
    /// in memory until the last of them is known.
    pub documents_bytes: u64,
    /// How deeply indexes may point to indexes.
    pub index_depth: u32,
    /// Manifests in one index.
    pub index_entries: usize,
    /// Files in an archive.
    pub archive_entries: u64,
    /// Bytes of a whole archive once it is decompressed.
    pub archive_bytes: u64,
    /// Bytes of one layer once it is decompressed.
    pub layer_bytes: u64,
    /// Largest window of a zstd layer, as a power of two: this much memory is
    /// needed to decompress it.
    pub zstd_window_log: u32,
    /// Bytes that all images may take.
    pub store_bytes: u64,
    /// Bytes that stay free on the store's file system.
    pub free_bytes: u64,
    /// Bounds on the layer's file system.
    pub erofs: bulkhead_erofs::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            documents_bytes: 64 << 20,
            index_depth: 4,
            index_entries: 1024,
            archive_entries: 65_536,
            archive_bytes: 256 << 30,
            layer_bytes: 64 << 30,
            // 8 MiB is what every decoder must support (RFC 8878 3.1.1.1.2);
            // layers of higher levels use up to 32 MiB.
            zstd_window_log: 25,
            store_bytes: u64::MAX,
            free_bytes: 0,
            erofs: bulkhead_erofs::Limits::default(),
        }
    }
}
