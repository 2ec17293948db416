//! What answers filters: a golden header, and its slots, runs and bitmaps with edits whose checksums fit. The first byte
//! picks the predicate.
#![no_main]

use std::ops::Bound;
use std::sync::LazyLock;

use bytes::Bytes;
use esker_format::segment::attributes::{Literal, Predicate};
use esker_format::segment::index::Header;
use libfuzzer_sys::fuzz_target;

static FILE: &[u8] = include_bytes!("../../crates/format/golden/segment/plain.index");
static HEADER: LazyLock<Header> =
    LazyLock::new(|| Header::parse("index", Bytes::from_static(FILE)).expect("it is golden"));

fn predicates() -> Vec<Predicate> {
    let mut columns: Vec<String> = HEADER.schema().columns.iter().map(|c| c.name.clone()).collect();
    columns.extend(["_timestamp".to_owned(), "_version".to_owned(), "none".to_owned()]);
    let mut out = Vec::new();
    for column in columns {
        let literals =
            || [Literal::Bool(true), Literal::Int(3), Literal::Float(0.5), Literal::String("a".to_owned())];
        out.extend(literals().map(|literal| Predicate::Eq(column.clone(), literal)));
        out.push(Predicate::In(column.clone(), literals().to_vec()));
        out.push(Predicate::Range {
            column: column.clone(),
            low: Bound::Excluded(Literal::Int(1)),
            high: Bound::Unbounded,
        });
        out.push(Predicate::Contains(column.clone(), "a".to_owned()));
        out.push(Predicate::IsNull(column));
    }
    out
}

static PREDICATES: LazyLock<Vec<Predicate>> = LazyLock::new(predicates);

fuzz_target!(|data: &[u8]| {
    let Some((pick, edits)) = data.split_first() else { return };
    let predicate = &PREDICATES[usize::from(*pick) % PREDICATES.len()];
    let Some(plan) = HEADER.attributes().plan(predicate) else { return };
    let parts: Vec<Bytes> = plan
        .ranges
        .iter()
        .map(|range| {
            let right = &FILE[range.start as usize..range.end as usize];
            let mut body = esker_fuzz::edited(&right[..right.len() - 4], edits);
            body.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
            Bytes::from(body)
        })
        .collect();
    esker_fuzz::bounded(FILE.len() + data.len(), || {
        if let Ok(rows) = plan.evaluate(&parts) {
            assert!(rows.max().is_none_or(|row| row < HEADER.facts().rows));
        }
    });
});
