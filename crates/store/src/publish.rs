//! Making committed what was uploaded: publish, alter, collect; and keeping `head` close behind.

use std::sync::Arc;

use esker_format::head::{self, Head, Part};
use esker_format::keys::{self, Key};
use esker_format::manifest::{Floors, Manifest, Segment};
use esker_format::register::{Change, Publish, Refusal};
use esker_format::schema::Schema;
use esker_format::{Error, Result, Seq, Token};

use crate::client::together;
use crate::collection::{Collection, live};
use crate::meter::Meter;
use crate::register::Commit;

impl Collection {
    /// Commits a compaction. Everything it refers to must be uploaded. `parts` is what opens the segments it made or
    /// marked; what opens the others is taken from the present head.
    pub async fn publish(
        &self,
        meter: &Meter,
        base: &Arc<Manifest>,
        token: Token,
        publish: Publish,
        parts: Vec<Part>,
    ) -> Result<Commit> {
        let change = Change::Publish(Box::new(publish));
        let commit = self.commit(meter, base.clone(), token, &change).await?;
        if let Commit::Committed(manifest) = &commit {
            // Only what is committed may be copied. Late or lost, the copy makes reads slower, never wrong.
            self.refresh_head(meter, manifest, parts).await;
            // Marks last: while one stands, someone looks for work.
            self.clear_marks(meter, |mark| matches!(mark, Key::Dirty(_, seq) if *seq <= manifest.watermark))
                .await;
        }
        Ok(commit)
    }

    /// Widens the schema. `wider` says what it should become after the newest one: `None` if nothing is to change, an
    /// error if it cannot be. It is asked again whenever another commit was first.
    pub async fn alter(
        &self,
        meter: &Meter,
        wider: impl Fn(&Schema) -> Result<Option<Schema>>,
    ) -> Result<Arc<Manifest>> {
        let mut newest = match self.last_seen() {
            Some(manifest) => manifest,
            None => self.manifest(meter).await?,
        };
        loop {
            live(newest.clone())?;
            let Some(schema) = wider(&newest.schema)? else { return Ok(newest) };
            let token = self.client().seams().token();
            match self.commit(meter, newest, token, &Change::Alter(schema)).await? {
                Commit::Committed(manifest) => {
                    self.refresh_head(meter, &manifest, Vec::new()).await;
                    return Ok(manifest);
                }
                // Another's alter was first: fit into it, or be refused by `wider`.
                Commit::Refused { refusal: Refusal::Schema | Refusal::Nothing, newest: after } => {
                    newest = after
                }
                refused => return refused.into_result(),
            }
        }
    }

    /// Raises the floors: what lies at or below them may be deleted after a grace.
    pub async fn collect(&self, meter: &Meter, base: &Arc<Manifest>, floors: Floors) -> Result<Commit> {
        let token = self.client().seams().token();
        let commit = self.commit(meter, base.clone(), token, &Change::Collect(floors)).await?;
        if let Commit::Committed(manifest) = &commit {
            self.refresh_head(meter, manifest, Vec::new()).await;
        }
        Ok(commit)
    }

    /// Overwrites `head` with a committed manifest. Failing is logged and costs later readers requests only.
    pub(crate) async fn refresh_head(&self, meter: &Meter, manifest: &Arc<Manifest>, parts: Vec<Part>) {
        let done = async {
            let head = Head {
                manifest: (**manifest).clone(),
                parts: self.head_parts(meter, manifest, parts).await?,
            };
            self.client().overwrite(meter, &self.keys().head(), head.encode()?).await?;
            Ok::<_, Error>(Arc::new(head))
        };
        match done.await {
            Ok(head) => self.learn(manifest.clone(), Some(head), []),
            Err(e) => tracing::warn!(collection = %self.id(), error = %e, "head was not rewritten"),
        }
    }

    /// What opens each segment: given, else as in the present head, else the header read from the index file.
    async fn head_parts(&self, meter: &Meter, manifest: &Manifest, given: Vec<Part>) -> Result<Vec<Part>> {
        let missing = |s: &&Segment| !given.iter().any(|p| p.made == s.made);
        let old = match manifest.segments.iter().any(|s| missing(&s)) {
            true => self.read_head(meter).await.ok().and_then(|(_, head)| head),
            false => None,
        };
        let parts = manifest.segments.iter().map(|segment| {
            let (given, old, meter) = (&given, &old, meter.fork());
            async move {
                let found = given.iter().find(|p| p.made == segment.made).cloned();
                match found.or_else(|| part_of(old.as_deref(), segment)) {
                    Some(part) => Ok(part),
                    None => {
                        let key = self.keys().index(segment.made);
                        let header = self.read_header(&meter, &key, segment).await?;
                        Ok::<_, Error>(Part { made: segment.made, header, codes: None, deletes: None })
                    }
                }
            }
        });
        let mut parts: Vec<Part> = together(parts).await?;
        // Codes ride along only while those of all segments are small together.
        let codes: u64 = parts.iter().flat_map(|p| &p.codes).map(|c| c.len() as u64).sum();
        if codes > head::CODES_BYTES {
            parts.iter_mut().for_each(|p| p.codes = None);
        }
        for part in &mut parts {
            part.deletes = part.deletes.take().filter(|d| d.len() as u64 <= head::DELETES_BYTES);
        }
        Ok(parts)
    }

    /// Removes the marks whose work is done. One that cannot be removed now is by the next publish.
    pub async fn clear_marks(&self, meter: &Meter, is_done: impl Fn(&Key) -> bool) {
        let prefix = keys::dirty_prefix(self.id());
        let done = async {
            let marks = self.client().list_all(meter, &prefix).await?;
            let done = marks.iter().filter(|m| Key::parse(&m.key).is_ok_and(|mark| is_done(&mark)));
            let deletes = done.map(|m| {
                let meter = meter.fork();
                async move { self.client().delete(&meter, &m.key).await }
            });
            together(deletes).await
        };
        if let Err(e) = done.await {
            tracing::warn!(collection = %self.id(), error = %e, "marks of finished work were not removed");
        }
    }

    /// The marks that stand: log positions up to which there may be work, newest first.
    pub async fn marks(&self, meter: &Meter) -> Result<Vec<Seq>> {
        let prefix = keys::dirty_prefix(self.id());
        let marks = self.client().list_all(meter, &prefix).await?;
        let seq = |mark| match mark {
            Key::Dirty(_, seq) => Some(seq),
            _ => None,
        };
        let marks = marks.iter().map(|m| Key::parse(&m.key).map(seq));
        marks.filter_map(Result::transpose).collect()
    }
}

/// The part of an older head, if it still opens the segment. Its bitmap counts only if the segment has the same.
fn part_of(head: Option<&Head>, segment: &Segment) -> Option<Part> {
    let head = head?;
    let mut part = head.parts.iter().find(|p| p.made == segment.made)?.clone();
    let theirs = head.manifest.segments.iter().find(|s| s.made == segment.made)?;
    if theirs.deletes != segment.deletes {
        part.deletes = None;
    }
    Some(part)
}

#[cfg(test)]
mod tests;
