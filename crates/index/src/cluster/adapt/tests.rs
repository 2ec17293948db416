use super::*;
use crate::cluster;
use crate::tests::mixture;

const TARGET: usize = 32;

/// Rows that were clustered once, and their leaves as stored.
struct Base {
    d: usize,
    metric: Metric,
    data: Vec<f32>,
    leaf_of: Vec<u32>,
    leaves: usize,
    bits: u8,
    stored: Vec<u8>,
    scale: f32,
}

impl Base {
    fn new(metric: Metric, data: Vec<f32>, d: usize, bits: u8) -> Self {
        let clustering = cluster(&data, d, metric, TARGET, 7, 2, &|_| {});
        let stored = Centroids::encode(bits, clustering.leaves, d, &clustering.centroids);
        let means = Centroids::decode(bits, clustering.leaves, d, &stored).unwrap().all_dequantised();
        let leaf = |row: usize| &means[clustering.assignment[row] as usize * d..][..d];
        let scale = crate::residual_scale(metric, d, &data, leaf);
        // As a segment has them: in ordinal order.
        let by_ordinal = |row: &u32| data[*row as usize * d..][..d].to_vec();
        let data: Vec<f32> = clustering.order.iter().flat_map(by_ordinal).collect();
        let leaf_of = clustering.order.iter().map(|row| clustering.assignment[*row as usize]).collect();
        Base { d, metric, data, leaf_of, leaves: clustering.leaves, bits, stored, scale }
    }

    /// The rows that are kept, and new ones: the leaves that they were in, and their values.
    fn rows(&self, keeps: impl Fn(usize) -> bool, new: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let own: Vec<usize> = (0..self.leaf_of.len()).filter(|row| keeps(*row)).collect();
        let mut leaf_of: Vec<u32> = own.iter().map(|row| self.leaf_of[*row]).collect();
        let mut data: Vec<f32> =
            own.iter().flat_map(|row| &self.data[*row * self.d..][..self.d]).copied().collect();
        leaf_of.extend(vec![Standing::NEW; new.len() / self.d]);
        data.extend_from_slice(new);
        (leaf_of, data)
    }

    fn standing<'a>(&'a self, leaf_of: &'a [u32]) -> Standing<'a> {
        let Base { leaves, bits, scale, .. } = *self;
        Standing { leaves, bits, centroids: &self.stored, scale, leaf_of }
    }

    /// Drops the rows that are not kept and adds new ones.
    fn merge(
        &self,
        keeps: impl Fn(usize) -> bool,
        new: &[f32],
        threads: usize,
    ) -> (Vec<u32>, Option<Adapted>) {
        let (leaf_of, data) = self.rows(keeps, new);
        let standing = self.standing(&leaf_of);
        let adapted = adapt(&data, self.d, self.metric, standing, TARGET, 7, threads).unwrap();
        if let Some(adapted) = &adapted {
            check(adapted, &standing, &data, self.d);
        }
        (leaf_of, adapted)
    }

    fn stand(&self, leaf_of: &[u32], adapted: &Adapted) -> usize {
        let standing = self.standing(leaf_of);
        (0..leaf_of.len()).filter(|row| adapted.stands(&standing, *row)).count()
    }
}

fn check(adapted: &Adapted, standing: &Standing<'_>, data: &[f32], d: usize) {
    let Adapted { clustering, origin } = adapted;
    assert_eq!((clustering.leaves, clustering.centroids.len()), (origin.len(), origin.len() * d));
    let mut order = clustering.order.clone();
    assert!(order.is_sorted_by_key(|row| clustering.assignment[*row as usize]));
    order.sort_unstable();
    assert_eq!(order, all(data.len() / d));
    let mut sizes = vec![0; clustering.leaves];
    clustering.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1);
    assert!(sizes.iter().all(|size| (1..=3 * TARGET).contains(size)), "{sizes:?}");
    let stored = Centroids::decode(standing.bits, standing.leaves, d, standing.centroids).unwrap();
    let stored = stored.all_dequantised();
    for (leaf, origin) in origin.iter().enumerate() {
        if let Some(origin) = origin {
            let own = &clustering.centroids[leaf * d..][..d];
            assert_eq!(own, &stored[*origin as usize * d..][..d]);
        }
    }
}

#[test]
fn rows_that_stay_keep_their_leaves_and_their_order() {
    for (metric, bits) in [(Metric::Cosine, 8), (Metric::L2, 4), (Metric::Dot, 1)] {
        let base = Base::new(metric, mixture(1, 3000, 16, 40, 0.5), 16, bits);
        let (leaf_of, adapted) = base.merge(|_| true, &[], 2);
        let adapted = adapted.unwrap();
        // A new clustering leaves a few leaves of more than twice the target.
        let stand = base.stand(&leaf_of, &adapted);
        assert!(stand >= 2800, "{metric}, {bits} bits: {stand} of 3000");
        let stays = adapted.clustering.order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(stays + base.leaves >= stand, "{stays} rows follow the row that they followed");
    }
}

#[test]
fn a_few_new_rows_go_to_the_nearest_leaves() {
    let d = 24;
    let all_rows = mixture(2, 5500, d, 40, 0.0);
    let (old, new) = all_rows.split_at(5000 * d);
    for (bits, least) in [(8, 4000), (1, 3600)] {
        let base = Base::new(Metric::Cosine, old.to_vec(), d, bits);
        let (leaf_of, adapted) = base.merge(|row| row % 10 != 3, new, 2);
        let adapted = adapted.unwrap();
        let stand = base.stand(&leaf_of, &adapted);
        assert!(stand >= least, "{bits} bits: {stand} of 4500");
        for threads in [1, 3] {
            assert_eq!(base.merge(|row| row % 10 != 3, new, threads).1.as_ref(), Some(&adapted));
        }
    }
}

#[test]
fn rows_in_a_new_place_split_leaves_and_rows_far_from_all_need_a_new_clustering() {
    let d = 24;
    let base = Base::new(Metric::L2, mixture(3, 4000, d, 30, 0.0), d, 8);
    // 600 rows around three other centres.
    let (leaf_of, adapted) = base.merge(|_| true, &mixture(4, 600, d, 3, 0.0), 2);
    let adapted = adapted.unwrap();
    let new = adapted.origin.iter().filter(|origin| origin.is_none()).count();
    assert!((600 / TARGET..4 * 600 / TARGET).contains(&new), "{new} new leaves");
    let stand = base.stand(&leaf_of, &adapted);
    assert!(stand >= 2800, "{stand} of 4000");
    assert_eq!(base.merge(|_| true, &mixture(5, 600, d, 600, 0.0), 2).1, None);
}

#[test]
fn small_leaves_are_dissolved_and_moved_ones_centred() {
    let d = 16;
    let base = Base::new(Metric::L2, mixture(6, 3000, d, 30, 0.0), d, 8);
    // Of some leaves three rows stay, of others those on one side of the first coordinate.
    let means = Centroids::decode(8, base.leaves, d, &base.stored).unwrap().all_dequantised();
    let mut seen = vec![0; base.leaves];
    let keeps: Vec<bool> = (0..3000)
        .map(|row| {
            let leaf = base.leaf_of[row] as usize;
            seen[leaf] += 1;
            match leaf % 5 {
                0 => seen[leaf] <= 3,
                1 => base.data[row * d] > means[leaf * d],
                _ => true,
            }
        })
        .collect();
    let (_, adapted) = base.merge(|row| keeps[row], &[], 2);
    let adapted = adapted.unwrap();
    let left: Vec<u32> = adapted.origin.iter().flatten().copied().collect();
    assert!(left.iter().all(|leaf| leaf % 5 != 0));
    let moved = (0..base.leaves as u32).filter(|leaf| leaf % 5 == 1 && !left.contains(leaf)).count();
    assert!(moved * 5 * 10 >= base.leaves * 6, "{moved} of {} leaves got new centroids", base.leaves / 5);
}

#[test]
fn degenerate_leaves_are_refused_or_made_anew() {
    let data = vec![0.5; 4 * 100];
    let stored = Centroids::encode(8, 1, 4, &[0.5; 4]);
    let standing = Standing { leaves: 1, bits: 8, centroids: &stored, scale: 1.0, leaf_of: &[0; 100] };
    let run = |standing| adapt(&data, 4, Metric::L2, standing, TARGET, 1, 1);
    // One leaf of equal rows is cut, so nothing stands.
    assert_eq!(run(standing), Ok(None));
    assert!(run(Standing { leaf_of: &[0; 99], ..standing }).is_err());
    assert!(run(Standing { leaf_of: &[1; 100], ..standing }).is_err());
    assert!(run(Standing { centroids: &stored[1..], ..standing }).is_err());
    let none = Standing { leaf_of: &[], ..standing };
    assert_eq!(adapt(&[], 4, Metric::L2, none, TARGET, 1, 1), Ok(None));
}

impl Base {
    /// The same as [`Base::merge`], the rows cut into blocks of `cut`, with every `every`th of them as a sample.
    fn streamed(
        &self,
        keeps: impl Fn(usize) -> bool,
        new: &[f32],
        (cut, every): (usize, usize),
        threads: usize,
    ) -> Option<(Vec<u32>, Adapted)> {
        let (leaf_of, data) = self.rows(keeps, new);
        let standing = self.standing(&leaf_of);
        let mut survey = Survey::new(standing, self.d, self.metric, TARGET, 7, threads).unwrap();
        data.chunks(cut * self.d).for_each(|block| survey.add(block));
        let numbers: Vec<u32> = (0..leaf_of.len() as u32).step_by(every).collect();
        let sample: Vec<f32> =
            numbers.iter().flat_map(|row| &data[*row as usize * self.d..][..self.d]).copied().collect();
        let mut plan = survey.plan(&sample, &numbers).unwrap()?;
        let leaves: Vec<u32> = data.chunks(cut * self.d).flat_map(|block| plan.assign(block)).collect();
        if !plan.holds() {
            return None;
        }
        assert_eq!(plan.expected().len(), plan.count());
        let adapted = plan.arrange(&data, &all(leaf_of.len()), 0, leaves);
        check(&adapted, &standing, &data, self.d);
        Some((leaf_of, adapted))
    }
}

#[test]
fn rows_in_blocks_keep_about_as_many_leaves() {
    let d = 24;
    for (metric, bits) in [(Metric::Cosine, 8), (Metric::L2, 4), (Metric::Dot, 1)] {
        let all_rows = mixture(8, 6500, d, 40, 0.0);
        let (old, new) = all_rows.split_at(5000 * d);
        let base = Base::new(metric, old.to_vec(), d, bits);
        let keeps = |row: usize| row % 10 != 3;
        let (leaf_of, whole) = base.merge(keeps, new, 2);
        let whole = whole.unwrap();
        let (_, streamed) = base.streamed(keeps, new, (700, 9), 2).unwrap();
        let [whole_stand, stand] = [&whole, &streamed].map(|adapted| base.stand(&leaf_of, adapted));
        assert!(stand * 20 >= whole_stand * 19, "{metric}: {stand} stand, {whole_stand} in memory");
        // Nor are rows further from their leaves.
        let [whole_spread, spread] = [&whole, &streamed].map(|adapted| spread_of(&base, keeps, new, adapted));
        assert!(spread <= 1.02 * whole_spread, "{metric}: {spread}, {whole_spread} in memory");
        for (cut, threads) in [(1, 1), (6000, 3)] {
            assert_eq!(base.streamed(keeps, new, (cut, 9), threads).unwrap().1, streamed);
        }
    }
}

/// The summed squared distance of rows to their centroids.
fn spread_of(base: &Base, keeps: impl Fn(usize) -> bool, new: &[f32], adapted: &Adapted) -> f64 {
    let (_, data) = base.rows(keeps, new);
    let rows = Rows::new(&data, base.d, base.metric, 2);
    let Clustering { assignment, centroids, .. } = &adapted.clustering;
    rules::squares(&rows, &all(assignment.len()), assignment, centroids, 2).iter().sum()
}

#[test]
fn rows_in_blocks_in_a_new_place_split_leaves_or_need_a_new_clustering() {
    let d = 24;
    let base = Base::new(Metric::L2, mixture(3, 4000, d, 30, 0.0), d, 8);
    let (leaf_of, adapted) = base.streamed(|_| true, &mixture(4, 600, d, 3, 0.0), (500, 5), 2).unwrap();
    let new = adapted.origin.iter().filter(|origin| origin.is_none()).count();
    assert!((600 / TARGET / 2..4 * 600 / TARGET).contains(&new), "{new} new leaves");
    let stand = base.stand(&leaf_of, &adapted);
    assert!(stand >= 2800, "{stand} of 4000");
    assert_eq!(base.streamed(|_| true, &mixture(5, 600, d, 600, 0.0), (500, 5), 2), None);
}

#[test]
fn rows_in_blocks_that_do_not_fit_their_leaves_are_refused() {
    let stored = Centroids::encode(8, 1, 4, &[0.5; 4]);
    let standing = Standing { leaves: 1, bits: 8, centroids: &stored, scale: 1.0, leaf_of: &[0; 100] };
    let run = |standing: Standing<'_>, rows: usize| {
        let mut survey = Survey::new(standing, 4, Metric::L2, TARGET, 1, 1)?;
        survey.add(&vec![0.5; 4 * rows]);
        let sample: Vec<u32> = (0..100).step_by(5).collect();
        Ok::<_, String>(survey.plan(&vec![0.5; 4 * sample.len()], &sample)?.is_some())
    };
    // One leaf of equal rows is cut, so nothing stands.
    assert_eq!(run(standing, 100), Ok(false));
    assert!(run(standing, 99).is_err() && run(standing, 101).is_err());
    assert!(run(Standing { leaf_of: &[1; 100], ..standing }, 100).is_err());
    assert!(run(Standing { centroids: &stored[1..], ..standing }, 100).is_err());
    assert_eq!(run(Standing { leaf_of: &[], ..standing }, 0), Ok(false));
    let no_leaves = Centroids::encode(8, 0, 4, &[]);
    let none = Standing { leaves: 0, centroids: &no_leaves, leaf_of: &[Standing::NEW; 3], ..standing };
    assert_eq!(run(none, 3), Ok(false));
}

#[test]
fn half_as_many_leaves_again_are_too_many() {
    let target = 256;
    for (leaves, rows, few) in [(3, 1, true), (1500, 1000 * target, true), (1600, 1000 * target, false)] {
        assert_eq!(rules::are_few(leaves, rows, target), few, "{leaves} leaves of {rows} rows");
    }
}
