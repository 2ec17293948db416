//! Goes through a scenario's calls: each goes wrong in each way, under each fate of its process.

use super::ledger::{Batch, Fate, Ledger};
use super::scenario::{Process, Scenario, Step, id, name};
use super::truth::{Read, Truth, check};
use esker_format::{CollectionId, Kind};
use esker_tests::fault::{Call, CallKind, Mode, Plan};
use esker_tests::world::World;
use std::collections::BTreeSet;
use std::time::Duration;

/// One case as it prints itself: only that one is run.
const ONLY: &str = "ESKER_CRASH";

/// What becomes of the process whose call went wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    /// It goes on, and one fault is nothing that its clients should notice.
    GoesOn,
    /// Every later call fails: it is cut off from the store. What it still tells its clients has to be true.
    CutOff,
    /// It stops at its next call and tells nobody anything.
    Dropped,
}

/// When requests under way land.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drain {
    /// As soon as the process that goes on waits for something.
    During,
    /// Before anyone looks again.
    Before,
    /// After everything was done again.
    After,
}

struct Case<'a> {
    scenario: &'a Scenario,
    call: &'a Call,
    mode: Mode,
    life: Life,
    drain: Drain,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.scenario.name.replace(' ', "-");
        write!(f, "{name}/{}/{:?}/{:?}/{:?}", self.call.number, self.mode, self.life, self.drain)
    }
}

/// Says which case it was when a check of it panics.
pub struct Blame {
    case: String,
    what: String,
}

impl Blame {
    pub fn new(case: impl ToString, what: impl ToString) -> Self {
        Blame { case: case.to_string(), what: what.to_string() }
    }
}

impl Drop for Blame {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Blame { case, what } = self;
            say(&format!("crash case {case}: {what}"));
            say(&format!("run only it: {ONLY}={case} cargo test -p esker-tests --test it crash::"));
        }
    }
}

#[expect(clippy::disallowed_macros, clippy::print_stderr, reason = "a test says what it ran")]
pub fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::disallowed_methods, reason = "how to run one case of many")]
pub fn only() -> Option<String> {
    std::env::var(ONLY).ok()
}

/// How much was run.
#[derive(Debug, Default)]
pub struct Count {
    pub calls: u64,
    pub cases: u64,
}

/// What a scenario starts from: read once for all its cases.
pub async fn prepare(scenario: &Scenario) -> (World, Ledger, Read) {
    let (world, ledger, mut read) = (World::new(), Ledger::default(), Read::new());
    // A collection overwrites versions by stubs, and holders of pins end them.
    world.allow_rewrite(|key| key.contains("/manifest/") || key.contains("/pins/"));
    let maker = Process::new(&world, Plan::none(), 1);
    for step in &scenario.before {
        step.perform(&maker, &ledger, false).await.unwrap();
    }
    check(&world, &id(), &ledger, &mut read);
    (world, ledger, read)
}

/// Runs every case of a scenario.
pub async fn enumerate(scenario: &Scenario) -> Count {
    let (world, ledger, read) = prepare(scenario).await;
    let calls = record(scenario, &world, &ledger).await;
    let mut count = Count { calls: calls.len() as u64, cases: 0 };
    for call in &calls {
        for (mode, life, drain) in ways(call) {
            let case = Case { scenario, call, mode, life, drain };
            if only().is_none_or(|only| only == case.to_string()) {
                let what = format!("{:?} of {} {}", call.kind, call.key, call.options);
                let _blame = Blame::new(&case, what);
                let judge = Judge::new(&world, &ledger, &read);
                run(&case, &calls, judge).await;
                count.cases += 1;
            }
        }
    }
    count
}

/// The calls when all goes well.
async fn record(scenario: &Scenario, world: &World, ledger: &Ledger) -> Vec<Call> {
    let mut judge = Judge::new(world, ledger, &Read::new());
    let observer = observe(&judge.world).await;
    let process = Process::new(&judge.world, Plan::none(), PROCESS);
    scenario.run(&process, &judge.ledger, false).await.unwrap();
    let calls = process.faults.calls();
    judge.all(&[&observer, &process], None).await;
    calls
}

/// Every way in which a call goes wrong, and what follows.
fn ways(call: &Call) -> Vec<(Mode, Life, Drain)> {
    let mut ways = Vec::new();
    for life in [Life::GoesOn, Life::CutOff, Life::Dropped] {
        for mode in Mode::CRASHES {
            ways.push((mode, life, Drain::Before));
        }
        if call.kind.is_write() {
            ways.push((Mode::ApplyLater, life, Drain::After));
        }
        if call.kind.is_write() && life == Life::GoesOn {
            ways.push((Mode::ApplyLater, life, Drain::During));
        }
        if call.kind == CallKind::Create {
            ways.push((Mode::Empty409, life, Drain::Before));
        }
        // The last call of a process may also have gone well.
        if life != Life::GoesOn {
            ways.push((Mode::Ok, life, Drain::Before));
        }
    }
    ways
}

/// Seeds of the processes of a case: who looks afterwards counts on from the last.
const OBSERVER: u64 = 2;
const PROCESS: u64 = 3;
const NEXT: u64 = 4;
const FRESH: u64 = 5;

/// A process that knows the collection, if there is one, as it was before the scenario.
pub async fn observe(world: &World) -> Process {
    let observer = Process::new(world, Plan::none(), OBSERVER);
    if world.keys("").len() > 1 {
        match observer.read(&[]).await {
            Err(e) if e.kind() == Kind::NotFound => {}
            view => drop(view.unwrap()),
        }
    }
    observer
}

async fn run(case: &Case<'_>, calls: &[Call], mut judge: Judge) {
    let (world, ledger) = (judge.world.clone(), judge.ledger.clone());
    let observer = observe(&world).await;
    let number = case.call.number;
    let plan = match case.life {
        Life::GoesOn => Plan::none().at(number, case.mode),
        Life::CutOff | Life::Dropped => Plan::crash(number, case.mode),
    };
    let process = Process::new(&world, plan, PROCESS);
    let first = case.scenario.run(&process, &ledger, false);
    let done = match case {
        Case { life: Life::Dropped, .. } => until(sent(&process, number + 1), first).await,
        Case { drain: Drain::During, .. } => {
            let land = async {
                sent(&process, number).await;
                world.land_late()
            };
            Some(futures::join!(first, land).0)
        }
        _ => Some(first.await),
    };
    if case.life == Life::GoesOn {
        done.transpose().unwrap_or_else(|e| panic!("one fault was noticed: {e}"));
    }
    same_calls(&process.faults.calls(), &calls[..number as usize]);

    if case.drain == Drain::Before {
        world.land_late();
    }
    let before = judge.all(&[&observer], None).await;
    if case.scenario.drops() {
        judge.write_to_a_half_dropped(&observer).await;
    }

    // Done again, with the same tokens.
    let next = match case.life {
        Life::GoesOn => process,
        Life::CutOff | Life::Dropped => Process::new(&world, Plan::none(), NEXT),
    };
    let again = case.scenario.run(&next, &ledger, true).await;
    again.unwrap_or_else(|e| panic!("it cannot be done again: {e}"));
    let after = judge.all(&[&observer, &next], before.as_ref()).await;
    judge.check_done(case.scenario, after.as_ref());

    // What lands now is too late for anything but to be wrong. A writer that knows nothing of all this goes on.
    world.land_late();
    if case.scenario.drops() {
        if case.scenario.collects() {
            judge.collect_all(after.as_ref()).await;
        }
        return judge.create_once_more().await;
    }
    let late = Step::Append(vec![(Batch::upsert(900, &["late"]), true)]);
    late.perform(&observer, &ledger, false).await.unwrap();
    let last = judge.all(&[&observer, &next], after.as_ref()).await;
    if case.scenario.collects() {
        judge.collect_all(last.as_ref()).await;
        judge.all(&[&observer, &next], last.as_ref()).await;
    }
}

/// Waits until the process has sent its call `number` and waits itself.
async fn sent(process: &Process, number: u64) {
    while process.faults.call_count() < number {
        process.store.client().seams().clock.sleep(Duration::from_millis(1)).await;
    }
}

/// What comes of some work, unless it is stopped before.
async fn until<T>(stop: impl Future, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        _ = stop => None,
    }
}

/// Up to the fault the run must be the recorded one, or the enumeration means nothing.
fn same_calls(calls: &[Call], recorded: &[Call]) {
    let name = |call: &Call| (call.kind, call.key.clone());
    assert!(calls.len() >= recorded.len(), "the run has fewer calls than the recorded one");
    for (call, recorded) in calls.iter().zip(recorded) {
        assert_eq!(name(call), name(recorded), "call {} is another than recorded", recorded.number);
    }
}

/// Looks at a world: what is stored, what was promised.
pub struct Judge {
    pub world: World,
    pub ledger: Ledger,
    read: Read,
    fresh: u64,
}

impl Judge {
    pub fn new(world: &World, ledger: &Ledger, read: &Read) -> Self {
        Judge { world: world.fork(), ledger: ledger.fork(), read: read.clone(), fresh: FRESH }
    }

    /// A process with nothing in memory and no faults.
    pub fn process(&mut self) -> Process {
        self.fresh += 1;
        Process::new(&self.world, Plan::none(), self.fresh)
    }

    /// Reads by processes of every age, and then all the stored bytes.
    pub async fn all(&mut self, readers: &[&Process], earlier: Option<&Truth>) -> Option<Truth> {
        let ledger = self.ledger.clone();
        let fresh = self.process();
        let ids: BTreeSet<String> = {
            let book = ledger.book();
            book.batches.values().flat_map(|(b, _)| b.rows.iter().map(|r| r.id.clone())).collect()
        };
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut views = Vec::new();
        for reader in readers.iter().copied().chain([&fresh]) {
            views.push(reader.read(&ids).await);
        }
        let truth = check(&self.world, &id(), &ledger, &mut self.read);
        let dropped = ledger.book().dropped.fate();
        for view in views {
            match (view, &truth) {
                (Ok(view), Some(truth)) => {
                    assert!(!matches!(dropped, Fate::Acknowledged(_)), "a dropped collection was read");
                    assert_eq!(view.rows, truth.rows, "INV-1: a read at {} sees other rows", view.position);
                    assert_eq!(view.position, truth.last());
                    assert!(view.version <= truth.newest().version);
                }
                (Err(e), truth) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => {
                    let may_be_dropped = matches!(dropped, Fate::Acknowledged(_) | Fate::Unknown);
                    assert!(truth.is_none() || may_be_dropped, "INV-1: a reader finds no collection: {e}");
                }
                (view, _) => panic!("a read without faults: {view:?}"),
            }
        }
        let created = ledger.book().created.fate();
        assert!(
            truth.is_some() || !matches!(created, Fate::Acknowledged(_)),
            "INV-1: the collection is not there"
        );
        if let (Some(truth), Some(earlier)) = (&truth, earlier) {
            truth.check_follows(earlier);
        }
        truth
    }

    /// A drop may be half done now. If a reader finds the collection gone, no writer may be told that it wrote to it.
    async fn write_to_a_half_dropped(&mut self, writer: &Process) {
        let gone = self.process().read(&[]).await.is_err();
        let step = Step::Append(vec![(Batch::upsert(901, &["between"]), true)]);
        let written = step.perform(writer, &self.ledger, false).await;
        assert!(!gone || written.is_err(), "INV-1: a write to a collection that is gone was acknowledged");
        self.all(&[writer], None).await;
    }

    /// The name is free again, and what it means then is another collection.
    async fn create_once_more(&mut self) {
        let book = Ledger::default();
        let process = self.process();
        (Step::Create { text: true }).perform(&process, &book, false).await.unwrap();
        let write = Step::Append(vec![(Batch::upsert(902, &["anew"]), true)]);
        write.perform(&process, &book, false).await.unwrap();
        let view = process.read(&["anew", "a0"]).await.unwrap();
        let truth = check(&self.world, &CollectionId::new(name(), 2), &book, &mut self.read).unwrap();
        assert_eq!((view.position, view.rows), (1, truth.rows));
        let old = check(&self.world, &id(), &self.ledger, &mut self.read).unwrap();
        assert!(old.newest().dropped);
    }

    /// One more collection, and what all the crashed ones left is gone.
    async fn collect_all(&mut self, earlier: Option<&Truth>) {
        let process = self.process();
        Step::Collect.perform(&process, &self.ledger, false).await.unwrap();
        let truth = check(&self.world, &id(), &self.ledger, &mut self.read).unwrap();
        truth.check_clean(&self.world, &id());
        if let Some(earlier) = earlier {
            truth.check_follows(earlier);
        }
    }

    /// Once everything was done again without faults nothing is open, and nothing is left to do.
    pub fn check_done(&self, scenario: &Scenario, truth: Option<&Truth>) {
        let truth = truth.expect("the collection was created");
        let book = self.ledger.book();
        for (token, (_, asked)) in &book.batches {
            let fate = asked.fate();
            let stray = scenario.drops() && matches!(fate, Fate::Failed);
            assert!(matches!(fate, Fate::Acknowledged(_)) || stray, "batch {token} is {fate:?}");
        }
        if matches!(scenario.steps.last(), Some(Step::Compact)) {
            assert_eq!(truth.newest().watermark, truth.last(), "INV-5: a compaction left some of the tail");
        }
        if scenario.drops() {
            assert!(truth.newest().dropped, "the register of a dropped collection has no end");
        }
    }
}
