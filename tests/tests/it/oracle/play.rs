//! One history: what is done to a collection, and when readers look.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use esker_compactor::{Compactor, Options as Compaction};
use esker_format::record::Record;
use esker_format::schema::{Schema, Settings};
use esker_format::{Name, Seq, Token, Version};
use esker_ingest::Ingest;
use esker_query::{Engine, Options};
use esker_store::seams::{SeededRandom, SimulatedClock};
use esker_store::{Backend, Client, Meter, MokaCache, Seams, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, record};

/// What is done, and the seed of its details.
#[derive(Debug, Clone)]
pub struct Step {
    pub op: Op,
    pub seed: u64,
}

#[derive(Debug, Clone)]
pub enum Op {
    /// Writes records, some ids twice.
    Upsert {
        rows: usize,
    },
    /// Deletes ids, some of which are not there.
    Delete {
        ids: usize,
    },
    /// Sends an earlier batch again under its token: nothing may change.
    Again {
        which: usize,
    },
    Compact,
    /// Time passes; rows expire.
    Wait {
        minutes: i64,
    },
    /// The old reader takes the newest state into memory.
    Warm,
}

/// What was compared.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub histories: u64,
    pub searches: u64,
    /// Searches that had to be exact.
    pub exact: u64,
    /// Over the others: hits that are among the true nearest, and how many there are.
    pub found: u64,
    pub expected: u64,
    pub rows: u64,
    pub reads: u64,
    pub compactions: u64,
    pub segments: usize,
}

impl Tally {
    pub fn add(&mut self, o: &Tally) {
        self.histories += o.histories;
        self.searches += o.searches;
        self.exact += o.exact;
        self.found += o.found;
        self.expected += o.expected;
        self.rows += o.rows;
        self.reads += o.reads;
        self.compactions += o.compactions;
        self.segments = self.segments.max(o.segments);
    }

    pub fn recall(&self) -> f64 {
        if self.expected == 0 { 1.0 } else { self.found as f64 / self.expected as f64 }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} histories, {} rows written, {} compactions, up to {} segments, {} searches ({} exact, recall of the others {:.4}), {} other reads",
            self.histories,
            self.rows,
            self.compactions,
            self.segments,
            self.searches,
            self.exact,
            self.recall(),
            self.reads
        )
    }
}

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Has been there from the start; holds segments in memory once it was warmed.
    Old,
    /// Knows nothing, and reads all codes of a segment.
    Fresh,
    /// Knows nothing, and probes: every segment is too large for it to be read whole.
    Probing,
}

pub struct Play {
    pub settings: Settings,
    pub name: Name,
    pub ids: usize,
    pub model: Model,
    /// The collection as of each version that a compaction made.
    pub versions: BTreeMap<Version, Model>,
    /// The last acknowledgement.
    pub position: Seq,
    pub tally: Tally,
    pub old: Engine,
    pub warmed: bool,
    backend: Backend,
    clock: Arc<SimulatedClock>,
    store: Arc<Store>,
    ingest: Ingest,
    sent: Vec<(Token, Batch)>,
    /// Records and deletes since the last compaction.
    in_tail: usize,
    minutes: i64,
    processes: u64,
    seed: u64,
}

#[derive(Clone)]
enum Batch {
    Upsert(Vec<Record>),
    Delete(Vec<String>),
}

impl Play {
    pub async fn new(backend: Backend, settings: Settings, ids: usize, seed: u64) -> Play {
        let clock = Arc::new(SimulatedClock::new(SimulatedClock::START_MS));
        let open = |n: u64| {
            let seams = Seams { clock: clock.clone(), random: Arc::new(SeededRandom::new(seed ^ n)) };
            Arc::new(Store::new(Client::new(backend.clone(), seams)))
        };
        let (store, name) = (open(1), Name::new("rows").unwrap());
        store.create(&Meter::new(), &name, settings.clone(), Schema::default()).await.unwrap();
        Play {
            ingest: Ingest::new(store.clone()),
            old: Engine::new(open(2), Options::default()),
            settings,
            name,
            ids: ids.max(1),
            model: Model::default(),
            versions: BTreeMap::new(),
            position: 0,
            tally: Tally::default(),
            warmed: false,
            store,
            sent: Vec::new(),
            in_tail: 0,
            minutes: 0,
            processes: 2,
            seed,
            clock,
            backend,
        }
    }

    /// The time that decides what has expired.
    pub fn now_ms(&self) -> i64 {
        SimulatedClock::START_MS + self.minutes * 60_000
    }

    /// At most so many ids of the segments are overwritten or deleted in the tail.
    pub fn touched(&self) -> usize {
        self.in_tail.min(self.ids + 2)
    }

    fn process(&mut self) -> Arc<Store> {
        self.processes += 1;
        let random = Arc::new(SeededRandom::new(self.seed ^ (self.processes << 32)));
        let seams = Seams { clock: self.clock.clone(), random };
        let client = Client::new(self.backend.clone(), seams).with_cache(Arc::new(MokaCache::new(64 << 20)));
        Arc::new(Store::new(client))
    }

    pub fn engine(&mut self, who: Who) -> Engine {
        let options = Options::default();
        match who {
            Who::Old => self.old.clone(),
            Who::Fresh => Engine::new(self.process(), options),
            Who::Probing => Engine::new(self.process(), Options { whole_codes: 0, ..options }),
        }
    }

    pub async fn step(&mut self, step: &Step) {
        let mut rng = StdRng::seed_from_u64(step.seed);
        match step.op {
            Op::Upsert { rows } => {
                let now = self.now_ms();
                let records = (0..rows).map(|_| record(&mut rng, &self.settings, self.ids, now)).collect();
                self.write(Batch::Upsert(records), &mut rng).await;
            }
            Op::Delete { ids } => {
                let ids = (0..ids).map(|_| format!("r{}", rng.random_range(0..self.ids + 2))).collect();
                self.write(Batch::Delete(ids), &mut rng).await;
            }
            Op::Again { which } => self.again(which).await,
            Op::Compact => self.compact(&mut rng).await,
            Op::Wait { minutes } => {
                self.minutes += minutes;
                self.clock.skew(minutes * 60_000);
            }
            Op::Warm => {
                let warm = self.old.collection(&self.name).warm(&Meter::new()).await.unwrap();
                assert_eq!(warm.rows(), self.model.live(self.now_ms()).count() as u64);
                self.warmed = true;
            }
        }
        let fresh = if rng.random() { Who::Fresh } else { Who::Probing };
        let look = rng.random();
        for who in [Who::Old, fresh] {
            self.look(who, &mut StdRng::seed_from_u64(look)).await;
        }
    }

    async fn write(&mut self, batch: Batch, rng: &mut StdRng) {
        let token = rng.random_bool(0.4).then(|| Token(rng.random()));
        let ack = self.send(&batch, token).await;
        assert!(!ack.duplicate && ack.position > self.position, "{ack:?}");
        self.position = ack.position;
        match &batch {
            Batch::Upsert(records) => {
                self.in_tail += records.len();
                self.tally.rows += records.len() as u64;
                self.model.upsert(records, &self.settings);
            }
            Batch::Delete(ids) => {
                self.in_tail += ids.len();
                self.model.delete(ids);
            }
        }
        if let Some(token) = token {
            self.sent.push((token, batch));
        }
    }

    async fn send(&self, batch: &Batch, token: Option<Token>) -> esker_ingest::Ack {
        let meter = Meter::new();
        match batch {
            Batch::Upsert(records) => self.ingest.upsert(&meter, &self.name, records, token).await.unwrap(),
            Batch::Delete(ids) => self.ingest.delete(&meter, &self.name, ids, &token.into()).await.unwrap(),
        }
    }

    async fn again(&mut self, which: usize) {
        if self.sent.is_empty() {
            return;
        }
        let (token, batch) = self.sent[which % self.sent.len()].clone();
        let ack = self.send(&batch, Some(token)).await;
        assert!(ack.duplicate && ack.position <= self.position, "{ack:?}");
    }

    /// By the process that writes, or by one that starts for it.
    async fn compact(&mut self, rng: &mut StdRng) {
        let store = if rng.random() { self.store.clone() } else { self.process() };
        let meter = Meter::new();
        let collection = store.collection(&meter, &self.name).await.unwrap();
        let compactor =
            Compactor::new(Compaction { threads: 1, seed: rng.random(), ..Compaction::default() });
        let report = compactor.compact(&meter, &collection, &|_| {}).await.unwrap();
        if report.committed {
            self.in_tail = 0;
            self.tally.compactions += 1;
            self.tally.segments = self.tally.segments.max(report.segments_out);
            self.versions.insert(report.version, self.model.clone());
        }
    }

    /// Whether every row that counts is measured exactly, so that nothing may be missed: few rows pass, or all of them
    /// are among the candidates (INDEX §3), or as many are wanted as there are. A reader in memory and one that
    /// probes stop early; what they leave out is a question of recall.
    pub fn measures_all(&self, who: Who, k: usize, matches: usize, touched: usize, filtered: bool) -> bool {
        const FEW: usize = 32;
        if matches <= k || matches + touched <= FEW {
            return true;
        }
        let looks_at_all = who == Who::Fresh || who == Who::Old && !self.warmed;
        let candidates = if filtered { (2 * k).max(100) } else { 2 * k };
        looks_at_all && matches <= candidates
    }
}
