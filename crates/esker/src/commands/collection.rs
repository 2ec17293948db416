//! `esker collection create|list|describe|drop`.

use esker_format::schema::{Column, Schema, Settings};
use esker_format::{Error, Result};
use esker_store::{Meter, Snapshot, Store};
use serde_json::json;

use super::known;
use crate::args::Collection;
use crate::output::{Output, bytes, plural, table, table_text};
use crate::settings::{name, open_store};

pub async fn run(verb: Collection, store: &str, output: &Output) -> Result<()> {
    match verb {
        Collection::Create { name, dimension, metric, vector_type, columns } => {
            let settings = Settings { dimension, metric, vector_type };
            create(open_store(store, true)?.as_ref(), &name, settings, &columns, output).await
        }
        Collection::List => list(open_store(store, false)?.as_ref(), output).await,
        Collection::Describe { name } => describe(open_store(store, false)?.as_ref(), &name, output).await,
        Collection::Drop { name: text } => {
            let (store, name) = (open_store(store, false)?, name(&text)?);
            known(&store, &name, store.drop_collection(&Meter::new(), &name).await).await?;
            output.result(&json!({"dropped": text}), || format!("dropped {text}"));
            Ok(())
        }
    }
}

async fn create(
    store: &Store,
    text: &str,
    settings: Settings,
    columns: &[String],
    output: &Output,
) -> Result<()> {
    let schema = Schema { columns: columns.iter().map(|c| column(c)).collect::<Result<_>>()? };
    let made = store.create(&Meter::new(), &name(text)?, settings.clone(), schema).await?;
    output.result(&json!({"created": text, "id": made.id(), "settings": settings}), || {
        let Settings { dimension, metric, vector_type } = &settings;
        format!("created {text}: {dimension} dimensions, {metric}, {vector_type}")
    });
    Ok(())
}

/// `name=type`.
fn column(text: &str) -> Result<Column> {
    let Some((name, kind)) = text.split_once('=') else {
        return Err(
            Error::invalid("column", format!("`{text}` is not NAME=TYPE")).with_hint("for example year=int")
        );
    };
    Ok(Column { name: name.to_owned(), kind: kind.parse()?, wide: false })
}

async fn list(store: &Store, output: &Output) -> Result<()> {
    let meter = Meter::new();
    let mut rows = Vec::new();
    for id in store.list(&meter).await? {
        let manifest = store.collection(&meter, id.name()).await?.manifest(&meter).await?;
        rows.push((id, manifest));
    }
    let value: Vec<_> = rows
        .iter()
        .map(|(id, m)| json!({"name": id.name(), "id": id, "settings": m.settings, "indexed_rows": m.live_rows()}))
        .collect();
    output.result(&value, || {
        if rows.is_empty() {
            return "no collections".to_owned();
        }
        let mut table = table(&["collection", "dimension", "metric", "vectors", "indexed rows"]);
        for (id, m) in &rows {
            let s = &m.settings;
            let (metric, kind) = (s.metric.as_str(), s.vector_type.as_str());
            table.add_row([
                id.name().as_str(),
                &s.dimension.to_string(),
                metric,
                kind,
                &m.live_rows().to_string(),
            ]);
        }
        table_text(&table)
    });
    Ok(())
}

async fn describe(store: &Store, text: &str, output: &Output) -> Result<()> {
    let meter = Meter::new();
    let id = name(text)?;
    let collection = known(store, &id, store.collection(&meter, &id).await).await?;
    let snapshot = collection.snapshot(&meter).await?;
    let m = &snapshot.manifest;
    let tail_bytes: u64 = snapshot.tail.iter().map(|t| t.entry.bytes).sum();
    let value = json!({
        "name": text, "id": m.collection, "settings": m.settings, "columns": snapshot.schema,
        "version": m.version, "position": snapshot.position, "watermark": m.watermark,
        "indexed_rows": m.live_rows(), "segments": m.segments,
        "tail": {"entries": snapshot.tail.len(), "rows": tail_rows(&snapshot), "bytes": tail_bytes},
    });
    output.result(&value, || {
        let s = &m.settings;
        let mut lines = vec![
            format!("{text} ({})", m.collection),
            format!("  vectors   {} × {}, {}", s.dimension, s.vector_type, s.metric),
            format!(
                "  indexed   {} in {}, up to entry {}",
                plural(m.live_rows(), "row", "rows"),
                plural(m.segments.len() as u64, "segment", "segments"),
                m.watermark
            ),
            format!(
                "  tail      {} in {}, {}",
                plural(tail_rows(&snapshot), "row", "rows"),
                plural(snapshot.tail.len() as u64, "entry", "entries"),
                bytes(tail_bytes)
            ),
            format!("  position  {} (manifest {})", snapshot.position, m.version),
            "  columns".to_owned(),
        ];
        lines
            .extend(snapshot.schema.columns.iter().map(|c| format!("    {:16} {}", c.name, c.kind.as_str())));
        lines.join("\n")
    });
    Ok(())
}

fn tail_rows(snapshot: &Snapshot) -> u64 {
    snapshot.tail.iter().map(|t| t.entry.rows()).sum()
}
