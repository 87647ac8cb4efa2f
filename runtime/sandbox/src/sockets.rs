//! Unix sockets by path, however long the path is.
//!
//! `sun_path` has 108 bytes. A longer path is reached through the directory's
//! descriptor: `/proc/self/fd/N/name`.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

/// Longest path that fits with its terminating zero: unix(7).
const MAX_PATH: usize = 107;

/// A name for `path` that fits, with what must stay open while it is used.
fn short(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().as_bytes().len() <= MAX_PATH {
        return Ok((path.to_owned(), None));
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    let through = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
    Ok((through.join(name), Some(dir)))
}

/// Makes a listening socket. The path must not exist.
///
/// # Errors
/// Whatever the kernel says.
pub fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let (name, _dir) = short(path)?;
    std::os::unix::net::UnixListener::bind(name)
}

/// Connects to a listening socket.
///
/// # Errors
/// Whatever the kernel says.
pub async fn connect(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let (name, _dir) = short(path)?;
    tokio::net::UnixStream::connect(name).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn paths_of_any_length_work() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["s", &"x".repeat(90)] {
            let sub = dir.path().join("d".repeat(name.len()));
            std::fs::create_dir(&sub).unwrap();
            let path = sub.join(name);
            let listener = listen(&path).unwrap();
            connect(&path)
                .await
                .unwrap()
                .write_all(b"hi")
                .await
                .unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let mut got = String::new();
            let mut stream = tokio::net::UnixStream::from_std(accepted).unwrap();
            stream.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "hi");
        }
    }
}
