//! What the agent says to its container helper, over a socket pair.
//!
//! One request, one reply, both JSON behind a little-endian `u32` length.
//! Descriptors travel with the request's first bytes (SCM_RIGHTS). Both ends are
//! the same binary, so nothing here is versioned.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use oci_spec::runtime::{Process, Spec};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{binds::HostBind, seccomp::Filter, users::UserRequest};
use crate::sys::SockFilter;

/// Most descriptors with a message: a status pipe and three streams.
const MAX_FDS: usize = 4;
/// Largest message: a specification is at most a ttrpc message.
const MAX_MESSAGE: usize = 32 << 20;

/// What a helper is to do. Descriptors: the status pipe, then stdin, stdout and
/// stderr unless there is a terminal.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Make a container up to its execve.
    Create(Box<Create>),
    /// Run a further process in a container.
    Exec(Box<Exec>),
    /// Start a process that holds a PID namespace open for the pod.
    Pause,
}

/// See [`Job::Create`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's own directory.
    pub dir: PathBuf,
    /// Directory of layers, and the container's, topmost first.
    pub layers_dir: PathBuf,
    /// Names in `layers_dir`.
    pub layers: Vec<String>,
    /// Holds `upper` and `work`.
    pub upper: PathBuf,
    /// To be prepared for the specification's mounts.
    pub binds: Vec<HostBind>,
    /// Prepared by `spec`.
    pub spec: Spec,
    /// Resolved in the root file system, in place of the specification's.
    pub user: Option<UserRequest>,
    /// What to do just before the execve.
    pub launch: Launch,
}

/// See [`Job::Exec`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container's own directory.
    pub dir: PathBuf,
    /// Name for this process's files in it.
    pub name: String,
    /// The container's init, in the agent's PID namespace.
    pub init: i32,
    /// Checked by `spec`.
    pub process: Process,
    /// As in [`Create`].
    pub user: Option<UserRequest>,
    /// Below the container's cgroup; exists.
    pub cgroup: String,
    /// What to do just before the execve.
    pub launch: Launch,
}

/// What remains to be done in the process itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Launch {
    /// Seccomp filter: instructions packed into 64 bits each, and its flags.
    pub seccomp: Option<(Vec<u64>, u64)>,
    /// CAP_SYS_ADMIN was lent for the filter and must go.
    pub drop_sys_admin: bool,
    /// Rows and columns of the terminal.
    pub window: Option<(u32, u32)>,
    /// Variables that JSON can't hold, beside those of the process.
    #[serde(default)]
    pub raw_env: Vec<Vec<u8>>,
}

impl Launch {
    /// Packs a filter.
    #[must_use]
    pub fn with_seccomp(mut self, filter: Option<&Filter>) -> Self {
        self.seccomp = filter.map(|filter| {
            let pack = |i: &SockFilter| {
                u64::from(i.code) << 48
                    | u64::from(i.jt) << 40
                    | u64::from(i.jf) << 32
                    | u64::from(i.k)
            };
            (filter.program.iter().map(pack).collect(), filter.flags)
        });
        self
    }

    /// Unpacks it again.
    #[must_use]
    pub fn filter(&self) -> Option<Filter> {
        self.seccomp.as_ref().map(|(packed, flags)| {
            let unpack = |packed: &u64| {
                let [a, b, jt, jf, k @ ..] = packed.to_be_bytes();
                SockFilter {
                    code: u16::from_be_bytes([a, b]),
                    jt,
                    jf,
                    k: u32::from_be_bytes(k),
                }
            };
            Filter {
                program: packed.iter().map(unpack).collect(),
                flags: *flags,
            }
        })
    }
}

/// What became of a job.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Made {
        /// In the agent's PID namespace.
        pid: i32,
        /// Who the process runs as.
        uid: u32,
        /// Its primary group.
        gid: u32,
        /// All its groups.
        groups: Vec<u32>,
    },
    /// Not done, and nothing left running.
    Failed {
        /// A ttrpc status code.
        code: i32,
        /// For the operator.
        what: String,
    },
}

/// Sends a message.
///
/// # Errors
/// When the other end is gone.
pub fn send<T: Serialize>(
    to: &mut UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors"));
    }
    let len = len.to_le_bytes();
    // Four bytes on an empty socket are never sent in part.
    retry_on_intr(|| {
        sendmsg(
            to.as_fd(),
            &[IoSlice::new(&len)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    to.write_all(&body)
}

/// Receives a message and its descriptors.
///
/// # Errors
/// When the other end is gone, or what came is no such message.
pub fn receive<T: DeserializeOwned>(from: &mut UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut len = [0; 4];
    // With a timeout set, a SIGCHLD interrupts even where SA_RESTART asks not to.
    let got = retry_on_intr(|| {
        recvmsg(
            from.as_fd(),
            &mut [IoSliceMut::new(&mut len)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if got.bytes < len.len() {
        let rest = len.get_mut(got.bytes..).unwrap_or(&mut []);
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        from.read_exact(rest)?;
    }
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_MESSAGE {
        return Err(io::Error::other("helper message is too large"));
    }
    let mut body = Vec::new();
    from.take(len as u64).read_to_end(&mut body)?;
    Ok((serde_json::from_slice(&body)?, fds))
}

/// Receives one descriptor, as a console socket carries it.
///
/// # Errors
/// When none came.
pub fn receive_fd(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    retry_on_intr(|| {
        recvmsg(
            from.as_fd(),
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("no descriptor came with the message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_descriptors() {
        let (mut agent, mut helper) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let launch = Launch {
            window: Some((24, 80)),
            ..Default::default()
        };
        send(&mut agent, &launch, &[write.as_fd()]).unwrap();
        drop(write);
        let (got, fds) = receive::<Launch>(&mut helper).unwrap();
        assert_eq!(got.window, Some((24, 80)));
        rustix::io::write(&fds[0], b"x").unwrap();
        drop(fds);
        let mut buffer = [0; 4];
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 1);
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 0);
        drop(agent);
        assert!(receive::<Launch>(&mut helper).is_err());
    }

    #[test]
    fn filters_survive_packing() {
        let filter = Filter {
            program: vec![SockFilter {
                code: 0x15,
                jt: 1,
                jf: 254,
                k: 0xc000_003e,
            }],
            flags: 6,
        };
        let launch = Launch::default().with_seccomp(Some(&filter));
        assert_eq!(launch.filter(), Some(filter));
    }
}
