//! `esker doctor`.

use esker_format::{Error, Kind, Result};
use esker_store::{Meter, doctor};

use crate::output::{Output, cost_line};
use crate::settings::open_store;

pub async fn run(url: &str, output: &Output) -> Result<()> {
    let store = open_store(url, true)?;
    let meter = Meter::new();
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let verdict = doctor::examine(store.client(), &meter).await?;
    output.result(&verdict, || verdict.checks.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    output.dim(cost_line(&meter.io(), (clock.elapsed() - start).as_secs_f64() * 1000.0));
    match verdict.safe() {
        true => Ok(()),
        false => Err(Error::new(Kind::Unavailable, "this store breaks promises that Esker rests on")
            .with_hint("collections cannot be created in it")),
    }
}
