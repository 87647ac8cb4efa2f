//! From the configuration to what the daemon works with.

use std::{path::Path, sync::Arc, time::Duration};

use bulkhead_image::{Limits, ScratchTemplates, Store};
use bulkhead_net::Network;
use bulkhead_sandbox::{
    HostConfig, HostLauncher, MicroVmConfig, MicroVmLauncher, PlaceKind, Places,
};

use crate::{
    config::{self, Config, HandlerKind, Vm},
    cri::Node,
    doctor::kvm,
    error::{Error, Result},
    images::NodeImages,
    observe::metrics::Metrics,
    paths::Paths,
    pods::{
        Parts, Pods, Settings,
        placement::{Handler, HostPods},
        sizing::Sizing,
        starts_per_machine,
    },
    stats::Sampling,
    store::Database,
};

/// Opens stores, prepares network and launcher. Nothing outside changes yet but
/// what is missing in the daemon's own directories.
pub(super) async fn assemble(
    config: &Config,
    paths: &Paths,
    metrics: Metrics,
) -> Result<(Pods, Node)> {
    let network = Network::new(config.network_config())?;
    let (config, paths) = (config.clone(), paths.clone());
    tokio::task::spawn_blocking(move || {
        let records = Database::open(&paths.database())?;
        let images = Store::open_with(paths.images(), image_limits(&config))?;
        let settings = settings(&config, &paths);
        check_kernels(&settings)?;
        let microvm = launcher(&config, &paths, &settings)?;
        let launcher = Places::new(microvm, host_launcher(&config, &paths)?);
        let node = node(&config);
        let pods = Pods::new(Parts {
            records: Arc::new(records),
            launcher: Arc::new(launcher),
            network: Arc::new(network),
            images: Arc::new(NodeImages::new(images, &config.registries)),
            settings,
            metrics,
        });
        Ok((pods, node))
    })
    .await?
}

fn image_limits(config: &Config) -> Limits {
    Limits {
        archive_bytes: u64::from(config.limits.image_archive_gib) << 30,
        layer_bytes: u64::from(config.limits.image_layer_gib) << 30,
        store_bytes: match config.limits.images_gib {
            0 => u64::MAX,
            gib => u64::from(gib) << 30,
        },
        free_bytes: u64::from(config.limits.images_reserve_mib) << 20,
        ..Limits::default()
    }
}

fn sizing(vm: &Vm) -> Sizing {
    let standard = Sizing::default();
    let max_vcpus = match vm.vcpus_max {
        0 => standard.max_vcpus,
        max => max,
    };
    Sizing {
        vcpus: vm.vcpus_boot,
        max_vcpus,
        memory_bytes: u64::from(vm.memory_mib) << 20,
        scratch_bytes: u64::from(vm.scratch_gib) << 30,
        ..standard
    }
}

fn handler(config: &Config, handler: &config::Handler) -> Handler {
    if handler.kind == HandlerKind::Host {
        return Handler {
            place: PlaceKind::Host,
            ..Handler::default()
        };
    }
    Handler {
        place: PlaceKind::MicroVm,
        sizing: Some(sizing(&handler.machine(&config.vm))),
        kernel: handler.kernel.clone(),
        kernel_cmdline: handler.kernel_cmdline_extra.clone(),
    }
}

/// A kernel that is missing is said now, not when the first pod asks for it.
fn check_kernels(settings: &Settings) -> Result<()> {
    for (name, handler) in &settings.handlers {
        if let Some(kernel) = handler.kernel.as_ref().filter(|it| !it.is_file()) {
            return Err(Error::precondition(format!(
                "the guest kernel of handlers.{name} is missing: {} is no file",
                kernel.display()
            )));
        }
    }
    Ok(())
}

fn settings(config: &Config, paths: &Paths) -> Settings {
    let handlers = config.handlers.0.iter();
    Settings {
        max_pods: usize::try_from(config.limits.pods).unwrap_or(usize::MAX),
        starts_at_once: match config.vm.starts_at_once {
            0 => starts_per_machine(),
            count => usize::try_from(count).unwrap_or(usize::MAX),
        },
        handlers: handlers
            .map(|(name, it)| (name.clone(), handler(config, it)))
            .collect(),
        host_pods: HostPods {
            namespaces: config.host_pods.allow_namespaces.clone(),
            handlers: config.host_pods.allow_handlers.clone(),
        },
        sizing: sizing(&config.vm),
        vmm_uid_first: config.vm.vmm_uid_first,
        vmm_uid_count: config.vm.vmm_uid_count,
        sampling: Sampling {
            interval: Duration::from_secs(config.stats.interval_seconds.into()),
            deadline: Duration::from_secs(config.stats.timeout_seconds.into()),
            clock_tolerance: Duration::from_millis(config.stats.clock_tolerance_ms.into()),
        },
        writable_fs: paths.scratch(),
        ..Settings::default()
    }
}

fn launcher(config: &Config, paths: &Paths, settings: &Settings) -> Result<MicroVmLauncher> {
    let templates = ScratchTemplates::new(paths.cache());
    // What is missing for it is told now, not when the first pod asks for it.
    let of_handlers = settings.handlers.values().flat_map(|it| &it.sizing);
    for sizing in of_handlers.chain([&settings.sizing]) {
        templates.of(sizing.scratch_bytes)?;
    }
    let make = move |path: &Path, bytes: u64| {
        templates
            .of(bytes)
            .and_then(|template| template.create(path))
            .map(|scratch| scratch.file)
            .map_err(std::io::Error::other)
    };
    let microvm = MicroVmConfig {
        run_dir: paths.pods(),
        cache_dir: paths.cache(),
        scratch_dir: paths.scratch(),
        vmm: config.paths.vmm.clone(),
        agent: config.paths.agent.clone(),
        kernel: config.paths.kernel.clone(),
        cgroup_parent: config.vm.cgroup_parent.clone(),
        console: config.vm.console,
        extra_cmdline: config.vm.kernel_cmdline_extra.clone(),
        ready_timeout: Duration::from_secs(u64::from(config.vm.boot_timeout_seconds)),
        call_timeout: Duration::from_secs(u64::from(config.vm.answer_timeout_seconds)),
        vmm_log: config.logging.vmm_level.clone(),
        ..MicroVmConfig::default()
    };
    Ok(MicroVmLauncher::new(microvm, Arc::new(make))?)
}

fn host_launcher(config: &Config, paths: &Paths) -> Result<HostLauncher> {
    let host = HostConfig {
        run_dir: paths.pods(),
        scratch_dir: paths.scratch(),
        agent: config.paths.agent.clone(),
        cgroup_parent: config.vm.cgroup_parent.clone(),
        ready_timeout: Duration::from_secs(u64::from(config.vm.boot_timeout_seconds)),
        call_timeout: Duration::from_secs(u64::from(config.vm.answer_timeout_seconds)),
        ..HostConfig::default()
    };
    Ok(HostLauncher::new(host)?)
}

/// What the runtime says of itself. A host that can't run guests is served all the
/// same, so that Status says so.
fn node(config: &Config) -> Node {
    let fault = kvm::probe().err().map(|error| {
        let message = format!("{error}; {}", error.mend());
        tracing::error!(%message, "this host can't run pods");
        message
    });
    let shown = serde_json::to_value(config)
        .unwrap_or_else(|error| Error::internal(error.to_string()).to_string().into());
    Node {
        systemd_cgroups: super::systemd_runs(),
        fault,
        quarantined: Vec::new(),
        info: [("config".to_owned(), shown)].into(),
    }
}
