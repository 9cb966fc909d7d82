//! The looks at what differed: reads its keys again, with growing pauses, and says what is different about them.
//!
//! The first reading left two hashes for each such key. A change on its way from source to target makes a key differ for a
//! while, so that a key is called *different* only if it stood still, on both sides, through the last pause, which is half
//! of all the patience there is. A key that is equal at any look is equal: both sides had the same row. One that neither
//! becomes equal nor stands still is *undecided*.
//!
//! The first look reads the chunk again; it learns the leading key columns, if they are integers, and the looks after it
//! ask for these alone, unless they are most of the chunk.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::canonical::{Rules, same_within_precision};
use super::chunks::Chunk;
use super::read::{ChunkSink, Hasher, Pair, Record, canonical_at};
use super::report::{ColumnDifference, Difference, Kind};
use super::{Dialect, Keys, Row, RowSink, TablePlan, VerifyError};

/// So many keys of a worker wait for another look at a time. More are counted as the first reading found them, and said to
/// be.
pub const KEYS_MAX: usize = 200_000;

/// Looks before a verdict.
const LOOKS: u32 = 5;

/// Looks before a verdict on a chunk of many rows, each of which reads all of them.
const LOOKS_AT_MANY: u32 = 2;

/// So many keys are asked for one by one; for more, the whole chunk is read.
const KEYS_ASKED: usize = 1000;

/// The pause before a look of so many, from 1: each twice the one before, all of them the patience.
fn pause(patience: Duration, look: u32, looks: u32) -> Duration {
    patience / (1 << (looks - look.max(2) + 1))
}

/// What a reading left of a key: the hashes of the rows that had no equal on the other side, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Neither equal nor standing still.
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

/// A key that differed in the reading before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    left: Left,
    /// Its leading column, once a row of it has been seen, if that is an integer.
    leading: Option<i128>,
}

/// The keys of a chunk that differed.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The chunk.
    pub chunk: Chunk,
    keys: HashMap<u128, Watched>,
    looks: u32,
}

/// What is to be shown of what differs.
pub struct Wanted<'a> {
    /// So many more keys of the table are to be listed.
    pub list: usize,
    /// The SQL in which every key is to be mended.
    pub repair: Option<&'a Dialect>,
}

/// What a last look found.
pub type Verdict = (Counts, Vec<Difference>);

impl Suspect {
    /// The keys that the first reading left.
    pub fn new(chunk: Chunk, keys: HashMap<u128, Left>) -> Self {
        let keys = keys.into_iter().map(|(key, left)| (key, Watched { left, leading: None })).collect();
        Suspect { chunk, keys, looks: 0 }
    }

    /// The pause before the next look.
    pub fn pause(&self, patience: Duration) -> Duration {
        pause(patience, self.looks + 1, self.looks_in_all())
    }

    fn looks_in_all(&self) -> u32 {
        if self.chunk.many_rows { LOOKS_AT_MANY } else { LOOKS }
    }

    /// How many keys still differ.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Looks once more; after the last look, or when no key differs any more, there is a verdict.
    ///
    /// # Errors
    /// What either side says.
    pub fn look(&mut self, pair: &mut Pair, wanted: &Wanted) -> Result<Option<Verdict>, VerifyError> {
        self.looks += 1;
        let last = self.looks == self.looks_in_all();
        let plan = &self.chunk.plan;
        let shown = if last && wanted.repair.is_none() { wanted.list } else { usize::MAX };
        let keep: HashMap<u128, bool> =
            self.keys.keys().enumerate().map(|(n, key)| (*key, last && n < shown)).collect();
        let sink = |target: bool| {
            let keep = &keep;
            move |rules| LookSink {
                keep,
                hasher: Hasher::new(plan, rules, target),
                row: Row::default(),
                found: HashMap::new(),
                rules,
            }
        };
        let (source, target) = pair.read(plan, &self.scope(), sink(false), sink(true))?;
        let rules = source.rules;
        let (mut source, mut target) = (source.found, target.found);
        let mut verdict = Verdict::default();
        self.keys.retain(|key, watched| {
            let found = Found {
                source: source.remove(key).unwrap_or_default(),
                target: target.remove(key).unwrap_or_default(),
            };
            let now = found.left();
            if now == Left::default() || found.equal_within_precision(plan, rules) {
                return false;
            }
            if last {
                let kind = if now == watched.left { now.kind() } else { Kind::Undecided };
                verdict.0.add(kind);
                if keep[key] {
                    verdict.1.extend(found.difference(kind, plan, rules, wanted.repair));
                }
            }
            *watched = Watched { left: now, leading: found.leading() };
            true
        });
        Ok((last || self.keys.is_empty()).then_some(verdict))
    }

    fn scope(&self) -> Keys {
        let few = self.chunk.plan.ranges && self.keys.len() <= KEYS_ASKED;
        let leading: Option<Vec<i128>> = self.keys.values().map(|watched| watched.leading).collect();
        match leading.filter(|_| few) {
            Some(mut keys) => {
                keys.sort_unstable();
                keys.dedup();
                Keys::Leading(keys)
            }
            None => Keys::Range(self.chunk.range),
        }
    }
}

/// A row that was looked for.
struct FoundRow {
    hash: u128,
    leading: Option<i128>,
    /// Its values, if they are wanted.
    values: Option<Row>,
}

/// The rows of one key.
#[derive(Default)]
struct Found {
    source: Vec<FoundRow>,
    target: Vec<FoundRow>,
}

impl Found {
    /// What is left of the key in this reading.
    fn left(&self) -> Left {
        let mut hashes: HashMap<u128, i64> = HashMap::new();
        self.source.iter().for_each(|row| *hashes.entry(row.hash).or_default() += 1);
        self.target.iter().for_each(|row| *hashes.entry(row.hash).or_default() -= 1);
        let mut left = Left::default();
        hashes.iter().filter(|(_, diff)| **diff != 0).for_each(|(hash, diff)| left.add(*hash, *diff));
        left
    }

    fn leading(&self) -> Option<i128> {
        self.source.iter().chain(&self.target).next()?.leading
    }

    fn equal_within_precision(&self, plan: &TablePlan, rules: Rules) -> bool {
        match (&self.source[..], &self.target[..]) {
            ([FoundRow { values: Some(source), .. }], [FoundRow { values: Some(target), .. }]) => {
                rules.instants_in_ms && columns(plan, source, target, rules).is_empty()
            }
            _ => false,
        }
    }

    fn difference(&self, kind: Kind, plan: &TablePlan, rules: Rules, repair: Option<&Dialect>) -> Option<Difference> {
        let source = self.source.first().and_then(|row| row.values.as_ref());
        // A target without constraints may hold several rows of a key: show one that differs.
        let differs = |row: &&FoundRow| !self.source.iter().any(|other| other.hash == row.hash);
        let target = self.target.iter().find(differs).or(self.target.first()).and_then(|row| row.values.as_ref());
        let row = source.or(target)?;
        let key = plan
            .key
            .iter()
            .map(|&column| &plan.columns[column])
            .zip(plan.key.iter().map(|&column| row.get(column)))
            .map(|(column, value)| (column.name.clone(), value.show_in(column.ty).unwrap_or_default()))
            .collect();
        let columns = match (source, target) {
            (Some(source), Some(target)) => columns(plan, source, target, rules),
            _ => Vec::new(),
        };
        let targets: Vec<&Row> = self.target.iter().filter_map(|row| row.values.as_ref()).collect();
        let repair = match kind {
            Kind::Undecided => None,
            _ => repair.map(|dialect| dialect.mend(plan, source, &targets)),
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

/// The columns that differ.
fn columns(plan: &TablePlan, source: &Row, target: &Row, rules: Rules) -> Vec<ColumnDifference> {
    let mut differing = Vec::new();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (index, column) in plan.columns.iter().enumerate() {
        let (at_source, at_target) = (source.get(index), target.get(index));
        a.clear();
        b.clear();
        canonical_at(false, column, at_source, rules, &mut a);
        canonical_at(true, column, at_target, rules, &mut b);
        if a != b && !same_within_precision(column.ty, at_source, at_target, rules) {
            let (source, target) = (at_source.show_in(column.ty), at_target.show_in(column.ty));
            differing.push(ColumnDifference { name: column.name.clone(), source, target });
        }
    }
    differing
}

/// Keeps the rows of the keys that are looked for, with their values where the map says so.
struct LookSink<'a> {
    keep: &'a HashMap<u128, bool>,
    hasher: Hasher,
    row: Row,
    found: HashMap<u128, Vec<FoundRow>>,
    rules: Rules,
}

impl RowSink for LookSink<'_> {
    fn value(&mut self, value: super::Value) {
        self.hasher.value(value);
        self.row.push(value);
    }

    fn end(&mut self) -> Result<(), VerifyError> {
        let leading = self.hasher.leading();
        let Record { key, row } = self.hasher.end();
        if let Some(keep) = self.keep.get(&key) {
            let leading = self.row.get(leading).integer();
            // Whether a difference is one of precision only shows in the values.
            let keep = *keep || self.rules.instants_in_ms;
            let values = keep.then(|| self.row.clone());
            self.found.entry(key).or_default().push(FoundRow { hash: row, leading, values });
        }
        self.row.clear();
        Ok(())
    }
}

impl ChunkSink for LookSink<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_patience() {
        let patience = Duration::from_secs(16);
        let pauses = |looks| (1..=looks).map(|look| pause(patience, look, looks).as_secs()).collect::<Vec<_>>();
        assert_eq!((pauses(5), pauses(2)), (vec![1, 1, 2, 4, 8], vec![8, 8]));
    }
}
