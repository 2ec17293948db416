//! One file per command.

mod collection;
mod compact;
pub mod cost;
mod delete;
mod demo;
mod doctor;
mod eval;
mod export;
mod gc;
mod get;
mod import;
mod key;
mod search;
mod serve;
mod show;
mod sql;
mod verify;

use std::sync::Arc;

use esker_format::{Kind, Name, Result};
use esker_query::{Engine, Options};
use esker_store::{Location, Meter, Store};

use crate::args::{Args, Command};
use crate::output::Output;
use crate::settings::Resources;

/// The store when none is named.
const STORE: &str = "./esker-data";
/// Names that a hint lists.
const LISTED: usize = 8;

/// Runs the command.
pub async fn run(args: Args, output: &Output) -> Result<()> {
    let given = args.store.as_deref();
    let store = given.unwrap_or(STORE);
    let elsewhere = matches!(&args.command, Command::Import(import) if import.endpoint.is_some());
    if Location::parse(store)?.is_volatile() && !elsewhere && !matches!(args.command, Command::Demo(_)) {
        output.say("note: memory: is empty now, and everything in it is lost when this command ends");
    }
    let resources = &Resources::new(args.memory, args.scratch)?;
    match args.command {
        Command::Demo(demo) => demo::run(demo, given, output).await,
        Command::Collection(verb) => collection::run(verb, store, output).await,
        Command::Import(import) => import::run(import, store, resources, output).await,
        Command::Export(export) => export::run(export, store, resources, output).await,
        Command::Search(search) => search::run(search, store, output).await,
        Command::Get(get) => get::run(get, store, output).await,
        Command::Delete(delete) => delete::run(delete, store, output).await,
        Command::Sql(sql) => sql::run(sql, store, resources, output).await,
        Command::Eval(eval) => eval::run(eval, store, output).await,
        Command::Cost(cost) => cost::run(cost, store, output).await,
        Command::Compact(compact) => compact::run(&compact.collection, store, resources, output).await,
        Command::Gc(gc) => gc::run(gc, store, output).await,
        Command::Manifest(verb) => show::manifest(verb, store, output).await,
        Command::Wal(verb) => show::wal(verb, store, output).await,
        Command::Segment(verb) => show::segment(verb, store, output).await,
        Command::Verify(verify) => verify::run(verify, store, output).await,
        Command::Doctor => doctor::run(store, output).await,
        Command::Serve(settings) => serve::run(*settings, store, resources, output).await,
        Command::Key(verb) => key::run(verb, output),
    }
}

/// Reads of a store.
fn engine(store: &Arc<Store>) -> Engine {
    Engine::new(store.clone(), Options::default())
}

/// An answer about a collection; if it is that there is none, with a hint which ones there are.
async fn known<T>(store: &Store, name: &Name, answer: Result<T>) -> Result<T> {
    let e = match answer {
        Err(e) if e.kind() == Kind::NotFound && e.hint().is_none() => e,
        answer => return answer,
    };
    let Ok(ids) = store.list(&Meter::new()).await else { return Err(e) };
    if ids.iter().any(|id| id.name() == name) {
        return Err(e);
    }
    let mut names: Vec<&str> = ids.iter().take(LISTED).map(|id| id.name().as_str()).collect();
    if ids.len() > LISTED {
        names.push("…");
    }
    Err(match names.is_empty() {
        true => e.with_hint("this store has no collections; see `esker import --help`"),
        false => e.with_hint(format!("this store has {}", names.join(", "))),
    })
}
