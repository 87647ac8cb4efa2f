//! A launcher of stand-ins for VMs in a directory of its own, and what tests ask of
//! it. It starts a shell script that starts this test binary again, as the test
//! `standin`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bulkhead_sandbox::{
    ContainerSpec, Dns, ExecSpec, LogTarget, MicroVmConfig, MicroVmLauncher, ProcessId, SandboxSpec,
};

pub(crate) const POD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) launcher: MicroVmLauncher,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::misbehaving("")
    }

    /// With words for the stand-in on the kernel command line.
    pub(crate) fn misbehaving(how: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launcher = launcher(dir.path(), how, &|_| {});
        Self { dir, launcher }
    }

    pub(crate) fn configured(change: impl Fn(&mut MicroVmConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let launcher = launcher(dir.path(), "", &change);
        Self { dir, launcher }
    }

    /// What a new daemon process makes in place of the old one.
    pub(crate) fn restarted(&self) -> MicroVmLauncher {
        launcher(self.dir.path(), "", &|_| {})
    }

    pub(crate) fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            pod_id: POD.into(),
            host: None,
            kernel: None,
            kernel_cmdline: None,
            boot_vcpus: 1,
            max_vcpus: 2,
            memory_bytes: 128 << 20,
            scratch_bytes: 1 << 20,
            hostname: "web".into(),
            dns: Dns::default(),
            interfaces: Vec::new(),
            sysctls: Default::default(),
            cgroup_parent: None,
            vmm_uid: 70_000,
        }
    }

    /// A layer's blob with this content.
    pub(crate) fn layer(&self, content: &str) -> PathBuf {
        let path = self.dir.path().join(format!("layer-{content}"));
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn container(&self, id: &str, script: &str) -> ContainerSpec {
        self.container_of(id, &["sh", "-c", script])
    }

    pub(crate) fn container_of(&self, id: &str, args: &[&str]) -> ContainerSpec {
        let oci = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}},
        });
        ContainerSpec {
            raw_env: Vec::new(),
            container_id: id.into(),
            layers: vec![self.layer("base"), self.layer(id)],
            oci: serde_json::from_value(oci).unwrap(),
            user: String::new(),
            gid: None,
            supplemental_groups: Vec::new(),
            strict_groups: false,
            stdin: false,
            stdin_once: false,
            share_pid_with_pod: false,
            share_pid_with: None,
            share_pid_with_host: false,
            readonly_rootfs: false,
            log: self.log(id),
            window: None,
        }
    }

    pub(crate) fn log(&self, id: &str) -> LogTarget {
        LogTarget {
            directory: self.dir.path().join("logs"),
            path: PathBuf::from(id).join("0.log"),
        }
    }

    /// A container's log without timestamps.
    pub(crate) fn log_text(&self, id: &str) -> String {
        let target = self.log(id);
        let log = fs::read_to_string(target.directory.join(target.path)).unwrap();
        log.lines()
            .map(|line| format!("{}\n", &line[31..]))
            .collect()
    }

    /// Asserts that nothing of a pod is left.
    pub(crate) fn assert_nothing_left(&self) {
        for dir in ["pods", "scratch"] {
            let left: Vec<_> = fs::read_dir(self.dir.path().join(dir)).unwrap().collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
        assert_eq!(vmms(self.dir.path()), Vec::<u32>::new(), "processes");
    }
}

/// The process that the launcher starts; returns at once in any other.
pub(crate) fn standin() {
    if let Ok(arguments) = std::env::var("STANDIN") {
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        bulkhead_standin::serve(&arguments)
    }
}

/// Stand-ins that serve pods beneath `dir`: those with a descriptor of its files.
pub(crate) fn vmms(dir: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
            continue;
        };
        let log = fs::read_link(entry.path().join("fd/1")).unwrap_or_default();
        if log.starts_with(dir) {
            found.push(pid);
        }
    }
    found
}

fn launcher(dir: &Path, words: &str, change: &dyn Fn(&mut MicroVmConfig)) -> MicroVmLauncher {
    let vmm = dir.join("vmm");
    if !vmm.exists() {
        let this = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\nSTANDIN=\"$*\" exec {} --exact standin --nocapture\n",
            this.display()
        );
        fs::write(&vmm, script).unwrap();
        fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("agent"), b"\x7fELF agent").unwrap();
        fs::write(dir.join("vmlinux"), b"\x7fELF kernel").unwrap();
    }
    let mut config = MicroVmConfig {
        run_dir: dir.join("pods"),
        cache_dir: dir.join("cache"),
        scratch_dir: dir.join("scratch"),
        vmm,
        agent: dir.join("agent"),
        kernel: dir.join("vmlinux"),
        cgroup_root: None,
        confine: false,
        extra_cmdline: words.into(),
        ready_timeout: Duration::from_secs(20),
        ..Default::default()
    };
    change(&mut config);
    let full = words == "bench.full";
    let scratch = move |path: &Path, bytes: u64| {
        if full {
            fs::write(path, "half a disk")?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let file = fs::File::create_new(path)?;
        file.set_len(bytes)?;
        Ok(file)
    };
    MicroVmLauncher::new(config, Arc::new(scratch)).unwrap()
}

pub(crate) fn exec(container: &str, id: &str, script: &str) -> ExecSpec {
    ExecSpec {
        process: ProcessId {
            container_id: container.into(),
            exec_id: id.into(),
        },
        args: vec!["sh".into(), "-c".into(), script.into()],
        env: None,
        cwd: None,
        terminal: false,
        stdin: true,
        window: None,
    }
}
