//! The steps of the tour, in order.

use std::collections::BTreeMap;

use esker_format::keys::{DIRTY, Key, NAMES, Part};
use esker_format::record::Value as Metadata;
use esker_format::{Error, Result};
use esker_ingest::Ingest;
use esker_ingest::import::Overrides;
use esker_query::sql::{Options, Param};
use esker_query::{Hit, Search, SearchReply};
use esker_store::Meter;
use serde_json::{Value, json};

use super::data::{Question, questions, write_notes};
use super::{Tour, wrap};
use crate::commands::compact::{fold, report_json, text as compacted};
use crate::commands::import::import;
use crate::commands::search::{filter, hit_json};
use crate::commands::sql::query;
use crate::output::{bytes, cost_line, count, table, table_text};
use crate::rows::{cell, json_of, table_of};
use crate::settings::Resources;

/// The questions that the tour asks, by number.
const ASKED: [usize; 5] = [2, 4, 12, 13, 16];
/// Answers shown per question.
const SHOWN: usize = 3;

pub async fn all(tour: &mut Tour<'_>) -> Result<()> {
    let questions = questions()?;
    import_notes(tour).await?;
    compact(tour).await?;
    ask(tour, &questions).await?;
    ask_filtered(tour, &questions).await?;
    change(tour, &questions).await?;
    sql(tour, &questions).await?;
    objects(tour).await
}

async fn import_notes(tour: &mut Tour<'_>) -> Result<()> {
    let file = write_notes(&tour.files)?;
    tour.heading("Import: notes on eleven topics, each with the vector of its text (MiniLM, 384 dimensions)");
    let meter = Meter::new();
    let say = |note: &str| tour.line(&format!("   {note}"));
    let done = import(
        &tour.store,
        &meter,
        &file,
        &tour.name,
        Overrides::default(),
        &Resources::default(),
        tour.output,
        &say,
    )
    .await?;
    tour.line(&format!("   {}", done.text(&tour.name)));
    let snapshot = tour.store.collection(&meter, &tour.name).await?.snapshot(&meter).await?;
    for e in &snapshot.tail {
        let e = &e.entry;
        tour.line(&format!(
            "   the log now has entry {}: {} rows, {}, an Avro file",
            e.seq,
            e.rows(),
            bytes(e.bytes)
        ));
    }
    tour.note("imported", json!({"rows": done.report.rows, "position": snapshot.position}));
    Ok(())
}

async fn compact(tour: &mut Tour<'_>) -> Result<()> {
    tour.heading("Compact: the log becomes one clustered Parquet file with an index beside it");
    let report = fold(&tour.store, &Meter::new(), &tour.name, &Resources::default(), tour.output).await?;
    tour.line(&format!("   {}", compacted(&report, &tour.name)));
    tour.note("compacted", report_json(&report));
    Ok(())
}

async fn ask(tour: &mut Tour<'_>, questions: &[Question]) -> Result<()> {
    tour.reopen()?;
    tour.heading("Search: questions are compared with notes by meaning; 0 is the same, 1 is unrelated");
    let mut asked = Vec::new();
    for (nth, question) in ASKED.iter().filter_map(|n| questions.get(*n)).enumerate() {
        let (reply, cost) = search(tour, Search::new(question.vector.clone(), SHOWN)).await?;
        answers(tour, &question.text, None, &reply);
        match nth {
            0 => tour.line(&format!("   {cost}   (nothing was cached)")),
            1 => tour.line(&format!("   {cost}")),
            _ => {}
        }
        asked.push(found(&question.text, None, &reply));
    }
    tour.note("questions", Value::Array(asked));
    Ok(())
}

async fn ask_filtered(tour: &mut Tour<'_>, questions: &[Question]) -> Result<()> {
    tour.heading("Filter: the same, but only rows for which a condition holds");
    let mut asked = Vec::new();
    let filters = [
        (14, "topic = 'astronomy'"),
        (1, "year < 1960 AND source <> 'diary'"),
        (5, r#"{"rating": {"$gte": 4.4}, "tags": {"$contains": "vectors"}}"#),
    ];
    for (number, condition) in filters {
        let Some(question) = questions.get(number) else { continue };
        let search_for =
            Search { filter: Some(filter(condition)?), ..Search::new(question.vector.clone(), 2) };
        let (reply, _) = search(tour, search_for).await?;
        answers(tour, &question.text, Some(condition), &reply);
        asked.push(found(&question.text, Some(condition), &reply));
    }
    tour.note("filtered", Value::Array(asked));
    Ok(())
}

/// Overwrites the second answer of a question and deletes its first: both show in the next search.
async fn change(tour: &mut Tour<'_>, questions: &[Question]) -> Result<()> {
    tour.heading("Overwrite and delete: every later read sees it");
    let Some(question) = questions.first() else { return Ok(()) };
    let (before, _) = search(tour, Search::new(question.vector.clone(), 2)).await?;
    answers(tour, &question.text, Some("before"), &before);
    let [first, second] = before.results.first().map(Vec::as_slice).unwrap_or_default() else {
        return Ok(());
    };
    let (ingest, meter) = (Ingest::new(tour.store.clone()), Meter::new());
    let reader = tour.engine.collection(&tour.name);
    let (rows, _) = reader.get(&meter, std::slice::from_ref(&second.id), true).await?;
    let mut row = rows.into_iter().flatten().next().ok_or_else(|| Error::internal("a hit is not there"))?;
    let text = "Corrected: the Moon's spin was braked by tides until one turn took as long as one orbit.";
    row.metadata.insert("text".to_owned(), Metadata::String(text.to_owned()));
    let overwritten = ingest.upsert(&meter, &tour.name, &[row], None).await?;
    let deleted = ingest
        .delete(&meter, &tour.name, std::slice::from_ref(&first.id), &esker_ingest::WriteOptions::default())
        .await?;
    tour.line(&format!("\n   overwrote the text of {} (log entry {})", second.id, overwritten.position));
    tour.line(&format!("   deleted {} (log entry {})", first.id, deleted.position));
    let (after, _) = search(tour, Search::new(question.vector.clone(), 2)).await?;
    answers(tour, &question.text, Some("after"), &after);
    let value = json!({
        "overwritten": second.id, "deleted": first.id,
        "before": found(&question.text, None, &before), "after": found(&question.text, None, &after),
    });
    tour.note("changed", value);
    Ok(())
}

async fn sql(tour: &mut Tour<'_>, questions: &[Question]) -> Result<()> {
    tour.heading("SQL: the collection is a table, and ORDER BY distance is a search of its index");
    let vector = questions.get(8).map(|q| q.vector.clone()).unwrap_or_default();
    let nearest = "SELECT id, year, cosine_distance(vector, $1) AS distance\n\
        FROM notes WHERE year > 1800 ORDER BY distance LIMIT 4";
    let queries = [
        "SELECT topic, count(*) AS notes, round(avg(rating), 2) AS rating, min(year) AS earliest\n\
         FROM notes GROUP BY topic ORDER BY rating DESC, topic LIMIT 5"
            .to_owned(),
        "SELECT n.id, n.topic, n.year, t.notes AS notes_on_topic, round(n.far, 3) AS distance\n\
             FROM (SELECT id, topic, year, cosine_distance(vector, $1) AS far\n      \
             FROM notes ORDER BY far LIMIT 4) n\n\
             JOIN (SELECT topic, count(*) AS notes FROM notes GROUP BY topic) t ON n.topic = t.topic\n\
             ORDER BY n.far"
            .to_owned(),
        format!("EXPLAIN {nearest}"),
    ];
    if let Some(question) = questions.get(8) {
        tour.line(&format!("   $1 is the vector of: {}", question.text));
    }
    let mut answers = Vec::new();
    for text in queries {
        tour.line(&format!("\n   > {}", text.replace('\n', "\n     ")));
        let answer =
            query(&tour.engine, &Meter::new(), &text, &[Param::Vector(vector.clone())], Options::default())
                .await?;
        tour.line(&indented(&table_of(&answer.schema, &answer.batches)?));
        answers.push(json!({"query": text, "rows": json_of(&answer.batches)?}));
    }
    tour.note("sql", Value::Array(answers));
    Ok(())
}

/// What the store holds, by kind of object.
async fn objects(tour: &mut Tour<'_>) -> Result<()> {
    tour.heading("What is in the store: objects, and nothing else");
    let (meter, client) = (Meter::new(), tour.store.client());
    let collection = tour.store.collection(&meter, &tour.name).await?;
    let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for prefix in [NAMES, DIRTY, collection.keys().prefix()] {
        for object in client.list_all(&meter, prefix).await? {
            let entry = kinds.entry(kind(&Key::parse(&object.key)?)).or_default();
            entry.0 += 1;
            entry.1 += object.size;
        }
    }
    let mut rows = table(&["object", "number", "bytes"]);
    for (kind, (number, size)) in &kinds {
        rows.add_row([(*kind).to_owned(), count(*number), bytes(*size)]);
    }
    tour.line(&indented(&table_text(&rows)));
    let objects: Vec<_> =
        kinds.iter().map(|(k, (n, b))| json!({"object": k, "number": n, "bytes": b})).collect();
    tour.note("objects", Value::Array(objects));
    Ok(())
}

fn kind(key: &Key) -> &'static str {
    match key {
        Key::Store | Key::Doctor => "the doctor's verdict",
        Key::Name(..) => "names/: which collection a name means",
        Key::Dirty(..) | Key::DirtyJob(..) => "dirty/: marks that there is work",
        Key::Of(_, part) => match part {
            Part::Wal(_) => "wal/: log entries, Avro",
            Part::Manifest(_) => "manifest/: the register, one per version",
            Part::Head => "head: a copy of the newest manifest",
            Part::Rows(_) => "segment/*.parquet: rows, clustered",
            Part::Index(_) => "segment/*.index: codes and attributes",
            Part::Deletes(_) => "deletes/: rows that were overwritten",
            Part::Body(..) => "body/: rows of large log entries, Avro",
            Part::Inbox(..) => "inbox/: batches to be combined",
            Part::Pin(..) => "pins/: leases",
            Part::Work(_) => "work/: a compaction that resumes",
            Part::Upload(_) | Part::Progress(_) => "upload/: bodies to commit",
        },
    }
}

/// What a person may do next.
pub fn try_next(tour: &Tour<'_>, store: Option<&str>, kept: bool) {
    let at = store.map(|url| format!(" --store {url}")).unwrap_or_default();
    tour.line("\nTry next:");
    if !kept {
        tour.line("  esker demo --store ./esker-data        the same, in a store that stays");
    }
    for command in [
        "esker search notes --like note-0020 -k 5 --include topic,text",
        "esker search notes --like note-0369 --filter \"year < 1980\" --explain",
        "esker sql \"SELECT source, count(*) FROM notes GROUP BY source\"",
        "esker wal show notes",
        "esker export notes notes.ndjson",
    ] {
        tour.line(&format!("  {command}{at}"));
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

async fn search(tour: &Tour<'_>, search: Search) -> Result<(SearchReply, String)> {
    let start = tour.now_ms();
    let reply = tour.engine.collection(&tour.name).search(&Meter::new(), &search).await?;
    let cost = cost_line(&reply.io, tour.now_ms() - start);
    Ok((reply, cost))
}

fn answers(tour: &Tour<'_>, question: &str, under: Option<&str>, reply: &SearchReply) {
    match under {
        Some(under) => tour.line(&format!("\n   {question}   [{under}]")),
        None => tour.line(&format!("\n   {question}")),
    }
    for hit in reply.results.iter().flatten() {
        let of = |key: &str| hit.metadata.get(key).map(cell).unwrap_or_default();
        let line = format!("{} ({}, {}, {})", of("text"), hit.id, of("topic"), of("year"));
        tour.line(&format!("   {:.3}  {}", hit.distance, wrap(&line, 10)));
    }
}

fn found(question: &str, under: Option<&str>, reply: &SearchReply) -> Value {
    let hits: Vec<Value> = reply.results.iter().flatten().map(|h: &Hit| hit_json(h)).collect();
    match under {
        Some(filter) => json!({"question": question, "filter": filter, "hits": hits}),
        None => json!({"question": question, "hits": hits}),
    }
}
