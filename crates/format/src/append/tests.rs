use super::*;

const ALIVE: Probe = Probe { floor: 4, dropped: false };

#[test]
fn slots_stay_dense() {
    assert_eq!(next_slot(0, 0), 1);
    assert_eq!(next_slot(3, 7), 8);
    assert_eq!(next_slot(9, 7), 10);
}

#[test]
fn a_slot_is_settled_by_read_back_and_floor() {
    assert_eq!(settle(5, Slot::Mine, &ALIVE), Outcome::Acknowledge);
    assert_eq!(settle(5, Slot::Rival, &ALIVE), Outcome::Next);
    assert_eq!(settle(5, Slot::Absent, &ALIVE), Outcome::SameAgain);
    assert_eq!(settle(4, Slot::Mine, &ALIVE), Outcome::Unknown);
    assert_eq!(settle(5, Slot::Mine, &Probe { dropped: true, ..ALIVE }), Outcome::Gone);
}

#[test]
fn a_tail_is_the_contiguous_run() {
    assert_eq!(tail(2, [6, 4, 3, 2, 1]), [3, 4]);
    assert_eq!(tail(2, [5, 4]), [] as [Seq; 0]);
    assert_eq!(tail(0, []), [] as [Seq; 0]);
    assert!(complete(4, &Floors { wal: 4, ..Floors::default() }));
    assert!(!complete(3, &Floors { wal: 4, ..Floors::default() }));
}

#[test]
fn what_was_read_holds_only_while_every_later_entry_is_known() {
    assert_eq!(between(5, 5, true, false), Between::Untouched);
    assert_eq!(between(5, 6, true, false), Between::Touched);
    assert_eq!(between(5, 0, false, false), Between::Touched);
    assert_eq!(between(5, 0, true, true), Between::Touched);
    assert_eq!(claim(Between::Untouched, LOSSES - 1), Claim::Put);
    assert_eq!(claim(Between::Touched, LOSSES - 1), Claim::Evaluate);
    assert_eq!(claim(Between::Untouched, LOSSES), Claim::GiveUp);
    assert_eq!(claim(Between::Touched, LOSSES), Claim::GiveUp);
}
