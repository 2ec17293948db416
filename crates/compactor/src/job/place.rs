//! The files of a job's segment: put together from what its steps kept, sent in parts that any step may go on with.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use esker_format::keys::Made;
use esker_format::segment::rows::RowsLayout;
use esker_format::{Kind, Result};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::bench::{Bench, Stop};
use super::index::Laid;
use super::pack::Pack;
use super::pieces::Piece;
use crate::build;
use crate::build::units::Stretch;

/// Bytes of every part but the last …
const PART: u64 = 8 << 20;
/// … unless there would be more than S3 takes, which is 10,000.
const MOST_PARTS: u64 = 9_000;
/// Parts that are sent beside each other and kept as one result.
const TOGETHER: usize = 4;
/// Bytes in front of the first row group.
const MAGIC: &[u8] = b"PAR1";

/// Where a segment goes. Another place is taken if a collection gave this one up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) made: Made,
    /// Ids of the uploads of rows and index, where the store has such.
    uploads: Option<(String, String)>,
}

/// A file that is somewhere else in pieces.
pub(super) struct Composed(Vec<Source>);

enum Source {
    Bytes(Bytes),
    Object { key: String, range: Range<u64> },
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Object { range, .. } => range.end - range.start,
        }
    }
}

impl Composed {
    pub(super) fn rows(layout: &RowsLayout, pieces: &[Piece]) -> Composed {
        let groups = pieces
            .iter()
            .map(|piece| Source::Object { key: piece.key.clone(), range: piece.layout.groups_range() });
        let magic = std::iter::once(Source::Bytes(Bytes::from_static(MAGIC)));
        let footer = std::iter::once(Source::Bytes(layout.footer.clone()));
        Composed(magic.chain(groups).chain(footer).collect())
    }

    pub(super) fn index(laid: &Laid, pieces: &[Piece]) -> Composed {
        let mut sources = Vec::new();
        for stretch in &laid.stretches {
            match stretch {
                Stretch::Bytes(bytes) => sources.push(Source::Bytes(bytes.clone())),
                Stretch::Payload => sources.extend(pieces.iter().map(|piece| {
                    let start = piece.layout.address.file_size;
                    Source::Object { key: piece.key.clone(), range: start..start + piece.blocks_length() }
                })),
                Stretch::Attributes => sources.extend(
                    laid.columns
                        .iter()
                        .map(|(key, length)| Source::Object { key: key.clone(), range: 0..*length }),
                ),
            }
        }
        Composed(sources)
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(Source::len).sum()
    }

    /// Some of its bytes.
    async fn read(&self, bench: &Bench<'_>, wanted: Range<u64>) -> Result<Bytes> {
        let (mut out, mut at) = (BytesMut::with_capacity((wanted.end - wanted.start) as usize), 0);
        for source in &self.0 {
            let from = wanted.start.clamp(at, at + source.len()) - at;
            let to = wanted.end.clamp(at, at + source.len()) - at;
            at += source.len();
            if from == to {
                continue;
            }
            match source {
                Source::Bytes(bytes) => out.extend_from_slice(&bytes[from as usize..to as usize]),
                Source::Object { key, range } => {
                    let range = range.start + from..range.start + to;
                    let (client, meter) = (bench.collection.client(), bench.meter.fork());
                    out.extend_from_slice(&client.range(&meter, key, range).await?);
                }
            }
        }
        Ok(out.freeze())
    }
}

/// A file of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Rows,
    Index,
}

/// Sends a file to its place.
pub(super) async fn sent(
    bench: &mut Bench<'_>,
    (number, place): &(usize, Place),
    which: File,
    file: &Composed,
) -> Result<(), Stop> {
    bench.stage = "upload";
    let keys = bench.collection.keys();
    let (name, key) = match which {
        File::Rows => (format!("rows-{number}"), keys.rows(place.made)),
        File::Index => (format!("index-{number}"), keys.index(place.made)),
    };
    let done = format!("{name}-done");
    if bench.has(&done) {
        return Ok(());
    }
    match &place.uploads {
        None => whole(bench, &key, file).await?,
        Some((rows, index)) => {
            let upload = if which == File::Rows { rows } else { index };
            match in_parts(bench, &name, &key, upload, file).await {
                Err(Stop::Failed(e)) if !is_there(bench, &key, file.len()).await => {
                    // Not of what it is put together from.
                    if e.kind() == Kind::NotFound && e.to_string().contains(&key) {
                        // The upload is gone, or has another's parts. The next step begins one.
                        bench.keep(&format!("lost-{number}"), Pack::default()).await?;
                        return Err(Stop::Again);
                    }
                    return Err(e.into());
                }
                // A step that was faster has completed it.
                Err(Stop::Failed(_)) => {}
                sent => sent?,
            }
        }
    }
    bench.keep(&done, Pack::default()).await?;
    Ok(())
}

/// The place that the segment goes to: the last one, unless its name is below a floor by now.
pub(super) async fn begun(bench: &mut Bench<'_>) -> Result<(usize, Place), Stop> {
    let newest = bench.collection.manifest(bench.meter).await?;
    let last = bench.last("place");
    if let Some(number) = last {
        let place: Place = bench.load_last("place", number).await?.json()?;
        if place.made.base >= newest.floors.base && !bench.has(&format!("lost-{number}")) {
            return Ok((number, place));
        }
        forget(bench, &place).await;
    }
    bench.turn()?;
    let client = bench.collection.client();
    let made = Made { base: newest.version, token: client.seams().token() };
    let keys = bench.collection.keys();
    let uploads = match client.keeps_parts() {
        true => Some((
            client.begin_parts(bench.meter, &keys.rows(made)).await?,
            client.begin_parts(bench.meter, &keys.index(made)).await?,
        )),
        false => None,
    };
    let number = last.map_or(0, |last| last + 1);
    let own = Place { made, uploads };
    let place: Place = bench.keep(&format!("place-{number}"), Pack::default().json(&own)?).await?.json()?;
    if place.made != own.made {
        forget(bench, &own).await;
    }
    Ok((number, place))
}

/// Gives the uploads of a place up, as far as the store lets it.
pub(super) async fn forget(bench: &Bench<'_>, place: &Place) {
    let Some((rows, index)) = &place.uploads else { return };
    let (client, keys) = (bench.collection.client(), bench.collection.keys());
    for (key, upload) in [(keys.rows(place.made), rows), (keys.index(place.made), index)] {
        if let Err(e) = client.abort_parts(bench.meter, &key, upload).await {
            tracing::debug!(key, error = %e, "an upload was not given up");
        }
    }
}

async fn in_parts(
    bench: &mut Bench<'_>,
    name: &str,
    key: &str,
    upload: &String,
    file: &Composed,
) -> Result<(), Stop> {
    let total = file.len();
    let size = PART.max(total.div_ceil(MOST_PARTS));
    let count = total.div_ceil(size) as usize;
    let mut parts: Vec<String> = Vec::with_capacity(count);
    for (result, first) in (0..count).step_by(TOGETHER).enumerate() {
        let name = format!("{name}-{result}");
        let mut kept = match bench.load(&name).await? {
            Some(kept) => kept,
            None => {
                bench.turn()?;
                let own = first..count.min(first + TOGETHER);
                let sent = own.map(|part| {
                    let (bench, at) = (&*bench, part as u64 * size);
                    async move {
                        let bytes = file.read(bench, at..total.min(at + size)).await?;
                        let (client, meter) = (bench.collection.client(), bench.meter.fork());
                        client.put_part(&meter, key, upload, part, bytes).await
                    }
                });
                let sent = try_join_all(sent).await?;
                bench.keep(&name, Pack::default().json(&sent)?).await?
            }
        };
        parts.extend(kept.json::<Vec<String>>()?);
    }
    bench.turn()?;
    let client = bench.collection.client();
    client.complete_parts(bench.meter, key, upload, parts, total).await?;
    Ok(())
}

/// Looks whether a segment that was sent is there as it was made, before its inputs are given up for it. If not, the next step
/// sends it again.
pub(super) async fn checked(bench: &mut Bench<'_>, built: &build::Made, made: Made) -> Result<(), Stop> {
    let keys = bench.collection.keys();
    let (rows, index) = (keys.rows(made), keys.index(made));
    let header = 0..built.summary.header_len;
    let is_whole = is_there(bench, &rows, built.rows_file.len()).await
        && is_there(bench, &index, built.index_file.len()).await
        && bench.collection.client().range(bench.meter, &index, header).await? == built.header;
    if is_whole {
        return Ok(());
    }
    tracing::warn!(key = index, "a segment is not there as it was made, and is sent again");
    let number = bench.last("place").unwrap_or(0);
    bench.keep(&format!("lost-{number}"), Pack::default()).await?;
    Err(Stop::Again)
}

/// Whether a file is complete.
async fn is_there(bench: &Bench<'_>, key: &str, length: u64) -> bool {
    let found = bench.collection.client().suffix(bench.meter, key, 1).await;
    found.is_ok_and(|(_, size)| size == length)
}

/// Sends a file in one go, where uploads cannot be resumed.
async fn whole(bench: &mut Bench<'_>, key: &str, file: &Composed) -> Result<(), Stop> {
    bench.turn()?;
    let mut upload = bench.collection.client().upload(bench.meter, key);
    let total = file.len();
    for at in (0..total).step_by(PART as usize) {
        upload.write(file.read(bench, at..total.min(at + PART)).await?).await?;
    }
    upload.finish().await?;
    Ok(())
}
