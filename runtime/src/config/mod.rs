//! The configuration: one TOML file.
//!
//! Every key has a default that is sound on an ordinary node, so the file may be
//! absent. `sections` defines the keys once: their type, their default and the text
//! that explains them; the printed default and the check of what is read both
//! come from there. A key that isn't defined is refused with its line, and so is a
//! value that can't be used.
//!
//! ```text
//! file ── parse ──► Config ── validate ──► the daemon
//!           │ unknown key, wrong type          │ out of range, contradictory
//!           └── path:line:column: what, and what instead
//! ```

mod error;
mod handlers;
mod pool;
mod print;
mod section;
mod sections;
mod validate;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use handlers::{Handler, HandlerKind, Handlers};
pub use pool::Pool;
pub use print::default_text;
pub use sections::{
    Format, HostPods, Limits, Logging, Monitoring, Network, Paths, Registries, Stats, Streaming, Vm,
};

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/bulkhead/config.toml";

/// Longest configuration file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where things are.
    pub paths: Paths,
    /// What a pod's machine is like.
    pub vm: Vm,
    /// Runtime handlers.
    pub handlers: Handlers,
    /// Pods that may run on the host.
    pub host_pods: HostPods,
    /// Registries that images are pulled from.
    pub registries: Registries,
    /// The embedded pod network.
    pub network: Network,
    /// The streaming server.
    pub streaming: Streaming,
    /// What the daemon tells.
    pub logging: Logging,
    /// What the daemon shows of itself.
    pub monitoring: Monitoring,
    /// How pods are measured.
    pub stats: Stats,
    /// What one node bears.
    pub limits: Limits,
}

impl Config {
    /// Reads the file that the operator named, or the one at [`DEFAULT_PATH`] if there
    /// is one, or takes the defaults.
    ///
    /// # Errors
    /// [`ConfigError`], with file, line and column where there are any.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match read(path) {
            Ok(text) => Self::parse(&text, path),
            // Only a file that was asked for must exist.
            Err(source) if named.is_none() && source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads a configuration's text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], with line and column.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
        match validate::first_fault(&config) {
            None => Ok(config),
            Some(fault) => Err(ConfigError::value(path, text, fault)),
        }
    }

    /// The socket of daemon and command line.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.paths.socket.clone()
    }

    /// The settings in the shape that the network takes.
    #[must_use]
    pub fn network_config(&self) -> bulkhead_net::NetworkConfig {
        bulkhead_net::NetworkConfig {
            bridge: self.network.bridge.clone(),
            ipv4_pool: self.network.ipv4_pool.0,
            ipv6_pool: self.network.ipv6_pool.0,
            mtu: self.network.mtu,
            masquerade: self.network.masquerade,
        }
    }

    /// The settings in the shape that the streaming server takes.
    #[must_use]
    pub fn streaming_settings(&self) -> bulkhead_streaming::Settings {
        let Streaming {
            address,
            tls_certificate,
            tls_key,
            idle_minutes,
        } = &self.streaming;
        let tls = (!tls_certificate.is_empty()).then(|| (tls_certificate.into(), tls_key.into()));
        bulkhead_streaming::Settings {
            address: *address,
            tls,
            idle: Duration::from_secs(60 * u64::from(*idle_minutes)),
        }
    }

    /// The settings as TOML, without explanations.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::effective_text(self)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > FILE_MAX {
        return Err(io::Error::other(format!(
            "the file has {length} bytes; a configuration has at most {FILE_MAX}"
        )));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match Config::parse(text, Path::new("/etc/bulkhead/config.toml")) {
            Err(error) => error.to_string(),
            Ok(config) => panic!("accepted: {config:?}"),
        }
    }

    #[test]
    fn the_printed_default_is_the_default() {
        let text = default_text();
        let parsed = Config::parse(&text, Path::new("default")).unwrap();
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn every_key_is_explained_in_the_printed_default() {
        let text = default_text();
        let lines: Vec<&str> = text.lines().collect();
        let mut keys = 0;
        for (index, line) in lines.iter().enumerate() {
            let is_key = !line.starts_with('#') && !line.starts_with('[') && !line.is_empty();
            if is_key {
                keys += 1;
                assert!(lines[index - 1].starts_with("# "), "{line}");
            }
        }
        let table = toml::Table::try_from(Config::default()).unwrap();
        let defined: usize = table
            .values()
            .map(|section| section.as_table().unwrap().len())
            .sum();
        assert_eq!(keys, defined);
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let mut config = Config::default();
        config.vm.memory_mib = 300;
        config.network.ipv6_pool = Pool(None);
        config.vm.kernel_cmdline_extra = "a=\"b\" \\ c".to_owned();
        let again = Config::parse(&config.to_toml(), Path::new("shown")).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn handlers_are_added_to_those_that_are_always_there() {
        let text = "[handlers.big]\nkind = \"microvm\"\nmemory_mib = 4096\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let names: Vec<&str> = config.handlers.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["big", "bulkhead", "host"]);
        assert_eq!(config.handlers.0["big"].memory_mib, Some(4096));
        assert_eq!(config.host_pods.allow_namespaces, ["kube-system"]);
        let again = Config::parse(&config.to_toml(), Path::new("shown")).unwrap();
        assert_eq!(again, config);
        assert!(refused("[handlers.big]\nmemory_mib = 4096\n").contains("kind"));
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(
            Config::parse("", Path::new("x")).unwrap(),
            Config::default()
        );
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let error = refused("[vm]\nmemory_mib = 256\n  memory = 512\n");
        assert!(
            error.starts_with("/etc/bulkhead/config.toml, line 3, column 3: "),
            "{error}"
        );
        assert!(error.contains("unknown field `memory`"), "{error}");
        assert!(
            error.contains("memory_mib"),
            "it says what there is: {error}"
        );
        let error = refused("[vms]\n");
        assert!(
            error.contains("line 1") && error.contains("`vms`"),
            "{error}"
        );
    }

    #[test]
    fn syntax_errors_and_wrong_types_have_their_place() {
        let error = refused("[vm]\n= = =\n");
        assert!(error.contains("line 2"), "{error}");
        let error = refused("[vm]\nmemory_mib = \"much\"\n");
        assert!(error.contains("line 2, column 14"), "{error}");
        let error = refused("[network]\nmtu = 70000\n");
        assert!(error.contains("line 2"), "{error}");
        let error = refused("[network]\nipv4_pool = \"10.0.0.0/33\"\n");
        assert!(
            error.contains("line 2") && error.contains("ipv4_pool"),
            "{error}"
        );
        let error = refused("[logging]\nformat = \"xml\"\n");
        assert!(
            error.contains("line 2") && error.contains("json"),
            "{error}"
        );
    }

    #[test]
    fn values_that_cannot_be_used_are_refused_with_their_place() {
        for (text, wanted) in [
            ("[network]\n\nmtu = 3", "line 3, column 1"),
            ("[network]\nbridge = \"a/b\"", "network.bridge"),
            (
                "[network]\nipv4_pool = \"127.0.0.0/8\"",
                "network.ipv4_pool",
            ),
            (
                "network.ipv4_pool = \"\"\nnetwork.ipv6_pool = \"\"",
                "at least one pool",
            ),
            ("[paths]\nstate_dir = \"relative\"", "absolute"),
            ("[paths]\nsocket = \"/run/../x\"", ".."),
            ("[vm]\nmemory_mib = 1", "vm.memory_mib"),
            ("[vm]\nvcpus_boot = 0", "vm.vcpus_boot"),
            ("[vm]\nvcpus_boot = 4\nvcpus_max = 2", "vm.vcpus_max"),
            ("[vm]\nscratch_gib = 0", "vm.scratch_gib"),
            ("[vm]\nboot_timeout_seconds = 0", "vm.boot_timeout_seconds"),
            (
                "[vm]\nanswer_timeout_seconds = 0",
                "vm.answer_timeout_seconds",
            ),
            ("[vm]\nvmm_uid_first = 0", "vm.vmm_uid_first"),
            ("[vm]\nvmm_uid_count = 0", "vm.vmm_uid_count"),
            ("[vm]\nvmm_uid_first = 4294967000", "vm.vmm_uid_count"),
            (
                "[vm]\nkernel_cmdline_extra = \"a\\nb\"",
                "vm.kernel_cmdline_extra",
            ),
            ("[vm]\ncgroup_parent = \"../up\"", "vm.cgroup_parent"),
            (
                "[streaming]\naddress = \"0.0.0.0:10010\"",
                "streaming.address",
            ),
            (
                "[streaming]\ntls_certificate = \"/a.pem\"",
                "streaming.tls_key",
            ),
            ("[streaming]\nidle_minutes = 0", "streaming.idle_minutes"),
            ("[logging]\nlevel = \"=x=[\"", "logging.level"),
            ("[stats]\ninterval_seconds = 0", "stats.interval_seconds"),
            (
                "[registries]\nlayers_at_once = 0",
                "registries.layers_at_once",
            ),
            ("[registries]\nhosts_dir = \"here\"", "registries.hosts_dir"),
            ("[stats]\ntimeout_seconds = 61", "stats.timeout_seconds"),
            (
                "[stats]\nclock_tolerance_ms = 0",
                "stats.clock_tolerance_ms",
            ),
            ("[limits]\npods = 0", "limits.pods"),
            ("[handlers.bulkhead]\nkind = \"host\"", "handlers.bulkhead"),
            (
                "[handlers.host]\nkind = \"host\"\nmemory_mib = 512",
                "handlers.host",
            ),
            (
                "[handlers.big]\nkind = \"microvm\"\nmemory_mib = 1",
                "handlers.big",
            ),
            (
                "[handlers.big]\nkind = \"microvm\"\nkernel = \"vmlinux\"",
                "handlers.big",
            ),
            ("[handlers.\"a b\"]\nkind = \"microvm\"", "handlers.a b"),
            (
                "[host_pods]\nallow_handlers = [\"kata\"]",
                "host_pods.allow_handlers",
            ),
            (
                "[host_pods]\nallow_namespaces = [\"\"]",
                "host_pods.allow_namespaces",
            ),
            ("[monitoring]\nlisten = \"9464\"", "monitoring.listen"),
            (
                "[monitoring]\notlp_endpoint = \"collector\"",
                "monitoring.otlp_endpoint",
            ),
        ] {
            let error = refused(text);
            assert!(error.contains(wanted), "{text:?}: {error}");
            assert!(error.contains("line "), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let missing = Path::new("/nonexistent/bulkhead.toml");
        let error = Config::load(Some(missing)).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/bulkhead.toml"), "{error}");
    }

    #[test]
    fn a_socket_path_fits_into_a_socket_address() {
        let long = format!("[paths]\nsocket = \"/{}\"", "x".repeat(107));
        assert!(refused(&long).contains("107 bytes"));
        let fits = format!("[paths]\nsocket = \"/{}\"", "x".repeat(106));
        Config::parse(&fits, Path::new("x")).unwrap();
    }
}
