use std::sync::atomic::{AtomicU32, Ordering};

use esker_format::Kind;
use object_store::memory::InMemory;

use super::*;
use crate::open::Backend;
use crate::seams::Seams;

fn caches(bytes: u64) -> [Arc<dyn RangeCache>; 2] {
    [Arc::new(MokaCache::new(bytes)), Arc::new(SimpleCache::new(bytes))]
}

#[tokio::test]
async fn a_second_read_costs_nothing() {
    for cache in caches(1 << 20) {
        let client =
            Client::new(Backend::new(Arc::new(InMemory::new())), Seams::simulated(1)).with_cache(cache);
        let key = "c/x-1/segment/1.index";
        client.put_immutable(&Meter::new(), key, Bytes::from("0123456789")).await.unwrap();
        let first = Meter::new();
        let pieces = [Piece::of(key, 2..5), Piece::whole(key)];
        assert_eq!(client.cached_ranges(&first, &pieces).await.unwrap(), ["234", "0123456789"]);
        assert_eq!((first.io().gets, first.io().waves, first.io().cache_hit_bytes), (2, 1, 0));
        let second = Meter::new();
        assert_eq!(client.cached_ranges(&second, &pieces).await.unwrap(), ["234", "0123456789"]);
        assert_eq!((second.io().gets, second.io().cache_hit_bytes), (0, 13));
        client.cache().forget(&pieces[0]).await;
        client.cached_range(&second, key, 2..5).await.unwrap();
        assert_eq!(second.io().gets, 1);
    }
}

#[tokio::test]
async fn what_may_change_is_never_cached() {
    let client = Client::new(Backend::new(Arc::new(InMemory::new())), Seams::simulated(1));
    for key in ["c/x-1/head", "c/x-1/wal/1.avro", "c/x-1/manifest/1", "names/x/1"] {
        let e = client.cached(&Meter::new(), &Piece::whole(key)).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Internal);
    }
}

#[tokio::test]
async fn moka_fetches_a_piece_once() {
    let cache = Arc::new(MokaCache::new(1 << 20));
    let fetches = AtomicU32::new(0);
    let ask = || {
        cache.get_or_fetch(
            Piece::whole("k"),
            Box::pin(async {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(Bytes::from("v"))
            }),
        )
    };
    let (a, b, c) = futures::join!(ask(), ask(), ask());
    let fresh = [a.unwrap().1, b.unwrap().1, c.unwrap().1];
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    assert_eq!(fresh.iter().filter(|f| **f).count(), 1);
}

#[tokio::test]
async fn a_failed_fetch_is_not_kept() {
    for cache in caches(1 << 20) {
        let piece = Piece::whole("k");
        let failed =
            cache.get_or_fetch(piece.clone(), Box::pin(async { Err(Error::corrupt("k", "test")) })).await;
        assert_eq!(failed.unwrap_err().kind(), Kind::Corrupt);
        let fetched = cache.get_or_fetch(piece, Box::pin(async { Ok(Bytes::from("v")) })).await.unwrap();
        assert_eq!(fetched, (Bytes::from("v"), true));
    }
}

#[tokio::test]
async fn the_simple_cache_stays_within_its_weight() {
    let cache = SimpleCache::new(3 * (OVERHEAD + 11));
    for i in 0..10u8 {
        let fetch = Box::pin(async move { Ok(Bytes::from(vec![i; 10])) });
        cache.get_or_fetch(Piece::whole(i.to_string()), fetch).await.unwrap();
    }
    assert!(cache.get(&Piece::whole("6")).await.is_none());
    assert!(cache.get(&Piece::whole("7")).await.is_some());
    let big = Box::pin(async { Ok(Bytes::from(vec![0; 1000])) });
    assert!(cache.get_or_fetch(Piece::whole("big"), big).await.is_ok());
    assert!(cache.get(&Piece::whole("big")).await.is_none());
}
