use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::{
    store::{ContainerPhase, PodPhase},
    testing::records,
};

fn put_pod(id: &str) -> Change {
    Change::PutPod(Arc::new(records::pod(id, PodPhase::Ready)))
}

fn put_container(id: &str, pod: &str) -> Change {
    Change::PutContainer(Arc::new(records::container(
        id,
        pod,
        ContainerPhase::Running,
    )))
}

async fn ids(db: &Database) -> (Vec<String>, Vec<String>) {
    let loaded = db.load().await.unwrap();
    let pods = loaded.pods.into_iter().map(|pod| pod.id).collect();
    (
        pods,
        loaded.containers.into_iter().map(|it| it.id).collect(),
    )
}

#[tokio::test]
async fn what_was_committed_is_there_again() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    {
        let db = Database::open(&path).unwrap();
        db.commit(vec![put_pod("p"), put_pod("q"), put_container("c", "p")])
            .await
            .unwrap();
        db.commit(vec![Change::DropPod("q".into())]).await.unwrap();
        let cidr = Change::PutSetting(Setting::PodCidr, "10.0.0.0/24".into());
        db.commit(vec![cidr]).await.unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let db = Database::open(&path).unwrap();
    let loaded = db.load().await.unwrap();
    assert_eq!(loaded.pods, [records::pod("p", PodPhase::Ready)]);
    assert_eq!(
        loaded.containers,
        [records::container("c", "p", ContainerPhase::Running)]
    );
    assert_eq!(loaded.pod_cidr.as_deref(), Some("10.0.0.0/24"));
    assert!(loaded.quarantined.is_empty());
}

#[tokio::test]
async fn many_commits_at_once_share_transactions() {
    let temp = tempfile::tempdir().unwrap();
    let db = Arc::new(Database::open(&temp.path().join("state.redb")).unwrap());
    let commits = (0..200).map(|n| {
        let db = Arc::clone(&db);
        tokio::spawn(async move { db.commit(vec![put_pod(&format!("{n:03}"))]).await })
    });
    for commit in commits.collect::<Vec<_>>() {
        commit.await.unwrap().unwrap();
    }
    assert_eq!(ids(&db).await.0.len(), 200);
}

#[tokio::test]
async fn a_second_opener_and_a_newer_layout_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    let db = Database::open(&path).unwrap();
    assert!(matches!(
        Database::open(&path),
        Err(StoreError::Open { .. })
    ));
    {
        let transaction = db.db.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert("schema", 2)
            .unwrap();
        transaction.commit().unwrap();
    }
    drop(db);
    let error = Database::open(&path).err().unwrap().to_string();
    assert!(
        error.contains("version 2") && error.contains("version 1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    std::fs::write(&path, vec![7u8; 8192]).unwrap();
    let error = Database::open(&path).err().unwrap().to_string();
    assert!(error.contains("move it away"), "{error}");
}

#[tokio::test]
async fn one_unreadable_record_is_set_aside() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("state.redb");
    let db = Database::open(&path).unwrap();
    db.commit(vec![put_pod("good"), put_container("c", "good")])
        .await
        .unwrap();
    {
        let transaction = db.db.begin_write().unwrap();
        {
            let mut pods = transaction.open_table(PODS).unwrap();
            pods.insert("bad", &b"{ not json"[..]).unwrap();
            let alias = json(&records::pod("other", PodPhase::Ready)).unwrap();
            pods.insert("misnamed", alias.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let loaded = db.load().await.unwrap();
    assert_eq!(loaded.pods.len(), 1);
    assert_eq!(loaded.quarantined.len(), 2, "{:?}", loaded.quarantined);
    // Once only: the next start is quiet, and the bytes are kept.
    assert!(db.load().await.unwrap().quarantined.is_empty());
    let reading = db.db.begin_read().unwrap();
    let aside = reading.open_table(QUARANTINE).unwrap();
    assert_eq!(
        aside.get("pods/bad").unwrap().unwrap().value(),
        b"{ not json"
    );
}

/// Storage that can be stopped from outside at any operation, as a disk or a
/// machine may, and looked at afterwards.
#[derive(Debug, Clone)]
struct Failing {
    bytes: Arc<Mutex<Vec<u8>>>,
    left: Arc<AtomicUsize>,
}

impl Failing {
    fn new(bytes: Vec<u8>, operations: usize) -> Self {
        Self {
            bytes: Arc::new(Mutex::new(bytes)),
            left: Arc::new(AtomicUsize::new(operations)),
        }
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> io::Result<()> {
        let take = |left: usize| left.checked_sub(1);
        match self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left")),
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = index(offset);
        out.copy_from_slice(&self.bytes()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change()?;
        self.bytes().resize(index(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change()?;
        let start = index(offset);
        self.bytes()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn whatever_operation_fails_a_commit_is_whole_or_not_at_all() {
    let base = Failing::new(Vec::new(), usize::MAX);
    {
        let db = Database::open_on(base.clone()).unwrap();
        db.commit(vec![put_pod("old"), put_container("oldc", "old")])
            .await
            .unwrap();
    }
    let image = base.bytes().clone();
    let old = (vec!["old".to_owned()], vec!["oldc".to_owned()]);
    let new = (
        vec!["new".to_owned(), "old".to_owned()],
        vec!["newc".to_owned()],
    );
    let (mut failures, mut operations) = (0, 0);
    loop {
        let storage = Failing::new(image.clone(), operations);
        let mut committed = false;
        if let Ok(db) = Database::open_on(storage.clone()) {
            let changes = vec![
                put_pod("new"),
                put_container("newc", "new"),
                Change::DropContainer("oldc".into()),
            ];
            match db.commit(changes).await {
                Ok(()) => committed = true,
                Err(error) => {
                    failures += 1;
                    assert!(error.to_string().contains("state database"), "{error}");
                }
            }
        }
        // The machine comes back with what reached its disk.
        let after = Failing::new(storage.bytes().clone(), usize::MAX);
        let found = ids(&Database::open_on(after).unwrap()).await;
        assert!(found == old || found == new, "{operations}: {found:?}");
        if committed {
            assert_eq!(found, new, "{operations}");
            break;
        }
        operations += 1;
    }
    assert!(
        failures > 3,
        "only {failures} failed commits in {operations} operations"
    );
}

#[tokio::test]
async fn a_full_disk_is_told_apart() {
    let storage = Failing::new(Vec::new(), usize::MAX);
    let db = Database::open_on(storage.clone()).unwrap();
    storage.left.store(0, Ordering::SeqCst);
    let error = db.commit(vec![put_pod("p")]).await.unwrap_err();
    assert!(error.is_full(), "{error}");
}
