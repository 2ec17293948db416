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

#[test]
fn an_offer_is_taken_only_by_who_read_every_header_since() {
    let read = Headers { after: 5, to: 9 };
    assert!(may_take(5, &read, 5) && may_take(9, &read, 5));
    assert!(!may_take(4, &read, 0), "its slot 5 was not read");
    assert!(!may_take(10, &read, 0), "slot 10 is taken, and was not read");
    assert!(!may_take(5, &read, 6), "slot 6 may have been deleted and put again");
    let late = Headers { after: 0, to: limits::INBOX_REACH };
    assert!(!may_take(0, &late, 0) && may_take(1, &late, 0));
    assert!(is_past(5, 6) && !is_past(6, 6));
}
