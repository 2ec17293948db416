//! Whether what clients saw of one record could have come from a register that does one thing after the other (Wing and
//! Gong's search, with the memory of Lowe's): each operation took effect at one instant between its call and its answer, one
//! of unknown outcome at some instant after its call or never.

use super::env::SKEW_MS;
use super::history::{Ask, Cell, Change, History, How, If, Op, Outcome};
use std::collections::{BTreeSet, HashSet};

/// States that are looked at before the search gives up.
const MOST: usize = 400_000;

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
    /// These operations, with those before them, fit no order.
    Broken(Vec<usize>),
    /// The search was given up.
    Undecided,
}

/// Checks each id of a history.
pub fn check(history: &History) -> Vec<(String, Verdict)> {
    let ids: BTreeSet<&String> = history.ops.iter().flat_map(|op| touched(op)).collect();
    ids.into_iter().map(|id| (id.clone(), check_id(history, id))).collect()
}

fn touched(op: &Op) -> Vec<&String> {
    match (&op.ask, &op.outcome) {
        (Ask::Write { rows, .. }, _) => rows.iter().map(|(id, _)| id).collect(),
        (_, Outcome::Seen(view)) => view.rows.keys().collect(),
        _ => Vec::new(),
    }
}

fn check_id(history: &History, id: &str) -> Verdict {
    let steps: Vec<Step> =
        history.ops.iter().enumerate().filter_map(|(number, op)| step(number, op, id)).collect();
    search(&steps)
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
    let mut furthest: (usize, Vec<u64>) = (0, vec![0; steps.len().div_ceil(64)]);
    while let Some(((done, register), count)) = open.pop() {
        if count == due {
            return Verdict::Linearisable;
        }
        if count > furthest.0 {
            furthest = (count, done.clone());
        }
        let is_done = |i: usize| done[i / 64] & (1 << (i % 64)) != 0;
        let first_answer = (0..steps.len()).filter(|i| !is_done(*i)).map(|i| steps[i].to).min();
        // The last pushed is tried first.
        for &i in order.iter().rev() {
            if is_done(i) || Some(steps[i].from) > first_answer {
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
    let left = steps
        .iter()
        .enumerate()
        .filter(|(i, s)| furthest.1[i / 64] & (1 << (i % 64)) == 0 && (!s.optional || s.from < u64::MAX));
    let mut left: Vec<&Step> = left.map(|(_, s)| s).filter(|s| !s.optional).collect();
    left.sort_by_key(|s| s.to);
    Verdict::Broken(left.into_iter().map(|s| s.op).take(4).collect())
}

#[cfg(test)]
mod tests;
