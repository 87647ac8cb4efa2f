//! The kernel, the user, cgroups and limits.

use std::fs;
use std::path::Path;

use rustix::fs::statfs;
use rustix::process::{Resource, geteuid, getrlimit};
use rustix::system::uname;

use super::Check;

/// Oldest kernel that has all that is used.
const KERNEL_MIN: (u32, u32) = (5, 15);
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// A daemon of a thousand pods has some dozen descriptors for each.
const OPEN_FILES_MIN: u64 = 65_536;

pub(super) fn root() -> Check {
    let uid = geteuid();
    if uid.is_root() {
        Check::ok("user", "root")
    } else {
        Check::fail(
            "user",
            format!("uid {} has not the privileges of the daemon", uid.as_raw()),
            "run as root; what is checked below may look worse than it is",
        )
    }
}

pub(super) fn kernel() -> Check {
    let names = uname();
    let release = names.release().to_string_lossy().into_owned();
    let machine = names.machine().to_string_lossy().into_owned();
    if machine != "x86_64" {
        return Check::fail(
            "kernel",
            format!("Linux {release} on {machine}"),
            "use an x86-64 host",
        );
    }
    match version(&release) {
        Some(version) if version >= KERNEL_MIN => Check::ok("kernel", format!("Linux {release}")),
        _ => Check::fail(
            "kernel",
            format!("Linux {release}"),
            "use Linux 5.15 or later (Debian 12 has 6.1)",
        ),
    }
}

/// Major and minor number of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn cgroups() -> Check {
    const NAME: &str = "cgroups";
    const MEND: &str = "boot with `systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all` on the \
                        kernel's command line";
    let magic = statfs(CGROUP_ROOT).map(|found| u64::try_from(found.f_type).unwrap_or(0));
    if magic != Ok(CGROUP2_MAGIC) {
        return Check::fail(NAME, format!("{CGROUP_ROOT} is not cgroup v2"), MEND);
    }
    let path = Path::new(CGROUP_ROOT).join("cgroup.controllers");
    match fs::read_to_string(&path) {
        Ok(list) => judge_controllers(&list),
        Err(error) => Check::fail(
            NAME,
            format!("cannot read {}: {error}", path.display()),
            MEND,
        ),
    }
}

fn judge_controllers(list: &str) -> Check {
    const NAME: &str = "cgroups";
    let has = |name: &str| list.split_ascii_whitespace().any(|listed| listed == name);
    let lacking = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .filter(|name| !has(name))
            .map(ToString::to_string)
            .collect()
    };
    let needed = lacking(&["cpu", "memory", "pids"]);
    if !needed.is_empty() {
        return Check::fail(
            NAME,
            format!("cgroup v2 without {}", needed.join(", ")),
            "free the controllers from cgroup v1 (`cgroup_no_v1=all` on the kernel's command \
             line), and don't disable them there (`cgroup_disable=`)",
        );
    }
    let wanted = lacking(&["cpuset", "io"]);
    if wanted.is_empty() {
        Check::ok(NAME, format!("v2 with {}", list.trim()))
    } else {
        Check::warn(
            NAME,
            format!("cgroup v2 without {}", wanted.join(", ")),
            "limits of that kind have no effect on pods; use a kernel that has them",
        )
    }
}

pub(super) fn open_files() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES_MIN => Check::warn(
            NAME,
            format!("at most {most}"),
            "enough for some dozen pods; set LimitNOFILE=1048576 in the daemon's unit",
        ),
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::ok(NAME, "unlimited"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.1.0-28-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.0"), Some((5, 15)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert_eq!(version("x"), None);
        assert!(version("5.9.1").unwrap() < KERNEL_MIN);
        assert!(version("10.0.1").unwrap() > KERNEL_MIN);
    }

    #[test]
    fn controllers_that_pods_need_must_be_there() {
        assert_eq!(
            judge_controllers("cpuset cpu io memory pids\n").level,
            Level::Ok
        );
        let check = judge_controllers("cpu memory pids");
        assert_eq!(check.level, Level::Warn);
        assert!(check.found.contains("cpuset, io"));
        let check = judge_controllers("cpuset io");
        assert_eq!(check.level, Level::Fail);
        assert!(check.found.contains("cpu, memory, pids"));
        assert_eq!(judge_controllers("").level, Level::Fail);
    }
}
