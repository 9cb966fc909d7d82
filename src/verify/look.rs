//! The second look: reads a chunk again for the keys that differed, and says what is different about them.
//!
//! The first reading left two hashes for each such key. If a key still differs and has the same hashes again, both of its
//! rows stood still and the verdict is certain. If anything about it moved between the two readings it is *undecided*,
//! even if it is equal now: whoever moves rows while they are compared has to compare again.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::canonical::{Rules, canonical, same_within_precision};
use super::chunks::{Chunk, PlanColumn};
use super::read::{ChunkSink, Hasher, Pair, Record, RowsRead, unpadded};
use super::report::{ColumnDifference, Difference, Kind};
use super::{Dialect, Row, RowSink, TablePlan, Value, VerifyError};

/// So many keys of a chunk are read again; more are only counted. A range has about `chunk_rows` keys, so this is about
/// tables that are one chunk, and about targets with many rows where the source has none.
pub const KEYS_MAX: usize = 200_000;

/// What the first reading left of a key: the hashes of the rows that had no equal on the other side, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Rows of the source, and the sum of their hashes.
    pub source: (u64, u128),
    /// Rows of the target, and the sum of their hashes.
    pub target: (u64, u128),
}

impl Left {
    /// Adds what consolidation left of a row.
    pub fn add(&mut self, row: u128, diff: i64) {
        let side = if diff > 0 { &mut self.source } else { &mut self.target };
        side.0 += diff.unsigned_abs();
        side.1 = side.1.wrapping_add(row.wrapping_mul(u128::from(diff.unsigned_abs())));
    }

    /// What the key is, going by what is left.
    pub fn kind(&self) -> Kind {
        match (self.source.0, self.target.0) {
            (_, 0) => Kind::Missing,
            (0, _) => Kind::Extra,
            _ => Kind::Changed,
        }
    }
}

/// How many keys of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In the source only.
    pub missing: u64,
    /// In the target only.
    pub extra: u64,
    /// In both, with different rows.
    pub changed: u64,
    /// Moving between the two readings.
    pub undecided: u64,
    /// Of those above, the ones counted by the first reading alone: there were too many.
    pub not_read_again: u64,
}

impl Counts {
    /// Counts one more key of the kind.
    pub fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Missing => self.missing += 1,
            Kind::Extra => self.extra += 1,
            Kind::Changed => self.changed += 1,
            Kind::Undecided => self.undecided += 1,
        }
    }
}

/// A chunk that has been read and consolidated.
#[derive(Debug)]
pub struct Suspect {
    /// The chunk.
    pub chunk: Chunk,
    /// Rows read.
    pub rows: RowsRead,
    /// Keys that differ and are to be read again.
    pub keys: HashMap<u128, Left>,
    /// Keys beyond [`KEYS_MAX`].
    pub counts: Counts,
    /// How many differences with all their columns are wanted.
    pub list: usize,
}

/// Reads the chunk again and says what differs.
///
/// # Errors
/// What either side says.
pub fn again(
    pair: &mut Pair,
    suspect: &Suspect,
    repair: Option<&Dialect>,
) -> Result<(Counts, Vec<Difference>), VerifyError> {
    let keep: HashMap<u128, bool> =
        suspect.keys.keys().enumerate().map(|(n, key)| (*key, repair.is_some() || n < suspect.list)).collect();
    let plan = &suspect.chunk.plan;
    let sink = |target: bool| {
        let keep = &keep;
        move |rules| AgainSink {
            keep,
            hasher: Hasher::new(plan, rules, target),
            row: Row::default(),
            found: HashMap::new(),
            rules,
        }
    };
    let (source, target) = pair.read(&suspect.chunk, sink(false), sink(true))?;
    let rules = source.rules;
    let (mut source, mut target) = (source.found, target.found);
    let mut counts = suspect.counts;
    let mut differences = Vec::new();
    for (key, left) in &suspect.keys {
        let found =
            Found { source: source.remove(key).unwrap_or_default(), target: target.remove(key).unwrap_or_default() };
        let Some(kind) = found.verdict(left, plan, rules) else { continue };
        counts.add(kind);
        if keep[key] {
            differences.extend(found.difference(kind, plan, rules, repair));
        }
    }
    Ok((counts, differences))
}

/// The rows of one key, each with its hash, and with its values if they are wanted.
#[derive(Default)]
struct Found {
    source: Vec<(u128, Option<Row>)>,
    target: Vec<(u128, Option<Row>)>,
}

impl Found {
    /// What the key is, or nothing if its rows are equal as far as the target's precision goes.
    fn verdict(&self, left: &Left, plan: &TablePlan, rules: Rules) -> Option<Kind> {
        if let ([(_, Some(source))], [(_, Some(target))]) = (&self.source[..], &self.target[..])
            && rules.instants_in_ms
            && self.now() != Left::default()
            && columns(plan, source, target, rules).is_empty()
        {
            return None;
        }
        Some(if self.now() == *left { left.kind() } else { Kind::Undecided })
    }

    /// What is left of the key in this reading.
    fn now(&self) -> Left {
        let mut hashes: HashMap<u128, i64> = HashMap::new();
        self.source.iter().for_each(|(hash, _)| *hashes.entry(*hash).or_default() += 1);
        self.target.iter().for_each(|(hash, _)| *hashes.entry(*hash).or_default() -= 1);
        let mut left = Left::default();
        hashes.iter().filter(|(_, diff)| **diff != 0).for_each(|(hash, diff)| left.add(*hash, *diff));
        left
    }

    fn difference(&self, kind: Kind, plan: &TablePlan, rules: Rules, repair: Option<&Dialect>) -> Option<Difference> {
        let source = first(&self.source);
        // A target without constraints may hold several rows of a key: show one that differs.
        let equal = |row: &&(u128, Option<Row>)| self.source.iter().any(|(hash, _)| *hash == row.0);
        let target =
            self.target.iter().find(|row| !equal(row)).or(self.target.first()).and_then(|(_, row)| row.as_ref());
        // A key that is gone from both sides has nothing left to show.
        let row = source.or(target)?;
        let key = plan
            .key
            .iter()
            .map(|&column| (plan.columns[column].name.clone(), row.get(column).show().unwrap_or_default()))
            .collect();
        let columns = match (source, target) {
            (Some(source), Some(target)) => columns(plan, source, target, rules),
            _ => Vec::new(),
        };
        let repair = match kind {
            Kind::Undecided => None,
            _ => repair.map(|dialect| dialect.mend(plan, row, source, self.target.len())),
        };
        Some(Difference {
            table: plan.name.clone(),
            key,
            kind,
            columns,
            source_rows: self.source.len() as u64,
            target_rows: self.target.len() as u64,
            repair,
        })
    }
}

fn first(rows: &[(u128, Option<Row>)]) -> Option<&Row> {
    rows.first().and_then(|(_, row)| row.as_ref())
}

/// The columns that differ.
fn columns(plan: &TablePlan, source: &Row, target: &Row, rules: Rules) -> Vec<ColumnDifference> {
    let mut differing = Vec::new();
    for (index, column) in plan.columns.iter().enumerate() {
        let (a, b) = (source.get(index), target.get(index));
        if same(column, a, b, rules) || same_within_precision(column.ty, a, b, rules) {
            continue;
        }
        differing.push(ColumnDifference { name: column.name.clone(), source: a.show(), target: b.show() });
    }
    differing
}

fn same(column: &PlanColumn, source: Value, target: Value, rules: Rules) -> bool {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    canonical(column.ty, source, rules, &mut a);
    canonical(column.ty, unpadded(column, target), rules, &mut b);
    a == b
}

/// Keeps the rows of the keys that are looked for.
struct AgainSink<'a> {
    keep: &'a HashMap<u128, bool>,
    hasher: Hasher,
    row: Row,
    found: HashMap<u128, Vec<(u128, Option<Row>)>>,
    rules: Rules,
}

impl RowSink for AgainSink<'_> {
    fn value(&mut self, value: Value) {
        self.hasher.value(value);
        self.row.push(value);
    }

    fn end(&mut self) -> Result<(), VerifyError> {
        let Record { key, row } = self.hasher.end();
        if let Some(keep) = self.keep.get(&key) {
            // Whether a difference is one of precision only shows in the values.
            let keep = *keep || self.rules.instants_in_ms;
            self.found.entry(key).or_default().push((row, keep.then(|| self.row.clone())));
        }
        self.row.clear();
        Ok(())
    }
}

impl ChunkSink for AgainSink<'_> {}
