//! Clients that take their time, and too many of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// With the server's time standing still unless everybody waits.
async fn paused(args: &[&str]) -> World {
    let client = Client::new(Backend::new(Arc::new(Sticky::new(Arc::default()))), Seams::simulated(3));
    let store = Arc::new(Store::new(client));
    let fixed = ["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--no-compaction"];
    let settings = Line::try_parse_from(fixed.iter().chain(args)).unwrap().settings;
    World { server: Server::start(&settings, store.clone()).await.unwrap(), store, stuck: Arc::default() }
}

/// Bytes until the server closes the connection, and how long that took.
async fn until_closed(stream: &mut TcpStream, world: &World) -> (Vec<u8>, Duration) {
    let clock = &world.store.client().seams().clock;
    let (start, mut bytes) = (clock.elapsed(), Vec::new());
    let _ = stream.read_to_end(&mut bytes).await;
    (bytes, clock.elapsed() - start)
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_costs_the_connection() {
    let world = paused(&[]).await;
    for sent in ["", "GET /hea", "PRI * HT", "GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = TcpStream::connect(world.server.http).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (_, took) = until_closed(&mut stream, &world).await;
        assert!((9..=21).contains(&took.as_secs()), "{sent:?} was closed after {took:?}");
    }
    // A byte at a time is no better.
    let mut stream = TcpStream::connect(world.server.http).await.unwrap();
    let clock = world.store.client().seams().clock.clone();
    let start = clock.elapsed();
    for byte in b"GET /healthz HTTP/1.1\r\nhost: a-name-that-takes-a-while-to-say\r\n" {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        clock.sleep(Duration::from_secs(1)).await;
        assert!(clock.elapsed() - start < Duration::from_secs(15), "it is still open");
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_answered_408() {
    let world = paused(&[]).await;
    let mut stream = TcpStream::connect(world.server.http).await.unwrap();
    let head = "POST /v1/sql HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let reply = Reply::read(&mut stream).await;
    assert_eq!((reply.status, &reply.json()["error"]["field"]), (408, &"body".into()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_body_is_answered_413() {
    let world = World::with_notes(&["--max-body", "1MiB"]).await;
    let body = "x".repeat((1 << 20) + 1);
    let reply = post(world.server.http, "/v1/collections/notes/records", &body).await;
    assert_eq!((reply.status, &reply.json()["error"]["field"]), (413, &"body".into()));
    assert_eq!(rows(&world.store).await, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_the_limit_connections_are_told_so() {
    let world = World::new(&["--max-connections", "2"]).await;
    let _held = [
        TcpStream::connect(world.server.http).await.unwrap(),
        TcpStream::connect(world.server.grpc).await.unwrap(),
    ];
    world.store.client().seams().clock.sleep(Duration::from_millis(100)).await;
    let mut third = TcpStream::connect(world.server.http).await.unwrap();
    let reply = Reply::read(&mut third).await;
    assert_eq!((reply.status, &reply.json()["error"]["kind"]), (429, &"busy".into()));
    assert!(reply.head.contains("retry-after: 1"));
    drop(_held);
    world.store.client().seams().clock.sleep(Duration::from_millis(100)).await;
    assert_eq!(get(world.server.http, "/healthz").await.status, 200);
    world.stop().await;
}
