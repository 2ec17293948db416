use super::*;
use crate::tests::mixture;

fn codes(metric: Metric, d: usize, n: usize) -> Vec<RowCode> {
    let rows = mixture(6, n, d, 4, 0.0);
    let centroid = vec![0.1; d];
    let encoder = Encoder::new(metric, d, 1, residual_scale(metric, d, &rows, |_| &centroid));
    rows.chunks_exact(d)
        .enumerate()
        .map(|(index, row)| {
            let mut code = RowCode { check: index as u16 * 77, ..RowCode::default() };
            encoder.encode(row, &centroid, &mut code);
            code
        })
        .collect()
}

#[test]
fn sizes_are_those_of_the_design() {
    assert_eq!((group_bytes(384), group_bytes(768)), (1792, 3328));
    assert_eq!((padded(1), padded(64), padded(65)), (64, 64, 128));
}

#[test]
fn a_group_comes_back_and_is_copied_without_encoding() {
    for (d, n) in [(1, 1), (64, 31), (100, 32), (384, 5)] {
        let rows = codes(Metric::L2, d, n);
        let mut packed = vec![7u8]; // appended after what is there
        pack_group(&rows, d, &mut packed);
        assert_eq!(packed.len(), 1 + group_bytes(d));
        let back = unpack_group(&packed[1..], d);
        assert_eq!(back[..n], rows);
        assert!(back[n..].iter().all(RowCode::is_absent));
        let mut again = Vec::new();
        pack_group(&back[..n], d, &mut again);
        assert_eq!(again, packed[1..]);
        assert!(unpack_group(&packed, d).is_empty());
    }
}

#[test]
fn a_row_equal_to_its_centroid_has_no_error() {
    let row = [1.0, -2.0, 3.0];
    let mut code = RowCode::default();
    Encoder::new(Metric::L2, 3, 1, 1.0).encode(&row, &row, &mut code);
    assert_eq!((code.f_add, code.f_rescale, code.f_err), (f16::ZERO, f16::ZERO, f16::ZERO));
    assert!(!code.is_saturated() && !code.is_absent());
}

#[test]
fn a_row_beyond_f16_is_marked() {
    let centroid = [0.0f32; 8];
    let mut code = RowCode::default();
    Encoder::new(Metric::L2, 8, 1, 1.0).encode(&[1e6; 8], &centroid, &mut code);
    assert!(code.is_saturated());
}

#[test]
fn the_scale_is_never_zero() {
    let row = [2.0f32, 2.0];
    assert_eq!(residual_scale(Metric::L2, 2, &row, |_| &row), 1.0);
    assert_eq!(residual_scale(Metric::L2, 2, &[], |_| &row), 1.0);
    assert_eq!(residual_scale(Metric::L2, 2, &[5.0, 6.0], |_| &row), 5.0);
}
