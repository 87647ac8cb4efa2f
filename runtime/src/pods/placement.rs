//! Where a pod runs. Pure.
//!
//! ```text
//!   asks for a namespace of the host, ─no──► its own microVM
//!   or by its handler for the host?
//!        │ yes
//!   its Kubernetes namespace or its   ─no──► refused: FAILED_PRECONDITION
//!   handler is in [host_pods]?
//!        │ yes
//!   the host
//! ```

use std::{collections::BTreeMap, path::PathBuf};

use bulkhead_cri_api::v1::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use bulkhead_sandbox::PlaceKind;

use super::sizing::Sizing;
use crate::error::{Error, Result};

/// The handler of pods that name none.
pub const DEFAULT_HANDLER: &str = "bulkhead";
/// In [`HostPods::namespaces`]: all.
const ANY: &str = "*";

/// A runtime handler: what a RuntimeClass names.
#[derive(Clone, Debug, Default)]
pub struct Handler {
    /// Where its pods run, as far as it is theirs to say.
    pub place: PlaceKind,
    /// Sizes of their microVMs; `None`: those of all.
    pub sizing: Option<Sizing>,
    /// Their guest kernel; `None`: that of all.
    pub kernel: Option<PathBuf>,
    /// Appended to its command line; `None`: what is appended to all.
    pub kernel_cmdline: Option<String>,
}

/// Handlers by name.
pub type Handlers = BTreeMap<String, Handler>;

/// The handlers that are always there: microVMs, and the host for pods that may.
#[must_use]
pub fn standard_handlers() -> Handlers {
    let host = Handler {
        place: PlaceKind::Host,
        ..Handler::default()
    };
    [
        (DEFAULT_HANDLER.to_owned(), Handler::default()),
        ("host".to_owned(), host),
    ]
    .into()
}

/// Which pods may run on the host when they ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPods {
    /// Those of these Kubernetes namespaces; "*" is any.
    pub namespaces: Vec<String>,
    /// Those of these handlers, whatever their namespace.
    pub handlers: Vec<String>,
}

/// Namespaces of the host that a pod shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Interfaces, addresses, ports; and the host's name.
    pub network: bool,
    /// Processes.
    pub pid: bool,
    /// Queues, semaphores, shared memory.
    pub ipc: bool,
}

impl Shared {
    /// What a pod asks for.
    #[must_use]
    pub fn of(config: &PodSandboxConfig) -> Self {
        let linux = config.linux.as_ref();
        let security = linux.and_then(|linux| linux.security_context.as_ref());
        security
            .and_then(|security| security.namespace_options.as_ref())
            .map_or_else(Self::default, Self::asked)
    }

    /// What options ask for.
    #[must_use]
    pub fn asked(options: &NamespaceOption) -> Self {
        Self {
            network: options.network() == NamespaceMode::Node,
            pid: options.pid() == NamespaceMode::Node,
            ipc: options.ipc() == NamespaceMode::Node,
        }
    }

    /// Names of those that are shared.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.network, "network"),
            (self.pid, "pid"),
            (self.ipc, "ipc"),
        ]
        .into_iter()
        .filter_map(|(shared, name)| shared.then_some(name))
        .collect()
    }
}

/// The handler that a pod asks for.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for one that is not
/// configured, with those that are.
pub fn handler<'h, 'n>(handlers: &'h Handlers, name: &'n str) -> Result<(&'n str, &'h Handler)> {
    let name = if name.is_empty() {
        DEFAULT_HANDLER
    } else {
        name
    };
    let found = handlers.get(name).map(|handler| (name, handler));
    found.ok_or_else(|| {
        let known: Vec<&str> = handlers.keys().map(String::as_str).collect();
        Error::invalid(format!(
            "runtime handler {name:?} is not configured; this node has {}",
            known.join(", ")
        ))
    })
}

/// Decides where a pod runs.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for an unknown handler;
/// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) for a pod that asks
/// for the host and may not.
pub fn place(
    handlers: &Handlers,
    allowed: &HostPods,
    config: &PodSandboxConfig,
    name: &str,
) -> Result<PlaceKind> {
    let (name, handler) = handler(handlers, name)?;
    let shared = Shared::of(config).names();
    let by_handler = handler.place == PlaceKind::Host;
    if shared.is_empty() && !by_handler {
        return Ok(PlaceKind::MicroVm);
    }
    let namespace = config
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.namespace.as_str());
    let may = allowed.handlers.iter().any(|one| one == name)
        || allowed
            .namespaces
            .iter()
            .any(|one| one == namespace || one == ANY);
    if may {
        return Ok(PlaceKind::Host);
    }
    let mut asked = Vec::new();
    if !shared.is_empty() {
        asked.push(format!("the host's {} namespace", shared.join(" and ")));
    }
    if by_handler {
        asked.push(format!(
            "runtime handler {name:?}, which runs pods on the host"
        ));
    }
    Err(Error::precondition(format!(
        "it asks for {}: pods of Kubernetes namespace {namespace:?} run in microVMs only, which \
         share nothing with the host; to allow this, add the namespace to \
         host_pods.allow_namespaces, or handler {name:?} to host_pods.allow_handlers, in the \
         daemon's configuration",
        asked.join(" and ")
    )))
}

#[cfg(test)]
mod tests {
    use bulkhead_cri_api::v1::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext};

    use super::*;
    use crate::{Kind, testing::records::pod_config};

    fn pod(namespace: &str, modes: [NamespaceMode; 3]) -> PodSandboxConfig {
        let mut config = pod_config("p", 0);
        if let Some(metadata) = &mut config.metadata {
            metadata.namespace = namespace.to_owned();
        }
        let mut options = NamespaceOption::default();
        options.set_network(modes[0]);
        options.set_pid(modes[1]);
        options.set_ipc(modes[2]);
        config.linux = Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        });
        config
    }

    const POD: NamespaceMode = NamespaceMode::Pod;
    const NODE: NamespaceMode = NamespaceMode::Node;

    fn shipped() -> HostPods {
        HostPods {
            namespaces: vec!["kube-system".to_owned()],
            handlers: Vec::new(),
        }
    }

    #[test]
    fn only_who_asks_and_may_is_on_the_host() {
        let handlers = standard_handlers();
        for modes in [[NODE, POD, POD], [POD, NODE, POD], [POD, POD, NODE]] {
            for handler in ["", "bulkhead", "host"] {
                let at = |namespace| place(&handlers, &shipped(), &pod(namespace, modes), handler);
                assert_eq!(at("kube-system").unwrap(), PlaceKind::Host);
                assert_eq!(at("default").unwrap_err().kind(), Kind::FailedPrecondition);
            }
        }
        let plain =
            |namespace, handler| place(&handlers, &shipped(), &pod(namespace, [POD; 3]), handler);
        assert_eq!(plain("default", "").unwrap(), PlaceKind::MicroVm);
        assert_eq!(plain("kube-system", "").unwrap(), PlaceKind::MicroVm);
        assert_eq!(plain("kube-system", "host").unwrap(), PlaceKind::Host);
        assert!(plain("default", "host").is_err());
    }

    #[test]
    fn handlers_and_every_namespace_can_be_allowed() {
        let handlers = standard_handlers();
        let allowed = HostPods {
            handlers: vec!["bulkhead".to_owned()],
            ..HostPods::default()
        };
        let on_network = pod("anywhere", [NODE, POD, POD]);
        assert_eq!(
            place(&handlers, &allowed, &on_network, "").unwrap(),
            PlaceKind::Host
        );
        assert!(place(&handlers, &allowed, &on_network, "host").is_err());
        let any = HostPods {
            namespaces: vec![ANY.to_owned()],
            ..HostPods::default()
        };
        assert_eq!(
            place(&handlers, &any, &on_network, "host").unwrap(),
            PlaceKind::Host
        );
        assert!(place(&handlers, &HostPods::default(), &on_network, "").is_err());
    }

    #[test]
    fn a_refusal_says_who_asked_for_what_and_what_allows_it() {
        let handlers = standard_handlers();
        let error = place(
            &handlers,
            &shipped(),
            &pod("team-a", [NODE, NODE, POD]),
            "host",
        )
        .unwrap_err()
        .to_string();
        for part in [
            "\"team-a\"",
            "network and pid",
            "\"host\"",
            "host_pods.allow_namespaces",
            "host_pods.allow_handlers",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = place(&handlers, &shipped(), &pod("a", [POD; 3]), "kata").unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(
            error.to_string().contains("this node has bulkhead, host"),
            "{error}"
        );
    }
}
