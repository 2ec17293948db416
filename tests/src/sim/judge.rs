//! The checks of a run: what is stored, what was read, what clients saw.

use super::env::{Env, SKEW_MS};
use super::history::{Ask, Cell, Change, History, How, If, Op, Outcome, View};
use super::keepers::{GRACE, calm};
use super::linear::{self, Verdict};
use crate::truth::ledger::{Asked, Batch, Ledger, Row};
use crate::truth::{self, Read, Truth, versions};
use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_format::avro::Decoded;
use esker_format::record::Op as Kind;
use esker_format::wal::Entry;
use esker_format::{Seq, Token};
use esker_query::{Engine, Options as Reading};
use esker_store::{Clock, Collection, Meter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One life of the collection: its log as states, and what else is stored.
struct Past {
    life: u64,
    truth: Truth,
    /// Of each id every write, oldest first.
    writes: BTreeMap<String, Vec<(Seq, Option<Cell>)>>,
    /// Which operation each token of the log is of.
    tokens: BTreeMap<Token, (usize, Seq)>,
}

/// What a log says of each id.
type Writes = BTreeMap<String, Vec<(Seq, Option<Cell>)>>;

/// Checks everything that is stored now.
pub fn look(env: &Arc<Env>) {
    if env.settings.clients_only {
        return;
    }
    let lives = lives(env);
    env.log("look", || format!("{} lives", lives.len()));
}

/// Every request lands, everything is folded and collected once more, and all is checked.
pub async fn end(env: &Arc<Env>) {
    env.log("end", || format!("{} requests under way", env.world.late().len()));
    let seconds = env.clock().elapsed().as_secs();
    env.count(|tally| tally.seconds = seconds);
    env.world.land_late();
    look(env);
    if env.settings.clients_only {
        return check_clients(env, &|_| env.knobs.drops > 0);
    }
    env.clock().sleep(Duration::from_secs(1)).await;
    env.sync();
    let weak = env.settings.weakening.is_some();
    let store = calm(env, "last", env.seed ^ 0xe4d);
    let opened = store.collection(&Meter::new(), &env.name()).await;
    if let Ok(collection) = opened {
        last_read(env, Engine::new(store.clone(), Reading::default())).await;
        let compactor = Compactor::new(Options { threads: 1, seed: 1, ..Options::default() });
        compactor.compact(&Meter::new(), &collection, &|_| {}).await.expect("a last compaction");
        last_read(env, Engine::new(calm(env, "cold", env.seed ^ 0xc01d), Reading::default())).await;
    } else if let Err(e) = opened {
        assert!(env.knobs.drops > 0, "the collection cannot be opened: {e}");
    }
    let collector = Collector::new(CollectOptions { retain: Duration::ZERO, grace: GRACE });
    for past in lives(env) {
        let handle = Collection::new(store.client().clone(), env.life(past.life));
        collector.run(&Meter::new(), &handle, &|_| {}).await.expect("a last collection");
    }
    let lives = lives(env);
    for past in &lives {
        let pins = env.world.keys(&format!("c/{}/pins/", env.life(past.life)));
        if !weak && pins.is_empty() {
            past.truth.check_clean(&env.world, &env.life(past.life));
        }
    }
    env.history(|history| {
        check_writes(env, history, &lives);
        history.ops.iter().for_each(|op| check_read(env, op, history, &lives));
    });
    let ended: BTreeSet<usize> = lives
        .iter()
        .filter(|p| p.truth.newest().dropped)
        .flat_map(|p| p.tokens.values())
        .map(|t| t.0)
        .collect();
    check_clients(env, &|number| ended.contains(&number));
}

/// What clients saw of each id.
fn check_clients(env: &Arc<Env>, twice: &dyn Fn(usize) -> bool) {
    env.history(|history| {
        for (id, verdict) in linear::check(history, twice) {
            match verdict {
                Verdict::Linearisable => {}
                Verdict::Undecided => panic!("whether {id} is linearisable was not found out"),
                Verdict::Broken(how) => panic!("what clients saw of {id} fits no order: {how}"),
            }
        }
    });
}

/// A reader without faults sees what the log says.
async fn last_read(env: &Arc<Env>, engine: Engine) {
    let ids: Vec<String> = lives(env).iter().flat_map(|past| past.writes.keys().cloned()).collect();
    let ids: Vec<String> = ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let now = env.clock().now_ms();
    let got = engine.collection(&env.name()).get(&Meter::new(), &ids, true).await;
    let (records, position) = got.expect("a last read");
    let lives = lives(env);
    let past = lives.last().expect("it has been read");
    assert_eq!(position, past.truth.last(), "INV-1: the last read is of another position");
    for (id, record) in ids.iter().zip(records) {
        let cell = record.as_ref().map(Cell::of);
        assert!(
            fits(past.at(id, position), &cell, now, now + SKEW_MS),
            "INV-1: the last read of {id}: {cell:?}"
        );
    }
}

/// Every life of the collection, each checked by its bytes.
fn lives(env: &Arc<Env>) -> Vec<Past> {
    let mut found = Vec::new();
    for life in 1.. {
        let id = env.life(life);
        if env.world.history(&esker_format::keys::Keys::new(&id).manifest(1)).is_empty() {
            break;
        }
        let log = truth::log(&env.world, &id);
        env.history(|history| {
            let (writes, tokens, ledger) = replay(env, history, &log);
            let truth = truth::check(&env.world, &id, &ledger, &mut Read::new()).expect("it has a register");
            found.push(Past { life, truth, writes, tokens });
        });
    }
    found
}

/// Goes through a log and finds out whose each batch is, and what its rows had to be.
fn replay(
    env: &Env,
    history: &History,
    log: &[(Entry, Decoded)],
) -> (Writes, BTreeMap<Token, (usize, Seq)>, Ledger) {
    let by_token: BTreeMap<Token, usize> =
        history.ops.iter().enumerate().filter_map(|(n, op)| Some((op.token?, n))).collect();
    let by_version: BTreeMap<i64, usize> =
        history.ops.iter().enumerate().filter_map(|(n, op)| Some((version_of(op)?, n))).collect();
    let (mut writes, mut tokens, ledger) = (Writes::new(), BTreeMap::new(), Ledger::default());
    for (entry, decoded) in log {
        let mut rows: BTreeMap<u32, (String, Option<Cell>)> =
            versions(&decoded.rows).map(|v| (v.at.1, (v.row.id.clone(), Some(Cell::stored(&v))))).collect();
        rows.extend(decoded.tombstones.iter().map(|t| (t.row, (t.id.clone(), None))));
        let mut rows = rows.into_values();
        for batch in &entry.batches {
            let rows: Vec<_> = rows.by_ref().take(batch.rows as usize).collect();
            let drawn = || by_version.get(&rows.first()?.1.as_ref()?.version).copied();
            let Some(number) = by_token.get(&batch.token).copied().or_else(drawn) else {
                panic!("INV-2: nobody sent batch {}", batch.token)
            };
            let op = &history.ops[number];
            tokens.insert(batch.token, (number, entry.seq));
            let due = due_rows(env, op, &writes, entry.seq);
            let asked = asked(&op.outcome, entry.seq);
            ledger.book().batches.insert(batch.token, (as_batch(batch.token, batch.op, &due), asked));
            for (id, cell) in rows {
                writes.entry(id).or_default().push((entry.seq, cell));
            }
        }
    }
    for op in &history.ops {
        let Some(token) = op.token.filter(|t| !tokens.contains_key(t)) else { continue };
        // What was acknowledged in another life is checked there.
        if let (Ask::Write { .. }, Outcome::Failed | Outcome::Refused { .. }) = (&op.ask, &op.outcome) {
            let asked = Asked { times: 1, open: 0, done: None };
            ledger.book().batches.insert(token, (as_batch(token, Kind::Upsert, &[]), asked));
        }
    }
    (writes, tokens, ledger)
}

/// What a client knows of a batch that lies at `seq`.
fn asked(outcome: &Outcome, seq: Seq) -> Asked {
    match outcome {
        // A position in an earlier life: that one was dropped, and it was written again.
        Outcome::Acknowledged { position } => {
            Asked { times: 1, open: 0, done: Some(*position).filter(|p| *p == seq) }
        }
        Outcome::Failed | Outcome::Refused { .. } => Asked { times: 1, open: 0, done: None },
        _ => Asked { times: 1, open: 1, done: None },
    }
}

/// The number that every row of a write has as its version.
fn version_of(op: &Op) -> Option<i64> {
    let Ask::Write { rows, .. } = &op.ask else { return None };
    match &rows.first()?.1 {
        Change::Put(cell) => Some(cell.version),
        Change::Patch { version, .. } => Some(*version),
        Change::Remove => None,
    }
}

/// What a write had to write at `seq`, after what is there; its condition has to hold there.
fn due_rows(env: &Env, op: &Op, writes: &Writes, seq: Seq) -> Vec<(String, Option<Cell>)> {
    let Ask::Write { rows, condition } = &op.ask else { panic!("INV-2: {op} wrote at {seq}") };
    let due = |(id, change): &(String, Change)| {
        let before = writes.get(id).and_then(|all| all.last()).and_then(|(_, cell)| cell.as_ref());
        let gone = before.is_none_or(|c| c.expires.is_some_and(|at| at < env.clock().now_ms() + SKEW_MS));
        match condition {
            If::Always => {}
            If::Absent => assert!(gone, "{op} wrote at {seq} over {before:?}"),
            If::Version(version) => {
                assert_eq!(before.map(|c| c.version), Some(*version), "{op} wrote at {seq}");
            }
        }
        let after = change.apply(before);
        (id.clone(), after.unwrap_or_else(|| panic!("{op} wrote {id} at {seq}, which was not there")))
    };
    rows.iter().map(due).collect()
}

fn as_batch(token: Token, op: Kind, rows: &[(String, Option<Cell>)]) -> Batch {
    let row = |(id, cell): &(String, Option<Cell>)| Row {
        id: id.clone(),
        vector: cell.as_ref().map_or([0.0; 2], |c| c.vector.map(f32::from_bits)),
        text: cell.as_ref().and_then(|c| c.text.clone()),
    };
    Batch { token, op, rows: rows.iter().map(row).collect() }
}

impl Past {
    /// What an id held at a position.
    fn at(&self, id: &str, position: Seq) -> Option<&Cell> {
        let all = self.writes.get(id)?;
        all[..all.partition_point(|(seq, _)| *seq <= position)].last()?.1.as_ref()
    }

    /// Whether this life had that state.
    fn had(&self, view: &View, position: Seq, clocks: (i64, i64)) -> Result<(), String> {
        if position > self.truth.last() {
            return Err(format!("there is no position {position}"));
        }
        for (id, cell) in &view.rows {
            let due = self.at(id, position);
            if !fits(due, cell, clocks.0, clocks.1) {
                return Err(format!("{id} was {due:?} and is seen as {cell:?}"));
            }
        }
        Ok(())
    }
}

/// Whether what is seen is what is there, for a reader whose clock was at least `first`; nobody's was after `last`.
fn fits(there: Option<&Cell>, seen: &Option<Cell>, first: i64, last: i64) -> bool {
    let expires = there.and_then(|c| c.expires);
    match seen {
        None => there.is_none() || expires.is_some_and(|at| at < last),
        Some(_) => there == seen.as_ref() && expires.is_none_or(|at| at >= first),
    }
}

/// Acknowledged writes are where their clients were told, once.
fn check_writes(env: &Env, history: &History, lives: &[Past]) {
    for (number, op) in history.ops.iter().enumerate() {
        let (Ask::Write { .. }, Outcome::Acknowledged { position }) = (&op.ask, &op.outcome) else {
            continue;
        };
        let token = op.token.expect("an acknowledgement names it");
        let found: Vec<(u64, Seq)> =
            lives.iter().filter_map(|p| Some((p.life, p.tokens.get(&token)?.1))).collect();
        let there = found.iter().any(|(_, seq)| seq == position);
        assert!(there, "INV-1: #{number} {op} was acknowledged at {position} and is in {found:?}");
        assert!(found.len() == 1 || env.knobs.drops > 0, "INV-2: #{number} {op} is in {found:?}");
    }
}

/// A read shows the state of its position; a strong one, at least every write acknowledged before it.
fn check_read(env: &Env, op: &Op, history: &History, lives: &[Past]) {
    let (Ask::Read(how), Outcome::Seen(view)) = (&op.ask, &op.outcome) else { return };
    let clocks = (op.wall_ms, op.responded_ms + SKEW_MS);
    let had = |past: &Past| match how {
        How::AsOf { version, .. } => {
            let manifest = past.truth.manifests.get(*version as usize - 1);
            let watermark =
                manifest.map(|m| m.watermark).ok_or_else(|| format!("there is no version {version}"))?;
            if (view.version, view.position) != (*version, watermark) {
                return Err(format!("version {version} ends at {watermark}"));
            }
            past.had(view, watermark, clocks)
        }
        _ => past.had(view, view.position, clocks),
    };
    let answers: Vec<Result<(), String>> = lives.iter().map(had).collect();
    assert!(answers.iter().any(Result::is_ok), "INV-1: {op} -> {}: {answers:?}", op.outcome);
    let (min, lag) = match how {
        How::Strong { min } => (*min, 0),
        How::Eventual { min } => (*min, 5_000),
        How::AsOf { .. } => return,
    };
    assert!(view.position >= min, "{op} -> {}", op.outcome);
    assert!(view.staleness_ms <= lag, "{op} -> {}", op.outcome);
    if env.knobs.drops > 0 {
        return;
    }
    let told = history.ops.iter().filter_map(|w| match w.outcome {
        Outcome::Acknowledged { position } if matches!(w.ask, Ask::Write { .. }) => {
            let before = w.responded.is_some_and(|at| at < op.invoked);
            (before && w.responded_ms < op.invoked_ms - lag as i64 + i64::from(lag == 0)).then_some(position)
        }
        _ => None,
    });
    let told = told.max().unwrap_or(0);
    assert!(view.position >= told, "INV-1: {op} -> {}: {told} was acknowledged before", op.outcome);
}
