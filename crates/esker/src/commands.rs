//! One file per command.

mod collection;
mod compact;
mod delete;
mod demo;
mod doctor;
mod eval;
mod export;
mod get;
mod import;
mod search;
mod show;
mod sql;

use esker_format::Result;

use crate::args::{Args, Command};
use crate::output::Output;

/// Runs the command.
pub async fn run(args: Args, output: &Output) -> Result<()> {
    let store = args.store.as_str();
    match args.command {
        Command::Demo(demo) => demo::run(demo, output).await,
        Command::Collection(verb) => collection::run(verb, store, output).await,
        Command::Import(import) => import::run(import, store, output).await,
        Command::Export(export) => export::run(export, store, output).await,
        Command::Search(search) => search::run(search, store, output).await,
        Command::Get(get) => get::run(get, store, output).await,
        Command::Delete(delete) => delete::run(delete, store, output).await,
        Command::Sql(sql) => sql::run(sql, store, output).await,
        Command::Eval(eval) => eval::run(eval, store, output).await,
        Command::Compact(compact) => compact::run(&compact.collection, store, output).await,
        Command::Manifest(verb) => show::manifest(verb, store, output).await,
        Command::Wal(verb) => show::wal(verb, store, output).await,
        Command::Segment(verb) => show::segment(verb, store, output).await,
        Command::Doctor => doctor::run(store, output).await,
    }
}
