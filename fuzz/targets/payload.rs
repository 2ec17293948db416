//! Payload blocks: as stored, and the input compressed, so that what lies behind zstd is reached.
#![no_main]

use std::sync::{Arc, LazyLock};

use esker_format::schema::{Column, ColumnType, Schema};
use esker_format::segment::payload::decode_block;
use libfuzzer_sys::fuzz_target;

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let kinds =
        [ColumnType::Boolean, ColumnType::Int, ColumnType::Float, ColumnType::String, ColumnType::Strings];
    let column = |(i, kind)| Column { name: format!("column-{i}"), kind, wide: false };
    Arc::new(Schema { columns: kinds.into_iter().enumerate().map(column).collect() })
});

fuzz_target!(|data: &[u8]| {
    let compressed = zstd::bulk::compress(data, 1).expect("memory is enough");
    esker_fuzz::bounded(data.len(), || {
        decode_block("index", 0, data, &SCHEMA).ok();
        let Ok(rows) = decode_block("index", 0, &compressed, &SCHEMA) else { return };
        for i in 0..rows.len() {
            rows.id(i);
            rows.metadata(i);
            rows.values(i).for_each(|(_, value)| drop(value.to_value()));
        }
        let all: Vec<usize> = (0..rows.len()).collect();
        rows.to_batch(&all).ok();
    });
});
