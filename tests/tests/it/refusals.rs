//! Every line of `docs/refusals.md` is sent as it stands there, by a process that has used the store and by a fresh one:
//! each must answer with the error of that line, and leave every object as it was.

mod page;
mod requests;

use std::collections::BTreeMap;

use bytes::Bytes;
use esker_tests::world::World;

use page::Row;
use requests::Process;

const PAGE: &str = include_str!("../../../docs/refusals.md");

fn objects(world: &World) -> BTreeMap<String, Bytes> {
    world.keys("").into_iter().filter_map(|key| Some((key.clone(), world.body(&key)?))).collect()
}

#[tokio::test]
async fn every_line_of_the_page() {
    let rows = page::rows(PAGE);
    assert!(rows.len() >= 100, "the page has only {} lines", rows.len());
    let world = World::new();
    let known = requests::prepare(&world).await;
    let before = objects(&world);
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let fresh = Process::new(&world, 100 + number as u64);
        for process in [&known, &fresh] {
            let shown = row.request();
            let answer = process.send(&page::expand(shown)).await;
            let seen = Row::of(shown, answer);
            if seen != row.expanded() && wrong.last() != Some(&seen) {
                wrong.push(seen);
            }
            assert!(objects(&world) == before, "something was written by {shown}");
        }
    }
    let lines: Vec<String> = wrong.iter().map(Row::to_string).collect();
    assert!(wrong.is_empty(), "{} lines should read\n{}", wrong.len(), lines.join("\n"));
}

#[test]
fn repetitions_are_written_out() {
    assert_eq!(page::expand("a⟪, b⟫×2 c"), "a, b, b c");
    assert_eq!(page::expand("⟪{i}-⟫×3⟪x⟫×1"), "0-1-2-x");
}
