//! ConfigureSandbox: what a pod has in common.

use std::{fs, path::Path, sync::Arc};

use bulkhead_agent_api::agent::{ConfigureSandboxRequest, Dns};
use rustix::mount::{MountFlags, mount};
use tokio::sync::Mutex;

use super::machine;
use crate::{
    container::cgroup::Cgroup,
    disks::{Disks, check_serial, layers::blocking},
    error::{Context as _, Error, Result},
    net,
    place::{Own, Place},
};

/// Size of /dev/shm when the daemon names none.
const SHM_BYTES: u64 = 64 << 20;
/// Longest hostname (HOST_NAME_MAX).
const MAX_HOSTNAME: usize = 64;
/// Bound on lines of a file made here.
const MAX_LINES: usize = 4096;

/// The pod's common state.
#[derive(Debug)]
pub(super) struct Sandbox {
    place: Place,
    disks: Arc<dyn Disks>,
    configured: Mutex<Option<ConfigureSandboxRequest>>,
}

impl Sandbox {
    pub(super) fn new(place: Place, disks: Arc<dyn Disks>) -> Self {
        Self {
            place,
            disks,
            configured: Mutex::default(),
        }
    }

    pub(super) async fn is_configured(&self) -> bool {
        self.configured.lock().await.is_some()
    }

    pub(super) async fn require_configured(&self) -> Result<()> {
        if self.is_configured().await {
            return Ok(());
        }
        Err(Error::precondition(
            "the sandbox is not configured: call ConfigureSandbox first",
        ))
    }

    /// Configures the pod, once. After a failure it may be tried again.
    pub(super) async fn configure(&self, request: ConfigureSandboxRequest) -> Result<()> {
        let mut configured = self.configured.lock().await;
        match &*configured {
            // The clock is the time of the call, not part of what is wanted.
            Some(before) if same(before, &request) => return Ok(()),
            Some(_) => {
                return Err(Error::precondition(
                    "the sandbox has been configured differently",
                ));
            }
            None => {}
        }
        check_hostname(&request.hostname)?;
        if self.place.is_guest() {
            Self::configure_machine(&request)?;
        } else {
            configure_host(self.place.own(), &request)?;
        }
        self.mount_scratch(&request.scratch_serial).await?;
        self.write_files(&request)?;
        self.mount_shm(request.shm_bytes)?;
        Cgroup::at(self.place.pod_cgroup()).create_parent()?;
        *configured = Some(request);
        Ok(())
    }

    fn configure_machine(request: &ConfigureSandboxRequest) -> Result<()> {
        if request.clock_unix_ns != 0 {
            machine::set_to(request.clock_unix_ns)?;
        }
        set_hostname(&request.hostname)?;
        net::configure(&request.interfaces)?;
        // After the interfaces: some of them are named in sysctls.
        for (key, value) in &request.sysctls {
            set_sysctl(key, value)?;
        }
        Ok(())
    }

    async fn mount_scratch(&self, serial: &str) -> Result<()> {
        let on = self.place.scratch().to_owned();
        if serial.is_empty() {
            // Memory, then: a pod without a disk of its own.
            return fs::create_dir_all(&on).context(|| format!("make {}", on.display()));
        }
        check_serial(serial)?;
        let (disks, serial) = (Arc::clone(&self.disks), serial.to_owned());
        blocking(move || disks.mount_scratch(&serial, &on)).await
    }

    fn write_files(&self, request: &ConfigureSandboxRequest) -> Result<()> {
        let etc = self.place.etc();
        fs::create_dir_all(&etc).context(|| format!("make {}", etc.display()))?;
        let write = |name: &str, text: String| {
            fs::write(etc.join(name), text).context(|| format!("write the pod's {name}"))
        };
        let own = self.place.own();
        // A pod in the host's network knows the names that the host knows.
        let on_hosts_network = own.mounts && !own.network;
        let dns = request.dns.get_or_default();
        let says_nothing =
            dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty();
        let resolv = match on_hosts_network && says_nothing {
            true => read_host("/etc/resolv.conf")?,
            false => resolv_conf(dns)?,
        };
        write("resolv.conf", resolv)?;
        let mut names = match on_hosts_network {
            true => read_host("/etc/hosts")?,
            false => hosts(request)?,
        };
        if on_hosts_network {
            names.push_str(&extra_hosts(request)?);
        }
        write("hosts", names)?;
        let hostname = match own.mounts && !own.uts {
            true => rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            false => request.hostname.clone(),
        };
        write("hostname", format!("{hostname}\n"))
    }

    fn mount_shm(&self, bytes: u64) -> Result<()> {
        let shm = self.place.shm();
        let own = self.place.own();
        if own.mounts && !own.ipc {
            return Ok(()); // the host's
        }
        fs::create_dir_all(&shm).context(|| format!("make {}", shm.display()))?;
        if !own.mounts {
            // An agent that mounts nothing: its directory serves.
            use std::os::unix::fs::PermissionsExt as _;
            return fs::set_permissions(&shm, fs::Permissions::from_mode(0o1777))
                .context(|| format!("open {} to all", shm.display()));
        }
        let size = if bytes == 0 { SHM_BYTES } else { bytes };
        let data = std::ffi::CString::new(format!("mode=1777,size={size}")).unwrap_or_default();
        mount(
            "shm",
            &shm,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            data.as_c_str(),
        )
        .context(|| "mount the pod's /dev/shm")
    }
}

fn same(before: &ConfigureSandboxRequest, now: &ConfigureSandboxRequest) -> bool {
    let mut now = now.clone();
    now.clock_unix_ns = before.clock_unix_ns;
    *before == now
}

/// Configures what of the host is the pod's own; refuses the rest.
fn configure_host(own: Own, request: &ConfigureSandboxRequest) -> Result<()> {
    if !own.network && !request.interfaces.is_empty() {
        return Err(Error::precondition(
            "interfaces of a pod in the host's network are the host's: this agent leaves them \
             alone",
        ));
    }
    if let Some(key) = request.sysctls.keys().find(|key| !is_own_sysctl(own, key)) {
        return Err(Error::precondition(format!(
            "sysctl {key} is the host's, for this pod shares the host's namespace or it has none: \
             it is not set; remove it from the pod"
        )));
    }
    if own.uts {
        set_hostname(&request.hostname)?;
    }
    if own.network {
        net::configure(&request.interfaces)?;
    }
    for (key, value) in &request.sysctls {
        set_sysctl(key, value)?;
    }
    Ok(())
}

/// Whether a sysctl belongs to a namespace that is the pod's (namespaces(7),
/// ipc_namespaces(7); CVE-2022-0532 set the host's).
fn is_own_sysctl(own: Own, key: &str) -> bool {
    let key = key.replace('/', ".");
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    (own.network && key.starts_with("net."))
        || (own.ipc && ipc.iter().any(|prefix| key.starts_with(prefix)))
}

fn set_hostname(name: &str) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    rustix::system::sethostname(name.as_bytes()).context(|| "set the hostname")
}

/// A file of the host's, as it is now; empty if there is none.
fn read_host(path: &str) -> Result<String> {
    const MAX: u64 = 1 << 20;
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::io::Read::read_to_string(
            &mut std::io::Read::take(fs::File::open(path)?, MAX),
            &mut text,
        )?;
        Ok(text)
    };
    match read() {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.context(|| format!("read the host's {path}")),
    }
}

fn check_hostname(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.len() > MAX_HOSTNAME || !name.chars().all(plain) {
        return Err(Error::invalid(format!("{name:?} is no hostname")));
    }
    Ok(())
}

fn set_sysctl(key: &str, value: &str) -> Result<()> {
    // "net.ipv4.conf.eth0/1.forwarding": a slash stands for a dot in a name.
    let path: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(odd) || key.contains('\0') {
        return Err(Error::invalid(format!("{key:?} is no sysctl")));
    }
    fs::write(Path::new("/proc/sys").join(path), value)
        .context(|| format!("set sysctl {key} to {value:?}"))
}

/// A word that cannot break out of its line.
fn word(text: &str) -> Result<&str> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(format!("{text:?} is not one word")));
    }
    Ok(text)
}

fn resolv_conf(dns: &Dns) -> Result<String> {
    let mut text = String::new();
    let words = |list: &[String]| -> Result<Vec<String>> {
        list.iter()
            .take(MAX_LINES)
            .map(|w| word(w).map(str::to_owned))
            .collect()
    };
    for server in words(&dns.servers)? {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (keyword, list) in [("search", &dns.searches), ("options", &dns.options)] {
        if !list.is_empty() {
            text.push_str(&format!("{keyword} {}\n", words(list)?.join(" ")));
        }
    }
    Ok(text)
}

fn hosts(request: &ConfigureSandboxRequest) -> Result<String> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if !request.hostname.is_empty() {
        for address in request.interfaces.iter().flat_map(|i| &i.addresses) {
            let address = address.split('/').next().unwrap_or(address);
            text.push_str(&format!("{}\t{}\n", word(address)?, request.hostname));
        }
    }
    text.push_str(&extra_hosts(request)?);
    Ok(text)
}

fn extra_hosts(request: &ConfigureSandboxRequest) -> Result<String> {
    let mut text = String::new();
    for line in request.extra_hosts.iter().take(MAX_LINES) {
        let words = line
            .split_ascii_whitespace()
            .map(word)
            .collect::<Result<Vec<_>>>()?;
        text.push_str(&words.join("\t"));
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_agent_api::agent::Interface;

    #[test]
    fn files_are_made_of_words() {
        let dns = Dns {
            servers: vec!["10.96.0.10".into(), "fd00::a".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
            ..Default::default()
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "nameserver 10.96.0.10\nnameserver fd00::a\n\
             search default.svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let forged = Dns {
            searches: vec!["a\nnameserver 6.6.6.6".into()],
            ..Default::default()
        };
        assert!(resolv_conf(&forged).is_err());
    }

    #[test]
    fn a_pod_knows_its_own_name_and_its_aliases() {
        let request = ConfigureSandboxRequest {
            hostname: "web-0".into(),
            interfaces: vec![Interface {
                addresses: vec!["10.88.0.5/16".into()],
                ..Default::default()
            }],
            extra_hosts: vec!["10.0.0.2  db db.local".into()],
            ..Default::default()
        };
        let text = hosts(&request).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.5\tweb-0\n10.0.0.2\tdb\tdb.local\n"));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        assert!(check_hostname("web-0.example").is_ok());
        assert!(check_hostname("web 0").is_err());
        assert!(check_hostname(&"x".repeat(65)).is_err());
        for key in ["", "..", "a..b", "/etc/passwd", "net.../x"] {
            assert!(set_sysctl(key, "1").is_err(), "{key:?}");
        }
    }

    #[test]
    fn sysctls_of_a_host_pod_are_those_of_its_own_namespaces() {
        for key in [
            "net.ipv4.ip_forward",
            "net/core/somaxconn",
            "kernel.shmmax",
            "fs.mqueue.x",
        ] {
            assert!(is_own_sysctl(Own::ALL, key), "{key}");
            assert!(!is_own_sysctl(Own::default(), key), "{key}");
        }
        for key in [
            "kernel.core_pattern",
            "vm.swappiness",
            "fs.file-max",
            "network.x",
        ] {
            assert!(!is_own_sysctl(Own::ALL, key), "{key}");
        }
        let mut request = ConfigureSandboxRequest::new();
        request
            .sysctls
            .insert("net.ipv4.ip_forward".into(), "1".into());
        let error = configure_host(Own::default(), &request).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
    }

    #[test]
    fn the_clock_is_no_difference() {
        let one = ConfigureSandboxRequest {
            hostname: "a".into(),
            clock_unix_ns: 5,
            ..Default::default()
        };
        let mut two = one.clone();
        two.clock_unix_ns = 9;
        assert!(same(&one, &two));
        two.hostname = "b".into();
        assert!(!same(&one, &two));
    }
}
