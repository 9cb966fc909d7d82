//! Latest: no key ever goes back to an older value.
//!
//! Where completeness is guessed, a record may come after its epoch, in a later one that is still open. It is applied
//! there only if nothing newer of its key has gone by; else it is *superseded* and dropped. The operator stands behind the
//! gate, where the epochs of a key come in order, and remembers the newest version of each key that has gone by. It may
//! forget what is older than any record may still be: two maps take turns, and the older one is dropped when the younger
//! has lasted for the horizon.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::batch::Batch;
use super::gate::InEpoch;
use crate::change::Changes;

/// A batch whose records are versions of keys.
pub trait Versioned: Batch {
    /// What a newer record of the same key has more of.
    type Version: Copy + Ord + 'static;
    /// A number of the key of record `index`; equal for equal keys, and different for different ones but for chances that
    /// don't occur.
    fn key_id(&self, index: usize) -> u128;
    /// The version of record `index`.
    fn version(&self, index: usize) -> Self::Version;
}

impl Versioned for Changes {
    type Version = (u64, u64, u32);
    fn key_id(&self, index: usize) -> u128 {
        let change = self.change(index);
        xxh3_128_with_seed(change.key(), change.head.table_hash)
    }
    fn version(&self, index: usize) -> Self::Version {
        self.head(index).version()
    }
}

impl<V: Copy + Ord + 'static> Versioned for Vec<(u64, V)> {
    type Version = V;
    fn key_id(&self, index: usize) -> u128 {
        u128::from(self[index].0)
    }
    fn version(&self, index: usize) -> V {
        self[index].1
    }
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only u128 keys are hashed")
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

type Known<V> = HashMap<u128, V, BuildHasherDefault<AsItIs>>;

/// The newest version of each key that has gone by: the logic of [`Latest::latest`] without the dataflow.
#[derive(Debug)]
pub struct Newest<V> {
    horizon: u64,
    young: Known<V>,
    old: Known<V>,
    since: u64,
}

impl<V: Copy + Ord> Newest<V> {
    /// Knows nothing yet; remembers a key for at least `horizon` epochs.
    pub fn new(horizon: u64) -> Self {
        Newest { horizon, young: Known::default(), old: Known::default(), since: 0 }
    }

    /// Whether a version that comes in `epoch` is newer than all of its key that have gone by. Epochs never decrease.
    pub fn admits(&mut self, epoch: u64, key: u128, version: V) -> bool {
        if epoch.saturating_sub(self.since) > self.horizon {
            self.since = epoch;
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.young.get(&key).or_else(|| self.old.get(&key));
        let admitted = known.is_none_or(|newest| *newest < version);
        let newest = if admitted { version } else { *known.expect("something newer is known") };
        self.young.insert(key, newest);
        admitted
    }
}

/// Drops what is older than what has gone by.
pub trait Latest: Sized {
    /// The records that are newer than all of their key before them. Batches must come in the order of times, a key
    /// always on one worker, and the records of a key in a batch oldest first, as a [`gate`](super::Gate) emits them. A
    /// key is remembered for at least `horizon` epochs. `superseded` is told how many records of a batch are dropped.
    ///
    /// ```
    /// use timely::dataflow::operators::{Input, Inspect};
    /// use tidegate::operators::Latest;
    /// timely::execute_directly(|worker| {
    ///     let mut input = worker.dataflow::<u64, _, _>(|scope| {
    ///         let (input, stream) = scope.new_input::<Vec<(u64, u32)>>();
    ///         stream.latest(10, |dropped| assert_eq!(dropped, 1)).inspect(|record| assert_ne!(*record, (7, 1)));
    ///         input
    ///     });
    ///     input.send((7, 2));
    ///     input.advance_to(1);
    ///     worker.step();
    ///     input.send((7, 1)); // late, and something newer is there
    ///     input.send((8, 1));
    /// });
    /// ```
    fn latest(self, horizon: u64, superseded: impl FnMut(usize) + 'static) -> Self;
}

impl<'scope, T: InEpoch, B: Versioned> Latest for Stream<'scope, T, B> {
    fn latest(self, horizon: u64, mut superseded: impl FnMut(usize) + 'static) -> Self {
        self.unary::<NoopBuilder<B>, _, _, _>(Pipeline, "Latest", |_, _| {
            let mut newest = Newest::new(horizon);
            move |input, output| {
                input.for_each(|cap, batch| {
                    let epoch = cap.least().expect("records carry a time").epoch();
                    let admitted: Vec<usize> = (0..batch.len())
                        .filter(|&index| newest.admits(epoch, batch.key_id(index), batch.version(index)))
                        .collect();
                    let dropped = batch.len() - admitted.len();
                    if dropped > 0 {
                        superseded(dropped);
                        let mut fresh = B::default();
                        admitted.iter().for_each(|&index| fresh.push_from(batch, index));
                        *batch = fresh;
                    }
                    output.session_with_builder(&cap).give_container(batch);
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn within_the_horizon_a_version_is_admitted_if_it_is_the_newest_so_far(
            records in proptest::collection::vec((0u64..3, 0u64..6, 0u32..40), 1..200), horizon in 1u64..20,
        ) {
            let mut newest = Newest::new(horizon);
            let mut oracle: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
            let mut time = 0;
            for (pause, key, version) in records {
                time += pause;
                let admitted = newest.admits(time, u128::from(key), version);
                match oracle.get(&key) {
                    Some((_, known)) if *known < version => prop_assert!(admitted),
                    Some((at, _)) if time - at <= horizon => prop_assert!(!admitted),
                    Some(_) => {} // it may have been forgotten
                    None => prop_assert!(admitted),
                }
                if admitted || oracle.get(&key).is_some_and(|(_, known)| *known >= version) {
                    let known = oracle.get(&key).map_or(version, |(_, known)| *known);
                    oracle.insert(key, (time, if admitted { version } else { known }));
                }
            }
        }
    }

    #[test]
    fn what_is_older_than_the_horizon_is_forgotten() {
        let mut newest = Newest::new(5);
        for time in 0..100 {
            assert!(newest.admits(time, u128::from(time), 0));
            assert!(newest.young.len() + newest.old.len() <= 14);
        }
    }
}
