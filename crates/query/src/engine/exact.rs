//! A search of which full recall is asked: every row that counts is measured, however many there are.

use esker_format::Result;
use esker_index::TopK;
use esker_store::Meter;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::Reader;
use super::nearest::Found;
use super::rerank::Wanted;
use super::scene::Scene;
use crate::search::{Asked, Place, TAIL};
use crate::segment::Vectors;

/// Bytes of vectors that are read at a time …
const CHUNK_BYTES: usize = 8 << 20;
/// … and how many such lots at once.
const AT_ONCE: usize = 2;

/// A lot on its way.
type Read<'a> = BoxFuture<'a, Result<(&'a [u32], Vectors)>>;

impl Reader {
    /// Measures the rows of the segments, in the order they lie in, and adds them to the tail's `best`; then reads the
    /// payload of the nearest. The scene knows exactly what the tail superseded.
    pub(super) async fn exhaustive(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        asked: &Asked,
        mut best: TopK<Place>,
    ) -> Result<Found> {
        let parts = &scene.loaded.parts;
        let mut reranked = 0;
        for (number, (part, rows)) in (0u32..).zip(parts.iter().zip(scene.rows.iter())) {
            let segment = &part.segment;
            let ordinals = rows.within(0..segment.row_count());
            let chunk = (CHUNK_BYTES / scene.view.manifest.settings.stride().max(1)).max(1);
            let reads: Vec<Read<'_>> = ordinals
                .chunks(chunk)
                .map(|own| {
                    let meter = meter.fork();
                    async move { Ok((own, segment.read_vectors_alone(self.client(), &meter, own).await?)) }
                        .boxed()
                })
                .collect();
            let mut reads = stream::iter(reads).buffered(AT_ONCE);
            while let Some((own, vectors)) = reads.try_next().await? {
                for ordinal in own {
                    if let Some(bytes) = vectors.get(*ordinal) {
                        let distance = asked.exact.row_bytes(segment.width(), bytes);
                        best.push(distance, (number, u64::from(*ordinal)));
                        reranked += 1;
                    }
                }
            }
        }
        let rows = best.into_sorted();
        let mut own = vec![Vec::new(); parts.len()];
        for (_, (number, ordinal)) in rows.iter().filter(|(_, place)| place.0 != TAIL) {
            own[*number as usize].push(*ordinal as u32);
        }
        let read = self.read_rows(meter, scene, &mut Wanted::Rows(own)).await?.0;
        Ok(Found { rows, read, rule: "exact", reranked, ..Found::default() })
    }
}
