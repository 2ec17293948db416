//! Which segments a compaction rewrites together with the tail.

use esker_format::manifest::Segment;

/// Most segments of a collection: a cold query pays for each.
pub(crate) const MOST_SEGMENTS: usize = 4;
/// An older segment joins a merge while it has less than this many times the live rows gathered so far: each row is
/// rewritten about once per power of this.
const RATIO: u64 = 4;

/// Whether more than a quarter of a segment's rows are dead.
fn is_hollow(segment: &Segment) -> bool {
    (segment.rows - segment.live()) * 4 > segment.rows
}

/// Positions of segments by the rows that live, of equally many the newest first: what a merge in steps made lies behind what was
/// folded meanwhile, and is larger.
pub(super) fn smallest_first(segments: &[Segment]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..segments.len()).rev().collect();
    order.sort_by_key(|i| segments[*i].live());
    order
}

/// Marks, oldest first, the segments to merge with `fresh` rows of the tail: from the smallest on while sizes do not grow
/// fourfold or there would be too many segments, and any that is more than a quarter dead.
pub(crate) fn merges(segments: &[Segment], fresh: u64) -> Vec<bool> {
    let hollow = segments.iter().filter(|s| is_hollow(s)).count();
    let mut merges: Vec<bool> = segments.iter().map(is_hollow).collect();
    let mut gathered = fresh + segments.iter().filter(|s| is_hollow(s)).map(Segment::live).sum::<u64>();
    let mut kept = segments.len() - hollow;
    for i in smallest_first(segments) {
        let segment = &segments[i];
        if merges[i] {
            continue;
        }
        let too_many = kept + usize::from(gathered > 0) > MOST_SEGMENTS;
        if !too_many && segment.live() >= gathered.saturating_mul(RATIO) {
            break;
        }
        merges[i] = true;
        gathered += segment.live();
        kept -= 1;
    }
    merges
}

#[cfg(test)]
mod tests {
    use esker_format::Token;
    use esker_format::keys::Made;
    use esker_format::manifest::Deletes;

    use super::*;

    fn segments(sizes: &[(u64, u64)]) -> Vec<Segment> {
        let made = Made { base: 1, token: Token(1) };
        let segment = |(rows, dead): &(u64, u64)| Segment {
            made,
            rows: *rows,
            rows_size: 0,
            index_size: 0,
            header_size: 0,
            header_crc: 0,
            seqs: (1, 1),
            deletes: (*dead > 0).then_some(Deletes { made, count: *dead, size: 0 }),
        };
        sizes.iter().map(segment).collect()
    }

    fn merged(sizes: &[(u64, u64)], fresh: u64) -> Vec<usize> {
        let merges = merges(&segments(sizes), fresh);
        (0..merges.len()).filter(|i| merges[*i]).collect()
    }

    #[test]
    fn small_segments_merge_and_large_ones_stay() {
        assert_eq!(merged(&[], 10), Vec::<usize>::new());
        assert_eq!(merged(&[(1000, 0)], 10), Vec::<usize>::new());
        assert_eq!(merged(&[(39, 0)], 10), vec![0]);
        assert_eq!(merged(&[(1000, 0), (100, 0), (20, 0)], 10), vec![1, 2]);
        assert_eq!(merged(&[(1000, 0), (100, 0), (40, 0)], 10), Vec::<usize>::new());
        // A merge in steps ended after these were folded.
        assert_eq!(merged(&[(1000, 0), (20, 0), (900, 0)], 10), vec![1]);
        // The tail had deletes only.
        assert_eq!(merged(&[(1000, 0), (2, 0)], 0), Vec::<usize>::new());
    }

    #[test]
    fn there_are_never_too_many() {
        let four = [(100_000, 0), (10_000, 0), (1000, 0), (100, 0)];
        assert_eq!(merged(&four, 0), Vec::<usize>::new());
        assert_eq!(merged(&four, 1), vec![3]);
        let five = [(1_000_000, 0), (100_000, 0), (10_000, 0), (1000, 0), (100, 0)];
        assert_eq!(merged(&five, 0), vec![3, 4]);
    }

    #[test]
    fn hollow_segments_are_rewritten_wherever_they_are() {
        assert_eq!(merged(&[(1000, 250), (10, 0)], 0), Vec::<usize>::new());
        assert_eq!(merged(&[(1000, 251), (3000, 0)], 0), vec![0]);
        assert_eq!(merged(&[(1000, 251), (10, 0)], 0), vec![0, 1]);
        assert_eq!(merged(&[(100, 100)], 0), vec![0]);
    }
}
