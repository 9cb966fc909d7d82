//! Exchange: routes records, or whole batches, to workers.
//!
//! Per-key order is nothing but this: all changes of a key go to one worker. The route must be the same number on every
//! machine and have good low bits, because timely takes `route & (peers - 1)` or `route % peers`.

use timely::Container;
use timely::communication::Push;
use timely::container::{CapacityContainerBuilder, DrainContainer, NoopBuilder, PushInto, SizableContainer};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, ExchangeCore};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::generic::Operator;
use timely::progress::{Stamp, Timestamp};

/// Routes the records of a stream.
pub trait ExchangeBy<C: DrainContainer> {
    /// Sends each record to the worker that `route` names (modulo the number of workers).
    ///
    /// ```
    /// use timely::dataflow::operators::{Inspect, ToStream};
    /// use tidegate::operators::ExchangeBy;
    /// timely::execute(timely::Config::process(2), |worker| {
    ///     let index = worker.index() as u64;
    ///     worker.dataflow::<u64, _, _>(|scope| {
    ///         (0..100u64).to_stream(scope).container::<Vec<_>>()
    ///             .by("ByValue", |x: &u64| *x)
    ///             .inspect(move |x| assert_eq!(x % 2, index));
    ///     });
    /// }).unwrap();
    /// ```
    fn by<F>(self, name: &str, route: F) -> Self
    where
        for<'a> F: FnMut(&C::Item<'a>) -> u64 + 'static;
}

impl<'scope, T, C> ExchangeBy<C> for Stream<'scope, T, C>
where
    T: Timestamp,
    C: Container + SizableContainer + DrainContainer + ContainerBytes + Send + for<'a> PushInto<C::Item<'a>>,
{
    fn by<F>(self, name: &str, route: F) -> Self
    where
        for<'a> F: FnMut(&C::Item<'a>) -> u64 + 'static,
    {
        let pact = ExchangeCore::<CapacityContainerBuilder<C>, F>::new(route);
        self.unary::<NoopBuilder<C>, _, _, _>(pact, name, |_, _| {
            |input, output| {
                input.for_each(|cap, batch| output.session_with_builder(&cap).give_container(batch));
            }
        })
    }
}

/// A pact that deals whole batches to the workers in turn, without touching a record: for work that any worker can do.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// The pact.
    #[allow(clippy::type_complexity)]
    pub fn pact() -> DistributorPact<fn(usize) -> RoundRobin> {
        DistributorPact(|_peers| RoundRobin::default())
    }
}

impl<C: Default + Container> Distributor<C> for RoundRobin {
    fn partition<T: Clone, P: Push<Message<T, C>>>(&mut self, batch: &mut C, stamp: &Stamp<T>, pushers: &mut [P]) {
        let turn = self.next % pushers.len();
        self.next = turn + 1;
        Message::push_at(batch, stamp.clone(), &mut pushers[turn]);
    }

    fn flush<T: Clone, P: Push<Message<T, C>>>(&mut self, _stamp: &Stamp<T>, _pushers: &mut [P]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use timely::dataflow::operators::{Inspect, ToStream};

    #[test]
    fn dealing_batches_in_turn_uses_every_worker_and_loses_nothing() {
        let seen = Arc::new(Mutex::new(vec![Vec::new(); 3]));
        let record = Arc::clone(&seen);
        timely::execute(timely::Config::process(3), move |worker| {
            let (index, record) = (worker.index(), Arc::clone(&record));
            worker.dataflow::<u64, _, _>(|scope| {
                let numbers = if index == 0 { 0..30_000u64 } else { 0..0 };
                numbers
                    .to_stream(scope)
                    .container::<Vec<_>>()
                    .unary::<NoopBuilder<Vec<u64>>, _, _, _>(RoundRobin::pact(), "Deal", |_, _| {
                        |input, output| {
                            input.for_each(|cap, batch| output.session_with_builder(&cap).give_container(batch));
                        }
                    })
                    .inspect(move |x| record.lock().unwrap()[index].push(*x));
            });
        })
        .unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|worker| !worker.is_empty()));
        let mut all: Vec<u64> = seen.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..30_000));
    }
}
