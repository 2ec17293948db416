//! Whether what clients saw of one record could have come from a register that does one thing after the other (Wing and
//! Gong's search, with the memory of Lowe's): each operation took effect at one instant between its call and its answer, one
//! of unknown outcome at some instant after its call or never.

use super::env::SKEW_MS;
use super::history::{Ask, Cell, Change, History, How, If, Op, Outcome};
use std::collections::{BTreeSet, HashSet};

/// States that are looked at before the search gives up.
const MOST: usize = 400_000;
/// Operations that a failure shows.
const SHOWN: usize = 3;

/// What an operation does to the register, or says of it.
#[derive(Clone, Debug)]
enum Effect {
    Change(Change, If),
    Saw(Option<Cell>),
    /// Its version, if it was there.
    SawVersion(Option<i64>),
}

#[derive(Clone, Debug)]
struct Step {
    effect: Effect,
    from: u64,
    to: u64,
    /// It may not have taken effect at all.
    optional: bool,
    /// The client's clock at its call, and the last that any machine's may have been at its answer.
    clocks: (i64, i64),
    op: usize,
}

/// What an id's history came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearisable,
    /// What the register holds where the search came furthest, and what cannot be next.
    Broken(String),
    /// The search was given up.
    Undecided,
}

/// Checks each id of a history. `twice` says of an operation that it was also put into a collection that was dropped: it
/// may have taken effect there before, whatever its client was told of the one that has the name now.
pub fn check(history: &History, twice: &dyn Fn(usize) -> bool) -> Vec<(String, Verdict)> {
    let ids: BTreeSet<&String> = history.ops.iter().flat_map(|op| touched(op)).collect();
    ids.into_iter().map(|id| (id.clone(), check_id(history, id, twice))).collect()
}

fn touched(op: &Op) -> Vec<&String> {
    match (&op.ask, &op.outcome) {
        (Ask::Write { rows, .. }, _) => rows.iter().map(|(id, _)| id).collect(),
        (_, Outcome::Seen(view)) => view.rows.keys().collect(),
        _ => Vec::new(),
    }
}

fn check_id(history: &History, id: &str, twice: &dyn Fn(usize) -> bool) -> Verdict {
    let mut steps: Vec<Step> =
        history.ops.iter().enumerate().filter_map(|(number, op)| step(number, op, id)).collect();
    for (number, op) in history.ops.iter().enumerate().filter(|(number, _)| twice(*number)) {
        steps.extend(step(number, &Op { outcome: Outcome::Unknown, ..op.clone() }, id));
    }
    // A write of unknown outcome that nobody saw need not have happened: most histories have an order without it.
    let seen: Vec<Step> = steps.iter().filter(|s| !s.optional || s.is_seen(&steps)).cloned().collect();
    match search(&seen) {
        Verdict::Linearisable => Verdict::Linearisable,
        _ => search(&steps),
    }
}

/// What an operation means to one id, if anything.
fn step(number: usize, op: &Op, id: &str) -> Option<Step> {
    let (effect, optional) = match (&op.ask, &op.outcome) {
        (_, Outcome::Failed) => return None,
        (_, Outcome::Refused { id: refused, found }) => {
            if refused != id {
                return None;
            }
            (Effect::SawVersion(*found), false)
        }
        (Ask::Read(How::Strong { .. }), Outcome::Seen(view)) => {
            (Effect::Saw(view.rows.get(id)?.clone()), false)
        }
        (Ask::Read(_), _) => return None,
        (Ask::Write { rows, condition }, outcome) => {
            // Of equal ids the last wins; clients of the simulation have each once.
            let (_, change) = rows.iter().find(|(of, _)| of == id)?;
            let optional = !matches!(outcome, Outcome::Acknowledged { .. });
            (Effect::Change(change.clone(), *condition), optional)
        }
        (Ask::Drop, outcome) => {
            let optional = !matches!(outcome, Outcome::Acknowledged { .. });
            (Effect::Change(Change::Remove, If::Always), optional)
        }
    };
    let to = if optional { u64::MAX } else { op.responded? };
    let last = if optional { i64::MAX } else { op.responded_ms.saturating_add(SKEW_MS) };
    Some(Step { effect, from: op.invoked, to, optional, clocks: (op.wall_ms, last), op: number })
}

impl Step {
    /// Whether it leaves the register as it is.
    fn looks(&self) -> bool {
        !matches!(self.effect, Effect::Change(..))
    }

    /// Whether something that was written was seen, or may be needed, by another.
    fn is_seen(&self, all: &[Step]) -> bool {
        let Effect::Change(Change::Put(Cell { version: own, vector: [number, _], .. }), _) = &self.effect
        else {
            return true;
        };
        all.iter().any(|step| match &step.effect {
            Effect::Saw(cell) => cell.as_ref().is_some_and(|c| c.version == *own || c.vector[0] == *number),
            Effect::SawVersion(version) => *version == Some(*own),
            Effect::Change(_, condition) => *condition == If::Version(*own),
        })
    }

    /// What the register may hold after it; `None` if it cannot be next.
    fn apply(&self, state: Option<&Cell>) -> Option<Option<Cell>> {
        let expires = state.and_then(|c| c.expires);
        // Once any machine may have found it expired, it may be gone; once this one must have, it is.
        let may_be_gone = state.is_none() || expires.is_some_and(|at| at < self.clocks.1);
        let may_be_there = state.is_some() && expires.is_none_or(|at| at >= self.clocks.0);
        let there = state.filter(|_| may_be_there);
        match &self.effect {
            Effect::Saw(None) | Effect::SawVersion(None) => may_be_gone.then(|| state.cloned()),
            Effect::Saw(Some(cell)) => (there == Some(cell)).then(|| state.cloned()),
            Effect::SawVersion(version) => (there.map(|c| c.version) == *version).then(|| state.cloned()),
            Effect::Change(change, condition) => {
                let holds = match condition {
                    If::Always => true,
                    If::Absent => may_be_gone,
                    If::Version(version) => there.is_some_and(|c| c.version == *version),
                };
                let patch = matches!(change, Change::Patch { .. });
                (holds && (!patch || there.is_some())).then(|| change.apply(state)).flatten()
            }
        }
    }
}

/// Which steps are done, as bits, and what the register holds.
type State = (Vec<u64>, Option<Cell>);

fn search(steps: &[Step]) -> Verdict {
    let mut order: Vec<usize> = (0..steps.len()).collect();
    // Those with an answer first: the others are tried where nothing else fits.
    order.sort_by_key(|i| (steps[*i].optional, steps[*i].to));
    let due = steps.iter().filter(|s| !s.optional).count();
    let start: State = (vec![0; steps.len().div_ceil(64)], None);
    let mut seen: HashSet<State> = HashSet::from([start.clone()]);
    let mut open: Vec<(State, usize)> = vec![(start, 0)];
    let mut furthest = (0, vec![0; steps.len().div_ceil(64)], None);
    while let Some(((done, register), count)) = open.pop() {
        if count == due {
            return Verdict::Linearisable;
        }
        if count > furthest.0 {
            furthest = (count, done.clone(), register.clone());
        }
        let is_done = |i: usize| done[i / 64] & (1 << (i % 64)) != 0;
        let first_answer = (0..steps.len()).filter(|i| !is_done(*i)).map(|i| steps[i].to).min();
        let may = |i: usize| !is_done(i) && Some(steps[i].from) <= first_answer;
        // A look that fits changes nothing: there is no better time for it.
        let fits = |i: usize| may(i) && steps[i].looks() && steps[i].apply(register.as_ref()).is_some();
        let look = (0..steps.len()).find(|i| fits(*i));
        // The last pushed is tried first.
        for &i in order.iter().rev().filter(|i| look.is_none_or(|look| look == **i)) {
            if !may(i) {
                continue;
            }
            let Some(register) = steps[i].apply(register.as_ref()) else { continue };
            let mut done = done.clone();
            done[i / 64] |= 1 << (i % 64);
            let state = (done, register);
            if seen.len() >= MOST {
                return Verdict::Undecided;
            }
            if seen.insert(state.clone()) {
                open.push((state, count + usize::from(!steps[i].optional)));
            }
        }
    }
    let is_left = |i: usize| furthest.1[i / 64] & (1 << (i % 64)) == 0;
    let mut left: Vec<&Step> =
        steps.iter().enumerate().filter(|(i, _)| is_left(*i)).map(|(_, s)| s).collect();
    left.retain(|s| !s.optional);
    left.sort_by_key(|s| s.to);
    let shown = left.iter().take(SHOWN).map(|s| format!("#{} {:?}", s.op, s.effect));
    Verdict::Broken(format!("{:?}, then {}", furthest.2, shown.collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests;
