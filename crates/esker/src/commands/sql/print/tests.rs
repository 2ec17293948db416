use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};

use super::*;
use crate::args::Format;

fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
    let texts: StringArray = rows.clone().map(|i| (i % 7 != 0).then(|| format!("row {i}"))).collect();
    let numbers: Int64Array = rows.collect::<Vec<_>>().into();
    RecordBatch::try_from_iter([("text", Arc::new(texts) as _), ("number", Arc::new(numbers) as _)]).unwrap()
}

fn printed(rows: Option<RowFormat>, format: Format, batches: &[RecordBatch]) -> String {
    let mut printer = Printer::new(rows, &Output::new(format), batch(0..0).schema());
    let mut text = Vec::new();
    for batch in batches {
        text.extend(printer.write(batch).unwrap());
        if let Printer::Table(columns) = &printer {
            assert!(columns.held.len() < WIDE_ROWS, "no more is held");
        }
    }
    text.extend(printer.finish(&Io::default(), 1.5).unwrap());
    String::from_utf8(text).unwrap()
}

#[test]
fn a_table_in_parts_reads_as_one() {
    let parts: Vec<RecordBatch> = (0..25).map(|i| batch(i * 100..i * 100 + 100)).collect();
    let text = printed(None, Format::Text, &parts);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2502);
    assert_eq!((lines[0], lines[2], lines[3]), ("text      number", "          0", "row 1     1"));
    assert_eq!(lines[2500], "row 2498   2498", "one digit more than the first part was made for");
}

#[test]
fn no_rows_have_a_heading() {
    assert!(printed(None, Format::Text, &[]).starts_with("text   number\n─"));
    assert_eq!(printed(Some(RowFormat::Csv), Format::Text, &[]), "text,number\n");
    assert_eq!(printed(Some(RowFormat::Ndjson), Format::Text, &[]), "");
    let json: serde_json::Value = serde_json::from_str(&printed(None, Format::Json, &[])).unwrap();
    assert_eq!(json["rows"], json!([]));
}

#[test]
fn rows_are_lines_or_one_document() {
    let parts = [batch(0..0), batch(0..2), batch(2..3)];
    let csv = printed(Some(RowFormat::Csv), Format::Json, &parts);
    assert_eq!(csv, "text,number\n,0\nrow 1,1\nrow 2,2\n");
    let lines = printed(Some(RowFormat::Ndjson), Format::Json, &parts);
    assert_eq!(
        lines,
        "{\"number\":0}\n{\"text\":\"row 1\",\"number\":1}\n{\"text\":\"row 2\",\"number\":2}\n"
    );
    let json: serde_json::Value = serde_json::from_str(&printed(None, Format::Json, &parts)).unwrap();
    assert_eq!(
        json["rows"],
        json!([{"number": 0}, {"text": "row 1", "number": 1}, {"text": "row 2", "number": 2}])
    );
    assert_eq!(json["took_ms"], json!(1.5));
}
