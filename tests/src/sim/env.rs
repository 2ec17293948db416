//! What all actors of a run share: the storage, the time, the log and the notes of clients.

use super::history::{History, Op, Outcome};
use super::{Report, Settings};
use crate::world::World;
use esker_format::{CollectionId, Name};
use esker_store::Clock;
use esker_store::seams::SimulatedClock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::fault::Mode;

/// The most that a reader's, a compactor's or a collector's clock is wrong.
pub const SKEW_MS: i64 = 24 * 60 * 60 * 1000;
/// The most that a writer's clock is wrong: a token is remembered for 24 hours by the clocks of writers.
pub const WRITER_SKEW_MS: i64 = 4 * 60 * 60 * 1000;

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub writers: u32,
    pub writes: u32,
    /// Writers hardly rest, so that they combine what they write.
    pub rush: bool,
    pub reads: u32,
    pub folds: u32,
    pub collectors: u32,
    pub collections: u32,
    pub drops: u32,
    /// Faulty calls of a thousand, and of which kinds.
    pub faults: u32,
    pub modes: Vec<Mode>,
    /// Disturbances by the chaos actor.
    pub disturbances: u32,
    /// Writes with a body of their own.
    pub bodies: bool,
    /// Records that expire.
    pub expiry: bool,
    /// Whether the metadata column is there from the beginning.
    pub column: bool,
    pub retain: Duration,
    /// Ids that clients use.
    pub ids: u32,
}

impl Knobs {
    fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6b6e_6f62);
        let every = [
            Mode::FailBefore,
            Mode::ApplyThenFail,
            Mode::ApplyLater,
            Mode::ApplyLater,
            Mode::Empty409,
            Mode::Stall,
            Mode::Throttle,
            Mode::CorruptRead,
        ];
        // Drawn apart, so that other seeds stay what they were.
        let rush = StdRng::seed_from_u64(seed ^ 0x7275_7368).random_ratio(1, 4);
        let kinds = rng.random_range(1..=every.len());
        let first = rng.random_range(0..every.len());
        Knobs {
            writers: if rush { 6 } else { 2 },
            writes: rng.random_range(12..40),
            rush,
            reads: rng.random_range(10..28),
            folds: rng.random_range(4..12),
            collectors: rng.random_range(1..=2),
            collections: rng.random_range(3..8),
            drops: if rng.random_ratio(1, 5) { rng.random_range(1..=2) } else { 0 },
            faults: [0, 5, 20, 60, 200][rng.random_range(0..5)],
            modes: (0..kinds).map(|i| every[(first + i) % every.len()]).collect(),
            disturbances: rng.random_range(0..32),
            bodies: rng.random_ratio(1, 8),
            expiry: rng.random_ratio(1, 2),
            column: rng.random(),
            retain: Duration::from_secs(rng.random_range(0..120)),
            ids: rng.random_range(3..14) + if rush { 12 } else { 0 },
        }
    }
}

pub struct Env {
    pub seed: u64,
    pub settings: Settings,
    pub knobs: Knobs,
    pub world: World,
    clock: OnceLock<Arc<SimulatedClock>>,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    events: u64,
    hash: DefaultHasher,
    lines: Vec<String>,
    /// How far the storage's own clock has come.
    synced: Duration,
    history: History,
    /// The version that someone saw last, by id.
    versions: BTreeMap<String, i64>,
    numbers: u32,
    bodies: u32,
    tally: Report,
}

impl Env {
    pub fn new(seed: u64, settings: Settings) -> Arc<Self> {
        let world = World::new();
        // A collection overwrites versions by stubs, and holders of pins end them.
        world.allow_rewrite(|key| key.contains("/manifest/") || key.contains("/pins/"));
        Arc::new(Env {
            seed,
            settings,
            knobs: Knobs::draw(seed),
            world,
            clock: OnceLock::new(),
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                events: 0,
                hash: DefaultHasher::new(),
                lines: Vec::new(),
                synced: Duration::ZERO,
                history: History::default(),
                versions: BTreeMap::new(),
                numbers: 0,
                bodies: 0,
                tally: Report::default(),
            }),
        })
    }

    /// Call inside the runtime: time starts.
    pub fn start(&self) {
        self.clock.get_or_init(|| Arc::new(SimulatedClock::new(SimulatedClock::START_MS)));
        self.log("sim", || format!("{:?}", self.knobs));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as it is.
    pub fn clock(&self) -> &Arc<SimulatedClock> {
        self.clock.get().expect("the run has started")
    }

    /// Whether a read may bring other bytes than were written.
    pub fn may_be_corrupt(&self) -> bool {
        self.knobs.faults > 0 && self.knobs.modes.contains(&Mode::CorruptRead)
    }

    pub fn name(&self) -> Name {
        Name::new("notes").expect("a name")
    }

    pub fn life(&self, life: u64) -> CollectionId {
        CollectionId::new(self.name(), life)
    }

    /// A line of the log.
    pub fn log(&self, who: &str, what: impl FnOnce() -> String) {
        let at = self.clock().elapsed();
        let line = format!("{:>10}.{:03} {who:<4} {}", at.as_secs(), at.subsec_millis(), what());
        let mut state = self.state();
        state.hash.write(line.as_bytes());
        if self.settings.verbose {
            state.lines.push(line);
        }
    }

    /// Lets the storage's clock follow.
    pub fn sync(&self) {
        let now = self.clock().elapsed();
        let mut state = self.state();
        self.world.advance(now.saturating_sub(state.synced));
        state.synced = state.synced.max(now);
    }

    /// A draw by the storage or by chance, in the order in which things happen.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// An instant between all others.
    fn event(state: &mut State) -> u64 {
        state.events += 1;
        state.events
    }

    /// A number that no other write has.
    pub fn number(&self) -> u32 {
        let mut state = self.state();
        state.numbers += 1;
        state.numbers
    }

    /// Whether one more body fits the time that a run may take.
    pub fn take_body(&self) -> bool {
        let mut state = self.state();
        state.bodies += 1;
        self.knobs.bodies && state.bodies <= 2
    }

    pub fn invoke(&self, who: &str, op: impl FnOnce(u64) -> Op) -> usize {
        let mut state = self.state();
        let at = Self::event(&mut state);
        let op = op(at);
        state.tally.operations += 1;
        state.history.ops.push(op);
        let number = state.history.ops.len() - 1;
        let line = state.history.ops[number].to_string();
        drop(state);
        self.log(who, || format!("#{number} {line}"));
        number
    }

    pub fn respond(&self, who: &str, number: usize, outcome: Outcome) {
        let now = self.clock().now_ms();
        self.log(who, || format!("#{number} -> {outcome}"));
        let mut state = self.state();
        let at = Self::event(&mut state);
        state.tally.acknowledged += u64::from(matches!(outcome, Outcome::Acknowledged { .. }));
        state.tally.reads += u64::from(matches!(outcome, Outcome::Seen(_)));
        state.tally.unknown += u64::from(matches!(outcome, Outcome::Unknown));
        let op = &mut state.history.ops[number];
        (op.responded, op.responded_ms, op.outcome) = (Some(at), now, outcome);
    }

    /// Notes the token that a call drew for itself.
    pub fn named(&self, number: usize, token: esker_format::Token) {
        self.state().history.ops[number].token = Some(token);
    }

    pub fn history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.state().history)
    }

    pub fn saw_version(&self, id: &str, version: Option<i64>) {
        let mut state = self.state();
        match version {
            Some(version) => drop(state.versions.insert(id.to_owned(), version)),
            None => drop(state.versions.remove(id)),
        }
    }

    pub fn version_of(&self, id: &str) -> Option<i64> {
        self.state().versions.get(id).copied()
    }

    pub fn count(&self, add: impl FnOnce(&mut Report)) {
        add(&mut self.state().tally);
    }

    pub fn report(&self) -> Report {
        let state = self.state();
        Report { hash: state.hash.finish(), lines: state.lines.clone(), ..state.tally.clone() }
    }
}
