use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::cache::Piece;
use crate::client::tests::stalling;

const KEY: &str = "c/x-1/segment/1.index";

/// A client whose first `stalled` reads get no reply.
async fn client(stalled: u32) -> Client {
    let store = InMemory::new();
    store.put(&Path::from(KEY), Bytes::from_iter(0..=255).into()).await.unwrap();
    stalling(store, stalled)
}

fn pieces(count: u64) -> Vec<Piece> {
    (0..count).map(|i| Piece::of(KEY, i..i + 4)).collect()
}

/// Reads; how long it took.
async fn read(client: &Client, meter: &Meter, count: u64) -> Duration {
    let start = client.seams.clock.elapsed();
    let read = client.cached_ranges(meter, &pieces(count)).await.unwrap();
    let right = (0u8..).zip(&read).all(|(i, bytes)| **bytes == [i, i + 1, i + 2, i + 3]);
    assert!(right && read.len() as u64 == count);
    client.seams.clock.elapsed() - start
}

#[tokio::test(start_paused = true)]
async fn what_is_late_is_asked_for_again() {
    let meter = Meter::new();
    assert!(read(&client(1).await.with_hedging(), &meter, 24).await <= 2 * SOONEST);
    assert_eq!((meter.io().gets, meter.io().hedges, meter.io().waves), (24, 1, 1), "counted apart");

    let meter = Meter::new();
    assert!(read(&client(1).await, &meter, 24).await > Duration::from_secs(1));
    assert_eq!((meter.io().gets, meter.io().hedges), (25, 0), "given up, and retried");
}

#[tokio::test(start_paused = true)]
async fn few_requests_are_not_hedged_and_few_of_many_are() {
    let meter = Meter::new();
    assert!(read(&client(1).await.with_hedging(), &meter, REPLIES as u64).await > Duration::from_secs(1));
    assert_eq!(meter.io().hedges, 0);

    let meter = Meter::new();
    assert!(read(&client(5).await.with_hedging(), &meter, 32).await > Duration::from_secs(1));
    assert_eq!(meter.io().hedges, 32 / ONE_IN as u64);
}
