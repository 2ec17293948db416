use bytes::Bytes;
use esker_store::Seams;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;

use super::*;
use crate::serve::admission::Admission;

const IDLE: Duration = Duration::from_secs(30);

fn limits(surface: Surface) -> Limits {
    Limits { idle: Some(IDLE), stop: None, surface, writes: false }
}

fn never() -> Body {
    let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("x"))]);
    Body::from_stream(first.chain(stream::pending()))
}

#[tokio::test(start_paused = true)]
async fn a_long_piece_is_handed_out_in_short_ones() {
    let seams = Seams::simulated(1);
    let all: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    let mut body = Paced::new(Body::from(all.clone()), None, limits(Surface::Rest), seams.clock.clone());
    assert_eq!(body.size_hint().exact(), Some(200_000));
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= PIECE);
        got.extend_from_slice(&data);
        assert_eq!(body.size_hint().exact(), Some((all.len() - got.len()) as u64));
    }
    assert_eq!(got, all);
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_get_on_is_given_up() {
    let seams = Seams::simulated(1);
    let mut rest = Paced::new(never(), None, limits(Surface::Rest), seams.clock.clone());
    assert!(rest.frame().await.unwrap().unwrap().is_data());
    let start = seams.clock.elapsed();
    assert!(rest.frame().await.unwrap().is_err());
    assert!(rest.frame().await.is_none());
    assert!((IDLE..IDLE * 2).contains(&(seams.clock.elapsed() - start)));
    // gRPC is told why.
    for (writes, code) in [(false, tonic::Code::Unavailable), (true, tonic::Code::Unknown)] {
        let limits = Limits { writes, ..limits(Surface::Grpc) };
        let mut grpc = Paced::new(never(), None, limits, seams.clock.clone());
        assert!(grpc.frame().await.unwrap().unwrap().is_data());
        let trailers = grpc.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], (code as i32).to_string().as_str());
        assert!(grpc.frame().await.is_none());
        assert!(grpc.is_end_stream());
    }
}

/// A client of HTTP/2 that opens no window: the body is not polled at all.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_holds_nothing_for_long() {
    let seams = Seams::simulated(1);
    let admission = Admission::new(1, 1 << 20, 1 << 20);
    let admitted = admission.admit().unwrap();
    let _body =
        Paced::new(Body::from("all of it"), Some(admitted), limits(Surface::Rest), seams.clock.clone());
    assert!(admission.admit().is_err());
    seams.clock.sleep(IDLE + Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    assert!(admission.admit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_without_a_limit_ends_with_the_server() {
    let seams = Seams::simulated(1);
    let stop = CancellationToken::new();
    let limits = Limits { idle: None, stop: Some(stop.clone()), ..limits(Surface::Grpc) };
    let mut body = Paced::new(never(), None, limits, seams.clock.clone());
    assert!(body.frame().await.unwrap().unwrap().is_data());
    tokio::select! {
        _ = body.frame() => panic!("it ended"),
        () = seams.clock.sleep(IDLE * 100) => {}
    }
    stop.cancel();
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], (tonic::Code::Unavailable as i32).to_string().as_str());
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_a_reply_and_nothing_else() {
    let seams = Seams::simulated(1);
    let broken = Body::from_stream(stream::once(async { panic!("row") as Result<Bytes, std::io::Error> }));
    let mut body = Paced::new(broken, None, limits(Surface::Rest), seams.clock.clone());
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}
