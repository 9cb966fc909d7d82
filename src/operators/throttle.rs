//! Back-pressure by probe: how much may be between the source and what is durable.
//!
//! Timely's queues have no bound, so the source has to hold itself back. It writes down what it lets in, by time, and
//! crosses off what the durable frontier has passed. A probe wakes nobody: whoever is refused asks again after a pause.

use std::collections::BTreeMap;

use timely::dataflow::operators::probe::Handle;
use timely::progress::Timestamp;

use super::gate::InEpoch;

/// Limits on what is in flight.
///
/// ```
/// use tidegate::operators::Throttle;
/// let durable = timely::dataflow::operators::probe::Handle::<u64>::new();
/// let mut throttle = Throttle::new(durable, 1000, 8);
/// throttle.charge(0, 5000);
/// // A handle that probes nothing has passed every time: nothing is in flight any more.
/// assert!(throttle.admits(&1));
/// ```
#[derive(Debug)]
pub struct Throttle<T: Timestamp> {
    durable: Handle<T>,
    bytes_max: usize,
    epochs_max: usize,
    in_flight: BTreeMap<T, usize>,
    /// Of each epoch in flight how many times are, and their bytes.
    epochs: BTreeMap<u64, (usize, usize)>,
    bytes: usize,
}

impl<T: InEpoch> Throttle<T> {
    /// At most about `bytes_max` bytes and `epochs_max` epochs may be beyond what `durable` has passed.
    pub fn new(durable: Handle<T>, bytes_max: usize, epochs_max: usize) -> Self {
        assert!(bytes_max > 0 && epochs_max > 0, "a limit of zero would let nothing in");
        Throttle { durable, bytes_max, epochs_max, in_flight: BTreeMap::new(), epochs: BTreeMap::new(), bytes: 0 }
    }

    /// Writes down that `bytes` at `time` have been let in.
    pub fn charge(&mut self, time: T, bytes: usize) {
        let epoch = time.epoch();
        let (times, epoch_bytes) = self.epochs.entry(epoch).or_default();
        let charged = self.in_flight.entry(time).or_insert_with(|| {
            *times += 1;
            0
        });
        *charged += bytes;
        *epoch_bytes += bytes;
        self.bytes += bytes;
    }

    /// Whether more may be let in by a source that holds the capability for `open`.
    ///
    /// Beyond the limits the answer is still yes when everything before `open` is durable: then nothing but more input
    /// can close the epoch that is open, and to refuse it would be to wait for ever.
    pub fn admits(&mut self, open: &T) -> bool {
        while let Some(first) = self.in_flight.first_entry()
            && !self.durable.less_equal(first.key())
        {
            let (epoch, bytes) = (first.key().epoch(), first.remove());
            let (times, epoch_bytes) = self.epochs.get_mut(&epoch).expect("counted when it was charged");
            *times -= 1;
            *epoch_bytes -= bytes;
            self.bytes -= bytes;
            if *times == 0 {
                self.epochs.remove(&epoch);
            }
        }
        let within = self.bytes < self.bytes_max && self.epochs.len() <= self.epochs_max;
        within || !self.durable.less_than(open)
    }

    /// Whether the epoch of `open` alone is more than may be in flight: then to wait for its end would be to wait for ever. All
    /// else becomes durable by itself.
    pub fn is_too_large(&self, open: &T) -> bool {
        self.epochs.get(&open.epoch()).is_some_and(|(_, bytes)| *bytes >= self.bytes_max)
    }

    /// Bytes in flight when last asked.
    pub fn bytes_in_flight(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::dataflow::operators::{Input, Probe};

    #[test]
    fn over_the_limit_it_waits_for_durability_but_never_for_itself() {
        timely::execute_directly(|worker| {
            let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<u64>>();
                let (probe, _) = stream.probe();
                (input, probe)
            });
            let settle = |worker: &mut timely::worker::Worker| {
                for _ in 0..10 {
                    worker.step();
                }
            };
            settle(worker);
            let mut throttle = Throttle::new(probe, 100, 2);
            assert!(throttle.admits(&0));
            throttle.charge(0, 150);
            assert!(throttle.admits(&0), "time 0 is open: only more input closes it");
            assert!(!throttle.admits(&1), "time 0 is closed and not durable: wait");
            input.advance_to(1);
            settle(worker);
            assert!(throttle.admits(&1), "time 0 is durable now");
            assert_eq!(throttle.bytes_in_flight(), 0);
            for time in 1..4 {
                throttle.charge(time, 1);
            }
            assert!(!throttle.admits(&4), "three times in flight, two allowed");
        });
    }
}
