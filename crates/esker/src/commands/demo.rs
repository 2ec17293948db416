//! `esker demo`: a complete tour, on 440 notes that come with the program.

mod data;
mod steps;

use std::path::PathBuf;
use std::sync::Arc;

use esker_format::{Error, Kind, Name, Result};
use esker_query::Engine;
use esker_store::{Location, Meter, Store};
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::STORE;
use crate::args;
use crate::output::Output;
use crate::settings::{name, open_store};

/// The collection that the tour makes.
const NAME: &str = "notes";
/// Text is wrapped here.
const WIDTH: usize = 100;

pub async fn run(args: args::Demo, given: Option<&str>, output: &Output) -> Result<()> {
    let files = temporary()?;
    let (url, kept) = match given {
        Some(url) => (url.to_owned(), true),
        None if args.keep => (files.path().join("store").display().to_string(), true),
        None => (files.path().join("store").display().to_string(), false),
    };
    let store = open_store(&url, true)?;
    let name = name(NAME)?;
    let mut tour = Tour {
        output,
        engine: super::engine(&store),
        store,
        url: url.clone(),
        name,
        files: files.path().to_owned(),
        step: 0,
        summary: Map::new(),
    };
    tour.refuse_existing().await?;
    steps::all(&mut tour).await?;
    steps::try_next(&tour, kept.then_some(url.as_str()).filter(|url| *url != STORE), kept);
    if output.is_json() {
        output.result(&Value::Object(tour.summary), String::new);
    }
    if args.keep {
        let _ = files.keep();
    }
    Ok(())
}

fn temporary() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("esker-demo-")
        .tempdir()
        .map_err(|e| Error::new(Kind::Unavailable, "cannot make a temporary directory").with_source(e))
}

/// What the steps share.
struct Tour<'a> {
    output: &'a Output,
    store: Arc<Store>,
    url: String,
    engine: Engine,
    name: Name,
    /// A directory of this machine, for the file that is imported.
    files: PathBuf,
    step: usize,
    /// What was found, for programs.
    summary: Map<String, Value>,
}

impl Tour<'_> {
    /// The tour overwrites and deletes rows: it wants a collection of its own.
    async fn refuse_existing(&self) -> Result<()> {
        match self.store.collection(&Meter::new(), &self.name).await {
            Ok(_) => Err(Error::new(
                Kind::Conflict,
                format!("this store has a collection `{}` already", self.name),
            )
            .with_hint(format!("use another --store, or drop it: esker collection drop {}", self.name))),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Starts as a new process would, knowing nothing. What is in memory only stays as it is.
    fn reopen(&mut self) -> Result<()> {
        if !Location::parse(&self.url)?.is_volatile() {
            self.store = open_store(&self.url, false)?;
            self.engine = super::engine(&self.store);
        }
        Ok(())
    }

    fn heading(&mut self, text: &str) {
        self.step += 1;
        self.line(&format!("\n{}. {text}\n", self.step));
    }

    /// Text for people. Unlike other commands' talk it is the result.
    fn line(&self, text: &str) {
        if !self.output.is_json() {
            self.output.data(text);
        }
    }

    fn note(&mut self, key: &str, value: Value) {
        self.summary.insert(key.to_owned(), value);
    }

    fn now_ms(&self) -> f64 {
        self.store.client().seams().clock.elapsed().as_secs_f64() * 1000.0
    }
}

/// Breaks text at spaces so that lines fit [`WIDTH`], all but the first indented.
fn wrap(text: &str, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}
