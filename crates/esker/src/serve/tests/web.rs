//! What other clients than ours need of the gRPC port: reflection, and gRPC-Web over HTTP/1.1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use esker_proto::v1::{CountReply, CountRequest};
use futures::stream;
use prost::Message;
use tonic::transport::Channel;
use tonic_reflection::pb;

use super::*;

const SERVICES: [&str; 3] = ["esker.v1.Admin", "esker.v1.Ingest", "esker.v1.Query"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_tells_the_services() {
    let world = World::new(&[]).await;
    let address = format!("http://{}", world.server.grpc);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    macro_rules! services {
        ($version:ident) => {{
            use pb::$version::server_reflection_request::MessageRequest;
            use pb::$version::server_reflection_response::MessageResponse;
            let mut client =
                pb::$version::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let asked = pb::$version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut replies =
                client.server_reflection_info(stream::iter([asked])).await.unwrap().into_inner();
            match replies.message().await.unwrap().unwrap().message_response {
                Some(MessageResponse::ListServicesResponse(all)) => {
                    all.service.into_iter().map(|s| s.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for all in [services!(v1), services!(v1alpha)] {
        for service in SERVICES {
            assert!(all.iter().any(|name| name == service), "{service} in {all:?}");
        }
        assert!(all.iter().any(|name| name == "grpc.health.v1.Health"));
    }
    world.stop().await;
}

/// A call of gRPC-Web as text: the reply's head, its message and its trailers.
async fn count(world: &World, collection: &str) -> (Reply, Vec<u8>, String) {
    let message = CountRequest { collection: collection.to_owned(), ..Default::default() }.encode_to_vec();
    let mut frame = vec![0, 0, 0, 0, message.len() as u8];
    frame.extend(message);
    let body = STANDARD.encode(frame);
    let head = format!(
        "POST /esker.v1.Query/Count HTTP/1.1\r\nhost: localhost\r\nx-grpc-web: 1\r\n\
         content-type: application/grpc-web-text+proto\r\naccept: application/grpc-web-text+proto\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(world.server.grpc).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = Reply::read(&mut stream).await;
    // Each frame is encoded by itself.
    let groups = reply.body.as_bytes().chunks(4).flat_map(|group| STANDARD.decode(group).unwrap());
    let (mut bytes, mut message, mut trailers) =
        (&groups.collect::<Vec<u8>>()[..], Vec::new(), String::new());
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (frame, rest) = rest.split_at(length);
        match head[0] {
            0 => message.extend_from_slice(frame),
            _ => trailers.push_str(std::str::from_utf8(frame).unwrap()),
        }
        bytes = rest;
    }
    (reply, message, trailers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web_is_spoken_on_the_same_port() {
    let world = World::with_notes(&[]).await;
    let (reply, message, trailers) = count(&world, "notes").await;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: application/grpc-web-text"), "{}", reply.head);
    assert_eq!(CountReply::decode(&message[..]).unwrap().count, 0);
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    // The services' refusals and the guard's come in gRPC-Web as well.
    let (reply, message, trailers) = count(&world, "nosuch").await;
    assert_eq!((reply.status, message.len()), (200, 0));
    let said = format!("{}{trailers}", reply.head);
    assert!(said.contains("esker-kind") && said.contains("not_found"), "{said}");
    world.stop().await;
}
