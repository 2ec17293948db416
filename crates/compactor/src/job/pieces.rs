//! The rows of a job: cut by neighbouring leaves, put in order bucket by bucket, and written a row group at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::segment::rows::RowsLayout;
use esker_format::{Error, Result, Seq, SetHash, Token};
use serde::{Deserialize, Serialize};

use super::bench::{Bench, Stop};
use super::learn;
use super::pack::{Pack, Unpack};
use super::sources::Sources;
use crate::build::units::{Bucket, Cell, Frame};
use crate::compact::blocking;

/// What is known of an input row group that was cut.
pub(super) struct Part {
    key: String,
    /// Its rows in the order in which they lie there, as numbers from 0, and the leaf of each.
    order: Vec<u32>,
    leaves: Vec<u32>,
    cells: Vec<Cell>,
    /// Rows that expired: ordinal and hash.
    pub(super) dropped: Vec<(u32, SetHash)>,
    /// Sum of the hashes of the rows that move.
    pub(super) hash: SetHash,
}

impl Part {
    /// Rows that move.
    pub(super) fn rows(&self) -> usize {
        self.order.len()
    }

    fn unpack(bench: &Bench<'_>, name: &str, mut kept: Unpack) -> Result<Part> {
        let (token, hash): (Token, SetHash) = kept.json()?;
        let (order, leaves): (Vec<u32>, Vec<u32>) = (kept.numbers()?, kept.numbers()?);
        let (rows, lengths, crcs): (Vec<u32>, Vec<u64>, Vec<u32>) =
            (kept.numbers()?, kept.numbers()?, kept.numbers()?);
        let (ordinals, hashes): (Vec<u32>, Vec<u128>) = (kept.numbers()?, kept.numbers()?);
        let all = rows.iter().map(|rows| *rows as usize).sum::<usize>();
        if all != order.len()
            || all != leaves.len()
            || rows.len() != lengths.len()
            || rows.len() != crcs.len()
        {
            return Err(Error::corrupt(kept.key(), "its parts contradict each other"));
        }
        let cells = rows.into_iter().zip(lengths).zip(crcs);
        Ok(Part {
            key: bench.data_key(name, token),
            order,
            leaves,
            cells: cells.map(|((rows, length), crc)| Cell { rows, length, crc }).collect(),
            dropped: ordinals.into_iter().zip(hashes.into_iter().map(SetHash)).collect(),
            hash,
        })
    }
}

/// Cuts every input row group.
pub(super) async fn parts(
    bench: &mut Bench<'_>,
    sources: &Sources<'_>,
    frame: &Frame<'_>,
) -> Result<Vec<Part>, Stop> {
    let missing = |bench: &Bench<'_>| (0..sources.groups.len()).find(|n| !bench.has(&format!("part-{n}")));
    if missing(bench).is_some() {
        let leaves = learn::leaves(bench, sources, frame).await?;
        let slices = frame.slices(&leaves);
        bench.stage = "part";
        while let Some(number) = missing(bench) {
            bench.turn()?;
            let name = format!("part-{number}");
            let moved = sources.rows(bench.meter, sources.groups[number]).await?;
            let parted = blocking(|| frame.part(&moved.batch, &leaves, &slices))?;
            let token = bench.keep_data(&name, parted.data.into()).await?;
            let (ordinals, hashes): (Vec<u32>, Vec<u128>) =
                moved.dropped.iter().map(|(ordinal, hash)| (*ordinal, hash.0)).unzip();
            let cells = parted.cells.iter();
            let pack = Pack::default()
                .json(&(token, moved.hash))?
                .numbers(&parted.order)
                .numbers(&parted.leaves)
                .numbers(&cells.clone().map(|cell| cell.rows).collect::<Vec<_>>())
                .numbers(&cells.clone().map(|cell| cell.length).collect::<Vec<_>>())
                .numbers(&cells.map(|cell| cell.crc).collect::<Vec<_>>())
                .numbers(&ordinals)
                .numbers(&hashes);
            bench.keep(&name, pack).await?;
        }
    }
    let kept = bench.load_all("part", sources.groups.len()).await?;
    let parts = kept.into_iter().enumerate();
    Ok(parts.map(|(n, kept)| Part::unpack(bench, &format!("part-{n}"), kept)).collect::<Result<_>>()?)
}

/// An output row group that is written.
pub(super) struct Piece {
    /// Its file, and behind it its payload blocks.
    pub(super) key: String,
    pub(super) layout: RowsLayout,
    pub(super) facts: Facts,
    /// Sizes of the payload blocks.
    pub(super) sizes: Vec<u32>,
    pub(super) hashes: Vec<u64>,
    /// Numbers of its rows among those of all inputs.
    pub(super) order: Vec<u32>,
    /// Vectors of those of its rows that are asked as queries.
    pub(super) asked: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Facts {
    token: Token,
    pub(super) sum: SetHash,
    pub(super) seqs: (Seq, Seq),
    /// CRC32C of the payload blocks.
    pub(super) blocks_crc: u32,
}

impl Piece {
    /// Bytes of its payload blocks.
    pub(super) fn blocks_length(&self) -> u64 {
        self.sizes.iter().map(|size| u64::from(*size)).sum()
    }

    fn unpack(bench: &Bench<'_>, name: &str, mut kept: Unpack) -> Result<Piece> {
        let facts: Facts = kept.json()?;
        let layout = kept.bytes()?;
        let layout = RowsLayout::decode(kept.key(), &layout)?;
        let piece = Piece {
            key: bench.data_key(name, facts.token),
            layout,
            facts,
            sizes: kept.numbers()?,
            hashes: kept.numbers()?,
            order: kept.numbers()?,
            asked: kept.numbers()?,
        };
        let rows = piece.layout.address.rows as usize;
        match piece.hashes.len() == rows && piece.order.len() == rows {
            true => Ok(piece),
            false => Err(Error::corrupt(kept.key(), "it is about other rows than its layout")),
        }
    }
}

/// The leaves of all rows, in the order of their ordinals.
pub(super) struct Centres {
    /// First ordinal of each, and the number of rows.
    pub(super) starts: Vec<u32>,
    pub(super) centroids: Vec<f32>,
    /// Sum of the squared residuals of all rows.
    pub(super) square: f64,
}

impl Centres {
    fn unpack(mut kept: Unpack) -> Result<Centres> {
        Ok(Centres { starts: kept.numbers()?, centroids: kept.numbers()?, square: kept.number()? })
    }
}

/// Writes all rows: none make no pieces.
pub(super) async fn pieces(
    bench: &mut Bench<'_>,
    frame: &Frame<'_>,
    parts: &[Part],
) -> Result<(Vec<Piece>, Centres), Stop> {
    let rows: usize = parts.iter().map(Part::rows).sum();
    let in_group = frame.group_rows() as usize;
    let count = rows.div_ceil(in_group);
    let missing = |bench: &Bench<'_>| (0..count).find(|n| !bench.has(&format!("piece-{n}")));
    if missing(bench).is_some() || !bench.has("centres") {
        bench.stage = "write";
        let mut shelf = Shelf::new(frame, parts);
        let asked = frame.asked(rows);
        while let Some(number) = missing(bench) {
            let first = number * in_group;
            let (batches, order) = shelf.rows(bench, first..rows.min(first + in_group)).await?;
            bench.turn()?;
            let made = blocking(|| frame.piece(first as u32, &batches, &asked))?;
            let name = format!("piece-{number}");
            let blocks_crc = crc32c::crc32c(&made.payload.blocks);
            let data = [&made.file[..], &made.payload.blocks].concat();
            let token = bench.keep_data(&name, data.into()).await?;
            let facts = Facts { token, sum: made.sum, seqs: made.seqs, blocks_crc };
            let pack = Pack::default()
                .json(&facts)?
                .bytes(&made.layout.encode())
                .numbers(&made.payload.sizes)
                .numbers(&made.hashes)
                .numbers(&order)
                .numbers(&made.asked);
            bench.keep(&name, pack).await?;
        }
        if !bench.has("centres") {
            shelf.centres(bench).await?;
        }
    }
    let Some(centres) = bench.load("centres").await? else {
        return Err(Error::internal("the leaves of a job were not kept").into());
    };
    let kept = bench.load_all("piece", count).await?.into_iter().enumerate();
    let pieces = kept.map(|(n, kept)| Piece::unpack(bench, &format!("piece-{n}"), kept));
    Ok((pieces.collect::<Result<_>>()?, Centres::unpack(centres)?))
}

/// Buckets, each put in order once.
struct Shelf<'a> {
    frame: &'a Frame<'a>,
    parts: &'a [Part],
    buckets: Vec<Bucket>,
    /// The first row of each bucket, and of each part, among all.
    firsts: Vec<usize>,
    part_firsts: Vec<usize>,
    /// Buckets that were read, in order, and the numbers of their rows: those of the present row group, the last of which may
    /// go beyond it.
    read: BTreeMap<usize, Arc<Ordered>>,
}

/// The rows of a bucket in order, and their numbers among those of all inputs.
type Ordered = (Vec<RecordBatch>, Vec<u32>);

impl<'a> Shelf<'a> {
    fn new(frame: &'a Frame<'a>, parts: &'a [Part]) -> Self {
        let cells: Vec<&[Cell]> = parts.iter().map(|part| part.cells.as_slice()).collect();
        let buckets = frame.buckets(&cells);
        let sums = |rows: &mut dyn Iterator<Item = usize>| {
            let mut sum = 0;
            rows.map(|rows| (sum, sum += rows).0).collect()
        };
        let firsts = sums(&mut buckets.iter().map(|bucket| bucket.rows));
        let part_firsts = sums(&mut parts.iter().map(Part::rows));
        Shelf { frame, parts, buckets, firsts, part_firsts, read: BTreeMap::new() }
    }

    /// Some rows by ordinal, and their numbers among those of all inputs.
    async fn rows(
        &mut self,
        bench: &mut Bench<'_>,
        rows: std::ops::Range<usize>,
    ) -> Result<(Vec<RecordBatch>, Vec<u32>), Stop> {
        let (mut out, mut order) = (Vec::new(), Vec::with_capacity(rows.len()));
        for number in 0..self.buckets.len() {
            let first = self.firsts[number];
            let own = rows.start.max(first)..rows.end.min(first + self.buckets[number].rows);
            if own.is_empty() {
                continue;
            }
            self.read.retain(|read, _| self.firsts[*read] + self.buckets[*read].rows > rows.start);
            let bucket = self.bucket(bench, number).await?;
            let (batches, inputs) = &*bucket;
            order.extend(&inputs[own.start - first..own.end - first]);
            let mut at = first;
            for batch in batches.iter() {
                let part = own.start.max(at)..own.end.min(at + batch.num_rows());
                if !part.is_empty() {
                    out.push(batch.slice(part.start - at, part.len()));
                }
                at += batch.num_rows();
            }
        }
        Ok((out, order))
    }

    /// The rows of a bucket in order, and their numbers.
    async fn bucket(&mut self, bench: &mut Bench<'_>, number: usize) -> Result<Arc<Ordered>, Stop> {
        if let Some(read) = self.read.get(&number) {
            return Ok(read.clone());
        }
        let name = format!("bucket-{number}");
        if !bench.has(&name) {
            bench.turn()?;
        }
        let (mut inputs, mut leaves) = (Vec::new(), Vec::new());
        for (part_number, slice) in &self.buckets[number].cells {
            let part = &self.parts[*part_number];
            let row = part.cells[..*slice].iter().map(|c| c.rows as usize).sum::<usize>();
            let own = row..row + part.cells[*slice].rows as usize;
            inputs.extend(
                part.order[own.clone()].iter().map(|row| self.part_firsts[*part_number] as u32 + row),
            );
            leaves.extend_from_slice(&part.leaves[own]);
        }
        let checked = self.cells(bench, &self.buckets[number]).await?;
        let frame = self.frame;
        let source = blocking(|| frame.gather(checked))?;
        let mut kept = match bench.load(&name).await? {
            Some(kept) => kept,
            None => {
                let made = blocking(|| frame.arrange(&source, leaves));
                let pack = Pack::default()
                    .numbers(&made.order)
                    .numbers(&made.sizes)
                    .numbers(&made.centroids)
                    .numbers(&[made.square]);
                bench.keep(&name, pack).await?
            }
        };
        let order: Vec<u32> = kept.numbers()?;
        if order.len() != inputs.len() || order.iter().any(|row| *row as usize >= inputs.len()) {
            return Err(Error::corrupt(kept.key(), "it is the order of other rows").into());
        }
        let inputs = order.iter().map(|row| inputs[*row as usize]).collect();
        let read = Arc::new((blocking(|| frame.ordered(source, &order))?, inputs));
        self.read.insert(number, read.clone());
        Ok(read)
    }

    /// The bytes and the rows of each cell of a bucket. Those of a part lie beside each other: one request.
    async fn cells(&self, bench: &Bench<'_>, bucket: &Bucket) -> Result<Vec<(Bytes, usize)>> {
        let mut by_part: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (part, slice) in &bucket.cells {
            let slices = by_part.entry(*part).or_insert((*slice, *slice));
            *slices = (slices.0.min(*slice), slices.1.max(*slice));
        }
        let at = |part: &Part, slice: usize| part.cells[..slice].iter().map(|c| c.length).sum::<u64>();
        let ranges = by_part.iter().map(|(number, (first, last))| {
            let part = &self.parts[*number];
            (part.key.clone(), at(part, *first)..at(part, last + 1))
        });
        let read = bench.ranges(ranges.collect()).await?;
        let read: BTreeMap<usize, Bytes> = by_part.keys().copied().zip(read).collect();
        let cut = bucket.cells.iter().map(|(number, slice)| {
            let (part, cell) = (&self.parts[*number], self.parts[*number].cells[*slice]);
            let start = (at(part, *slice) - at(part, by_part[number].0)) as usize;
            let bytes = read[number].slice(start..start + cell.length as usize);
            match crc32c::crc32c(&bytes) == cell.crc {
                true => Ok((bytes, cell.rows as usize)),
                false => Err(Error::corrupt(&part.key, "rows of it fail their checksum")),
            }
        });
        cut.collect()
    }

    /// Keeps the leaves of all buckets, one after the other.
    async fn centres(&self, bench: &mut Bench<'_>) -> Result<(), Stop> {
        let (mut starts, mut centroids, mut square) = (vec![0u32], Vec::new(), 0.0);
        for mut kept in bench.load_all("bucket", self.buckets.len()).await? {
            let (_, sizes): (Vec<u32>, Vec<u32>) = (kept.numbers()?, kept.numbers()?);
            for size in sizes {
                starts.push(starts[starts.len() - 1] + size);
            }
            centroids.extend(kept.numbers::<4, f32>()?);
            square += kept.number::<8, f64>()?;
        }
        let pack = Pack::default().numbers(&starts).numbers(&centroids).numbers(&[square]);
        bench.keep("centres", pack).await?;
        Ok(())
    }
}
