//! The cases, by subject.

mod bad_input;
mod crash;
mod host;
mod leaks;
mod lifecycle;
mod many;
mod processes;
mod pulls;
mod restarts;
mod roundtrip;
mod sequences;
mod settings;
mod streams;
mod suites;
mod traces;
mod usage;

use std::{future::Future, pin::Pin};

use anyhow::Result;

use bulkhead_e2e::{
    image,
    node::{Node, Programs},
    world::World,
};

type Run = for<'a> fn(&'a Programs) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A named test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
}

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$(Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |programs| Box::pin($module::$name(programs)),
        }),*]
    };
}

/// Those that need neither a virtual machine nor every controller in one hierarchy: they
/// can also run on the machine itself, in namespaces (`tests/e2e/apart.sh`), which an
/// emulated one is many times slower than.
pub(crate) const APART: &[Case] = cases![
    leaks::a_thousand_streams,
    sequences::random_without_vms,
    crash::daemon_killed_at_many_moments,
    host::bytes_are_exact,
    host::namespaces,
    host::refused_unless_allowed,
    host::confined,
    host::daemon_killed_at_each_step,
    host::daemon_and_agent_killed,
    host::logs_rotate_under_load,
    pulls::what_a_registry_refuses,
    pulls::daemon_killed,
    bad_input::configuration,
];

/// The others, in the order they run: what takes longest comes first, so that of several
/// runs that share them none is left with it at the end.
pub(crate) const IN_A_TEST_HOST: &[Case] = cases![
    suites::agent,
    suites::vmm,
    many::twenty_pods_leave_nothing,
    crash::daemon_killed_at_each_step,
    streams::bytes_are_exact,
    restarts::fifty_under_a_busy_pod,
    roundtrip::as_umoci_unpacks,
    sequences::random,
    lifecycle::node_answers,
    lifecycle::pod_from_run_to_remove,
    lifecycle::image_layers_are_seen_as_one,
    lifecycle::creates_are_joined,
    lifecycle::users_and_groups,
    processes::exit_codes,
    processes::exec_sync,
    processes::exec_never_hangs,
    processes::logs_are_exact,
    processes::early_stop,
    processes::early_stop_of_who_awaits_it,
    streams::exec_streams,
    streams::attach_streams,
    streams::port_forward,
    usage::figures_are_plausible,
    usage::events_are_told,
    usage::limits_change,
    usage::scratch_disks,
    traces::continue_the_clients,
    usage::logs_rotate_under_load,
    settings::host_ports,
    settings::cgroup_parents,
    settings::environment_is_bytes,
    settings::privileged_devices,
    crash::daemon_killed_under_a_fast_log,
    crash::exits_during_an_outage_are_kept,
    crash::vmm_killed,
    pulls::by_tag_and_by_digest,
    bad_input::images,
    bad_input::guests_that_do_not_come_up,
    bad_input::address_pool,
    bad_input::full_disk,
    bad_input::requests,
    host::lifecycle,
    host::paths_and_devices,
];

/// Every case.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    IN_A_TEST_HOST.iter().chain(APART)
}

/// Whether the case runs on the machine itself (`tests/e2e/apart.sh`), where more can be
/// tried in the same time.
fn apart() -> bool {
    std::env::var_os("BULKHEAD_APART").is_some()
}

/// A started node with the demo image, and what the world looked like then.
async fn node(programs: &Programs, name: &str, extra: &str) -> Result<(Node, World)> {
    let mut node = Node::new(programs, name, extra)?;
    node.start().await?;
    node.import(image::demo()?, "demo.tar").await?;
    let world = look(&node)?;
    Ok((node, world))
}

fn look(node: &Node) -> Result<World> {
    World::look(node.daemon_pid()?, &[&node.state_dir(), &node.run_dir()])
}

/// [`clean`] where the daemon was restarted.
async fn clean_after_restart(mut node: Node, before: &World) -> Result<()> {
    let differences = before.but_for_the_daemon(&look(&node)?);
    anyhow::ensure!(differences.is_empty(), "left behind: {differences:#?}");
    node.stop().await
}

/// The end of a case: nothing may be left, and the daemon ends in peace.
async fn clean(mut node: Node, before: &World) -> Result<()> {
    let mut differences = Vec::new();
    // Sockets of clients that just went away close a moment later.
    for _ in 0..300 {
        differences = before.differences(&look(&node)?);
        if differences.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::ensure!(
        differences.is_empty(),
        "left behind: {differences:#?}\ndaemon log:\n{}",
        node.daemon_log()
    );
    node.stop().await
}
