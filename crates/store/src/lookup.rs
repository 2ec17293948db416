//! Point lookup: the newest version of an id in a snapshot, through the tail, then through the id map and the payload
//! of each segment. Vectors are not read here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use esker_format::avro::Decoded;
use esker_format::head::Part;
use esker_format::manifest::Segment;
use esker_format::schema::Schema;
use esker_format::segment::deletes;
use esker_format::segment::index::Header;
use esker_format::segment::payload::{PayloadRows, decode_block};
use esker_format::{Error, Kind, Result, Seq};
use futures::future::try_join_all;

use crate::cache::Piece;
use crate::client::Client;
use crate::collection::Collection;
use crate::meter::Meter;
use crate::snapshot::Snapshot;

/// The newest live version of a record.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its entry of the log and its row there: the order of versions.
    pub at: (Seq, u32),
    /// The client's own version.
    pub version: i64,
    /// After this instant it is invisible.
    pub expires_at: Option<i64>,
    /// Its columns.
    pub place: Place,
}

/// Where a record is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Row of the decoded rows of an entry of the tail.
    Tail(Arc<Decoded>, usize),
    /// Row of a payload block.
    Segment {
        /// Position among the manifest's segments.
        segment: usize,
        /// Row of the segment.
        ordinal: u32,
        /// Its payload block.
        block: Arc<PayloadRows>,
        /// Row of the block.
        row: usize,
    },
}

impl Snapshot {
    /// What the tail says of an id: nothing, or its newest version there, which may be a delete.
    fn in_tail(&self, newest: &HashMap<&str, Option<(usize, usize)>>, id: &str) -> Option<Option<Found>> {
        let place = newest.get(id)?;
        Some(place.map(|(entry, row)| found_in_tail(&self.rows[entry], row)))
    }

    /// For each of these ids that the tail has, its newest version: entry and row, or `None` if that is a delete.
    fn newest_in_tail<'a>(&self, ids: &BTreeSet<&'a str>) -> HashMap<&'a str, Option<(usize, usize)>> {
        let mut newest = HashMap::new();
        for (entry, decoded) in self.rows.iter().enumerate() {
            let (names, numbers) = (decoded.rows.column(0).as_string::<i32>(), row_numbers(decoded));
            let rows = (0..names.len()).map(|i| (names.value(i), numbers[i] as u32, Some((entry, i))));
            let tombstones = decoded.tombstones.iter().map(|t| (t.id.as_str(), t.row, None));
            let mut last: HashMap<&str, u32> = HashMap::new();
            for (id, number, place) in rows.chain(tombstones) {
                let Some(id) = ids.get(id) else { continue };
                if last.get(id).is_none_or(|n| *n <= number) {
                    last.insert(id, number);
                    newest.insert(*id, place);
                }
            }
        }
        newest
    }
}

impl Collection {
    /// The newest version of each id as of `snapshot`, in the order asked for; `None` where there is none, or where it
    /// was deleted or has expired by `now_ms`. Costs at most 4 waves, 2 with the headers in `head`.
    ///
    /// # Errors
    /// `NotFound` if an object of the snapshot was collected: take [`Collection::snapshot_newest`] and ask again.
    pub async fn lookup(
        &self,
        meter: &Meter,
        snapshot: &Snapshot,
        ids: &[&str],
        now_ms: i64,
    ) -> Result<Vec<Option<Found>>> {
        let wanted: BTreeSet<&str> = ids.iter().copied().collect();
        let tail = snapshot.newest_in_tail(&wanted);
        let rest: Vec<&str> = wanted.into_iter().filter(|id| !tail.contains_key(id)).collect();
        let schema = Arc::new(snapshot.schema.clone());
        let segments = snapshot.manifest.segments.iter().enumerate().map(|(i, segment)| {
            let (rest, schema, meter) = (&rest, &schema, meter.fork());
            let part = snapshot.parts.get(i).and_then(Option::as_ref);
            async move {
                match rest.is_empty() {
                    true => Ok(Vec::new()),
                    false => self.lookup_segment(&meter, (i, segment), part, schema, rest).await,
                }
            }
        });
        let mut stored: BTreeMap<&str, Found> = BTreeMap::new();
        for (id, found) in try_join_all(segments).await?.into_iter().flatten() {
            // Live rows of segments are disjoint; should they ever not be, the order of versions decides.
            if stored.get(id).is_none_or(|f| f.at < found.at) {
                stored.insert(id, found);
            }
        }
        // Invisible after its instant, visible at it, as everywhere.
        let alive = |f: &Found| f.expires_at.is_none_or(|at| at >= now_ms);
        let one =
            |id: &&str| snapshot.in_tail(&tail, id).unwrap_or_else(|| stored.get(id).cloned()).filter(alive);
        Ok(ids.iter().map(one).collect())
    }

    async fn lookup_segment<'a>(
        &self,
        meter: &Meter,
        (number, segment): (usize, &Segment),
        part: Option<&Part>,
        schema: &Arc<Schema>,
        ids: &[&'a str],
    ) -> Result<Vec<(&'a str, Found)>> {
        let key = self.keys().index(segment.made);
        let header = self.open_header(meter, &key, segment, part).await?;
        let hashes: Vec<u64> = ids.iter().map(|id| self.id().hash_id(id)).collect();
        let pages: Vec<Piece> =
            hashes.iter().map(|h| Piece::of(key.as_str(), header.idmap_pages(*h))).collect();
        let (map_meter, dead_meter) = (meter.fork(), meter.fork());
        let ordinals = checked(self.client(), &map_meter, &pages, |bytes| {
            hashes.iter().zip(bytes).map(|(h, b)| header.idmap_find(*h, b)).collect::<Result<Vec<_>>>()
        });
        let dead = self.read_deletes(&dead_meter, segment, part);
        let (ordinals, dead) = futures::try_join!(ordinals, dead)?;
        let alive = |o: &u32| dead.as_ref().is_none_or(|d| !d.contains(*o));
        let candidates: Vec<(&'a str, u32)> = ids
            .iter()
            .zip(ordinals)
            .flat_map(|(id, o)| o.into_iter().filter(alive).map(|o| (*id, o)).collect::<Vec<_>>())
            .collect();
        let blocks =
            self.read_blocks(meter, &key, &header, schema, candidates.iter().map(|(_, o)| *o)).await?;
        let confirm = |(id, ordinal): (&'a str, u32)| {
            let block = blocks.get(&header.payload_block_of(ordinal))?;
            let row = ordinal as usize % esker_format::segment::BLOCK_ROWS as usize;
            // Another id with the same hash.
            if row >= block.len() || block.id(row) != id {
                return None;
            }
            let (seq, n) = block.seq_row(row);
            let place = Place::Segment { segment: number, ordinal, block: block.clone(), row };
            let (version, expires_at) = (block.version(row), block.expires_at(row));
            Some((id, Found { at: (seq as Seq, n as u32), version, expires_at, place }))
        };
        Ok(candidates.into_iter().filter_map(confirm).collect())
    }

    /// The header of an index: from `head` if it is the one that was published, else from the file.
    pub(crate) async fn open_header(
        &self,
        meter: &Meter,
        key: &str,
        segment: &Segment,
        part: Option<&Part>,
    ) -> Result<Header> {
        let given = part.map(|p| &p.header).filter(|header| is_published(segment, header));
        if let Some(header) = given.and_then(|header| Header::parse(key, header.clone()).ok()) {
            return Ok(header);
        }
        Header::parse(key, self.read_header(meter, key, segment).await?)
    }

    /// The bytes of a segment's header, as they were published.
    pub(crate) async fn read_header(&self, meter: &Meter, key: &str, segment: &Segment) -> Result<Bytes> {
        let pieces = [Piece::of(key, 0..segment.header_size)];
        checked(self.client(), meter, &pieces, |bytes| match bytes {
            [header] if is_published(segment, header) => Ok(header.clone()),
            _ => Err(Error::corrupt(key, "its header is not the one that was published")),
        })
        .await
    }

    pub(crate) async fn read_deletes(
        &self,
        meter: &Meter,
        segment: &Segment,
        part: Option<&Part>,
    ) -> Result<Option<roaring::RoaringBitmap>> {
        let Some(reference) = &segment.deletes else { return Ok(None) };
        let key = self.keys().deletes(reference.made);
        let decode = |bytes: &Bytes| {
            let bitmap = deletes::decode_all(&key, bytes)?;
            match bitmap.len() == reference.count {
                true => Ok(Some(bitmap)),
                false => Err(Error::corrupt(
                    &key,
                    format!("it marks {} rows, not {}", bitmap.len(), reference.count),
                )),
            }
        };
        if let Some(bitmap) = part.and_then(|p| decode(p.deletes.as_ref()?).ok()) {
            return Ok(bitmap);
        }
        let whole = [Piece::whole(key.as_str())];
        checked(self.client(), meter, &whole, |bytes| bytes.first().map_or(Ok(None), &decode)).await
    }

    /// The payload blocks of these rows, by number.
    pub(crate) async fn read_blocks(
        &self,
        meter: &Meter,
        key: &str,
        header: &Header,
        schema: &Arc<Schema>,
        ordinals: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Arc<PayloadRows>>> {
        let ordinals: BTreeSet<u32> = ordinals.collect();
        let mut ranges: BTreeMap<u32, Range<u64>> = BTreeMap::new();
        if header.payload_sizes_in_header() {
            let blocks = ordinals.iter().map(|o| header.payload_block_of(*o));
            ranges.extend(blocks.filter_map(|b| Some((b, header.payload_block_range(b)?))));
        } else {
            let leaves: BTreeSet<u32> = ordinals.iter().map(|o| header.leaf_of(*o)).collect();
            let pages: Vec<Piece> =
                leaves.iter().map(|l| Piece::of(key, header.payload_sizes_range(*l))).collect();
            let of_leaves = checked(self.client(), meter, &pages, |bytes| {
                leaves
                    .iter()
                    .zip(bytes)
                    .map(|(l, b)| header.leaf_payload_blocks(*l, b))
                    .collect::<Result<Vec<_>>>()
            });
            let wanted: BTreeSet<u32> = ordinals.iter().map(|o| header.payload_block_of(*o)).collect();
            ranges.extend(of_leaves.await?.into_iter().flatten().filter(|(b, _)| wanted.contains(b)));
        }
        let pieces: Vec<Piece> = ranges.values().map(|r| Piece::of(key, r.clone())).collect();
        checked(self.client(), meter, &pieces, |bytes| {
            let decode =
                |(b, bytes): (&u32, &Bytes)| Ok((*b, Arc::new(decode_block(key, *b, bytes, schema)?)));
            ranges.keys().zip(bytes).map(decode).collect()
        })
        .await
    }
}

fn is_published(segment: &Segment, header: &Bytes) -> bool {
    header.len() as u64 == segment.header_size && crc32c::crc32c(header) == segment.header_crc
}

/// Pieces of immutable objects, decoded; what fails its checksum is fetched once more.
pub(crate) async fn checked<T>(
    client: &Client,
    meter: &Meter,
    pieces: &[Piece],
    decode: impl Fn(&[Bytes]) -> Result<T>,
) -> Result<T> {
    match decode(&client.cached_ranges(meter, pieces).await?) {
        Err(e) if e.kind() == Kind::Corrupt => {
            for piece in pieces {
                client.cache().forget(piece).await;
            }
            decode(&client.cached_ranges(meter, pieces).await?)
        }
        done => done,
    }
}

fn found_in_tail(decoded: &Arc<Decoded>, row: usize) -> Found {
    let columns = decoded.rows.columns();
    let from_end = |i: usize| &columns[columns.len() - i];
    let expires = from_end(4).as_primitive::<TimestampMillisecondType>();
    Found {
        at: (from_end(2).as_primitive::<Int64Type>().value(row) as Seq, row_numbers(decoded)[row] as u32),
        version: from_end(3).as_primitive::<Int64Type>().value(row),
        expires_at: expires.is_valid(row).then(|| expires.value(row)),
        place: Place::Tail(decoded.clone(), row),
    }
}

/// Column `_row`, the last (`esker_format::schema::TRAILING`).
fn row_numbers(decoded: &Decoded) -> &[i32] {
    let columns = decoded.rows.columns();
    columns[columns.len() - 1].as_primitive::<Int32Type>().values()
}

mod record;

#[cfg(test)]
mod tests;
