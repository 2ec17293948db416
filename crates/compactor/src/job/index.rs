//! Codes, limits and attributes of a job's rows, from the row groups that it wrote.

use esker_format::schema::arrow_schema;
use esker_format::segment::attributes::{Attributes, ColumnsWriter};
use esker_format::segment::index::{Calibration, IndexSummary};
use esker_format::segment::payload::Payload;
use esker_format::segment::rows::{RowsLayout, decode_chunk};
use esker_format::{Error, Result, Seq, SetHash, Token};
use esker_index::Neighbours;

use super::bench::{Bench, Stop};
use super::pack::Pack;
use super::pieces::{Centres, Piece};
use crate::build::units::{
    Coder, Frame, IndexOf, Needs, Stretch, check_vectors, joined, stored, vectors_range,
};
use crate::compact::blocking;

/// Queries whose needs are one result.
const QUERIES: usize = 64;

/// What attributes a column has, laid out.
struct Column {
    key: String,
    entry: Vec<u8>,
    length: u64,
    crc: u32,
}

/// The index file as it is laid out, and what a manifest and `head` say of it.
pub(super) struct Laid {
    pub(super) summary: IndexSummary,
    pub(super) stretches: Vec<Stretch>,
    /// Objects that the columns' attributes are, one after the other.
    pub(super) columns: Vec<(String, u64)>,
    pub(super) codes: Option<bytes::Bytes>,
    pub(super) seqs: (Seq, Seq),
    pub(super) sum: SetHash,
}

impl Laid {
    /// What opens the index file.
    pub(super) fn header(&self) -> bytes::Bytes {
        let first = self.stretches.iter().find_map(|stretch| match stretch {
            Stretch::Bytes(bytes) => bytes.get(..self.summary.header_len as usize).map(|_| bytes),
            _ => None,
        });
        first.map(|bytes| bytes.slice(..self.summary.header_len as usize)).unwrap_or_default()
    }
}

/// Encodes all rows and lays the index out.
pub(super) async fn laid(
    bench: &mut Bench<'_>,
    frame: &Frame<'_>,
    pieces: &[Piece],
    layout: RowsLayout,
    centres: Centres,
) -> Result<Laid, Stop> {
    let queries: Vec<f32> = pieces.iter().flat_map(|piece| &piece.asked).copied().collect();
    let Centres { starts, centroids, square } = centres;
    let mut coder = blocking(|| Coder::new(frame, starts, &centroids, square))?;
    let found = encode(bench, &mut coder, pieces, &queries).await?;
    let needs = calibrate(bench, &coder, queries, &found).await?;
    drop(found);
    let (columns, attributes) = attributes(bench, frame, pieces, &layout).await?;
    let calibration = blocking(|| Coder::calibration(&needs));
    blocking(|| lay(&coder, pieces, &layout, columns, &attributes, calibration)).map_err(Stop::from)
}

fn lay(
    coder: &Coder<'_>,
    pieces: &[Piece],
    layout: &RowsLayout,
    columns: Vec<Column>,
    attributes: &Attributes,
    calibration: [Calibration; 4],
) -> Result<Laid> {
    let hashes: Vec<u64> = pieces.iter().flat_map(|piece| &piece.hashes).copied().collect();
    let sizes = pieces.iter().flat_map(|piece| &piece.sizes).copied().collect();
    let join = |all: (u64, u32), (length, crc): (u64, u32)| {
        (all.0 + length, crc32c::crc32c_combine(all.1, crc, length as usize))
    };
    let blocks = pieces.iter().map(|piece| (piece.blocks_length(), piece.facts.blocks_crc));
    let first =
        |seqs: (Seq, Seq), piece: &Piece| (seqs.0.min(piece.facts.seqs.0), seqs.1.max(piece.facts.seqs.1));
    let seqs = pieces.iter().fold((Seq::MAX, 0), first);
    let (summary, stretches) = coder.index(&IndexOf {
        layout,
        seqs,
        hashes: &hashes,
        payload: &Payload { blocks: Vec::new(), sizes },
        blocks: blocks.fold((0, 0), join),
        attributes,
        columns: columns.iter().map(|column| (column.length, column.crc)).fold((0, 0), join),
        calibration,
    })?;
    Ok(Laid {
        summary,
        stretches,
        columns: columns.into_iter().map(|column| (column.key, column.length)).collect(),
        codes: coder.codes(),
        seqs,
        sum: pieces.iter().map(|piece| piece.facts.sum).sum(),
    })
}

/// What was found of each query in each row group. The coder has all codes then.
async fn encode(
    bench: &mut Bench<'_>,
    coder: &mut Coder<'_>,
    pieces: &[Piece],
    queries: &[f32],
) -> Result<Vec<Vec<(f32, u32)>>, Stop> {
    bench.stage = "encode";
    let mut first = 0;
    for (number, piece) in pieces.iter().enumerate() {
        let name = format!("codes-{number}");
        if !bench.has(&name) {
            bench.turn()?;
            let range = vectors_range(&piece.layout);
            let bytes = bench.ranges(vec![(piece.key.clone(), range)]).await?.remove(0);
            let (codes, found) = blocking(|| {
                check_vectors(&piece.key, &piece.layout, &bytes)?;
                let stored = stored(&piece.layout, &bytes);
                Ok::<_, Error>((coder.encode(first, &stored), coder.nearest(queries, first, &stored)))
            })?;
            let (values, rows): (Vec<f32>, Vec<u32>) = found.into_iter().unzip();
            bench.keep(&name, Pack::default().bytes(&codes).numbers(&values).numbers(&rows)).await?;
        }
        first += piece.layout.address.rows as usize;
    }
    let (mut groups, mut found) = (Vec::new(), Vec::with_capacity(pieces.len()));
    for mut kept in bench.load_all("codes", pieces.len()).await? {
        groups.extend_from_slice(&kept.bytes()?);
        let (values, rows): (Vec<f32>, Vec<u32>) = (kept.numbers()?, kept.numbers()?);
        found.push(values.into_iter().zip(rows).collect());
    }
    coder.set_codes(groups);
    Ok(found)
}

async fn calibrate(
    bench: &mut Bench<'_>,
    coder: &Coder<'_>,
    queries: Vec<f32>,
    found: &[Vec<(f32, u32)>],
) -> Result<Needs, Stop> {
    bench.stage = "calibrate";
    // One of each row group's lists of a query.
    let asked = found.first().map_or(0, |found| found.len() / Neighbours::MOST);
    let results = asked.div_ceil(QUERIES);
    if (0..results).any(|number| !bench.has(&format!("needs-{number}"))) {
        let truth = coder.asked(queries, found);
        for number in 0..results {
            let name = format!("needs-{number}");
            if bench.has(&name) {
                continue;
            }
            bench.turn()?;
            let own = number * QUERIES..asked.min((number + 1) * QUERIES);
            let needs = blocking(|| coder.needs(&truth, own));
            let pack = Pack::default()
                .numbers(&needs.iter().map(|need| need.0).collect::<Vec<_>>())
                .numbers(&needs.iter().map(|need| need.1).collect::<Vec<_>>())
                .numbers(&needs.iter().map(|need| need.2).collect::<Vec<_>>());
            bench.keep(&name, pack).await?;
        }
    }
    let mut out = Needs::new();
    for mut kept in bench.load_all("needs", results).await? {
        let (margins, reaches): (Vec<f32>, Vec<f32>) = (kept.numbers()?, kept.numbers()?);
        let ranks: Vec<u32> = kept.numbers()?;
        out.extend(margins.into_iter().zip(reaches).zip(ranks).map(|((m, r), rank)| (m, r, rank)));
    }
    Ok(out)
}

/// The layout of the rows file.
pub(super) async fn layout(
    bench: &mut Bench<'_>,
    frame: &Frame<'_>,
    pieces: &[Piece],
) -> Result<RowsLayout, Stop> {
    if let Some(mut kept) = bench.load("layout").await? {
        let bytes = kept.bytes()?;
        return Ok(RowsLayout::decode(kept.key(), &bytes)?);
    }
    bench.turn()?;
    let layouts: Vec<&RowsLayout> = pieces.iter().map(|piece| &piece.layout).collect();
    let layout = blocking(|| joined(&frame.target, &layouts))?;
    let mut kept = bench.keep("layout", Pack::default().bytes(&layout.encode())).await?;
    let bytes = kept.bytes()?;
    Ok(RowsLayout::decode(kept.key(), &bytes)?)
}

/// Attributes, column by column. Values of one column are held at a time.
async fn attributes(
    bench: &mut Bench<'_>,
    frame: &Frame<'_>,
    pieces: &[Piece],
    layout: &RowsLayout,
) -> Result<(Vec<Column>, Attributes), Stop> {
    bench.stage = "attributes";
    let (schema, seed) = (frame.target.schema, frame.options.seed);
    let fields = arrow_schema(frame.target.settings, schema);
    let mut columns: Vec<Column> = Vec::new();
    loop {
        let entries = columns.iter().map(|column| column.entry.clone()).collect();
        let length = columns.iter().map(|column| column.length).sum();
        let mut writer = ColumnsWriter::resume(schema, seed, layout, entries, length);
        let Some(column) = writer.next_column() else { return Ok((columns, writer.finish())) };
        let name = format!("column-{}", columns.len());
        let mut kept = match bench.load(&name).await? {
            Some(kept) => kept,
            None => {
                bench.turn()?;
                let chunks: Vec<_> =
                    pieces.iter().map(|piece| piece.layout.checks.chunk(column, 0)).collect();
                let missing = || Error::internal("a row group lacks a column");
                let chunks: Vec<_> = chunks.into_iter().collect::<Option<_>>().ok_or_else(missing)?;
                let ranges = chunks.iter().zip(pieces).map(|(c, piece)| (piece.key.clone(), c.range()));
                let read = bench.ranges(ranges.collect()).await?;
                let section = blocking(|| {
                    let parts = read.into_iter().zip(chunks).zip(pieces).map(|((bytes, chunk), piece)| {
                        chunk.check(&piece.key, &bytes)?;
                        let rows = piece.layout.address.rows as usize;
                        decode_chunk(&piece.key, fields.field(column), rows, bytes)
                    });
                    writer.column(parts)
                })?;
                let (length, crc) = (section.len() as u64, crc32c::crc32c(&section));
                let token = bench.keep_data(&name, section.into()).await?;
                let pack = Pack::default().json(&(token, length, crc))?.bytes(writer.last_entry());
                bench.keep(&name, pack).await?
            }
        };
        let (token, length, crc): (Token, u64, u32) = kept.json()?;
        let entry = kept.bytes()?.to_vec();
        columns.push(Column { key: bench.data_key(&name, token), entry, length, crc });
    }
}
