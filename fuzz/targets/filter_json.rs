//! Filters as JSON: parsed, and resolved against a table of every type.
#![no_main]

use std::sync::LazyLock;

use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings};
use esker_query::Filter;
use libfuzzer_sys::fuzz_target;

static TABLE: LazyLock<(Settings, Schema)> = LazyLock::new(|| {
    let columns = [
        ("flag", ColumnType::Boolean),
        ("year", ColumnType::Int),
        ("rating", ColumnType::Float),
        ("topic", ColumnType::String),
        ("tags", ColumnType::Strings),
    ];
    let column = |(name, kind): (&str, _)| Column { name: name.to_owned(), kind, wide: false };
    (esker_fuzz::settings(4, Metric::Cosine), Schema { columns: columns.map(column).to_vec() })
});

fuzz_target!(|data: &[u8]| {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let (settings, schema) = &*TABLE;
    esker_fuzz::bounded(data.len(), || {
        if let Ok(filter) = Filter::json(&value) {
            filter.resolve(settings, schema).ok();
        }
    });
});
