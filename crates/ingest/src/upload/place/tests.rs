use esker_format::schema::{Metric, Settings, VectorType};
use esker_format::{Error, Result};
use esker_proto::rest::Encoding;

use super::super::read;
use super::super::tests::{KINDS, encoded, records};
use super::*;
use crate::batch::{Batcher, Target};

const ROWS: usize = 1_200;

type Batches = Vec<(Cut, Option<Resume>)>;

fn batcher(rows: usize, bytes: usize) -> Batcher {
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    Batcher::with_limits(Target { collection: "notes-1".parse().unwrap(), settings }, rows, bytes)
}

/// What a body gives from there on.
fn read(kind: Encoding, body: &[u8], batcher: Batcher, from: Resume) -> (Result<()>, Batches) {
    let mut given = Vec::new();
    let mut give = |cut, next| {
        given.push((cut, next));
        Ok(())
    };
    let part = [&body[..from.head as usize], &body[from.at as usize..]].concat();
    let ended = read::within(kind, &part[..], batcher.starting_at(from.row), from, &mut give);
    (ended, given)
}

fn said(e: &Error) -> (Option<&str>, String) {
    // Where in its text a body is no JSON is counted from where it was gone on with.
    let message = e.to_string();
    let what = [" at line ", ", after "].iter().find_map(|mark| Some(message.split_once(mark)?.0.to_owned()));
    (e.field(), what.unwrap_or(message))
}

#[test]
fn a_body_that_is_gone_on_with_gives_what_it_gives_when_read_at_once() {
    let all = records(ROWS);
    for kind in KINDS {
        let body = encoded(kind, &all);
        for (rows, bytes) in [(1, 1 << 20), (7, 1 << 20), (700, 1 << 20), (5_000, 4_000), (5_000, 40_000)] {
            let (ended, whole) = read(kind, &body, batcher(rows, bytes), Resume::default());
            ended.unwrap();
            let step = (whole.len() / 40).max(1);
            for (at, (cut, next)) in whole.iter().enumerate().step_by(step) {
                let next = next.unwrap_or_else(|| panic!("{kind:?}: nothing goes on after {at}"));
                assert_eq!((next.batch, next.row), (at as u64 + 1, cut.first_row + cut.rows()), "{kind:?}");
                assert!(next.skip <= next.row && next.head <= next.at, "{kind:?}: {next:?}");
                let (ended, rest) = read(kind, &body, batcher(rows, bytes), next);
                ended.unwrap();
                assert_eq!(rest, whole[at + 1..], "{kind:?}, batches of {rows} and {bytes}, from {next:?}");
            }
        }
    }
}

/// What is passed over is less than a unit, but for the first record of JSON and the rows of an Arrow message.
#[test]
fn what_was_read_is_not_read_again() {
    let body = encoded(Encoding::Ndjson, &records(ROWS));
    let (_, whole) = read(Encoding::Ndjson, &body, batcher(100, 1 << 20), Resume::default());
    let places: Vec<_> = whole.iter().map(|(_, next)| next.unwrap()).collect();
    assert!(places.iter().all(|p| p.skip <= 1), "{places:?}");
    assert!(places.is_sorted_by_key(|p| p.at), "{places:?}");
    assert!(body.len() as u64 - places[10].at < body.len() as u64 / 10, "{places:?}");
}

#[test]
fn what_is_wrong_is_said_the_same_from_wherever_it_is_read() {
    let mut bad = records(60);
    bad[50].vector = vec![1.0];
    let text = String::from_utf8(encoded(Encoding::Json, &records(60))).unwrap();
    let lines = String::from_utf8(encoded(Encoding::Ndjson, &records(60))).unwrap();
    let row = r#""id":"r50""#;
    let bodies: Vec<(Encoding, Vec<u8>)> = KINDS
        .into_iter()
        .filter(|kind| *kind != Encoding::Arrow)
        .map(|kind| (kind, encoded(kind, &bad)))
        .chain([
            (Encoding::Json, text.replace(row, r#""id":7"#).into_bytes()),
            (Encoding::Json, text.replace(row, r#""id":"r50","more":1"#).into_bytes()),
            (Encoding::Json, text.replace(row, "id").into_bytes()),
            (Encoding::Json, text.replace("]}", r#"],"if_absent":true}"#).into_bytes()),
            (Encoding::Json, text.replace("}]}", "},]}").into_bytes()),
            (Encoding::Json, format!("{text}]").into_bytes()),
            (Encoding::Json, text.as_bytes()[..text.len() - 1].to_vec()),
            (Encoding::Ndjson, lines.replace(row, r#""id":7"#).into_bytes()),
            (Encoding::Ndjson, lines.replace("{\"id\":\"r50\"", "\u{feff}{\"id\":\"r50\"").into_bytes()),
        ])
        .collect();
    for (kind, body) in bodies {
        let (ended, whole) = read(kind, &body, batcher(7, 1 << 20), Resume::default());
        let e = ended.unwrap_err();
        assert!(whole.len() >= 7, "{kind:?}: {e}");
        for (_, next) in &whole {
            let (ended, _) = read(kind, &body, batcher(7, 1 << 20), next.unwrap());
            assert_eq!(said(&ended.unwrap_err()), said(&e), "{kind:?} from {next:?}");
        }
    }
}

/// Records that are lists end in a bracket, too; what is read ahead of a record's end is none of the record's.
#[test]
fn records_may_be_written_in_any_way_that_json_has() {
    let mut body = b" {\n\"records\" :\t[ ".to_vec();
    for n in 0..40 {
        let more = if n > 0 { "\n ,  " } else { "" };
        body.extend(format!("{more}{{ \"id\" : \"r{n}]}}\", \"vector\" : [ 1 , {n} ] }} ").bytes());
    }
    body.extend(b" ] } \n ");
    let (ended, whole) = read(Encoding::Json, &body, batcher(3, 1 << 20), Resume::default());
    ended.unwrap();
    assert_eq!(whole.len(), 14);
    for (at, (_, next)) in whole.iter().enumerate() {
        let (ended, rest) = read(Encoding::Json, &body, batcher(3, 1 << 20), next.unwrap());
        ended.unwrap();
        assert_eq!(rest, whole[at + 1..]);
    }
}
