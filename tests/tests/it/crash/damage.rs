//! The checks themselves: what is missing, or other than what was promised, must not get past them.

use super::enumerate::prepare;
use super::ledger::{Asked, Ledger};
use super::scenario::{body, id, publish};
use super::truth::{Read, check};
use esker_format::Token;
use esker_format::keys::{Key, Part};
use esker_tests::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn is_refused(world: &World, ledger: &Ledger) -> bool {
    let look = || check(world, &id(), ledger, &mut Read::new()).is_some();
    catch_unwind(AssertUnwindSafe(look)).is_err()
}

#[tokio::test(start_paused = true)]
async fn a_lost_object_is_missed() {
    for mut scenario in [publish(), body()] {
        scenario.before.append(&mut scenario.steps);
        let (world, ledger, _) = prepare(&scenario).await;
        assert!(!is_refused(&world, &ledger));
        for key in world.keys("c/").iter().filter(|key| !key.ends_with("/head")) {
            let damaged = world.fork();
            assert!(damaged.lose(key));
            // A log or a register that ends earlier is one that a reader cannot tell from a younger one: only what
            // clients were told can.
            assert!(is_refused(&damaged, &ledger), "{key} is not missed");
            for bit in [0, world.body(key).map_or(0, |b| b.len() * 8 / 2)] {
                let damaged = world.fork();
                damaged.flip_bit(key, bit);
                let spared = matches!(Key::parse(key), Ok(Key::Of(_, Part::Rows(_))));
                assert!(spared || is_refused(&damaged, &ledger), "bit {bit} of {key} is not missed");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_promise_is_noticed() {
    let (world, ledger, _) = prepare(&publish()).await;
    let failed = Asked { times: 1, open: 0, done: None };
    for asked in [failed, Asked::default(), Asked { done: Some(3), ..failed }] {
        let other = ledger.fork();
        other.book().batches.entry(Token(2)).and_modify(|(_, a)| *a = asked);
        assert!(is_refused(&world, &other), "{asked:?} is not noticed");
    }
    let other = ledger.fork();
    other.book().batches.remove(&Token(3));
    assert!(is_refused(&world, &other), "a batch of nobody is not noticed");
    let other = ledger.fork();
    other.book().batches.entry(Token(4)).and_modify(|(batch, _)| batch.rows[0].vector[0] = 9.0);
    assert!(is_refused(&world, &other), "another row is not noticed");
}
