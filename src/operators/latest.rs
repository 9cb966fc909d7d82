//! Latest: no key ever goes back to an older value.
//!
//! Where completeness is guessed, a record may come after its epoch, in a later one that is still open. It is applied
//! there only if nothing newer of its key has gone by; else it is *superseded* and dropped. The operator stands behind the
//! gate, where the epochs of a key come in order, and remembers the newest version of each key that has gone by.
//!
//! It forgets what is older than any record may still be. That is told by each source's own time: how late a record may
//! come is judged by what its source (a partition) had before it, so a key is remembered until its source has moved on so
//! far, however far others have, and for however long it says nothing. What has gone by in earlier epochs was read before
//! whatever comes now, and only that counts. All versions of a key come from one source.

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
    /// The source of record `index`, and its time there.
    fn origin(&self, index: usize) -> (u32, u64);
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
    fn origin(&self, index: usize) -> (u32, u64) {
        let head = self.head(index);
        (head.partition, head.time)
    }
}

/// Keys with their times, from one source: a newer version has the higher time.
impl Versioned for Vec<(u64, u64)> {
    type Version = u64;
    fn key_id(&self, index: usize) -> u128 {
        u128::from(self[index].0)
    }
    fn version(&self, index: usize) -> u64 {
        self[index].1
    }
    fn origin(&self, index: usize) -> (u32, u64) {
        (0, self[index].1)
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

type Known<V> = HashMap<u128, Gone<V>, BuildHasherDefault<AsItIs>>;

/// What has gone by of a key.
#[derive(Clone, Copy, Debug)]
struct Gone<V> {
    version: V,
    source: u32,
    time: u64,
}

/// At least so many keys are remembered before any are forgotten.
const KNOWN_MIN: usize = 1024;

/// The newest version of each key that has gone by: the logic of [`Latest::latest`] without the dataflow.
#[derive(Debug)]
pub struct Newest<V> {
    horizon: u64,
    known: Known<V>,
    /// How many there were when some were forgotten last.
    kept: usize,
    epoch: u64,
    /// The newest time of each source in the epochs before.
    reached: HashMap<u32, u64>,
    /// The same with this epoch.
    reaches: HashMap<u32, u64>,
}

impl<V: Copy + Ord> Newest<V> {
    /// Knows nothing yet; remembers a key until its source is more than `horizon` ahead of it.
    pub fn new(horizon: u64) -> Self {
        let (reached, reaches) = (HashMap::new(), HashMap::new());
        Newest { horizon, known: Known::default(), kept: 0, epoch: 0, reached, reaches }
    }

    /// Whether a version that comes in `epoch` is newer than all of its key that have gone by. Epochs never decrease.
    pub fn admits(&mut self, epoch: u64, key: u128, version: V, (source, time): (u32, u64)) -> bool {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.reached.clone_from(&self.reaches);
            // Only now and then: a look at all that is known costs as much as taking it in.
            if self.known.len() >= KNOWN_MIN.max(2 * self.kept) {
                self.forget();
            }
        }
        let reaches = self.reaches.entry(source).or_default();
        *reaches = time.max(*reaches);
        match self.known.get_mut(&key) {
            Some(newest) if newest.version >= version => false,
            Some(newest) => {
                *newest = Gone { version, source, time };
                true
            }
            None => {
                self.known.insert(key, Gone { version, source, time });
                true
            }
        }
    }

    /// Forgets what nothing older may come of.
    pub(crate) fn forget(&mut self) {
        let (horizon, reached) = (self.horizon, &self.reached);
        let floor = |source: &u32| reached.get(source).map_or(0, |reached| reached.saturating_sub(horizon));
        self.known.retain(|_, gone| gone.time >= floor(&gone.source));
        self.kept = self.known.len();
    }
}

/// Drops what is older than what has gone by.
pub trait Latest: Sized {
    /// The records that are newer than all of their key before them. Batches must come in the order of times, a key
    /// always on one worker, and the records of a key in a batch oldest first, as a [`gate`](super::Gate) emits them. A
    /// key is remembered until its source is more than `horizon` ahead of it. `superseded` is told how many records of a batch are dropped.
    ///
    /// ```
    /// use timely::dataflow::operators::{Input, Inspect};
    /// use tidegate::operators::Latest;
    /// timely::execute_directly(|worker| {
    ///     let mut input = worker.dataflow::<u64, _, _>(|scope| {
    ///         let (input, stream) = scope.new_input::<Vec<(u64, u64)>>();
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
                        .filter(|&index| {
                            newest.admits(epoch, batch.key_id(index), batch.version(index), batch.origin(index))
                        })
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
        /// Of any sources that stall, run ahead and are out of order by up to the horizon.
        #[test]
        fn a_version_is_admitted_exactly_if_it_is_the_newest_of_its_key_so_far(
            steps in proptest::collection::vec((0u32..3, 0u64..3, 0u64..40, 0u64..40, 0u64..2), 1..300), horizon in 1u64..20,
        ) {
            let mut newest = Newest::new(horizon);
            let mut oracle: BTreeMap<u128, u64> = BTreeMap::new();
            let mut reached = [0; 3];
            let mut epoch = 0;
            for (source, key, ahead, behind, pause) in steps {
                epoch += pause;
                let key = u128::from(u64::from(source) * 3 + key);
                let time = (reached[source as usize] + ahead).saturating_sub(behind);
                if time + horizon < reached[source as usize] {
                    continue; // it would be a dead letter
                }
                reached[source as usize] = time.max(reached[source as usize]);
                newest.forget();
                let admitted = newest.admits(epoch, key, time, (source, time));
                prop_assert_eq!(admitted, oracle.get(&key).is_none_or(|known| *known < time));
                oracle.entry(key).and_modify(|known| *known = time.max(*known)).or_insert(time);
            }
        }
    }

    #[test]
    fn what_is_older_than_the_horizon_is_forgotten() {
        let mut newest = Newest::new(5);
        for time in 0..10_000 {
            assert!(newest.admits(time, u128::from(time), time, (0, time)));
            assert!(newest.known.len() <= KNOWN_MIN + 1, "{}", newest.known.len());
        }
    }
}
