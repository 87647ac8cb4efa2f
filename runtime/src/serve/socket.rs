//! The socket, and the lock that keeps a second daemon away.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

use crate::error::{Error, Result};

/// Owner and group may connect: root, and whom root lets into its group.
const SOCKET_MODE: u32 = 0o660;

/// How long a dead daemon's lock may still be held. One that was killed while it
/// started a process leaves a copy of its descriptors with that process, until the
/// program is executed.
const LEFT_BEHIND: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock for as long as the file is kept open; it ends with the process.
///
/// # Errors
/// Another daemon has it, and keeps it for three seconds.
pub(super) async fn lock(path: &Path) -> Result<File> {
    let failed = |error: io::Error| Error::internal(format!("lock {}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let deadline = Instant::now() + LEFT_BEHIND;
    while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(errno.into()));
        }
        if Instant::now() >= deadline {
            let holder = fs::read_to_string(path).unwrap_or_default();
            return Err(Error::precondition(format!(
                "another daemon (process {}) has {}; end it first, or give this one directories of \
                 its own (paths.run_dir, paths.state_dir)",
                holder.trim(),
                path.display()
            )));
        }
        sleep(PAUSE).await;
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Listens on a socket that appears with its final mode, in place of one that a
/// daemon before left.
///
/// # Errors
/// Somebody else listens there, or something else is there.
pub(super) async fn listen(path: &Path) -> Result<UnixListener> {
    let failed = |error: io::Error| {
        Error::internal(format!("listen on the socket {}: {error}", path.display()))
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::precondition(format!(
                "{} is there and is no socket; move it away, or set paths.socket",
                path.display()
            )));
        }
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(Error::precondition(format!(
                    "somebody else listens on {}; end that, or set paths.socket",
                    path.display()
                )));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    remove(new);
    let listener = UnixListener::bind(new).map_err(failed)?;
    fs::set_permissions(new, Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    fs::rename(new, path).map_err(failed)?;
    Ok(listener)
}

/// Removes a socket, if it is there.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not be removed");
    }
}

/// Removes the files of a directory that only holds files.
///
/// # Errors
/// It can't be read.
pub(super) fn empty_directory(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::internal(format!("empty {}: {error}", path.display()));
    for entry in fs::read_dir(path).map_err(failed)? {
        remove(&entry.map_err(failed)?.path());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[tokio::test(start_paused = true)]
    async fn a_second_daemon_is_kept_away_and_told_by_whom() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let held = lock(&path).await.unwrap();
        let error = lock(&path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(held);
        lock(&path).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_daemon_left_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lock");
        let copy = lock(&path).await.unwrap().try_clone().unwrap();
        let (second, ()) = tokio::join!(lock(&path), async {
            sleep(LEFT_BEHIND / 2).await;
            drop(copy);
        });
        second.unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run/b.sock");
        drop(listen(&path).await.unwrap());
        let listener = listen(&path).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            SOCKET_MODE
        );
        let error = listen(&path).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        UnixStream::connect(&path).await.unwrap();
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(
            listen(&path).await.unwrap_err().kind(),
            Kind::FailedPrecondition
        );
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
