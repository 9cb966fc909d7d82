//! What the operators ask of a batch, and how batches are put in order.
//!
//! Records are named by index, so that one trait serves vectors of values and [`Rows`] of bytes. Sorting moves no record:
//! it sorts small entries that carry a prefix of the sort key, and gathers the records once, in order, at the end.

use std::cmp::Ordering;

use timely::Container;

use crate::change::{Change, Changes, Op, Rows};

/// A container whose records can be named by index and gathered into another one.
pub trait Batch: Container {
    /// The number of records.
    fn len(&self) -> usize;

    /// Whether there is no record.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends record `index` of `from`.
    fn push_from(&mut self, from: &Self, index: usize);

    /// About what the batch occupies in memory, in bytes.
    fn memory_bytes(&self) -> usize;

    /// An empty batch with room for what is in `batches`.
    fn with_room_for(batches: &[Self]) -> Self;
}

impl<T: Clone + 'static> Batch for Vec<T> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn push_from(&mut self, from: &Self, index: usize) {
        self.push(from[index].clone());
    }
    fn memory_bytes(&self) -> usize {
        Vec::len(self) * size_of::<T>()
    }
    fn with_room_for(batches: &[Self]) -> Self {
        Vec::with_capacity(batches.iter().map(Vec::len).sum())
    }
}

impl<H: bytemuck::Pod> Batch for Rows<H> {
    fn len(&self) -> usize {
        Rows::len(self)
    }
    #[inline]
    fn push_from(&mut self, from: &Self, index: usize) {
        let (head, payload) = from.get(index);
        self.push(*head, payload);
    }
    fn memory_bytes(&self) -> usize {
        Rows::memory_bytes(self)
    }
    fn with_room_for(batches: &[Self]) -> Self {
        Rows::with_capacity(batches.iter().map(Rows::len).sum(), batches.iter().map(Rows::payload_bytes).sum())
    }
}

/// A total order of the records of a batch: first by prefix, then by comparing.
pub trait Order<B>: 'static {
    /// A number such that records with different numbers are ordered by them.
    fn prefix(&self, batch: &B, index: usize) -> u128;

    /// The order of two records with the same prefix.
    fn compare(&self, left: (&B, usize), right: (&B, usize)) -> Ordering;
}

/// The order of the values of a vector by `Ord`.
#[derive(Clone, Copy, Debug)]
pub struct Natural;

impl<T: Ord> Order<Vec<T>> for Natural {
    fn prefix(&self, _batch: &Vec<T>, _index: usize) -> u128 {
        0
    }
    fn compare(&self, left: (&Vec<T>, usize), right: (&Vec<T>, usize)) -> Ordering {
        left.0[left.1].cmp(&right.0[right.1])
    }
}

/// Changes by table, key, seq: all changes of a key stand together, oldest first. What [`net`](super::Net::net) needs.
#[derive(Clone, Copy, Debug)]
pub struct ByKey;

impl Order<Changes> for ByKey {
    /// The table's hash and the first eight bytes of the key. Two tables with one hash are told apart by `compare`;
    /// their keys interleave then, but the changes of one key still stand together.
    fn prefix(&self, batch: &Changes, index: usize) -> u128 {
        let change = batch.change(index);
        let key = change.key();
        let mut first = [0; 8];
        let len = key.len().min(8);
        first[..len].copy_from_slice(&key[..len]);
        u128::from(change.head.table_hash) << 64 | u128::from(u64::from_be_bytes(first))
    }
    fn compare(&self, left: (&Changes, usize), right: (&Changes, usize)) -> Ordering {
        left.0.change(left.1).cmp_by_key(&right.0.change(right.1))
    }
}

/// Changes by partition, then seq: the order in which they are written. Marks come last.
#[derive(Clone, Copy, Debug)]
pub struct BySeq;

impl Order<Changes> for BySeq {
    fn prefix(&self, batch: &Changes, index: usize) -> u128 {
        let head = batch.head(index);
        let mark = u128::from(head.op() == Op::Mark);
        mark << 96 | u128::from(head.partition) << 64 | u128::from(head.seq)
    }
    fn compare(&self, _left: (&Changes, usize), _right: (&Changes, usize)) -> Ordering {
        Ordering::Equal // a seq is one change
    }
}

#[derive(Clone, Copy)]
struct Entry {
    prefix: u128,
    batch: u32,
    index: u32,
}

/// All records of `batches` as one batch, in order; records that are equal in it in the order in which they came, as marks of one seq have
/// to be.
///
/// ```
/// use tidegate::operators::{Natural, merge_sorted};
/// assert_eq!(merge_sorted(&[vec![3, 1], vec![2]], &Natural), vec![1, 2, 3]);
/// ```
pub fn merge_sorted<B: Batch>(batches: &[B], order: &impl Order<B>) -> B {
    let mut entries = Vec::with_capacity(batches.iter().map(Batch::len).sum());
    for (number, batch) in batches.iter().enumerate() {
        for index in 0..batch.len() {
            entries.push(Entry { prefix: order.prefix(batch, index), batch: number as u32, index: index as u32 });
        }
    }
    let at = |entry: &Entry| (&batches[entry.batch as usize], entry.index as usize);
    // A stable sort finds the runs that are there already: a partition's records come in order.
    entries.sort_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| order.compare(at(a), at(b))));
    let mut sorted = B::with_room_for(batches);
    for entry in &entries {
        let (batch, index) = at(entry);
        sorted.push_from(batch, index);
    }
    sorted
}

/// Whether two records of a batch of changes are of one key.
pub(super) fn same_key(batch: &Changes, left: usize, right: usize) -> bool {
    let change = |index| -> Change<'_> { batch.change(index) };
    change(left).same_key(&change(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::NewChange;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn changes_of_one_key_stand_together_oldest_first(
            keys in proptest::collection::vec(("[ab]{0,10}", 0..3u8), 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..4),
        ) {
            let mut batches = vec![Changes::default()];
            for (seq, (key, table)) in keys.iter().enumerate() {
                if cuts.contains(&seq) {
                    batches.push(Changes::default());
                }
                batches.last_mut().unwrap().push_change(&NewChange {
                    op: Op::Insert,
                    seq: seq as u64,
                    time: 0,
                    database: "d",
                    table: ["t", "tt", "u"][usize::from(*table)],
                    key: key.as_bytes(),
                    position: b"",
                    before: b"",
                    row: b"{}",
                });
            }
            batches.reverse(); // whatever the arrival order
            let sorted = merge_sorted(&batches, &ByKey);
            prop_assert_eq!(sorted.len(), keys.len());
            let mut seen = std::collections::HashSet::new();
            for index in 0..sorted.len() {
                let change = sorted.change(index);
                if index > 0 && same_key(&sorted, index - 1, index) {
                    prop_assert!(sorted.head(index - 1).seq < change.head.seq);
                } else {
                    prop_assert!(seen.insert((change.table().to_string(), change.key().to_vec())), "a key came twice");
                }
            }
        }
    }
}
