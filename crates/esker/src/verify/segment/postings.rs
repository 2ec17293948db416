//! INV-9: every row is found, by its id and by its vector. The id map, the hashes beside the codes and the codes are
//! compared with the rows they were made of.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use esker_format::schema::{Metric as Kind, VectorType};
use esker_format::segment::index::Section;
use esker_format::segment::{GROUP_POSTINGS, PAGE_ROWS};
use esker_index::{Centroids, Encoder, LeafEncoder, Metric, RowCode, check16, unpack_group};
use half::f16;

use super::super::source::{At, Stop, broken};
use super::Subject;

/// Bytes, entries and bytes of an entry of an id map page.
const PAGE: (u64, u64, usize) = (4096, 341, 12);
/// Id map pages read at once.
const PAGES: u64 = 1024;
/// Rows whose leaves are read at once.
const ROWS: u32 = 4096;
/// How far a code's factors may be from those derived here: another instruction set rounds sums differently.
const TOLERANCE: f32 = 0.02;

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

impl Subject<'_, '_> {
    fn unfound(&self, message: String) {
        self.source.found(&self.index_key, "INV-9", message);
    }

    /// Every row is in the id map once, under its hash, where a look-up of the hash reads.
    pub(super) async fn check_id_map(&self, hashes: Option<&[u64]>) -> Result<(), Stop> {
        let (key, rows) = (&self.index_key, self.segment.rows);
        let start = self.header.section(Section::IdMap).unwrap_or(0..0).start;
        let mut seen = vec![false; rows as usize];
        let mut last = None;
        let pages = rows.div_ceil(PAGE.1);
        for from in (0..pages).step_by(PAGES as usize) {
            let to = pages.min(from + PAGES);
            let bytes = self.source.range(key, start + from * PAGE.0..start + to * PAGE.0).await?;
            for (page, bytes) in (from..to).zip(bytes.chunks_exact(PAGE.0 as usize)) {
                let (body, crc) = bytes.split_at(bytes.len() - 4);
                if u64::from(crc32c::crc32c(body)) != little(crc) {
                    self.source.found(key, "INV-3", format!("page {page} of the id map fails its checksum"));
                    continue;
                }
                let at = start + page * PAGE.0;
                let count = (rows - page * PAGE.1).min(PAGE.1) as usize;
                for entry in body.chunks_exact(PAGE.2).take(count) {
                    let entry = (little(&entry[..8]), little(&entry[8..]) as u32);
                    if last.is_some_and(|last| last >= entry) {
                        self.unfound(format!("page {page} of the id map is out of order"));
                    }
                    last = Some(entry);
                    self.check_entry(entry, at, hashes, &mut seen);
                }
            }
        }
        for ordinal in (0..rows).filter(|o| !seen[*o as usize]) {
            self.unfound(format!("row {ordinal} is not in the id map"));
        }
        Ok(())
    }

    fn check_entry(&self, (hash, ordinal): (u64, u32), at: u64, hashes: Option<&[u64]>, seen: &mut [bool]) {
        match seen.get_mut(ordinal as usize) {
            None => return self.unfound(format!("the id map has row {ordinal}, which there is not")),
            Some(true) => self.unfound(format!("row {ordinal} is in the id map twice")),
            Some(first) => *first = true,
        }
        if hashes.is_some_and(|h| h[ordinal as usize] != hash) {
            self.unfound(format!("row {ordinal} is in the id map under another id"));
        }
        let read = self.header.idmap_pages(hash);
        if at < read.start || at + PAGE.0 > read.end {
            self.unfound(format!("a look-up of the id of row {ordinal} misses its page"));
        }
    }

    /// Every row has its hash, its check and its code in its leaf; every vector page its checksum.
    pub(super) async fn check_postings(&self, hashes: Option<&[u64]>) -> Result<(), Stop> {
        let (key, facts) = (&self.index_key, *self.header.facts());
        let d = self.header.settings().dimension as usize;
        let centroids = self.header.centroids();
        let centroids = Centroids::decode(facts.centroid_bits, facts.leaves as usize, d, &centroids);
        let centroids = match centroids {
            Ok(centroids) => centroids,
            Err(e) => return broken(key, "INV-3", format!("its centroids cannot be read: {e}")),
        };
        let metric = match self.header.settings().metric {
            Kind::Cosine => Metric::Cosine,
            Kind::L2 => Metric::L2,
            Kind::Dot => Metric::Dot,
        };
        let basis = self.header.basis();
        let encoder = match Encoder::stored(metric, d, facts.rotation_seed, facts.scale, basis.as_deref()) {
            Ok(encoder) => encoder,
            Err(e) => return broken(key, "INV-3", format!("the basis of its codes cannot be read: {e}")),
        };
        let (bits, bytes) = (facts.code_bits as usize, self.header.bare_group_bytes() as usize);
        if (bits, bytes) != (encoder.bits(), encoder.group_bytes()) {
            return broken(key, "format", "its codes are not those of its dimension or basis");
        }
        let mut pages = BTreeMap::new();
        let mut first = 0;
        while first < facts.leaves {
            let start = self.header.leaf(first).ordinals.start;
            let mut end = first + 1;
            while end < facts.leaves && self.header.leaf(end).ordinals.end - start <= ROWS {
                end += 1;
            }
            let batch = self.batch(first..end, hashes, &mut pages).await?;
            let mut centroid = vec![0.0; d];
            for leaf in first..end {
                centroids.dequantised(leaf as usize, &mut centroid);
                let checked = self.check_leaf(leaf, &batch, &mut encoder.leaf(&centroid), &pages);
                self.source.settle(checked)?;
            }
            self.advance(1, u64::from(self.header.leaf(end - 1).ordinals.end));
            first = end;
        }
        Ok(())
    }

    /// What is read of some leaves at once, vector pages among it.
    async fn batch<'h>(
        &self,
        leaves: Range<u32>,
        hashes: Option<&'h [u64]>,
        pages: &mut BTreeMap<u32, Bytes>,
    ) -> Result<Batch<'h>, Stop> {
        let (h, last) = (&self.header, leaves.end - 1);
        let codes = h.codes_range(h.leaf_groups(leaves.start).start..h.leaf_groups(last).end);
        let idplane = h.idplane_range(h.leaf(leaves.start).postings.start..h.leaf(last).postings.end);
        let ranges = vec![codes.clone(), idplane.clone()];
        let read = self.source.ranges(&self.index_key, ranges).await?;
        let ordinals = h.leaf(leaves.start).ordinals.start..h.leaf(last).ordinals.end;
        let wanted = ordinals.start / PAGE_ROWS..ordinals.end.div_ceil(PAGE_ROWS);
        pages.retain(|page, _| wanted.contains(page));
        let new: Vec<u32> = wanted.filter(|page| !pages.contains_key(page)).collect();
        let ranges = new.iter().map(|page| h.rows().page_range(*page)).collect();
        for (page, bytes) in new.into_iter().zip(self.source.ranges(&self.rows_key, ranges).await?) {
            self.source
                .settle(self.checks.check_page(&self.rows_key, page, &bytes).at(&self.rows_key, "INV-3"))?;
            pages.insert(page, bytes);
        }
        let starts = [codes.start, idplane.start];
        Ok(Batch { starts, read, hashes })
    }

    fn check_leaf(
        &self,
        number: u32,
        batch: &Batch<'_>,
        encoder: &mut LeafEncoder<'_>,
        pages: &BTreeMap<u32, Bytes>,
    ) -> Result<(), Stop> {
        let (h, key) = (&self.header, &self.index_key);
        let leaf = h.leaf(number);
        let groups = h.leaf_groups(number);
        let codes = batch.cut(0, h.codes_range(groups.clone()));
        h.check_leaf_codes(number, &codes).at(key, "INV-3")?;
        let idplane = batch.cut(1, h.idplane_range(leaf.postings.clone()));
        let ids = h.leaf_hashes(number, &idplane).at(key, "INV-3")?;
        let copies = h.leaf_copies(number, &codes).at(key, "INV-3")?;
        let (bits, size) = (h.facts().code_bits as usize, h.facts().group_bytes as usize);
        let bare = h.bare_group_bytes() as usize;
        let mut unpacked: (u32, Vec<RowCode>) = (u32::MAX, Vec::new());
        let own = leaf.ordinals.len() as u32;
        let ordinals = leaf.ordinals.clone().chain(copies);
        for (((ordinal, posting), id), nth) in ordinals.zip(leaf.postings.clone()).zip(ids).zip(0..) {
            if batch.hashes.is_some_and(|all| all[ordinal as usize] != id) {
                self.unfound(format!("posting {posting} of row {ordinal} has the hash of another id"));
            }
            let (group, lane) = (posting / GROUP_POSTINGS, (posting % GROUP_POSTINGS) as usize);
            let bytes = &codes[(group - groups.start) as usize * size..][..bare];
            let field = |which: usize| little(&bytes[bare - 64 * (4 - which) + 2 * lane..][..2]) as u16;
            if f16::from_bits(field(2)).is_nan() {
                self.unfound(format!("row {ordinal} has no code"));
                continue;
            }
            // A spilled copy has its vector elsewhere; its row was checked among its own.
            if nth >= own {
                continue;
            }
            let Some(vector) = self.vector(ordinal, pages) else {
                return broken(&self.rows_key, "INV-3", format!("row {ordinal} has no vector"));
            };
            if check16(&vector) != field(3) {
                self.unfound(format!("row {ordinal} has another vector than its code was made of"));
            } else if self.source.samples(u64::from(ordinal)) {
                if unpacked.0 != group {
                    unpacked = (group, unpack_group(bytes, bits));
                }
                let mut derived = RowCode::default();
                encoder.encode(&self.floats(&vector), &mut derived);
                if !unpacked.1.get(lane).is_some_and(|stored| alike(stored, &derived)) {
                    self.unfound(format!("row {ordinal} has a code that its vector does not give"));
                }
            }
        }
        Ok(())
    }

    fn vector(&self, ordinal: u32, pages: &BTreeMap<u32, Bytes>) -> Option<Bytes> {
        let (page, address) = (ordinal / PAGE_ROWS, self.header.rows());
        let (range, start) = (address.vector_range(ordinal), address.page_range(page).start);
        let bytes = pages.get(&page)?;
        let range = (range.start - start) as usize..(range.end - start) as usize;
        (range.end <= bytes.len()).then(|| bytes.slice(range))
    }

    fn floats(&self, vector: &[u8]) -> Vec<f32> {
        match self.header.settings().vector_type {
            VectorType::F32 => vector.chunks_exact(4).map(|b| f32::from_bits(little(b) as u32)).collect(),
            VectorType::F16 => {
                vector.chunks_exact(2).map(|b| f16::from_bits(little(b) as u16).to_f32()).collect()
            }
        }
    }
}

/// Codes and id hashes of some leaves.
struct Batch<'h> {
    starts: [u64; 2],
    read: Vec<Bytes>,
    hashes: Option<&'h [u64]>,
}

impl Batch<'_> {
    fn cut(&self, which: usize, range: Range<u64>) -> Bytes {
        if range.is_empty() {
            return Bytes::new();
        }
        let start = self.starts[which];
        self.read[which].slice((range.start - start) as usize..(range.end - start) as usize)
    }
}

/// Whether a code is that of a vector, within what rounding changes: signs of coordinates near zero, levels of those between two,
/// last places of the factors. A row at its centroid has no direction.
fn alike(stored: &RowCode, derived: &RowCode) -> bool {
    let near = |a: f16, b: f16| {
        let (a, b) = (a.to_f32(), b.to_f32());
        (a - b).abs() <= TOLERANCE * (1.0 + a.abs().max(b.abs()))
    };
    if stored.is_saturated() || derived.is_saturated() {
        return stored.is_saturated() == derived.is_saturated();
    }
    let differ: u32 = stored.bits.iter().zip(&derived.bits).map(|(a, b)| (a ^ b).count_ones()).sum();
    let at_centroid = stored.f_rescale.to_f32().abs() < TOLERANCE;
    stored.bits.len() == derived.bits.len()
        && (at_centroid || differ as usize <= stored.bits.len())
        && near(stored.f_add, derived.f_add)
        && near(stored.f_rescale, derived.f_rescale)
        && near(stored.f_err, derived.f_err)
}
