//! Opens an index file from its hot header: says where everything else is, and checks what is read.

use std::ops::Range;

use bytes::Bytes;

use super::idmap::IdMap;
use super::writer::SIZES_PER_PAGE;
use super::{Calibration, Facts, Leaf, ORDINALS_BYTES, Section, Shape};
use crate::envelope::{self, Envelope, Kind};
use crate::error::{Error, Result};
use crate::schema::{Schema, Settings};
use crate::segment::attributes::Directory;
use crate::segment::rows::{RowsAddress, RowsChecks};
use crate::segment::wire::{Take, check, checked, slice};
use crate::segment::{BLOCK_ROWS, GROUP_POSTINGS};

/// An opened index: the hot header, decoded. Ranges are offsets in the index file.
#[derive(Debug, Clone)]
pub struct Header {
    object: String,
    bytes: Bytes,
    sections: Vec<Entry>,
    /// Whether leaves may have copies, and code groups end with ordinals.
    spilled: bool,
    facts: Facts,
    shape: Shape,
    rows: RowsAddress,
    calibration: [Calibration; 4],
    leaves: Leaves,
    idmap: IdMap,
    /// Start of each payload block in the payload section, and the section's length; only while the sizes are here.
    payload_blocks: Option<Vec<u64>>,
    attributes: Directory,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: u16,
    range: Range<u64>,
    crc: u32,
}

/// One array per field. `first_posting` equals `first_ordinal` where nothing spilled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaves {
    first_ordinal: Vec<u32>,
    first_posting: Vec<u32>,
    codes_crc: Vec<u32>,
    idplane_crc: Vec<u32>,
    payload_base: Vec<u64>,
}

/// Code groups that a range of postings touches.
pub(super) fn groups(postings: Range<u32>) -> Range<u32> {
    if postings.is_empty() {
        return 0..0;
    }
    postings.start / GROUP_POSTINGS..postings.end.div_ceil(GROUP_POSTINGS)
}

impl Header {
    /// Opens the index `object` from the start of its bytes: envelope, hot header, and whatever follows, which is
    /// ignored. Corrupt when they are not what was written; Invalid, by name, when they need a feature that this
    /// build lacks.
    pub fn parse(object: &str, bytes: Bytes) -> Result<Header> {
        let envelope = Envelope::decode(object, &bytes)?;
        if envelope.kind != Kind::Index {
            return Err(Error::corrupt(object, format!("it is a {:?}, not an index", envelope.kind)));
        }
        let hot_end = envelope::LENGTH + envelope.payload(object, &bytes)?.len();
        let bytes = bytes.slice(..hot_end);
        let sections = directory(object, &bytes)?;
        let spilled = envelope.features & envelope::SPILL != 0;
        let part = |section: Section, what: &'static str| {
            let entry = find(&sections, section).and_then(|e| slice(&bytes, e.range.clone()));
            entry
                .map(|b| Take::new(object, what, b))
                .ok_or_else(|| Error::corrupt(object, format!("it has no {what}")))
        };
        let facts = whole(part(Section::Facts, "facts")?, Facts::decode)?;
        let shape = part(Section::Schema, "schema")?;
        let shape: Shape = serde_json::from_slice(shape.rest())
            .map_err(|e| Error::corrupt(object, "the schema cannot be read").with_source(e))?;
        let rows = whole(part(Section::Rows, "row addresses")?, RowsAddress::decode)?;
        let calibration = whole(part(Section::Calibration, "calibration")?, calibration)?;
        let leaves = whole(part(Section::Leaves, "leaves")?, |t| Leaves::decode(t, &facts, spilled))?;
        part(Section::Centroids, "centroids")?;
        if (envelope.features & envelope::BASIS != 0) != find(&sections, Section::Basis).is_some() {
            return Err(Error::corrupt(object, "it does not say the same of its basis twice"));
        }
        let idmap =
            whole(part(Section::IdMapDirectory, "id map directory")?, |t| IdMap::decode(t, facts.id_hashes))?;
        let payload = find(&sections, Section::Payload).map_or(0, |e| e.range.end - e.range.start);
        let payload_blocks = match find(&sections, Section::PayloadSizes) {
            None => None,
            Some(_) => {
                let blocks = |t: &mut Take<'_>| blocks(t, facts.rows, payload);
                Some(whole(part(Section::PayloadSizes, "payload sizes")?, blocks)?)
            }
        };
        let attributes = part(Section::AttributeDirectory, "attribute directory")?;
        let base = find(&sections, Section::Attributes).map_or(0..0, |e| e.range.clone());
        let attributes = Directory::decode(object, attributes.rest(), base, &shape.columns, facts.rows)?;
        let header = Header {
            object: object.to_owned(),
            sections,
            spilled,
            facts,
            shape,
            rows,
            calibration,
            leaves,
            idmap,
            payload_blocks,
            attributes,
            bytes,
        };
        header.check()?;
        Ok(header)
    }

    /// Sections must have the sizes that the facts say, so that every range computed from them lies inside.
    fn check(&self) -> Result<()> {
        let f = &self.facts;
        let blocks = u64::from(f.rows.div_ceil(BLOCK_ROWS));
        let mut sizes = vec![
            (Section::Codes, u64::from(f.postings.div_ceil(GROUP_POSTINGS)) * u64::from(f.group_bytes)),
            (Section::IdPlane, u64::from(f.postings) * 8),
            (Section::IdMap, self.idmap.length()),
        ];
        if self.spilled && f.group_bytes < ORDINALS_BYTES {
            return Err(Error::corrupt(&self.object, "its code groups have no room for ordinals"));
        }
        if self.payload_blocks.is_none() {
            sizes.push((Section::PayloadSizePages, blocks.div_ceil(SIZES_PER_PAGE as u64) * PAGE));
        }
        for (section, size) in sizes {
            if self.section(section).is_none_or(|r| r.end - r.start != size) {
                return Err(Error::corrupt(
                    &self.object,
                    format!("section {section:?} does not have {size} bytes"),
                ));
            }
        }
        let payload = self.section(Section::Payload).map_or(0, |r| r.end - r.start);
        let sound = self.rows.rows == u64::from(f.rows)
            && self.rows.stride as usize == self.shape.settings.stride()
            && f.id_hashes == f.rows
            && self.leaves.payload_base.iter().all(|b| *b <= payload)
            && self.sections.iter().all(|s| s.range.end <= f.file_size);
        if sound { Ok(()) } else { Err(Error::corrupt(&self.object, "its facts contradict each other")) }
    }

    /// The key of the index file.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Envelope and hot header as they are stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Numbers fixed when the index was built.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The collection's settings.
    pub fn settings(&self) -> &Settings {
        &self.shape.settings
    }

    /// The metadata columns that the segment has. The collection's schema may have got more or wider ones since.
    pub fn schema(&self) -> &Schema {
        &self.shape.columns
    }

    /// Where the vectors are in the rows file.
    pub fn rows(&self) -> &RowsAddress {
        &self.rows
    }

    /// Limits for four recalls, ascending.
    pub fn calibration(&self) -> &[Calibration; 4] {
        &self.calibration
    }

    /// What answers filters.
    pub fn attributes(&self) -> &Directory {
        &self.attributes
    }

    /// The same, to [`load`](Directory::load) columns that did not fit the header.
    pub fn attributes_mut(&mut self) -> &mut Directory {
        &mut self.attributes
    }

    /// The quantised centroids, as `esker-index` encoded them.
    pub fn centroids(&self) -> Bytes {
        let range = self.section(Section::Centroids).unwrap_or(0..0);
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    /// What codes are made with where that is no random rotation, as `esker-index` encoded it.
    pub fn basis(&self) -> Option<Bytes> {
        let range = self.section(Section::Basis)?;
        Some(self.bytes.slice(range.start as usize..range.end as usize))
    }

    /// Where a section lies in the file.
    pub fn section(&self, section: Section) -> Option<Range<u64>> {
        find(&self.sections, section).map(|e| e.range.clone())
    }

    /// Refuses the bytes of a whole section that are not what was written.
    pub fn check_section(&self, section: Section, bytes: &[u8]) -> Result<()> {
        match find(&self.sections, section) {
            Some(e) => check(&self.object, format_args!("section {section:?}"), bytes, e.crc),
            None => Err(Error::internal(format!("{} has no section {section:?}", self.object))),
        }
    }

    /// The checks section, read whole.
    pub fn checks(&self, bytes: &[u8]) -> Result<RowsChecks> {
        self.check_section(Section::Checks, bytes)?;
        RowsChecks::decode(&self.object, bytes)
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u32 {
        self.facts.leaves
    }

    /// A leaf. An empty one when there is no such leaf.
    pub fn leaf(&self, leaf: u32) -> Leaf {
        let (l, ls) = (leaf as usize, &self.leaves);
        if leaf >= self.facts.leaves {
            return Leaf { ordinals: 0..0, postings: 0..0, codes_crc: 0, idplane_crc: 0, payload_base: 0 };
        }
        Leaf {
            ordinals: ls.first_ordinal[l]..ls.first_ordinal[l + 1],
            postings: ls.first_posting[l]..ls.first_posting[l + 1],
            codes_crc: ls.codes_crc[l],
            idplane_crc: ls.idplane_crc[l],
            payload_base: ls.payload_base[l],
        }
    }

    /// First ordinal of each leaf, and the number of rows at the end.
    pub fn leaf_starts(&self) -> &[u32] {
        &self.leaves.first_ordinal
    }

    /// First posting of each leaf, and the number of postings at the end.
    pub fn posting_starts(&self) -> &[u32] {
        &self.leaves.first_posting
    }

    /// The leaf whose own row `ordinal` is.
    pub fn leaf_of(&self, ordinal: u32) -> u32 {
        (self.leaves.first_ordinal.partition_point(|first| *first <= ordinal) as u32).saturating_sub(1)
    }

    /// The leaf in whose list posting `posting` is.
    pub fn leaf_of_posting(&self, posting: u32) -> u32 {
        (self.leaves.first_posting.partition_point(|first| *first <= posting) as u32).saturating_sub(1)
    }

    /// Code groups that a leaf touches; the first and the last may hold postings of its neighbours, too.
    pub fn leaf_groups(&self, leaf: u32) -> Range<u32> {
        groups(self.leaf(leaf).postings)
    }

    /// Bytes of code groups.
    pub fn codes_range(&self, groups: Range<u32>) -> Range<u64> {
        self.part(Section::Codes, groups, u64::from(self.facts.group_bytes))
    }

    /// Bytes of the idplane for postings.
    pub fn idplane_range(&self, postings: Range<u32>) -> Range<u64> {
        self.part(Section::IdPlane, postings, 8)
    }

    /// Whether leaves may have copies of rows of other leaves.
    pub fn is_spilled(&self) -> bool {
        self.spilled
    }

    /// Bytes of a code group before the ordinals of its postings, which follow where leaves have copies.
    pub fn bare_group_bytes(&self) -> u32 {
        if self.spilled { self.facts.group_bytes - ORDINALS_BYTES } else { self.facts.group_bytes }
    }

    /// The ordinals of a leaf's copies, given the code groups that it touches, read whole and checked.
    pub fn leaf_copies(&self, leaf: u32, codes: &[u8]) -> Result<Vec<u32>> {
        let l = self.leaf(leaf);
        if !self.spilled || leaf >= self.facts.leaves {
            return Ok(Vec::new());
        }
        let (size, at) = (self.facts.group_bytes as usize, self.bare_group_bytes() as usize);
        let first = self.leaf_groups(leaf).start;
        let ordinal = |posting: u32| {
            let group = codes.get((posting / GROUP_POSTINGS - first) as usize * size + at..)?;
            let bytes = group.get(4 * (posting % GROUP_POSTINGS) as usize..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes)).filter(|ordinal| *ordinal < self.facts.rows)
        };
        let copies = l.postings.start + l.ordinals.len() as u32..l.postings.end;
        let found: Option<Vec<u32>> = copies.map(ordinal).collect();
        found.ok_or_else(|| {
            Error::corrupt(&self.object, format!("a copy in the codes of leaf {leaf} is of no row"))
        })
    }

    /// Items of fixed size of a section, cut to what it has.
    fn part(&self, section: Section, items: Range<u32>, size: u64) -> Range<u64> {
        let all = self.section(section).unwrap_or(0..0);
        let at = |item: u32| all.start.saturating_add(u64::from(item) * size).min(all.end);
        at(items.start)..at(items.end)
    }

    /// Refuses the code groups of a leaf, read whole, that are not what was written.
    pub fn check_leaf_codes(&self, leaf: u32, codes: &[u8]) -> Result<()> {
        check(&self.object, format_args!("the codes of leaf {leaf}"), codes, self.leaf(leaf).codes_crc)
    }

    /// Refuses the idplane of a leaf, read whole, that is not what was written.
    pub fn check_leaf_idplane(&self, leaf: u32, idplane: &[u8]) -> Result<()> {
        check(&self.object, format_args!("the idplane of leaf {leaf}"), idplane, self.leaf(leaf).idplane_crc)
    }

    /// The hashes in a leaf's idplane, read whole.
    pub fn leaf_hashes(&self, leaf: u32, idplane: &[u8]) -> Result<Vec<u64>> {
        self.check_leaf_idplane(leaf, idplane)?;
        let count = self.leaf(leaf).postings.len();
        Take::new(&self.object, "idplane", idplane).many(count, 8, Take::u64)
    }

    /// Bytes that hold every id map entry of `hash`.
    pub fn idmap_pages(&self, hash: u64) -> Range<u64> {
        let (start, pages) = (self.section(Section::IdMap).unwrap_or(0..0).start, self.idmap.pages(hash));
        start + pages.start..start + pages.end
    }

    /// Ordinals of the rows whose id has `hash`, from the bytes of [`Header::idmap_pages`].
    pub fn idmap_find(&self, hash: u64, bytes: &[u8]) -> Result<Vec<u32>> {
        let pages = self.idmap.pages(hash);
        if bytes.len() as u64 != pages.end - pages.start {
            return Err(Error::corrupt(&self.object, "the id map is shorter than was written"));
        }
        let entries = self.idmap.read(&self.object, pages.start, bytes)?;
        let first = entries.partition_point(|(h, _)| *h < hash);
        Ok(entries[first..].iter().take_while(|(h, _)| *h == hash).map(|(_, ordinal)| *ordinal).collect())
    }

    /// Every (hash, ordinal), sorted by hash, from the whole id map section.
    pub fn idmap_entries(&self, bytes: &[u8]) -> Result<Vec<(u64, u32)>> {
        if bytes.len() as u64 != self.idmap.length() {
            return Err(Error::corrupt(&self.object, "the id map is shorter than was written"));
        }
        self.idmap.read(&self.object, 0, bytes)
    }

    /// The payload block of a row.
    pub fn payload_block_of(&self, ordinal: u32) -> u32 {
        ordinal / BLOCK_ROWS
    }

    /// Bytes of a payload block, or nothing when the sizes are not in the header: see
    /// [`Header::payload_sizes_range`].
    pub fn payload_block_range(&self, block: u32) -> Option<Range<u64>> {
        let starts = self.payload_blocks.as_ref()?;
        let base = self.section(Section::Payload)?.start;
        let (start, end) = (starts.get(block as usize)?, starts.get(block as usize + 1)?);
        Some(base + start..base + end)
    }

    /// Whether [`Header::payload_block_range`] answers.
    pub fn payload_sizes_in_header(&self) -> bool {
        self.payload_blocks.is_some()
    }

    /// Bytes of the size pages for the payload blocks of a leaf's own rows; empty when the sizes are in the header.
    pub fn payload_sizes_range(&self, leaf: u32) -> Range<u64> {
        let blocks = self.leaf_blocks(leaf);
        if blocks.is_empty() || self.payload_blocks.is_some() {
            return 0..0;
        }
        let per_page = SIZES_PER_PAGE as u32;
        self.part(Section::PayloadSizePages, blocks.start / per_page..blocks.end.div_ceil(per_page), PAGE)
    }

    /// Bytes of each payload block of a leaf's own rows, in order, with its number; `bytes` are those of
    /// [`Header::payload_sizes_range`].
    pub fn leaf_payload_blocks(&self, leaf: u32, bytes: &[u8]) -> Result<Vec<(u32, Range<u64>)>> {
        let blocks = self.leaf_blocks(leaf);
        if self.payload_blocks.is_some() {
            return Ok(blocks.filter_map(|b| Some((b, self.payload_block_range(b)?))).collect());
        }
        let mut sizes = Vec::new();
        for page in bytes.chunks(PAGE as usize) {
            let body = self.check_payload_sizes(page)?;
            sizes.extend(Take::new(&self.object, "payload sizes", body).many(
                body.len() / 4,
                4,
                Take::u32,
            )?);
        }
        let payload = self.section(Section::Payload).unwrap_or(0..0);
        let skip = blocks.start as usize % SIZES_PER_PAGE;
        let mut at = payload.start.saturating_add(self.leaf(leaf).payload_base);
        let mut out = Vec::with_capacity(blocks.len());
        for (i, block) in blocks.enumerate() {
            let size = sizes.get(skip + i).map(|s| u64::from(*s));
            let Some(size) = size.filter(|s| at + s <= payload.end) else {
                return Err(Error::corrupt(&self.object, "payload sizes lead outside the payload"));
            };
            out.push((block, at..at + size));
            at += size;
        }
        Ok(out)
    }

    /// What a page of payload sizes says, without its checksum.
    pub fn check_payload_sizes<'p>(&self, page: &'p [u8]) -> Result<&'p [u8]> {
        checked(&self.object, "a page of payload sizes", page)
    }

    /// Numbers of the payload blocks of a leaf's own rows.
    fn leaf_blocks(&self, leaf: u32) -> Range<u32> {
        let rows = self.leaf(leaf).ordinals;
        if rows.is_empty() { 0..0 } else { rows.start / BLOCK_ROWS..rows.end.div_ceil(BLOCK_ROWS) }
    }
}

/// Bytes of an id map page and of a payload size page.
const PAGE: u64 = super::idmap::PAGE as u64;

/// Decodes a section that must have nothing left over.
fn whole<'a, T>(mut t: Take<'a>, read: impl FnOnce(&mut Take<'a>) -> Result<T>) -> Result<T> {
    let out = read(&mut t)?;
    t.end()?;
    Ok(out)
}

fn find(sections: &[Entry], section: Section) -> Option<&Entry> {
    sections.iter().find(|e| e.kind == section as u16)
}

/// The section directory. Sections below 16 must lie in the header, which `bytes` is.
fn directory(object: &str, bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut t = Take::new(object, "section directory", &bytes[envelope::LENGTH..]);
    let count = usize::from(t.u16()?);
    let sections = t.many(count, 24, |t| {
        let (kind, _flags, offset, length, crc) = (t.u16()?, t.u16()?, t.u64()?, t.u64()?, t.u32()?);
        let end = offset.checked_add(length).ok_or_else(|| t.corrupt("a section has no end"))?;
        if kind < Section::Codes as u16 && end > bytes.len() as u64 {
            return Err(t.corrupt("a section of the header lies outside it"));
        }
        Ok(Entry { kind, range: offset..end, crc })
    })?;
    let mut kinds: Vec<u16> = sections.iter().map(|s| s.kind).collect();
    kinds.sort_unstable();
    if kinds.windows(2).any(|w| w[0] == w[1]) {
        return Err(t.corrupt("a section appears twice"));
    }
    Ok(sections)
}

fn calibration(t: &mut Take<'_>) -> Result<[Calibration; 4]> {
    let mut one = || Ok(Calibration { min_recall: t.f32()?, b: t.f32()?, delta: t.f32()?, rerank: t.u32()? });
    Ok([one()?, one()?, one()?, one()?])
}

/// Starts of the payload blocks from their sizes, which must add up to the section.
fn blocks(t: &mut Take<'_>, rows: u32, payload: u64) -> Result<Vec<u64>> {
    let sizes = t.many(rows.div_ceil(BLOCK_ROWS) as usize, 4, Take::u32)?;
    let mut starts = vec![0];
    let mut at = 0;
    for size in sizes {
        at += u64::from(size);
        starts.push(at);
    }
    if at != payload {
        return Err(t.corrupt("they do not add up to the payload"));
    }
    Ok(starts)
}

impl Facts {
    fn decode(t: &mut Take<'_>) -> Result<Self> {
        Ok(Facts {
            file_size: t.u64()?,
            rows: t.u32()?,
            postings: t.u32()?,
            leaves: t.u32()?,
            id_hashes: t.u32()?,
            code_bits: t.u32()?,
            group_bytes: t.u32()?,
            centroid_bits: t.u8()?,
            rotation_seed: t.u64()?,
            scale: t.f32()?,
            seqs: (t.u64()?, t.u64()?),
        })
    }
}

impl Leaves {
    fn decode(t: &mut Take<'_>, facts: &Facts, spilled: bool) -> Result<Self> {
        let n = facts.leaves as usize;
        let starts = n.checked_add(1).ok_or_else(|| t.corrupt("too many"))?;
        let first_ordinal = t.many(starts, 4, Take::u32)?;
        let first_posting = if spilled { t.many(starts, 4, Take::u32)? } else { first_ordinal.clone() };
        let leaves = Leaves {
            codes_crc: t.many(n, 4, Take::u32)?,
            idplane_crc: t.many(n, 4, Take::u32)?,
            payload_base: t.many(n, 8, Take::u64)?,
            first_ordinal,
            first_posting,
        };
        let divides = |starts: &[u32], end: u32| starts.is_sorted() && starts[0] == 0 && starts[n] == end;
        let own_fits = (0..n).all(|l| {
            let own = leaves.first_ordinal[l + 1].saturating_sub(leaves.first_ordinal[l]);
            leaves.first_posting[l + 1].saturating_sub(leaves.first_posting[l]) >= own
        });
        if !divides(&leaves.first_ordinal, facts.rows)
            || !divides(&leaves.first_posting, facts.postings)
            || !own_fits
        {
            return Err(t.corrupt("they do not divide the rows"));
        }
        Ok(leaves)
    }
}
