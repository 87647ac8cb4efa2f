//! Statistics and metrics.

use std::time::{Duration, Instant};

use super::*;

async fn container_stats(clients: &mut Clients, id: &str) -> v1::ContainerStats {
    let request = ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = clients.runtime.container_stats(request).await.unwrap();
    answer.into_inner().stats.unwrap()
}

async fn list(clients: &mut Clients, filter: ContainerStatsFilter) -> Vec<String> {
    let request = ListContainerStatsRequest {
        filter: Some(filter),
    };
    let answer = clients.runtime.list_container_stats(request).await.unwrap();
    let stats = answer.into_inner().stats;
    stats
        .into_iter()
        .map(|it| it.attributes.unwrap().id)
        .collect()
}

fn value(number: Option<UInt64Value>) -> u64 {
    number.unwrap().value
}

#[tokio::test]
async fn a_young_container_has_figures_at_once() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    for name in ["a", "b"] {
        let config = records::container_config(name, 0, &["sleep"]);
        let id = create(&mut clients, &pod, config).await.unwrap();
        if name == "b" {
            start(&mut clients, &id).await;
        }
        let before = crate::clock::now_ns();
        let stats = container_stats(&mut clients, &id[..13]).await;
        let attributes = stats.attributes.unwrap();
        assert_eq!(attributes.id, id);
        assert_eq!(attributes.labels["tier"], name);
        let cpu = stats.cpu.unwrap();
        assert!(cpu.timestamp > 0 && cpu.timestamp <= crate::clock::now_ns());
        assert!(before - cpu.timestamp < 10_000_000_000);
        assert_eq!(value(cpu.usage_core_nano_seconds), 1_000_000);
        assert!(cpu.usage_nano_cores.is_some());
        let memory = stats.memory.unwrap();
        assert_eq!(value(memory.working_set_bytes), 1 << 20);
        assert_eq!(memory.available_bytes, None, "there is no limit");
        let layer = stats.writable_layer.unwrap();
        assert_eq!(
            (value(layer.used_bytes), value(layer.inodes_used)),
            (4096, 2)
        );
        assert!(!layer.fs_id.unwrap().mountpoint.is_empty());
    }
}

#[tokio::test]
async fn rates_are_over_the_interval() {
    let (node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    container_stats(&mut clients, &id).await;
    // An hour of CPU in less than a minute: more than sixty cores.
    node.world
        .gauges(&pod, |gauges| gauges.cpu_ns = 3_600_000_000_000)
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let cpu = container_stats(&mut clients, &id).await.cpu.unwrap();
        if value(cpu.usage_nano_cores) > 60_000_000_000 {
            break;
        }
        assert!(Instant::now() < deadline, "{cpu:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_asks_twice_sees_change() {
    let world = World::new();
    // Never by itself.
    let year = Duration::from_secs(365 * 24 * 3600);
    let node = Node::sampling(&world, year).await.unwrap();
    let mut clients = node.serve().await.unwrap();
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    let first = container_stats(&mut clients, &id).await.cpu.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let again = container_stats(&mut clients, &id).await.cpu.unwrap();
        if again.timestamp > first.timestamp {
            break;
        }
        assert!(Instant::now() < deadline, "{again:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn filters_let_through_what_they_name() {
    let (_node, mut clients) = node().await;
    let (one, two) = (
        run(&mut clients, "one").await,
        run(&mut clients, "two").await,
    );
    let mut ids = Vec::new();
    for (pod, name) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        let config = records::container_config(name, 0, &["sleep"]);
        ids.push(create(&mut clients, pod, config).await.unwrap());
    }
    let mut all = list(&mut clients, ContainerStatsFilter::default()).await;
    all.sort();
    let mut wanted = ids.clone();
    wanted.sort();
    assert_eq!(all, wanted);
    let by_id = ContainerStatsFilter {
        id: ids[1][..20].to_owned(),
        ..Default::default()
    };
    assert_eq!(list(&mut clients, by_id).await, ids[1..2]);
    let by_pod = ContainerStatsFilter {
        pod_sandbox_id: two.clone(),
        ..Default::default()
    };
    assert_eq!(list(&mut clients, by_pod).await, ids[2..]);
    let by_label = ContainerStatsFilter {
        label_selector: [("tier".to_owned(), "a".to_owned())].into(),
        pod_sandbox_id: one.clone(),
        ..Default::default()
    };
    assert_eq!(list(&mut clients, by_label).await, ids[..1]);
    let none = ContainerStatsFilter {
        id: "absent".into(),
        ..Default::default()
    };
    assert!(list(&mut clients, none).await.is_empty());

    let request = ListPodSandboxStatsRequest {
        filter: Some(PodSandboxStatsFilter {
            label_selector: [("app".to_owned(), "two".to_owned())].into(),
            ..Default::default()
        }),
    };
    let pods = clients
        .runtime
        .list_pod_sandbox_stats(request)
        .await
        .unwrap();
    let pods = pods.into_inner().stats;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].attributes.as_ref().unwrap().id, two);
}

#[tokio::test]
async fn a_pods_figures() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: pod.clone(),
    };
    let stats = clients
        .runtime
        .pod_sandbox_stats(request.clone())
        .await
        .unwrap();
    let linux = stats.into_inner().stats.unwrap().linux.unwrap();
    assert_eq!(value(linux.memory.unwrap().working_set_bytes), 256 << 20);
    assert_eq!(value(linux.process.unwrap().process_count), 40);
    let network = linux.network.unwrap();
    assert_eq!(network.default_interface.as_ref().unwrap().name, "eth0");
    assert_eq!(value(network.interfaces[0].rx_bytes), 1000);
    assert_eq!(linux.containers[0].attributes.as_ref().unwrap().id, id);

    // After its end the last figures stay, with the time that they are of.
    let stop = StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    clients.runtime.stop_pod_sandbox(stop).await.unwrap();
    let stats = clients.runtime.pod_sandbox_stats(request).await.unwrap();
    assert!(
        stats
            .into_inner()
            .stats
            .unwrap()
            .linux
            .unwrap()
            .cpu
            .is_some()
    );
    let listed = clients
        .runtime
        .list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())
        .await
        .unwrap();
    assert!(listed.into_inner().stats.is_empty());
}

#[tokio::test]
async fn a_hung_guest_delays_nobody() {
    let (node, mut clients) = node().await;
    let (well, hung) = (
        run(&mut clients, "well").await,
        run(&mut clients, "hung").await,
    );
    for pod in [&well, &hung] {
        let config = records::container_config("c", 0, &["sleep"]);
        create(&mut clients, pod, config).await.unwrap();
    }
    list(&mut clients, ContainerStatsFilter::default()).await;
    node.world.hang_vm(&hung);
    // From memory, though the guest would never answer.
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(
            list(&mut clients, ContainerStatsFilter::default())
                .await
                .len(),
            2
        );
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    // The other one is measured further.
    let samples = || node.world.gauges(&well, |gauges| gauges.samples).unwrap();
    let before = samples();
    let deadline = Instant::now() + Duration::from_secs(30);
    while samples() < before + 3 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn metrics_have_descriptors() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    let descriptors = clients
        .runtime
        .list_metric_descriptors(ListMetricDescriptorsRequest {})
        .await
        .unwrap();
    assert_eq!(descriptors.into_inner().descriptors.len(), 56);
    let metrics = clients
        .runtime
        .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {})
        .await
        .unwrap();
    let metrics = metrics.into_inner().pod_metrics;
    assert_eq!(
        (metrics.len(), metrics[0].pod_sandbox_id.as_str()),
        (1, pod.as_str())
    );
    let containers = &metrics[0].container_metrics;
    assert_eq!(
        (containers.len(), containers[0].container_id.as_str()),
        (1, id.as_str())
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected() {
    use bulkhead_sandbox::ClockChange;
    let (node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let told = || {
        let changes = node
            .world
            .gauges(&pod, |gauges| gauges.clock_changes.clone());
        changes.unwrap()
    };
    for (ahead_ns, wanted) in [
        (3_600_000_000_000, ClockChange::Step(-3_600_000_000_000)),
        (-100_000_000, ClockChange::Slew(100_000_000)),
    ] {
        let turn = |gauges: &mut crate::testing::Gauges| {
            gauges.clock_changes.clear();
            gauges.clock_ahead_ns = ahead_ns;
        };
        node.world.gauges(&pod, turn).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !told().contains(&wanted) {
            assert!(Instant::now() < deadline, "{:?}", told());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // And then left alone.
    node.world
        .gauges(&pod, |gauges| gauges.clock_ahead_ns = 1_000_000);
    let samples = || node.world.gauges(&pod, |gauges| gauges.samples).unwrap();
    let settled = samples() + 2;
    let deadline = Instant::now() + Duration::from_secs(30);
    while samples() < settled {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.world
        .gauges(&pod, |gauges| gauges.clock_changes.clear());
    while samples() < settled + 3 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(), []);
}
