//! A segment's files, read with the parquet crate and checked against everything that is said about them.

use super::{Version, versions};
use bytes::Bytes;
use esker_format::keys::Keys;
use esker_format::manifest::Segment;
use esker_format::segment::deletes;
use esker_format::segment::index::{Header, Section};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Sections that an index may have.
const SECTIONS: [Section; 17] = [
    Section::Facts,
    Section::Schema,
    Section::Rows,
    Section::Calibration,
    Section::Leaves,
    Section::Centroids,
    Section::AttributeDirectory,
    Section::IdMapDirectory,
    Section::PayloadSizes,
    Section::Codes,
    Section::IdPlane,
    Section::IdMap,
    Section::PayloadSizePages,
    Section::Payload,
    Section::Attributes,
    Section::Checks,
    Section::Footer,
];

/// All rows of a segment by ordinal, dead ones too.
#[derive(Debug)]
pub struct Rows(Vec<Version>);

/// INV-3 and INV-9 of a segment's two files.
pub fn read(keys: &Keys, segment: &Segment, body: impl Fn(&str) -> Bytes) -> Rows {
    let (rows_key, index_key) = (keys.rows(segment.made), keys.index(segment.made));
    let (rows, index) = (body(&rows_key), body(&index_key));
    let start = index.slice(..segment.header_size as usize);
    assert_eq!(crc32c::crc32c(&start), segment.header_crc, "INV-3: header of {index_key}");
    let header = Header::parse(&index_key, start).unwrap_or_else(|e| panic!("INV-3: {e}"));
    let cut = |section| {
        let range = header.section(section)?;
        let bytes = index.slice(range.start as usize..range.end as usize);
        header.check_section(section, &bytes).unwrap_or_else(|e| panic!("INV-3: {e}"));
        Some(bytes)
    };
    let sections: Vec<Section> = SECTIONS.into_iter().filter(|s| cut(*s).is_some()).collect();
    assert!(sections.contains(&Section::IdMap) && sections.contains(&Section::Checks), "{sections:?}");
    check_rows_file(&rows_key, &rows, &header, &cut(Section::Checks).unwrap_or_default());
    let reader = ParquetRecordBatchReaderBuilder::try_new(rows).and_then(|b| b.build());
    let reader = reader.unwrap_or_else(|e| panic!("INV-3: {rows_key}: {e}"));
    let batches = reader.map(|b| b.unwrap_or_else(|e| panic!("INV-3: {rows_key}: {e}")));
    let all: Vec<Version> = batches.flat_map(|b| versions(&b)).collect();
    assert_eq!(all.len() as u64, segment.rows, "INV-3: rows of {rows_key}");
    let seqs = all.iter().map(|v| v.at.0);
    assert_eq!((seqs.clone().min(), seqs.max()), (Some(segment.seqs.0), Some(segment.seqs.1)));
    // Its own rows are the first postings of each leaf, and the id map has every one.
    assert_eq!(header.leaf_starts().last().map(|end| u64::from(*end)), Some(segment.rows), "INV-9");
    let idmap = header.idmap_entries(&cut(Section::IdMap).unwrap_or_default());
    let mut ordinals: Vec<u32> =
        idmap.unwrap_or_else(|e| panic!("INV-3: {e}")).into_iter().map(|(_, o)| o).collect();
    ordinals.sort_unstable();
    assert_eq!(ordinals, (0..segment.rows as u32).collect::<Vec<_>>(), "INV-9: id map of {index_key}");
    Rows(all)
}

fn check_rows_file(key: &str, rows: &Bytes, header: &Header, checks: &Bytes) {
    let checks = header.checks(checks).unwrap_or_else(|e| panic!("INV-3: {e}"));
    let cut = |range: std::ops::Range<u64>| &rows[range.start as usize..range.end as usize];
    for chunk in &checks.chunks {
        chunk.check(key, cut(chunk.range())).unwrap_or_else(|e| panic!("INV-3: {e}"));
    }
    for page in 0..checks.page_crcs.len() as u32 {
        let bytes = cut(header.rows().page_range(page));
        checks.check_page(key, page, bytes).unwrap_or_else(|e| panic!("INV-3: {e}"));
    }
}

impl Rows {
    /// The rows that a manifest's reference leaves alive.
    pub fn live(&self, keys: &Keys, segment: &Segment, body: impl Fn(&str) -> Bytes) -> Vec<Version> {
        let Some(reference) = &segment.deletes else { return self.0.clone() };
        let key = keys.deletes(reference.made);
        let bytes = body(&key);
        let dead = deletes::decode_all(&key, &bytes).unwrap_or_else(|e| panic!("INV-3: {e}"));
        assert_eq!((bytes.len() as u64, dead.len()), (reference.size, reference.count), "INV-3: {key}");
        let alive = |(ordinal, row): (usize, &Version)| (!dead.contains(ordinal as u32)).then(|| row.clone());
        self.0.iter().enumerate().filter_map(alive).collect()
    }
}
