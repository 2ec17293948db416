//! The three metrics and how their distances are ranked.

/// How two vectors are compared. Distances are those that clients see: smaller is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `1 − cos(a, b)`, in `[0, 2]`; stored rows need not be normalised.
    Cosine,
    /// Euclidean distance, with the root.
    L2,
    /// `−⟨a, b⟩`.
    Dot,
}

impl Metric {
    /// Parses the name used in settings and requests: `cosine`, `l2` or `dot`.
    pub fn parse(name: &str) -> Option<Metric> {
        match name {
            "cosine" => Some(Metric::Cosine),
            "l2" => Some(Metric::L2),
            "dot" => Some(Metric::Dot),
            _ => None,
        }
    }

    /// The name that [`Metric::parse`] accepts.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::Dot => "dot",
        }
    }

    /// The score of a distance: higher is better (cosine: cos, l2: −distance, dot: ⟨a, b⟩).
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - distance,
            Metric::L2 | Metric::Dot => -distance,
        }
    }

    /// A distance on the scale of code estimates: squared for l2 (where estimates are linear), itself otherwise.
    pub fn rankable(self, distance: f32) -> f32 {
        match self {
            Metric::L2 => distance * distance,
            Metric::Cosine | Metric::Dot => distance,
        }
    }

    /// The inverse of [`Metric::rankable`], for showing an estimate as a distance.
    pub fn estimate_to_distance(self, estimate: f32) -> f32 {
        match self {
            Metric::L2 => estimate.max(0.0).sqrt(),
            Metric::Cosine | Metric::Dot => estimate,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
