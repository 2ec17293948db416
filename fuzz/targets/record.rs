//! A block of records in our schema: what the validator lets in, the decoder must read, as many rows and the same ids.
#![no_main]

use esker_format::avro::{self, BlockContext, RowsBuilder, Rules, validate};
use esker_format::record::Op;
use esker_format::schema::{Metric, Schema};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let collection = esker_fuzz::collection();
    esker_fuzz::bounded(data.len(), || {
        for (op, metric) in
            [(Op::Upsert, Metric::L2), (Op::Upsert, Metric::Cosine), (Op::Delete, Metric::Dot)]
        {
            let settings = esker_fuzz::settings(4, metric);
            let rules = Rules { collection: &collection, op, settings: &settings };
            let Ok(summary) = validate(data, None, &rules) else { continue };
            let ids: Vec<u64> =
                avro::ids(data).map(|id| collection.hash_id(id.expect("it was validated"))).collect();
            assert_eq!(ids, summary.ids);
            let keys = summary.keys.iter().map(|(key, seen)| (key.as_str(), seen));
            let Ok(schema) = Schema::default().admit(keys) else { continue };
            let mut rows = RowsBuilder::new(&settings, &schema.unwrap_or_default());
            let rows_in = u64::from(summary.rows);
            let context = BlockContext { op, arrived_ms: 1, seq: 1, first_row: 0, rows: rows_in };
            rows.append_block(data, &context).expect("it was validated");
            let decoded = rows.finish().expect("it was validated");
            assert_eq!(decoded.rows.num_rows() + decoded.tombstones.len(), summary.rows as usize);
        }
        // Bytes that were never validated, as a damaged log would have them.
        let mut rows = RowsBuilder::new(&esker_fuzz::settings(4, Metric::L2), &Schema::default());
        let context = BlockContext { op: Op::Upsert, arrived_ms: 1, seq: 1, first_row: 0, rows: 3 };
        rows.append_block(data, &context).ok();
    });
});
