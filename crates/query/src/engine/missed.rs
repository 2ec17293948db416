//! What a search may have missed whose budget ended before all leaves were read that its recall asks for.

use esker_format::segment::index::Calibration;

/// The share of the nearest rows to expect in the leaves that were not read. `leaves` are those of one segment: how far each
/// one's score is below the k-th row's, whether it was read, and how many of its rows count.
///
/// A probe of every leaf up to a margin finds what the calibration measured, so a leaf holds what the recall gains between
/// the margin of the leaf before it and its own, if all have as many rows: else the more, the more of them count.
pub(crate) fn missed(limits: &[Calibration], mut leaves: Vec<(f32, bool, u64)>) -> f64 {
    if limits.is_empty() {
        return 0.0;
    }
    leaves.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut missed, mut all, mut before) = (0.0, 0.0, 1.0);
    for (margin, read, rows) in leaves {
        let after = beyond(limits, margin).min(before);
        let neighbours = (before - after) * rows as f64;
        all += neighbours;
        missed += if read { 0.0 } else { neighbours };
        before = after;
    }
    if all > 0.0 { missed / all * (1.0 - before) } else { 0.0 }
}

/// The margin that e times fewer of the nearest rows lie beyond; 0 where none was measured.
pub(crate) fn falloff(limits: &[Calibration]) -> f32 {
    let missed = |c: &Calibration| (1.0 - c.min_recall).max(1e-6).ln();
    let of =
        |(first, last): (&Calibration, &Calibration)| (last.b - first.b) / (missed(first) - missed(last));
    let margin = limits.first().zip(limits.last()).map(of);
    margin.filter(|margin| margin.is_finite() && *margin >= 0.0).unwrap_or(0.0)
}

/// The share of the nearest rows in leaves beyond a margin: exponential between the margins that were measured, and as
/// steep outside of them as beside them.
fn beyond(limits: &[Calibration], margin: f32) -> f64 {
    let point = |c: &Calibration| (f64::from(c.b), (1.0 - f64::from(c.min_recall)).max(1e-6).ln());
    let at = limits.partition_point(|c| c.b < margin).clamp(1, limits.len().saturating_sub(1).max(1));
    match (limits.get(at - 1).map(point), limits.get(at).map(point)) {
        (Some((b0, l0)), Some((b1, l1))) if b1 > b0 => {
            (l0 + (l1 - l0) * (f64::from(margin) - b0) / (b1 - b0)).exp().min(1.0)
        }
        // Recalls that need the same margin: a step.
        (Some((b0, _)), Some((_, l1))) => {
            if f64::from(margin) < b0 {
                1.0
            } else {
                l1.exp()
            }
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Vec<Calibration> {
        let of = |(min_recall, b)| Calibration { min_recall, b, delta: 0.0, rerank: 0 };
        [(0.9, 0.1), (0.95, 0.2), (0.98, 0.4), (0.99, 0.5)].map(of).into()
    }

    #[test]
    fn what_was_measured_is_what_is_expected() {
        for (recall, margin) in [(0.9, 0.1), (0.95, 0.2), (0.98, 0.4), (0.99, 0.5)] {
            let leaves =
                (0..200).map(|i| (i as f32 / 100.0 - 1.0, i as f32 / 100.0 - 1.0 < margin + 1e-4, 9));
            let missed = missed(&limits(), leaves.collect());
            assert!((1.0 - missed - recall).abs() < 0.002, "{recall}: {missed}");
        }
    }

    #[test]
    fn a_leaf_that_was_not_read_costs_by_how_near_it_is() {
        let without =
            |unread: usize| missed(&limits(), (0..20).map(|i| (i as f32 / 20.0, i != unread, 9)).collect());
        assert!(without(99).abs() < 1e-9);
        assert!(without(1) > without(5) && without(5) > without(18), "nearer leaves hold more");
        assert!((missed(&limits(), vec![(0.3, false, 9)]) - 1.0).abs() < 0.05, "the only leaf");
        let crowded = |rows| missed(&limits(), vec![(0.1, true, 90), (0.15, false, rows), (0.2, true, 90)]);
        assert!(crowded(90) > 8.0 * crowded(9) && crowded(0) == 0.0, "rows that count");
        // Nothing is known without a calibration, and equal margins are a step.
        assert_eq!(missed(&[], vec![(0.0, false, 9), (1.0, false, 9)]), 0.0);
        let flat: Vec<Calibration> = limits().into_iter().map(|c| Calibration { b: 0.2, ..c }).collect();
        assert!((missed(&flat, vec![(0.1, true, 9), (0.3, false, 9)]) - 0.99).abs() < 1e-6);
    }

    #[test]
    fn margins_fall_off_as_was_measured() {
        // Ten times fewer from 0.1 to 0.5.
        assert!((falloff(&limits()) - 0.4 / 10f32.ln()).abs() < 1e-6);
        assert_eq!((falloff(&[]), falloff(&limits()[..1])), (0.0, 0.0));
        let unlimited = limits().into_iter().map(|c| Calibration { b: f32::INFINITY, ..c });
        assert_eq!(falloff(&unlimited.collect::<Vec<_>>()), 0.0);
    }
}
