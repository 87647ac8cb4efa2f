//! Port-forward in every protocol.

use std::{collections::HashMap, io, sync::Arc};

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{backend::Pod, running, soon};
use bulkhead_streaming::{
    client::{SpdyReceiver, open_pair, port_forward},
    spdy::connection::Event,
};

/// What came on each stream, until `until` says stop.
async fn gather(
    receiver: &mut SpdyReceiver,
    mut until: impl FnMut(&HashMap<u32, Vec<u8>>, &Event) -> bool,
) -> io::Result<HashMap<u32, Vec<u8>>> {
    let mut got: HashMap<u32, Vec<u8>> = HashMap::new();
    while let Some(event) = receiver.next().await? {
        if let Event::Data(id, bytes) = &event {
            got.entry(*id).or_default().extend_from_slice(bytes);
        }
        if until(&got, &event) {
            return Ok(got);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_and_each_way_ends_by_itself() {
    let running = running().await;
    for tunnel in [false, true] {
        let pod = Arc::new(Pod::default());
        let url = running.server.port_forward(pod.clone(), vec![]).unwrap();
        let (mut sender, mut receiver) = port_forward(&url, tunnel).await.unwrap();
        let (error, data) = open_pair(&mut sender, &mut receiver, 7, 0).await.unwrap();
        let sent = vec![5_u8; 2_000_000];
        let feed = sent.clone();
        let feeding = tokio::spawn(async move {
            for piece in feed.chunks(50_000) {
                sender.send(data, piece).await.unwrap();
            }
            sender.finish(data).await.unwrap();
            sender
        });
        let mut ended = Vec::new();
        let got = gather(&mut receiver, |_, event| {
            if let Event::Ended(id) = event {
                ended.push(*id);
            }
            ended.len() == 2
        });
        let got = got.await.unwrap();
        assert!(got[&data] == sent);
        assert!(!got.contains_key(&error));
        assert_eq!(ended, [data, error]);
        soon("the connection is gone", || pod.living() == 0).await;
        drop(feeding.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_connection_leaves_the_others_alone() {
    let running = running().await;
    for tunnel in [false, true] {
        let pod = Arc::new(Pod::default());
        let url = running.server.port_forward(pod.clone(), vec![]).unwrap();
        let (mut sender, mut receiver) = port_forward(&url, tunnel).await.unwrap();
        let (_, echo) = open_pair(&mut sender, &mut receiver, 7, 0).await.unwrap();
        // Nobody listens: said on its error stream.
        let (error, _) = open_pair(&mut sender, &mut receiver, 8, 1).await.unwrap();
        let got = gather(&mut receiver, |_, event| *event == Event::Ended(error));
        let said = String::from_utf8(got.await.unwrap().remove(&error).unwrap()).unwrap();
        assert!(said.contains("port 8: refused"), "{said}");
        // The server breaks off: said by the stream's end, not as an error.
        let (error, broken) = open_pair(&mut sender, &mut receiver, 13, 2).await.unwrap();
        sender.send(broken, b"x").await.unwrap();
        sender.send(broken, &[0; 200_000]).await.unwrap();
        let got = gather(&mut receiver, |_, event| *event == Event::Ended(error));
        assert!(!got.await.unwrap().contains_key(&error));
        // The client gives one up.
        let (error, given_up) = open_pair(&mut sender, &mut receiver, 9, 3).await.unwrap();
        sender.send(given_up, b"x").await.unwrap();
        soon("it is connected", || pod.living() == 2).await;
        sender.reset(given_up).await.unwrap();
        gather(&mut receiver, |_, event| *event == Event::Ended(error))
            .await
            .unwrap();
        soon("it is gone", || pod.living() == 1).await;
        // The first still lives.
        sender.send(echo, b"still here").await.unwrap();
        let got = gather(&mut receiver, |got, _| {
            got.get(&echo).is_some_and(|it| it.len() == 10)
        });
        assert_eq!(got.await.unwrap()[&echo], b"still here");
        drop((sender, receiver));
        soon("all is gone", || pod.living() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_stream_can_still_be_given_up() {
    let running = running().await;
    let pod = Arc::new(Pod::default());
    let url = running.server.port_forward(pod.clone(), vec![]).unwrap();
    let (mut sender, mut receiver) = port_forward(&url, false).await.unwrap();
    let (error, data) = open_pair(&mut sender, &mut receiver, 9, 0).await.unwrap();
    sender.send(data, b"x").await.unwrap();
    soon("it is connected", || pod.living() == 1).await;
    sender.finish(data).await.unwrap();
    sender.reset(data).await.unwrap();
    gather(&mut receiver, |_, event| *event == Event::Ended(error))
        .await
        .unwrap();
    soon("it is gone", || pod.living() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_begin_with_their_ports() {
    let running = running().await;
    let pod = Arc::new(Pod::default());
    let url = running
        .server
        .port_forward(pod.clone(), vec![7, 8])
        .unwrap();
    let host = url.split('/').nth(2).unwrap().to_owned();
    let mut request = url.replace("http", "ws").into_client_request().unwrap();
    request.headers_mut().insert(
        "Sec-WebSocket-Protocol",
        "v4.channel.k8s.io".parse().unwrap(),
    );
    let socket = TcpStream::connect(host).await.unwrap();
    let (mut socket, _) = client_async(request, socket).await.unwrap();
    socket
        .send(Message::Binary(b"\x00hello".as_slice().into()))
        .await
        .unwrap();
    let mut got: HashMap<u8, Vec<u8>> = HashMap::new();
    while got.get(&0).is_none_or(|it| it.len() < 7) || got.get(&3).is_none_or(|it| it.len() < 3) {
        let message = socket.next().await.unwrap().unwrap().into_data();
        got.entry(message[0])
            .or_default()
            .extend_from_slice(&message[1..]);
    }
    assert_eq!(got[&0], b"\x07\x00hello");
    assert_eq!(got[&1], b"\x07\x00");
    assert_eq!(got[&2], b"\x08\x00");
    assert!(got[&3].starts_with(b"\x08\x00connect to port 8"));
    drop(socket);
    soon("all is gone", || pod.living() == 0).await;
}
