use super::*;
use crate::collection::tests::{World, upsert};
use esker_format::manifest::Floors;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_pin_is_listed_until_it_is_released() {
    let (_world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let pin = notes.pin(&meter, 1, MINUTE, "export").await.unwrap();
    let pins = notes.pins(&meter).await.unwrap();
    assert_eq!(pins.iter().map(|p| (p.version, p.token)).collect::<Vec<_>>(), [(1, pin.token)]);
    assert_eq!(pins[0].lease, Lease { owner: "export".to_owned(), ttl_ms: 60_000, released: false });
    let taken = pins[0].modified_ms;
    assert!(pins[0].holds(taken + 60_000), "a lease is not cut short");
    assert!(!pins[0].holds(taken + 60_000 + MARGIN.as_millis() as i64), "and it ends");
    notes.unpin(&meter, &pin).await.unwrap();
    assert!(!notes.pins(&meter).await.unwrap()[0].holds(taken));
}

#[tokio::test(start_paused = true)]
async fn only_retained_versions_are_pinned() {
    let (_world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    let first = notes.manifest(&meter).await.unwrap();
    let floors = Floors { version: 1, base: 1, wal: 0 };
    notes.collect(&meter, &first, floors).await.unwrap().into_result().unwrap();
    let second = notes.manifest(&meter).await.unwrap();
    let floors = Floors { version: 2, base: 2, wal: 0 };
    notes.collect(&meter, &second, floors).await.unwrap().into_result().unwrap();

    let kind = |version| {
        let (notes, meter) = (&notes, &meter);
        async move { notes.pin(meter, version, MINUTE, "x").await.map_err(|e| (e.kind(), e.to_string())) }
    };
    assert!(kind(2).await.is_ok());
    let gone = "version 1 of notes-1 is no longer retained; the oldest retained is version 2";
    assert_eq!(kind(1).await.unwrap_err(), (Kind::Gone, gone.to_owned()));
    assert_eq!(kind(4).await.unwrap_err().0, Kind::NotFound);
    assert_eq!(kind(0).await.unwrap_err().0, Kind::NotFound);
    let none = notes.pin(&meter, 2, Duration::ZERO, "x").await.unwrap_err();
    assert_eq!((none.kind(), none.field()), (Kind::Invalid, Some("ttl")));
    let held: Vec<Version> = {
        let pins = notes.pins(&meter).await.unwrap();
        pins.iter().filter(|p| p.holds(p.modified_ms)).map(|p| p.version).collect()
    };
    assert_eq!(held, [2], "a pin that was refused holds nothing");

    // What a version that is a stub answers.
    assert!(notes.as_of(&meter, 1).await.is_ok(), "not a stub yet");
    assert!(notes.stub(&meter, 1).await.unwrap());
    assert!(!notes.stub(&meter, 1).await.unwrap(), "it is one already");
    let e = notes.as_of(&meter, 1).await.unwrap_err();
    assert_eq!((e.kind(), e.to_string()), (Kind::Gone, gone.to_owned()));
}
