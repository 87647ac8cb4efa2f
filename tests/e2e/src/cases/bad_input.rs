//! What is wrong is refused with a reason, and leaves nothing behind.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use serde_json::json;

use super::{clean, look, node};
use bulkhead_e2e::{
    image::{self, Archive, Compression, Layer},
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config, pod_config},
};

/// Missing, corrupt, truncated and lying images, and layer bombs.
pub(crate) async fn images(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "badimages", "").await?;
    let files = |layer: Layer| -> Result<Vec<u8>> {
        Archive::default()
            .layer(&layer.finish()?, Compression::Gzip)?
            .finish("localhost/bad:latest", json!({}))
    };
    // Not the demo image: what the store has by digest already, it does not read again.
    let noise: Vec<u8> = (0..300_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let good = Archive::default()
        .layer(
            &Layer::default().file("noise", 0o644, &noise)?.finish()?,
            Compression::Plain,
        )?
        .finish("localhost/bad:latest", json!({}))?;
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    if let Some(byte) = flipped.get_mut(middle) {
        *byte ^= 0xff;
    }
    let truncated = good.get(..good.len() * 2 / 3).unwrap_or_default().to_vec();
    let deep = "d/".repeat(3000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty.tar", Vec::new()),
        ("noise.tar", vec![0x5a; 100_000]),
        ("flipped.tar", flipped),
        ("truncated.tar", truncated),
        (
            "deep.tar",
            files(Layer::default().file(&format!("{deep}f"), 0o644, b"x")?)?,
        ),
    ];
    for (name, archive) in cases {
        let answer = node.import(&archive, name).await;
        let error = answer.err().map(|error| error.to_string());
        ensure!(
            error.as_ref().is_some_and(|e| e.len() > 30),
            "{name}: {error:?}"
        );
        println!("    {name}: {}", error.unwrap_or_default());
    }

    let mut images = node.images();
    let list = images
        .list_images(cri::ListImagesRequest::default())
        .await?;
    ensure!(list.into_inner().images.len() == 1, "a bad image is listed");
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: "registry.example/none:1".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let pull = images.pull_image(request).await;
    ensure!(pull.is_err(), "{pull:?}");

    let mut pod = Pod::run(&node, "noimage").await?;
    let mut config = container_config("c", "true");
    config.image = Some(cri::ImageSpec {
        image: "localhost/none:1".to_owned(),
        ..Default::default()
    });
    let missing = pod.create(config).await;
    ensure!(
        missing
            .as_ref()
            .is_err_and(|e| format!("{e:?}").contains("localhost/none:1")),
        "{missing:?}"
    );
    pod.remove().await?;
    clean(node, &world).await
}

/// Configurations that cannot be used are refused with their place and reason.
pub(crate) async fn configuration(programs: &Programs) -> Result<()> {
    for (name, extra, wanted) in [
        ("unknown", "no_such_key = 1", "no_such_key"),
        ("syntax", "= = =", "line"),
        ("value", "[network]\nmtu = 3", "mtu"),
        (
            "pool",
            "[network]\nipv4_pool = \"10.0.0.0/33\"",
            "ipv4_pool",
        ),
    ] {
        let mut node = Node::new(programs, name, extra)?;
        let error = node.start().await;
        let text = format!("{:?}", error.as_ref().err());
        ensure!(error.is_err() && text.contains(wanted), "{name}: {text}");
    }
    Ok(())
}

/// mov eax, 34 (pause); syscall; jmp back: an init that does nothing for ever.
const PAUSE: &[u8] = &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// mov eax, 60 (exit); syscall: an init that ends, for which the kernel panics.
const EXIT: &[u8] = &[0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05];

/// A static program of these instructions: an ELF64 header, one program header,
/// the code.
fn program(code: &[u8]) -> Vec<u8> {
    let base: u64 = 0x40_0000;
    let size = 64 + 56 + code.len() as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend_from_slice(&2_u16.to_le_bytes()); // executable
    elf.extend_from_slice(&62_u16.to_le_bytes()); // x86-64
    elf.extend_from_slice(&1_u32.to_le_bytes());
    elf.extend_from_slice(&(base + 64 + 56).to_le_bytes()); // entry
    elf.extend_from_slice(&64_u64.to_le_bytes()); // program headers
    elf.extend_from_slice(&0_u64.to_le_bytes());
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1_u32.to_le_bytes()); // load
    elf.extend_from_slice(&5_u32.to_le_bytes()); // read, execute
    for word in [0, base, base, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}

/// A kernel that panics, an agent that never answers, a kernel that is none, an
/// unusable KVM: RunPodSandbox says so, in bounded time.
pub(crate) async fn guests_that_do_not_come_up(programs: &Programs) -> Result<()> {
    let dir = std::path::Path::new("/var/lib/bulkhead-e2e/guests");
    std::fs::create_dir_all(dir)?;
    let silent = dir.join("silent-init");
    let ending = dir.join("ending-init");
    for (path, code) in [(&silent, PAUSE), (&ending, EXIT)] {
        std::fs::write(path, program(code))?;
        set_executable(path)?;
    }
    let not_a_kernel = dir.join("not-a-kernel");
    std::fs::write(&not_a_kernel, vec![0x90; 1 << 20])?;

    let mut panics = programs.clone();
    panics.agent = ending;
    let mut mute = programs.clone();
    mute.agent = silent;
    let mut no_kernel = programs.clone();
    no_kernel.kernel = not_a_kernel;

    // The names say nothing that the messages are searched for.
    for (name, programs, timeout, wanted) in [
        ("ending", panics, 300, "panic"),
        ("mute", mute, 8, "not ready within"),
        ("noise", no_kernel, 300, "kernel"),
    ] {
        let node = Node::new(&programs, name, "")?;
        let config = std::fs::read_to_string(node.config())?.replace(
            "boot_timeout_seconds = 300",
            &format!("boot_timeout_seconds = {timeout}"),
        );
        std::fs::write(node.config(), config)?;
        refused(node, name, wanted).await?;
    }

    // /dev/null in /dev/kvm's place: there, openable, and no KVM.
    let node = Node::new(programs, "nodevice", "")?;
    let kvm = "/dev/kvm";
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some("/dev/null"), kvm, None::<&str>, flags, None::<&str>)?;
    let answer = refused(node, "nodevice", "kvm-unusable").await;
    nix::mount::umount(kvm)?;
    answer
}

async fn refused(mut node: Node, name: &str, wanted: &str) -> Result<()> {
    node.start().await?;
    let world = look(&node)?;
    let began = Instant::now();
    let mut client = node.runtime();
    let request = cri::RunPodSandboxRequest {
        config: Some(pod_config(&node, name, 0)),
        ..Default::default()
    };
    let answer = client.run_pod_sandbox(request).await;
    let status = answer
        .err()
        .with_context(|| format!("{name}: the pod runs"))?;
    println!("    {name}: {:?}: {}", status.code(), status.message());
    ensure!(
        status.message().to_lowercase().contains(wanted),
        "{name}: {status:?}"
    );
    ensure!(began.elapsed() < PATIENCE, "{name}: {:?}", began.elapsed());
    drop(client);
    clean(node, &world).await
}

fn set_executable(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A pool without a free address, and one that the host uses already.
pub(crate) async fn address_pool(programs: &Programs) -> Result<()> {
    // Of four addresses one is the network's, one the gateway's, one the broadcast.
    let extra = "[network]\nipv4_pool = \"10.99.0.0/30\"";
    let (node, world) = node(programs, "smallpool", extra).await?;
    let mut first = Pod::run(&node, "first").await?;
    let second = Pod::run(&node, "second").await;
    let error = second.err().context("two pods share one address")?;
    ensure!(format!("{error:?}").contains("10.99.0.0/30"), "{error:?}");
    first.remove().await?;
    let mut third = Pod::run(&node, "third").await?;
    third.remove().await?;
    clean(node, &world).await?;

    let taken = Node::new(programs, "taken", "[network]\nipv4_pool = \"127.0.0.0/16\"")?;
    let mut taken = taken;
    match taken.start().await {
        Err(error) => ensure!(format!("{error:?}").contains("127.0.0.0/16"), "{error:?}"),
        Ok(()) => {
            let error = Pod::run(&taken, "p")
                .await
                .err()
                .context("a pod in 127/16")?;
            ensure!(format!("{error:?}").contains("127.0.0.0/16"), "{error:?}");
            taken.stop().await?;
        }
    }
    Ok(())
}

/// Images stop before the disk is full; and where it is full all the same, that is told
/// and nothing stays.
pub(crate) async fn full_disk(programs: &Programs) -> Result<()> {
    fill(programs, "fulldisk", 0, 0, "No space left").await?;
    fill(programs, "reserve", 8, 4 << 20, "limits.images_reserve_mib").await
}

/// An import where all but `left` bytes of the disk are taken, and `reserve` MiB of them
/// are to stay free.
async fn fill(programs: &Programs, name: &str, reserve: u32, left: u64, words: &str) -> Result<()> {
    let config = format!("[limits]\nimages_reserve_mib = {reserve}\n");
    let mut node = Node::new(programs, name, &config)?;
    std::fs::create_dir_all(node.state_dir())?;
    nix::mount::mount(
        Some("tmpfs"),
        &node.state_dir(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=24m"),
    )?;
    node.start().await?;
    let hog = node.state_dir().join("hog");
    std::fs::write(&hog, vec![1; 1 << 20])?;
    let world = look(&node)?;
    let mut filler = std::fs::OpenOptions::new().append(true).open(&hog)?;
    let block = vec![1_u8; 1 << 18];
    while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    filler.set_len(filler.metadata()?.len() - left)?;
    let answer = node.import(image::demo()?, "demo.tar").await;
    let error = answer
        .err()
        .context("an import into a full disk succeeds")?;
    println!("    {error}");
    ensure!(error.to_string().contains(words), "{error}");
    filler.set_len(1 << 20)?;
    drop(filler);
    let differences = world.differences(&look(&node)?);
    ensure!(differences.is_empty(), "{differences:#?}");
    node.import(image::demo()?, "demo.tar")
        .await
        .context("importing after space was freed")?;
    node.stop().await?;
    nix::mount::umount(&node.state_dir())?;
    Ok(())
}

/// Requests that make no sense.
pub(crate) async fn requests(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "requests", "").await?;
    let mut client = node.runtime();
    let empty = client
        .run_pod_sandbox(cri::RunPodSandboxRequest::default())
        .await;
    ensure!(
        empty
            .as_ref()
            .is_err_and(|s| s.code() == tonic::Code::InvalidArgument),
        "{empty:?}"
    );
    let mut config = pod_config(&node, "hostnet", 0);
    config.linux = Some(cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                network: cri::NamespaceMode::Node.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    });
    let host = Pod::run_with(&node, config).await;
    ensure!(host.is_err(), "a pod got the host's network");
    for id in ["", "no-such-id", "../../etc", "a\0b"] {
        let status = client
            .container_status(cri::ContainerStatusRequest {
                container_id: id.to_owned(),
                ..Default::default()
            })
            .await;
        ensure!(status.is_err(), "status of {id:?}: {status:?}");
    }
    let mut pod = Pod::run(&node, "requests").await?;
    let mut escape = container_config("escape", "true");
    escape.log_path = "../../../../../../tmp/escaped.log".to_owned();
    let answer = pod.create(escape).await;
    ensure!(
        answer.is_err(),
        "a log outside the log directory: {answer:?}"
    );
    ensure!(!std::path::Path::new("/tmp/escaped.log").exists());
    pod.remove().await?;
    drop(client);
    clean(node, &world).await
}
