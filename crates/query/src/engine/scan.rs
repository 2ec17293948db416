//! Scans: every row that passes a filter, as record batches, in no particular order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use esker_format::schema::{Schema, Settings, arrow_schema};
use esker_format::segment::payload::PayloadBatch;
use esker_format::{Error, Result, Seq};
use esker_store::Meter;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use roaring::RoaringBitmap;

use super::Reader;
use super::load::{Loaded, Need, Part};
use super::nearest::place;
use super::see::{Access, View};
use crate::filter::Filter;
use crate::search::{Place, TAIL};
use crate::segment::{Payload, vector_array};
use crate::tail::TailRow;

/// Up to this many rows of a segment are read by themselves, more by whole columns.
const FEW_ROWS: u64 = 1024;
/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Pieces of a scan that are read at once.
const AHEAD: usize = 2;

/// What to scan.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// Only rows for which this is true.
    pub filter: Option<Filter>,
    /// Columns of [`table_schema`] by name, in this order; all but the vector if not said.
    pub columns: Option<Vec<String>>,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// At least the state that an acknowledgement with this position left.
    pub min_position: Option<Seq>,
}

/// A scan under way.
pub struct Scanned {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// The state that is scanned.
    pub position: Seq,
}

/// The first row of a scan, which goes through the segments by ordinal and then through the tail.
pub(super) const START: Place = (0, 0);

/// At most `limit` rows from a place on, and where the rest begins if there is one.
pub(super) fn pieces(
    view: &View,
    loaded: &Loaded,
    superseded: &[RoaringBitmap],
    from: Place,
    limit: usize,
    now_ms: i64,
) -> Result<(Vec<Piece>, Option<Place>)> {
    let (mut left, mut next, mut pieces) = (limit, None, Vec::new());
    // Keeps the first rows as far as the limit goes; of the rest the first says where to go on.
    let take = |number: u32, mut own: Vec<u32>, left: &mut usize, next: &mut Option<Place>| {
        if next.is_none() && own.len() > *left {
            *next = Some((number, u64::from(own[*left])));
        }
        own.truncate(*left);
        *left -= own.len();
        own
    };
    for (i, (part, gone)) in loaded.parts.iter().zip(superseded).enumerate().skip(from.0 as usize) {
        if next.is_some() {
            break;
        }
        let (segment, number) = (&part.segment, i as u32);
        let first = if number == from.0 { u32::try_from(from.1).unwrap_or(u32::MAX) } else { 0 };
        let rows = part.rows.clone().without(segment.row_count(), gone);
        if rows.count(segment.row_count()).min(left as u64) <= FEW_ROWS {
            let all = rows.within(first.min(segment.row_count())..segment.row_count());
            pieces.push(Piece::Rows(i, take(number, all, &mut left, &mut next)));
            continue;
        }
        for group in 0..segment.row_groups() {
            let range = segment.header.rows().group_rows(group);
            let own = rows.within(range.start.max(first)..range.end.max(first));
            pieces.push(Piece::Group(i, group, take(number, own, &mut left, &mut next)));
        }
    }
    let first = if from.0 == TAIL { from.1 } else { 0 };
    let mut tail = view.tail.rows(loaded.filter.as_deref(), now_ms)?;
    tail.retain(|row| place(*row).1 >= first);
    if next.is_none() && tail.len() > left {
        next = Some(place(tail[left]));
    }
    tail.truncate(left);
    pieces.push(Piece::Tail(tail));
    pieces.retain(|p| !p.is_empty());
    Ok((pieces, next))
}

/// A piece of a scan.
pub(super) enum Piece {
    /// Single rows of a segment.
    Rows(usize, Vec<u32>),
    /// Rows of a row group of a segment.
    Group(usize, usize, Vec<u32>),
    Tail(Vec<TailRow>),
}

/// A collection's columns as a table has them (WIRE §6).
pub fn table_schema(settings: &Settings, schema: &Schema) -> SchemaRef {
    let all = arrow_schema(settings, schema);
    let fields: Vec<_> = all.fields().iter().filter(|f| f.name() != "_row").cloned().collect();
    Arc::new(ArrowSchema::new(fields))
}

impl Reader {
    /// Every row, or those that pass a filter, each once, in its newest version.
    pub async fn scan(&self, meter: &Meter, request: &ScanRequest) -> Result<Scanned> {
        let now_ms = self.now_ms();
        let access = Access { min_position: request.min_position, ..Access::default() };
        let (view, loaded) = self
            .see(meter, access, |draft| {
                let need = Need { filter: request.filter.as_ref(), now_ms, ..Need::default() };
                self.load(draft, need).boxed()
            })
            .await?;
        let table = table_schema(&view.manifest.settings, &view.schema);
        let projection = match &request.columns {
            None => (0..table.fields().len()).filter(|i| table.field(*i).name() != "vector").collect(),
            Some(names) => {
                let find = |n: &String| {
                    let unknown = || {
                        Error::invalid(
                            "include",
                            format!("unknown column {}", crate::filter::suggest::ident(n)),
                        )
                    };
                    table.index_of(n).map_err(|_| unknown())
                };
                names.iter().map(find).collect::<Result<Vec<usize>>>()?
            }
        };
        let position = view.position;
        let (schema, batches) =
            self.scan_view(meter, view, loaded, &projection, request.limit, now_ms).await?;
        Ok(Scanned { schema, batches, position })
    }

    /// The rows of a state that was loaded with a filter.
    pub(crate) async fn scan_view(
        &self,
        meter: &Meter,
        view: View,
        loaded: Loaded,
        projection: &[usize],
        limit: Option<usize>,
        now_ms: i64,
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
        let table = table_schema(&view.manifest.settings, &view.schema);
        let schema = Arc::new(table.project(projection).map_err(bad_batch)?);
        let superseded = self.superseded(meter, &view, &loaded).await?;
        let (pieces, _) = pieces(&view, &loaded, &superseded, START, limit.unwrap_or(usize::MAX), now_ms)?;
        let batches = self.read_pieces(meter, view, loaded, schema.clone(), pieces);
        Ok((schema, batches))
    }

    /// The rows of pieces, in their order.
    pub(super) fn read_pieces(
        &self,
        meter: &Meter,
        view: View,
        loaded: Loaded,
        schema: SchemaRef,
        pieces: Vec<Piece>,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let work = Arc::new((self.clone(), view, loaded, schema.clone(), meter.clone()));
        let batches = stream::iter(pieces)
            .map(move |piece| {
                let work = work.clone();
                async move {
                    let (reader, view, loaded, schema, meter) = &*work;
                    reader.piece(&meter.fork(), view, loaded, schema, piece).await
                }
            })
            .buffered(AHEAD)
            .map_ok(|batch| stream::iter(slices(batch).into_iter().map(Ok)))
            .try_flatten();
        batches.boxed()
    }

    async fn piece(
        &self,
        meter: &Meter,
        view: &View,
        loaded: &Loaded,
        schema: &SchemaRef,
        piece: Piece,
    ) -> Result<RecordBatch> {
        if schema.fields().is_empty() {
            return rows_only(schema, piece.len());
        }
        match piece {
            Piece::Rows(i, rows) => self.single_rows(meter, view, &loaded.parts[i], schema, &rows).await,
            Piece::Group(i, group, rows) => self.group(meter, &loaded.parts[i], schema, group, &rows).await,
            Piece::Tail(rows) => tail_batch(view, schema, &rows),
        }
    }

    async fn single_rows(
        &self,
        meter: &Meter,
        view: &View,
        part: &Part,
        schema: &SchemaRef,
        rows: &[u32],
    ) -> Result<RecordBatch> {
        let (segment, client) = (&part.segment, self.client());
        let (vectors_meter, payload_meter) = (meter.fork(), meter.fork());
        let with_vector = schema.index_of("vector").is_ok();
        let vectors = async {
            match with_vector {
                true => segment.read_vectors_alone(client, &vectors_meter, rows).await.map(Some),
                false => Ok(None),
            }
        };
        let payload = segment.read_payload(client, &payload_meter, &view.schema, rows.iter().copied());
        let (vectors, payload) = futures::try_join!(vectors, payload)?;
        segment_batch(view, part, schema, rows, &payload, |o| vectors.as_ref().and_then(|v| v.get(o)))
    }

    async fn group(
        &self,
        meter: &Meter,
        part: &Part,
        schema: &SchemaRef,
        group: usize,
        rows: &[u32],
    ) -> Result<RecordBatch> {
        let (segment, client) = (&part.segment, self.client());
        let first = segment.header.rows().group_rows(group).start;
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let (columns_meter, vector_meter) = (meter.fork(), meter.fork());
        let vector = async {
            match names.contains(&"vector") {
                true => segment.read_vector_column(client, &vector_meter, group).await.map(Some),
                false => Ok(None),
            }
        };
        let (columns, vector) =
            futures::try_join!(segment.read_columns(client, &columns_meter, group, &names), vector)?;
        let wanted = UInt32Array::from_iter_values(rows.iter().map(|r| r - first));
        let all = rows.len() == columns.num_rows();
        let pick = |column: &ArrayRef| match all {
            true => Ok(column.clone()),
            false => take(column, &wanted, None).map_err(bad_batch),
        };
        conform(schema, rows.len(), |name| match (name, &vector) {
            ("vector", Some(vector)) => Some(pick(vector)),
            _ => columns.column_by_name(name).map(pick),
        })
    }
}

/// Rows of a segment from their payload and vectors.
pub(crate) fn segment_batch<'a>(
    view: &View,
    part: &Part,
    schema: &SchemaRef,
    rows: &[u32],
    payload: &Payload,
    vector: impl Fn(u32) -> Option<&'a [u8]>,
) -> Result<RecordBatch> {
    let missing = || Error::internal("a row was not read");
    let mut batch = PayloadBatch::new(&view.schema);
    let mut vectors = Vec::new();
    let with_vector = schema.index_of("vector").is_ok();
    for ordinal in rows {
        let (block, row) = payload.row(*ordinal).ok_or_else(missing)?;
        batch.push(block, row);
        if with_vector {
            vectors.extend_from_slice(vector(*ordinal).ok_or_else(missing)?);
        }
    }
    let batch = batch.finish()?;
    let vectors = vector_array(part.segment.header.settings(), vectors)?;
    conform(schema, rows.len(), |name| match name {
        "vector" => Some(Ok(vectors.clone())),
        _ => batch.column_by_name(name).cloned().map(Ok),
    })
}

/// Rows of the tail.
pub(crate) fn tail_batch(view: &View, schema: &SchemaRef, rows: &[TailRow]) -> Result<RecordBatch> {
    let mut entries: Vec<u32> = rows.iter().map(|(entry, _)| *entry).collect();
    entries.sort_unstable();
    entries.dedup();
    let mut projected = Vec::with_capacity(entries.len());
    for entry in &entries {
        let batch = view.tail.batch(*entry);
        projected
            .push(conform(schema, batch.num_rows(), |name| batch.column_by_name(name).cloned().map(Ok))?);
    }
    let at = |(entry, row): &TailRow| (entries.binary_search(entry).unwrap_or_default(), *row as usize);
    let indices: Vec<(usize, usize)> = rows.iter().map(at).collect();
    if projected.is_empty() {
        return Ok(RecordBatch::new_empty(schema.clone()));
    }
    let batches: Vec<&RecordBatch> = projected.iter().collect();
    arrow::compute::interleave_record_batch(&batches, &indices).map_err(bad_batch)
}

/// Columns in the types of a schema: those that are missing are null, whole numbers of a column that widened become
/// floats.
fn conform(
    schema: &SchemaRef,
    rows: usize,
    column: impl Fn(&str) -> Option<Result<ArrayRef>>,
) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let found = column(field.name()).transpose()?;
        columns.push(match found {
            Some(found) if found.data_type() == field.data_type() => found,
            Some(found) => cast(&found, field.data_type()).map_err(bad_batch)?,
            None => new_null_array(field.data_type(), rows),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(bad_batch)
}

fn rows_only(schema: &SchemaRef, rows: usize) -> Result<RecordBatch> {
    conform(schema, rows, |_| None)
}

pub(crate) fn bad_batch(e: arrow::error::ArrowError) -> Error {
    Error::internal("rows do not fit the table").with_source(e)
}

fn slices(batch: RecordBatch) -> Vec<RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(BATCH_ROWS);
    starts.map(|at| batch.slice(at, BATCH_ROWS.min(batch.num_rows() - at))).collect()
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Rows(_, rows) | Piece::Group(_, _, rows) => rows.len(),
            Piece::Tail(rows) => rows.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
