//! `esker export`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::FileWriter;
use arrow::json::LineDelimitedWriter;
use esker_format::schema::arrow_schema;
use esker_format::{Error, Kind, Result};
use esker_query::ScanRequest;
use esker_store::Meter;
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::search::filter;
use super::{engine, known};
use crate::args::Export;
use crate::output::{Output, bytes, cost_line, io_json, plural};
use crate::progress::bar;
use crate::settings::{Resources, name};

pub async fn run(args: Export, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let format = FileFormat::of(&args.file)?;
    let filter = args.filter.as_deref().map(filter).transpose()?;
    let (store, meter) = (resources.open_store(url, false)?, Meter::new());
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let reader = engine(&store).collection(&collection);
    let described = reader.describe(&meter).await;
    let (manifest, schema) = known(&store, &collection, described).await?;
    let total = reader.count(&meter, filter.as_ref()).await?.0;
    // `_row` is the place in an entry, which means nothing outside the log.
    let columns = arrow_schema(&manifest.settings, &schema);
    let columns = columns.fields().iter().map(|f| f.name().clone()).filter(|n| n != "_row").collect();
    let scan = reader
        .scan(&meter, &ScanRequest { filter, columns: Some(columns), ..ScanRequest::default() })
        .await?;
    // Under another name until it is whole.
    let file = partial(&args.file)?;
    let handle = file.reopen().map_err(|e| cannot_write(&args.file, e))?;
    // A row group is held until it is whole.
    let group = usize::try_from(resources.memory / 8).unwrap_or(usize::MAX);
    let mut writer = Writer::new(format, handle, &scan.schema, group)?;
    let bar = bar(output, "exporting", Some(total));
    let (mut rows, mut batches) = (0, scan.batches);
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows() as u64;
        writer.write(&batch)?;
        bar.set_position(rows);
    }
    writer.finish()?;
    bar.finish_and_clear();
    let file = file.persist(&args.file).map_err(|e| cannot_write(&args.file, e.error))?;
    let size = file.metadata().map_err(|e| cannot_write(&args.file, e))?.len();
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let value = json!({
        "file": args.file, "rows": rows, "bytes": size, "position": scan.position, "io": io_json(&meter.io()),
        "took_ms": ms,
    });
    output.result(&value, || {
        format!(
            "exported {} of {collection} to {} ({})",
            plural(rows, "row", "rows"),
            args.file.display(),
            bytes(size)
        )
    });
    output.dim(cost_line(&meter.io(), ms));
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum FileFormat {
    Parquet,
    Arrow,
    Ndjson,
}

impl FileFormat {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => Ok(FileFormat::Parquet),
            Some("arrow" | "feather" | "ipc") => Ok(FileFormat::Arrow),
            Some("ndjson" | "jsonl") => Ok(FileFormat::Ndjson),
            _ => Err(Error::invalid(
                "file",
                format!("the name {} does not say which format to write", path.display()),
            )
            .with_hint("end it in .parquet, .arrow, .ndjson or .jsonl")),
        }
    }
}

fn partial(path: &Path) -> Result<tempfile::NamedTempFile> {
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // As other programs would make it; the umask applies.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".esker-export-").tempfile_in(directory).map_err(|e| cannot_write(path, e))
}

fn cannot_write(path: &Path, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let e = e.into();
    Error::new(Kind::Unavailable, format!("cannot write {}: {e}", path.display()))
}

enum Writer {
    Parquet(Box<ArrowWriter<File>>),
    Arrow(Box<FileWriter<std::io::BufWriter<File>>>),
    Ndjson(Box<LineDelimitedWriter<std::io::BufWriter<File>>>),
}

impl Writer {
    fn new(format: FileFormat, file: File, schema: &SchemaRef, row_group: usize) -> Result<Self> {
        Ok(match format {
            FileFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_max_row_group_bytes(Some(row_group))
                    .set_compression(Compression::ZSTD(Default::default()))
                    .set_column_dictionary_enabled("vector.list.element".into(), false)
                    .set_column_compression("vector.list.element".into(), Compression::UNCOMPRESSED)
                    .build();
                let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(wrong)?;
                Writer::Parquet(Box::new(writer))
            }
            FileFormat::Arrow => {
                Writer::Arrow(Box::new(FileWriter::try_new_buffered(file, schema).map_err(wrong)?))
            }
            FileFormat::Ndjson => {
                Writer::Ndjson(Box::new(LineDelimitedWriter::new(std::io::BufWriter::new(file))))
            }
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Writer::Parquet(w) => w.write(batch).map_err(wrong),
            Writer::Arrow(w) => w.write(batch).map_err(wrong),
            Writer::Ndjson(w) => w.write(&milliseconds(batch)?).map_err(wrong),
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Writer::Parquet(w) => w.close().map(drop).map_err(wrong),
            Writer::Arrow(mut w) => w.finish().map_err(wrong),
            Writer::Ndjson(mut w) => {
                w.finish().map_err(wrong)?;
                std::io::Write::flush(&mut w.into_inner()).map_err(wrong)
            }
        }
    }
}

fn wrong(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Unavailable, "the file cannot be written").with_source(e)
}

/// Times as the record of WIRE §1 has them, so that the lines can be imported again.
fn milliseconds(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        match field.data_type() {
            DataType::Timestamp(..) => {
                columns.push(cast(column, &DataType::Int64).map_err(wrong)?);
                fields.push(Arc::new(Field::new(field.name(), DataType::Int64, field.is_nullable())));
            }
            _ => {
                columns.push(column.clone());
                fields.push(field.clone());
            }
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(wrong)
}
