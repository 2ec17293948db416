use super::*;
use crate::schema::{Column, ColumnType, Metric, VectorType};

pub(crate) fn first() -> Manifest {
    let id: CollectionId = "notes-1".parse().unwrap();
    let settings = Settings { dimension: 4, metric: Metric::Cosine, vector_type: VectorType::F32 };
    let state = NameState::Bound { id, settings, schema: Schema::default() };
    NameRecord { n: 1, token: Token(7), at_ms: 1_700_000_000_000, state }.first_manifest().unwrap()
}

#[test]
fn manifests_stubs_and_names_come_back() {
    let mut m = first();
    m.schema.columns.push(Column { name: "topic".into(), kind: ColumnType::String, wide: false });
    assert_eq!(Manifest::decode("m", &m.encode().unwrap()).unwrap(), m);
    let stub = Stub { version: 3, token: Token(9), floors: Floors { wal: 2, base: 1, version: 3 } };
    let entry = RegisterEntry::decode("m", 3, &stub.encode().unwrap()).unwrap();
    assert_eq!((entry.token(), entry.floors()), (stub.token, stub.floors));
    assert!(RegisterEntry::decode("m", 4, &stub.encode().unwrap()).is_err());
}

#[test]
fn a_manifest_that_lost_rows_is_corrupt() {
    let mut m = first();
    m.hashes.accepted = SetHash::of("a", 1, 0);
    let e = Manifest::decode("manifest/1", &m.encode().unwrap()).unwrap_err();
    assert_eq!(e.to_string(), "manifest/1 is corrupt: INV-6: accepted is not live + pruned");
}

#[test]
fn the_written_form_stands() {
    let text = String::from_utf8(to_json(&first()).unwrap()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"collection":"notes-1","version":1,"token":"00000000000000000000000000000007","parent":null,"#,
            r#""at_ms":1700000000000,"settings":{"dimension":4,"metric":"cosine","vector_type":"f32"},"schema":[],"#,
            r#""watermark":0,"segments":[],"hashes":{"accepted":"00000000000000000000000000000000","#,
            r#""live":"00000000000000000000000000000000","pruned":"00000000000000000000000000000000"},"#,
            r#""recent":[],"floors":{"wal":0,"base":0,"version":0},"dropped":false}"#
        )
    );
}
