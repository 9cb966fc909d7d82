//! Deliver: hands closed times to threads that may block, and believes nothing done before they say so.
//!
//! A *station* is one such thread: a lane's connection, a partition's producer. It gets the deliveries of its share of
//! the records in the order of times and acknowledges them in that order. The operator holds the capability of a time
//! until every station has acknowledged its part of it. So the frontier of the operator's output is what is durable, and
//! whoever wants to know (throttles, checkpoints, metrics) reads it there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};
use timely::order::TotalOrder;
use timely::progress::Timestamp;
use timely::scheduling::SyncActivator;

use super::batch::Batch;
use super::split::Split;

/// What a station gets of one closed time: of each of `N` inputs one batch.
#[derive(Clone, Debug)]
pub struct Delivery<T, B, const N: usize> {
    /// Its number at this station: 1, 2, 3, …
    pub ticket: u64,
    /// The time; everything before it was delivered earlier.
    pub time: T,
    /// The batches, by input.
    pub batches: [B; N],
}

/// The dataflow's end of a station.
#[derive(Clone, Debug)]
pub struct Station<T, B, const N: usize> {
    /// Where deliveries go. Without a bound of its own: a throttle at the source bounds what can be in it.
    pub inbox: Sender<Delivery<T, B, N>>,
    /// The highest ticket that is durable. The thread stores it, then wakes the operator.
    pub acked: Arc<AtomicU64>,
}

/// What has become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acked {
    /// The station, by its place among those of its worker.
    pub station: usize,
    /// The ticket that it has acknowledged.
    pub ticket: u64,
}

/// Delivers closed times to stations.
pub trait Deliver<'scope, T: Timestamp, B, const N: usize> {
    /// Delivers each closed time. `start` makes this worker's stations, given the activator that wakes the operator;
    /// `station` names the one for record `index` of a batch. A station to which a time has nothing to say gets nothing. The
    /// output says what has been acknowledged, each at its time.
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// use timely::dataflow::operators::{Input, Probe};
    /// use tidegate::operators::{Deliver, Delivery, Station};
    /// timely::execute_directly(|worker| {
    ///     let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
    ///         let (input, stream) = scope.new_input::<Vec<u64>>();
    ///         let durable = [stream].deliver("Deliver", |_batch, _index| 0, |waker| {
    ///             let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<u64, Vec<u64>, 1>>();
    ///             let acked = Arc::new(AtomicU64::new(0));
    ///             let ack = Arc::clone(&acked);
    ///             std::thread::spawn(move || {
    ///                 for delivery in deliveries {
    ///                     assert_eq!(delivery.batches, [vec![delivery.time; 2]]);
    ///                     ack.store(delivery.ticket, Ordering::Release);
    ///                     waker.activate().ok();
    ///                 }
    ///             });
    ///             vec![Station { inbox, acked }]
    ///         });
    ///         let (probe, _) = durable.probe();
    ///         (input, probe)
    ///     });
    ///     for time in 0..3 {
    ///         input.advance_to(time);
    ///         input.send(time);
    ///         input.send(time);
    ///     }
    ///     input.close();
    ///     worker.step_or_park_while(None, || !probe.done());
    /// });
    /// ```
    fn deliver(
        self,
        name: &str,
        station: impl Fn(&B, usize) -> usize + 'static,
        start: impl FnOnce(SyncActivator) -> Vec<Station<T, B, N>>,
    ) -> Stream<'scope, T, Vec<Acked>>;
}

impl<'scope, T: Timestamp + TotalOrder, B: Batch, const N: usize> Deliver<'scope, T, B, N>
    for [Stream<'scope, T, B>; N]
{
    fn deliver(
        self,
        name: &str,
        station: impl Fn(&B, usize) -> usize + 'static,
        start: impl FnOnce(SyncActivator) -> Vec<Station<T, B, N>>,
    ) -> Stream<'scope, T, Vec<Acked>> {
        let scope = self[0].scope();
        let mut builder = OperatorBuilder::new(name.to_owned(), scope);
        let info = builder.operator_info();
        let stations = start(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut inputs = self.map(|stream| builder.new_input(stream, Pipeline));
        let (output, stream) = builder.new_output::<Vec<Acked>>();
        let mut output = OutputBuilder::<T, CapacityContainerBuilder<Vec<Acked>>>::from(output);
        builder.build(move |_capabilities| {
            let mut open: BTreeMap<T, (Capability<T>, [Vec<B>; N])> = BTreeMap::new();
            let mut outbox = Outbox::new(stations);
            move |frontiers| {
                let mut output = output.activate();
                let port = output.output_index();
                for (number, input) in inputs.iter_mut().enumerate() {
                    input.for_each(|cap, batch| {
                        let time = cap.least().expect("records carry a time").clone();
                        let (_, parts) = open
                            .entry(time.clone())
                            .or_insert_with(|| (cap.delayed(&time, port), std::array::from_fn(|_| Vec::new())));
                        parts[number].push(std::mem::take(batch));
                    });
                }
                while let Some(first) = open.first_entry()
                    && frontiers.iter().all(|frontier| !frontier.less_equal(first.key()))
                {
                    let (time, (cap, parts)) = first.remove_entry();
                    outbox.send(time, cap, parts, &station);
                }
                outbox.retire(|cap, acked| output.session_with_builder(cap).give(acked));
            }
        });
        stream
    }
}

impl<'scope, T: Timestamp + TotalOrder, B: Batch> Split<Stream<'scope, T, B>> {
    /// Delivers inserts, updates, deletes and marks of a closed time together, in this order; see [`Deliver::deliver`].
    pub fn deliver(
        self,
        name: &str,
        station: impl Fn(&B, usize) -> usize + 'static,
        start: impl FnOnce(SyncActivator) -> Vec<Station<T, B, 4>>,
    ) -> Stream<'scope, T, Vec<Acked>> {
        [self.inserts, self.updates, self.deletes, self.marks].deliver(name, station, start)
    }
}

/// What has been delivered and not yet acknowledged.
struct Outbox<T: Timestamp, B, const N: usize> {
    stations: Vec<Sent<T, B, N>>,
}

/// One station and what it was sent.
struct Sent<T: Timestamp, B, const N: usize> {
    station: Station<T, B, N>,
    /// The ticket given out last.
    ticket: u64,
    /// Tickets not yet acknowledged, oldest first, each with the capability of its time.
    unacked: VecDeque<(u64, Capability<T>)>,
}

impl<T: Timestamp, B: Batch, const N: usize> Outbox<T, B, N> {
    fn new(stations: Vec<Station<T, B, N>>) -> Self {
        let sent = |station| Sent { station, ticket: 0, unacked: VecDeque::new() };
        Outbox { stations: stations.into_iter().map(sent).collect() }
    }

    fn send(&mut self, time: T, cap: Capability<T>, parts: [Vec<B>; N], station: &impl Fn(&B, usize) -> usize) {
        let shares = share(parts, self.stations.len(), station);
        for (to, batches) in self.stations.iter_mut().zip(shares) {
            if batches.iter().all(Batch::is_empty) {
                continue;
            }
            to.ticket += 1;
            // A station that is gone has said why elsewhere; its capability stays, so nothing looks durable.
            let _ = to.station.inbox.send(Delivery { ticket: to.ticket, time: time.clone(), batches });
            to.unacked.push_back((to.ticket, cap.clone()));
        }
    }

    fn retire(&mut self, mut durable: impl FnMut(&Capability<T>, Acked)) {
        for (station, sent) in self.stations.iter_mut().enumerate() {
            let acked = sent.station.acked.load(Ordering::Acquire);
            while let Some((ticket, cap)) = sent.unacked.pop_front_if(|(ticket, _)| *ticket <= acked) {
                durable(&cap, Acked { station, ticket });
            }
        }
    }
}

/// Deals the records of `parts` to `stations` stations, keeping their order.
fn share<B: Batch, const N: usize>(
    parts: [Vec<B>; N],
    stations: usize,
    station: &impl Fn(&B, usize) -> usize,
) -> Vec<[B; N]> {
    if stations == 1 {
        // Nothing to deal: whole batches go as they are.
        return vec![parts.map(|mut batches| if batches.len() == 1 { batches.remove(0) } else { gather(&batches) })];
    }
    let mut shares: Vec<[B; N]> = (0..stations).map(|_| std::array::from_fn(|_| B::default())).collect();
    for (input, batches) in parts.iter().enumerate() {
        for batch in batches {
            for index in 0..batch.len() {
                shares[station(batch, index)][input].push_from(batch, index);
            }
        }
    }
    shares
}

fn gather<B: Batch>(batches: &[B]) -> B {
    let mut all = B::with_room_for(batches);
    for batch in batches {
        for index in 0..batch.len() {
            all.push_from(batch, index);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;
    use timely::dataflow::operators::{Input, Inspect, Probe};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn every_station_gets_its_share_in_the_order_of_times_and_only_acks_move_the_frontier(
            records in proptest::collection::vec((0u64..6, any::<u64>()), 0..60),
            stations in 1usize..4,
        ) {
            let mut sorted = records.clone();
            sorted.sort_by_key(|(time, _)| *time);
            let log = Arc::new(Mutex::new(Vec::new()));
            let acks = Arc::new(Mutex::new(Vec::new()));
            let (feed, seen, told) = (sorted.clone(), Arc::clone(&log), Arc::clone(&acks));
            timely::execute_directly(move |worker| {
                let mut inboxes = Vec::new();
                let mut wake = None;
                let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
                    let (input, stream) = scope.new_input::<Vec<u64>>();
                    let durable = [stream].deliver(
                        "Deliver",
                        move |batch: &Vec<u64>, index| batch[index] as usize % stations,
                        |waker| {
                            wake = Some(waker);
                            (0..stations)
                                .map(|_| {
                                    let (inbox, deliveries) = crossbeam_channel::unbounded();
                                    let acked = Arc::new(AtomicU64::new(0));
                                    inboxes.push((deliveries, Arc::clone(&acked)));
                                    Station { inbox, acked }
                                })
                                .collect()
                        },
                    );
                    let (probe, durable) = durable.probe();
                    durable.inspect(move |acked: &Acked| told.lock().unwrap().push(*acked));
                    (input, probe)
                });
                let first = feed.first().map(|(time, _)| *time);
                for (time, value) in feed {
                    input.advance_to(time);
                    input.send(value);
                }
                input.close();
                for _ in 0..20 {
                    worker.step();
                }
                if let Some(first) = first {
                    assert!(probe.less_equal(&first), "nothing is acknowledged, yet the first time looks durable");
                }
                for (number, (deliveries, acked)) in inboxes.iter().enumerate() {
                    for delivery in deliveries.try_iter() {
                        let [batch] = delivery.batches;
                        seen.lock().unwrap().push((number, delivery.time, batch));
                        acked.store(delivery.ticket, Ordering::Release);
                    }
                }
                wake.expect("start was called").activate().unwrap();
                while !probe.done() {
                    worker.step();
                }
            });
            let (log, acks) = (log.lock().unwrap(), acks.lock().unwrap());
            for number in 0..stations {
                let tickets = acks.iter().filter(|acked| acked.station == number).map(|acked| acked.ticket);
                prop_assert!(tickets.eq(1..=log.iter().filter(|(station, ..)| *station == number).count() as u64));
                let got: Vec<(u64, u64)> = log
                    .iter()
                    .filter(|(station, ..)| *station == number)
                    .flat_map(|(_, time, batch)| batch.iter().map(move |value| (*time, *value)))
                    .collect();
                let want: Vec<(u64, u64)> =
                    sorted.iter().filter(|(_, value)| *value as usize % stations == number).copied().collect();
                prop_assert_eq!(got, want);
            }
        }
    }
}
