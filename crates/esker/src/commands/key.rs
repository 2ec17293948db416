//! `esker key`.

use std::path::Path;

use esker_format::Result;
use esker_store::Seams;
use esker_store::seams::SystemRandom;
use serde_json::json;

use crate::args::Key;
use crate::output::{Output, table, table_text, time};
use crate::serve::keys::{self, Entry};
use crate::settings::name;

pub fn run(verb: Key, output: &Output) -> Result<()> {
    match verb {
        Key::Create { name: key, scope, collections, keys: path } => {
            let only = collections.iter().map(|c| name(c)).collect::<Result<Vec<_>>>()?;
            let only = (!only.is_empty()).then_some(only);
            let now = Seams::system().clock.now_ms();
            let secret = keys::create(&path, &key, scope, only, &SystemRandom, now)?;
            output.result(&json!({"name": key, "key": secret}), || secret.clone());
            output.dim("this is the only time that the key is shown");
            Ok(())
        }
        Key::List { keys: path } => list(&path, output),
        Key::Revoke { name: key, keys: path } => {
            keys::revoke(&path, &key)?;
            output.result(&json!({"revoked": key}), || format!("revoked {key}"));
            Ok(())
        }
    }
}

fn list(path: &Path, output: &Output) -> Result<()> {
    let all = keys::load(path)?;
    let shown: Vec<_> = all
        .iter()
        .map(
            |e| json!({"name": e.name, "scope": e.scope, "collections": e.collections, "created": e.created}),
        )
        .collect();
    output.result(&shown, || text(&all));
    Ok(())
}

fn text(all: &[Entry]) -> String {
    if all.is_empty() {
        return "no keys".to_owned();
    }
    let mut rows = table(&["name", "scope", "collections", "created"]);
    for e in all {
        let only = e.collections.as_ref().map_or("all".to_owned(), |names| {
            names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ")
        });
        rows.add_row([e.name.clone(), e.scope.to_string(), only, time(e.created)]);
    }
    table_text(&rows)
}
