//! Clients that read: with warm caches and cold ones, the newest state, one that may be old, one that a version had.

use super::clients::{begin, ids};
use super::history::{Ask, Cell, How, Outcome, View};
use super::process::Process;
use crate::truth::ledger::TEXT;
use esker_format::record::{Record, Value};
use esker_format::{Error, Kind, Result, Seq, Version};

use esker_query::{Access, Consistency, Engine, Options, Search};
use esker_store::{Clock, Meter, Pin};
use rand::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long pins last.
const LEASE: Duration = Duration::from_secs(20 * 60);

/// What a reader has of earlier reads.
struct Reader<'a> {
    process: &'a Process,
    engine: Engine,
    /// Versions that were seen.
    versions: Vec<Version>,
    /// A pin and when it was asked for.
    pin: Option<(Pin, i64)>,
    position: Seq,
}

/// The query function of one process, for the steps that its seat has left.
pub async fn read(process: &Process) {
    let engine = || Engine::new(process.store(), Options::default());
    let mut reader = Reader { process, engine: engine(), versions: Vec::new(), pin: None, position: 0 };
    // One keeps what it has learnt, one often starts with nothing, one looks back.
    let forgetful = process.seat.number.is_multiple_of(3);
    while process.seat.step() {
        process.think().await;
        if forgetful && process.draw(|rng| rng.random()) {
            reader.engine = engine();
            reader.position = 0;
        }
        let kind = process.draw(|rng| rng.random_range(0..100));
        let min = reader.newest_told();
        match kind {
            0..50 => reader.ask(How::Strong { min: 0 }).await,
            50..62 => reader.ask(How::Strong { min }).await,
            62..76 => reader.ask(How::Eventual { min: 0 }).await,
            76..82 => reader.ask(How::Eventual { min }).await,
            82..90 => reader.look_back().await,
            _ => reader.pin().await,
        }
    }
}

impl Reader<'_> {
    /// The position of the last write that anyone was told of.
    fn newest_told(&self) -> Seq {
        // Of which life of the collection a position is, nobody can tell.
        if self.process.env.knobs.drops > 0 {
            return 0;
        }
        self.process.env.history(|h| {
            let told = h.ops.iter().filter_map(|op| match op.outcome {
                Outcome::Acknowledged { position } => Some(position),
                _ => None,
            });
            told.max().unwrap_or(0)
        })
    }

    async fn look_back(&mut self) {
        if self.versions.is_empty() {
            return;
        }
        let nth = self.process.draw(|rng| rng.random_range(0..self.versions.len()));
        self.ask(How::AsOf { version: self.versions[nth], pinned: false }).await;
    }

    /// Pins a version, reads it while it is pinned, or lets it go.
    async fn pin(&mut self) {
        let (env, meter) = (&self.process.env, Meter::new());
        let asked_ms = env.clock().now_ms();
        let opened = self.engine.store().collection(&meter, &env.name()).await;
        let collection = match opened {
            Ok(collection) => collection,
            Err(e) => return self.fine(&e),
        };
        match self.pin.take() {
            Some((pin, at)) if self.process.draw(|rng| rng.random_ratio(3, 4)) => {
                let pinned = asked_ms < at + LEASE.as_millis() as i64;
                let version = pin.version;
                self.pin = Some((pin, at));
                self.ask(How::AsOf { version, pinned }).await;
            }
            Some((pin, _)) => {
                env.log(&self.process.who, || format!("unpins {}", pin.version));
                if let Err(e) = collection.unpin(&meter, &pin).await {
                    self.fine(&e);
                }
            }
            None => {
                let Some(seen) = collection.last_seen() else { return };
                match collection.pin(&meter, seen.version, LEASE, "a reader").await {
                    Ok(pin) => {
                        env.log(&self.process.who, || format!("pinned {}", pin.version));
                        self.pin = Some((pin, asked_ms));
                    }
                    Err(e) if e.kind() == Kind::Gone => {}
                    Err(e) => self.fine(&e),
                }
            }
        }
    }

    /// An error that a reader may get of a store that fails.
    fn fine(&self, e: &Error) {
        let env = &self.process.env;
        env.log(&self.process.who, || format!("{}: {e}", e.kind()));
        let dropped = env.knobs.drops > 0 && matches!(e.kind(), Kind::Gone | Kind::NotFound);
        let usual = e.kind() == Kind::Unavailable || env.may_be_corrupt() && e.kind() == Kind::Corrupt;
        assert!(dropped || usual, "a read was answered {}: {e}", e.kind());
    }

    async fn ask(&mut self, how: How) {
        let (env, process) = (&self.process.env, self.process);
        let number = begin(process, Ask::Read(how), None);
        let view = match process.draw(|rng| rng.random_ratio(1, 3)) {
            true => self.search(how).await,
            false => self.get(how).await,
        };
        match view {
            Ok(view) => {
                if !matches!(how, How::AsOf { .. }) {
                    self.versions.push(view.version);
                    assert!(
                        view.position >= self.position || env.knobs.drops > 0,
                        "INV-10: {} saw {} and then {}",
                        process.who,
                        self.position,
                        view.position
                    );
                    self.position = view.position;
                    for (id, cell) in &view.rows {
                        env.saw_version(id, cell.as_ref().map(|c| c.version));
                    }
                }
                env.respond(&process.who, number, Outcome::Seen(view));
            }
            Err(e) => {
                env.respond(&process.who, number, Outcome::Failed);
                match (how, e.kind()) {
                    // Not retained any more.
                    (How::AsOf { pinned: false, .. }, Kind::Gone | Kind::NotFound) => {}
                    _ => self.fine(&e),
                }
            }
        }
    }

    /// Some records by their ids.
    async fn get(&self, how: How) -> Result<View> {
        let mut wanted = ids(self.process);
        self.process.draw(|rng| wanted.retain(|_| rng.random_ratio(3, 4)));
        let reader = self.engine.collection(&self.process.env.name());
        let got = reader.get_in(&Meter::new(), &wanted, None, true, access(how)).await?;
        let cells = got.records.iter().map(|r| r.as_ref().map(Cell::of));
        let rows: BTreeMap<_, _> = wanted.into_iter().zip(cells).collect();
        let seen = got.seen;
        Ok(View { position: seen.position, version: seen.version, staleness_ms: seen.staleness_ms, rows })
    }

    /// Every record, as the nearest to somewhere.
    async fn search(&self, how: How) -> Result<View> {
        let Access { consistency, min_position, as_of } = access(how);
        let search = Search {
            consistency,
            min_position,
            as_of,
            include_vector: true,
            ..Search::new(vec![1.0, 1.0], 100)
        };
        let reader = self.engine.collection(&self.process.env.name());
        let mut reply = reader.search(&Meter::new(), &search).await?;
        let mut rows: BTreeMap<String, Option<Cell>> =
            ids(self.process).into_iter().map(|id| (id, None)).collect();
        for hit in reply.results.pop().unwrap_or_default() {
            let metadata: BTreeMap<String, Value> =
                hit.metadata.into_iter().filter(|(key, _)| key == TEXT).collect();
            let record = Record {
                vector: hit.vector.unwrap_or_default(),
                metadata,
                version: hit.version,
                expires_at: hit.expires_at,
                ..Record::default()
            };
            let twice = rows.insert(hit.id.clone(), Some(Cell::of(&record)));
            assert_eq!(twice, Some(None), "a search found {} twice, or nobody wrote it", hit.id);
        }
        let (position, version) = (reply.position, reply.version);
        Ok(View { position, version, staleness_ms: reply.staleness_ms, rows })
    }
}

fn access(how: How) -> Access {
    let min = |min: Seq| Some(min).filter(|m| *m > 0);
    match how {
        How::Strong { min: at } => Access { min_position: min(at), ..Access::default() },
        How::Eventual { min: at } => {
            Access { consistency: Consistency::Eventual, min_position: min(at), ..Access::default() }
        }
        How::AsOf { version, .. } => Access { as_of: Some(version), ..Access::default() },
    }
}
