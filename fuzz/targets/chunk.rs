//! A column chunk of rows.parquet, read without the file's footer. The first byte picks the column.
#![no_main]

use std::sync::LazyLock;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use esker_format::schema::arrow_schema;
use esker_format::segment::index::Header;
use esker_format::segment::rows::decode_chunk;
use libfuzzer_sys::fuzz_target;

static FILE: &[u8] = include_bytes!("../../crates/format/golden/segment/plain.index");
static SCHEMA: LazyLock<(SchemaRef, usize)> = LazyLock::new(|| {
    let header = Header::parse("index", Bytes::from_static(FILE)).expect("it is golden");
    (arrow_schema(header.settings(), header.schema()), header.facts().rows as usize)
});

fuzz_target!(|data: &[u8]| {
    let Some((pick, chunk)) = data.split_first() else { return };
    let (schema, rows) = (&SCHEMA.0, SCHEMA.1);
    let field = schema.field(usize::from(*pick) % schema.fields().len());
    if field.name() == "vector" {
        return;
    }
    esker_fuzz::bounded(data.len(), || {
        if let Ok(column) = decode_chunk("rows", field, rows, Bytes::copy_from_slice(chunk)) {
            assert_eq!((column.len(), column.data_type()), (rows, field.data_type()));
        }
    });
});
