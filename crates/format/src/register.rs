//! The register's transitions, as pure functions: what may follow a manifest, and what a read-back means.
//! Production, property tests and the model checker call these and no others.

use crate::error::{Error, Kind, Result};
use crate::id::{Seq, SetHash, Token, Version};
use crate::keys::Made;
use crate::manifest::{Deletes, Floors, Manifest, Recent, RegisterEntry, Segment};
use crate::{limits, schema::Schema};

/// A commit that its maker wants to follow the newest manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A compaction's result.
    Publish(Box<Publish>),
    /// A wider schema.
    Alter(Schema),
    /// Higher floors.
    Collect(Floors),
    /// The end.
    Drop,
}

/// What a compaction made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// The version it started from.
    pub base: Version,
    /// Entries folded: `(from, to]`. Equal when it only merges.
    pub fold: (Seq, Seq),
    /// Segments as its maker read them, which it replaces or marks.
    pub inputs: Vec<Segment>,
    /// Inputs that are no longer there.
    pub remove: Vec<Made>,
    /// Inputs that stay, with their new bitmaps.
    pub mark: Vec<(Made, Deletes)>,
    /// New segments.
    pub add: Vec<Segment>,
    /// Row versions of the folded entries.
    pub accepted: SetHash,
    /// Row versions that no longer count: overwritten, deleted or expired rows and tombstones.
    pub pruned: SetHash,
    /// Tokens of the folded batches.
    pub recent: Vec<Recent>,
}

/// Why a change cannot follow the newest manifest. STYLE §1: rebasable, retryable, incompatible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Rebasable: these inputs were marked by another publish; carry the new marks over and try again.
    Marked(Vec<Made>),
    /// Retryable: the folded entries or the inputs are another publish's by now; start from the newest version.
    Overtaken,
    /// Retryable: what was uploaded may be collected by now; upload again under a newer base.
    BelowFloor,
    /// Incompatible: the schema does not extend the present one.
    Schema,
    /// The change would change nothing.
    Nothing,
    /// The collection was dropped.
    Dropped,
    /// The change breaks an invariant: a bug in its maker.
    Broken(&'static str),
}

impl Refusal {
    /// The error for a caller who cannot rebase.
    pub fn into_error(self) -> Error {
        match self {
            Refusal::Dropped => Error::new(Kind::Gone, "the collection was dropped"),
            Refusal::Broken(what) => Error::internal(format!("a change was refused: {what}")),
            other => Error::new(Kind::Conflict, format!("another commit was first: {other:?}")),
        }
    }
}

/// The manifest that `change` by the attempt `token` makes of `current`.
pub fn next(current: &Manifest, token: Token, at_ms: i64, change: &Change) -> Result<Manifest, Refusal> {
    if current.dropped {
        return Err(Refusal::Dropped);
    }
    let mut m = current.clone();
    m.version = current.version + 1;
    m.parent = Some(current.token);
    m.token = token;
    m.at_ms = at_ms;
    match change {
        Change::Publish(p) => publish(&mut m, p)?,
        Change::Alter(schema) => {
            if *schema == m.schema {
                return Err(Refusal::Nothing);
            }
            if !schema.extends(&m.schema) || schema.columns.len() > limits::COLUMNS {
                return Err(Refusal::Schema);
            }
            m.schema = schema.clone();
        }
        Change::Collect(floors) => {
            if floors == &m.floors {
                return Err(Refusal::Nothing);
            }
            let reachable =
                floors.wal <= m.watermark && floors.version <= m.version && floors.base <= m.version;
            if !floors.at_least(&m.floors) || !reachable {
                return Err(Refusal::Broken("floors only rise, and not above what is committed"));
            }
            m.floors = *floors;
        }
        Change::Drop => m.dropped = true,
    }
    if !m.hashes.conserved() {
        return Err(Refusal::Broken("INV-6: accepted is not live + pruned"));
    }
    Ok(m)
}

fn publish(m: &mut Manifest, p: &Publish) -> Result<(), Refusal> {
    // What was uploaded is whole only while no collection gave it up.
    if p.base < m.floors.base || p.add.iter().any(|s| s.made.base < m.floors.base) {
        return Err(Refusal::BelowFloor);
    }
    let folds = p.fold.0 != p.fold.1;
    if folds && p.fold.0 != m.watermark {
        return Err(Refusal::Overtaken);
    }
    if p.fold.0 > p.fold.1 {
        return Err(Refusal::Broken("INV-4: the watermark goes back"));
    }
    check_inputs(m, p)?;
    for (made, deletes) in &p.mark {
        let Some(s) = m.segments.iter_mut().find(|s| s.made == *made) else {
            return Err(Refusal::Broken("a marked segment is not an input"));
        };
        if deletes.count < s.deletes.as_ref().map_or(0, |d| d.count) || deletes.count > s.rows {
            return Err(Refusal::Broken("a mark is never taken back"));
        }
        s.deletes = Some(deletes.clone());
    }
    m.segments.retain(|s| !p.remove.contains(&s.made));
    m.segments.extend(p.add.iter().cloned());
    m.hashes.accepted += p.accepted;
    m.hashes.pruned += p.pruned;
    m.hashes.live = m.hashes.live + p.accepted - p.pruned;
    if folds {
        m.watermark = p.fold.1;
    }
    let newest = p.recent.iter().map(|r| r.at_ms).max().unwrap_or(i64::MIN);
    m.recent.extend_from_slice(&p.recent);
    m.forgotten_ms = m.forgotten_ms.max(Recent::keep(&mut m.recent, newest));
    Ok(())
}

/// Every input must be in the manifest as its maker saw it.
fn check_inputs(m: &Manifest, p: &Publish) -> Result<(), Refusal> {
    let mut marked = Vec::new();
    for input in &p.inputs {
        match m.segments.iter().find(|s| s.made == input.made) {
            None => return Err(Refusal::Overtaken),
            Some(s) if s.deletes != input.deletes => marked.push(s.made),
            Some(_) => {}
        }
    }
    let known = |made: &Made| p.inputs.iter().any(|i| i.made == *made);
    if !p.remove.iter().all(known) || !p.mark.iter().all(|(made, _)| known(made)) {
        return Err(Refusal::Broken("a segment is replaced or marked that is not an input"));
    }
    // A fold looked its ids up in the segments that it knew: others may hold older rows of the same ids.
    let folds = p.fold.0 != p.fold.1;
    if folds && m.segments.iter().any(|s| !known(&s.made)) {
        return Err(Refusal::Overtaken);
    }
    if marked.is_empty() { Ok(()) } else { Err(Refusal::Marked(marked)) }
}

/// What reading `manifest/{v}` after an attempt to create it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is ours: committed.
    Committed,
    /// Another's: apply the change to it, or give up.
    Rebase,
    /// Nobody's: the put may still land, or never; the same name must be tried again, never the next.
    PutAgain,
}

/// Settles a commit attempt by read-back.
pub fn settle(mine: Token, found: Option<&RegisterEntry>) -> Settled {
    match found.map(RegisterEntry::token) {
        Some(token) if token == mine => Settled::Committed,
        Some(_) => Settled::Rebase,
        None => Settled::PutAgain,
    }
}

#[cfg(test)]
mod tests;
