//! The invariants of STYLE §4 that the model can state, and proof that it is not idle.

use super::commit::row_hash;
use super::state::{Fate, State, folded};
use super::{Protocol, Weakening};
use esker_format::SetHash;
use stateright::Property;

pub(super) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("INV-1 an acknowledged row is in every later snapshot", |_, s| acknowledged_stay(s)),
        Property::always("INV-1 a strong read sees what was acknowledged before it", |_, s: &State| {
            !s.reader.wrong.missing
        }),
        Property::always("INV-2 a batch appears whole and once, or not at all", |_, s| at_most_once(s)),
        Property::always("INV-3 an entry above the floor has its body", has_bodies),
        Property::always("INV-4 version and watermark never go back", |_, s| forwards(s)),
        Property::always("INV-5 each seq is in one of segments and tail", |_, s: &State| {
            exactly_one(s) && !s.reader.wrong.twice
        }),
        Property::always("INV-6 accepted is what the segments hold", |_, s| conserved(s)),
        Property::always("INV-7 one winner per slot", |_, s| one_winner(s)),
        Property::always(
            "INV-8 a slot at or below the floor is not acknowledged and not read",
            |_, s: &State| !s.reader.wrong.reused && winners_were_first(s),
        ),
        Property::sometimes("every batch is acknowledged", |p: &Protocol, s: &State| {
            s.acknowledged().count_ones() == u32::from(p.batches.iter().sum::<u8>())
        }),
        Property::sometimes("an outcome is unknown", |p: &Protocol, s: &State| {
            p.is(Weakening::NoFloorCheck) || s.fates.contains(&Fate::Unknown)
        }),
        Property::sometimes("a name at or below the floor is created again", |_, s: &State| {
            (1..s.wal.len()).any(|slot| s.wal[slot] != 0 && s.wal[slot] != s.first[slot])
        }),
        Property::sometimes("a read is started over", |p: &Protocol, s: &State| {
            p.reads == 0 || s.reader.restarted
        }),
    ]
}

/// In the newest version's segments, or in a run without gap above its watermark.
fn acknowledged_stay(s: &State) -> bool {
    let newest = s.newest();
    s.fates.iter().zip(1..).all(|(fate, batch)| match fate {
        Fate::Acknowledged(slot) if u64::from(*slot) <= newest.watermark => {
            folded(newest).any(|row| row == (*slot, batch))
        }
        Fate::Acknowledged(slot) => {
            let run = newest.watermark as usize + 1..=usize::from(*slot);
            s.wal[usize::from(*slot)] == batch && run.into_iter().all(|slot| s.wal[slot] != 0)
        }
        _ => true,
    })
}

/// Of the first writer's batches, if they have bodies.
fn has_bodies(protocol: &Protocol, s: &State) -> bool {
    let floor = s.newest().floors.wal as usize;
    let has = |slot: usize| s.bodies[slot..].iter().any(|bodies| bodies & 1 << s.wal[slot] != 0);
    let whole = |slot: usize| !matches!(s.wal[slot], 1 | 2) || has(slot);
    !protocol.bodies || (floor + 1..s.wal.len()).all(whole)
}

fn at_most_once(s: &State) -> bool {
    let mut seen = 0_u8;
    truth(s).all(|(_, batch)| {
        let again = seen & (1 << batch) != 0;
        seen |= 1 << batch;
        !again
    })
}

fn forwards(s: &State) -> bool {
    s.register.windows(2).all(|pair| {
        let (old, new) = (&pair[0].0, &pair[1].0);
        new.version == old.version + 1
            && new.parent == Some(old.token)
            && new.watermark >= old.watermark
            && new.floors.at_least(&old.floors)
    })
}

fn exactly_one(s: &State) -> bool {
    s.register.iter().all(|version| {
        let m = &version.0;
        (1..s.wal.len() as u64).all(|seq| {
            let times = folded(m).filter(|(slot, _)| u64::from(*slot) == seq).count();
            times == usize::from(seq <= m.watermark)
        })
    })
}

fn conserved(s: &State) -> bool {
    s.register.iter().all(|version| {
        let m = &version.0;
        let held: SetHash = folded(m).map(|(slot, batch)| row_hash(slot, batch)).sum();
        m.hashes.conserved() && m.hashes.accepted == held && m.hashes.live == held
    })
}

fn one_winner(s: &State) -> bool {
    let slot = |fate: &Fate| match fate {
        Fate::Acknowledged(slot) => Some(*slot),
        _ => None,
    };
    let mut slots: Vec<u8> = s.fates.iter().filter_map(slot).collect();
    let winners = slots.len();
    slots.sort_unstable();
    slots.dedup();
    slots.len() == winners
}

fn winners_were_first(s: &State) -> bool {
    s.fates.iter().zip(1..).all(|(fate, batch)| match fate {
        Fate::Acknowledged(slot) => s.first[usize::from(*slot)] == batch,
        _ => true,
    })
}

/// What a snapshot of the newest version would hold: its segments and the run above its watermark.
fn truth(s: &State) -> impl Iterator<Item = (u8, u8)> {
    let newest = s.newest();
    let run = (newest.watermark as usize + 1..s.wal.len()).take_while(|slot| s.wal[*slot] != 0);
    folded(newest).chain(run.map(|slot| (slot as u8, s.wal[slot])))
}
