//! The simulator: writers, readers, compactors, collectors and whoever drops the collection, on one thread, in simulated
//! time, over a store that fails. Everything random comes from one seed, so a seed is a history, byte for byte.
//!
//! [`run`] plays a seed and checks it: every invariant of STYLE §4 over the stored bytes ([`crate::truth`]) while it goes on
//! and at its end, every read against the state of the log at the position that it names, and what clients saw of each id
//! against a register ([`linear`]), which knows nothing of logs and positions.

mod chaos;
mod clients;
mod env;
pub mod history;
mod judge;
mod keepers;
pub mod linear;
mod process;
mod readers;
mod store;

use futures::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use env::Env;
use process::{Role, Seat};
pub use store::Weakening;

/// What is asked of a run beside its seed.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Breaks the storage or an actor on purpose.
    pub weakening: Option<Weakening>,
    /// Only what clients were told is looked at, and none of the bytes that are stored.
    pub clients_only: bool,
    /// The clocks of writers are as wrong as those of others.
    pub wild_clocks: bool,
    /// Keeps the lines of the log.
    pub verbose: bool,
}

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of every line of the log.
    pub hash: u64,
    /// The log, if it was asked for.
    pub lines: Vec<String>,
    /// Requests to the store.
    pub calls: u64,
    /// Client operations.
    pub operations: u64,
    /// Of these, writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome their client never learnt.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Compactions that committed.
    pub folds: u64,
    /// Objects that collections removed.
    pub collected: u64,
    /// Times a process was frozen.
    pub frozen: u64,
    /// Times one was frozen or killed at a commit.
    pub trapped: u64,
    /// Times a process was killed.
    pub crashed: u64,
    /// Simulated seconds.
    pub seconds: u64,
}

impl Report {
    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Report) {
        self.calls += other.calls;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.folds += other.folds;
        self.collected += other.collected;
        self.frozen += other.frozen;
        self.trapped += other.trapped;
        self.crashed += other.crashed;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { calls, operations, acknowledged, unknown, reads, .. } = self;
        let Report { folds, collected, frozen, trapped, crashed, .. } = self;
        write!(
            f,
            "{calls} requests, {operations} operations ({acknowledged} writes acknowledged, {unknown} unknown, "
        )?;
        write!(f, "{reads} reads), {folds} compactions, {collected} objects collected, ")?;
        write!(f, "{frozen} freezes, {crashed} crashes, {trapped} of either at a commit")
    }
}

/// A run that broke something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was broken.
    pub what: String,
    /// The log, if it was asked for.
    pub lines: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, what, .. } = self;
        writeln!(f, "seed {seed}: {what}")?;
        write!(f, "replay it: cargo run -p esker-tests --bin sim -- --seed {seed} --verbose")
    }
}

/// Seeds that found something once, each with a line that says what.
pub fn regression_seeds() -> Vec<u64> {
    let lines = include_str!("sim/seeds.txt").lines();
    let first = lines.filter_map(|line| line.split_whitespace().next()).filter(|word| !word.starts_with('#'));
    first.map(|word| word.parse().unwrap_or_else(|e| panic!("seeds.txt: {word}: {e}"))).collect()
}

/// Plays a seed.
///
/// # Errors
/// What was broken first.
///
/// # Panics
/// If the machine has no timer for a runtime.
pub fn run(seed: u64, settings: &Settings) -> Result<Report, Box<Failure>> {
    let env = Env::new(seed, settings.clone());
    let played = catch_unwind(AssertUnwindSafe(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime of one thread");
        runtime.block_on(play(&env));
    }));
    match played {
        Ok(()) => Ok(env.report()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let what = text.unwrap_or_else(|| "a panic without words".to_owned());
            Err(Box::new(Failure { seed, what, lines: env.report().lines }))
        }
    }
}

/// From the first request to the last check.
async fn play(env: &Arc<Env>) {
    env.start();
    keepers::create(env).await;
    let mut rng = StdRng::seed_from_u64(env.seed ^ 0x5eed);
    let plan = &env.knobs;
    let mut seats = Vec::new();
    let mut seat = |role: Role, count: u32, steps: u32| {
        for _ in 0..count {
            let number = seats.len() as u64;
            seats.push(Seat::new(number, role, steps, rng.random()));
        }
    };
    seat(Role::Writer, plan.writers, plan.writes);
    seat(Role::Reader, 3, plan.reads);
    seat(Role::Compactor, 2, plan.folds);
    seat(Role::Collector, plan.collectors, plan.collections);
    seat(Role::Owner, u32::from(plan.drops > 0), plan.drops);
    let mut lives: FuturesUnordered<_> = seats.iter().map(|seat| process::live(env, seat)).collect();
    let chaos = chaos::go_on(env, &seats);
    futures::pin_mut!(chaos);
    let all = async { while lives.next().await.is_some() {} };
    futures::pin_mut!(all);
    futures::future::select(all, chaos).await;
    judge::end(env).await;
}
