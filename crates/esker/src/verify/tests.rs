//! What is sound is found sound, and every kind of damage is found and named.

mod damage;
mod lab;
mod meanwhile;

use super::{Class, Options, Report, StoreReport, collection, store};
use esker_format::Kind;
use esker_store::{Client, Meter};
use lab::{Lab, id};

const DEEP: Options = Options { deep: true };

async fn verify(client: &Client) -> Report {
    collection(client, &Meter::new(), &id(1), DEEP, &|_| {}).await.unwrap()
}

async fn verify_store(client: &Client) -> StoreReport {
    store(client, &Meter::new(), DEEP, &|_| {}).await.unwrap()
}

/// The report has no finding, and its sums are those of the listing.
async fn assert_sound(client: &Client, rows: usize) -> Report {
    let report = verify(client).await;
    assert_eq!(report.findings, [], "{report:?}");
    assert_eq!(report.rows.live, rows as u64, "{report:?}");
    let listed = client.list_all(&Meter::new(), "c/notes-1/").await.unwrap();
    let sums = report.classes.values();
    assert_eq!(sums.clone().map(|s| s.bytes).sum::<u64>(), listed.iter().map(|o| o.size).sum::<u64>());
    assert_eq!(sums.map(|s| s.objects).sum::<u64>(), listed.len() as u64);
    if !report.dropped {
        assert_eq!(report.hashes.derived_live, Some(report.hashes.manifest.live));
    }
    report
}

async fn history(mut lab: Lab) {
    for _ in 0..6 {
        lab.write(40).await;
        lab.delete(7).await;
        assert_sound(&lab.client, lab.live.len()).await;
        lab.compact().await;
        assert_sound(&lab.client, lab.live.len()).await;
    }
    lab.pin().await;
    lab.write_large().await;
    let with_body = assert_sound(&lab.client, lab.live.len()).await;
    assert_eq!(with_body.classes[&Class::Tail].objects, 2);
    lab.compact().await;
    lab.collect().await;
    let collected = assert_sound(&lab.client, lab.live.len()).await;
    assert!(collected.classes.contains_key(&Class::Pins) && collected.version > 8);
    lab.write(3).await;
    assert_sound(&lab.client, lab.live.len()).await;
    // What a crashed compaction leaves is no corruption.
    let orphan = format!("c/notes-1/segment/{:020}-{:032x}.parquet", collected.version, 9);
    lab.client.overwrite(&lab.meter, &orphan, "left over".into()).await.unwrap();
    let report = assert_sound(&lab.client, lab.live.len()).await;
    assert!(report.classes[&Class::Orphan].objects >= 1, "{report:?}");
}

#[tokio::test]
async fn a_random_history_is_sound_in_memory() {
    for seed in [1, 2] {
        history(Lab::in_memory(seed).await).await;
    }
}

#[tokio::test]
async fn a_random_history_is_sound_in_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    history(Lab::in_directory(directory.path(), 3).await).await;
}

#[tokio::test]
async fn dropped_and_created_again_all_lives_are_sound() {
    let mut lab = Lab::in_memory(4).await;
    lab.write(50).await;
    lab.compact().await;
    lab.drop_and_create().await;
    lab.write(20).await;
    let report = verify_store(&lab.client).await;
    assert_eq!(report.count(), 0, "{report:?}");
    assert!(report.collections[0].dropped && !report.collections[1].dropped);
    assert_eq!(report.collections[1].rows.live, lab.live.len() as u64);
    assert!(report.collections[0].classes.contains_key(&Class::Garbage));
    let (bound, findings) = super::resolve(&lab.client, &lab.meter, id(1).name()).await.unwrap();
    assert_eq!((bound, findings), (id(2), vec![]));
    let absent = esker_format::CollectionId::new(esker_format::Name::new("absent").unwrap(), 1);
    let none = collection(&lab.client, &lab.meter, &absent, DEEP, &|_| {}).await.unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_sample_asks_for_less_than_everything() {
    let mut lab = Lab::in_memory(5).await;
    lab.write(200).await;
    lab.compact().await;
    let (deep, sampled) = (Meter::new(), Meter::new());
    collection(&lab.client, &deep, &id(1), DEEP, &|_| {}).await.unwrap();
    let report = collection(&lab.client, &sampled, &id(1), Options::default(), &|_| {}).await.unwrap();
    assert_eq!(report.findings, []);
    assert!(sampled.io().bytes_read < deep.io().bytes_read);
}
