//! `search`: from the request to the reply.

use esker_format::{Error, Kind, Result};
use esker_store::Meter;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::Reader;
use super::hits::{Include, hits};
use super::leaves::first_leaves;
use super::load::{Loaded, Need, ask};
use super::nearest::{Found, Scene};
use super::see::View;
use crate::search::{
    Asked, Explain, Hit, Search, SearchReply, SegmentExplain, calibrated_recall, calibration, check_columns,
    check_reply,
};
use crate::segment::{Rows, Want};

/// Vectors of a request that are searched at once.
const AT_ONCE: usize = 8;

/// The search of one vector: what it found, and how.
type One<'a> = BoxFuture<'a, Result<(Vec<Hit>, Found)>>;

impl Reader {
    /// The nearest rows. A query that has at least k matches returns k hits; expired rows are hidden.
    ///
    /// # Errors
    /// `Invalid`, naming the field, for a request that the collection cannot answer; `NotFound` if there is no such
    /// collection or no row to search like; `Corrupt`, naming the object, rather than a wrong answer.
    pub async fn search(&self, meter: &Meter, search: &Search) -> Result<SearchReply> {
        search.check()?;
        let now_ms = self.now_ms();
        let (view, mut loaded) = self
            .see(meter, search.access(), |draft| {
                let read = async move {
                    check_columns(search.include.as_deref(), &draft.schema)?;
                    if search.include_vector {
                        let rows = search.k * search.vectors.len().max(1);
                        check_reply("k", rows, &draft.manifest.settings)?;
                    }
                    let hashes: Vec<u64> = search.like.iter().map(|id| draft.id.hash_id(id)).collect();
                    let need = Need {
                        filter: search.filter.as_ref(),
                        resolved: None,
                        now_ms,
                        vectors: &search.vectors,
                        codes: true,
                        min_recall: search.min_recall,
                        hashes: &hashes,
                    };
                    self.load(draft, need).await
                };
                read.boxed()
            })
            .await?;
        let before = meter.fork();
        let asked: Vec<Asked> = match &search.like {
            None => loaded.asked.clone(),
            Some(id) => {
                let vector = self.vector_of(&before, &view, &loaded, id, now_ms).await?;
                let asked = ask(&view.manifest.settings, &[vector])?;
                self.load_codes(&meter.fork(), &mut loaded, &asked, search.min_recall).await?;
                asked
            }
        };
        let include = Include::new(search.include.as_deref(), search.include_vector);
        let mut scene = self.scene(meter, &view, &loaded, search.k, search.min_recall, now_ms).await?;
        scene.payload = !include.is_bare();
        // None depends on another, though not all are under way at once.
        let meters: Vec<Meter> = asked.iter().map(|_| meter.fork()).collect();
        let many = asked.len() > 1;
        let (view, loaded, scene, include) = (&view, &loaded, &scene, &include);
        let searches: Vec<One<'_>> = asked
            .iter()
            .zip(&meters)
            .map(|(asked, meter)| {
                let one = async move {
                    let mut found = self.nearest(meter, scene, asked).await?;
                    let mut hits = hits(view, loaded, &found, include)?;
                    if let Some(most) = search.max_distance {
                        hits.retain(|h| h.distance <= most);
                    }
                    // What was read for a vector is not kept until all are done.
                    found.read = Vec::new();
                    if many {
                        // Those in memory wait for nothing: others get their turn, and the deadline its say.
                        tokio::task::yield_now().await;
                    }
                    Ok((hits, found))
                };
                one.boxed()
            })
            .collect();
        let (results, found): (Vec<_>, Vec<_>) =
            stream::iter(searches).buffered(AT_ONCE).try_collect::<Vec<_>>().await?.into_iter().unzip();
        let explain = search.explain.then(|| explain(scene, &found, search.min_recall));
        Ok(SearchReply {
            results,
            position: view.position,
            version: view.manifest.version,
            schema: view.schema.clone(),
            staleness_ms: view.staleness_ms,
            io: meter.io(),
            explain,
        })
    }

    /// The vector of the newest version of a row.
    async fn vector_of(
        &self,
        meter: &Meter,
        view: &View,
        loaded: &Loaded,
        id: &str,
        now_ms: i64,
    ) -> Result<Vec<f32>> {
        let missing =
            || Error::new(Kind::NotFound, format!("there is no row `{}` to search like", id.escape_debug()));
        match view.tail.get(id) {
            Some(Some(row)) if !view.tail.expired(row, now_ms)? => return Ok(view.tail.vector(row)),
            Some(_) => return Err(missing()),
            None => {}
        }
        for part in &loaded.parts {
            let rows: Vec<u32> = part.located.iter().flatten().copied().filter(|o| part.lives(*o)).collect();
            if rows.is_empty() {
                continue;
            }
            let (vectors_meter, payload_meter) = (meter.fork(), meter.fork());
            let (vectors, payload) = futures::try_join!(
                part.segment.read_vectors_alone(self.client(), &vectors_meter, &rows),
                part.segment.read_payload(self.client(), &payload_meter, &view.schema, rows.iter().copied())
            )?;
            for ordinal in rows {
                let Some((block, row)) = payload.row(ordinal).filter(|(b, row)| b.id(*row) == id) else {
                    continue;
                };
                if block.expires_at(row).is_some_and(|at| at < now_ms) {
                    continue;
                }
                if let Some(bytes) = vectors.get(ordinal) {
                    return Ok(part.segment.floats(bytes));
                }
            }
        }
        Err(missing())
    }

    /// Reads the codes for vectors that were not known when the segments were loaded.
    async fn load_codes(
        &self,
        meter: &Meter,
        loaded: &mut Loaded,
        asked: &[Asked],
        min_recall: f32,
    ) -> Result<()> {
        if loaded.whole {
            return Ok(());
        }
        let segments: Vec<_> = loaded.parts.iter().map(|p| p.segment.clone()).collect();
        let all: Vec<_> = segments.iter().map(AsRef::as_ref).collect();
        let leaves = first_leaves(&all, asked, min_recall, self.inner.options.whole_codes);
        let reads = segments.iter().zip(&leaves).map(|(segment, leaves)| {
            let (codes_meter, sizes_meter) = (meter.fork(), meter.fork());
            async move {
                let codes = segment.read_codes(self.client(), &codes_meter, Want::Leaves(leaves));
                let sizes = segment.read_payload_sizes(self.client(), &sizes_meter, leaves);
                futures::try_join!(codes, sizes)
            }
        });
        let read = futures::future::try_join_all(reads).await?;
        for (part, (codes, ())) in loaded.parts.iter_mut().zip(read) {
            part.codes = codes;
            part.idplane = None;
        }
        Ok(())
    }
}

fn explain(scene: &Scene<'_>, found: &[Found], min_recall: f32) -> Explain {
    let sum = |of: fn(&Found) -> u64| found.iter().map(of).sum();
    let segment = |(part, rows): (&super::load::Part, &Rows)| {
        let (header, limits) = (&part.segment.header, calibration(&part.segment, min_recall));
        SegmentExplain {
            rows: u64::from(part.segment.row_count()),
            matching: rows.count(part.segment.row_count()),
            leaves: header.leaf_count(),
            b: limits.b,
            delta: limits.delta,
            rerank: limits.rerank,
            filter: part.plan.clone(),
        }
    };
    let calibrated =
        scene.loaded.parts.iter().map(|p| calibrated_recall(&p.segment, min_recall)).fold(1.0, f32::min);
    Explain {
        rule: found.first().map_or("tail", |f| f.rule),
        filter: scene.loaded.filter.as_ref().map(|f| f.to_string()),
        segments: scene.loaded.parts.iter().zip(scene.rows.iter()).map(segment).collect(),
        matching: scene.matching(),
        leaves_probed: sum(|f| f.leaves),
        codes_scanned: sum(|f| f.codes),
        rows_reranked: sum(|f| f.reranked),
        estimated_recall: if scene.is_exact() || found.iter().all(|f| matches!(f.rule, "rows" | "tail")) {
            1.0
        } else {
            let missed = found.iter().map(|f| f.missed).sum::<f64>() / found.len().max(1) as f64;
            let left_out = found.iter().map(|f| f.left_out).sum::<f64>() / found.len().max(1) as f64;
            (calibrated.min(1.0 - missed as f32) - left_out as f32).clamp(0.0, 1.0)
        },
        tail_rows: sum(|f| f.tail_rows),
        tail_ids: scene.view.tail.ids() as u64,
        restarts: scene.view.restarts,
        further_rounds: found.iter().map(|f| f.rounds).sum(),
    }
}
