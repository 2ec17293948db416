//! Bad input is refused by field; damaged objects are refused by name, never answered from.

use esker_format::Kind;
use esker_format::schema::{Metric, VectorType};
use esker_store::{Meter, Method};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::fixture::World;
use crate::engine::Options;
use crate::filter::Filter;
use crate::search::Search;

#[tokio::test]
async fn bad_requests_name_their_field() {
    let mut world = World::compacted(100, 8, Metric::Cosine, VectorType::F32).await;
    let (reader, good) = (world.cold(), Search::new(world.vector(), 3));
    let cases: Vec<(Search, &str)> = vec![
        (Search { k: 0, ..good.clone() }, "k"),
        (Search { k: 10_001, ..good.clone() }, "k"),
        (Search { vectors: vec![], ..good.clone() }, "vector"),
        (Search { like: Some("row 1".into()), ..good.clone() }, "vector"),
        (Search { vectors: vec![vec![1.0; 9]], ..good.clone() }, "vector"),
        (Search { vectors: vec![vec![0.0; 8]], ..good.clone() }, "vector"),
        (Search { vectors: vec![vec![1.0; 8], vec![f32::NAN; 8]], ..good.clone() }, "vectors[1]"),
        (Search { vectors: vec![vec![1e18; 8]], ..good.clone() }, "vector"),
        (Search { vectors: vec![vec![1e-19; 8]], ..good.clone() }, "vector"),
        (Search { min_recall: 0.0, ..good.clone() }, "min_recall"),
        (Search { max_distance: Some(f32::NAN), ..good.clone() }, "max_distance"),
        (Search { include: Some(vec!["nmber".into()]), ..good.clone() }, "include"),
        (Search { filter: Some(Filter::sql("nmber = 3").unwrap()), ..good.clone() }, "nmber"),
    ];
    for (search, field) in cases {
        let e = reader.search(&Meter::new(), &search).await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some(field)), "{e}");
    }
    let near = Search { max_distance: Some(0.05), include: Some(vec!["number".into()]), ..good };
    let reply = reader.search(&Meter::new(), &near).await.unwrap();
    assert!(reply.results[0].iter().all(|h| h.distance <= 0.05 && h.metadata.len() == 1));
}

/// Of a query that is next to nothing, too, codes say which rows are nearest.
#[tokio::test]
async fn tiny_queries_are_answered() {
    for metric in [Metric::L2, Metric::Dot] {
        let world = World::compacted(300, 8, metric, VectorType::F32).await;
        let reader = world.probing().await;
        for tiny in [0.0, 1e-45, 1e-40, 1e-30] {
            let mut vector = vec![0.0; 8];
            vector[0] = tiny;
            let (recall, _) = world.recall(&reader, &Search::new(vector, 10), |_| true).await;
            assert!(recall >= 0.9, "{metric:?} {tiny:e}: {recall}");
        }
        let great = Search::new(vec![1e18; 8], 10);
        assert_eq!(reader.search(&Meter::new(), &great).await.unwrap_err().field(), Some("vector"));
    }
}

/// Flips a bit of every byte range that a cold search reads of the segment's files: the answer is the true one or a
/// refusal that names the object.
#[tokio::test]
async fn a_flipped_bit_is_never_a_wrong_answer() {
    let mut world = World::compacted(400, 16, Metric::L2, VectorType::F32).await;
    let search =
        Search { filter: Some(Filter::sql("number < 300").unwrap()), ..Search::new(world.vector(), 5) };
    let meter = Meter::recording();
    let truth = world.probing().await.search(&meter, &search).await.unwrap().results;
    let (mut refused, probe) = (0, Options { whole_codes: 0, ..Options::default() });
    for request in meter.requests().iter().filter(|r| r.method == Method::Get) {
        let path = object_store::path::Path::from(request.key.as_str());
        let Ok(object) = world.objects.get_opts(&path, Default::default()).await else { continue };
        let whole = object.bytes().await.unwrap();
        let range = request.range.clone().unwrap_or(0..whole.len() as u64);
        let range = range.start as usize..range.end as usize;
        for at in range.clone().step_by((range.len() / 9).max(1)) {
            let mut bad = whole.to_vec();
            bad[at] ^= 1 << (at % 8);
            world.objects.put(&path, PutPayload::from(bad)).await.unwrap();
            match world.cold_with(probe.clone()).search(&Meter::new(), &search).await {
                Ok(reply) => assert_eq!(reply.results, truth, "byte {at} of {}", request.key),
                Err(e) => {
                    assert_eq!(e.kind(), Kind::Corrupt, "byte {at} of {}: {e}", request.key);
                    refused += 1;
                }
            }
        }
        world.objects.put(&path, PutPayload::from(whole)).await.unwrap();
    }
    assert!(refused > 5, "{refused}");
}

/// A bad copy in the cache costs a request, not an answer.
#[tokio::test]
async fn what_fails_its_checksum_is_read_once_more() {
    let mut world = World::compacted(400, 16, Metric::L2, VectorType::F32).await;
    let search =
        Search { filter: Some(Filter::sql("number < 300").unwrap()), ..Search::new(world.vector(), 5) };
    let meter = Meter::recording();
    let truth = world.probing().await.search(&meter, &search).await.unwrap().results;
    let reader = world.cold_with(Options { whole_codes: 0, ..Options::default() });
    let mut poisoned = 0;
    for request in meter.requests().iter().filter(|r| r.key.contains("/segment/")) {
        let piece = esker_store::Piece::of(request.key.as_str(), request.range.clone().unwrap());
        let good = reader.client().range(&Meter::new(), &piece.key, piece.range.clone()).await.unwrap();
        let bad = bytes::Bytes::from(good.iter().map(|b| !b).collect::<Vec<u8>>());
        reader.client().cache().get_or_fetch(piece, Box::pin(async { Ok(bad) })).await.unwrap();
        poisoned += 1;
    }
    assert!(poisoned >= 3);
    assert_eq!(reader.search(&Meter::new(), &search).await.unwrap().results, truth);
}

/// What an old manifest names may be gone: the read starts again from the newest.
#[tokio::test]
async fn a_read_of_collected_segments_starts_again() {
    let mut world = World::compacted(400, 16, Metric::Cosine, VectorType::F32).await;
    let reader = world.cold();
    drop(world.probing().await);
    reader.stats(&Meter::new()).await.unwrap();
    let old = world.collection().await.last_seen().unwrap();
    world.fill(400..1200).await;
    world.compact().await;
    let keys = world.collection().await.keys().clone();
    let made = old.segments[0].made;
    for key in [keys.rows(made), keys.index(made)] {
        world.objects.delete(&object_store::path::Path::from(key)).await.unwrap();
    }
    let search = Search { explain: true, ..Search::new(world.vector(), 10) };
    let (recall, reply) = world.recall(&reader, &search, |_| true).await;
    assert!(recall >= 0.9, "{recall}");
    assert_eq!(reply.explain.unwrap().restarts, 1);
}
