use esker_format::schema::{Metric, Settings, VectorType};
use esker_format::wal::PendingBatch;
use esker_format::{Token, avro::container::Block};
use esker_store::{Backend, Client, Seams};
use object_store::memory::InMemory;

use super::*;
use crate::CollectOptions;
use crate::fixture::{self, Write, clustered, put, upserts};

const SETTINGS: Settings = Settings { dimension: 4, metric: Metric::L2, vector_type: VectorType::F32 };
const LONG: Duration = Duration::from_secs(1 << 30);

struct World {
    objects: Arc<InMemory>,
    token: u128,
}

impl World {
    fn new() -> Self {
        World { objects: Arc::new(InMemory::new()), token: 0 }
    }

    fn store(&self, seed: u64) -> Arc<Store> {
        Arc::new(Store::new(Client::new(Backend::new(self.objects.clone()), Seams::simulated(seed))))
    }

    /// A worker that knows nothing yet, as after a cold start.
    fn worker(&self, seed: u64) -> Worker {
        let collector =
            Collector::new(CollectOptions { retain: Duration::ZERO, ..CollectOptions::default() });
        Worker { store: self.store(seed), compactor: Compactor::default(), collector }
    }

    async fn write(&mut self, text: &str, entries: usize) {
        let (store, meter) = (self.store(99), Meter::new());
        let collection = match store.collection(&meter, &name(text)).await {
            Ok(collection) => collection,
            Err(_) => store.create(&meter, &name(text), SETTINGS, fixture::schema()).await.unwrap(),
        };
        for n in 0..entries {
            let writes: Vec<Write> = upserts(clustered(3, 4, n as u64));
            let mut data = Vec::new();
            let mut op = None;
            writes.iter().for_each(|write| op = Some(put(&mut data, write)));
            self.token += 1;
            let block = Block { rows: writes.len() as u64, data: data.into() };
            let batch = PendingBatch {
                token: Token(self.token),
                given: false,
                content: None,
                op: op.unwrap(),
                arrived_ms: fixture::NOW,
                blocks: vec![block],
            };
            collection.append(&meter, batch).await.unwrap();
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn entries(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Folded { folded_entries, .. } => Some(*folded_entries),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn marks_say_where_there_is_work_until_it_is_done() {
    let mut world = World::new();
    world.write("books", 3).await;
    world.write("films", 17).await;
    let worker = world.worker(1);
    assert_eq!(worker.marked().await.unwrap(), [name("books"), name("films")]);
    let done = worker.work(worker.marked().await.unwrap(), Task::Fold, LONG).await;
    assert_eq!(done.values().map(entries).collect::<Vec<_>>(), [Some(3), Some(17)]);
    let next = world.worker(2);
    assert_eq!(next.marked().await.unwrap(), []);
    // Delivered twice, it finds nothing to do.
    let again = next.work(vec![name("books"), name("films"), name("none")], Task::Fold, LONG).await;
    assert!(again.values().all(|outcome| *outcome == Outcome::Nothing), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_notification_folds_only_what_is_long() {
    let mut world = World::new();
    world.write("books", 15).await;
    let worker = world.worker(1);
    let done = worker.work(vec![name("books")], Task::FoldLong, LONG).await;
    assert_eq!(done[&name("books")], Outcome::Nothing);
    assert_eq!(worker.marked().await.unwrap(), [name("books")], "a tick will fold it");
    world.write("books", 1).await;
    // The same process: what it knows from before is not what it is woken for.
    let done = worker.work(vec![name("books")], Task::FoldLong, LONG).await;
    assert_eq!(entries(&done[&name("books")]), Some(16));
}

#[tokio::test(start_paused = true)]
async fn two_at_once_fold_everything_once() {
    let mut world = World::new();
    world.write("books", 5).await;
    let (one, two) = (world.worker(1), world.worker(2));
    let both = futures::join!(
        one.work(vec![name("books")], Task::Fold, LONG),
        two.work(vec![name("books")], Task::Fold, LONG)
    );
    let folded: u64 = [&both.0, &both.1].iter().filter_map(|done| entries(&done[&name("books")])).sum();
    assert_eq!(folded, 5, "{both:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_without_time() {
    let mut world = World::new();
    world.write("books", 1).await;
    let worker = world.worker(1);
    let now = worker.store.client().seams().clock.elapsed();
    let done = worker.work(vec![name("books")], Task::Fold, now + Duration::from_secs(2)).await;
    assert_eq!(done[&name("books")], Outcome::Left);
    assert_eq!(worker.marked().await.unwrap(), [name("books")]);
}

#[tokio::test(start_paused = true)]
async fn a_mark_whose_entry_was_folded_before_is_removed() {
    let mut world = World::new();
    world.write("books", 1).await;
    let worker = world.worker(1);
    worker.work(vec![name("books")], Task::Fold, LONG).await;
    let id = CollectionId::new(name("books"), 1);
    let late = esker_format::keys::dirty(&id, 1);
    worker.store.client().create(&Meter::new(), &late, bytes::Bytes::new()).await;
    assert_eq!(worker.marked().await.unwrap(), [name("books")]);
    world.worker(2).work(vec![name("books")], Task::Fold, LONG).await;
    assert_eq!(worker.marked().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn dropped_collections_are_collected_too() {
    let mut world = World::new();
    world.write("books", 2).await;
    let worker = world.worker(1);
    worker.store.drop_collection(&Meter::new(), &name("books")).await.unwrap();
    let names = worker.names().await.unwrap();
    assert_eq!(names, [name("books")]);
    let done = worker.work(names, Task::Collect, LONG).await;
    assert!(matches!(done[&name("books")], Outcome::Collected { deleted, .. } if deleted > 0), "{done:?}");
}

#[test]
fn objects_tell_of_work_by_their_key() {
    let id = CollectionId::new(name("books"), 2);
    assert_eq!(worked_on(&esker_format::keys::dirty(&id, 7)), Some((name("books"), Task::FoldLong)));
    assert_eq!(worked_on(&esker_format::keys::Keys::new(&id).wal(7)), Some((name("books"), Task::FoldLong)));
    let made = esker_format::keys::Made { base: 3, token: esker_format::Token(4) };
    assert_eq!(worked_on(&esker_format::keys::dirty_job(&id, made)), Some((name("books"), Task::Step)));
    assert_eq!(worked_on(&esker_format::keys::Keys::new(&id).head()), None);
    assert_eq!(worked_on("books"), None);
}
