//! Who a container's program runs as.
//!
//! Names are resolved inside the guest, in the image's own files. Here only
//! numbers are checked: one that doesn't fit 32 bits must never be taken for a
//! name, which the image's /etc/passwd could then make root (CVE-2026-46680).

use bulkhead_cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use bulkhead_image::ImageConfig;

use crate::error::{Error, Result};

/// Most supplemental groups: the kernel's NGROUPS_MAX.
const GROUPS_MAX: usize = 65_536;

/// The choice, for the agent to resolve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    /// "name", "uid", "uid:gid", …; empty: root.
    pub(super) spec: String,
    /// Overrides the group.
    pub(super) gid: Option<u32>,
    /// Groups beside it.
    pub(super) groups: Vec<u32>,
    /// No groups from the image.
    pub(super) strict: bool,
}

pub(super) fn user(security: &LinuxContainerSecurityContext, image: &ImageConfig) -> Result<User> {
    let uid = security
        .run_as_user
        .as_ref()
        .map(|it| number("run_as_user", it.value))
        .transpose()?;
    let gid = security
        .run_as_group
        .as_ref()
        .map(|it| number("run_as_group", it.value))
        .transpose()?;
    let name = &security.run_as_username;
    let spec = match (uid, name.is_empty()) {
        (Some(_), false) => {
            return Err(Error::invalid(
                "run_as_user and run_as_username are both given",
            ));
        }
        (Some(uid), true) => uid.to_string(),
        (None, false) => check(name)?.to_owned(),
        (None, true) if gid.is_some() => {
            return Err(Error::invalid(
                "run_as_group is given without run_as_user or run_as_username",
            ));
        }
        (None, true) => check(&image.user)?.to_owned(),
    };
    if security.supplemental_groups.len() > GROUPS_MAX {
        return Err(Error::invalid(format!(
            "more than {GROUPS_MAX} supplemental groups"
        )));
    }
    let groups = security
        .supplemental_groups
        .iter()
        .map(|group| number("supplemental group", *group))
        .collect::<Result<_>>()?;
    let policy = security.supplemental_groups_policy;
    let policy = SupplementalGroupsPolicy::try_from(policy)
        .map_err(|_| Error::invalid(format!("unknown supplemental_groups_policy {policy}")))?;
    Ok(User {
        spec,
        gid,
        groups,
        strict: policy == SupplementalGroupsPolicy::Strict,
    })
}

/// The last number is no id but means "unchanged" (setreuid(2)).
fn number(what: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| {
            Error::invalid(format!(
                "{what} {value} must be between 0 and {}",
                u32::MAX - 1
            ))
        })
}

/// Digits are a number that fits, or an error.
fn check(spec: &str) -> Result<&str> {
    for part in spec.split(':') {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits && !part.parse::<u32>().is_ok_and(|id| id != u32::MAX) {
            return Err(Error::invalid(format!(
                "user {spec:?}: {part} is a number that is no user or group id"
            )));
        }
    }
    if spec.split(':').count() > 2 || spec.contains('\0') || spec.len() > 512 {
        let shown: String = spec.chars().take(64).collect();
        return Err(Error::invalid(format!(
            "user {shown:?} must be \"user\" or \"user:group\""
        )));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cri_api::v1::Int64Value;

    fn image(user: &str) -> ImageConfig {
        ImageConfig {
            user: user.to_owned(),
            ..Default::default()
        }
    }

    fn context(uid: Option<i64>, gid: Option<i64>, name: &str) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            run_as_user: uid.map(|value| Int64Value { value }),
            run_as_group: gid.map(|value| Int64Value { value }),
            run_as_username: name.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_clients_choice_replaces_the_images() {
        let spec = |uid, gid, name: &str, image_user: &str| {
            user(&context(uid, gid, name), &image(image_user)).map(|it| (it.spec, it.gid))
        };
        assert_eq!(
            spec(None, None, "", "app:staff").unwrap(),
            ("app:staff".into(), None)
        );
        assert_eq!(spec(None, None, "", "").unwrap(), (String::new(), None));
        assert_eq!(
            spec(Some(0), None, "", "1000:50").unwrap(),
            ("0".into(), None)
        );
        assert_eq!(
            spec(Some(7), Some(8), "", "").unwrap(),
            ("7".into(), Some(8))
        );
        assert_eq!(
            spec(None, Some(8), "web", "").unwrap(),
            ("web".into(), Some(8))
        );
        assert!(spec(None, Some(8), "", "1000").is_err());
        assert!(spec(Some(1), None, "web", "").is_err());
    }

    #[test]
    fn numbers_that_are_no_ids_are_never_names() {
        for bad in [
            "4294967296",
            "99999999999999999999",
            "4294967295",
            "1:4294967296",
            "a:b:c",
        ] {
            assert!(
                user(&context(None, None, ""), &image(bad)).is_err(),
                "{bad}"
            );
            assert!(
                user(&context(None, None, bad), &image("")).is_err(),
                "{bad}"
            );
        }
        for bad in [-1, i64::from(u32::MAX), 1 << 40] {
            assert!(
                user(&context(Some(bad), None, ""), &image("")).is_err(),
                "{bad}"
            );
        }
        assert!(user(&context(None, None, ""), &image("12ab")).is_ok());
    }
}
