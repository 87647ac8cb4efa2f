//! Who a process runs as, resolved in the image's own files.
//!
//! `/etc/passwd` and `/etc/group` belong to the image and are hostile: they are
//! opened beneath the container's root without following a link out of it
//! (openat2(2), RESOLVE_IN_ROOT), only if they are regular files, and read up to
//! a bound. Parsing is pure. The rules are those of `docker run --user`, but that
//! digits are always an id: an image that names a user "1000" and gives it uid 0
//! does not turn `runAsUser: 1000` into root.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, AsRawFd as _},
    path::Path,
};

use bulkhead_agent_api::agent;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};

/// Largest passwd or group file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Longest line that is looked at; longer ones are skipped.
pub const MAX_LINE: usize = 4 << 10;
/// Most groups of a process (NGROUPS_MAX of linux/limits.h).
const MAX_GROUPS: usize = 65_536;
/// Largest uid or gid, as container engines have it.
const MAX_ID: u32 = i32::MAX as u32;

/// What the daemon asks for; see `User` in agent.proto.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRequest {
    /// "", "name", "uid", "uid:gid", "name:group" and so on.
    pub spec: String,
    /// In place of the group of `spec` and of the user's own.
    pub gid: Option<u32>,
    /// Beside whatever the image says.
    pub supplemental: Vec<u32>,
    /// Leave out the groups that the image puts the user in.
    pub strict: bool,
}

impl From<&agent::User> for UserRequest {
    fn from(user: &agent::User) -> Self {
        Self {
            spec: user.spec.clone(),
            gid: user.has_gid.then_some(user.gid),
            supplemental: user.supplemental_groups.clone(),
            strict: user.strict_groups,
        }
    }
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// A line of passwd(5), as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// A line of group(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line.len() <= MAX_LINE)
}

fn number(field: &[u8]) -> Option<u32> {
    if !field.first()?.is_ascii_digit() {
        return None;
    }
    let value: u32 = std::str::from_utf8(field).ok()?.parse().ok()?;
    (value <= MAX_ID).then_some(value)
}

fn passwd(file: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        Some(PasswdEntry {
            name: fields.next()?,
            uid: number(fields.nth(1)?)?,
            gid: number(fields.next()?)?,
            home: fields.nth(1).unwrap_or(b""),
        })
    })
}

fn groups(file: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        Some(GroupEntry {
            name: fields.next()?,
            gid: number(fields.nth(1)?)?,
            members: fields.next().unwrap_or(b""),
        })
    })
}

/// A user or group as it was asked for.
#[derive(Clone, Copy, Debug)]
enum Wanted<'a> {
    Id(u32),
    Name(&'a [u8]),
}

impl<'a> Wanted<'a> {
    fn parse(what: &str, text: &'a str) -> Result<Self> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.as_bytes()));
        }
        number(text.as_bytes()).map(Self::Id).ok_or_else(|| {
            Error::invalid(format!(
                "{what} id {text} is out of range: at most {MAX_ID}"
            ))
        })
    }

    fn id(self) -> Option<u32> {
        match self {
            Self::Id(id) => Some(id),
            Self::Name(_) => None,
        }
    }

    fn is(self, name: &[u8], id: u32) -> bool {
        match self {
            Self::Id(wanted) => wanted == id,
            Self::Name(wanted) => wanted == name,
        }
    }
}

/// Resolves a request against the contents of passwd and group files.
///
/// # Errors
/// `INVALID_ARGUMENT` for a name that no file has, an id out of range, or more
/// groups than a process can have.
pub fn resolve(request: &UserRequest, passwd_file: &[u8], group_file: &[u8]) -> Result<Identity> {
    let (user, group) = match request.spec.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (request.spec.as_str(), None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let wanted = Wanted::parse("user", user)?;
    let numeric = wanted.id();
    let entry = passwd(passwd_file).find(|entry| wanted.is(entry.name, entry.uid));
    let uid = entry.map(|entry| entry.uid).or(numeric).ok_or_else(|| {
        Error::invalid(format!(
            "unable to find user {user:?}: no matching entries in the image's /etc/passwd"
        ))
    })?;
    let gid = match (request.gid, group) {
        (Some(gid), _) if gid > MAX_ID => {
            return Err(Error::invalid(format!("group id {gid} is out of range")));
        }
        (Some(gid), _) => gid,
        (None, Some(group)) => {
            let wanted = Wanted::parse("group", group)?;
            groups(group_file)
                .find(|entry| wanted.is(entry.name, entry.gid))
                .map(|entry| entry.gid)
                .or(wanted.id())
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "unable to find group {group:?}: no matching entries in the image's /etc/group"
                    ))
                })?
        }
        (None, None) => entry.map_or(0, |entry| entry.gid),
    };
    let mut all = vec![gid];
    if let (Some(entry), false) = (entry, request.strict) {
        all.extend(
            groups(group_file)
                .filter(|group| group.members.split(|b| *b == b',').any(|m| m == entry.name))
                .map(|group| group.gid),
        );
    }
    all.extend(&request.supplemental);
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    if all.len() > MAX_GROUPS || all.iter().any(|gid| *gid > MAX_ID) {
        return Err(Error::invalid(
            "more groups than a process can have, or a group id out of range",
        ));
    }
    let home = entry
        .and_then(|entry| std::str::from_utf8(entry.home).ok())
        .filter(|home| home.starts_with('/') && !home.contains('\0'))
        .unwrap_or("/");
    Ok(Identity {
        uid,
        gid,
        groups: all,
        home: home.to_owned(),
    })
}

/// Resolves a request in the root file system at `root`.
///
/// # Errors
/// As [`resolve`], and `FAILED_PRECONDITION` for files over [`MAX_FILE`] or that
/// are no regular files.
pub fn resolve_in(root: &impl AsFd, request: &UserRequest) -> Result<Identity> {
    let passwd = read_beneath(root, Path::new("etc/passwd"))?;
    let group = read_beneath(root, Path::new("etc/group"))?;
    resolve(request, &passwd, &group)
}

/// A file of the image, whole; empty when there is none.
fn read_beneath(root: &impl AsFd, path: &Path) -> Result<Vec<u8>> {
    // O_PATH first: opening a fifo or device of the image would have effects.
    let found = openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let handle = match found {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        other => other.context(|| format!("open the image's /{}", path.display()))?,
    };
    let stat = fstat(&handle).context(|| format!("stat the image's /{}", path.display()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!(
            "the image's /{} is no regular file",
            path.display()
        )));
    }
    let own = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    let file = File::open(own).context(|| format!("read the image's /{}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("read the image's /{}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::precondition(format!(
            "the image's /{} is larger than {MAX_FILE} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        broken\n\
        web:x:33:33:www:/srv/www:/bin/false\n\
        default-user:x:1000:1000::/home/default-user:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:root\nwww:x:33:\n\
        group-defined-in-image:x:50000:default-user\nextra:x:60:web,default-user\n";

    fn request(spec: &str) -> UserRequest {
        UserRequest {
            spec: spec.into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(spec: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let got = resolve(&request(spec), PASSWD, GROUP).unwrap();
        let want = Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        };
        assert_eq!(got, want, "{spec:?}");
    }

    #[test]
    fn users_by_name_and_number() {
        check("", 0, 0, &[0], "/root");
        check("root", 0, 0, &[0], "/root");
        check("web", 33, 33, &[33, 60], "/srv/www");
        check("33", 33, 33, &[33, 60], "/srv/www");
        check(
            "default-user",
            1000,
            1000,
            &[1000, 50000, 60],
            "/home/default-user",
        );
        // Unknown to the image: no groups, root's gid, no home.
        check("4711", 4711, 0, &[0], "/");
        check("4711:22", 4711, 22, &[22], "/");
        check("web:extra", 33, 60, &[60], "/srv/www");
        check(":www", 0, 33, &[33, 0], "/root");
    }

    #[test]
    fn names_that_do_not_exist_are_refused() {
        for spec in [
            "nobody",
            "web:nobody",
            "-1",
            "+5",
            "4294967295",
            "2147483648",
        ] {
            let error = resolve(&request(spec), PASSWD, GROUP).unwrap_err();
            assert_eq!(
                error.code(),
                ttrpc::Code::INVALID_ARGUMENT,
                "{spec}: {error}"
            );
        }
    }

    #[test]
    fn digits_are_never_a_name() {
        let passwd = b"1000:x:0:0::/root:/bin/sh\n4294967296:x:0:0::/root:/bin/sh\n";
        let group = b"50:x:0:\n";
        let got = resolve(&request("1000:50"), passwd, group).unwrap();
        assert_eq!((got.uid, got.gid), (1000, 50));
        for spec in ["4294967296", "1000:4294967296"] {
            let error = resolve(&request(spec), passwd, group).unwrap_err();
            assert!(error.to_string().contains("out of range"), "{error}");
        }
    }

    #[test]
    fn supplemental_groups_are_added_or_replace() {
        let mut request = UserRequest {
            spec: "1000".into(),
            gid: Some(7),
            supplemental: vec![60, 70],
            strict: false,
        };
        let merged = resolve(&request, PASSWD, GROUP).unwrap();
        assert_eq!(merged.groups, [7, 50000, 60, 70]);
        request.strict = true;
        let strict = resolve(&request, PASSWD, GROUP).unwrap();
        assert_eq!(strict.groups, [7, 60, 70]);
    }

    #[test]
    fn lines_too_long_are_skipped() {
        let mut file = vec![b'a'; MAX_LINE + 1];
        file.extend_from_slice(b":x:5:5::/:\nreal:x:6:6::/home/real:\n");
        assert_eq!(resolve(&request("real"), &file, b"").unwrap().uid, 6);
        assert_eq!(passwd(&file).count(), 1);
    }

    #[test]
    fn files_are_found_beneath_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("usr/etc")).unwrap();
        let open = || File::open(root).unwrap();
        // None at all: numbers work.
        assert_eq!(resolve_in(&open(), &request("5")).unwrap().uid, 5);
        // An absolute link is taken inside the root.
        std::os::unix::fs::symlink("/usr/etc/passwd", root.join("etc/passwd")).unwrap();
        std::fs::write(root.join("usr/etc/passwd"), b"inner:x:77:78::/in:\n").unwrap();
        assert_eq!(resolve_in(&open(), &request("inner")).unwrap().gid, 78);
        // A link that climbs out stays inside.
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", root.join("etc/passwd")).unwrap();
        assert!(resolve_in(&open(), &request("5")).is_err() || !Path::new("/etc/passwd").exists());
    }

    #[test]
    fn fifos_and_huge_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        let root = File::open(dir.path()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("passwd"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(resolve_in(&root, &request("5")).is_err());
        std::fs::remove_file(etc.join("passwd")).unwrap();
        let huge = File::create(etc.join("passwd")).unwrap();
        huge.set_len(MAX_FILE + 1).unwrap();
        let error = resolve_in(&root, &request("5")).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(
            spec in "[a-z0-9:-]{0,12}",
            passwd in proptest::collection::vec(any::<u8>(), 0..400),
            group in "([a-z]{0,3}:?[0-9]{0,4}:?,?\n?){0,40}",
        ) {
            let _ = resolve(&request(&spec), &passwd, group.as_bytes());
        }
    }
}
