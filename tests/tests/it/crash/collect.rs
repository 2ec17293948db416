//! Collections among others: writers that sleep through one, readers of every age, rivals, pins, wrong clocks.

use super::enumerate::{observe, prepare};
use super::ledger::{Batch, Ledger};
use super::scenario::{Process, Scenario, Step, collection, collection_with_body, collector, id, name};
use super::truth::{Read, Truth, check};
use esker_compactor::{CollectOptions, Collector, Reason};
use esker_format::Kind;
use esker_query::{Engine, Options, Search};
use esker_store::seams::{SeededRandom, SimulatedClock};
use esker_store::{Backend, Client, Meter, Seams, Store};
use esker_tests::fault::{FaultStore, Plan};
use esker_tests::puts::Puts;
use esker_tests::world::World;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutResult};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn truth(world: &World, ledger: &Ledger) -> Truth {
    check(world, &id(), ledger, &mut Read::new()).unwrap()
}

/// Polls `work` until its process has sent so many calls; what it answered, if it came to an end.
async fn until_sent<F: Future>(work: &mut Pin<Box<F>>, process: &Process, calls: u64) -> Option<F::Output> {
    poll_fn(|context| {
        if process.faults.call_count() >= calls {
            return Poll::Ready(None);
        }
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if process.faults.call_count() >= calls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn perform(world: &World, ledger: &Ledger, seed: u64, steps: &[Step]) {
    let process = Process::new(world, Plan::none(), seed);
    for step in steps {
        step.perform(&process, ledger, false).await.unwrap();
    }
}

/// A writer is frozen while its request for a slot is under way, others go on, fold and collect that slot.
async fn paused(batch: Batch, calls_before_the_slot: u64) {
    let (world, ledger, _) = prepare(&collection()).await;
    let writer = observe(&world).await;
    let frozen = writer.faults.call_count() + calls_before_the_slot + 1;
    let slot = truth(&world, &ledger).last() + 1;
    let key = writer.first().keys().wal(slot);
    let step = Step::Append(vec![(batch.clone(), false)]);
    {
        let mut write = Box::pin(step.perform(&writer, &ledger, false));
        assert!(until_sent(&mut write, &writer, frozen).await.is_none());
        assert_eq!(
            writer.faults.calls().last().map(|c| c.key.clone()),
            Some(key.clone()),
            "frozen elsewhere"
        );
        let others = [
            Step::Append(vec![(Batch::upsert(50, &["a1", "c0"]), true)]),
            Step::Append(vec![(Batch::delete(51, &["a2"]), true)]),
            Step::Compact,
            Step::Collect,
        ];
        perform(&world, &ledger, 20, &others).await;
        assert_eq!(world.body(&key), None, "the slot was collected");

        // It goes on: the name is free, so its create is the second of that name, and succeeds.
        let before = Process::new(&world, Plan::none(), 21).read(&[]).await.unwrap();
        let e = write.await.unwrap_err();
        assert_eq!((e.kind(), e.token()), (Kind::Unknown, Some(batch.token)), "{e}");
        assert!(world.body(&key).is_some(), "the stray is there");
        let after = Process::new(&world, Plan::none(), 22).read(&[]).await.unwrap();
        assert_eq!((before.rows, before.position), (after.rows, after.position), "INV-8: a stray was read");
    }
    truth(&world, &ledger);
    // The next collection sweeps it, without a commit: the floor stands.
    let sweeper = Process::new(&world, Plan::none(), 23).first();
    let swept = collector().run(&Meter::new(), &sweeper, &|_| {}).await.unwrap();
    assert_eq!(world.body(&key), None);
    assert!(swept.deleted >= 1, "{swept:?}");
    // A retry under the token is a new write: the stray never counted.
    step.perform(&writer, &ledger, true).await.unwrap();
    let truth = truth(&world, &ledger);
    assert_eq!(truth.rows["b0"].row.vector[0], batch.token.0 as f32);
}

/// Issue "must show" 5.
#[tokio::test(start_paused = true)]
async fn a_writer_paused_past_collection_of_its_slot_is_told_unknown() {
    // Its register probe is older than a minute by then, its slot is not: one request before the frozen one at most.
    paused(Batch::upsert(60, &["b0", "z"]), 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_with_a_body_paused_past_collection_is_told_unknown() {
    // First the body.
    paused(Batch::upsert(60, &["b0", "z"]).with_text(530 << 10), 1).await;
}

/// The body of a slot that nobody took is an upload in flight, however old; that of a slot that another took goes with it.
#[tokio::test(start_paused = true)]
async fn a_body_lives_as_long_as_its_slot() {
    let (world, ledger, _) = prepare(&collection()).await;
    let writer = observe(&world).await;
    let big = Batch::upsert(60, &["b0", "z"]).with_text(530 << 10);
    let step = Step::Append(vec![(big, false)]);
    let mut write = Box::pin(step.perform(&writer, &ledger, false));
    let frozen = writer.faults.call_count() + 2;
    assert!(until_sent(&mut write, &writer, frozen).await.is_none());
    world.advance(100 * HOUR);
    perform(&world, &ledger, 20, &[Step::Compact, Step::Collect, Step::Collect]).await;
    // Its slot is still the next: it is acknowledged, and what it wrote is whole.
    write.await.unwrap();
    let whole = truth(&world, &ledger);
    assert_eq!(whole.rows["z"].at.0, whole.last());

    // Another body, whose slot a rival takes.
    let late = Batch::upsert(61, &["y"]).with_text(1100 << 10);
    let step = Step::Append(vec![(late, false)]);
    let mut write = Box::pin(step.perform(&writer, &ledger, false));
    let frozen = writer.faults.call_count() + 2;
    assert!(until_sent(&mut write, &writer, frozen).await.is_none());
    let bodies = |world: &World| world.keys(&writer.first().keys().body_prefix()).len();
    let rivals = [Step::Append(vec![(Batch::upsert(62, &["x"]), true)]), Step::Compact, Step::Collect];
    perform(&world, &ledger, 22, &rivals).await;
    assert_eq!(bodies(&world), 0, "both slots are below the floor");
    assert!(write.await.is_err());
    step.perform(&writer, &ledger, true).await.unwrap();
    assert_eq!(truth(&world, &ledger).rows["y"].at.0, truth(&world, &ledger).last());
}

/// At every call of a collection readers that know nothing, and readers that know what was before it, see the same.
#[tokio::test(start_paused = true)]
async fn readers_of_every_age_see_the_same_during_a_collection() {
    let (world, ledger, _) = prepare(&collection()).await;
    let expected = truth(&world, &ledger).rows;
    // They know a manifest that is collected now, and the log above it.
    let mut aged = Vec::new();
    for seed in 0..120 {
        let reader = Process::new(&world, Plan::none(), 1000 + seed);
        reader.read(&[]).await.unwrap();
        aged.push(reader);
    }
    perform(&world, &ledger, 20, &[Step::Compact]).await;
    world.advance(2 * HOUR);
    let process = Process::new(&world, Plan::none(), 21);
    let first = process.first();
    let (collector, meter) = (collector(), Meter::new());
    let mut run = Box::pin(collector.run(&meter, &first, &|_| {}));
    let mut calls = 0;
    let ids = ["a3", "a5", "b0", "b1"];
    while until_sent(&mut run, &process, calls + 1).await.map(Result::unwrap).is_none() {
        calls = process.faults.call_count();
        let fresh = Process::new(&world, Plan::none(), 2000 + calls);
        for reader in aged.pop().iter().chain([&fresh]) {
            assert_eq!(reader.read(&ids).await.unwrap().rows, expected, "INV-1: at call {calls}");
        }
    }
    assert!(calls >= 25, "only {calls} calls");
    for reader in &aged {
        assert_eq!(reader.read(&ids).await.unwrap().rows, expected, "INV-1: after it");
    }
}

/// Issue "must show" 6, of one version that is pinned.
#[tokio::test(start_paused = true)]
async fn a_pinned_version_answers_the_same_before_during_and_after() {
    let (world, ledger, _) = prepare(&collection()).await;
    let process = Process::new(&world, Plan::none(), 20);
    let handle = process.first();
    let meter = Meter::new();
    let version = handle.newest(&meter).await.unwrap().version;
    let pin = handle.pin(&meter, version, HOUR, "a test").await.unwrap();
    let queries: Vec<Vec<f32>> = (0..1000).map(|n| vec![(n % 7) as f32, n as f32 / 3.0]).collect();
    let ask = |seed| {
        let (queries, world) = (queries.clone(), world.clone());
        async move {
            let reader = Process::new(&world, Plan::none(), seed);
            let engine = Engine::new(reader.store.clone(), Options::default());
            let search = Search { as_of: Some(version), vectors: queries, k: 5, ..Search::default() };
            let reply = engine.collection(&name()).search(&Meter::new(), &search).await.unwrap();
            assert_eq!((reply.version, reply.results.len()), (version, 1000));
            let hits = reply.results.iter().flatten().map(|h| (h.id.clone(), h.distance.to_bits()));
            hits.collect::<Vec<_>>()
        }
    };
    let before = ask(30).await;
    assert!(before.len() > 4000);
    for (round, seed) in (0..4u128).zip([40, 50, 60, 70]) {
        let write = Step::Append(vec![(Batch::upsert(70 + round, &["a0", "a3", "b0"]), true)]);
        perform(&world, &ledger, seed, &[write, Step::Compact]).await;
        assert_eq!(ask(seed + 1).await, before, "after a compaction");
        // While the collector waits, and after it.
        let during = async {
            process.store.client().seams().clock.sleep(Duration::from_secs(1)).await;
            ask(seed + 2).await
        };
        let steps = [Step::Collect];
        let collect = perform(&world, &ledger, seed + 3, &steps);
        let (during, ()) = futures::join!(during, collect);
        assert_eq!(during, before, "during a collection");
        assert_eq!(ask(seed + 4).await, before, "after a collection");
        truth(&world, &ledger);
    }

    // Released, it goes with all that it alone kept, and says which is the oldest.
    let kept = world.keys("c/").len();
    handle.unpin(&meter, &pin).await.unwrap();
    perform(&world, &ledger, 80, &[Step::Collect]).await;
    let there = world.keys("c/").len();
    assert!(there < kept, "{there} of {kept} objects");
    assert_eq!(world.keys(&handle.keys().pins_prefix()), [] as [String; 0]);
    let oldest = handle.newest(&meter).await.unwrap().floors.version;
    let gone = handle.as_of(&meter, version).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::Gone);
    assert!(gone.to_string().ends_with(&format!("the oldest retained is version {oldest}")), "{gone}");
    truth(&world, &ledger);
}

/// A lease ends by the store's clock, some minutes after its time.
#[tokio::test(start_paused = true)]
async fn an_expired_pin_keeps_nothing() {
    let (world, ledger, _) = prepare(&collection()).await;
    let handle = Process::new(&world, Plan::none(), 20).first();
    let version = handle.newest(&Meter::new()).await.unwrap().version;
    handle.pin(&Meter::new(), version, HOUR, "a test").await.unwrap();
    world.advance(HOUR + Duration::from_secs(60));
    let write = |token| Step::Append(vec![(Batch::upsert(token, &["a0"]), true)]);
    perform(&world, &ledger, 21, &[write(70), Step::Compact, Step::Collect]).await;
    assert!(handle.as_of(&Meter::new(), version).await.is_ok(), "a minute late is in time");
    world.advance(Duration::from_secs(15 * 60));
    perform(&world, &ledger, 22, &[Step::Collect]).await;
    assert_eq!(handle.as_of(&Meter::new(), version).await.unwrap_err().kind(), Kind::Gone);
    truth(&world, &ledger).check_clean(&world, &id());
}

/// Retention is counted by the store's clock: a machine that is a day off deletes nothing more and nothing less.
#[tokio::test(start_paused = true)]
async fn a_wrong_clock_changes_nothing() {
    let (world, ledger, _) = prepare(&collection()).await;
    let mut left = Vec::new();
    for day in [-1, 0, 1] {
        let world = world.fork();
        let wall = SimulatedClock::START_MS + day * 86_400_000;
        let seams =
            Seams { clock: Arc::new(SimulatedClock::new(wall)), random: Arc::new(SeededRandom::new(30)) };
        let faults = FaultStore::new(&world, Plan::none());
        let backend = Backend::paged(Arc::new(faults), Path::default());
        let store = Store::new(Client::new(backend, seams));
        let handle = store.collection(&Meter::new(), &name()).await.unwrap();
        let collector = Collector::new(CollectOptions { retain: HOUR, grace: Duration::from_secs(60) });
        let early = collector.run(&Meter::new(), &handle, &|_| {}).await.unwrap();
        assert_eq!(
            (early.deleted, early.committed),
            (0, false),
            "day {day}: all of it is younger than an hour"
        );
        world.advance(2 * HOUR);
        let done = collector.run(&Meter::new(), &handle, &|_| {}).await.unwrap();
        assert!(done.deleted > 5 && done.committed, "day {day}: {done:?}");
        truth(&world, &ledger);
        left.push(world.keys("c/"));
    }
    assert!(left.windows(2).all(|pair| pair[0] == pair[1]));
}

/// A collector that slept through another, a compaction and more writes deletes what its own floors gave up, no more.
#[tokio::test(start_paused = true)]
async fn a_zombie_collector_deletes_what_an_older_floor_gave_up() {
    let (world, ledger, _) = prepare(&collection()).await;
    let probe = {
        let world = world.fork();
        let process = Process::new(&world, Plan::none(), 20);
        collector().run(&Meter::new(), &process.first(), &|_| {}).await.unwrap();
        process.faults.call_count()
    };
    for pause in 1..=probe {
        let (world, ledger) = (world.fork(), ledger.fork());
        let process = Process::new(&world, Plan::none(), 20);
        let (first, collector, meter) = (process.first(), collector(), Meter::new());
        let mut zombie = Box::pin(collector.run(&meter, &first, &|_| {}));
        assert!(until_sent(&mut zombie, &process, pause).await.is_none(), "it has {probe} calls");
        let write = |token| Step::Append(vec![(Batch::upsert(token, &["a0", "b1"]), true)]);
        let others = [write(70), Step::Compact, Step::Collect, write(71), Step::Compact, write(72)];
        perform(&world, &ledger, 21, &others).await;
        let before = truth(&world, &ledger);
        // It may have lost to the other, and says so.
        drop(zombie.await);
        truth(&world, &ledger).check_follows(&before);
        perform(&world, &ledger, 22, &[Step::Collect]).await;
        let after = truth(&world, &ledger);
        after.check_follows(&before);
        after.check_clean(&world, &id());
    }
}

/// With nothing to do: one page of each listing, the register, and a mark of time; nothing is committed.
#[tokio::test(start_paused = true)]
async fn a_collection_with_nothing_to_do_costs_a_page_a_listing() {
    let (world, ledger, _) = prepare(&collection()).await;
    perform(&world, &ledger, 20, &[Step::Collect]).await;
    let process = Process::new(&world, Plan::none(), 21);
    let handle = process.open().await.unwrap();
    for _ in 0..3 {
        world.advance(3 * HOUR);
        let meter = Meter::recording();
        let done = collector().run(&meter, &handle, &|_| {}).await.unwrap();
        assert_eq!((done.committed, done.deleted, done.stubbed), (false, 0, 0));
        let io = meter.io();
        assert_eq!((io.gets, io.lists, io.puts, io.deletes), (1, 9, 1, 1), "{:#?}", meter.requests());
    }
    // A plan is the same without the mark.
    let meter = Meter::new();
    let plan = collector().plan(&meter, &handle).await.unwrap();
    assert!(plan.items.is_empty() && !plan.raises, "{plan:?}");
    assert_eq!((meter.io().puts, meter.io().deletes), (0, 0));
}

/// What a plan lists is what a collection does, and each item has its reason.
#[tokio::test(start_paused = true)]
async fn a_plan_is_what_is_done() {
    let (world, _, _) = prepare(&collection_with_body()).await;
    let handle = Process::new(&world, Plan::none(), 20).open().await.unwrap();
    let before = world.keys("c/");
    let plan = collector().plan(&Meter::new(), &handle).await.unwrap();
    assert_eq!(world.keys("c/"), before, "a plan writes nothing");
    let done = collector().run(&Meter::new(), &handle, &|_| {}).await.unwrap();
    assert!(plan.raises && done.committed);
    assert_eq!((plan.floors, plan.bytes), (done.floors, done.bytes));
    let stubs = plan.items.iter().filter(|i| matches!(i.reason, Reason::Version { .. })).count();
    assert_eq!((done.stubbed, done.deleted), (stubs as u64, (plan.items.len() - stubs) as u64));
    let after = world.keys("c/");
    for item in &plan.items {
        assert_eq!(after.contains(&item.key), matches!(item.reason, Reason::Version { .. }), "{}", item.key);
    }
    let reasons: Vec<String> = plan.items.iter().map(|i| i.reason.to_string()).collect();
    let has = |text: &str| assert!(reasons.iter().any(|r| r.contains(text)), "{text}: {reasons:#?}");
    has("log entry 1 is at or below 4");
    has("rows for slots up to 4 of the log");
    has("no retained or pinned version refers to it");
    has("a stub takes its place");
}

/// The weakening "delete before floor", on the real collector: a store that says "created" of a floor that it has not.
#[tokio::test(start_paused = true)]
async fn a_delete_before_its_floor_is_seen() {
    let (world, ledger, _) = prepare(&collection()).await;
    let head = Process::new(&world, Plan::none(), 19).first().keys().head();
    let old = world.body(&head).unwrap();
    perform(&world, &ledger, 20, &[Step::Compact]).await;
    let last = truth(&world, &ledger).last();
    let lying = Puts(FaultStore::new(&world, Plan::none()), lie);
    let backend = Backend::paged(Arc::new(lying), Path::default());
    let store = Store::new(Client::new(backend, Seams::simulated(21)));
    let handle = store.collection(&Meter::new(), &name()).await.unwrap();
    collector().run(&Meter::new(), &handle, &|_| {}).await.unwrap();
    // No floor says so, and what a reader of an old head lists is not the whole log any more: it misses what it must see.
    world.tamper(&head, old);
    let misled = Process::new(&world, Plan::none(), 22).first();
    assert!(misled.snapshot(&Meter::new()).await.unwrap().position < last, "INV-1 was not broken");
    let looked = std::panic::AssertUnwindSafe(|| truth(&world, &ledger));
    assert!(std::panic::catch_unwind(looked).is_err(), "the checks noticed nothing");
}

/// Answers "created" to a commit, and keeps it to itself.
fn lie(at: &Path, options: &PutOptions) -> Option<object_store::Result<PutResult>> {
    let register = at.as_ref().contains("/manifest/") && matches!(options.mode, PutMode::Create);
    (register || at.as_ref().ends_with("/head")).then_some(Ok(PutResult { e_tag: None, version: None }))
}

#[tokio::test(start_paused = true)]
async fn a_dropped_collection_leaves_its_register() {
    let scenario = super::scenario::collection_of_dropped();
    let Scenario { before, .. } = &scenario;
    assert!(matches!(before.last(), Some(Step::Drop)));
    let (world, ledger, _) = prepare(&scenario).await;
    let handle = Process::new(&world, Plan::none(), 20).first();
    let plan = collector().plan(&Meter::new(), &handle).await.unwrap();
    assert!(plan.dropped && plan.items.iter().all(|i| i.reason == Reason::Dropped));
    perform(&world, &ledger, 21, &[Step::Collect]).await;
    truth(&world, &ledger).check_clean(&world, &id());
    assert!(world.keys("c/").iter().all(|key| key.contains("/manifest/")));
    // Nothing to do the next time, and the name can be used again.
    let again = collector().run(&Meter::new(), &handle, &|_| {}).await.unwrap();
    assert_eq!((again.deleted, again.stubbed), (0, 0));
    assert_eq!(handle.snapshot(&Meter::new()).await.unwrap_err().kind(), Kind::Gone);
}
