//! Runs one VM by hand, as the daemon would: for development, in the test host.
//!
//! ```text
//! boot --vmm PATH --kernel VMLINUX [--initramfs CPIO] [--cmdline TEXT]
//!      [--memory MIB] [--vcpus N] [--max-vcpus N] [--disk SERIAL=PATH[:ro]]...
//!      [--hotplug SERIAL=PATH[:ro]]... [--tap NAME] [--vsock] [--console] [--serial]
//!      [--uid N] [--timeout S] [--quiet]
//!      [--status-at MS] [--stop-at MS] [--plug-on TEXT] [--unplug-on TEXT]
//! ```
//!
//! Prints the exit report, and at `--status-at` the status, the exits and what the
//! process weighs. Disks for `--hotplug` are added when the console says TEXT, and
//! removed when it says the other.

#![allow(
    clippy::print_stdout,
    reason = "a command line tool prints its results"
)]

use std::{
    collections::VecDeque,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::chown, net::UnixListener, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use bulkhead_vmm::handover;
use bulkhead_vmm_api::{
    CONFIG_FD_FLAG, EXIT_REPORT, ExitReason, ExitReport,
    vmm::{self, VmConfig},
    vmm_ttrpc::VmmClient,
};
use protobuf::Message;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Options {
    vmm: PathBuf,
    config: VmConfig,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    disks: Vec<(String, PathBuf, bool)>,
    hotplug: Vec<(String, PathBuf, bool)>,
    tap: Option<String>,
    vsock: bool,
    uid: Option<u32>,
    status_at: Option<Duration>,
    stop_at: Option<Duration>,
    plug_on: Option<String>,
    unplug_on: Option<String>,
    quiet: bool,
    timeout: Duration,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1).collect())?;
    let dir = std::env::temp_dir().join(format!("bulkhead-boot-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = run(options, &dir);
    fs::remove_dir_all(&dir)?;
    outcome
}

fn run(mut options: Options, dir: &Path) -> Result<()> {
    let mut kept: Vec<OwnedFd> = Vec::new();
    let mut config = std::mem::take(&mut options.config);
    config.pod_id = "boot".into();
    config.run_dir = dir.to_string_lossy().into_owned();
    config.kernel_fd = inherit(File::open(&options.kernel)?, &mut kept)?;
    if let Some(path) = &options.initramfs {
        config.initramfs_fd = inherit(File::open(path)?, &mut kept)?;
    }
    for (serial, path, read_only) in &options.disks {
        let mut disk = vmm::Disk::new();
        disk.serial = serial.clone();
        disk.read_only = *read_only;
        disk.fd = inherit(open_disk(path, *read_only)?, &mut kept)?;
        config.disks.push(disk);
    }
    if let Some(name) = &options.tap {
        let mut net = vmm::Net::new();
        net.tap_fd = inherit(tap::open(name)?, &mut kept)?;
        net.mac = "02:00:00:00:00:02".into();
        net.mtu = 1500;
        config.nets.push(net);
    }
    if options.vsock {
        let mut vsock = vmm::Vsock::new();
        vsock.guest_cid = 3;
        vsock.uds_prefix = "vsock.sock".into();
        vsock.listen_fd = inherit(UnixListener::bind(dir.join("vsock.sock"))?, &mut kept)?;
        config.vsock = Some(vsock).into();
    }
    let (control, handover) = (dir.join("control.sock"), dir.join("handover.sock"));
    config.control_fd = inherit(UnixListener::bind(&control)?, &mut kept)?;
    config.handover_fd = inherit(UnixListener::bind(&handover)?, &mut kept)?;
    if let Some(uid) = options.uid {
        let mut confinement = vmm::Confinement::new();
        confinement.enabled = true;
        confinement.uid = uid;
        confinement.gid = uid;
        config.confinement = Some(confinement).into();
        chown(dir, Some(uid), Some(uid))?;
    }
    let ready = options
        .vsock
        .then(|| UnixListener::bind(dir.join("vsock.sock_2048")))
        .transpose()?;
    if let (Some(_), Some(uid)) = (&ready, options.uid) {
        chown(dir.join("vsock.sock_2048"), Some(uid), Some(uid))?;
    }
    config.spawn_monotonic_ns = bulkhead_vmm::timings::now();
    let mut memfd = File::from(rustix::fs::memfd_create(
        "config",
        rustix::fs::MemfdFlags::empty(),
    )?);
    memfd.write_all(&config.write_to_bytes()?)?;
    memfd.rewind()?;
    let number = inherit(memfd, &mut kept)?;
    let start = Instant::now();
    let mut child = Command::new(&options.vmm)
        .args([CONFIG_FD_FLAG, &number.to_string()])
        .spawn()?;
    drop(kept);
    if let Some(ready) = ready {
        std::thread::spawn(move || {
            // The guest takes the end of this connection for the end of its host.
            if let Ok((_connection, _)) = ready.accept() {
                println!("ready {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
                std::thread::sleep(Duration::MAX);
            }
        });
    }
    let outcome = drive(&options, &mut child, &control, &handover, start);
    if child.try_wait()?.is_none() {
        child.kill()?;
    }
    let status = child.wait()?;
    println!(
        "exit  {status} ({}) after {:.1} ms",
        status
            .code()
            .and_then(ExitReason::from_status)
            .map_or("no reason of ours", ExitReason::as_str),
        start.elapsed().as_secs_f64() * 1e3
    );
    let report = fs::read(dir.join(EXIT_REPORT)).unwrap_or_default();
    if let Ok(report) = serde_json::from_slice::<ExitReport>(&report) {
        println!("why   {}: {}", report.reason, report.message);
        println!(
            "exits {} {:?}",
            report.exits.values().sum::<u64>(),
            report.exits
        );
        if !options.quiet {
            println!("console:\n{}", report.console);
        }
    } else {
        println!("no exit report ({} bytes)", report.len());
    }
    outcome
}

/// What to do, once, at a time or when the console says something.
#[derive(Clone, Copy)]
enum Act {
    Status,
    Stop,
    Plug,
    Unplug,
}

/// Waits for the end, doing on the way what the options say.
fn drive(
    options: &Options,
    child: &mut Child,
    control: &Path,
    handover: &Path,
    start: Instant,
) -> Result<()> {
    let mut timed: VecDeque<(Duration, Act)> = VecDeque::new();
    timed.extend(options.status_at.map(|at| (at, Act::Status)));
    timed.extend(options.stop_at.map(|at| (at, Act::Stop)));
    let mut said: VecDeque<(&str, Act)> = VecDeque::new();
    said.extend(options.plug_on.as_deref().map(|text| (text, Act::Plug)));
    said.extend(options.unplug_on.as_deref().map(|text| (text, Act::Unplug)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let act = |act| runtime.block_on(act_now(act, options, control, handover));
    while child.try_wait()?.is_none() {
        if start.elapsed() > options.timeout {
            act(Act::Status)?;
            return Err("timed out".into());
        }
        if let Some(&(at, due)) = timed.front()
            && start.elapsed() >= at
        {
            timed.pop_front();
            act(due)?;
        }
        if let Some(&(text, due)) = said.front() {
            let console = runtime.block_on(console(control)).unwrap_or_default();
            if console.contains(text) {
                said.pop_front();
                act(due)?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

async fn connect(control: &Path) -> Result<VmmClient> {
    let stream = tokio::net::UnixStream::connect(control).await?;
    Ok(VmmClient::new(ttrpc::r#async::Client::new(stream.into())))
}

fn limit() -> ttrpc::context::Context {
    ttrpc::context::with_timeout(10_000_000_000)
}

async fn console(control: &Path) -> Result<String> {
    let client = connect(control).await?;
    let console = client.console(limit(), &vmm::ConsoleRequest::new()).await?;
    Ok(String::from_utf8_lossy(&console.tail).into_owned())
}

async fn act_now(act: Act, options: &Options, control: &Path, handover: &Path) -> Result<()> {
    let client = connect(control).await?;
    match act {
        Act::Stop => {
            client.stop(limit(), &vmm::StopRequest::new()).await?;
        }
        Act::Plug => {
            for (serial, path, read_only) in &options.hotplug {
                let token = rand_token()?;
                let disk = open_disk(path, *read_only)?;
                handover::send(&UnixStream::connect(handover)?, token, disk.as_fd())?;
                let mut request = vmm::AddDiskRequest::new();
                request.token = token.to_vec();
                request.serial = serial.clone();
                request.read_only = *read_only;
                let added = client.add_disk(limit(), &request).await?;
                println!("added {serial} at {}", added.pci);
            }
        }
        Act::Unplug => {
            for (serial, ..) in &options.hotplug {
                let mut request = vmm::RemoveDiskRequest::new();
                request.serial = serial.clone();
                client.remove_disk(limit(), &request).await?;
                println!("removed {serial}");
            }
        }
        Act::Status => {
            let status = client.status(limit(), &vmm::StatusRequest::new()).await?;
            print_status(&status);
            client.pause(limit(), &vmm::PauseRequest::new()).await?;
            client.resume(limit(), &vmm::ResumeRequest::new()).await?;
            let exits = client.exits(limit(), &vmm::ExitsRequest::new()).await?;
            println!("exits {} {:?}", exits.total, exits.by_reason);
            println!("      {:?}", exits.by_device);
            weigh(status.pid)?;
            let tail = console(control).await?;
            let lines: Vec<_> = tail.lines().collect();
            println!("last  {:#?}", lines.rchunks(8).next().unwrap_or_default());
        }
    }
    Ok(())
}

fn print_status(status: &vmm::StatusResponse) {
    let timings = status.timings.get_or_default();
    let since = |ns: u64| ns.saturating_sub(timings.main_ns) as f64 / 1e6;
    println!(
        "ms since main: spawn -{:.2} configured {:.2} vm {:.2} loaded {:.2} confined {:.2} devices {:.2} first run {:.2}",
        timings.main_ns.saturating_sub(timings.spawn_ns) as f64 / 1e6,
        since(timings.configured_ns),
        since(timings.vm_created_ns),
        since(timings.loaded_ns),
        since(timings.confined_ns),
        since(timings.devices_ns),
        since(timings.first_run_ns),
    );
    for device in &status.devices {
        println!(
            "{} {} {} {}",
            device.pci,
            device.name,
            if device.activated {
                "active"
            } else {
                "inactive"
            },
            device.failure
        );
    }
}

/// Resident memory of the VMM, guest RAM (its large mappings) apart.
fn weigh(pid: u32) -> Result<()> {
    const GUEST: u64 = 2 << 20;
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut own, mut guest, mut private, mut large) = (0u64, 0u64, 0u64, false);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(from)?, number(to)?))
        });
        if let Some((from, to)) = range {
            large = to - from >= GUEST;
        } else if let Some(kib) = words.next().and_then(|kib| kib.parse::<u64>().ok()) {
            match first {
                "Rss:" if large => guest += kib,
                "Rss:" => own += kib,
                "Private_Dirty:" if !large => private += kib,
                _ => {}
            }
        }
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
    println!("rss   vmm {own} KiB (private dirty {private}), guest {guest} KiB, {threads} threads");
    Ok(())
}

fn rand_token() -> Result<handover::Token> {
    let mut token = [0; 16];
    rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())?;
    Ok(token)
}

/// Lets the child inherit a descriptor; its number.
fn inherit(fd: impl Into<OwnedFd>, kept: &mut Vec<OwnedFd>) -> Result<u32> {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    let number = u32::try_from(fd.as_raw_fd())?;
    kept.push(fd);
    Ok(number)
}

fn open_disk(path: &Path, read_only: bool) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(!read_only).open(path)?)
}

fn parse_disk(text: &str) -> Result<(String, PathBuf, bool)> {
    let (serial, path) = text.split_once('=').ok_or("a disk is SERIAL=PATH[:ro]")?;
    let (path, read_only) = match path.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Ok((serial.to_owned(), path.into(), read_only))
}

fn parse(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options {
        timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let config = &mut options.config;
    config.memory_bytes = 128 << 20;
    config.boot_vcpus = 1;
    config.rng = true;
    let mut words = arguments.into_iter();
    while let Some(word) = words.next() {
        let mut argument = || words.next().ok_or(format!("{word} needs an argument"));
        let millis = |text: String| Ok::<_, Box<dyn Error>>(Duration::from_millis(text.parse()?));
        match word.as_str() {
            "--vmm" => options.vmm = argument()?.into(),
            "--kernel" => options.kernel = argument()?.into(),
            "--initramfs" => options.initramfs = Some(argument()?.into()),
            "--cmdline" => config.cmdline = argument()?,
            "--memory" => config.memory_bytes = argument()?.parse::<u64>()? << 20,
            "--vcpus" => config.boot_vcpus = argument()?.parse()?,
            "--max-vcpus" => config.max_vcpus = argument()?.parse()?,
            "--disk" => options.disks.push(parse_disk(&argument()?)?),
            "--hotplug" => options.hotplug.push(parse_disk(&argument()?)?),
            "--tap" => options.tap = Some(argument()?),
            "--vsock" => options.vsock = true,
            "--console" => config.console = true,
            "--no-rng" => config.rng = false,
            "--serial" => config.debug_serial = true,
            "--uid" => options.uid = Some(argument()?.parse()?),
            "--status-at" => options.status_at = Some(millis(argument()?)?),
            "--plug-on" => options.plug_on = Some(argument()?),
            "--unplug-on" => options.unplug_on = Some(argument()?),
            "--quiet" => options.quiet = true,
            "--stop-at" => options.stop_at = Some(millis(argument()?)?),
            "--timeout" => options.timeout = Duration::from_secs(argument()?.parse()?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

/// A tap, made if need be.
mod tap {
    #![allow(unsafe_code)] // TUNSETIFF

    use super::{AsRawFd, File, OpenOptions, Result};

    pub(crate) fn open(name: &str) -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        let mut request = [0u8; 40];
        for (place, byte) in request.iter_mut().zip(name.bytes().take(15)) {
            *place = byte;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request[16..18].copy_from_slice(&u16::try_from(flags)?.to_le_bytes());
        // SAFETY: the request is an ifreq, 40 bytes, which the kernel reads and fills.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        if result == -1 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(file)
    }
}
