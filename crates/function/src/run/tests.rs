use super::*;
use esker_store::seams::SimulatedClock;

fn context(deadline: i64) -> Context {
    let mut context = Context::default();
    context.deadline = u64::try_from(deadline).unwrap();
    context
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_events_less_a_margin() {
    let clock = SimulatedClock::new(SimulatedClock::START_MS);
    let call = Call::new(context(SimulatedClock::START_MS + 10_000), &clock);
    assert_eq!(call.left(&clock), Duration::from_secs(10) - MARGIN);
    clock.sleep(Duration::from_secs(4)).await;
    assert_eq!(call.left(&clock), Duration::from_secs(6) - MARGIN);
    clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(call.left(&clock), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumped_neither_ends_an_event_nor_leaves_it_forever() {
    let clock = SimulatedClock::new(SimulatedClock::START_MS);
    let call = Call::new(context(SimulatedClock::START_MS + 10_000), &clock);
    // A jump while an event is handled changes nothing: waits go by the other clock.
    clock.skew(-3_600_000);
    assert_eq!(call.left(&clock), Duration::from_secs(10) - MARGIN);
    clock.skew(7_200_000);
    assert_eq!(call.left(&clock), Duration::from_secs(10) - MARGIN);
    // Before it, an hour ahead and two behind.
    assert_eq!(Call::new(context(SimulatedClock::START_MS + 10_000), &clock).left(&clock), DOUBTFUL);
    clock.skew(-10_800_000);
    assert_eq!(Call::new(context(SimulatedClock::START_MS + 10_000), &clock).left(&clock), MOST);
}

#[tokio::test(start_paused = true)]
async fn work_is_given_up_at_the_deadline() {
    let clock = SimulatedClock::new(SimulatedClock::START_MS);
    let call = Call::new(context(SimulatedClock::START_MS + 10_000), &clock);
    let done = call.within(&clock, async {
        clock.sleep(Duration::from_secs(3)).await;
        Ok(1)
    });
    assert_eq!(done.await.unwrap(), 1);
    let late = call.within(&clock, async {
        clock.sleep(Duration::from_secs(30)).await;
        Ok(1)
    });
    assert_eq!(late.await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(clock.elapsed(), Duration::from_secs(10) - MARGIN);
}
