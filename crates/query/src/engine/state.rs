//! What is kept of one life of a collection between queries: immutable things, and the last tail with what was worked out
//! about it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use esker_format::keys::Made;
use esker_format::schema::Schema;
use esker_format::{CollectionId, Result, Seq, Version, manifest};
use esker_index::Metric;
use esker_store::Snapshot;
use roaring::RoaringBitmap;

use crate::filter::Resolved;
use crate::segment::{FilterPlan, Mask, Rows, Segment, every};
use crate::tail::Tail;
use crate::tail::codes::TailCodes;

/// Segments kept open per collection; those of the newest manifest seen always are.
const KEPT_SEGMENTS: usize = 64;
/// Answers to filters kept per collection, of any of its segments …
const KEPT_ANSWERS: usize = 128;
/// … and their bytes: some 400 KiB each of a segment of a million rows.
const KEPT_ANSWER_BYTES: u64 = 32 << 20;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct State {
    kept: Mutex<Kept>,
    /// Whether a long tail was searched before: the codes that a process which searches once makes are of no use.
    searched: AtomicBool,
    /// Held while codes are made.
    encoding: Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    segments: HashMap<Made, Arc<Segment>>,
    deletes: HashMap<Made, Deletes>,
    tail: Option<LastTail>,
    /// Codes of the tail.
    codes: Option<Arc<TailCodes>>,
    /// What filters were answered with, the last used last.
    answers: Vec<Arc<Answered>>,
    /// The newest manifest that was read from.
    newest: Version,
}

/// What a filter was answered with by a segment that is held and whose rows never expire.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The rows that pass and are not deleted …
    pub rows: Rows,
    /// … as scans want them …
    mask: OnceLock<Mask>,
    /// … and how they were found.
    pub plan: FilterPlan,
    made: Made,
    deletes: Option<Made>,
    filter: Arc<Resolved>,
}

impl Answered {
    /// By a segment of a manifest.
    pub fn new(meta: &manifest::Segment, filter: &Arc<Resolved>, rows: &Rows, plan: &FilterPlan) -> Answered {
        let (filter, deletes) = (filter.clone(), meta.deletes.as_ref().map(|d| d.made));
        Answered {
            rows: rows.clone(),
            mask: OnceLock::new(),
            plan: plan.clone(),
            made: meta.made,
            deletes,
            filter,
        }
    }

    /// The rows but those that are `gone`.
    pub fn mask(&self, segment: &Segment, gone: &RoaringBitmap) -> Option<Mask> {
        self.mask.get_or_init(|| Mask::own(segment, &self.rows)).without(segment, gone)
    }

    fn bytes(&self) -> u64 {
        Whole::bytes_of(&self.rows) / 2 + self.mask.get().map_or(0, Mask::bytes)
    }
}

/// A deletion bitmap, and the rows of its segment that are left.
#[derive(Debug, Clone)]
struct Deletes {
    gone: Arc<RoaringBitmap>,
    live: Arc<RoaringBitmap>,
}

#[derive(Debug)]
struct LastTail {
    version: Version,
    position: Seq,
    schema: Schema,
    tail: Arc<Tail>,
    /// Per segment of the manifest, the rows that the tail superseded.
    superseded: Option<Superseded>,
    /// The same of a shorter tail with as many entries.
    before: Option<(usize, Superseded)>,
    /// What searches without a filter look at.
    whole: Option<Arc<Whole>>,
}

type Superseded = Arc<Vec<RoaringBitmap>>;

/// The rows of the segments that count when nothing is filtered and nothing has expired.
#[derive(Debug)]
pub(crate) struct Whole {
    pub rows: Arc<Vec<Rows>>,
    /// The same as scans want them, if all segments are held.
    pub masks: Arc<Vec<Mask>>,
}

impl Whole {
    /// Bytes that some rows and their mask take.
    fn bytes_of(rows: &Rows) -> u64 {
        match rows {
            Rows::All => 0,
            Rows::Only(only) => 2 * only.serialized_size() as u64,
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn segment(&self, made: Made) -> Option<Arc<Segment>> {
        self.lock().segments.get(&made).cloned()
    }

    pub fn keep_segment(&self, segment: &Arc<Segment>) {
        self.lock().segments.insert(segment.made, segment.clone());
    }

    pub fn deletes(&self, made: Made) -> Option<Arc<RoaringBitmap>> {
        self.lock().deletes.get(&made).map(|d| d.gone.clone())
    }

    pub fn keep_deletes(&self, made: Made, gone: &Arc<RoaringBitmap>, rows: u32) {
        let live = Arc::new(every(rows) - &**gone);
        self.lock().deletes.insert(made, Deletes { gone: gone.clone(), live });
    }

    /// The rows of a segment that are left by its deletes, if these are kept.
    pub fn live(&self, made: Made) -> Option<Arc<RoaringBitmap>> {
        self.lock().deletes.get(&made).map(|d| d.live.clone())
    }

    /// What a segment of a manifest answered a filter with before.
    pub fn answered(&self, meta: &manifest::Segment, filter: &Arc<Resolved>) -> Option<Arc<Answered>> {
        let answers = &mut self.lock().answers;
        let deletes = meta.deletes.as_ref().map(|d| d.made);
        let same =
            |a: &Arc<Answered>| a.made == meta.made && a.deletes == deletes && Arc::ptr_eq(&a.filter, filter);
        let answer = answers.remove(answers.iter().position(same)?);
        answers.push(answer.clone());
        Some(answer)
    }

    /// Keeps an answer, and as many of those before it as there is room for.
    pub fn keep_answer(&self, answer: &Arc<Answered>) {
        let answers = &mut self.lock().answers;
        answers.push(answer.clone());
        let bytes = |answers: &[Arc<Answered>]| answers.iter().map(|a| a.bytes()).sum::<u64>();
        while answers.len() > KEPT_ANSWERS || (answers.len() > 1 && bytes(answers) > KEPT_ANSWER_BYTES) {
            answers.remove(0);
        }
    }

    /// Lets go of what the newest manifest does not name: at once of what is held in memory, of the rest when there is much
    /// of it.
    pub fn trim(&self, version: Version, named: &[manifest::Segment]) {
        let mut kept = self.lock();
        if version < kept.newest {
            return;
        }
        kept.newest = version;
        kept.answers.retain(|a| named.iter().any(|n| n.made == a.made));
        kept.segments.retain(|made, s| !s.is_held() || named.iter().any(|n| n.made == *made));
        if kept.segments.len() > KEPT_SEGMENTS {
            kept.segments.retain(|made, _| named.iter().any(|s| s.made == *made));
        }
        if kept.deletes.len() > KEPT_SEGMENTS {
            kept.deletes
                .retain(|made, _| named.iter().any(|s| s.deletes.as_ref().is_some_and(|d| d.made == *made)));
        }
    }

    /// Bytes of everything that is kept.
    pub fn bytes(&self) -> u64 {
        let kept = self.lock();
        let segments: u64 = kept.segments.values().map(|s| s.bytes()).sum();
        let of_tail = kept.tail.iter().flat_map(|t| t.superseded.iter().chain(t.before.iter().map(|b| &b.1)));
        let bitmaps = of_tail.flat_map(|all| all.iter());
        let deletes = kept.deletes.values().flat_map(|d| [d.gone.as_ref(), d.live.as_ref()]);
        let bitmaps: u64 = bitmaps.chain(deletes).map(|b| b.serialized_size() as u64).sum();
        let tail = kept.tail.as_ref().map_or(0, |t| {
            t.tail.bytes() + t.whole.as_ref().map_or(0, |w| w.rows.iter().map(Whole::bytes_of).sum())
        });
        let answers: u64 = kept.answers.iter().map(|a| a.bytes()).sum();
        segments + bitmaps + tail + answers + kept.codes.as_ref().map_or(0, |c| c.bytes())
    }

    /// Ids that the last tail touched.
    pub fn last_tail_ids(&self) -> usize {
        self.lock().tail.as_ref().map_or(0, |t| t.tail.ids())
    }

    /// The tail of a snapshot, worked out once; a longer one from that which it continues.
    pub fn tail(&self, id: &CollectionId, snapshot: &Snapshot) -> Result<Arc<Tail>> {
        let (version, position) = (snapshot.manifest.version, snapshot.position);
        let watermark = snapshot.manifest.watermark;
        let mut known = None;
        if let Some(last) = &self.lock().tail
            && last.version == version
            && last.position <= position
            && last.schema == snapshot.schema
        {
            if last.position == position {
                return Ok(last.tail.clone());
            }
            let superseded = last.superseded.clone().map(|s| (last.tail.entries(), s));
            known = Some((last.tail.clone(), superseded.or_else(|| last.before.clone())));
        }
        let known = known.filter(|(tail, _)| tail.begins(watermark, &snapshot.rows));
        let (tail, before) = match known {
            Some((shorter, before)) => (shorter.extended(id, &snapshot.rows, &snapshot.tail)?, before),
            None => (Tail::new(id, watermark, &snapshot.rows, &snapshot.tail)?, None),
        };
        let tail = Arc::new(tail);
        let schema = snapshot.schema.clone();
        let last =
            LastTail { version, position, schema, tail: tail.clone(), superseded: None, before, whole: None };
        let codes = self.codes().filter(|codes| codes.begins_before(watermark));
        let above = codes.as_ref().map(|codes| Arc::new(codes.above(watermark)));
        let mut kept = self.lock();
        // An older state is read once.
        if kept.tail.as_ref().is_some_and(|t| (t.position, t.version) > (position, version)) {
            return Ok(tail);
        }
        kept.tail = Some(last);
        if codes.is_some() && is_same(&codes, &kept.codes) {
            kept.codes = above.filter(|codes| codes.covered().is_some());
        }
        Ok(tail)
    }

    /// What the tail superseded, if that was worked out.
    pub fn superseded(&self, version: Version, position: Seq) -> Option<Superseded> {
        let kept = self.lock();
        let last = kept.tail.as_ref().filter(|t| (t.version, t.position) == (version, position))?;
        last.superseded.clone()
    }

    /// What the first entries of the tail superseded, and how many entries these are, if that was worked out.
    pub fn superseded_before(&self, version: Version, position: Seq) -> Option<(usize, Superseded)> {
        let kept = self.lock();
        let last = kept.tail.as_ref().filter(|t| (t.version, t.position) == (version, position))?;
        last.before.clone()
    }

    pub fn keep_superseded(&self, version: Version, position: Seq, superseded: &Superseded) {
        if let Some(last) = &mut self.lock().tail
            && (last.version, last.position) == (version, position)
        {
            last.superseded = Some(superseded.clone());
            last.before = None;
        }
    }

    /// What searches of a state without a filter look at, if that was worked out.
    pub fn whole(&self, version: Version, position: Seq) -> Option<Arc<Whole>> {
        let kept = self.lock();
        let last = kept.tail.as_ref().filter(|t| (t.version, t.position) == (version, position))?;
        last.whole.clone()
    }

    pub fn keep_whole(&self, version: Version, position: Seq, whole: &Arc<Whole>) {
        if let Some(last) = &mut self.lock().tail
            && (last.version, last.position) == (version, position)
        {
            last.whole = Some(whole.clone());
        }
    }

    /// The codes of the tail, as far as there are any.
    pub fn codes(&self) -> Option<Arc<TailCodes>> {
        self.lock().codes.clone()
    }

    /// Makes the next chunk of codes if one is due, nobody else is at it, and there is `room` for so many bytes. Returns
    /// whether it did.
    pub fn encode(
        &self,
        version: Version,
        tail: &Tail,
        metric: Metric,
        anchor: Option<&Arc<Segment>>,
        room: impl FnOnce(u64) -> bool,
    ) -> bool {
        // A search that began before a merge would put rows under leaves that are gone.
        if version < self.lock().newest {
            return false;
        }
        let usable = |codes: &Option<Arc<TailCodes>>| codes.clone().filter(|c| c.serve(anchor));
        if !tail.wants_codes(usable(&self.codes()).as_deref()) {
            return false;
        }
        let Ok(_at_it) = self.encoding.try_lock() else { return false };
        // Another may have been at it just before.
        let codes = self.codes();
        let own = usable(&codes);
        if !tail.wants_codes(own.as_deref()) {
            return false;
        }
        let Some(more) = tail.more_codes(metric, anchor, own.as_deref(), room) else { return false };
        let mut kept = self.lock();
        // Dropped meanwhile for a newer manifest: they go on from there.
        let unchanged = version >= kept.newest && is_same(&codes, &kept.codes);
        if unchanged {
            kept.codes = Some(Arc::new(more));
        }
        unchanged
    }

    /// Whether a long tail is searched for the first time.
    pub fn first_search(&self) -> bool {
        !self.searched.swap(true, Ordering::Relaxed)
    }
}

fn is_same(a: &Option<Arc<TailCodes>>, b: &Option<Arc<TailCodes>>) -> bool {
    a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
}
