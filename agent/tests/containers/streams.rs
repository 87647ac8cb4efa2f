//! Input, output, terminals.

use super::prelude::*;

pub async fn stdin_half_close(agent: &Agent) {
    let mut request = agent.request("cat", &spec("md5sum; echo done"));
    request.stdin = true;
    agent.create_container(request).await.unwrap();
    agent.start("cat").await.unwrap();
    let data: Vec<u8> = (0..3_000_000)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(&data[..1_000_000]).await;
    drop(stdin);
    // A new connection goes on where the first got to.
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    assert_eq!(stdin.offset, 1_000_000);
    stdin.write(&data[1_000_000..]).await;
    stdin.end().await;
    assert_eq!(within(agent.wait("cat", "")).await.exit_code, 0);
    let out = agent.place.read_all("cat", "", Stream::STDOUT).await;
    // md5 of the same bytes, by the same program on this side.
    let sum = md5_here(&data);
    assert_eq!(String::from_utf8_lossy(&out), format!("{sum}  -\ndone\n"));
    agent.remove("cat").await;

    // Without stdin there is none, and it is empty.
    assert_eq!(agent.run_script("cat", "wc -c").await.text(), "0\n");

    // stdin_once: the end of the first connection is the end of the input.
    let mut request = agent.request("cat", &spec("cat"));
    (request.stdin, request.stdin_once) = (true, true);
    agent.create_container(request).await.unwrap();
    agent.start("cat").await.unwrap();
    let mut stdin = agent.place.open("cat", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(b"once").await;
    drop(stdin);
    assert_eq!(within(agent.wait("cat", "")).await.exit_code, 0);
    assert_eq!(
        agent.place.read_all("cat", "", Stream::STDOUT).await,
        b"once"
    );
    agent.remove("cat").await;
}

fn md5_here(data: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = std::process::Command::new("/bin/busybox")
        .arg("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(data).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    String::from_utf8(out).unwrap()[..32].to_owned()
}

pub async fn terminals(agent: &Agent) {
    let mut spec = spec(
        "tty; stty size; read line; stty size; echo got $line; test -c /dev/console && echo console",
    );
    spec["process"]["terminal"] = json!(true);
    let mut request = agent.request("tty", &spec);
    request.stdin = true;
    request.window = Some(WindowSize {
        rows: 40,
        columns: 120,
        ..Default::default()
    })
    .into();
    agent.create_container(request).await.unwrap();
    agent.start("tty").await.unwrap();
    let mut out = agent
        .place
        .open("tty", "", Stream::STDOUT, 0)
        .await
        .unwrap();
    let got = within(out.read_until("40 120")).await;
    assert!(got.contains("/dev/pts/0"), "{got:?}");
    agent
        .resize_pty(ResizePtyRequest {
            container_id: "tty".into(),
            window: Some(WindowSize {
                rows: 50,
                columns: 200,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut stdin = agent.place.open("tty", "", Stream::STDIN, 0).await.unwrap();
    stdin.write(b"typed\n").await;
    let got = within(out.read_until("console")).await;
    assert!(
        got.contains("50 200") && got.contains("got typed"),
        "{got:?}"
    );
    let stderr = agent.place.open("tty", "", Stream::STDERR, 0).await;
    assert!(stderr.err().unwrap().contains("no stderr"));
    assert_eq!(within(agent.wait("tty", "")).await.exit_code, 0);
    // EIO from the master is the end.
    while within(out.read()).await.is_some() {}
    agent.remove("tty").await;

    // An exec's terminal has its size from the first instruction on.
    agent.launch("main", "exec sleep 1000").await;
    let mut exec = Agent::exec_request("main", "tty", &[]);
    exec.oci_process = json!({
        "terminal": true, "args": ["sh", "-c", "stty size; tty"], "cwd": "/",
        "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}
    })
    .to_string()
    .into_bytes();
    exec.window = Some(WindowSize {
        rows: 11,
        columns: 22,
        ..Default::default()
    })
    .into();
    agent.exec(exec).await.unwrap();
    let out = agent.place.read_all("main", "tty", Stream::STDOUT).await;
    assert_eq!(String::from_utf8_lossy(&out), "11 22\r\n/dev/pts/0\r\n");
    let piped = agent
        .resize_pty(ResizePtyRequest {
            container_id: "main".into(),
            ..Default::default()
        })
        .await;
    refused(piped, Code::FAILED_PRECONDITION, "no terminal");
    agent.remove("main").await;
}

pub async fn big_output_over_lost_connections(agent: &Agent) {
    // Ten times the buffer: back-pressure, and every byte exactly once.
    let mut request = agent.request("big", &spec("seq 1 200000"));
    request.output_buffer_bytes = 128 << 10;
    agent.create_container(request).await.unwrap();
    agent.start("big").await.unwrap();
    let mut file = Vec::new();
    let mut ended = false;
    let mut turn = 0;
    while !ended {
        turn += 1;
        let at = file.len() as u64;
        let mut out = agent
            .place
            .open("big", "", Stream::STDOUT, at)
            .await
            .unwrap();
        for _ in 0..turn {
            match within(out.read()).await {
                Some(bytes) => file.extend(bytes),
                None => {
                    ended = true;
                    break;
                }
            }
            out.acknowledge().await;
        }
        // Some of what was received is lost with the daemon.
        if !ended && turn % 3 == 0 {
            let mut lost = agent
                .place
                .open("big", "", Stream::STDOUT, file.len() as u64)
                .await
                .unwrap();
            within(lost.read()).await;
        }
    }
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(file.len(), expected.len());
    assert!(file == expected.as_bytes(), "the bytes differ");
    assert!(turn > 3);
    assert_eq!(agent.wait("big", "").await.exit_code, 0);
    agent.remove("big").await;
}
