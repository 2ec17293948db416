use std::sync::Arc;

use bytes::Bytes;
use esker_format::SetHash;
use esker_format::keys::Made;

use super::*;
use crate::collection::tests::{Fault, World, upsert};

async fn publish_one(notes: &Collection, token: u128) -> Result<Commit> {
    let base = notes.manifest(&Meter::new()).await.unwrap();
    publish_after(notes, base, token).await
}

async fn publish_after(notes: &Collection, base: Arc<Manifest>, token: u128) -> Result<Commit> {
    let meter = Meter::new();
    let made = Made { base: base.version, token: Token(token) };
    let header = Bytes::from("the header");
    let index = Bytes::from("the header, then the rest");
    notes.client().put_immutable(&meter, &notes.keys().index(made), index.clone()).await.unwrap();
    let to = base.watermark + 1;
    let segment = Segment {
        made,
        rows: 1,
        rows_size: 0,
        index_size: index.len() as u64,
        header_size: header.len() as u64,
        header_crc: crc32c::crc32c(&header),
        seqs: (to, to),
        deletes: None,
    };
    let publish = Publish {
        base: base.version,
        fold: (base.watermark, to),
        inputs: base.segments.clone(),
        add: vec![segment],
        accepted: SetHash::of("a", to, 0),
        ..Publish::default()
    };
    let part = Part { made, header, codes: Some(Bytes::from("codes")), deletes: None };
    notes.publish(&meter, &base, Token(token), publish, vec![part]).await
}

#[tokio::test(start_paused = true)]
async fn a_publish_moves_the_tail_into_a_segment() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=2u128 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    let first = publish_one(&notes, 100).await.unwrap().into_result().unwrap();
    assert_eq!((first.version, first.watermark, first.segments.len()), (2, 1, 1));
    let second = publish_one(&notes, 101).await.unwrap().into_result().unwrap();
    assert_eq!((second.watermark, second.segments.len()), (2, 2));

    let snapshot = world.reopen(2).await.snapshot(&meter).await.unwrap();
    assert_eq!((snapshot.manifest.version, snapshot.position, snapshot.tail.len()), (3, 2, 0));
    let parts: Vec<_> = snapshot.parts.iter().flatten().collect();
    assert!(parts.iter().all(|p| p.header == "the header" && p.codes.as_deref() == Some(b"codes")));
    assert_eq!(parts.len(), 2);
    assert!(notes.marks(&meter).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_head_is_rebuilt_from_the_index_files() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    publish_one(&notes, 100).await.unwrap();
    notes.client().delete(&meter, &notes.keys().head()).await.unwrap();
    let other = world.reopen(2).await;
    assert!(other.snapshot(&meter).await.unwrap().parts[0].is_none());
    let newest = other.manifest(&meter).await.unwrap();
    other.refresh_head(&meter, &newest, Vec::new()).await;
    let part = world.reopen(3).await.snapshot(&meter).await.unwrap().parts[0].clone().unwrap();
    assert_eq!((&part.header[..], part.codes), (&b"the header"[..], None));
}

#[tokio::test(start_paused = true)]
async fn of_two_publishes_of_one_tail_one_is_refused() {
    let (world, _store, a) = World::with_collection().await;
    let meter = Meter::new();
    a.append(&meter, upsert(1, &["a"])).await.unwrap();
    let b = world.reopen(2).await;
    world.storage.next_create_of("/manifest/", Fault::LostReply);
    let base = a.manifest(&meter).await.unwrap();
    let (x, y) = futures::join!(publish_after(&a, base.clone(), 100), publish_after(&b, base, 101));
    let refused: Vec<Refusal> = [x.unwrap(), y.unwrap()]
        .into_iter()
        .filter_map(|c| match c {
            Commit::Refused { refusal, .. } => Some(refusal),
            Commit::Committed(_) => None,
        })
        .collect();
    assert_eq!(refused, [Refusal::Overtaken]);
    let newest: Arc<Manifest> = world.reopen(3).await.manifest(&meter).await.unwrap();
    assert_eq!((newest.version, newest.segments.len()), (2, 1));
}
