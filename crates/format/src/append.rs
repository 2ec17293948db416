//! The log's decisions, as pure functions: which slot is next, what a slot's read-back and the register probe
//! together mean, which entries are a snapshot's tail, and whether a tail is complete.

use crate::id::Seq;
use crate::limits;
use crate::manifest::{Floors, Manifest, RegisterEntry};

/// The slot to try: nobody puts n + 1 unless n was seen or is at or below the watermark, so slots stay dense.
pub fn next_slot(last_seen: Seq, watermark: Seq) -> Seq {
    last_seen.max(watermark) + 1
}

/// What step 2 of an append found in its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// An entry with my token (or the create was answered "created").
    Mine,
    /// Another's entry.
    Rival,
    /// Nothing, whatever the create was answered.
    Absent,
}

/// What the register said after the slot was read: the newest version's floors, and whether it is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Probe {
    /// The log floor of the newest version.
    pub floor: Seq,
    /// The collection was dropped.
    pub dropped: bool,
}

impl Probe {
    /// The probe's view of a register entry.
    pub fn of(entry: &RegisterEntry) -> Self {
        let dropped = matches!(entry, RegisterEntry::Manifest(m) if m.dropped);
        Probe { floor: entry.floors().wal, dropped }
    }

    /// The probe's view of a manifest.
    pub fn of_manifest(m: &Manifest) -> Self {
        Probe { floor: m.floors.wal, dropped: m.dropped }
    }
}

/// How an append goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Durable and visible: acknowledge. Nothing but the reply may follow.
    Acknowledge,
    /// A rival's slot: try the next.
    Next,
    /// The same slot again: a put that timed out may still land there.
    SameAgain,
    /// The slot's name may have been used and deleted before: never acknowledged, never guessed.
    Unknown,
    /// The collection was dropped.
    Gone,
}

/// Steps 3 and 4 of an append. The register must have been probed *after* `found` was learnt: deletion follows a
/// committed floor, so a floor below `slot` proves that the name was never deleted before and that my create was
/// its first. The slot's body, if it has one, is deleted under the same floor and so is there as well.
pub fn settle(slot: Seq, found: Slot, probe: &Probe) -> Outcome {
    if probe.dropped {
        return Outcome::Gone;
    }
    if slot <= probe.floor {
        return Outcome::Unknown;
    }
    match found {
        Slot::Mine => Outcome::Acknowledge,
        Slot::Rival => Outcome::Next,
        Slot::Absent => Outcome::SameAgain,
    }
}

/// The tail of a snapshot: the contiguous run of listed entries from `watermark + 1`, oldest first. `listed` is
/// newest first, as the store lists it.
pub fn tail(watermark: Seq, listed: impl IntoIterator<Item = Seq>) -> Vec<Seq> {
    let mut above: Vec<Seq> = listed.into_iter().filter(|s| *s > watermark).collect();
    above.sort_unstable();
    above.dedup();
    let dense = above.iter().zip(watermark + 1..).take_while(|(have, want)| **have == *want).count();
    above.truncate(dense);
    above
}

/// Whether a listed tail above `watermark` is complete, given the floors of the newest manifest: nothing above
/// the watermark had been deleted when the register was probed.
pub fn complete(watermark: Seq, newest: &Floors) -> bool {
    newest.wal <= watermark
}

/// What the entries between the read of a conditional write and the slot it wants say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Between {
    /// None of them is about the write's ids: what was read of these still holds.
    Untouched,
    /// One of them is, or it cannot be told: read again.
    Touched,
}

/// Judges entries above `read_at` that were all read (`all_there`). `floor` is the log floor of the newest version, found
/// *after* they were read: above `read_at` it says that one may have been deleted, and its name put again since.
pub fn between(read_at: Seq, floor: Seq, all_there: bool, touched: bool) -> Between {
    match all_there && floor <= read_at && !touched {
        true => Between::Untouched,
        false => Between::Touched,
    }
}

/// Slots that a conditional write loses before it says so.
pub const LOSSES: u32 = 8;

/// How a conditional write goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Put the next slot.
    Put,
    /// Read its ids again at a newer position, and decide anew.
    Evaluate,
    /// Others are faster: nothing was written, try later.
    GiveUp,
}

/// The next step, once the entries before the slot were judged and `losses` slots lost.
pub fn claim(between: Between, losses: u32) -> Claim {
    match between {
        _ if losses >= LOSSES => Claim::GiveUp,
        Between::Untouched => Claim::Put,
        Between::Touched => Claim::Evaluate,
    }
}

/// Slots whose headers were all read: those after `after`, up to `to`, without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Headers {
    /// The slot before the first.
    pub after: Seq,
    /// The last.
    pub to: Seq,
}

/// Whether a batch that was offered in the inbox after the slot `tail` may be put into the slot after `read`, if none of
/// these headers names it. `floor` is the log floor of the newest version, found *after* they were read.
///
/// Its writer offered it when it was in no slot up to `tail` and could not land there any more. Whoever puts it later has
/// read each slot since, and a floor at or below `tail` proves that what was read is the first that was ever there: so it
/// is in none of them. Two who do this at once put the same slot, which has one winner.
pub fn may_take(tail: Seq, read: &Headers, floor: Seq) -> bool {
    read.after <= tail && tail <= read.to && floor <= tail && read.to - tail < limits::INBOX_REACH
}

/// Whether an object of the inbox can never become part of an entry again, by anyone who lists it from now on.
pub fn is_past(tail: Seq, floor: Seq) -> bool {
    tail < floor
}

#[cfg(test)]
mod tests;
