//! The specification pages are tested: their tables against the constants.

use std::collections::BTreeMap;

use crate::{envelope, keys, limits, manifest, register, wal};

/// Cells of every table row below the heading or text `after`, up to the next heading.
pub(crate) fn table(page: &str, after: &str) -> Vec<Vec<String>> {
    let start = page.find(after).unwrap_or_else(|| panic!("the page has no `{after}`"));
    page[start + after.len()..]
        .lines()
        .take_while(|l| !l.starts_with('#'))
        .filter(|l| l.starts_with('|') && !l.starts_with("|---"))
        .skip(1)
        .map(|l| l.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

#[test]
fn envelope_page() {
    let page = include_str!("../../../docs/format/envelope.md");
    let kinds: Vec<Vec<String>> = envelope::KINDS
        .iter()
        .map(|(k, l)| vec![format!("{k:?}"), String::from_utf8(l.to_vec()).unwrap()])
        .collect();
    assert_eq!(table(page, "## Kinds"), kinds);
    let yes = |b| if b { "yes" } else { "no" }.to_owned();
    let features: Vec<Vec<String>> = envelope::FEATURES
        .iter()
        .map(|f| vec![f.bit.trailing_zeros().to_string(), f.name.to_owned(), yes(f.supported)])
        .collect();
    assert_eq!(table(page, "## Feature flags"), features);
    let fields = table(page, "# Envelope");
    let mut offset = 0;
    for row in &fields {
        assert_eq!(row[0], offset.to_string(), "{row:?}");
        offset += row[1].parse::<usize>().unwrap();
    }
    assert_eq!(offset, envelope::LENGTH);
    assert!(fields[0][2].contains(&envelope::MAGIC.escape_ascii().to_string()));
    assert!(fields[2][2].ends_with(&format!(": {}", envelope::FORMAT_VERSION)));
}

#[test]
fn limits_page() {
    let page = table(include_str!("../../../docs/format/limits.md"), "# Limits");
    let stated: BTreeMap<&str, u64> = page.iter().map(|r| (r[0].as_str(), r[1].parse().unwrap())).collect();
    let source: BTreeMap<&str, u64> = [
        ("BODY_REACH", limits::BODY_REACH),
        ("INBOX_REACH", limits::INBOX_REACH),
        ("INBOX_BYTES", limits::INBOX_BYTES as u64),
        ("NAME_BYTES", limits::NAME_BYTES as u64),
        ("ID_BYTES", limits::ID_BYTES as u64),
        ("DIMENSION", limits::DIMENSION.into()),
        ("BATCH_ROWS", limits::BATCH_ROWS as u64),
        ("BATCH_BYTES", limits::BATCH_BYTES as u64),
        ("UPLOAD_BYTES", limits::UPLOAD_BYTES),
        ("UPLOAD_RETENTION_MS", limits::UPLOAD_RETENTION_MS as u64),
        ("COLUMNS", limits::COLUMNS as u64),
        ("KEY_BYTES", limits::KEY_BYTES as u64),
        ("K", limits::K as u64),
        ("FILTER_TERMS", limits::FILTER_TERMS as u64),
        ("FILTER_BYTES", limits::FILTER_BYTES as u64),
        ("INLINE_BYTES", limits::INLINE_BYTES as u64),
        ("TAIL_ENTRIES", limits::TAIL_ENTRIES),
        ("TAIL_BYTES", limits::TAIL_BYTES),
        ("FOLD_ENTRIES", limits::FOLD_ENTRIES),
        ("FOLD_BYTES", limits::FOLD_BYTES),
        ("EXACT_INT", limits::EXACT_INT as u64),
        ("TOKEN_RETENTION_MS", limits::TOKEN_RETENTION_MS as u64),
        ("TOKENS", limits::TOKENS as u64),
        ("TOKEN_AHEAD_MS", limits::TOKEN_AHEAD_MS as u64),
        ("DRAWN_RETENTION_MS", limits::DRAWN_RETENTION_MS as u64),
        ("DRAWN_TOKENS", limits::DRAWN_TOKENS as u64),
        ("EXPIRY_GRACE_MS", limits::EXPIRY_GRACE_MS as u64),
    ]
    .into();
    assert_eq!(stated, source);
    let declared = include_str!("limits.rs").matches("pub const ").count();
    // One is no whole number and stands below the table.
    let magnitudes =
        format!("`MAGNITUDES`, {:e} to {:e}", limits::MAGNITUDES.start(), limits::MAGNITUDES.end());
    assert!(include_str!("../../../docs/format/limits.md").contains(&magnitudes));
    assert_eq!(declared, source.len() + 1, "a constant of limits.rs is missing here and on the page");
}

#[test]
fn keys_page() {
    let page = table(include_str!("../../../docs/format/keys.md"), "# Keys");
    let id = "notes-1".parse().unwrap();
    let made = keys::Made { base: 1, token: crate::Token(2) };
    let k = keys::Keys::new(&id);
    let (n, m, t) = (keys::descending(1), made.to_string(), made.token.to_string());
    let built = [
        keys::STORE.to_owned(),
        keys::name_record(id.name(), 1),
        keys::dirty(&id, 1),
        keys::dirty_job(&id, made),
        format!("{}…", keys::DOCTOR),
        k.wal(1),
        k.manifest(1),
        k.head(),
        k.rows(made),
        k.index(made),
        k.deletes(made),
        k.body(1, made.token),
        k.inbox(1, made.token),
        k.pin(1, made.token),
        k.work(made),
        k.job(made, "notes"),
        k.upload(made.token),
        k.progress(made.token),
    ];
    let stated: Vec<String> = page
        .iter()
        .map(|r| {
            let s = r[0]
                .replace("{~n}", &n)
                .replace("{~seq}", &n)
                .replace("{~until}", &n)
                .replace("{~version}", &n)
                .replace("{~tail}", &n);
            let s =
                s.replace("{made}", &m).replace("{token}", &t).replace("{version}", "00000000000000000001");
            s.replace("{id}", "notes-1").replace("{name}", "notes")
        })
        .collect();
    assert_eq!(stated, built);
}

#[test]
fn register_page() {
    let page = include_str!("../../../docs/format/register.md");
    use register::Settled::{Committed, PutAgain, Rebase};
    let settled: Vec<String> = [Committed, Rebase, PutAgain].iter().map(|s| format!("{s:?}")).collect();
    let stated: Vec<String> = table(page, "# The register").into_iter().map(|r| r[1].clone()).collect();
    assert_eq!(stated, settled);
    let fields: Vec<String> = table(page, "## Manifest").into_iter().map(|r| r[0].clone()).collect();
    let json = serde_json::to_string(&manifest::tests::first()).unwrap();
    let mut at = 0;
    for field in &fields {
        let found = json.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("no field {field}"));
        assert!(found >= at, "{field} is out of order");
        at = found;
    }
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value.as_object().unwrap().len(), fields.len());
}

#[test]
fn collection_page() {
    let page = include_str!("../../../docs/format/collection.md");
    let names = |after| table(page, after).into_iter().map(|r| r[0].clone()).collect::<Vec<_>>();
    let fields = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sorted = |mut v: Vec<String>| {
        v.sort();
        v
    };
    let floors = serde_json::to_value(manifest::Floors::default()).unwrap();
    assert_eq!(sorted(names("## Floors")), sorted(fields(floors)));
    let lease = crate::pin::Lease { owner: String::new(), ttl_ms: 1, released: false };
    assert_eq!(sorted(names("## Pins")), sorted(fields(serde_json::to_value(lease).unwrap())));
}

#[test]
fn wal_page() {
    let page = include_str!("../../../docs/format/wal.md");
    let stated: Vec<String> = table(page, "# The log").into_iter().map(|r| r[0].clone()).collect();
    let keys = [wal::FORMAT, wal::FEATURES, wal::COLLECTION, wal::SEQ, wal::BATCHES, wal::BODY, wal::IDS];
    assert_eq!(stated, keys);
    let offers: Vec<String> = table(page, "## Offers").into_iter().map(|r| r[0].clone()).collect();
    assert_eq!(offers, [wal::inbox::TAIL, wal::inbox::OFFERED]);
    let batch = wal::Batch {
        token: crate::Token(1),
        op: crate::record::Op::Upsert,
        given: true,
        content: Some(crate::Content(1)),
        rows: 1,
        blocks: 1,
        arrived_ms: 1,
        hash: crate::SetHash::default(),
    };
    let json = serde_json::to_value(batch).unwrap();
    let fields: Vec<String> = table(page, "## Batches").into_iter().map(|r| r[0].clone()).collect();
    let mut written: Vec<&String> = json.as_object().unwrap().keys().collect();
    let mut stated: Vec<&String> = fields.iter().collect();
    written.sort();
    stated.sort();
    assert_eq!(stated, written);
}

#[test]
fn segment_page() {
    use crate::segment::index::Section::*;
    let page = include_str!("../../../docs/format/segment.md");
    let header = [
        Facts,
        Schema,
        Rows,
        Calibration,
        Leaves,
        Centroids,
        AttributeDirectory,
        IdMapDirectory,
        PayloadSizes,
        Basis,
    ];
    let cold = [Codes, IdPlane, IdMap, PayloadSizePages, Payload, Attributes, Checks, Footer, Extension];
    let row = |place: &str, s: crate::segment::index::Section| {
        vec![(s as u16).to_string(), format!("{s:?}"), place.to_owned()]
    };
    let sections: Vec<Vec<String>> =
        header.map(|s| row("header", s)).into_iter().chain(cold.map(|s| row("cold", s))).collect();
    let stated: Vec<Vec<String>> =
        table(page, "## The index file").into_iter().map(|r| r[..3].to_vec()).collect();
    assert_eq!(stated, sections);
}
