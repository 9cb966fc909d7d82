//! Ingest: where a connector's thread meets the dataflow.
//!
//! A worker never blocks on I/O. A client lives on a thread of its own, cuts what it reads into batches by time, and says
//! how far it has come; the operator sends the batches under capabilities for their times and lowers its own to what the
//! client says. The thread wakes the worker through an activator and is held back by a bounded channel, the operator by
//! a [`Throttle`].

use std::time::Duration;

use crossbeam_channel::Receiver;
use timely::container::NoopBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};
use timely::dataflow::{Scope, Stream};
use timely::progress::Timestamp;
use timely::scheduling::SyncActivator;

use super::batch::Batch;
use super::gate::InEpoch;
use super::throttle::Throttle;

/// What a client hands over at once.
#[derive(Clone, Debug)]
pub struct Ingested<T, B, N> {
    /// Batches with their times, none before the frontier handed over last.
    pub batches: Vec<(T, B)>,
    /// Notes that travel beside them (offsets, marks), at the frontier handed over last.
    pub notes: Vec<N>,
    /// From now on nothing comes before this time; `None`: nothing comes at all.
    pub frontier: Option<T>,
    /// What is before this time is not to wait for the end of its epoch: pressure of the client's own.
    pub settled: Option<T>,
}

/// The streams of [`ingest`].
pub struct Ingest<'scope, T: Timestamp, B, N> {
    /// The batches.
    pub batches: Stream<'scope, T, B>,
    /// The notes.
    pub notes: Stream<'scope, T, Vec<N>>,
    /// Where the source stands when it is held back by one epoch that is larger than may be in flight: what is below that time
    /// has to become durable before it goes on. For every [gate](super::Gate::gate_under_pressure) of the cluster.
    pub pressure: Stream<'scope, T, Vec<T>>,
}

/// How long a refused source waits before it asks its throttle again.
const PAUSE: Duration = Duration::from_millis(1);

/// At most so many hand-overs are taken in one go, so that one source does not starve the rest of the worker.
const TURN: usize = 16;

/// A source that takes what a client's thread hands over. `start` is called once with the activator that wakes it and
/// returns the receiving end; dropping the sending end without a frontier of `None` leaves the source open for ever (a
/// client that failed says so elsewhere, and nothing must look finished).
///
/// ```
/// use timely::dataflow::operators::{Inspect, probe::Handle};
/// use tidegate::operators::{Ingested, Throttle, ingest};
/// timely::execute_directly(|worker| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         let throttle = Throttle::new(Handle::new(), 1 << 20, 8);
///         let ingest = ingest(scope, "Numbers", throttle, |waker| {
///             let (sender, receiver) = crossbeam_channel::bounded(4);
///             std::thread::spawn(move || {
///                 for time in 0..3 {
///                     let batches = vec![(time, vec![time * 10])];
///                     let handed = Ingested { batches, notes: vec![()], frontier: Some(time + 1), settled: None };
///                     sender.send(handed).unwrap();
///                     waker.activate().ok();
///                 }
///                 sender.send(Ingested { batches: vec![], notes: vec![], frontier: None, settled: None }).unwrap();
///                 waker.activate().ok();
///             });
///             receiver
///         });
///         ingest.batches.inspect_core(|event| {
///             if let Ok((stamp, batch)) = event {
///                 assert_eq!(batch, &vec![stamp.least().unwrap() * 10]);
///             }
///         });
///     });
/// });
/// ```
pub fn ingest<'scope, T, B, N>(
    scope: Scope<'scope, T>,
    name: &str,
    mut throttle: Throttle<T>,
    start: impl FnOnce(SyncActivator) -> Receiver<Ingested<T, B, N>>,
) -> Ingest<'scope, T, B, N>
where
    T: InEpoch,
    B: Batch,
    N: 'static,
{
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let info = builder.operator_info();
    let activator = scope.activator_for(info.address.clone());
    let receiver = start(scope.worker().sync_activator_for(info.address.to_vec()));
    let (batches, batch_stream) = builder.new_output::<B>();
    let (notes, note_stream) = builder.new_output::<Vec<N>>();
    let (pressure, pressure_stream) = builder.new_output::<Vec<T>>();
    let mut batches = OutputBuilder::<T, NoopBuilder<B>>::from(batches);
    let mut notes = OutputBuilder::<T, NoopBuilder<Vec<N>>>::from(notes);
    let mut pressure = OutputBuilder::<T, NoopBuilder<Vec<T>>>::from(pressure);
    builder.build(move |capabilities| {
        let mut capabilities: Option<[Capability<T>; 3]> =
            Some(capabilities.try_into().expect("three outputs have three capabilities"));
        let mut waiting: Option<Ingested<T, B, N>> = None;
        let mut pressed: Option<T> = None;
        move |_frontiers| {
            let (mut batches, mut notes, mut pressure) = (batches.activate(), notes.activate(), pressure.activate());
            for turn in 0.. {
                let Some([cap, note_cap, pressure_cap]) = &mut capabilities else { return };
                if turn == TURN {
                    activator.activate();
                    return;
                }
                // A client that is gone has said why elsewhere.
                let Some(mut handed) = waiting.take().or_else(|| receiver.try_recv().ok()) else { return };
                if !throttle.admits(cap.time()) {
                    waiting = Some(handed);
                    if pressed.as_ref() != Some(cap.time()) && throttle.is_too_large(cap.time()) {
                        pressed = Some(cap.time().clone());
                        pressure.session_with_builder(&*pressure_cap).give_container(&mut vec![cap.time().clone()]);
                    }
                    activator.activate_after(PAUSE);
                    return;
                }
                for (time, batch) in &mut handed.batches {
                    throttle.charge(time.clone(), batch.memory_bytes());
                    let at = cap.delayed(time);
                    batches.session_with_builder(&at).give_container(batch);
                }
                if !handed.notes.is_empty() {
                    notes.session_with_builder(&*note_cap).give_container(&mut handed.notes);
                }
                if let Some(settled) = handed.settled {
                    pressure.session_with_builder(&*pressure_cap).give_container(&mut vec![settled]);
                }
                match handed.frontier {
                    Some(time) => {
                        cap.downgrade(&time);
                        note_cap.downgrade(&time);
                        pressure_cap.downgrade(&time);
                    }
                    None => capabilities = None,
                }
            }
        }
    });
    Ingest { batches: batch_stream, notes: note_stream, pressure: pressure_stream }
}

#[cfg(test)]
mod tests {
    use super::super::batch::Natural;
    use super::super::{Deliver, Delivery, Gate, Station};
    use super::*;
    use crate::change::{Moment, moment};
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use timely::dataflow::operators::probe::Handle;
    use timely::dataflow::operators::{Inspect, Probe};

    /// A client that hands over what is in `feed`.
    fn fed<T: Send + 'static>(
        feed: Vec<Ingested<T, Vec<u64>, ()>>,
        waker: SyncActivator,
    ) -> Receiver<Ingested<T, Vec<u64>, ()>> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            for handed in feed {
                sender.send(handed).unwrap();
                waker.activate().ok();
            }
        });
        receiver
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        #[test]
        fn everything_handed_over_arrives_at_its_time_however_small_the_limit(
            handed in proptest::collection::vec(proptest::collection::vec((0u64..3, 0u64..100), 0..5), 1..20),
            limit in 1usize..200,
        ) {
            let mut want: Vec<(u64, u64)> = Vec::new();
            let mut feed = Vec::new();
            for (step, records) in handed.iter().enumerate() {
                let batches: Vec<(u64, Vec<u64>)> =
                    records.iter().map(|(ahead, value)| (step as u64 + ahead, vec![*value])).collect();
                want.extend(batches.iter().map(|(time, batch)| (*time, batch[0])));
                feed.push(Ingested { batches, notes: Vec::<()>::new(), frontier: Some(step as u64 + 1), settled: None });
            }
            feed.push(Ingested { batches: Vec::new(), notes: Vec::new(), frontier: None, settled: None });
            let seen = Arc::new(Mutex::new(Vec::new()));
            let record = Arc::clone(&seen);
            timely::execute_directly(move |worker| {
                worker.dataflow::<u64, _, _>(|scope| {
                    let durable = Handle::new();
                    let throttle = Throttle::new(durable.clone(), limit, 2);
                    let ingest = ingest(scope, "Feed", throttle, |waker| fed(feed, waker));
                    ingest
                        .batches
                        .inspect_core(move |event| {
                            if let Ok((stamp, batch)) = event {
                                let time = *stamp.least().unwrap();
                                record.lock().unwrap().extend(batch.iter().map(|value| (time, *value)));
                            }
                        })
                        .probe_with(&durable);
                });
            });
            let mut seen = seen.lock().unwrap().clone();
            seen.sort_unstable();
            want.sort_unstable();
            prop_assert_eq!(seen, want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]

        /// However far the sink lags: only what is larger than the limit comes in pieces.
        #[test]
        fn an_epoch_that_is_within_the_limit_is_never_cut(
            epochs in proptest::collection::vec(proptest::collection::vec(1u64..3, 1..5), 5..60),
            epochs_in_flight in 1usize..4,
        ) {
            let limit = 4 * size_of::<u64>() + 1;
            let mut feed = Vec::new();
            for (epoch, parts) in (1..).zip(&epochs) {
                for (seq, records) in (1..).zip(parts) {
                    let at = moment(epoch, seq);
                    let batches = vec![(at, vec![epoch; *records as usize])];
                    feed.push(Ingested { batches, notes: Vec::<()>::new(), frontier: Some(at + 1), settled: None });
                }
            }
            feed.push(Ingested { batches: Vec::new(), notes: Vec::new(), frontier: None, settled: None });
            let (sender, delivered) = crossbeam_channel::unbounded();
            timely::execute_directly(move |worker| {
                worker.dataflow::<Moment, _, _>(|scope| {
                    let durable = Handle::new();
                    let throttle = Throttle::new(durable.clone(), limit, epochs_in_flight);
                    let ingest = ingest(scope, "Feed", throttle, |waker| fed(feed, waker));
                    let gated = ingest.batches.gate_under_pressure("Gate", Natural, 0, ingest.pressure, |at, _, _| *at);
                    let station = |waker: SyncActivator| {
                        let (inbox, deliveries) = crossbeam_channel::unbounded::<Delivery<Moment, Vec<u64>, 1>>();
                        let acked = Arc::new(AtomicU64::new(0));
                        let ack = Arc::clone(&acked);
                        std::thread::spawn(move || {
                            for Delivery { ticket, batches: [batch], .. } in deliveries {
                                std::thread::sleep(Duration::from_micros(500));
                                sender.send(batch).unwrap();
                                ack.store(ticket, Ordering::Release);
                                waker.activate().ok();
                            }
                        });
                        vec![Station { inbox, acked }]
                    };
                    [gated].deliver("Slow", |_, _| 0, station).probe_with(&durable);
                });
            });
            let got: Vec<Vec<u64>> = delivered.iter().collect();
            let want: Vec<(u64, usize)> = (1..).zip(epochs.iter().map(|parts| parts.iter().sum::<u64>() as usize)).collect();
            let pieces = |epoch| got.iter().filter(|batch| batch.contains(&epoch)).map(Vec::len).collect::<Vec<_>>();
            for (epoch, records) in want {
                let pieces = pieces(epoch);
                prop_assert_eq!(pieces.iter().sum::<usize>(), records);
                prop_assert!(pieces.len() == 1 || records * size_of::<u64>() >= limit, "epoch {epoch}: {pieces:?}");
            }
        }
    }
}
