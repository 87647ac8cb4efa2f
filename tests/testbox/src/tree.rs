//! A file tree as text, to compare what two ways of unpacking an image give.
//!
//! One line a name, sorted: path, type and permissions, owner, group, modification
//! time, what it holds, the first of the names that it shares an inode with, extended
//! attributes. File systems mounted within the tree are left out.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr};

/// Longest list of names, and longest value, of extended attributes (xattr(7)).
const XATTR_MAX: usize = 64 << 10;

/// `tree ROOT [LEFT_OUT…]`: paths that are left out are relative to the root.
pub(crate) fn tree(words: &[String]) -> io::Result<bool> {
    let (root, left_out) = words
        .split_first()
        .ok_or_else(|| io::Error::other("which tree?"))?;
    let root = Path::new(root);
    let device = fs::metadata(root)?.dev();
    let left_out: Vec<PathBuf> = left_out.iter().map(PathBuf::from).collect();
    let mut names = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let path = directory.join(entry?.file_name());
            if left_out.contains(&path) {
                continue;
            }
            let meta = fs::symlink_metadata(root.join(&path))?;
            if meta.is_dir() && meta.dev() == device {
                todo.push(path.clone());
            }
            names.insert(path, meta);
        }
    }
    let mut first_names = BTreeMap::new();
    for (path, meta) in &names {
        let first = match meta.is_dir() {
            true => path,
            false => *first_names.entry((meta.dev(), meta.ino())).or_insert(path),
        };
        println!("{}", line(root, path, meta, first)?);
    }
    Ok(true)
}

fn line(root: &Path, path: &Path, meta: &fs::Metadata, first: &Path) -> io::Result<String> {
    let whole = root.join(path);
    let holds = if meta.is_file() {
        format!("{}:{:016x}", meta.len(), hash(&whole)?)
    } else if meta.is_symlink() {
        escaped(fs::read_link(&whole)?.as_os_str().as_bytes())
    } else if meta.is_dir() {
        "-".to_owned()
    } else {
        format!("{:x}", meta.rdev())
    };
    let mut line = format!(
        "{} {:o} {} {} {}.{:09} {holds} {}",
        escaped(path.as_os_str().as_bytes()),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        escaped(first.as_os_str().as_bytes()),
    );
    for (name, value) in xattrs(&whole)? {
        let _ = write!(line, " {}={}", escaped(&name), escaped(&value));
    }
    Ok(line)
}

/// Without spaces and line ends, whatever the bytes.
fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace(' ', "\\x20")
}

/// FNV-1a in 64 bits: enough to tell contents apart that nobody made to be alike.
fn hash(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 << 10];
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash);
        }
        for byte in buffer.iter().take(n) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Names and values, sorted.
fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = match llistxattr(path, &mut buffer[..]) {
        Ok(length) => length,
        // A file system without any.
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = buffer.get(..length).unwrap_or_default().to_vec();
    let mut all = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|it| !it.is_empty()) {
        let length = lgetxattr(path, name, &mut buffer[..])?;
        let value = buffer.get(..length).unwrap_or_default();
        all.insert(name.to_vec(), value.to_vec());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_names_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("a b"), "text").unwrap();
        fs::hard_link(root.join("a b"), root.join("c")).unwrap();
        let told = |name: &str, first: &str| {
            let path = Path::new(name);
            let meta = fs::symlink_metadata(root.join(path)).unwrap();
            line(root, path, &meta, Path::new(first)).unwrap()
        };
        let c = told("c", "a b");
        assert!(c.starts_with("c 100"), "{c}");
        assert!(c.contains(" 4:") && c.ends_with(" a\\x20b"), "{c}");
        std::os::unix::fs::symlink("a b", root.join("l")).unwrap();
        assert!(told("l", "l").contains(" a\\x20b l"));
    }
}
