//! Net change: what an epoch does to one key in the end.
//!
//! A sorted batch holds the changes of a key together, oldest first. Only the last of them matters for what the row is;
//! the first one tells whether the key was there before. So each run becomes one change:
//!
//! | first | last | net |
//! |---|---|---|
//! | insert | insert or update | insert of the last row |
//! | update or delete | insert or update | update to the last row |
//! | any | delete | delete |
//!
//! An insert followed by a delete is a delete, not nothing: where the target is not atomic, a step that failed half way
//! may have left the row, and the larger step that repairs it must take it away.
//!
//! A change that goes under in a net change is implied by it: whoever keeps account of what has been done finds the newer one
//! of the same log. Where the two are of different logs (the partitions of a topic that has got more of them), what goes
//! under is kept without its payload, as a *mark* that says so. What was left out before may come as a mark, too.
//!
//! Because a key has one net change, the inserts, updates and deletes of an epoch touch disjoint keys and can be applied
//! in any order, by different statements.

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Timestamp;

use super::batch::{Batch, same_key};
use crate::change::{Changes, Op};

/// A batch whose records are changes of keys.
pub trait Netted: Batch {
    /// Whether two records are of the same key.
    fn same_key(&self, left: usize, right: usize) -> bool;
    /// What a record does to its key.
    fn op(&self, index: usize) -> Op;
    /// Appends record `index` of `from`, with what it does replaced by `op`.
    fn push_net(&mut self, from: &Self, index: usize, op: Op);
    /// Whether who knows that record `newer` has been done knows it of `older`.
    fn implies(&self, newer: usize, older: usize) -> bool;
    /// Appends a mark that record `index` of `from` has gone under.
    fn push_mark(&mut self, from: &Self, index: usize);
}

impl Netted for Changes {
    #[inline]
    fn same_key(&self, left: usize, right: usize) -> bool {
        same_key(self, left, right)
    }
    #[inline]
    fn op(&self, index: usize) -> Op {
        self.head(index).op()
    }
    #[inline]
    fn push_net(&mut self, from: &Self, index: usize, op: Op) {
        let (head, payload) = from.get(index);
        let mut head = *head;
        head.set_op(op);
        self.push(head, payload);
    }
    #[inline]
    fn implies(&self, newer: usize, older: usize) -> bool {
        self.head(newer).partition == self.head(older).partition
    }
    fn push_mark(&mut self, from: &Self, index: usize) {
        self.push(from.head(index).as_mark(), b"");
    }
}

impl<K: Eq + Clone + 'static, V: Clone + 'static> Netted for Vec<(K, Op, V)> {
    fn same_key(&self, left: usize, right: usize) -> bool {
        self[left].0 == self[right].0
    }
    fn op(&self, index: usize) -> Op {
        self[index].1
    }
    fn push_net(&mut self, from: &Self, index: usize, op: Op) {
        let (key, _, value) = &from[index];
        self.push((key.clone(), op, value.clone()));
    }
    fn implies(&self, _newer: usize, _older: usize) -> bool {
        true
    }
    fn push_mark(&mut self, _from: &Self, _index: usize) {}
}

/// Reduces batches to one change per key.
pub trait Net {
    /// One net change per key and batch. Each batch must hold the changes of a key together, oldest first, as a
    /// [`gate`](super::Gate) emits them.
    ///
    /// ```
    /// use timely::dataflow::operators::{Inspect, ToStream};
    /// use tidegate::change::Op;
    /// use tidegate::operators::Net;
    /// timely::example(|scope| {
    ///     vec![("a", Op::Delete, 1), ("a", Op::Insert, 2), ("b", Op::Insert, 3)]
    ///         .to_stream(scope)
    ///         .container::<Vec<_>>()
    ///         .net()
    ///         .inspect_core(|event| {
    ///             if let Ok((_, batch)) = event {
    ///                 assert_eq!(batch, &vec![("a", Op::Update, 2), ("b", Op::Insert, 3)]);
    ///             }
    ///         });
    /// });
    /// ```
    fn net(self) -> Self;
}

impl<'scope, T: Timestamp, B: Netted> Net for Stream<'scope, T, B> {
    fn net(self) -> Self {
        self.unary::<NoopBuilder<B>, _, _, _>(Pipeline, "Net", |_, _| {
            |input, output| {
                input.for_each(|cap, batch| {
                    let mut net = net_of(batch);
                    output.session_with_builder(&cap).give_container(&mut net);
                });
            }
        })
    }
}

/// The net changes of a batch that holds the changes of a key together, oldest first.
pub fn net_of<B: Netted>(batch: &B) -> B {
    let mut net = B::default();
    let mut first = 0;
    while first < batch.len() {
        let mut last = first;
        while last + 1 < batch.len() && batch.same_key(first, last + 1) {
            last += 1;
        }
        let op = match (batch.op(first), batch.op(last)) {
            (_, Op::Delete) => Op::Delete,
            (_, Op::Mark) => Op::Mark,
            (Op::Insert, _) => Op::Insert,
            _ => Op::Update,
        };
        (first..last).filter(|&older| !batch.implies(last, older)).for_each(|older| net.push_mark(batch, older));
        net.push_net(batch, last, op);
        first = last + 1;
    }
    net
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn applying_the_net_changes_equals_applying_every_change(
            steps in proptest::collection::vec((0u8..6, any::<bool>(), any::<u32>()), 0..80),
            before in proptest::collection::btree_map(0u8..6, any::<u32>(), 0..6),
        ) {
            // A possible history: what a key allows next depends on whether it is there.
            let mut oracle = before.clone();
            let mut changes = Vec::new();
            for (key, delete, value) in steps {
                let op = match (oracle.contains_key(&key), delete) {
                    (true, true) => Op::Delete,
                    (true, false) => Op::Update,
                    (false, _) => Op::Insert,
                };
                if op == Op::Delete { oracle.remove(&key); } else { oracle.insert(key, value); }
                changes.push((key, op, value));
            }
            changes.sort_by_key(|(key, _, _)| *key); // stable: the oldest of a key first
            let net = net_of(&changes);
            let mut keys: Vec<u8> = net.iter().map(|(key, _, _)| *key).collect();
            keys.dedup();
            prop_assert_eq!(keys.len(), net.len(), "a key has one net change");
            // In any order: deletes last here, first in the next line's map.
            let mut target: BTreeMap<u8, u32> = before.clone();
            for (key, op, value) in &net {
                match op {
                    Op::Insert => prop_assert!(!before.contains_key(key)),
                    Op::Update => prop_assert!(before.contains_key(key)),
                    _ => {}
                }
                if *op == Op::Delete { target.remove(key); } else { target.insert(*key, *value); }
            }
            prop_assert_eq!(target, oracle);
        }
    }
}
