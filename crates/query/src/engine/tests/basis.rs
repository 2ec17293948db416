//! Where codes are made with a learned basis, every read answers as with a bit per dimension.

use esker_compactor::{Choice, Options};
use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;

use super::fixture::World;
use crate::filter::Filter;
use crate::search::Search;

const D: u32 = 160;

fn number(r: &Record) -> bool {
    matches!(r.metadata.get("number"), Some(Value::Int(n)) if *n >= 400)
}

/// Searches with and without a filter, by every reader there is.
async fn check(world: &mut World, what: &str) {
    check_at_least(world, what, 0.96).await;
}

async fn check_at_least(world: &mut World, what: &str, least: f64) {
    let queries = world.queries(20);
    let warm = world.cold();
    warm.warm(&Meter::new()).await.unwrap();
    for (how, reader) in &[("codes", world.cold()), ("memory", warm), ("probe", world.probing().await)] {
        for filter in [None, Some("number >= 400")] {
            let passes = |r: &Record| filter.is_none() || number(r);
            let filter = filter.map(|f| Filter::sql(f).unwrap());
            let search = Search { vectors: queries.clone(), k: 10, filter, ..Search::default() };
            let (recall, _) = world.recall(reader, &search, passes).await;
            assert!(recall >= least, "{what}, {how}: {recall}");
        }
    }
}

fn with(basis: Choice, copies: Choice) -> Options {
    Options { basis, copies, ..Options::default() }
}

#[tokio::test]
async fn a_basis_changes_no_answer() {
    let cases = [
        (Metric::Cosine, VectorType::F32, Choice::Never),
        (Metric::L2, VectorType::F16, Choice::Always),
        (Metric::Dot, VectorType::F32, Choice::Always),
    ];
    for (metric, kind, copies) in cases {
        let mut world = World::steep(D, metric, kind).await;
        world.fill(0..3000).await;
        world.compact_with(with(Choice::Always, copies)).await;
        check(&mut world, "one segment").await;
        // A tail, of which some rows have codes, and rows that are gone.
        let gone: Vec<String> = (0..40).map(|i| format!("row {}", 7 * i)).collect();
        world.delete(&gone).await;
        world.fill(900..960).await;
        check(&mut world, "a tail").await;
        world.compact_with(with(Choice::Always, copies)).await;
        check(&mut world, "folded").await;
        // Merged around it: its basis stands.
        world.fill(3000..3600).await;
        world.compact_with(with(Choice::Never, copies)).await;
        check(&mut world, "merged").await;
        // Rows and queries from elsewhere, unlike what the basis was learned from: no row is near. Cold, .68 to 1 of the neighbours are
        // found; with a bit per dimension .78 to 1.
        world.drift();
        world.fill(3600..3700).await;
        check_at_least(&mut world, "rows far from all leaves", 0.65).await;
    }
}
