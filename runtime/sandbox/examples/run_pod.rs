//! Runs one command in a microVM of its own: the whole way from an image file to
//! a log, without the daemon.
//!
//! ```text
//! run_pod --vmm bulkhead-vmm --agent bulkhead-agent --kernel vmlinux
//!     --image busybox.tar [--dir DIR] [--memory-mib 256] [--cpus 1] [--console]
//!     [--no-cgroups] [--unconfined] [--exec 'COMMAND']... [--input FILE] [--tty] [--crashes N]
//!     -- COMMAND [ARG]...
//! ```
//!
//! `--input` is what each exec reads; `--tty` gives the command a terminal.
//! With `--crashes`, everything a daemon holds of the pod is thrown away N times
//! while the command runs, once a second, and the pod is taken over again.
#![allow(clippy::print_stdout)] // it is a program

use std::{
    collections::VecDeque,
    error::Error as StdError,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_image::{ImportOptions, ScratchTemplate, Store};
use bulkhead_sandbox::{
    ContainerSpec, ExecSpec, Launcher as _, LogTarget, MicroVmConfig, MicroVmLauncher, ProcessId,
    Sandbox, SandboxSpec, Stream, WindowSize,
};
use tokio::runtime::Runtime;

const POD: &str = "example0";
const SCRATCH_BYTES: u64 = 1 << 30;

type Result<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

struct Options {
    config: MicroVmConfig,
    image: PathBuf,
    dir: PathBuf,
    memory_mib: u64,
    cpus: u32,
    execs: Vec<String>,
    crashes: u32,
    input: Option<PathBuf>,
    tty: bool,
    command: Vec<String>,
}

fn options() -> Result<Options> {
    let mut config = MicroVmConfig::default();
    let (mut image, mut dir) = (None, PathBuf::from("/tmp/bulkhead-run-pod"));
    let (mut memory_mib, mut cpus, mut execs, mut crashes) = (256, 1, Vec::new(), 0);
    let (mut input, mut tty) = (None, false);
    let mut args: VecDeque<String> = std::env::args().skip(1).collect();
    while let Some(arg) = args.pop_front() {
        let mut value = || {
            args.pop_front()
                .ok_or_else(|| format!("{arg} needs a value"))
        };
        match arg.as_str() {
            "--vmm" => config.vmm = value()?.into(),
            "--agent" => config.agent = value()?.into(),
            "--kernel" => config.kernel = value()?.into(),
            "--image" => image = Some(value()?.into()),
            "--dir" => dir = value()?.into(),
            "--memory-mib" => memory_mib = value()?.parse()?,
            "--cpus" => cpus = value()?.parse()?,
            "--append" => config.extra_cmdline = value()?,
            "--exec" => execs.push(value()?),
            "--input" => input = Some(value()?.into()),
            "--tty" => tty = true,
            "--crashes" => crashes = value()?.parse()?,
            "--console" => config.console = true,
            "--no-cgroups" => config.cgroup_root = None,
            "--unconfined" => config.confine = false,
            "--" => break,
            other => return Err(format!("what is {other}?").into()),
        }
    }
    Ok(Options {
        config,
        image: image.ok_or("--image is needed")?,
        dir,
        memory_mib,
        cpus,
        execs,
        crashes,
        input,
        tty,
        command: args.into(),
    })
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            eprintln!("run_pod: {e}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

fn launcher(options: &Options) -> Result<MicroVmLauncher> {
    let dir = &options.dir;
    let mut config = options.config.clone();
    config.run_dir = dir.join("pods");
    config.cache_dir = dir.join("cache");
    config.scratch_dir = dir.join("scratch");
    std::fs::create_dir_all(dir)?;
    let template = ScratchTemplate::prepare(&config.scratch_dir, SCRATCH_BYTES)?;
    let make = move |path: &Path, bytes: u64| {
        debug_assert_eq!(bytes, SCRATCH_BYTES);
        template
            .create(path)
            .map(|s| s.file)
            .map_err(std::io::Error::other)
    };
    Ok(MicroVmLauncher::new(config, Arc::new(make))?)
}

fn run(options: &Options) -> Result<i32> {
    let store = Store::open(options.dir.join("state"))?;
    let imported = store.import(&options.image, &ImportOptions::default(), &|_| {})?;
    let image = imported.images.first().ok_or("the file holds no image")?;
    let layers = image
        .layers
        .iter()
        .map(|layer| layer.erofs_path.clone())
        .collect();

    let mut daemon = runtime()?;
    let (record, mut result) = daemon.block_on(async {
        let pod = launch(options).await?;
        let result = start(options, layers, &*pod).await;
        Ok::<_, Box<dyn StdError + Send + Sync>>((pod.record(), (pod, result)))
    })?;
    for n in 1..=options.crashes {
        daemon.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });
        drop(result);
        daemon.shutdown_background();
        daemon = runtime()?;
        result = daemon.block_on(async {
            let began = Instant::now();
            let pod = launcher(options)?.adopt(&record).await?;
            let result = pod.resume_container("container", log(options)).await;
            println!("crash {n}: taken over in {:?}", began.elapsed());
            Ok::<_, Box<dyn StdError + Send + Sync>>((pod, result.map_err(Into::into)))
        })?;
    }
    daemon.block_on(async {
        let (pod, started) = result;
        let ended = match started {
            Ok(()) => finish(options, &*pod).await,
            Err(e) => Err(e),
        };
        remove(options, &*pod, ended.is_err()).await?;
        ended
    })
}

async fn launch(options: &Options) -> Result<Arc<dyn Sandbox>> {
    let launcher = launcher(options)?;
    for left in launcher.leftovers().await? {
        println!("removing what is left of {left}");
        launcher.destroy(&left).await?;
    }
    let began = Instant::now();
    let pod = launcher
        .launch(SandboxSpec {
            pod_id: POD.into(),
            host: None,
            kernel: None,
            kernel_cmdline: None,
            boot_vcpus: options.cpus,
            max_vcpus: options.cpus,
            memory_bytes: options.memory_mib << 20,
            scratch_bytes: SCRATCH_BYTES,
            hostname: "example".into(),
            dns: Default::default(),
            interfaces: Vec::new(),
            sysctls: Default::default(),
            cgroup_parent: None,
            vmm_uid: 70_000,
        })
        .await?;
    println!("pod: {:?}", began.elapsed());
    for timing in pod.timings() {
        println!("  {:<18} {:?}", timing.phase, timing.took);
    }
    Ok(pod)
}

async fn remove(options: &Options, pod: &dyn Sandbox, failed: bool) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&pod.info().await)?);
    if failed {
        println!("exited: {:?}", *pod.exited().borrow());
        let log = options.dir.join("pods").join(POD).join("vmm.log");
        println!(
            "vmm.log:\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }
    let began = Instant::now();
    pod.stop(Duration::from_secs(10)).await?;
    println!("stop: {:?}, {:?}", began.elapsed(), *pod.exited().borrow());
    let began = Instant::now();
    let launcher = launcher(options)?;
    launcher.destroy(POD).await?;
    println!(
        "destroy: {:?}, left: {:?}",
        began.elapsed(),
        launcher.leftovers().await?
    );
    Ok(())
}

fn log(options: &Options) -> LogTarget {
    LogTarget {
        directory: options.dir.join("logs"),
        path: "container/0.log".into(),
    }
}

async fn start(options: &Options, layers: Vec<PathBuf>, pod: &dyn Sandbox) -> Result<()> {
    let log = log(options);
    let _ = std::fs::remove_file(log.directory.join(&log.path));
    let spec = ContainerSpec {
        raw_env: Vec::new(),
        container_id: "container".into(),
        layers,
        oci: specification(&options.command, options.tty)?,
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
        log,
        window: options.tty.then_some(WindowSize {
            rows: 24,
            columns: 80,
        }),
    };
    let began = Instant::now();
    pod.create_container(spec).await?;
    println!("create: {:?}", began.elapsed());
    let began = Instant::now();
    pod.start_container("container").await?;
    println!("start: {:?}", began.elapsed());
    Ok(())
}

async fn finish(options: &Options, pod: &dyn Sandbox) -> Result<i32> {
    let began = Instant::now();
    for (n, command) in options.execs.iter().enumerate() {
        let began = Instant::now();
        let (code, out) = exec(options, pod, &format!("exec{n}"), command).await?;
        println!("exec {command:?}: {code}, {:?}\n{out}", began.elapsed());
    }
    let exit = pod.wait(&ProcessId::init("container")).await?;
    println!("exit: {exit:?}, after {:?}", began.elapsed());
    let log = log(options);
    let text = std::fs::read_to_string(log.directory.join(log.path))?;
    println!(
        "log, {} bytes:\n{}",
        text.len(),
        text.chars().take(2000).collect::<String>()
    );
    println!("{:#?}", pod.stats().await?);
    let began = Instant::now();
    pod.remove_container("container").await?;
    println!("remove: {:?}", began.elapsed());
    Ok(exit.code)
}

async fn exec(
    options: &Options,
    pod: &dyn Sandbox,
    id: &str,
    command: &str,
) -> Result<(i32, String)> {
    let process = ProcessId {
        container_id: "container".into(),
        exec_id: id.into(),
    };
    pod.exec(ExecSpec {
        process: process.clone(),
        args: vec!["sh".into(), "-c".into(), command.into()],
        env: None,
        cwd: None,
        terminal: false,
        stdin: options.input.is_some(),
        window: None,
    })
    .await?;
    let mut out = pod.open_output(&process, Stream::Stdout).await?;
    let mut err = pod.open_output(&process, Stream::Stderr).await?;
    if let Some(input) = &options.input {
        let (content, stdin) = (std::fs::read(input)?, pod.open_input(&process).await?);
        tokio::spawn(async move {
            for chunk in content.chunks(64 << 10) {
                if stdin.send(chunk.to_vec()).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::select! {
            Some(chunk) = out.recv() => chunk,
            Some(chunk) = err.recv() => chunk,
            else => break,
        };
        bytes.extend(chunk);
    }
    let exit = pod.wait(&process).await?;
    pod.forget_exec(&process).await?;
    Ok((exit.code, String::from_utf8_lossy(&bytes).into_owned()))
}

fn specification(command: &[String], tty: bool) -> Result<oci_spec::runtime::Spec> {
    let mut spec = oci_spec::runtime::Spec::default();
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(command.to_vec()));
    process.set_terminal(Some(tty));
    process.set_cwd("/".into());
    process.set_env(Some(vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()]));
    spec.set_process(Some(process));
    Ok(spec)
}
