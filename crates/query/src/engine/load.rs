//! What a read needs of the segments of a manifest, apart from the tail: opened headers, the rows that live and pass
//! the filter, codes. One wave if `head` had the headers.

use std::sync::Arc;

use esker_format::head::Part as HeadPart;
use esker_format::manifest;
use esker_format::schema::Settings;
use esker_format::segment::deletes;
use esker_format::{Error, Result};
use esker_store::{Client, Meter};
use roaring::RoaringBitmap;

use super::Reader;
use super::leaves::first_leaves;
use super::see::Draft;
use super::state::Answered;
use crate::filter::{Filter, Resolved};
use crate::ranges::{File, Pieces, Shape};
use crate::search::{Asked, check_vector};
use crate::segment::{Answer, Codes, FilterPlan, IdPlane, Rows, Segment, Want, metric};

/// Up to this many ids of the tail are compared when candidates are reranked; above, ids are looked up by hash first.
pub(crate) const FEW_IDS: usize = 32;

/// What a read needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Need<'a> {
    pub filter: Option<&'a Filter>,
    /// A filter that is resolved already.
    pub resolved: Option<&'a Resolved>,
    pub now_ms: i64,
    /// Codes for these vectors.
    pub vectors: &'a [Vec<f32>],
    /// Whether codes are needed at all, even before the vector is known.
    pub codes: bool,
    pub min_recall: f32,
    /// Rows whose id has this hash.
    pub hashes: &'a [u64],
}

/// The segments of a manifest, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    pub parts: Vec<Part>,
    pub filter: Option<Arc<Resolved>>,
    /// All codes are here.
    pub whole: bool,
    /// The vectors of the need, prepared.
    pub asked: Vec<Asked>,
}

/// A segment as far as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub segment: Arc<Segment>,
    pub deletes: Option<Arc<RoaringBitmap>>,
    /// Rows that live (as far as the segment knows), have not expired and pass the filter.
    pub rows: Rows,
    /// The same, where it is known for every search to come.
    pub answered: Option<Arc<Answered>>,
    /// Whether these are all that live.
    pub plain: bool,
    pub plan: FilterPlan,
    pub codes: Arc<Codes>,
    /// For tails of many ids.
    pub idplane: Option<Arc<IdPlane>>,
    /// Rows per hash asked for.
    pub located: Vec<Vec<u32>>,
}

impl Part {
    /// Whether the segment says that a row lives. The tail may say otherwise.
    pub fn lives(&self, ordinal: u32) -> bool {
        self.deletes.as_ref().is_none_or(|d| !d.contains(ordinal))
    }
}

impl Reader {
    /// Opens the segments of a draft and reads what is needed of them.
    pub(crate) async fn load(&self, draft: Draft, need: Need<'_>) -> Result<Loaded> {
        let settings = &draft.manifest.settings;
        let asked = ask(settings, need.vectors)?;
        let filter = match (need.resolved, need.filter) {
            (Some(resolved), _) => Some(Arc::new(resolved.clone())),
            (None, Some(filter)) => {
                Some(self.inner.filters.resolve(&draft.id, settings, &draft.schema, filter)?)
            }
            (None, None) => None,
        };
        let segments = self.open_all(&draft).await?;
        let whole = reads_whole(&segments, need.min_recall, self.inner.options.whole_codes);
        let leaves = if whole || asked.is_empty() {
            vec![Vec::new(); segments.len()]
        } else {
            let all: Vec<&Segment> = segments.iter().map(AsRef::as_ref).collect();
            first_leaves(&all, &asked, need.min_recall, self.inner.options.whole_codes)
        };
        let row_bytes = 4 * u64::from(settings.dimension) + 64;
        let many_ids = draft.tail_bytes / row_bytes > FEW_IDS as u64 || draft.state.last_tail_ids() > FEW_IDS;
        let reads = segments.iter().enumerate().map(|(i, segment)| {
            let want = match (need.codes, whole) {
                (true, true) => Some(Want::All),
                (true, false) if leaves[i].is_empty() => None,
                (true, false) if leaves[i].len() == segment.header.leaf_count() as usize => Some(Want::All),
                (true, false) => Some(Want::Leaves(&leaves[i])),
                _ => None,
            };
            // Of codes that are kept all are scanned.
            let plane = if segment.held_codes().is_some() { want.map(|_| Want::All) } else { want };
            let meta = &draft.manifest.segments[i];
            let (draft, filter, leaves) = (&draft, filter.as_ref(), &leaves[i]);
            // Before any of them is sent: none waits for another.
            let meters: [Meter; 6] = std::array::from_fn(|_| draft.meter.fork());
            async move {
                let hold = segment.is_held();
                let [d, a, c, p, s, h] = &meters;
                let client = self.client();
                let known = filter.filter(|_| hold).and_then(|f| draft.state.answered(meta, f));
                let answer = async {
                    if let Some(known) = &known {
                        return Ok(Answer { rows: known.rows.clone(), plan: known.plan.clone() });
                    }
                    let filter = filter.map(AsRef::as_ref);
                    segment.answer(client, a, &draft.id, &draft.schema, filter, need.now_ms).await
                };
                let (deletes, answer, codes, idplane, (), located) = futures::try_join!(
                    self.deletes(draft, d, meta, draft.parts[i].as_ref()),
                    answer,
                    read_codes(client, c, segment, want),
                    read_idplane(client, p, segment, plane.filter(|_| many_ids && !hold)),
                    segment.read_payload_sizes(client, s, leaves),
                    segment.rows_of_hashes(client, h, need.hashes),
                )?;
                let plain = answer.rows == Rows::All;
                let left = meta.deletes.as_ref().and_then(|named| draft.state.live(named.made));
                let rows = match (&deletes, left) {
                    _ if known.is_some() => answer.rows,
                    (Some(_), Some(live)) if plain => Rows::Only(live),
                    (Some(deletes), _) => answer.rows.without(segment.row_count(), deletes),
                    (None, _) => answer.rows,
                };
                let segment = segment.clone();
                let keep = |filter| {
                    let answer = Arc::new(Answered::new(meta, filter, &rows, &answer.plan));
                    draft.state.keep_answer(&answer);
                    answer
                };
                // One that comes resolved is not met again.
                let lasting = filter.filter(|_| hold && need.resolved.is_none() && !segment.expires());
                let answered = known.or_else(|| lasting.map(keep));
                Ok::<_, Error>(Part {
                    segment,
                    deletes,
                    rows,
                    answered,
                    plain,
                    plan: answer.plan,
                    codes,
                    idplane,
                    located,
                })
            }
        });
        let parts = futures::future::try_join_all(reads).await?;
        Ok(Loaded { parts, filter, whole, asked })
    }

    /// The opened segments of a manifest: no request for those that are known or whose header `head` had.
    async fn open_all(&self, draft: &Draft) -> Result<Vec<Arc<Segment>>> {
        let opens = draft.manifest.segments.iter().zip(&draft.parts).map(|(meta, part)| {
            let meter = draft.meter.fork();
            async move {
                if let Some(segment) = draft.state.segment(meta.made) {
                    return Ok(segment);
                }
                let (keys, settings) = (draft.collection.keys(), &draft.manifest.settings);
                let segment =
                    Segment::open(self.client(), &meter, keys, meta, settings, part.as_ref()).await?;
                draft.state.keep_segment(&segment);
                Ok::<_, Error>(segment)
            }
        });
        futures::future::try_join_all(opens).await
    }

    async fn deletes(
        &self,
        draft: &Draft,
        meter: &Meter,
        meta: &manifest::Segment,
        part: Option<&HeadPart>,
    ) -> Result<Option<Arc<RoaringBitmap>>> {
        let Some(named) = &meta.deletes else { return Ok(None) };
        if let Some(known) = draft.state.deletes(named.made) {
            return Ok(Some(known));
        }
        let file = File::new(draft.collection.keys().deletes(named.made));
        let decode = |bytes: &bytes::Bytes| {
            let found = deletes::decode_all(file.key(), bytes)?;
            let fits = found.len() == named.count && found.max().is_none_or(|m| u64::from(m) < meta.rows);
            if fits { Ok(Arc::new(found)) } else { Err(Error::corrupt(file.key(), "it marks other rows")) }
        };
        let found = match part.and_then(|p| p.deletes.as_ref()).and_then(|b| decode(b).ok()) {
            Some(found) => found,
            None => {
                let whole = 0..named.size;
                let take = |pieces: &Pieces| decode(&pieces.bytes(&whole)?);
                file.read(self.client(), meter, std::slice::from_ref(&whole), Shape::AsGiven, take).await?
            }
        };
        draft.state.keep_deletes(named.made, &found, meta.rows as u32);
        Ok(Some(found))
    }
}

async fn read_codes(
    client: &Client,
    meter: &Meter,
    segment: &Segment,
    want: Option<Want<'_>>,
) -> Result<Arc<Codes>> {
    match want {
        Some(want) => segment.read_codes(client, meter, want).await,
        None => Ok(segment.held_codes().cloned().unwrap_or_default()),
    }
}

async fn read_idplane(
    client: &Client,
    meter: &Meter,
    segment: &Segment,
    want: Option<Want<'_>>,
) -> Result<Option<Arc<IdPlane>>> {
    match want {
        Some(want) => Ok(Some(Arc::new(segment.read_idplane(client, meter, want).await?))),
        None => Ok(None),
    }
}

/// Prepares query vectors, refusing those that the collection has no distances to.
pub(crate) fn ask(settings: &Settings, vectors: &[Vec<f32>]) -> Result<Vec<Asked>> {
    let prepare = |(i, vector): (usize, &Vec<f32>)| {
        let field = if vectors.len() == 1 { "vector".to_owned() } else { format!("vectors[{i}]") };
        check_vector(&field, vector, settings)?;
        Ok(Asked::new(metric(settings.metric), vector))
    };
    vectors.iter().enumerate().map(prepare).collect()
}

/// Whether all codes are read: they are few, are held anyway, or the recall is beyond what leaves were calibrated for.
pub(crate) fn reads_whole(segments: &[Arc<Segment>], min_recall: f32, few: u64) -> bool {
    let missing = segments.iter().filter(|s| s.held_codes().is_none());
    let total: u64 = segments.iter().map(|s| s.code_bytes()).sum();
    missing.count() == 0 || total <= few || min_recall > esker_index::RECALLS[3] + 1e-6
}
