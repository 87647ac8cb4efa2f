//! The cgroup that a pod's client names.

use crate::error::{Error, Result};

/// Longest path, bytes (PATH_MAX is 4096; the pod's own cgroup is added).
const PATH_MAX: usize = 1024;

/// The path beneath the cgroup root of a `cgroup_parent`, `None` for an empty one.
///
/// kubelet names it in either of two ways (its `cgroupDriver`): as a path,
/// `/kubepods/burstable/pod1234`, or as a systemd slice, whose name holds its
/// ancestors' (systemd.slice(5)):
///
/// ```text
/// kubepods-burstable-pod1234.slice
///   → kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234.slice
/// ```
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for what is neither, or
/// leaves the cgroup root.
pub fn parent_path(parent: &str) -> Result<Option<String>> {
    let refuse = |reason: &str| {
        let shown: String = parent.chars().take(128).collect();
        Err(Error::invalid(format!("cgroup_parent {shown:?}: {reason}")))
    };
    let path = parent.trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    if path.len() > PATH_MAX {
        return refuse("it is too long");
    }
    let parts: Vec<&str> = path.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && !matches!(*part, "." | "..")
            && !part.bytes().any(|byte| byte.is_ascii_control())
    };
    if !parts.iter().all(plain) {
        return refuse("it must be a path or a slice, without \"..\"");
    }
    match parts[..] {
        [slice] if slice.ends_with(".slice") => match slice_path(slice) {
            Some(path) => Ok(Some(path)),
            None => refuse("it is not the name of a slice"),
        },
        _ => Ok(Some(path.to_owned())),
    }
}

fn slice_path(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return None;
    }
    let parts: Vec<&str> = name.split('-').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    let levels = (1..=parts.len()).map(|count| format!("{}.slice", parts[..count].join("-")));
    Some(levels.collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_slices() {
        let path = |parent: &str| parent_path(parent).unwrap();
        assert_eq!(path(""), None);
        assert_eq!(path("/"), None);
        assert_eq!(
            path("/kubepods/burstable/pod1").as_deref(),
            Some("kubepods/burstable/pod1")
        );
        assert_eq!(
            path("kubepods-burstable-pod1_2.slice").as_deref(),
            Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice")
        );
        assert_eq!(path("system.slice").as_deref(), Some("system.slice"));
        assert_eq!(path("/a.slice/b.slice").as_deref(), Some("a.slice/b.slice"));
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        for bad in [
            "..",
            "/a/../b",
            "a//b",
            "a/./b",
            "-.slice",
            "a--b.slice",
            "a\n",
            "a/\0",
        ] {
            assert!(parent_path(bad).is_err(), "{bad:?}");
        }
        assert!(parent_path(&"a/".repeat(600)).is_err());
    }
}
