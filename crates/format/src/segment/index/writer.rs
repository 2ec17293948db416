//! Lays out an index file from parts made elsewhere.

use std::io::Write;

use super::idmap::IdMap;
use super::{Calibration, Facts, HOT_BYTES, ORDINALS_BYTES, Section, Shape};
use crate::envelope::{self, Kind};
use crate::error::{Error, Result};
use crate::id::Seq;
use crate::schema::{Schema, Settings};
use crate::segment::attributes::Attributes;
use crate::segment::payload::Payload;
use crate::segment::rows::RowsLayout;
use crate::segment::wire::Put;
use crate::segment::{BLOCK_ROWS, GROUP_POSTINGS};

/// `u32` sizes of a page of payload sizes: what fits 4 KiB beside the CRC.
pub(super) const SIZES_PER_PAGE: usize = 1023;
/// Bytes of an entry of the section directory.
const ENTRY: usize = 24;

/// Everything an index file is made of, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct IndexParts<'a> {
    /// The collection's settings.
    pub settings: &'a Settings,
    /// The metadata columns of the rows file.
    pub schema: &'a Schema,
    /// What [`RowsWriter::finish`](crate::segment::rows::RowsWriter::finish) returned.
    pub rows: &'a RowsLayout,
    /// Smallest and greatest seq of the rows.
    pub seqs: (Seq, Seq),
    /// Bits of a code.
    pub code_bits: u32,
    /// Seed of the rotation.
    pub rotation_seed: u64,
    /// The scale of the codes' corrections.
    pub scale: f32,
    /// The basis of the codes, if it is not a random rotation.
    pub basis: Option<&'a [u8]>,
    /// Limits for four recalls.
    pub calibration: [Calibration; 4],
    /// First ordinal of each leaf, and the number of rows at the end.
    pub leaf_starts: &'a [u32],
    /// Bits per element of `centroids`.
    pub centroid_bits: u8,
    /// Quantised centroids.
    pub centroids: &'a [u8],
    /// Bytes of a code group, the ordinals of copies included.
    pub group_bytes: u32,
    /// Code groups, 32 postings each. With `spill` each ends with the ordinal of every posting.
    pub codes: &'a [u8],
    /// Hash of the id of each posting.
    pub idplane: &'a [u64],
    /// Copies of rows in other leaves, if any.
    pub spill: Option<Spill<'a>>,
    /// Rows as a search returns them.
    pub payload: &'a Payload,
    /// What answers filters.
    pub attributes: &'a Attributes,
    /// Where the payload's blocks are, if `payload` has their sizes only.
    pub payload_spool: Option<Spool<'a>>,
    /// Where the attributes section is, if `attributes` has the directory only.
    pub attributes_spool: Option<Spool<'a>>,
}

/// Bytes that are kept elsewhere until they are written.
#[derive(Clone, Copy)]
pub struct Spool<'a> {
    /// How many.
    pub length: u64,
    /// CRC32C of them.
    pub crc: u32,
    /// Writes all of them.
    pub copy: &'a dyn Fn(&mut dyn Write) -> std::io::Result<()>,
}

impl std::fmt::Debug for Spool<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("length", &self.length).finish_non_exhaustive()
    }
}

/// The bytes of a section.
#[derive(Clone, Copy)]
enum Source<'a> {
    Bytes(&'a [u8]),
    Spool(Spool<'a>),
}

impl Source<'_> {
    fn len(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Spool(spool) => spool.length,
        }
    }

    fn crc(&self) -> u32 {
        match self {
            Source::Bytes(bytes) => crc32c::crc32c(bytes),
            Source::Spool(spool) => spool.crc,
        }
    }

    fn write(&self, mut sink: &mut dyn Write) -> std::io::Result<()> {
        match self {
            Source::Bytes(bytes) => sink.write_all(bytes),
            Source::Spool(spool) => (spool.copy)(&mut sink),
        }
    }
}

/// Spilled postings. A leaf's postings are its own rows, then its copies.
#[derive(Debug, Clone, Copy)]
pub struct Spill<'a> {
    /// First posting of each leaf, and the number of postings at the end.
    pub starts: &'a [u32],
    /// Ordinal of each copy, in posting order.
    pub ordinals: &'a [u32],
}

impl IndexParts<'_> {
    /// Whether the code groups have the ordinal of every copy.
    fn has_ordinals(&self) -> bool {
        let Some(spill) = self.spill else { return true };
        let (size, tail) = (self.group_bytes as usize, ORDINALS_BYTES as usize);
        let Some(at) = size.checked_sub(tail) else { return false };
        let stored = |posting: u32| {
            let (group, lane) = ((posting / GROUP_POSTINGS) as usize, (posting % GROUP_POSTINGS) as usize);
            self.codes.get(group * size + at + 4 * lane..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
        };
        let leaves = spill.starts.windows(2).zip(self.leaf_starts.windows(2));
        let copies = leaves.flat_map(|(all, own)| all[0] + (own[1] - own[0])..all[1]);
        copies.zip(spill.ordinals).all(|(posting, ordinal)| stored(posting) == Some(*ordinal))
    }
}

/// What the manifest says about an index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSummary {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes at its start that open it: envelope and hot header.
    pub header_len: u64,
    /// CRC32C of these.
    pub header_crc: u32,
}

/// Writes an index file.
#[derive(Debug)]
pub struct IndexWriter<'a> {
    parts: IndexParts<'a>,
}

impl<'a> IndexWriter<'a> {
    /// Checks that the parts fit each other.
    pub fn new(parts: IndexParts<'a>) -> Result<Self> {
        let rows = parts.rows.address.rows;
        let ascending = |starts: &[u32], end: u64| {
            starts.len() == parts.leaf_starts.len()
                && starts.first() == Some(&0)
                && starts.is_sorted()
                && starts.last().is_some_and(|e| u64::from(*e) == end)
        };
        let postings = parts.idplane.len() as u64;
        let spilled = parts.spill.map_or(0, |s| s.ordinals.len() as u64);
        let broken = |what: &str| Err(Error::internal(format!("an index cannot be written: {what}")));
        if !ascending(parts.leaf_starts, rows) {
            return broken("the leaves do not divide the rows");
        }
        if postings != rows + spilled || u32::try_from(postings).is_err() {
            return broken("the idplane does not have one hash per posting");
        }
        if let Some(spill) = parts.spill {
            let own_fits = (0..parts.leaf_starts.len() - 1).all(|l| {
                spill.starts[l + 1] - spill.starts[l] >= parts.leaf_starts[l + 1] - parts.leaf_starts[l]
            });
            if !ascending(spill.starts, postings) || !own_fits {
                return broken("the leaves do not divide the postings");
            }
            if spill.ordinals.iter().any(|o| u64::from(*o) >= rows) {
                return broken("a spilled posting is of no row");
            }
        }
        let groups = postings.div_ceil(u64::from(GROUP_POSTINGS));
        if parts.codes.len() as u64 != groups * u64::from(parts.group_bytes) {
            return broken("the codes are not one group per 32 postings");
        }
        if !parts.has_ordinals() {
            return broken("the codes of copies do not say whose they are");
        }
        if parts.payload.sizes.len() as u64 != rows.div_ceil(u64::from(BLOCK_ROWS)) {
            return broken("the payload is not one block per 32 rows");
        }
        if parts.attributes.directory.len() > HOT_BYTES {
            return broken("the attribute directory is too large");
        }
        Ok(IndexWriter { parts })
    }

    /// Writes the file to `sink`.
    pub fn write(&self, sink: &mut impl Write) -> Result<IndexSummary> {
        let parts = &self.parts;
        let idplane: Vec<u8> = parts.idplane.iter().flat_map(|h| h.to_le_bytes()).collect();
        let (map, idmap) = IdMap::build(self.own_postings().collect());
        let mut hot: Vec<(Section, Vec<u8>)> = vec![
            (Section::Facts, Vec::new()),
            (Section::Schema, self.shape()?),
            (Section::Rows, self.rows()),
            (Section::Calibration, self.calibration()),
            (Section::Leaves, self.leaves(&idplane)),
            (Section::Centroids, parts.centroids.to_vec()),
            (Section::AttributeDirectory, parts.attributes.directory.clone()),
            (Section::IdMapDirectory, map.encode()),
        ];
        hot.extend(parts.basis.map(|basis| (Section::Basis, basis.to_vec())));
        let mut cold = vec![(Section::Codes, Source::Bytes(parts.codes))];
        cold.push((Section::IdPlane, Source::Bytes(&idplane)));
        cold.push((Section::IdMap, Source::Bytes(&idmap)));
        let pages = self.size_pages();
        match &pages {
            Some(pages) => cold.push((Section::PayloadSizePages, Source::Bytes(pages))),
            None => hot.push((Section::PayloadSizes, sizes(&parts.payload.sizes))),
        }
        let checks = parts.rows.checks.encode();
        let blocks = parts.payload_spool.map_or(Source::Bytes(&parts.payload.blocks), Source::Spool);
        let attributes =
            parts.attributes_spool.map_or(Source::Bytes(&parts.attributes.section), Source::Spool);
        cold.extend([(Section::Payload, blocks), (Section::Attributes, attributes)]);
        cold.push((Section::Checks, Source::Bytes(&checks)));
        cold.push((Section::Footer, Source::Bytes(&parts.rows.footer)));

        let (header, size) = self.header(&mut hot, &cold);
        let failed = |e| Error::internal("writing an index failed").with_source(e);
        sink.write_all(&header).map_err(failed)?;
        for (_, source) in &cold {
            source.write(sink).map_err(failed)?;
        }
        Ok(IndexSummary { size, header_len: header.len() as u64, header_crc: crc32c::crc32c(&header) })
    }

    /// Envelope and hot header, once every section's place is known; and the size of the file.
    fn header(&self, hot: &mut [(Section, Vec<u8>)], cold: &[(Section, Source<'_>)]) -> (Vec<u8>, u64) {
        hot[0].1 = self.facts(0);
        let directory = 2 + (hot.len() + cold.len()) * ENTRY;
        let hot_size = directory + hot.iter().map(|(_, b)| b.len()).sum::<usize>();
        let file_size = (envelope::LENGTH + hot_size) as u64 + cold.iter().map(|(_, s)| s.len()).sum::<u64>();
        hot[0].1 = self.facts(file_size);
        let mut payload = Vec::with_capacity(hot_size);
        payload.put_u16((hot.len() + cold.len()) as u16);
        let mut at = (envelope::LENGTH + directory) as u64;
        let sections =
            hot.iter().map(|(s, b)| (s, Source::Bytes(b))).chain(cold.iter().map(|(s, c)| (s, *c)));
        for (section, source) in sections {
            payload.put_u16(*section as u16);
            payload.put_u16(0);
            payload.put_u64(at);
            payload.put_u64(source.len());
            payload.put_u32(source.crc());
            at += source.len();
        }
        hot.iter().for_each(|(_, bytes)| payload.put(bytes));
        let spill = if self.parts.spill.is_some() { envelope::SPILL } else { 0 };
        let basis = if self.parts.basis.is_some() { envelope::BASIS } else { 0 };
        (envelope::seal(Kind::Index, spill | basis, &payload), file_size)
    }

    fn facts(&self, file_size: u64) -> Vec<u8> {
        let parts = &self.parts;
        Facts {
            file_size,
            rows: parts.rows.address.rows as u32,
            postings: parts.idplane.len() as u32,
            leaves: parts.leaf_starts.len() as u32 - 1,
            id_hashes: parts.rows.address.rows as u32,
            code_bits: parts.code_bits,
            group_bytes: parts.group_bytes,
            centroid_bits: parts.centroid_bits,
            rotation_seed: parts.rotation_seed,
            scale: parts.scale,
            seqs: parts.seqs,
        }
        .encode()
    }

    fn shape(&self) -> Result<Vec<u8>> {
        let shape = Shape { settings: self.parts.settings.clone(), columns: self.parts.schema.clone() };
        serde_json::to_vec(&shape).map_err(|e| Error::internal("a schema is no JSON").with_source(e))
    }

    fn rows(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.parts.rows.address.encode(&mut out);
        out
    }

    fn calibration(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for c in &self.parts.calibration {
            out.put_f32(c.min_recall);
            out.put_f32(c.b);
            out.put_f32(c.delta);
            out.put_u32(c.rerank);
        }
        out
    }

    fn leaves(&self, idplane: &[u8]) -> Vec<u8> {
        let parts = &self.parts;
        let postings = parts.spill.map_or(parts.leaf_starts, |s| s.starts);
        let leaves = parts.leaf_starts.len() - 1;
        let mut out = Vec::with_capacity((leaves + 1) * 28);
        parts.leaf_starts.iter().for_each(|o| out.put_u32(*o));
        if parts.spill.is_some() {
            postings.iter().for_each(|p| out.put_u32(*p));
        }
        for l in 0..leaves {
            let groups = super::header::groups(postings[l]..postings[l + 1]);
            let bytes = parts.group_bytes as usize;
            out.put_u32(crc32c::crc32c(
                &parts.codes[groups.start as usize * bytes..groups.end as usize * bytes],
            ));
        }
        for l in 0..leaves {
            out.put_u32(crc32c::crc32c(&idplane[postings[l] as usize * 8..postings[l + 1] as usize * 8]));
        }
        let (mut block, mut base) = (0, 0);
        for first in &parts.leaf_starts[..leaves] {
            while block < first / BLOCK_ROWS {
                base += u64::from(parts.payload.sizes[block as usize]);
                block += 1;
            }
            out.put_u64(base);
        }
        out
    }

    /// Hash and ordinal of every row.
    fn own_postings(&self) -> impl Iterator<Item = (u64, u32)> {
        let parts = self.parts;
        let postings = parts.spill.map_or(parts.leaf_starts, |s| s.starts);
        parts.leaf_starts.windows(2).zip(postings).flat_map(move |(own, posting)| {
            let shift = posting - own[0];
            (own[0]..own[1]).map(move |ordinal| (parts.idplane[(ordinal + shift) as usize], ordinal))
        })
    }

    /// Checksummed pages of payload sizes, when these are too many for the header.
    fn size_pages(&self) -> Option<Vec<u8>> {
        let all = &self.parts.payload.sizes;
        (all.len() * 4 > HOT_BYTES).then(|| {
            all.chunks(SIZES_PER_PAGE)
                .flat_map(|page| {
                    let mut page = sizes(page);
                    page.resize(SIZES_PER_PAGE * 4, 0);
                    let crc = crc32c::crc32c(&page);
                    page.put_u32(crc);
                    page
                })
                .collect()
        })
    }
}

fn sizes(of: &[u32]) -> Vec<u8> {
    of.iter().flat_map(|s| s.to_le_bytes()).collect()
}

impl Facts {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.file_size);
        for v in [self.rows, self.postings, self.leaves, self.id_hashes, self.code_bits, self.group_bytes] {
            out.put_u32(v);
        }
        out.put(&[self.centroid_bits]);
        out.put_u64(self.rotation_seed);
        out.put_f32(self.scale);
        out.put_u64(self.seqs.0);
        out.put_u64(self.seqs.1);
        out
    }
}
