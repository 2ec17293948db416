//! Disturbances: requests under way land, processes freeze and die, and someone looks whether everything still holds.

use super::env::Env;
use super::judge;
use super::process::{Seat, Trap};
use esker_store::Clock;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;

/// Looks at the whole of what is stored while it changes.
const LOOKS: u32 = 2;

pub async fn go_on(env: &Arc<Env>, seats: &[Arc<Seat>]) {
    let mut looks = 0;
    for _ in 0..env.knobs.disturbances {
        let ms = env.draw(|rng| match rng.random_range(0..10) {
            0..4 => rng.random_range(0..1_000),
            4..8 => rng.random_range(0..30_000),
            _ => rng.random_range(0..200_000),
        });
        env.clock().sleep(Duration::from_millis(ms)).await;
        env.sync();
        let running: Vec<&Arc<Seat>> = seats.iter().filter(|s| s.is_running()).collect();
        if running.is_empty() {
            continue;
        }
        let seat = running[env.draw(|rng| rng.random_range(0..running.len()))];
        match env.draw(|rng| rng.random_range(0..100)) {
            0..35 => {
                let time = Duration::from_millis(env.draw(|rng| match rng.random_range(0..3) {
                    0 => rng.random_range(0..20_000),
                    1 => rng.random_range(0..300_000),
                    _ => rng.random_range(0..7_200_000),
                }));
                let stops = env.draw(|rng| rng.random());
                env.log(&seat.who(), || format!("is frozen for {} s, clock stops: {stops}", time.as_secs()));
                env.count(|tally| tally.frozen += 1);
                seat.freeze(time, stops);
            }
            35..50 => {
                env.count(|tally| tally.crashed += 1);
                seat.kill();
            }
            50..65 => {
                let after = env.draw(|rng| rng.random());
                let kills = env.draw(|rng| rng.random_ratio(1, 3));
                let time = Duration::from_millis(env.draw(|rng| rng.random_range(0..7_200_000)));
                let freeze = (!kills).then(|| (time, env.draw(|rng| rng.random())));
                let trap = Trap { freeze, after };
                env.log(&seat.who(), || format!("is to meet {trap:?}"));
                seat.trap(trap);
            }
            65..75 => {
                let time = Duration::from_millis(env.draw(|rng| rng.random_range(0..120_000)));
                env.log(&seat.who(), || format!("is cut off for {} s", time.as_secs()));
                seat.cut_off(env.clock().elapsed() + time);
            }
            75..88 => land_one(env),
            _ if looks < LOOKS => {
                looks += 1;
                judge::look(env);
            }
            _ => {}
        }
    }
    // Requests may land as long as anyone runs.
    loop {
        let ms = env.draw(|rng| rng.random_range(0..600_000));
        env.clock().sleep(Duration::from_millis(ms)).await;
        env.sync();
        land_one(env);
    }
}

fn land_one(env: &Arc<Env>) {
    let late = env.world.late();
    if late.is_empty() {
        return;
    }
    let nth = env.draw(|rng| rng.random_range(0..late.len()));
    let changed = env.world.land_one(nth);
    env.log("late", || format!("{} lands, changing something: {changed}", late[nth].location()));
}
