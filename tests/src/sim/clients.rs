//! Clients that write: whole records, deletes, conditions, patches; again under the same token where the outcome is unknown.

use super::history::{Ask, Cell, Change, If, Op, Outcome};
use super::process::Process;
use crate::truth::ledger::TEXT;
use esker_format::record::{Op as Kind_, Record, Value};
use esker_format::{Error, Kind, Result, Token};
use esker_ingest::{Ack, Body, Condition, Ingest, Patch, WriteOptions};
use esker_store::{Clock, Meter};
use rand::Rng;

/// Tries of one write.
const TRIES: u32 = 4;

/// The writer function of one process, for the steps that its seat has left.
pub async fn write(process: &Process) {
    let ingest = Ingest::new(process.store());
    while process.seat.step() {
        process.think().await;
        let Some(write) = Write::draw(process) else { continue };
        write.perform(process, &ingest).await;
    }
}

struct Write {
    rows: Vec<(String, Change)>,
    condition: If,
    /// The client's name for it.
    token: Option<Token>,
    /// A metadata key that the schema may not know.
    extra: Option<u32>,
}

/// The names that clients use; some of records that may expire.
pub fn ids(process: &Process) -> Vec<String> {
    let all = process.env.knobs.ids;
    (0..all).map(|n| if n % 4 == 3 { format!("t{n}") } else { format!("a{n}") }).collect()
}

fn some_ids(process: &Process, most: usize) -> Vec<String> {
    let mut ids = ids(process);
    process.draw(|rng| {
        let count = rng.random_range(1..=most.min(ids.len()));
        (0..count).map(|_| ids.swap_remove(rng.random_range(0..ids.len()))).collect()
    })
}

impl Write {
    fn draw(process: &Process) -> Option<Self> {
        let env = &process.env;
        let kind = process.draw(|rng| rng.random_range(0..100));
        let most = if kind < 60 { 4 } else { 2 };
        let ids = some_ids(process, most);
        let number = env.number();
        let mut condition = If::Always;
        let version = env.version_of(&ids[0]);
        let rows = match kind {
            0..48 => puts(process, number, &ids, 0),
            48..51 if env.take_body() => puts(process, number, &ids, 1_200_000),
            48..60 => ids.into_iter().map(|id| (id, Change::Remove)).collect(),
            60..72 => {
                condition = If::Absent;
                puts(process, number, &ids, 0)
            }
            72..82 => {
                condition = If::Version(version?);
                puts(process, number, &ids[..1], 0)
            }
            82..86 => {
                condition = If::Version(version?);
                vec![(ids.into_iter().next()?, Change::Remove)]
            }
            _ => ids.into_iter().map(|id| patch(process, number, id)).collect(),
        };
        let removes = rows.iter().any(|(_, change)| *change == Change::Remove);
        // A delete says nothing by which it could be told whose it was.
        let named = removes || process.draw(|rng| rng.random_ratio(2, 3));
        let token = named.then(|| Token(process.draw(|rng| rng.random())));
        let extra = process.draw(|rng| rng.random_ratio(1, 12).then(|| rng.random_range(0..3)));
        Some(Write { rows, condition, token, extra })
    }

    async fn perform(&self, process: &Process, ingest: &Ingest) {
        let env = &process.env;
        let ask = Ask::Write { rows: self.rows.clone(), condition: self.condition };
        let token = self.token;
        let number = begin(process, ask, token);
        let (mut token, mut open) = (token, false);
        for tries in 1..=TRIES {
            match self.send(process, ingest, token).await {
                Ok(ack) => {
                    env.named(number, ack.token);
                    env.respond(&process.who, number, Outcome::Acknowledged { position: ack.position });
                    self.remember(process);
                    return;
                }
                Err(e) if e.kind() == Kind::Unknown => {
                    env.log(&process.who, || format!("#{number} unknown: {e}"));
                    assert!(
                        token.is_none() || token == e.token(),
                        "an unknown outcome names {:?}",
                        e.token()
                    );
                    token = e.token();
                    assert!(token.is_some(), "an unknown outcome has no token: {e}");
                    if let Some(token) = token {
                        env.named(number, token);
                    }
                    open = true;
                }
                Err(e) => {
                    env.log(&process.who, || format!("#{number} {}: {e}", e.kind()));
                    let outcome = self.refused(process, &e);
                    if !open {
                        env.respond(&process.who, number, outcome);
                        return;
                    }
                }
            }
            // Some clients lose patience.
            if tries == TRIES || process.draw(|rng| rng.random_ratio(1, 5)) {
                break;
            }
            process.think().await;
        }
        env.respond(&process.who, number, Outcome::Unknown);
    }

    async fn send(&self, process: &Process, ingest: &Ingest, token: Option<Token>) -> Result<Ack> {
        let (meter, name) = (Meter::new(), process.env.name());
        let condition = match self.condition {
            If::Always => Condition::None,
            If::Absent => Condition::IfAbsent,
            If::Version(version) => Condition::IfVersion(version),
        };
        let options = WriteOptions { token, condition };
        let removed: Vec<&String> =
            self.rows.iter().filter(|(_, c)| *c == Change::Remove).map(|(id, _)| id).collect();
        if !removed.is_empty() {
            return ingest.delete(&meter, &name, &removed, &options).await;
        }
        let patches: Vec<Patch> = self.rows.iter().filter_map(|(id, c)| as_patch(id, c)).collect();
        if !patches.is_empty() {
            return ingest.patch(&meter, &name, &patches, &options).await;
        }
        let mut records: Vec<Record> = self.rows.iter().filter_map(|(id, c)| as_record(id, c)).collect();
        if let Some(extra) = self.extra {
            records[0].metadata.insert(format!("extra{extra}"), Value::Int(extra.into()));
        }
        ingest.write(&meter, &name, Kind_::Upsert, Body::Records(records), &options).await
    }

    /// What an error but `Unknown` says: that nothing was written, and sometimes why.
    fn refused(&self, process: &Process, e: &Error) -> Outcome {
        let text = e.to_string();
        let row =
            text.strip_prefix("records[").and_then(|rest| rest.split(']').next()?.parse::<usize>().ok());
        match (e.kind(), row) {
            (Kind::Conflict | Kind::NotFound, Some(row)) => {
                let id = self.rows[row].0.clone();
                let after = |word: &str| {
                    let rest = text.split(word).nth(1)?;
                    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
                };
                let found = match text.contains("does not exist") {
                    true => None,
                    false => {
                        Some(after("with version ").or_else(|| after("has version ")).expect("a version"))
                    }
                };
                process.env.saw_version(&id, found);
                Outcome::Refused { id, found }
            }
            (Kind::Conflict, _) => {
                let forgotten = text.contains("can no longer be told");
                assert!(
                    forgotten || e.retry_after().is_some(),
                    "a write without a rival met a conflict: {e}"
                );
                Outcome::Failed
            }
            (Kind::Busy | Kind::Unavailable, _) => Outcome::Failed,
            (Kind::Corrupt, _) if process.env.may_be_corrupt() => Outcome::Failed,
            (Kind::Gone | Kind::NotFound, _) if process.env.knobs.drops > 0 => Outcome::Failed,
            (kind, _) => panic!("a write was answered {kind}: {e}"),
        }
    }

    /// What others may count on from now on.
    fn remember(&self, process: &Process) {
        for (id, change) in &self.rows {
            let version = match change {
                Change::Put(cell) => Some(cell.version),
                Change::Patch { version, .. } => Some(*version),
                Change::Remove => None,
            };
            process.env.saw_version(id, version);
        }
    }
}

/// Notes an operation of this process's client.
pub fn begin(process: &Process, ask: Ask, token: Option<Token>) -> usize {
    let (client, wall_ms) = (process.seat.number, process.clock.now_ms());
    let invoked_ms = process.env.clock().now_ms();
    process.env.invoke(&process.who, |invoked| Op {
        client,
        ask,
        token,
        invoked,
        invoked_ms,
        wall_ms,
        responded: None,
        responded_ms: i64::MAX,
        outcome: Outcome::Open,
    })
}

fn puts(process: &Process, number: u32, ids: &[String], bytes: usize) -> Vec<(String, Change)> {
    let mut rows = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        let name = format!("{number}.{i} ");
        let plain = process.draw(|rng| rng.random_ratio(1, 3));
        let text = (bytes > 0 || !plain).then(|| name.repeat(1 + bytes / ids.len() / name.len()));
        let expiring = id.starts_with('t') && process.env.knobs.expiry;
        let expires = expiring.then(|| {
            let after = process.draw(|rng| rng.random_range(1_000..600_000));
            process.env.clock().now_ms() + after
        });
        let vector = [number as f32, i as f32].map(f32::to_bits);
        rows.push((id.clone(), Change::Put(Cell { vector, text, version: i64::from(number), expires })));
    }
    rows
}

fn patch(process: &Process, number: u32, id: String) -> (String, Change) {
    let (vector, text) = process.draw(|rng| (rng.random_ratio(1, 3), rng.random_ratio(2, 3)));
    let vector = vector.then(|| [number as f32, 0.5].map(f32::to_bits));
    let text = text.then(|| format!("patch {number}"));
    (id, Change::Patch { vector, text, version: i64::from(number) })
}

fn as_record(id: &str, change: &Change) -> Option<Record> {
    let Change::Put(cell) = change else { return None };
    let metadata = cell.text.iter().map(|t| (TEXT.to_owned(), Value::String(t.clone()))).collect();
    let vector = cell.vector.map(f32::from_bits).to_vec();
    let (version, expires_at) = (cell.version, cell.expires);
    Some(Record { id: id.to_owned(), vector, metadata, version, expires_at, ..Record::default() })
}

fn as_patch(id: &str, change: &Change) -> Option<Patch> {
    let Change::Patch { vector, text, version } = change else { return None };
    let metadata = text.as_ref().map(|t| [(TEXT.to_owned(), Value::String(t.clone()))].into());
    let vector = vector.map(|v| v.map(f32::from_bits).to_vec());
    Some(Patch { id: id.to_owned(), metadata, vector, version: Some(*version), ..Patch::default() })
}
