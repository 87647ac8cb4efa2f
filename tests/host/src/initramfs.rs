//! The initramfs: a static busybox, two scripts, the modules without which the
//! machine's root cannot be mounted, and what this one host is to know.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::accel::Accel;
use crate::cpio::Archive;
use crate::modules::load_order;
use crate::qemu::{GUEST_ADDRESS, GUEST_PORT};

const INIT: &str = include_str!("../guest/init.sh");
const START: &str = include_str!("../guest/start.sh");
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_net"];
const BEGIN_EMPTY: [&str; 2] = ["/tmp", "/var/log"];
const BUSYBOX: &str = "/bin/busybox";

/// A kernel that was unpacked, not installed: `vmlinux` and `lib/modules/…`.
#[derive(Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
    version: String,
}

impl Kernel {
    /// The one that set-up left in `directory`.
    pub(crate) fn find(directory: &Path) -> Result<Self> {
        let modules = directory.join("lib/modules");
        let hint = || {
            format!(
                "no kernel for the test host in {}: run `make setup`",
                directory.display()
            )
        };
        let mut versions = fs::read_dir(&modules).with_context(hint)?;
        let version = versions.next().with_context(hint)??.file_name();
        ensure!(directory.join("vmlinux").exists(), hint());
        Ok(Self {
            // The link `current` may move on while the host is up.
            directory: directory.canonicalize().with_context(hint)?,
            version: version.to_string_lossy().into_owned(),
        })
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules")
    }
}

/// What the scripts in the test host are told.
#[derive(Debug)]
pub(crate) struct Parameters<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) accel: Accel,
    /// This program, by a path that is valid on the machine's root.
    pub(crate) program: &'a Path,
    pub(crate) shares: &'a [PathBuf],
    /// Seen in the test host even where a tmpfs would hide it.
    pub(crate) visible: &'a [PathBuf],
    pub(crate) token: &'a str,
}

impl Parameters<'_> {
    fn script(&self) -> Result<String> {
        let kvm_module = match self.accel {
            Accel::Tcg => "kvm-amd",
            Accel::Kvm if fs::read_to_string("/proc/cpuinfo")?.contains(" vmx") => "kvm-intel",
            Accel::Kvm => "kvm-amd",
        };
        let mut shares = Vec::new();
        for share in self.shares {
            let share = share.to_string_lossy();
            if share.contains(|c: char| c.is_whitespace() || "*?[".contains(c)) {
                bail!("cannot share {share}: white space and wildcards are not supported");
            }
            shares.push(share.into_owned());
        }
        let assignments = [
            (
                "KERNEL_MODULES",
                self.kernel.modules().to_string_lossy().into_owned(),
            ),
            ("KVM_MODULE", kvm_module.into()),
            ("TESTHOST", self.program.to_string_lossy().into_owned()),
            ("SHARES", shares.join(" ")),
            ("EMPTY", self.empty_directories().join(" ")),
            ("ADDRESS", GUEST_ADDRESS.into()),
            ("PORT", GUEST_PORT.to_string()),
        ];
        Ok(assignments
            .map(|(name, value)| format!("{name}={}\n", quoted(&value)))
            .concat())
    }

    /// Directories that begin empty, unless something that is needed lies there:
    /// some machines build in /tmp.
    fn empty_directories(&self) -> Vec<&'static str> {
        let modules = self.kernel.modules();
        let needed = || {
            self.visible
                .iter()
                .map(PathBuf::as_path)
                .chain([self.program, &modules])
        };
        let unused = |directory: &&str| !needed().any(|path| path.starts_with(directory));
        BEGIN_EMPTY.into_iter().filter(unused).collect()
    }
}

/// Writes the initramfs to `out`.
pub(crate) fn write(out: impl Write, parameters: &Parameters<'_>) -> Result<()> {
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("no {BUSYBOX}: run `make setup` (package busybox-static)"))?;
    let tree = parameters.kernel.modules().join(&parameters.kernel.version);
    let dep = tree.join("modules.dep");
    let dep = fs::read_to_string(&dep)
        .with_context(|| format!("reading {}: run depmod, or `make setup`", dep.display()))?;

    let mut archive = Archive::new(out);
    for name in [
        "bin", "dev", "lower", "modules", "proc", "root", "sys", "upper",
    ] {
        archive.directory(name)?;
    }
    archive.file("bin/busybox", 0o755, &busybox)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("start.sh", 0o755, START.as_bytes())?;
    archive.file("parameters", 0o600, parameters.script()?.as_bytes())?;
    archive.file("token", 0o600, parameters.token.as_bytes())?;
    let mut order = String::new();
    for (index, module) in load_order(&dep, &MODULES)?.iter().enumerate() {
        let name = format!("{index:02}.ko");
        archive.file(
            &format!("modules/{name}"),
            0o644,
            &read_module(&tree.join(module))?,
        )?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    archive.finish()?;
    Ok(())
}

/// Debian's later kernels compress their modules, which busybox cannot undo.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("reading the module {}", path.display());
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(failed),
    };
    let output = Command::new(program)
        .arg("-dcq")
        .arg(path)
        .output()
        .with_context(failed)?;
    ensure!(
        output.status.success(),
        "{}: {}",
        failed(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// One word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel {
            directory: "/cache/it's/6.1".into(),
            version: "6.1".into(),
        }
    }

    fn parameters<'a>(kernel: &'a Kernel, shares: &'a [PathBuf]) -> Parameters<'a> {
        let program = Path::new("/target/testhost");
        Parameters {
            kernel,
            accel: Accel::Tcg,
            program,
            shares,
            visible: &[],
            token: "secret",
        }
    }

    #[test]
    fn parameters_are_safe_to_source() {
        let kernel = kernel();
        let shares = ["/out".into(), "/more".into()];
        let script = parameters(&kernel, &shares).script().unwrap();
        assert!(
            script.contains(r"KERNEL_MODULES='/cache/it'\''s/6.1/lib/modules'"),
            "{script}"
        );
        assert!(script.contains("KVM_MODULE='kvm-amd'\n"), "{script}");
        assert!(script.contains("SHARES='/out /more'\n"), "{script}");
    }

    #[test]
    fn what_is_needed_is_not_hidden() {
        let kernel = kernel();
        let visible = ["/tmp/checkout".into()];
        let parameters = Parameters {
            visible: &visible,
            ..parameters(&kernel, &[])
        };
        assert_eq!(parameters.empty_directories(), ["/var/log"]);
        let parameters = Parameters {
            visible: &[],
            ..parameters
        };
        assert_eq!(parameters.empty_directories(), ["/tmp", "/var/log"]);
    }

    #[test]
    fn a_share_that_the_shell_would_split_is_refused() {
        let kernel = kernel();
        assert!(parameters(&kernel, &["/a b".into()]).script().is_err());
    }

    #[test]
    fn a_missing_kernel_names_the_remedy() {
        let error = Kernel::find(Path::new("/nonesuch")).unwrap_err();
        assert!(format!("{error:#}").contains("make setup"), "{error:#}");
    }
}
