//! One file per command.

mod collection;
mod delete;
mod doctor;
mod show;

use esker_format::Result;

use crate::args::{Args, Command};
use crate::output::Output;

/// The store when none is named.
const STORE: &str = "./esker-data";

/// Runs the command.
pub async fn run(args: Args, output: &Output) -> Result<()> {
    let store = args.store.as_deref().unwrap_or(STORE);
    match args.command {
        Command::Collection(verb) => collection::run(verb, store, output).await,
        Command::Delete(delete) => delete::run(delete, store, output).await,
        Command::Manifest(verb) => show::manifest(verb, store, output).await,
        Command::Wal(verb) => show::wal(verb, store, output).await,
        Command::Segment(verb) => show::segment(verb, store, output).await,
        Command::Doctor => doctor::run(store, output).await,
        _ => Err(esker_format::Error::internal("not built yet")),
    }
}
