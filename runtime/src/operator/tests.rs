//! Terminals and uploads over a real socket.

use bulkhead_cri_api::operator::{
    attach_input::Input as AttachWire, exec_input::Input as ExecWire, import_image_request::Source,
    process_output::Output, *,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::testing::{Clients, Node, World, records};

async fn running() -> (Node, Clients, String) {
    let node = Node::start(&World::new()).await.unwrap();
    let clients = node.serve().await.unwrap();
    let pod = node
        .pods
        .run(records::pod_config("p", 0), String::new())
        .await
        .unwrap();
    let mut config = records::container_config("c", 0, &["sleep"]);
    config.stdin = true;
    let id = node.pods.create(&pod, config).await.unwrap();
    node.pods.start(&id).await.unwrap();
    (node, clients, id)
}

fn start(id: &str, command: &[&str], stdin: bool) -> ExecInput {
    let start = ExecStart {
        container_id: id.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin,
        ..Default::default()
    };
    ExecInput {
        input: Some(ExecWire::Start(start)),
    }
}

async fn rest(mut answers: Streaming<ProcessOutput>) -> (Vec<u8>, Option<ProcessExit>) {
    let (mut stdout, mut exit) = (Vec::new(), None);
    let first = answers.message().await.unwrap().unwrap().output;
    assert!(matches!(first, Some(Output::Connected(_))));
    while let Some(message) = answers.message().await.unwrap() {
        assert!(exit.is_none(), "nothing follows the exit");
        match message.output.unwrap() {
            Output::Stdout(bytes) => stdout.extend_from_slice(&bytes),
            Output::Exit(end) => exit = Some(end),
            other => panic!("{other:?}"),
        }
    }
    (stdout, exit)
}

#[tokio::test]
async fn an_exec_gives_output_then_its_exit() {
    let (_node, mut clients, id) = running().await;
    let call = tokio_stream::once(start(&id[..10], &["flood", "3000000"], false));
    let (stdout, exit) = rest(clients.operator.exec(call).await.unwrap().into_inner()).await;
    assert_eq!(stdout.len(), 3_000_000);
    let exit = exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (0, "Completed"));
}

#[tokio::test]
async fn closing_the_request_closes_stdin_and_only_that() {
    let (_node, mut clients, id) = running().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(start(&id, &["sleep"], true)).await.unwrap();
    let call = clients
        .operator
        .exec(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let bytes = ExecInput {
        input: Some(ExecWire::Stdin("hello".into())),
    };
    sender.send(bytes).await.unwrap();
    let size = WindowSize {
        rows: 0,
        columns: 1 << 20,
    };
    sender
        .send(ExecInput {
            input: Some(ExecWire::Resize(size)),
        })
        .await
        .unwrap();
    drop(sender);
    let (_, exit) = rest(call.into_inner()).await;
    assert_eq!(exit.unwrap().code, 0);
}

#[tokio::test]
async fn a_client_that_goes_takes_its_exec_along() {
    let (node, mut clients, id) = running().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(start(&id, &["sleep"], false)).await.unwrap();
    let call = clients
        .operator
        .exec(ReceiverStream::new(receiver))
        .await
        .unwrap();
    let sandbox = node.pods.model().pods()[0].sandbox().unwrap();
    assert_eq!(sandbox.processes().await.unwrap().len(), 2);
    drop((call, sender));
    for _ in 0..200 {
        if sandbox.processes().await.unwrap().len() == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the exec is still there");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (node, mut clients, id) = running().await;
    let mut code = async |input: ExecInput| {
        clients
            .operator
            .exec(tokio_stream::once(input))
            .await
            .unwrap_err()
            .code()
    };
    assert_eq!(
        code(start("absent", &["true"], false)).await,
        Code::NotFound
    );
    assert_eq!(code(start(&id, &[], false)).await, Code::InvalidArgument);
    assert_eq!(
        code(start(&id, &["missing"], false)).await,
        Code::InvalidArgument
    );
    assert_eq!(code(ExecInput { input: None }).await, Code::InvalidArgument);
    node.pods
        .stop_container(&id, std::time::Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        code(start(&id, &["true"], false)).await,
        Code::FailedPrecondition
    );
    let attach = AttachStart {
        container_id: id,
        ..Default::default()
    };
    let attach = AttachInput {
        input: Some(AttachWire::Start(attach)),
    };
    let refused = clients
        .operator
        .attach(tokio_stream::once(attach))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_attached_client_learns_how_the_container_ended_and_leaving_harms_nobody() {
    let (node, mut clients, id) = running().await;
    let attach = || {
        let start = AttachStart {
            container_id: id.clone(),
            ..Default::default()
        };
        AttachInput {
            input: Some(AttachWire::Start(start)),
        }
    };
    drop(
        clients
            .operator
            .attach(tokio_stream::once(attach()))
            .await
            .unwrap(),
    );
    let call = clients
        .operator
        .attach(tokio_stream::once(attach()))
        .await
        .unwrap();
    let waiting = tokio::spawn(rest(call.into_inner()));
    node.world.end_container(&id, 42);
    let exit = waiting.await.unwrap().1.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (42, "Error"));
}

#[tokio::test]
async fn uploads_are_bounded_and_leave_nothing() {
    let (_node, mut clients, _) = running().await;
    let chunk = |size: usize| ImportImageRequest {
        source: Some(Source::Chunk(vec![0; size].into())),
        tag: String::new(),
    };
    // The store of this test takes nothing in: the error is its.
    let call = tokio_stream::iter([chunk(1000), chunk(1000)]);
    let mut answers = clients
        .operator
        .import_image(call)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let call = tokio_stream::iter(vec![chunk(512 * 1024); 3]);
    let refused = clients.operator.import_image(call).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let path = ImportImageRequest {
        source: Some(Source::Path("x.tar".into())),
        tag: "".into(),
    };
    let refused = clients
        .operator
        .import_image(tokio_stream::once(path))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for _ in 0..100 {
        if clients.files() == ["b.sock"] {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?}", clients.files());
}

#[tokio::test]
async fn pulls_tell_what_they_do() {
    let (_node, mut clients, _) = running().await;
    let pull = |image: &str| PullImageRequest {
        image: image.to_owned(),
        ..Default::default()
    };
    let refused = clients.operator.pull_image(pull("No Name")).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let missing = clients.operator.pull_image(pull("none/such:1")).await;
    let error = missing.unwrap().into_inner().message().await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("none/such:1"), "{error:?}");
}

#[tokio::test]
async fn exports_arrive_whole_and_end_with_their_client() {
    let (_node, mut clients, _) = running().await;
    let export = |images: &[&str]| ExportImagesRequest {
        images: images.iter().map(ToString::to_string).collect(),
    };
    let refused = clients.operator.export_images(export(&[])).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let missing = clients
        .operator
        .export_images(export(&["words", "none:1"]))
        .await;
    let error = missing.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("none:1"), "{error:?}");

    let answer = clients.operator.export_images(export(&["words"])).await;
    let mut messages = answer.unwrap().into_inner();
    let mut archive = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        assert!(message.chunk.len() <= 1 << 20);
        assert_eq!(message.total, 500_000);
        archive.extend_from_slice(&message.chunk);
    }
    assert!(archive == b"words".repeat(100_000), "{}", archive.len());

    // So many at the same time, of clients that don't read.
    let mut waiting = Vec::new();
    let refused = loop {
        match clients
            .operator
            .export_images(export(&["words"; 200]))
            .await
        {
            Ok(answer) => waiting.push(answer),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(waiting.len(), 4);
    // Who goes away keeps nothing busy.
    drop(waiting);
    for _ in 0..500 {
        if clients
            .operator
            .export_images(export(&["words"]))
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("exports that nobody reads go on");
}

#[tokio::test]
async fn a_check_ends_with_what_it_found() {
    let (_node, mut clients, _) = running().await;
    let request = CheckImagesRequest { repair: false };
    let answer = clients.operator.check_images(request).await;
    let mut steps = answer.unwrap().into_inner();
    let mut last = None;
    while let Some(step) = steps.message().await.unwrap() {
        last = step.progress;
    }
    let Some(check_images_progress::Progress::Done(checked)) = last else {
        panic!("{last:?}");
    };
    assert!(
        checked.images > 0 && checked.problems.is_empty(),
        "{checked:?}"
    );
}

#[tokio::test]
async fn timings_are_kept_over_a_restart() {
    let (node, _, _) = running().await;
    node.world.daemon_died();
    let node = Node::start(&node.world).await.unwrap();
    let mut clients = node.serve().await.unwrap();
    let pod_sandbox_id = node.pods.model().pods()[0].id.clone();
    let request = SandboxTimingsRequest { pod_sandbox_id };
    let timings = clients
        .operator
        .sandbox_timings(request)
        .await
        .unwrap()
        .into_inner()
        .timings;
    assert_eq!(timings[0].phase, "queued");
    assert_eq!(
        (timings[1].phase.as_str(), timings[1].took_ns),
        ("guest boot", 12_000_000)
    );
}
