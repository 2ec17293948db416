use super::*;
use crate::id::Token;
use crate::manifest::tests::first;
use crate::schema::VectorType;
use crate::segment::attributes::Attributes;
use crate::segment::fixture::{rows, schema, settings, write_rows};
use crate::segment::index::{Calibration, HOT_BYTES, IndexParts, IndexWriter, Spill};
use crate::segment::payload::PayloadWriter;

#[test]
fn a_head_comes_back_and_flipped_bits_are_seen() {
    let made = Made { base: 3, token: Token(4) };
    let part = Part {
        made,
        header: Bytes::from_static(b"header"),
        codes: Some(Bytes::from_static(b"codes")),
        deletes: None,
    };
    let bare = Part { codes: None, deletes: Some(Bytes::from_static(b"dels")), ..part.clone() };
    let head = Head { manifest: first(), parts: vec![part, bare] };
    let bytes = head.encode().unwrap();
    assert_eq!(Head::decode("head", &bytes).unwrap(), head);
    for bit in (0..bytes.len() * 8).step_by(7) {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::decode("head", &bad.into()).is_err());
    }
}

/// Bytes of the header of a segment of so many row groups, leaves and bytes of centroids, with as large an attribute
/// directory and as many payload sizes as a header may have. Rows, which are not in it, are few.
fn header_bytes(row_groups: usize, leaves: usize, centroids: usize, spill: bool, basis: usize) -> usize {
    let settings = settings(768, VectorType::F32);
    let batch = rows(1, &settings, 3);
    let (_, mut layout) = write_rows(&batch, &settings, 1);
    layout.address.base.resize(row_groups, 0);
    layout.address.short_page_headers.resize(row_groups, 0);
    let mut payload = PayloadWriter::new(&settings, &schema()).unwrap();
    payload.push_batch(&batch).unwrap();
    let leaf_starts: Vec<u32> = (0..=leaves).map(|l| u32::from(l == leaves)).collect();
    let calibration = Calibration { min_recall: 0.98, b: 0.1, delta: 0.2, rerank: 50 };
    let basis = vec![0; basis];
    let parts = IndexParts {
        settings: &settings,
        schema: &schema(),
        rows: &layout,
        seqs: (1, 1),
        code_bits: 768,
        rotation_seed: 42,
        scale: 0.125,
        basis: (!basis.is_empty()).then_some(basis.as_slice()),
        calibration: [calibration; 4],
        leaf_starts: &leaf_starts,
        centroid_bits: 1,
        centroids: &vec![0; centroids],
        group_bytes: 3456,
        codes: &[0; 3456],
        idplane: &[7],
        spill: spill.then_some(Spill { starts: &leaf_starts, ordinals: &[] }),
        payload: &payload.finish().unwrap(),
        attributes: &Attributes { directory: vec![0; HOT_BYTES], section: Vec::new() },
        payload_spool: None,
        attributes_spool: None,
    };
    IndexWriter::new(parts).unwrap().write(&mut Vec::new()).unwrap().header_len as usize
}

#[test]
fn ten_million_rows_open_with_little() {
    let head = |header: usize| {
        let part = Part {
            made: Made { base: 3, token: Token(4) },
            header: vec![0; header].into(),
            codes: None,
            deletes: Some(vec![0; DELETES_BYTES as usize].into()),
        };
        Head { manifest: first(), parts: vec![part] }.encode().unwrap().len()
    };
    // 768 dimensions: row groups of 10,752 rows. Centroids have a scale per leaf and a mean.
    let centroids = |bits: usize, leaves: usize| 4 * 768 + 4 * leaves + leaves * 768 * bits / 8;
    // 10 million in leaves of 1,024, a bit per value; copies in other leaves cost a word a leaf more. 1 million in leaves of 256, four bits.
    let ten = (header_bytes(931, 9_766, centroids(1, 9_766), false, 0), 1_300_000);
    let spilled = (header_bytes(931, 9_766, centroids(1, 9_766), true, 0), 1_300_000);
    let one = (header_bytes(94, 3_907, centroids(4, 3_907), false, 0), 1_700_000);
    // A basis of as many coordinates as codes of 384 bits may have; ten million rows have none.
    let learned = (header_bytes(94, 3_907, centroids(4, 3_907), true, 240 * (8 + 768) + 10), 1_900_000);
    for (header, most) in [ten, spilled, one, learned] {
        let bytes = head(header);
        assert!(bytes <= most, "{bytes} bytes, {most} at most");
    }
}
