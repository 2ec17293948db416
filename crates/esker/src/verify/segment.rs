//! A segment's two files: every byte checked, every row hashed, every row findable (INV-3 and INV-9).

mod footer;
mod postings;
mod rows;

use std::ops::Range;

use bytes::Bytes;
use esker_format::SetHash;
use esker_format::envelope;
use esker_format::manifest::{Deletes, Manifest, Segment};
use esker_format::segment::index::{Header, Section};
use esker_format::segment::rows::RowsChecks;
use roaring::RoaringBitmap;

use super::source::{At, Source, Stop, broken};

/// Bytes of a cold section that are read at once.
const PIECE: u64 = 4 << 20;
/// Bytes of an entry of the section directory.
const ENTRY: usize = 24;

/// A segment under one of the bitmaps that retained versions have of it, and what its live rows add up to.
pub struct View {
    pub deletes: Option<Deletes>,
    pub dead: RoaringBitmap,
    pub is_newest: bool,
    pub sum: SetHash,
}

/// A section as the index file's directory has it.
pub struct Part {
    kind: u16,
    pub range: Range<u64>,
    pub crc: u32,
}

impl Part {
    pub fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The section directory, read by the format page instead of by the engine.
pub struct Directory(Vec<Part>);

impl Directory {
    /// From the start of an index file.
    pub fn parse(object: &str, header: &[u8]) -> Result<Self, Stop> {
        let short = || broken(object, "INV-3", "the section directory of an index does not end");
        let number = |at: usize, width: usize| {
            let bytes = header.get(at..at + width)?;
            Some(bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b)))
        };
        let Some(count) = number(envelope::LENGTH, 2) else { return short() };
        let entry = |i: usize| {
            let at = envelope::LENGTH + 2 + i * ENTRY;
            let (kind, start) = (number(at, 2)? as u16, number(at + 4, 8)?);
            let range = start..start.checked_add(number(at + 12, 8)?)?;
            Some(Part { kind, range, crc: number(at + 20, 4)? as u32 })
        };
        match (0..count as usize).map(entry).collect() {
            Some(parts) => Ok(Directory(parts)),
            None => short(),
        }
    }

    pub fn find(&self, section: Section) -> Option<&Part> {
        self.0.iter().find(|p| p.kind == section as u16)
    }

    /// Where a section's entry lies.
    #[cfg(test)]
    pub fn place(&self, section: Section) -> Option<usize> {
        let nth = self.0.iter().position(|p| p.kind == section as u16)?;
        Some(envelope::LENGTH + 2 + nth * ENTRY)
    }

    /// Where the sections begin.
    fn start(&self) -> u64 {
        (envelope::LENGTH + 2 + self.0.len() * ENTRY) as u64
    }
}

/// An opened segment.
pub struct Subject<'a, 'b> {
    source: &'a Source<'b>,
    segment: &'a Segment,
    rows_key: String,
    index_key: String,
    header: Header,
    directory: Directory,
    checks: RowsChecks,
    footer: Bytes,
    /// Rows of segments before this one, and of all.
    progress: (u64, u64),
}

/// Checks a segment and adds its live rows to `views`, and the id hashes of those that are live in the newest version to
/// `live`. Whether all rows were read.
pub async fn check(
    source: &Source<'_>,
    newest: &Manifest,
    segment: &Segment,
    views: &mut [View],
    live: &mut Vec<u64>,
    progress: (u64, u64),
) -> Result<bool, Stop> {
    let Some(mut subject) = source.settle(Subject::open(source, newest, segment, progress).await)? else {
        return Ok(false);
    };
    source.settle(subject.check_sections().await)?;
    source.settle(subject.check_parquet().await)?;
    source.settle(subject.load_attributes().await)?;
    let rows = subject.check_rows(views, live).await;
    let hashes = source.settle(rows)?;
    source.settle(subject.check_id_map(hashes.as_deref()).await)?;
    source.settle(subject.check_postings(hashes.as_deref()).await)?;
    Ok(hashes.is_some())
}

impl<'a, 'b> Subject<'a, 'b> {
    /// Reads what opens the index, and its sections about `rows.parquet`.
    pub async fn open(
        source: &'a Source<'b>,
        newest: &Manifest,
        segment: &'a Segment,
        progress: (u64, u64),
    ) -> Result<Self, Stop> {
        let (rows_key, index_key) = (source.keys.rows(segment.made), source.keys.index(segment.made));
        let bytes = source.range(&index_key, 0..segment.header_size).await?;
        if crc32c::crc32c(&bytes) != segment.header_crc {
            return broken(&index_key, "INV-3", "its header is not the one that was committed");
        }
        let directory = Directory::parse(&index_key, &bytes)?;
        let header = Header::parse(&index_key, bytes).at(&index_key, "INV-3")?;
        let (facts, rows) = (header.facts(), header.rows());
        let as_committed = facts.file_size == segment.index_size
            && u64::from(facts.rows) == segment.rows
            && rows.file_size == segment.rows_size
            && facts.seqs == segment.seqs
            && header.bytes().len() as u64 == segment.header_size;
        if !as_committed {
            return broken(&index_key, "INV-3", "its rows, sizes or entries are not those of the manifest");
        }
        if *header.settings() != newest.settings || !newest.schema.extends(header.schema()) {
            return broken(&index_key, "INV-4", "its settings or columns are not the collection's");
        }
        let cold = |section| header.section(section).unwrap_or(0..0);
        let checks = source.range(&index_key, cold(Section::Checks)).await?;
        let checks = header.checks(&checks).at(&index_key, "INV-3")?;
        let footer = source.range(&index_key, cold(Section::Footer)).await?;
        header.check_section(Section::Footer, &footer).at(&index_key, "INV-3")?;
        Ok(Subject { source, segment, rows_key, index_key, header, directory, checks, footer, progress })
    }

    /// Every section has its checksum, and together they are the file.
    async fn check_sections(&self) -> Result<(), Stop> {
        let key = &self.index_key;
        let mut parts: Vec<&Part> = self.directory.0.iter().collect();
        parts.sort_by_key(|p| (p.range.start, p.range.end));
        let mut at = self.directory.start();
        for part in parts {
            if part.range.start != at {
                return broken(key, "format", format!("nothing explains its bytes from {at} on"));
            }
            at = part.range.end;
            let mut crc = 0;
            let mut from = part.range.start;
            while from < part.range.end {
                let to = part.range.end.min(from + PIECE);
                let bytes = self.source.range(key, from..to).await?;
                crc = crc32c::crc32c_append(crc, &bytes);
                from = to;
            }
            if crc != part.crc {
                self.source.found(key, "INV-3", format!("section {} fails its checksum", part.kind));
            }
        }
        match at == self.segment.index_size {
            true => Ok(()),
            false => broken(key, "format", format!("nothing explains its bytes from {at} on")),
        }
    }

    /// The attribute directory names the chunks that the checks name.
    async fn load_attributes(&mut self) -> Result<(), Stop> {
        let key = self.index_key.clone();
        let names: Vec<String> = self.header.schema().columns.iter().map(|c| c.name.clone()).collect();
        for (column, name) in names.iter().enumerate() {
            if let Some(range) = self.header.attributes().cold(name) {
                let bytes = self.source.range(&key, range).await?;
                self.header.attributes_mut().load(name, &bytes).at(&key, "INV-3")?;
            }
            let Some(entry) = self.header.attributes().column(name) else {
                return broken(&key, "INV-3", format!("it has no attributes of column `{name}`"));
            };
            let same = entry.chunks().len() == self.header.rows().base.len()
                && entry.chunks().iter().enumerate().all(|(group, chunk)| {
                    self.checks.chunk(column + 2, group).is_some_and(|c| c.range() == chunk.range)
                });
            if !same {
                let message = format!("its attributes name other chunks of column `{name}` than its checks");
                return broken(&key, "INV-3", message);
            }
        }
        Ok(())
    }

    /// Rows of each row group, and where their ids lie in `rows.parquet`.
    pub fn id_chunks(&self) -> Vec<(Range<u32>, Range<u64>)> {
        let groups = 0..self.header.rows().base.len();
        groups
            .filter_map(|g| Some((self.header.rows().group_rows(g), self.checks.chunk(0, g)?.range())))
            .collect()
    }

    /// Says how many rows of one of the two passes over them are done.
    fn advance(&self, pass: u64, rows: u64) {
        let (before, total) = self.progress;
        self.source.stage("segments", 2 * before + pass * self.segment.rows + rows, 2 * total);
    }
}
