//! The order of a compaction's writes: everything it made is uploaded, invisible and immutable; then one manifest makes
//! it true; only then `head` follows and marks of work go (`Collection::publish`).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use esker_format::head::Part;
use esker_format::keys::Made;
use esker_format::manifest::{Deletes, Manifest, Segment};
use esker_format::register::{Publish, Refusal};
use esker_format::segment::deletes;
use esker_format::{Error, Result, Token};
use esker_store::{Collection, Commit as Committed, Meter, SegmentReader};
use futures::future::try_join_all;
use roaring::RoaringBitmap;

use super::inputs::{Inputs, Kept};
use super::sending::{Sending, send};
use super::{Listener, Progress, Report, Round, Stage, Work};
use crate::build::{self, Blob};
use crate::scratch::ScratchFile;

/// Most commits of others whose marks one round carries over.
const CARRIES: u32 = 8;

/// A round whose result is made and not yet uploaded.
pub(crate) struct Commit<'a> {
    pub(crate) meter: &'a Meter,
    pub(crate) collection: &'a Arc<Collection>,
    pub(crate) base: Arc<Manifest>,
    pub(crate) inputs: Inputs,
    pub(crate) work: Work,
    pub(crate) built: Option<build::Made>,
    /// Where what is built lies already, or is on its way to.
    pub(crate) placed: Option<Made>,
    pub(crate) sending: Sending,
    pub(crate) progress: Listener<'a>,
}

/// Objects to be uploaded, by key.
type Objects = Vec<(String, Bytes)>;

impl Commit<'_> {
    pub(crate) async fn run(mut self) -> Result<Round> {
        let (token, publish, parts) = self.ready().await?;
        self.commit(token, publish, parts).await
    }

    /// Uploads everything; what is to be published.
    pub(super) async fn ready(&mut self) -> Result<(Token, Publish, Vec<Part>)> {
        let token = self.collection.client().seams().token();
        let base = self.base.version;
        let made = self.placed.unwrap_or(Made { base, token });
        let (mut objects, mut copies) = (Objects::new(), Vec::new());
        let (mut add, mut parts) = (Vec::new(), Vec::new());
        if let Some(built) = &self.built {
            let keys = self.collection.keys();
            for (key, blob) in [(keys.rows(made), &built.rows_file), (keys.index(made), &built.index_file)] {
                match blob {
                    Blob::Memory(bytes) => objects.push((key, bytes.clone())),
                    Blob::Scratch(file) => copies.push((key, Arc::clone(file))),
                    Blob::Placed(_) => {}
                }
            }
            add.push(segment(made, built));
            parts.push(part(made, built));
        }
        let kept = std::mem::take(&mut self.inputs.kept);
        let mut mark = Vec::with_capacity(kept.len());
        for kept in &kept {
            let bitmap = kept.reader.deleted() | kept.marks.keys().copied().collect::<RoaringBitmap>();
            let (deletes, bytes) = self.deletes(&bitmap, kept.reader.header().leaf_starts(), &mut objects)?;
            parts.push(kept_part(kept, bytes));
            mark.push((kept.reader.segment().made, deletes));
        }
        self.inputs.kept = kept;
        for (key, file) in copies {
            self.copy(&key, &*file).await?;
        }
        self.upload(objects).await?;
        self.work.report.bytes_written += std::mem::take(&mut self.sending).sent().await?;
        let publish = Publish {
            base,
            fold: (self.base.watermark, self.work.position),
            inputs: self.inputs.segments.clone(),
            remove: self.inputs.merged.iter().map(|m| m.reader.segment().made).collect(),
            mark,
            add,
            accepted: self.work.accepted,
            pruned: self.work.pruned,
            recent: std::mem::take(&mut self.work.recent),
        };
        Ok((token, publish, parts))
    }

    /// Commits; while others only marked rows of our inputs, takes their marks over and tries again.
    pub(super) async fn commit(
        mut self,
        token: Token,
        mut publish: Publish,
        mut parts: Vec<Part>,
    ) -> Result<Round> {
        let progress = self.progress;
        let mut base = Arc::clone(&self.base);
        for carried in 0..=CARRIES {
            progress(Progress { stage: Stage::Commit, done: 0, total: 1 });
            let commit =
                self.collection.publish(self.meter, &base, token, publish.clone(), parts.clone()).await?;
            let (refusal, newest) = match commit {
                Committed::Committed(manifest) => {
                    progress(Progress { stage: Stage::Commit, done: 1, total: 1 });
                    let more = self.work.more;
                    return Ok(Round::Done(Box::new(self.report(&manifest, carried)), more));
                }
                Committed::Refused { refusal, newest } => (refusal, newest),
            };
            match refusal {
                Refusal::Marked(_) => {
                    self.carry(&newest, &mut publish, &mut parts).await?;
                    base = newest;
                }
                // The folded entries or the inputs are another's by now, or what was uploaded may be collected.
                Refusal::Overtaken | Refusal::BelowFloor => return Ok(Round::Overtaken),
                other => return Err(other.into_error()),
            }
        }
        Ok(Round::Overtaken)
    }

    /// Takes over the marks that other commits made since in segments that ours replaces or marks.
    pub(super) async fn carry(
        &mut self,
        newest: &Manifest,
        publish: &mut Publish,
        parts: &mut [Part],
    ) -> Result<()> {
        // Anew each time: marks that were carried over before are among theirs.
        publish.pruned = self.work.pruned;
        let (mut objects, mut carried) = (Objects::new(), RoaringBitmap::new());
        let order = self.built.as_ref().map(|b| b.order.as_slice()).unwrap_or_default();
        let mut moved: HashSet<u32> = HashSet::new();
        for input in &mut publish.inputs {
            // One that is gone makes the next try be refused as overtaken.
            let Some(now) = newest.segments.iter().find(|s| s.made == input.made) else { continue };
            let reader = SegmentReader::open(self.collection, self.meter, now, None).await?;
            let theirs = reader.deleted();
            if let Some(m) = self.inputs.merged.iter().find(|m| m.reader.segment().made == input.made) {
                for ordinal in theirs - &m.deleted {
                    match (m.dropped.get(&ordinal), m.moved.binary_search(&ordinal)) {
                        // Theirs counts it as pruned.
                        (Some(hash), _) => publish.pruned = publish.pruned - *hash,
                        (None, Ok(at)) => drop(moved.insert((m.first + at) as u32)),
                        (None, Err(_)) => return Err(Error::internal("a row was neither moved nor dropped")),
                    }
                }
            }
            if let Some(k) = self.inputs.kept.iter().find(|k| k.reader.segment().made == input.made) {
                let both =
                    k.marks.iter().filter(|(o, _)| theirs.contains(**o) && !k.reader.deleted().contains(**o));
                both.for_each(|(_, hash)| publish.pruned = publish.pruned - *hash);
                let bitmap = theirs | k.marks.keys().copied().collect::<RoaringBitmap>();
                let (deletes, bytes) =
                    self.deletes(&bitmap, k.reader.header().leaf_starts(), &mut objects)?;
                parts
                    .iter_mut()
                    .filter(|p| p.made == input.made)
                    .for_each(|p| p.deletes = Some(bytes.clone()));
                let marked = publish.mark.iter_mut().filter(|(made, _)| *made == input.made);
                marked.for_each(|(_, d)| *d = deletes.clone());
            }
            input.deletes.clone_from(&now.deletes);
        }
        if !moved.is_empty() {
            carried.extend(
                (0u32..).zip(order).filter(|(_, row)| moved.contains(row)).map(|(ordinal, _)| ordinal),
            );
        }
        if let (Some(built), Some(added)) = (&self.built, publish.add.first_mut())
            && !carried.is_empty()
        {
            let (deletes, bytes) = self.deletes(&carried, &built.leaf_starts, &mut objects)?;
            parts.iter_mut().filter(|p| p.made == added.made).for_each(|p| p.deletes = Some(bytes.clone()));
            added.deletes = Some(deletes);
        }
        self.upload(objects).await
    }

    /// A new bitmap object.
    fn deletes(
        &self,
        bitmap: &RoaringBitmap,
        leaf_starts: &[u32],
        objects: &mut Objects,
    ) -> Result<(Deletes, Bytes)> {
        let made = Made { base: self.base.version, token: self.collection.client().seams().token() };
        let bytes = deletes::encode(bitmap, leaf_starts)?;
        objects.push((self.collection.keys().deletes(made), bytes.clone()));
        Ok((Deletes { made, count: bitmap.len(), size: bytes.len() as u64 }, bytes))
    }

    /// Uploads a scratch file.
    async fn copy(&mut self, key: &str, file: &dyn ScratchFile) -> Result<()> {
        let upload = self.collection.client().upload(self.meter, key);
        let heard = |done, total| (self.progress)(Progress { stage: Stage::Upload, done, total });
        self.work.report.bytes_written += send(upload, file, &heard).await?;
        Ok(())
    }

    /// Uploads objects at once.
    async fn upload(&mut self, objects: Objects) -> Result<()> {
        let total: u64 = objects.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        (self.progress)(Progress { stage: Stage::Upload, done: 0, total });
        let client = self.collection.client();
        let puts = objects.into_iter().map(|(key, bytes)| {
            let meter = self.meter.fork();
            async move { client.put_immutable(&meter, &key, bytes).await }
        });
        try_join_all(puts).await?;
        (self.progress)(Progress { stage: Stage::Upload, done: total, total });
        self.work.report.bytes_written += total;
        Ok(())
    }

    fn report(self, manifest: &Manifest, carried: u32) -> Report {
        let (rows, copied) = self.built.as_ref().map_or((0, 0), |built| (built.rows(), built.copied));
        Report {
            version: manifest.version,
            committed: true,
            segments_out: manifest.segments.len(),
            rows,
            copied,
            encoded: rows - copied,
            live_rows: manifest.live_rows(),
            carried,
            ..self.work.report
        }
    }
}

fn segment(made: Made, built: &build::Made) -> Segment {
    Segment {
        made,
        rows: built.rows(),
        rows_size: built.rows_file.len(),
        index_size: built.summary.size,
        header_size: built.summary.header_len,
        header_crc: built.summary.header_crc,
        seqs: built.seqs,
        deletes: None,
    }
}

/// What `head` carries of a new segment.
fn part(made: Made, built: &build::Made) -> Part {
    Part { made, header: built.header.clone(), codes: built.codes.clone(), deletes: None }
}

/// What `head` carries of a segment with a new bitmap.
fn kept_part(kept: &Kept, deletes: Bytes) -> Part {
    Part {
        made: kept.reader.segment().made,
        header: kept.reader.header().bytes().clone(),
        codes: kept.part.as_ref().and_then(|p| p.codes.clone()),
        deletes: Some(deletes),
    }
}
