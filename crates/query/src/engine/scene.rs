//! What the searches of one request share: the rows that count, of the segments and of the tail.

use std::sync::Arc;

use esker_format::Result;
use esker_index::TopK;
use esker_store::Meter;
use roaring::RoaringBitmap;

use super::Reader;
use super::load::{FEW_IDS, Loaded, Part};
use super::see::View;
use super::state::Whole;
use crate::search::{Asked, Place, is_exact};
use crate::segment::{Mask, Rows, metric};
use crate::tail::codes::{TailCodes, anchor};
use crate::tail::nearest::{EXACT_ROWS, Measured};

/// See the module.
pub(crate) struct Scene<'a> {
    pub view: &'a View,
    pub loaded: &'a Loaded,
    /// Per segment, the rows that count; those that the tail superseded are gone if `resolved`.
    pub rows: Arc<Vec<Rows>>,
    /// The same as scans want them, if all segments are held.
    pub masks: Arc<Vec<Mask>>,
    /// Whether what the tail superseded is known exactly.
    pub resolved: bool,
    /// Newest rows of the tail that pass, by number.
    pub tail: Arc<RoaringBitmap>,
    /// Codes of the tail, as far as there are any.
    pub codes: Option<Arc<TailCodes>>,
    pub k: usize,
    pub min_recall: f32,
    /// Whether the payload of hits is wanted even where their heads are held.
    pub payload: bool,
}

impl Scene<'_> {
    /// Rows of segments that count, before the tail's ids are compared.
    pub fn matching(&self) -> u64 {
        let count = |(rows, part): (&Rows, &Part)| rows.count(part.segment.row_count());
        self.rows.iter().zip(&self.loaded.parts).map(count).sum()
    }

    /// Whether everything is in memory.
    pub fn is_held(&self) -> bool {
        self.resolved && self.masks.len() == self.loaded.parts.len()
    }

    /// Whether every row that counts is measured.
    pub fn is_exact(&self) -> bool {
        is_exact(self.min_recall)
    }

    /// How many candidates may turn out to be overwritten.
    pub fn doubtful(&self) -> usize {
        let ids = self.view.tail.ids();
        if self.resolved || ids > FEW_IDS { 0 } else { ids }
    }

    /// Whether rows that the tail may have overwritten are told apart by the hash of their id.
    pub fn by_hash(&self) -> bool {
        !self.resolved && self.view.tail.ids() > FEW_IDS
    }

    /// Rows of a leaf that count; the copies of others that it has are not among them.
    pub fn rows_in_leaf(&self, part: usize, leaf: u32) -> u64 {
        let own = self.loaded.parts[part].segment.header.leaf(leaf).ordinals;
        match &self.rows[part] {
            Rows::All => own.len() as u64,
            Rows::Only(only) => only.range_cardinality(own),
        }
    }

    /// Adds the tail's nearest rows. `limited` if the limits of segments hold for this query.
    pub fn add_tail(&self, asked: &Asked, limited: bool, best: &mut TopK<Place>) -> Measured {
        let min_recall = limited.then_some(self.min_recall);
        self.view.tail.nearest(&self.tail, self.codes.as_deref(), asked, min_recall, best)
    }
}

impl Reader {
    /// What all vectors of a request are searched in.
    pub(crate) async fn scene<'a>(
        &self,
        meter: &Meter,
        view: &'a View,
        loaded: &'a Loaded,
        k: usize,
        min_recall: f32,
        now_ms: i64,
    ) -> Result<Scene<'a>> {
        let (version, position, state) = (view.manifest.version, view.position, &view.state);
        let held = loaded.parts.iter().all(|p| p.segment.is_held());
        let plain = loaded.filter.is_none() && loaded.parts.iter().all(|p| p.plain);
        let known = if plain { state.whole(version, position) } else { None };
        let known = known.filter(|whole| !held || whole.masks.len() == loaded.parts.len());
        let (rows, masks, resolved) = match known {
            Some(whole) => {
                (whole.rows.clone(), if held { whole.masks.clone() } else { Arc::default() }, true)
            }
            None => {
                // In memory what the tail superseded costs no request to find; elsewhere it may be known already.
                let superseded = match state.superseded(version, position) {
                    None if held || is_exact(min_recall) || view.tail.ids() == 0 => {
                        Some(self.superseded(meter, view, loaded).await?)
                    }
                    known => known,
                };
                let rows = Arc::new(counting(loaded, superseded.as_ref().map(|s| s.as_slice())));
                let masks = match &superseded {
                    Some(gone) if held => masks(loaded, &rows, gone),
                    _ => Vec::new(),
                };
                let masks = Arc::new(masks);
                if plain && superseded.is_some() {
                    let whole = Whole { rows: rows.clone(), masks: masks.clone() };
                    state.keep_whole(version, position, &Arc::new(whole));
                }
                (rows, masks, superseded.is_some())
            }
        };
        let tail = view.tail.passing(loaded.filter.as_deref(), now_ms)?;
        let codes =
            (tail.len() > EXACT_ROWS && !is_exact(min_recall)).then(|| self.codes(view, loaded)).flatten();
        Ok(Scene { view, loaded, rows, masks, resolved, tail, codes, k, min_recall, payload: true })
    }

    /// The codes of a long tail. Each search but the first makes some of those that are missing.
    fn codes(&self, view: &View, loaded: &Loaded) -> Option<Arc<TailCodes>> {
        if !view.state.first_search() {
            self.encode_some(view, loaded);
        }
        view.state.codes()
    }

    /// Makes codes of some rows of the tail that have none, if they are many; false when there is nothing to do.
    pub(super) fn encode_some(&self, view: &View, loaded: &Loaded) -> bool {
        let memory = &self.inner.memory;
        let room = |bytes| memory.bytes().saturating_add(bytes) <= memory.most();
        let (manifest, anchor) = (&view.manifest, anchor(loaded.parts.iter().map(|p| &p.segment)));
        view.state.encode(manifest.version, &view.tail, metric(manifest.settings.metric), anchor, room)
    }
}

/// Per segment the rows that count.
fn counting(loaded: &Loaded, superseded: Option<&[RoaringBitmap]>) -> Vec<Rows> {
    let Some(gone) = superseded else { return loaded.parts.iter().map(|p| p.rows.clone()).collect() };
    let all = loaded.parts.iter().zip(gone);
    all.map(|(p, gone)| p.rows.clone().without(p.segment.row_count(), gone)).collect()
}

fn masks(loaded: &Loaded, rows: &[Rows], gone: &[RoaringBitmap]) -> Vec<Mask> {
    let mask = |((part, rows), gone): ((&Part, &Rows), &RoaringBitmap)| {
        let known = part.answered.as_ref().and_then(|a| a.mask(&part.segment, gone));
        known.unwrap_or_else(|| Mask::own(&part.segment, rows))
    };
    loaded.parts.iter().zip(rows).zip(gone).map(mask).collect()
}
