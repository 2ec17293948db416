use std::time::Duration;

use super::*;

#[tokio::test(start_paused = true)]
async fn simulated_time_moves_only_by_waiting() {
    let seams = Seams::simulated(7);
    assert_eq!(seams.clock.now_ms(), SimulatedClock::START_MS);
    seams.clock.sleep(Duration::from_secs(3600)).await;
    assert_eq!(seams.clock.elapsed(), Duration::from_secs(3600));
    assert_eq!(seams.clock.now_ms(), SimulatedClock::START_MS + 3_600_000);
}

#[tokio::test]
async fn a_seed_repeats_its_tokens() {
    let (a, b) = (Seams::simulated(1), Seams::simulated(1));
    assert_eq!(a.token(), b.token());
    assert_ne!(a.token(), a.token());
    assert_ne!(Seams::simulated(2).token(), Seams::simulated(1).token());
    assert!(a.jitter(Duration::from_secs(1)) < Duration::from_secs(1));
}

#[tokio::test]
async fn skew_moves_the_wall_alone() {
    let clock = SimulatedClock::new(1_000);
    clock.skew(-500);
    assert!(clock.now_ms() < 1_000);
    assert!(clock.elapsed() < Duration::from_secs(60));
}
