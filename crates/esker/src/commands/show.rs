//! `esker manifest|wal|segment show`: look inside.

use std::sync::Arc;

use esker_format::manifest::RegisterEntry;
use esker_format::segment::index::Header;
use esker_format::{Error, Kind, Result};
use esker_store::{Collection, Meter};
use serde_json::json;

use super::known;
use crate::args::{Manifest, Segment, Wal};
use crate::output::{Output, bytes, plural, table, table_text, time};
use crate::settings::{name, open_store};

async fn open(url: &str, meter: &Meter, text: &str) -> Result<Arc<Collection>> {
    let (store, name) = (open_store(url, false)?, name(text)?);
    known(&store, &name, store.collection(meter, &name).await).await
}

pub async fn manifest(verb: Manifest, store: &str, output: &Output) -> Result<()> {
    let Manifest::Show { collection, version } = verb;
    let meter = Meter::new();
    let c = open(store, &meter, &collection).await?;
    let m = match version {
        None => c.manifest(&meter).await?,
        Some(v) => match c.read_version(&meter, v).await? {
            Some(RegisterEntry::Manifest(m)) => m.into(),
            Some(RegisterEntry::Stub(s)) => {
                output.result(&s, || format!("version {v} is no longer retained"));
                return Ok(());
            }
            None => return Err(Error::new(Kind::NotFound, format!("`{collection}` has no version {v}"))),
        },
    };
    output.result(&*m, || serde_json::to_string_pretty(&*m).unwrap_or_default());
    Ok(())
}

pub async fn wal(verb: Wal, store: &str, output: &Output) -> Result<()> {
    let Wal::Show { collection, seq } = verb;
    let meter = Meter::new();
    let c = open(store, &meter, &collection).await?;
    let entries = match seq {
        None => c.snapshot(&meter).await?.tail,
        Some(seq) => match c.entry(&meter, seq).await? {
            Some(entry) => vec![entry],
            None => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("the log of `{collection}` has no entry {seq}"),
                ));
            }
        },
    };
    let value: Vec<_> = entries
        .iter()
        .map(|e| {
            let e = &e.entry;
            json!({"seq": e.seq, "key": e.key, "batches": e.batches, "bytes": e.bytes, "body": e.body_key()})
        })
        .collect();
    output.result(&value, || {
        if entries.is_empty() {
            return "the tail is empty: every entry is in the segments".to_owned();
        }
        let mut table = table(&["entry", "op", "rows", "token", "arrived", "bytes", "body"]);
        for e in entries.iter().map(|e| &e.entry) {
            for b in &e.batches {
                table.add_row([
                    e.seq.to_string(),
                    b.op.as_str().to_owned(),
                    b.rows.to_string(),
                    b.token.to_string(),
                    time(b.arrived_ms),
                    bytes(e.bytes),
                    if e.body.is_some() { "yes" } else { "inline" }.to_owned(),
                ]);
            }
        }
        table_text(&table)
    });
    Ok(())
}

pub async fn segment(verb: Segment, store: &str, output: &Output) -> Result<()> {
    let Segment::Show { collection, number } = verb;
    let meter = Meter::new();
    let c = open(store, &meter, &collection).await?;
    let m = c.manifest(&meter).await?;
    if let Some(n) = number.filter(|n| *n >= m.segments.len()) {
        let segments = plural(m.segments.len() as u64, "segment", "segments");
        let message = format!("`{collection}` has {segments}, counted from 0; there is no {n}");
        return Err(Error::new(Kind::NotFound, message));
    }
    let mut shown = Vec::new();
    for (i, s) in m.segments.iter().enumerate().filter(|(i, _)| number.is_none_or(|n| n == *i)) {
        let key = c.keys().index(s.made);
        let head = c.client().range(&meter, &key, 0..s.header_size).await?;
        shown.push((i, s, Header::parse(&key, head)?));
    }
    let value: Vec<_> = shown
        .iter()
        .map(|(i, s, h)| {
            let f = h.facts();
            let calibration: Vec<_> = h
                .calibration()
                .iter()
                .map(|c| json!({"min_recall": c.min_recall, "b": c.b, "delta": c.delta, "rerank": c.rerank}))
                .collect();
            json!({
                "number": i, "segment": s, "leaves": f.leaves, "postings": f.postings, "code_bits": f.code_bits,
                "group_bytes": f.group_bytes, "centroid_bits": f.centroid_bits, "rotation_seed": f.rotation_seed,
                "scale": f.scale, "basis": h.basis().map(|b| b.len()), "calibration": calibration,
            })
        })
        .collect();
    output.result(&value, || {
        let mut table = table(&[
            "",
            "rows",
            "dead",
            "leaves",
            "postings",
            "rows file",
            "index",
            "header",
            "entries",
            "token",
        ]);
        for (i, s, h) in &shown {
            let dead = s.rows - s.live();
            table.add_row([
                i.to_string(),
                s.rows.to_string(),
                dead.to_string(),
                h.facts().leaves.to_string(),
                h.facts().postings.to_string(),
                bytes(s.rows_size),
                bytes(s.index_size),
                bytes(s.header_size),
                format!("{}–{}", s.seqs.0, s.seqs.1),
                s.made.token.to_string(),
            ]);
        }
        if shown.is_empty() {
            "no segments: nothing was compacted yet".to_owned()
        } else {
            table_text(&table)
        }
    });
    Ok(())
}
