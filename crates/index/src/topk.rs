//! The k nearest of a stream of candidates.

/// A bounded max-heap of `(distance, id)`. Ties go to the smaller id, so the result does not depend on the order of
/// arrival; NaN never enters.
#[derive(Clone, Debug)]
pub struct TopK<T> {
    k: usize,
    heap: Vec<(f32, T)>,
}

impl<T: Copy + Ord> TopK<T> {
    /// Keeps the best `k`.
    pub fn new(k: usize) -> Self {
        Self { k, heap: Vec::with_capacity(k.min(1024)) }
    }

    /// Offers a candidate; true if it is now among the best k.
    pub fn push(&mut self, distance: f32, id: T) -> bool {
        if distance.is_nan() || self.k == 0 {
            return false;
        }
        let distance = distance + 0.0; // −0 ties with 0
        if self.heap.len() < self.k {
            self.heap.push((distance, id));
            self.rise(self.heap.len() - 1);
            return true;
        }
        if !before((distance, id), self.heap[0]) {
            return false;
        }
        self.heap[0] = (distance, id);
        self.sink(0);
        true
    }

    /// The distance a candidate must beat: that of the k-th, infinity while there are fewer than k.
    pub fn worst(&self) -> f32 {
        if self.k == 0 {
            return f32::NEG_INFINITY;
        }
        if self.heap.len() < self.k { f32::INFINITY } else { self.heap[0].0 }
    }

    /// How many are kept.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// What is held, nearest first.
    pub fn into_sorted(self) -> Vec<(f32, T)> {
        let mut sorted = self.heap;
        sorted.sort_unstable_by(nearest_first);
        sorted
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !before(self.heap[parent], self.heap[at]) {
                break;
            }
            self.heap.swap(parent, at);
            at = parent;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && before(self.heap[child], self.heap[child + 1]) {
                child += 1;
            }
            if !before(self.heap[at], self.heap[child]) {
                break;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }
}

/// The k nearest of many candidates, kept in a buffer that is cut back to k whenever it is full: several times cheaper
/// per candidate than [`TopK`] for the tens to hundreds of rows a scan hands to the rerank, with the same result.
#[derive(Clone, Debug)]
pub struct Shortlist<T> {
    k: usize,
    limit: f32,
    held: Vec<(f32, T)>,
}

impl<T: Copy + Ord> Shortlist<T> {
    /// Keeps the best `k`.
    pub fn new(k: usize) -> Self {
        let limit = if k == 0 { f32::NEG_INFINITY } else { f32::INFINITY };
        Self { k, limit, held: Vec::with_capacity((2 * k + 32).min(4096)) }
    }

    /// Offers a candidate and returns [`Shortlist::limit`]. NaN never enters.
    #[inline]
    pub fn push(&mut self, distance: f32, id: T) -> f32 {
        if distance <= self.limit && self.k > 0 {
            self.held.push((distance + 0.0, id));
            if self.held.len() >= 2 * self.k + 32 {
                self.cut();
            }
        }
        self.limit
    }

    /// No candidate beyond this can be among the best k. Falls towards the k-th distance in steps; infinity at first.
    pub fn limit(&self) -> f32 {
        self.limit
    }

    fn cut(&mut self) {
        if self.held.len() > self.k {
            let (_, kth, _) = self.held.select_nth_unstable_by(self.k - 1, nearest_first);
            self.limit = kth.0;
            self.held.truncate(self.k);
        }
    }

    /// The best k, nearest first.
    pub fn into_sorted(mut self) -> Vec<(f32, T)> {
        self.held.sort_unstable_by(nearest_first);
        self.held.truncate(self.k);
        self.held
    }
}

fn nearest_first<T: Ord>(a: &(f32, T), b: &(f32, T)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1))
}

fn before<T: Ord>(a: (f32, T), b: (f32, T)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

#[cfg(test)]
mod tests;
