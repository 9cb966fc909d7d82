//! The settler: event time for topics that carry no statements.
//!
//! Where a publisher states what is complete, nothing is guessed. Topics that something else wrote have only record times,
//! so here, and only here, completeness is guessed as stream processors do (bounded out-of-orderness, Flink's
//! `BoundedOutOfOrdernessWatermarks`): of each partition, everything older than its newest time less a bound counts as
//! seen; the watermark is the least of that over the partitions. A partition without records for a while is left out, so
//! that an idle partition holds nothing up; when all are idle, everything seen counts as complete, so that the last
//! change becomes visible without another one. A record older than the watermark is *late*: it goes to a stream of its
//! own, never silently back in time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::epoch_of;

/// How completeness is guessed.
#[derive(Clone, Copy, Debug)]
pub struct SettlePolicy {
    /// How far a record may come behind a newer one of its partition.
    pub out_of_orderness: Duration,
    /// A partition without records for so long is left out.
    pub idle_timeout: Duration,
    /// The length of an epoch.
    pub epoch: Duration,
}

/// Whether a record came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its epoch is still open.
    OnTime,
    /// Its epoch was declared complete before it came.
    Late,
}

#[derive(Clone, Copy, Debug)]
struct Partition {
    /// None before the first record.
    newest_ms: Option<u64>,
    /// When it was last known to have records; `None`: it is left out until it is known to have some.
    seen_at_ms: Option<u64>,
}

impl Partition {
    /// One from which nothing has come at `now_ms`.
    fn new(now_ms: u64) -> Self {
        Partition { newest_ms: None, seen_at_ms: Some(now_ms) }
    }

    /// The first epoch that it, for its part, leaves open.
    fn epoch(&self, policy: &SettlePolicy) -> u64 {
        let bound = policy.out_of_orderness.as_millis() as u64;
        epoch_of(self.newest_ms.unwrap_or(0).saturating_sub(bound), policy.epoch)
    }
}

/// The watermark of a set of partitions: the logic of [`settle`](crate::operators::Settle::settle) without the dataflow.
///
/// ```
/// use std::time::Duration;
/// use tidegate::change::{SettlePolicy, Settler, Verdict};
/// let mut settler = Settler::new(SettlePolicy {
///     out_of_orderness: Duration::from_secs(10),
///     idle_timeout: Duration::from_secs(30),
///     epoch: Duration::from_secs(3),
/// });
/// assert_eq!(settler.see(0, 100_000, 0), Verdict::OnTime);
/// assert_eq!(settler.epoch(0), 90_000 / 3_000);
/// assert_eq!(settler.see(0, 89_999, 1), Verdict::Late);
/// assert_eq!(settler.epoch(30_001), 100_000 / 3_000 + 1, "all idle: what was seen is complete");
/// ```
#[derive(Clone, Debug)]
pub struct Settler {
    policy: SettlePolicy,
    partitions: BTreeMap<u32, Partition>,
    epoch: u64,
    /// The newest epoch that took something late.
    taken: Option<u64>,
}

impl Settler {
    /// A settler that has seen nothing.
    pub fn new(policy: SettlePolicy) -> Self {
        Settler { policy, partitions: BTreeMap::new(), epoch: 0, taken: None }
    }

    /// A settler for which everything before `epoch` is complete from the start.
    pub fn starting_at(policy: SettlePolicy, epoch: u64) -> Self {
        Settler { epoch, ..Settler::new(policy) }
    }

    /// Takes note of a partition that is going to have records: it holds everything open until it has one, or until it
    /// has been idle for long enough.
    pub fn expect(&mut self, partition: u32, now_ms: u64) {
        self.partitions.entry(partition).or_insert(Partition::new(now_ms));
    }

    /// Takes note, at `now_ms`, that a partition has records that are not read yet: it is not idle.
    pub fn wait_for(&mut self, partition: u32, now_ms: u64) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.seen_at_ms = Some(now_ms);
        }
    }

    /// Leaves a partition out until it is known to have another record, as one that is idle.
    pub fn leave_out(&mut self, partition: u32) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.seen_at_ms = None;
        }
    }

    /// The first epoch that a partition, for its part, leaves open.
    pub fn own_epoch(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |state| state.epoch(&self.policy))
    }

    /// Declares everything seen complete, as if all partitions were idle. Returns the first epoch that is not.
    pub fn complete(&mut self) -> u64 {
        let newest = self
            .partitions
            .values()
            .filter_map(|p| p.newest_ms)
            .max()
            .map(|newest_ms| epoch_of(newest_ms, self.policy.epoch));
        if let Some(newest) = newest.max(self.taken) {
            self.epoch = self.epoch.max(newest + 1);
        }
        self.epoch
    }

    /// The epoch that takes what is late at `now_ms`: the first one that is open.
    pub fn take(&mut self, now_ms: u64) -> u64 {
        let epoch = self.epoch(now_ms);
        self.taken = Some(epoch);
        epoch
    }

    /// The newest event time (ms) of a partition.
    pub fn newest(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).and_then(|p| p.newest_ms).unwrap_or(0)
    }

    /// Takes note of a record of `partition` with event time `time_ms`, seen at `now_ms`.
    pub fn see(&mut self, partition: u32, time_ms: u64, now_ms: u64) -> Verdict {
        let state = self.partitions.entry(partition).or_insert(Partition::new(now_ms));
        state.seen_at_ms = Some(now_ms);
        state.newest_ms = state.newest_ms.max(Some(time_ms));
        if epoch_of(time_ms, self.policy.epoch) < self.epoch(now_ms) { Verdict::Late } else { Verdict::OnTime }
    }

    /// The first epoch that is not complete at `now_ms`. Never decreases.
    pub fn epoch(&mut self, now_ms: u64) -> u64 {
        let idle = self.policy.idle_timeout.as_millis() as u64;
        let is_active = |state: &&Partition| state.seen_at_ms.is_some_and(|seen| now_ms.saturating_sub(seen) < idle);
        let open = self.partitions.values().filter(is_active).map(|state| state.epoch(&self.policy)).min();
        let first_open = open.unwrap_or_else(|| self.complete());
        self.epoch = self.epoch.max(first_open);
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn policy() -> SettlePolicy {
        SettlePolicy {
            out_of_orderness: Duration::from_millis(50),
            idle_timeout: Duration::from_millis(200),
            epoch: Duration::from_millis(10),
        }
    }

    proptest! {
        #[test]
        fn a_record_within_the_bound_is_never_late_and_the_watermark_never_goes_back(
            records in proptest::collection::vec((0u32..3, 0u64..50, 0u64..5), 1..100),
        ) {
            let mut settler = Settler::new(policy());
            let (mut now, mut newest, mut epoch) = (0, BTreeMap::new(), 0);
            for (partition, back, pause) in records {
                now += pause;
                let time = (1_000 + now).saturating_sub(back);
                let newest = newest.entry(partition).or_insert(0);
                let within = time + 50 >= *newest;
                *newest = time.max(*newest);
                let verdict = settler.see(partition, time, now);
                // A partition that shows up after the others have moved on may find its epochs closed; one that was
                // there from the start may not.
                if within && partition == 0 && settler.partitions.len() == 1 {
                    prop_assert_eq!(verdict, Verdict::OnTime);
                }
                prop_assert!(settler.epoch(now) >= epoch);
                epoch = settler.epoch(now);
                if verdict == Verdict::OnTime {
                    prop_assert!(time / 10 >= epoch);
                } else {
                    prop_assert!(time / 10 < epoch);
                }
            }
        }
    }

    #[test]
    fn a_partition_that_is_expected_holds_everything_open_until_it_is_idle() {
        let mut settler = Settler::starting_at(policy(), 7);
        settler.expect(0, 0);
        settler.expect(1, 0);
        assert_eq!(settler.see(0, 60, 1), Verdict::Late, "complete from the start");
        settler.see(0, 5_000, 1);
        assert_eq!(settler.epoch(1), 7);
        settler.see(1, 4_000, 2);
        assert_eq!(settler.epoch(2), 395);
        assert_eq!(settler.complete(), 501);
    }

    #[test]
    fn a_partition_that_is_waited_for_is_not_idle_and_one_that_is_left_out_is() {
        let mut settler = Settler::new(policy());
        settler.see(0, 1_000, 0);
        settler.see(1, 5_000, 0);
        assert_eq!([0, 1, 2].map(|partition| settler.own_epoch(partition)), [95, 495, 0]);
        settler.wait_for(0, 150);
        settler.see(1, 5_000, 150);
        assert_eq!(settler.epoch(250), 95, "it is not idle");
        settler.leave_out(0);
        assert_eq!(settler.epoch(250), 495, "it holds nothing up");
        assert_eq!(settler.see(0, 4_960, 251), Verdict::OnTime);
        settler.see(1, 6_000, 252);
        assert_eq!(settler.epoch(252), 495, "it counts again, once it has a record");
        settler.leave_out(0);
        settler.leave_out(1);
        assert_eq!(settler.epoch(253), 601, "all are left out: the last change is complete");
    }

    #[test]
    fn an_idle_partition_holds_nothing_up_and_neither_do_all() {
        let mut settler = Settler::new(policy());
        settler.see(0, 1_000, 0);
        settler.see(1, 5_000, 0);
        assert_eq!(settler.epoch(0), 95, "the slower partition decides");
        settler.see(1, 5_000, 150);
        assert_eq!(settler.epoch(250), 495, "the idle one is left out");
        assert_eq!(settler.epoch(400), 501, "all idle: the last change is complete");
        assert_eq!(settler.see(0, 4_000, 401), Verdict::Late, "what comes then is late, not lost");
        let mut settler = Settler::new(policy());
        assert_eq!(settler.complete(), 0, "nothing was seen");
        assert_eq!(settler.see(0, 0, 0), Verdict::OnTime);
        assert_eq!(settler.complete(), 1, "zero is a time");
    }
}
