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
fn the_newest_tokens_are_kept() {
    let day = limits::TOKEN_RETENTION_MS;
    let at = |n: usize, given: bool, at_ms: i64| Recent {
        token: Token(n as u128),
        seq: n as u64,
        rows: 1,
        at_ms,
        given,
        content: None,
    };
    let kept = |mut recent: Vec<Recent>, at_ms| {
        Recent::keep(&mut recent, at_ms);
        recent.iter().map(|r| r.token.0 as usize).collect::<Vec<_>>()
    };
    let few = vec![at(1, true, 0), at(2, false, 0), at(3, true, 1), at(4, false, day)];
    assert_eq!(kept(few.clone(), day), [1, 3, 4]);
    assert_eq!(kept(few, day + 1), [3, 4]);
    let both = (0..12_000).map(|n| at(n, n % 2 == 0, 0)).collect();
    let kept = kept(both, 0);
    let (given, drawn): (Vec<usize>, Vec<usize>) = kept.iter().partition(|n| **n % 2 == 0);
    assert_eq!((given.len(), given[0]), (limits::TOKENS, 12_000 - 2 * limits::TOKENS));
    assert_eq!((drawn.len(), drawn[0]), (limits::DRAWN_TOKENS, 12_001 - 2 * limits::DRAWN_TOKENS));
    assert!(kept.is_sorted(), "oldest first");
    // What is forgotten leaves the time at which the last of it was drawn.
    let drawn = |ms: i64| Recent { token: Token::drawn(7, ms), ..at(0, false, ms) };
    let mut recent =
        vec![drawn(1), drawn(3), drawn(2), at(9, false, 4), drawn(limits::DRAWN_RETENTION_MS + 5)];
    assert_eq!(Recent::keep(&mut recent, limits::DRAWN_RETENTION_MS + 2), 1);
    assert_eq!(Recent::keep(&mut recent, limits::DRAWN_RETENTION_MS + 4), 3);
    assert_eq!((recent.len(), Recent::keep(&mut recent, limits::DRAWN_RETENTION_MS + 5)), (2, 0));
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
            r#""recent":[],"forgotten_ms":0,"floors":{"wal":0,"base":0,"version":0},"dropped":false}"#
        )
    );
}
