//! Settle: event time for topics that carry no statements, as an operator; what counts as complete is
//! [`Settler`](crate::change::Settler)'s business.
//!
//! A record older than what counts as complete is *late*: it goes to a stream of its own, never silently back in time.

use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::container::{DrainContainer, PushInto, SizableContainer};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};

use super::batch::Batch;
use crate::change::{SettlePolicy, Settler, Verdict};

/// Gives records their epochs by event time.
pub trait Settle<C: DrainContainer>: Sized {
    /// The records at their epochs, and the late ones at the epoch that is open when they come. `event` gives partition
    /// and event time (ms) of a record, `now` the wall clock (ms). The input's own times do not matter; when the input
    /// ends, everything is complete.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timely::dataflow::operators::{Inspect, ToStream};
    /// use tidegate::change::SettlePolicy;
    /// use tidegate::operators::Settle;
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
                            Verdict::Late => late.session(&late_cap.delayed(&settler.take(now()))).give(record),
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
