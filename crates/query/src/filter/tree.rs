//! A filter as a tree over what attributes answer, combined as sets of row ordinals.

use datafusion::logical_expr::Expr;
use esker_format::Result;
use esker_format::segment::attributes::Predicate;
use roaring::RoaringBitmap;

/// The rows for which a filter is *true*. SQL's third value has been dealt with: negations were pushed down to the
/// leaves, where a missing value makes a comparison and its negation alike not true, so plain set operations are
/// exact and [`Tree::Not`] is a complement.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Every row.
    True,
    /// No row.
    False,
    /// Rows that all branches hold for.
    And(Vec<Tree>),
    /// Rows that some branch holds for.
    Or(Vec<Tree>),
    /// Rows that the branch does not hold for, missing values included.
    Not(Box<Tree>),
    /// What attributes can answer.
    Leaf(Predicate),
    /// What they cannot: rows for which the expression is true (neither false nor null).
    Other(Expr),
}

impl Tree {
    /// The rows of `0..rows` that pass. `leaf` and `other` answer the parts, each with true rows only; a part is not
    /// asked when the others already decide.
    pub fn eval(
        &self,
        rows: u32,
        leaf: &mut dyn FnMut(&Predicate) -> Result<RoaringBitmap>,
        other: &mut dyn FnMut(&Expr) -> Result<RoaringBitmap>,
    ) -> Result<RoaringBitmap> {
        Ok(match self {
            Tree::True => every(rows),
            Tree::False => RoaringBitmap::new(),
            Tree::Leaf(predicate) => leaf(predicate)?,
            Tree::Other(expr) => other(expr)?,
            Tree::Not(branch) => every(rows) - branch.eval(rows, leaf, other)?,
            Tree::Or(branches) => {
                let mut any = RoaringBitmap::new();
                for branch in branches {
                    any |= branch.eval(rows, leaf, other)?;
                }
                any
            }
            Tree::And(branches) => {
                let mut all = every(rows);
                for branch in branches {
                    if all.is_empty() {
                        break;
                    }
                    match branch {
                        Tree::Not(excluded) => all -= excluded.eval(rows, leaf, other)?,
                        _ => all &= branch.eval(rows, leaf, other)?,
                    }
                }
                all
            }
        })
    }

    /// The leaves, left to right: what to ask the attributes for.
    pub fn predicates(&self) -> Vec<&Predicate> {
        let mut found = Vec::new();
        self.visit(&mut |t| {
            if let Tree::Leaf(p) = t {
                found.push(p);
            }
        });
        found
    }

    /// The expressions that attributes cannot answer, left to right.
    pub fn others(&self) -> Vec<&Expr> {
        let mut found = Vec::new();
        self.visit(&mut |t| {
            if let Tree::Other(e) = t {
                found.push(e);
            }
        });
        found
    }

    fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Tree)) {
        f(self);
        match self {
            Tree::And(branches) | Tree::Or(branches) => branches.iter().for_each(|b| b.visit(f)),
            Tree::Not(branch) => branch.visit(f),
            Tree::True | Tree::False | Tree::Leaf(_) | Tree::Other(_) => {}
        }
    }

    /// All of `branches`, flattened, without those that decide nothing.
    pub(super) fn and(branches: impl IntoIterator<Item = Tree>) -> Tree {
        let mut all = Vec::new();
        for branch in branches {
            match branch {
                Tree::True => {}
                Tree::False => return Tree::False,
                Tree::And(inner) => all.extend(inner),
                branch => all.push(branch),
            }
        }
        one_or(all, Tree::True, Tree::And)
    }

    /// Any of `branches`, flattened likewise.
    pub(super) fn or(branches: impl IntoIterator<Item = Tree>) -> Tree {
        let mut any = Vec::new();
        for branch in branches {
            match branch {
                Tree::False => {}
                Tree::True => return Tree::True,
                Tree::Or(inner) => any.extend(inner),
                branch => any.push(branch),
            }
        }
        one_or(any, Tree::False, Tree::Or)
    }
}

fn one_or(mut branches: Vec<Tree>, none: Tree, many: impl Fn(Vec<Tree>) -> Tree) -> Tree {
    match branches.len() {
        0 => none,
        1 => branches.swap_remove(0),
        _ => many(branches),
    }
}

fn every(rows: u32) -> RoaringBitmap {
    (0..rows).collect()
}
