//! Random sequences of calls, deaths and restarts, compared with a model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::{Mode, Residue};

#[derive(Clone, Debug)]
enum Op {
    Run(u8),
    StopPod(u8),
    RemovePod(u8),
    Create(u8, u8, bool),
    Start(u8, u8),
    Stop(u8, u8),
    Remove(u8, u8),
    Exec(u8, u8),
    KillVm(u8),
    End(u8, u8),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let (pod, name) = (|| 0..3u8, || 0..2u8);
    prop_oneof![
        4 => pod().prop_map(Op::Run),
        1 => pod().prop_map(Op::StopPod),
        1 => pod().prop_map(Op::RemovePod),
        4 => (pod(), name(), any::<bool>()).prop_map(|(p, c, short)| Op::Create(p, c, short)),
        4 => (pod(), name()).prop_map(|(p, c)| Op::Start(p, c)),
        2 => (pod(), name()).prop_map(|(p, c)| Op::Stop(p, c)),
        2 => (pod(), name()).prop_map(|(p, c)| Op::Remove(p, c)),
        2 => (pod(), name()).prop_map(|(p, c)| Op::Exec(p, c)),
        1 => pod().prop_map(Op::KillVm),
        1 => (pod(), name()).prop_map(|(p, c)| Op::End(p, c)),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Created,
    Running,
    Exited,
}

#[derive(Debug, Default)]
struct Pod {
    id: String,
    ready: bool,
    containers: BTreeMap<u8, (String, bool, Phase)>,
}

impl Pod {
    fn end(&mut self) {
        self.ready = false;
        for (_, _, phase) in self.containers.values_mut() {
            *phase = Phase::Exited;
        }
    }
}

/// What the daemon should think.
#[derive(Debug, Default)]
struct Expected {
    pods: BTreeMap<u8, Pod>,
}

impl Expected {
    fn container(&mut self, p: u8, c: u8) -> Option<&mut (String, bool, Phase)> {
        self.pods.get_mut(&p)?.containers.get_mut(&c)
    }

    fn id(&mut self, p: u8, c: u8) -> String {
        self.container(p, c)
            .map_or_else(|| "absent".to_owned(), |it| it.0.clone())
    }

    fn pod_id(&self, p: u8) -> String {
        self.pods
            .get(&p)
            .map_or_else(|| "absent".to_owned(), |pod| pod.id.clone())
    }

    fn compare(&self, node: &Node) {
        let mut pods: Vec<_> = self
            .pods
            .values()
            .map(|pod| (pod.id.clone(), pod.ready))
            .collect();
        pods.sort();
        let listed: Vec<_> = node
            .pods
            .model()
            .pods()
            .iter()
            .map(|pod| (pod.id.clone(), pod.record().phase == PodPhase::Ready))
            .collect();
        assert_eq!(listed, pods);
        let mut containers: Vec<_> = self
            .pods
            .values()
            .flat_map(|pod| pod.containers.values())
            .map(|(id, _, phase)| (id.clone(), format!("{phase:?}")))
            .collect();
        containers.sort();
        let listed: Vec<_> = node
            .pods
            .model()
            .containers()
            .iter()
            .map(|it| (it.id.clone(), format!("{:?}", it.record().phase)))
            .collect();
        assert_eq!(listed, containers);
    }
}

fn pod_config(p: u8) -> bulkhead_cri_api::v1::PodSandboxConfig {
    records::pod_config(&format!("p{p}"), 0)
}

async fn apply(node: &mut Node, expected: &mut Expected, op: &Op) {
    let pods = node.pods.clone();
    match *op {
        Op::Run(p) => {
            let result = pods.run(pod_config(p), String::new()).await;
            match expected.pods.get(&p) {
                Some(pod) if pod.ready => assert_eq!(result.unwrap(), pod.id),
                Some(_) => assert!(result.is_err()),
                None => {
                    let pod = Pod {
                        id: result.unwrap(),
                        ready: true,
                        ..Pod::default()
                    };
                    expected.pods.insert(p, pod);
                }
            }
        }
        Op::StopPod(p) => {
            pods.stop(&expected.pod_id(p)).await.unwrap();
            if let Some(pod) = expected.pods.get_mut(&p) {
                pod.end();
            }
        }
        Op::RemovePod(p) => {
            pods.remove(&expected.pod_id(p)).await.unwrap();
            expected.pods.remove(&p);
        }
        Op::Create(p, c, short) => {
            let command: &[&str] = if short { &["exit", "5"] } else { &["sleep"] };
            let config = records::container_config(&format!("c{c}"), 0, command);
            let result = pods.create(&expected.pod_id(p), config).await;
            let Some(pod) = expected.pods.get_mut(&p).filter(|pod| pod.ready) else {
                assert!(result.is_err());
                return;
            };
            match pod.containers.get(&c) {
                Some((id, same, _)) if *same == short => assert_eq!(result.unwrap(), *id),
                Some(_) => assert!(result.is_err()),
                None => {
                    pod.containers
                        .insert(c, (result.unwrap(), short, Phase::Created));
                }
            }
        }
        Op::Start(p, c) => {
            let result = pods.start(&expected.id(p, c)).await;
            match expected.container(p, c) {
                Some((_, short, phase)) if *phase == Phase::Created => {
                    result.unwrap();
                    *phase = if *short {
                        Phase::Exited
                    } else {
                        Phase::Running
                    };
                }
                _ => assert!(result.is_err()),
            }
        }
        Op::Stop(p, c) => {
            pods.stop_container(&expected.id(p, c), Duration::from_secs(1))
                .await
                .unwrap();
            if let Some((_, _, phase @ Phase::Running)) = expected.container(p, c) {
                *phase = Phase::Exited;
            }
        }
        Op::Remove(p, c) => {
            pods.remove_container(&expected.id(p, c)).await.unwrap();
            if let Some(pod) = expected.pods.get_mut(&p) {
                pod.containers.remove(&c);
            }
        }
        Op::Exec(p, c) => {
            let result = pods
                .exec_sync(&expected.id(p, c), vec!["true".into()], None)
                .await;
            let runs = matches!(expected.container(p, c), Some((_, _, Phase::Running)));
            assert_eq!(result.is_ok(), runs, "{result:?}");
        }
        Op::KillVm(p) => {
            node.world
                .kill_vm(&expected.pod_id(p), "guest-panic", "oops");
            if let Some(pod) = expected.pods.get_mut(&p) {
                pod.end();
            }
        }
        Op::End(p, c) => {
            // An init that ends before its start is an end, too.
            node.world.end_container(&expected.id(p, c), 9);
            if let Some((_, _, phase)) = expected.container(p, c) {
                *phase = Phase::Exited;
            }
        }
        Op::Restart => {
            node.world.daemon_died();
            *node = Node::start(&node.world).await.unwrap();
        }
    }
    settled().await;
}

async fn remove_everything(node: &Node) {
    for pod in node.pods.model().pods() {
        node.pods.remove(&pod.id).await.unwrap();
    }
    assert_eq!(node.world.residue(), Residue::default());
    assert!(node.network.leased().is_empty());
}

/// Enough for every day; a long run sets PROPTEST_CASES.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|cases| cases.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_daemon_thinks_what_the_model_thinks(ops in prop::collection::vec(op(), 1..60)) {
        on_virtual_time(async {
            let mut node = node().await;
            let mut expected = Expected::default();
            for op in &ops {
                apply(&mut node, &mut expected, op).await;
                expected.compare(&node);
                check_whole(&node);
            }
            remove_everything(&node).await;
        });
    }

    #[test]
    fn whatever_fails_nothing_is_left_in_the_end(
        ops in prop::collection::vec(op(), 1..60),
        seed in 1..u64::MAX,
    ) {
        on_virtual_time(async {
            let world = World::new();
            let mut node = Node::start(&world).await.unwrap();
            world.faults.set(Mode::Random { one_in: 6, seed });
            let id = |node: &Node, n: u8| {
                let pods = node.pods.model().pods();
                pods.get(usize::from(n)).map_or("absent".to_owned(), |pod| pod.id.clone())
            };
            let container = |node: &Node, n: u8| {
                let all = node.pods.model().containers();
                all.get(usize::from(n)).map_or("absent".to_owned(), |it| it.id.clone())
            };
            for op in &ops {
                let pods = node.pods.clone();
                let _: Result<()> = match *op {
                    Op::Run(p) => pods.run(pod_config(p), String::new()).await.map(|_| ()),
                    Op::StopPod(p) => pods.stop(&id(&node, p)).await,
                    Op::RemovePod(p) => pods.remove(&id(&node, p)).await,
                    Op::Create(p, c, _) => {
                        let config = records::container_config(&format!("c{c}"), 0, &["sleep"]);
                        pods.create(&id(&node, p), config).await.map(|_| ())
                    }
                    Op::Start(_, c) => pods.start(&container(&node, c)).await,
                    Op::Stop(_, c) => {
                        pods.stop_container(&container(&node, c), Duration::from_secs(1)).await
                    }
                    Op::Remove(_, c) => pods.remove_container(&container(&node, c)).await,
                    Op::Exec(_, c) => {
                        let command = vec!["true".into()];
                        pods.exec_sync(&container(&node, c), command, None).await.map(|_| ())
                    }
                    Op::KillVm(p) => { world.kill_vm(&id(&node, p), "guest-panic", ""); Ok(()) }
                    Op::End(_, c) => { world.end_container(&container(&node, c), 1); Ok(()) }
                    Op::Restart => {
                        world.daemon_died();
                        node = Node::start(&world).await.unwrap();
                        Ok(())
                    }
                };
            }
            world.faults.set(Mode::Pass);
            // Whatever is repeated in the background has its turn.
            tokio::time::sleep(Duration::from_secs(120)).await;
            remove_everything(&node).await;
        });
    }
}
