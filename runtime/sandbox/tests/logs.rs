//! Rotation of logs: under load, and when it fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap is a failed test"
)]

#[allow(dead_code, reason = "each test binary uses some")]
mod bench;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bench::{Bench, POD};
use bulkhead_sandbox::{Launcher as _, ProcessId, Sandbox};

/// Not a test: the process that the launcher starts.
#[test]
fn standin() {
    bench::standin();
}

/// What one stream's lines in these files, in order, say.
fn payload(files: &[PathBuf], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for file in files {
        let log = fs::read(file).unwrap();
        assert!(
            log.is_empty() || log.ends_with(b"\n"),
            "{} is torn",
            file.display()
        );
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap();
            // timestamp, stream, tag; 16 KiB of content at most.
            let rest = &line[31..];
            let (name, rest) = rest.split_at(stream.len());
            if name != stream.as_bytes() {
                continue;
            }
            let content = &rest[3..];
            assert!(content.len() <= 16 << 10);
            bytes.extend_from_slice(content);
            match rest[1] {
                b'F' => bytes.push(b'\n'),
                b'P' => {}
                other => panic!("tag {other}"),
            }
        }
    }
    bytes
}

/// Renames the log as kubelet does, and has it opened anew.
async fn rotate(pod: &dyn Sandbox, log: &Path, number: usize) -> PathBuf {
    let rotated = log.with_file_name(format!("0.log.20260822-1000{number:02}"));
    fs::rename(log, &rotated).unwrap();
    pod.reopen_log("c").await.unwrap();
    assert!(log.exists(), "the new file is there when the call returns");
    rotated
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_loses_and_doubles_no_byte() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    // Numbered lines, a very long one now and then, bytes that are no text, and a
    // second stream; then an end without a newline.
    let script = r#"
        i=0
        while [ $i -lt 400 ]; do
            seq $((i * 100)) $((i * 100 + 99))
            echo "error $i" >&2
            if [ $((i % 50)) = 0 ]; then
                head -c 50000 /dev/zero | tr '\0' x; echo
                printf '\377\000\001\r\n'
            fi
            i=$((i + 1))
        done
        printf end
    "#;
    pod.create_container(bench.container("c", script))
        .await
        .unwrap();
    let target = bench.log("c");
    let log = target.directory.join(target.path);
    pod.start_container("c").await.unwrap();
    let c = ProcessId::init("c");
    let ended = pod.wait(&c);
    tokio::pin!(ended);
    let mut files = Vec::new();
    let exit = loop {
        tokio::select! {
            exit = &mut ended => break exit.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                files.push(rotate(pod.as_ref(), &log, files.len()).await);
            }
        }
    };
    assert_eq!(exit.code, 0);
    files.push(log);
    println!("{} files", files.len());
    assert_eq!(pod.info().await["containers"]["c"]["droppedLogBytes"], 0);

    let (mut out, mut err) = (Vec::new(), Vec::new());
    for i in 0..400 {
        for n in i * 100..i * 100 + 100 {
            out.extend(format!("{n}\n").into_bytes());
        }
        err.extend(format!("error {i}\n").into_bytes());
        if i % 50 == 0 {
            out.extend(vec![b'x'; 50_000]);
            out.extend(b"\n\xff\0\x01\r\n");
        }
    }
    out.extend(b"end");
    // Compared by hand: a difference of megabytes helps nobody.
    for (stream, wanted) in [("stdout", out), ("stderr", err)] {
        let got = payload(&files, stream);
        let differ = got.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!((got.len(), differ), (wanted.len(), None), "{stream}");
    }
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_can_not_be_opened_anew_goes_on_in_the_old_file() {
    let bench = Bench::new();
    let pod = bench.launcher.launch(bench.spec()).await.unwrap();
    let script = "while [ ! -e $0.go ]; do sleep 0.05; done; echo after";
    let go = bench.dir.path().join("x");
    let mut spec = bench.container("c", "");
    let args = [
        "sh".to_owned(),
        "-c".to_owned(),
        script.to_owned(),
        go.display().to_string(),
    ];
    spec.oci
        .process_mut()
        .as_mut()
        .unwrap()
        .set_args(Some(args.into()));
    pod.create_container(spec).await.unwrap();
    let target = bench.log("c");
    let log = target.directory.join(target.path);
    pod.start_container("c").await.unwrap();
    // Somebody puts a link in its place: it is not followed.
    let rotated = log.with_file_name("0.log.1");
    fs::rename(&log, &rotated).unwrap();
    let elsewhere = bench.dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
    let refused = pod.reopen_log("c").await.unwrap_err();
    assert!(
        refused.to_string().contains("log of container c"),
        "{refused}"
    );
    fs::write(go.with_extension("go"), "").unwrap();
    assert_eq!(pod.wait(&ProcessId::init("c")).await.unwrap().code, 0);
    assert_eq!(payload(&[rotated], "stdout"), b"after\n");
    assert!(!elsewhere.exists());
    pod.stop(Duration::ZERO).await.unwrap();
    bench.launcher.destroy(POD).await.unwrap();
}
