//! Those that keep the collection: compactors, collectors, and its owner, who drops it and creates it again.

use super::clients::begin;
use super::env::Env;
use super::history::{Ask, Outcome};
use super::process::{Process, Role, open};
use super::store::SimStore;
use crate::truth::ledger::TEXT;
use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{Error, Kind};
use esker_store::{Clock, Meter, Store};
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;

/// What the protocol counts on between a floor and the first delete.
pub const GRACE: Duration = Duration::from_secs(60);

fn shape(env: &Env) -> (Settings, Schema) {
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    let column = Column { name: TEXT.to_owned(), kind: ColumnType::String, wide: false };
    (settings, Schema { columns: env.knobs.column.then_some(column).into_iter().collect() })
}

/// A store that does not fail.
pub fn calm(env: &Arc<Env>, who: &str, seed: u64) -> Arc<Store> {
    open(&SimStore::new(env, who, Role::Owner, seed, None), env.clock().clone(), seed)
}

/// The first life of the collection.
pub async fn create(env: &Arc<Env>) {
    let (settings, schema) = shape(env);
    let made =
        calm(env, "made", env.seed ^ 0xc4ea7e).create(&Meter::new(), &env.name(), settings, schema).await;
    made.expect("a store without faults makes a collection");
}

/// What a keeper may be told by a store that fails, with rivals at work.
fn fine(process: &Process, e: &Error) {
    let env = &process.env;
    env.log(&process.who, || format!("{}: {e}", e.kind()));
    let usual = matches!(e.kind(), Kind::Unavailable | Kind::Conflict | Kind::Unknown)
        || env.may_be_corrupt() && e.kind() == Kind::Corrupt;
    let dropped = env.knobs.drops > 0 && matches!(e.kind(), Kind::Gone | Kind::NotFound);
    assert!(usual || dropped, "{} was answered {}: {e}", process.who, e.kind());
}

pub async fn compact(process: &Process) {
    let (env, store) = (&process.env, process.store());
    while process.seat.step() {
        process.think().await;
        let seed: u64 = process.draw(|rng| rng.random());
        // Every fourth has no memory: rows go through scratch files, and are sent from there.
        let memory = if seed.is_multiple_of(4) { 1 } else { Options::default().memory };
        let compactor = Compactor::new(Options { threads: 1, seed, memory, ..Options::default() });
        let done = async {
            let collection = store.collection(&Meter::new(), &env.name()).await?;
            compactor.compact(&Meter::new(), &collection, &|_| {}).await
        };
        match done.await {
            Ok(report) => {
                env.log(&process.who, || format!("compacted: {report:?}"));
                env.count(|tally| tally.folds += u64::from(report.committed));
            }
            Err(e) => fine(process, &e),
        }
    }
}

pub async fn collect(process: &Process) {
    let (env, store) = (&process.env, process.store());
    let collector = Collector::new(CollectOptions { retain: env.knobs.retain, grace: GRACE });
    while process.seat.step() {
        process.think().await;
        let done = async {
            let collection = store.collection(&Meter::new(), &env.name()).await?;
            collector.run(&Meter::new(), &collection, &|_| {}).await
        };
        match done.await {
            Ok(collected) => {
                env.log(&process.who, || format!("collected: {collected:?}"));
                env.count(|tally| tally.collected += collected.deleted);
            }
            Err(e) => fine(process, &e),
        }
    }
}

/// Drops the collection and creates it again.
pub async fn own(process: &Process) {
    let (env, store) = (&process.env, process.store());
    while process.seat.step() {
        let wait = process.draw(|rng| rng.random_range(0..300));
        process.clock.sleep(Duration::from_secs(wait)).await;
        let number = begin(process, Ask::Drop, None);
        let outcome = match store.drop_collection(&Meter::new(), &env.name()).await {
            Ok(()) => Outcome::Acknowledged { position: 0 },
            Err(e) => {
                fine(process, &e);
                // Nothing says that a drop which failed early was not sent.
                Outcome::Unknown
            }
        };
        env.respond(&process.who, number, outcome);
        for _ in 0..5 {
            process.think().await;
            let (settings, schema) = shape(env);
            match store.create(&Meter::new(), &env.name(), settings, schema).await {
                Ok(_) => break,
                Err(e) => fine(process, &e),
            }
        }
    }
}
