//! A state of a collection held in memory: searches that send no request and wait for nothing.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::concat;
use esker_format::Error;
use esker_format::{Result, Seq, limits};
use esker_index::TopK;
use esker_store::Meter;
use futures::FutureExt;
use roaring::RoaringBitmap;

use super::Reader;
use super::load::{Loaded, Need, ask};
use super::scan::bad_batch;
use super::see::{Access, Draft, View};
use crate::filter::Filter;
use crate::search::probe::{FEW, Held, probe};
use crate::search::{Place, TAIL, calibration, is_exact, is_narrow};
use crate::segment::{Codes, Mask, Rows};
use crate::tail::codes::TailCodes;
use crate::tail::column;
use crate::tail::nearest::tail_row;

/// One state of a collection in memory. It does not change when the collection does.
pub struct Warm {
    reader: Reader,
    view: View,
    loaded: Loaded,
    codes: Vec<Arc<Codes>>,
    tail_codes: Option<Arc<TailCodes>>,
    all: WarmFilter,
    /// Per segment, ids by ordinal.
    ids: Vec<StringArray>,
    now_ms: i64,
}

/// The rows of a [`Warm`] state that pass a filter.
pub struct WarmFilter {
    rows: Vec<Rows>,
    masks: Vec<Mask>,
    tail: Arc<RoaringBitmap>,
    narrow: bool,
}

/// A row that a [`Warm`] state found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmHit {
    /// The metric's own distance.
    pub distance: f32,
    place: Place,
}

/// Whether a collection is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// Rows of the state.
    pub rows: u64,
    /// The state that was read.
    pub position: Seq,
    /// Whether its segments are in memory now. If not, searches read them through the cache, as before.
    pub resident: bool,
    /// Bytes of memory that its segments take, or would.
    pub bytes: u64,
}

/// What [`Reader::read_all`] came to.
struct All {
    loaded: Loaded,
    resident: bool,
    bytes: u64,
}

impl Reader {
    /// Reads the segments of the newest state into memory, every byte checked, if [`Options`](crate::Options)`::memory` has
    /// room for them; collections that were not read for longest make room. Later searches through this engine find them
    /// there.
    pub async fn hold(&self, meter: &Meter) -> Result<Residency> {
        let (view, All { loaded, resident, bytes }) = self.read_all(meter).await?;
        let gone = self.superseded(meter, &view, &loaded).await?;
        self.inner.memory.settle(&view.id);
        let live = loaded.parts.iter().zip(gone.iter()).map(|(p, gone)| {
            let rows = p.segment.row_count();
            p.rows.clone().without(rows, gone).count(rows)
        });
        let rows = live.sum::<u64>() + view.tail.passing(None, self.now_ms())?.len();
        Ok(Residency { rows, position: view.position, resident, bytes })
    }

    /// [`Reader::hold`], and a handle for searches of just this state. What the handle has stays in memory as long as it
    /// does.
    ///
    /// # Errors
    /// Invalid when the memory allowed has no room for the collection.
    pub async fn warm(&self, meter: &Meter) -> Result<Warm> {
        let now_ms = self.now_ms();
        let (view, All { mut loaded, resident, bytes }) = self.read_all(meter).await?;
        if !resident {
            let most = self.inner.memory.most();
            let message = format!("`{}` takes {bytes} bytes in memory, of {most} allowed", self.name);
            return Err(
                Error::invalid("memory", message).with_hint("allow more memory, or search it as it is")
            );
        }
        loaded.whole = true;
        let mut ids = Vec::with_capacity(loaded.parts.len());
        for part in &loaded.parts {
            let mut groups = Vec::new();
            for group in 0..part.segment.row_groups() {
                groups.push(part.segment.read_columns(self.client(), meter, group, &["id"]).await?);
            }
            let columns = groups.iter().map(|g| column(g, "id")).collect::<Result<Vec<_>>>()?;
            ids.push(concat(&columns).map_err(bad_batch)?.as_string::<i32>().clone());
        }
        let codes =
            loaded.parts.iter().map(|p| p.segment.held_codes().cloned().unwrap_or_default()).collect();
        let none = WarmFilter { rows: Vec::new(), masks: Vec::new(), tail: Arc::default(), narrow: false };
        let tail_codes = view.state.codes();
        let mut warm = Warm { reader: self.clone(), view, codes, tail_codes, all: none, ids, now_ms, loaded };
        warm.all = warm.passing(meter, None).await?;
        Ok(warm)
    }

    /// The newest state with its segments in memory, if there is room.
    async fn read_all(&self, meter: &Meter) -> Result<(View, All)> {
        let now_ms = self.now_ms();
        let read = |draft: Draft| {
            let read = async move {
                let (id, state, meter) = (draft.id.clone(), draft.state.clone(), draft.meter.clone());
                let loaded = self.load(draft, Need { now_ms, ..Need::default() }).await?;
                let segments = || loaded.parts.iter().map(|p| &p.segment);
                let bytes = segments().map(|s| s.bytes_to_hold()).sum();
                let missing = segments().filter(|s| !s.is_held()).map(|s| s.bytes_to_hold()).sum();
                let Some(_room) = self.inner.memory.reserve(&id, &state, missing) else {
                    return Ok(All { loaded, resident: false, bytes });
                };
                for segment in segments().filter(|s| !s.is_held()) {
                    segment.hold(self.client(), &meter.fork()).await?;
                }
                Ok(All { loaded, resident: true, bytes })
            };
            read.boxed()
        };
        let (view, all) = self.see(meter, Access::default(), read).await?;
        while all.resident && self.encode_some(&view, &all.loaded) {
            tokio::task::yield_now().await;
        }
        Ok((view, all))
    }
}

impl Warm {
    /// The state.
    pub fn position(&self) -> Seq {
        self.view.position
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        let counts =
            self.all.rows.iter().zip(&self.loaded.parts).map(|(r, p)| r.count(p.segment.row_count()));
        counts.sum::<u64>() + self.all.tail.len()
    }

    /// Works out which rows pass a filter, for searches with it.
    pub async fn filter(&self, meter: &Meter, filter: &Filter) -> Result<WarmFilter> {
        self.passing(meter, Some(filter)).await
    }

    async fn passing(&self, meter: &Meter, filter: Option<&Filter>) -> Result<WarmFilter> {
        let mut draft = self.view.draft.clone();
        draft.meter = meter.clone();
        let need = Need { filter, now_ms: self.now_ms, ..Need::default() };
        let loaded = self.reader.load(draft, need).await?;
        let gone = self.reader.superseded(meter, &self.view, &loaded).await?;
        let parts = || loaded.parts.iter();
        let rows: Vec<Rows> =
            parts().zip(gone.iter()).map(|(p, g)| p.rows.clone().without(p.segment.row_count(), g)).collect();
        let masks: Vec<Mask> = parts().zip(&rows).map(|(p, r)| Mask::own(&p.segment, r)).collect();
        let matching: u64 = parts().zip(&rows).map(|(p, r)| r.count(p.segment.row_count())).sum();
        let all = parts().map(|p| u64::from(p.segment.row_count())).sum();
        let masked = parts().map(|p| &*p.segment).zip(&masks);
        Ok(WarmFilter {
            narrow: filter.is_some() && is_narrow(matching, all, masked),
            tail: self.view.tail.passing(loaded.filter.as_deref(), self.now_ms)?,
            rows,
            masks,
        })
    }

    /// How many rows pass a filter.
    pub fn count(&self, filter: &WarmFilter) -> u64 {
        let counts = filter.rows.iter().zip(&self.loaded.parts).map(|(r, p)| r.count(p.segment.row_count()));
        counts.sum::<u64>() + filter.tail.len()
    }

    /// The `k` nearest rows, nearest first.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        min_recall: f32,
        filter: Option<&WarmFilter>,
    ) -> Result<Vec<WarmHit>> {
        if !(1..=limits::K).contains(&k) {
            return Err(Error::invalid("k", format!("k is {k}, it must be between 1 and {}", limits::K)));
        }
        let asked = ask(&self.view.manifest.settings, &[query.to_vec()])?;
        let Some(asked) = asked.first() else { return Ok(Vec::new()) };
        let passing = filter.unwrap_or(&self.all);
        let mut best = TopK::new(k);
        let parts = self.loaded.parts.iter().zip(&self.codes);
        let held: Vec<Held<'_>> = (parts.zip(passing.masks.iter().zip(&passing.rows)))
            .map(|((part, codes), (mask, rows))| {
                let limits = (!passing.narrow).then(|| calibration(&part.segment, min_recall));
                Held { segment: &part.segment, codes, mask, rows, limits }
            })
            .collect();
        let exact = is_exact(min_recall);
        let effort = probe(asked, &held, if exact { u64::MAX } else { FEW }, &mut best);
        let limited = effort.limited.then_some(min_recall);
        let codes = self.tail_codes.as_deref().filter(|_| !exact);
        self.view.tail.nearest(&passing.tail, codes, asked, limited, &mut best);
        Ok(best.into_sorted().into_iter().map(|(distance, place)| WarmHit { distance, place }).collect())
    }

    /// The id of a row that was found.
    pub fn id(&self, hit: &WarmHit) -> &str {
        match hit.place {
            (TAIL, at) => {
                let (entry, row) = tail_row(at);
                column(self.view.tail.batch(entry), "id")
                    .map_or("", |ids| ids.as_string::<i32>().value(row as usize))
            }
            (segment, ordinal) => self.ids[segment as usize].value(ordinal as usize),
        }
    }
}

impl std::fmt::Debug for Warm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: usize = self.ids.iter().map(|i| i.len()).sum();
        write!(f, "Warm({}, {} rows in segments)", self.view.id, ids)
    }
}
