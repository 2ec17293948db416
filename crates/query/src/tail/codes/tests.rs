use esker_index::SplitMix;

use super::*;

const D: usize = 24;

fn vectors(n: usize, random: &mut SplitMix) -> Vec<f32> {
    (0..n * D).map(|i| (random.next_u64() >> 40) as f32 / 1e7 - 0.8 + (i % 5) as f32).collect()
}

fn batch(rows: &[At], vectors: &[f32], scan: impl FnOnce(Batch<'_>)) {
    let end = rows.last().map_or((0, 0), |(seq, row)| (*seq, row + 1));
    scan(Batch { rows, end, vectors });
}

fn every_row(codes: &TailCodes) -> Vec<At> {
    let mut found = Vec::new();
    let asked = Asked::new(Metric::Cosine, &[0.5; D]);
    let scanned = codes.scan(&asked, Some(0.98), Bound::NONE, |at| {
        found.push(at);
        f32::INFINITY
    });
    assert_eq!(scanned, found.len() as u64);
    found.sort_unstable();
    found
}

#[test]
fn every_row_has_a_code_until_its_entry_is_folded() {
    let mut random = SplitMix::new(3);
    let rows: Vec<At> = (0..300).map(|i| (5 + i / 100, (i % 100) as u32)).collect();
    let vectors = vectors(300, &mut random);
    let mut codes = None;
    for at in [0..150, 150..170, 170..300] {
        batch(&rows[at.clone()], &vectors[at.start * D..at.end * D], |batch| {
            let known = codes.take().or_else(|| TailCodes::learn(Metric::Cosine, D, &batch));
            codes = known.map(|codes| codes.with(&batch));
        });
    }
    let codes = codes.unwrap();
    assert_eq!((codes.covered(), every_row(&codes)), (Some(((5, 0), (7, 100))), rows.clone()));
    assert!(
        codes.bytes()
            <= code_bytes(D, 150) + code_bytes(D, 20) + code_bytes(D, 130) + (5 * D * LEAVES) as u64
    );
    assert!(!codes.begins_before(4) && codes.begins_before(5));
    assert_eq!(codes.chunks.len(), 1, "short ones are joined");
    assert_eq!(
        (codes.above(5).covered(), every_row(&codes.above(5))),
        (Some(((6, 0), (7, 100))), rows[100..].to_vec())
    );
    assert_eq!(every_row(&codes.above(6)), rows[200..]);
    assert_eq!((codes.above(7).covered(), every_row(&codes.above(7)).len()), (None, 0));
    assert!(TailCodes::learn(Metric::L2, D, &Batch { rows: &[], end: (1, 0), vectors: &[] }).is_none());
}
