//! Pods on the host: who may, what they hold, and that a restart knows them.

use bulkhead_cri_api::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig,
};
use bulkhead_sandbox::PlaceKind;

use super::{check_whole, node, on_virtual_time, pod};
use crate::{
    Kind,
    testing::{Node, records},
};

fn config(name: &str, namespace: &str, network: NamespaceMode) -> PodSandboxConfig {
    let mut config = records::pod_config(name, 0);
    if let Some(metadata) = &mut config.metadata {
        metadata.namespace = namespace.to_owned();
    }
    let mut options = NamespaceOption::default();
    options.set_network(network);
    config.linux = Some(LinuxPodSandboxConfig {
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        }),
        ..Default::default()
    });
    config
}

#[test]
fn a_pod_in_the_hosts_network_holds_nothing_of_the_pods_network() {
    on_virtual_time(async {
        let node = node().await;
        let wanted = config("p", "kube-system", NamespaceMode::Node);
        let id = node.pods.run(wanted, String::new()).await.unwrap();
        let record = pod(&node, &id);
        assert_eq!(record.place, PlaceKind::Host);
        assert_eq!(record.sandbox.as_ref().unwrap().place, PlaceKind::Host);
        assert!(record.lease.is_none() && record.size.is_none());
        assert!(node.network.leased().is_empty());
        check_whole(&node);

        node.world.daemon_died();
        let node = Node::start(&node.world).await.unwrap();
        assert_eq!(node.report.adopted, 1);
        assert_eq!(pod(&node, &id).place, PlaceKind::Host);
        node.pods.remove(&id).await.unwrap();
        assert_eq!(node.world.residue(), Default::default());
    });
}

#[test]
fn a_host_pod_of_its_own_network_has_an_address() {
    on_virtual_time(async {
        let node = node().await;
        let wanted = config("p", "kube-system", NamespaceMode::Pod);
        let id = node.pods.run(wanted, "host".into()).await.unwrap();
        let record = pod(&node, &id);
        assert!(record.place == PlaceKind::Host && record.lease.is_some());
        let container = records::container_config("c", 0, &["sleep"]);
        node.pods.create(&id, container).await.unwrap();
        check_whole(&node);
        node.pods.remove(&id).await.unwrap();
        assert_eq!(node.world.residue(), Default::default());
    });
}

#[test]
fn who_may_not_is_refused_before_anything_is_made() {
    on_virtual_time(async {
        let node = node().await;
        for (network, handler) in [(NamespaceMode::Node, ""), (NamespaceMode::Pod, "host")] {
            let wanted = config("p", "default", network);
            let error = node.pods.run(wanted, handler.into()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::FailedPrecondition);
        }
        assert_eq!(node.world.residue(), Default::default());
        check_whole(&node);
    });
}

#[test]
fn records_of_earlier_versions_are_of_microvms() {
    let mut value = serde_json::to_value(records::pod("p", crate::store::PodPhase::Ready)).unwrap();
    value.as_object_mut().unwrap().remove("place");
    let record: crate::store::PodRecord = serde_json::from_value(value).unwrap();
    assert_eq!(record.place, PlaceKind::MicroVm);
}
