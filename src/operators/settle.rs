//! Settle: event time for topics that carry no statements.
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

use timely::container::CapacityContainerBuilder;
use timely::container::{DrainContainer, PushInto, SizableContainer};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};

use super::batch::Batch;

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
    newest_ms: u64,
    seen_at_ms: u64,
}

/// The watermark of a set of partitions: the logic of [`Settle::settle`] without the dataflow.
///
/// ```
/// use std::time::Duration;
/// use tidegate::operators::{SettlePolicy, Settler, Verdict};
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
}

impl Settler {
    /// A settler that has seen nothing.
    pub fn new(policy: SettlePolicy) -> Self {
        Settler { policy, partitions: BTreeMap::new(), epoch: 0 }
    }

    /// Takes note of a record of `partition` with event time `time_ms`, seen at `now_ms`.
    pub fn see(&mut self, partition: u32, time_ms: u64, now_ms: u64) -> Verdict {
        let state = self.partitions.entry(partition).or_insert(Partition { newest_ms: 0, seen_at_ms: now_ms });
        state.seen_at_ms = now_ms;
        state.newest_ms = state.newest_ms.max(time_ms);
        if crate::change::epoch_of(time_ms, self.policy.epoch) < self.epoch(now_ms) {
            Verdict::Late
        } else {
            Verdict::OnTime
        }
    }

    /// The first epoch that is not complete at `now_ms`. Never decreases.
    pub fn epoch(&mut self, now_ms: u64) -> u64 {
        let bound = self.policy.out_of_orderness.as_millis() as u64;
        let idle = self.policy.idle_timeout.as_millis() as u64;
        let active = self.partitions.values().filter(|p| now_ms.saturating_sub(p.seen_at_ms) < idle);
        let first_open = match active.map(|p| p.newest_ms.saturating_sub(bound)).min() {
            Some(watermark_ms) => crate::change::epoch_of(watermark_ms, self.policy.epoch),
            None => match self.partitions.values().map(|p| p.newest_ms).max() {
                Some(newest_ms) => crate::change::epoch_of(newest_ms, self.policy.epoch) + 1,
                None => 0,
            },
        };
        self.epoch = self.epoch.max(first_open);
        self.epoch
    }
}

/// Gives records their epochs by event time.
pub trait Settle<C: DrainContainer>: Sized {
    /// The records at their epochs, and the late ones at the epoch that is open when they come. `event` gives partition
    /// and event time (ms) of a record, `now` the wall clock (ms). The input's own times do not matter; when the input
    /// ends, everything is complete.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timely::dataflow::operators::{Inspect, ToStream};
    /// use tidegate::operators::{Settle, SettlePolicy};
    /// timely::example(|scope| {
    ///     let policy = SettlePolicy {
    ///         out_of_orderness: Duration::from_millis(10),
    ///         idle_timeout: Duration::from_secs(1),
    ///         epoch: Duration::from_millis(10),
    ///     };
    ///     let (on_time, late) = vec![(0u32, 100u64), (0, 95), (0, 12)]
    ///         .to_stream(scope)
    ///         .container::<Vec<_>>()
    ///         .settle(policy, |record| *record, || 0);
    ///     on_time.inspect_core(|event| {
    ///         if let Ok((stamp, batch)) = event {
    ///             assert!(batch.iter().all(|(_, time)| time / 10 == *stamp.least().unwrap()));
    ///         }
    ///     });
    ///     late.inspect(|record| assert_eq!(*record, (0, 12)));
    /// });
    /// ```
    fn settle<F>(self, policy: SettlePolicy, event: F, now: impl Fn() -> u64 + 'static) -> (Self, Self)
    where
        for<'a> F: Fn(&C::Item<'a>) -> (u32, u64) + 'static;
}

impl<'scope, C> Settle<C> for Stream<'scope, u64, C>
where
    C: Batch + SizableContainer + DrainContainer + for<'a> PushInto<C::Item<'a>>,
{
    fn settle<F>(self, policy: SettlePolicy, event: F, now: impl Fn() -> u64 + 'static) -> (Self, Self)
    where
        for<'a> F: Fn(&C::Item<'a>) -> (u32, u64) + 'static,
    {
        let scope = self.scope();
        let mut builder = OperatorBuilder::new("Settle".to_owned(), scope);
        let activator = scope.activator_for(builder.operator_info().address);
        // No connection from input to outputs: output times are this operator's own doing.
        let mut input = builder.new_input_connection(self, Pipeline, []);
        let (on_time, on_time_stream) = builder.new_output_connection::<C, _>([]);
        let (late, late_stream) = builder.new_output_connection::<C, _>([]);
        let mut on_time = OutputBuilder::<u64, CapacityContainerBuilder<C>>::from(on_time);
        let mut late = OutputBuilder::<u64, CapacityContainerBuilder<C>>::from(late);
        builder.build(move |capabilities| {
            let mut capabilities: Option<[Capability<u64>; 2]> =
                Some(capabilities.try_into().expect("two outputs have two capabilities"));
            let mut settler = Settler::new(policy);
            let pause = policy.epoch.min(policy.idle_timeout).max(Duration::from_millis(1));
            move |frontiers| {
                let Some([on_time_cap, late_cap]) = &mut capabilities else { return };
                let (mut on_time, mut late) = (on_time.activate(), late.activate());
                input.for_each(|_cap, batch| {
                    for record in batch.drain() {
                        let (partition, time_ms) = event(&record);
                        match settler.see(partition, time_ms, now()) {
                            Verdict::OnTime => {
                                let at = on_time_cap.delayed(&crate::change::epoch_of(time_ms, policy.epoch));
                                on_time.session(&at).give(record);
                            }
                            Verdict::Late => late.session(&late_cap.delayed(&settler.epoch(now()))).give(record),
                        }
                    }
                });
                if frontiers[0].is_empty() {
                    capabilities = None;
                    return;
                }
                let epoch = settler.epoch(now());
                on_time_cap.downgrade(&epoch);
                late_cap.downgrade(&epoch);
                activator.activate_after(pause); // partitions fall idle without any record
            }
        });
        (on_time_stream, late_stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                now += pause; // far below the idle timeout in all
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
                    prop_assert!(time / 10 >= epoch.min(time / 10));
                } else {
                    prop_assert!(time / 10 < epoch);
                }
            }
        }
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
    }
}
