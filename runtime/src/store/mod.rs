//! Records that outlive the daemon.
//!
//! A record of an *intent* (a pod is being made, a container is being removed) is
//! on disk before the first side effect; a record of a *fact* (it is ready, it has
//! exited) follows it. After a crash at any point the reconciler can therefore
//! find everything that may exist, and either keep it whole or remove it.
//!
//! [`Records`] is the whole interface: load everything once, commit changes
//! atomically. [`Database`] is the one on disk. Nothing reads the disk to answer a
//! call: that is the model's job (`pods::model`).

mod commit;
mod database;
mod record;

use std::sync::Arc;

use async_trait::async_trait;

pub use database::Database;
pub use record::{
    ContainerKey, ContainerPhase, ContainerRecord, PhaseTiming, PodKey, PodPhase, PodRecord,
};

/// One change; changes committed together are all made or none.
#[derive(Clone, Debug)]
pub enum Change {
    /// Inserts or replaces a pod.
    PutPod(Arc<PodRecord>),
    /// Forgets a pod.
    DropPod(String),
    /// Inserts or replaces a container.
    PutContainer(Arc<ContainerRecord>),
    /// Forgets a container.
    DropContainer(String),
    /// Remembers a setting that a client made.
    PutSetting(Setting, String),
}

/// Settings that clients make and that outlive the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// The pod CIDR from UpdateRuntimeConfig.
    PodCidr,
}

impl Setting {
    fn key(self) -> &'static str {
        match self {
            Self::PodCidr => "pod-cidr",
        }
    }
}

/// Everything that was on record.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All readable pods.
    pub pods: Vec<PodRecord>,
    /// All readable containers.
    pub containers: Vec<ContainerRecord>,
    /// The pod CIDR that a client set.
    pub pod_cidr: Option<String>,
    /// What could not be read and was set aside, for people.
    pub quarantined: Vec<String>,
}

/// Keeps records.
#[async_trait]
pub trait Records: Send + Sync {
    /// Reads everything. Called once, before the first commit.
    ///
    /// # Errors
    /// When the store as a whole is unreadable. A single unreadable record is set
    /// aside and named in [`Loaded::quarantined`].
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// Makes the changes durable: they are on disk when this returns `Ok`.
    ///
    /// # Errors
    /// None of the changes is made then. (After an I/O error the disk may still
    /// turn out to have them at the next start: the reconciler copes with both.)
    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError>;
}

/// The store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened.
    #[error("open state database {path}: {reason}")]
    Open {
        /// The file.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Reading failed.
    #[error("read state database: {reason}")]
    Read {
        /// Why.
        reason: String,
    },
    /// A commit failed.
    #[error("write state database: {reason}")]
    Commit {
        /// Why.
        reason: String,
        /// Whether the disk is full.
        full: bool,
    },
}

impl StoreError {
    /// Whether more space would help.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Commit { full: true, .. })
    }
}
