//! The epoch gate: order restored by the frontier, not by luck.
//!
//! Records may arrive in any order and from any worker. The gate keeps what arrives, with the capability for its time,
//! until the input frontier has passed that time: then nothing of it can be missing. It emits everything of the time as
//! one sorted batch. While it holds a record it holds the capability, so nothing downstream can believe the time done.
//!
//! Where times lie in epochs, an epoch is emitted once the frontier has passed all of it. One that is larger than memory
//! can't be waited for: under *pressure*, which a source that is held back by such an epoch sends to all gates, a gate lets go
//! what the frontier has passed of an epoch that is still open. Since every gate does, whatever is before the slowest source
//! becomes durable, and that source is let on: nothing waits for ever. Such pieces are cut by the times of records, not of
//! batches: whatever is in a later piece is later than all that is in an earlier one.

use std::collections::BTreeMap;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::{Operator, empty};
use timely::order::TotalOrder;
use timely::progress::Timestamp;

use super::batch::{Batch, Order, merge_sorted};
use crate::change::{Moment, epoch_at};

/// A time that lies in an epoch; epochs are in the order of their times.
pub trait InEpoch: Timestamp + TotalOrder {
    /// The epoch.
    fn epoch(&self) -> u64;
}

/// Each number is an epoch of its own.
impl InEpoch for u64 {
    fn epoch(&self) -> u64 {
        *self
    }
}

impl InEpoch for Moment {
    fn epoch(&self) -> u64 {
        epoch_at(*self)
    }
}

/// Emits sorted batches of closed times.
pub trait Gate<'scope, T: Timestamp, B>: Sized {
    /// Emits one sorted batch per closed epoch, in the order of epochs.
    ///
    /// ```
    /// use timely::dataflow::operators::{Input, Inspect};
    /// use tidegate::operators::{Gate, Natural};
    /// timely::execute_directly(|worker| {
    ///     let mut input = worker.dataflow::<u64, _, _>(|scope| {
    ///         let (input, stream) = scope.new_input::<Vec<u64>>();
    ///         stream.gate("Gate", Natural).inspect_core(|event| {
    ///             if let Ok((_, batch)) = event {
    ///                 assert_eq!(batch, &vec![1, 2, 3]);
    ///             }
    ///         });
    ///         input
    ///     });
    ///     for number in [3, 1, 2] {
    ///         input.send(number);
    ///     }
    ///     input.advance_to(1);
    /// });
    /// ```
    fn gate<O: Order<B>>(self, name: &str, order: O) -> Self;

    /// Like [`gate`](Gate::gate), but when the frontier has passed several epochs at once, their records come as one
    /// sorted batch at the least of their times, as long as it stays below about `bytes`. Behind by a lot, a hot key is
    /// then handled once. Because the batch travels at the least time, nothing downstream believes any of them done
    /// before the batch is. An epoch that is larger comes in several batches.
    fn gate_coalescing<O: Order<B>>(self, name: &str, order: O, bytes: usize) -> Self;

    /// Like [`gate_coalescing`](Gate::gate_coalescing), and what the frontier has passed below a time that comes from
    /// `pressure` is emitted though its epoch is still open. `place` says the time of a record of a batch: no less than the
    /// batch's, and in its epoch. The batches of an epoch are then in the order of times, and sorted in themselves.
    fn gate_under_pressure<O: Order<B>>(
        self,
        name: &str,
        order: O,
        bytes: usize,
        pressure: Stream<'scope, T, Vec<T>>,
        place: impl Fn(&T, &B, usize) -> T + 'static,
    ) -> Self;
}

impl<'scope, T: InEpoch, B: Batch> Gate<'scope, T, B> for Stream<'scope, T, B> {
    fn gate<O: Order<B>>(self, name: &str, order: O) -> Self {
        self.gate_coalescing(name, order, 0)
    }

    fn gate_coalescing<O: Order<B>>(self, name: &str, order: O, bytes: usize) -> Self {
        let none = empty(self.scope());
        self.gate_under_pressure(name, order, bytes, none, |time, _, _| time.clone())
    }

    fn gate_under_pressure<O: Order<B>>(
        self,
        name: &str,
        order: O,
        bytes: usize,
        pressure: Stream<'scope, T, Vec<T>>,
        place: impl Fn(&T, &B, usize) -> T + 'static,
    ) -> Self {
        self.binary_frontier::<_, NoopBuilder<B>, _, _, _, _>(pressure, Pipeline, Pipeline, name, |_, _| {
            let mut held = Held { times: BTreeMap::new(), place };
            let mut pressed = T::minimum();
            move |(input, frontier), (presses, press_frontier), output| {
                input.for_each(|cap, batch| {
                    let time = cap.least().expect("records carry a time").clone();
                    held.keep(time.clone(), || cap.delayed(&time, output.output_index()), std::mem::take(batch));
                });
                presses.for_each(|_, times| {
                    pressed = times.drain(..).fold(pressed.clone(), T::max);
                });
                // The pressure's own frontier is that of the records.
                let (records, presses) = (frontier.frontier(), press_frontier.frontier());
                let first = records.iter().chain(presses.iter()).min();
                let cut = first.map(|first| Cut { open: first.epoch(), below: first.min(&pressed).clone() });
                while let Some((cap, batches)) = held.take(cut.as_ref(), bytes) {
                    let mut sorted = merge_sorted(&batches, &order);
                    output.session_with_builder(&cap).give_container(&mut sorted);
                }
            }
        })
    }
}

/// What may be let go: everything of epochs before the open one, and of that one what is below a time.
struct Cut<T> {
    open: u64,
    below: T,
}

/// What a gate holds, with the capabilities for it.
struct Held<T: Timestamp, B, P> {
    times: BTreeMap<T, (Capability<T>, Vec<B>)>,
    place: P,
}

impl<T: InEpoch, B: Batch, P: Fn(&T, &B, usize) -> T> Held<T, B, P> {
    fn keep(&mut self, time: T, cap: impl FnOnce() -> Capability<T>, batch: B) {
        self.times.entry(time).or_insert_with(|| (cap(), Vec::new())).1.push(batch);
    }

    /// Takes from the front what may go (`None`: everything): whole epochs as long as all is below `bytes`; of an epoch
    /// that is larger, or open, a piece.
    fn take(&mut self, cut: Option<&Cut<T>>, bytes: usize) -> Option<(Capability<T>, Vec<B>)> {
        let mut taken: Option<(Capability<T>, Vec<B>)> = None;
        let mut size = 0;
        while let Some(epoch) = self.times.keys().next().map(InEpoch::epoch) {
            let open = cut.is_some_and(|cut| epoch >= cut.open);
            let below = cut.filter(|_| open).map(|cut| &cut.below);
            let ready = self
                .times
                .iter()
                .take_while(|(time, _)| time.epoch() == epoch && below.is_none_or(|below| *time < below));
            let sizes: Vec<(&T, usize)> = ready.map(|(time, (_, batches))| (time, size_of_all(batches))).collect();
            let whole: usize = sizes.iter().map(|(_, size)| size).sum();
            if sizes.is_empty() || (taken.is_some() && (open || size + whole > bytes)) {
                break;
            }
            // Where a piece ends: before the time that would make it too large, but behind the first.
            let mut sum = 0;
            let too_large = sizes.iter().position(|(_, size)| {
                sum += size;
                bytes > 0 && sum > bytes
            });
            let end =
                too_large.map(|place| place.max(1)).and_then(|place| sizes.get(place)).map(|(time, _)| (*time).clone());
            let piece = end.is_some() || open;
            let end = end.or_else(|| below.cloned());
            size += whole;
            self.take_until(epoch, end.as_ref(), &mut taken);
            if piece {
                break;
            }
        }
        taken
    }

    /// Takes the records of an epoch that lie below `end`, or all.
    fn take_until(&mut self, epoch: u64, end: Option<&T>, taken: &mut Option<(Capability<T>, Vec<B>)>) {
        while let Some(entry) = self.times.first_entry()
            && entry.key().epoch() == epoch
            && end.is_none_or(|end| entry.key() < end)
        {
            let (time, (cap, batches)) = entry.remove_entry();
            let (_, into) = taken.get_or_insert_with(|| (cap.clone(), Vec::new()));
            for batch in batches {
                match end.and_then(|end| self.split(&time, &batch, end)) {
                    None => into.push(batch),
                    Some((early, first, late)) => {
                        into.push(early);
                        let kept = self.times.entry(first.clone());
                        kept.or_insert_with(|| (cap.delayed(&first), Vec::new())).1.push(late);
                    }
                }
            }
        }
    }

    /// The records of a batch below `end`, and the others with the first time among them; `None`: there are no others.
    fn split(&self, time: &T, batch: &B, end: &T) -> Option<(B, T, B)> {
        let place = |index| (self.place)(time, batch, index);
        let first = (0..batch.len()).map(place).filter(|time| time >= end).min()?;
        let (mut early, mut late) = (B::default(), B::default());
        for index in 0..batch.len() {
            if place(index) < *end { &mut early } else { &mut late }.push_from(batch, index);
        }
        Some((early, first, late))
    }
}

fn size_of_all<B: Batch>(batches: &[B]) -> usize {
    batches.iter().map(Batch::memory_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::super::batch::Natural;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap as Map;
    use timely::dataflow::channels::pact::Exchange;
    use timely::dataflow::operators::capture::Extract;
    use timely::dataflow::operators::{Capture, Input, Probe};

    /// What the gate emits for records (time, value) fed in this order by each of `workers`, with the frontier following
    /// as `advance` says.
    fn gated(feeds: Vec<Vec<(u64, u64)>>, coalesce: usize) -> Vec<(u64, Vec<u64>)> {
        let workers = feeds.len();
        let (sender, receiver) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        timely::execute(timely::Config::process(workers), move |worker| {
            let feed = feeds[worker.index()].clone();
            let sender = sender.lock().unwrap().clone();
            let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<u64>>();
                let gated = stream
                    .unary::<NoopBuilder<Vec<u64>>, _, _, _>(Exchange::new(|_: &u64| 0), "ToOne", |_, _| {
                        |input, output| {
                            input.for_each(|cap, batch| output.session_with_builder(&cap).give_container(batch));
                        }
                    })
                    .gate_coalescing("Gate", Natural, coalesce);
                gated.clone().capture_into(sender);
                let (probe, _) = gated.probe();
                (input, probe)
            });
            let last = feed.last().map_or(0, |(time, _)| *time);
            for (time, value) in feed {
                input.advance_to(time);
                input.send(value);
                worker.step();
            }
            input.advance_to(last + 1);
            input.flush();
            drop(input);
            while !probe.done() {
                worker.step();
            }
        })
        .unwrap();
        receiver.extract().into_iter().filter(|(_, batch)| !batch.is_empty()).collect()
    }

    fn feeds() -> impl Strategy<Value = Vec<Vec<(u64, u64)>>> {
        proptest::collection::vec(
            proptest::collection::vec((0u64..5, any::<u64>()), 0..40).prop_map(|mut feed| {
                feed.sort_by_key(|(time, _)| *time); // a worker's input can't go back
                feed
            }),
            1..4,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_sorted_batch_per_time_whatever_the_arrival_order(feeds in feeds()) {
            let mut oracle: Map<u64, Vec<u64>> = Map::new();
            for (time, value) in feeds.iter().flatten() {
                oracle.entry(*time).or_default().push(*value);
            }
            oracle.values_mut().for_each(|values| values.sort_unstable());
            prop_assert_eq!(gated(feeds, 0), oracle.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn coalescing_changes_the_cuts_and_nothing_else(feeds in feeds()) {
            let mut want: Vec<u64> = feeds.iter().flatten().map(|(_, value)| *value).collect();
            want.sort_unstable();
            let got = gated(feeds, usize::MAX);
            for pair in got.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0);
            }
            let mut all: Vec<u64> = got.into_iter().flat_map(|(_, batch)| batch).collect();
            all.sort_unstable();
            prop_assert_eq!(all, want);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Records of one epoch at growing moments, from two inputs that stand at different places: under pressure what lies
        /// below both and the pressed moment comes out, and nothing else; in the end everything has, in order.
        #[test]
        fn under_pressure_an_open_epoch_comes_in_pieces_that_the_frontier_has_passed(
            feeds in [proptest::collection::vec(1u64..100, 1..40), proptest::collection::vec(1u64..100, 1..40)],
            stand in [1u64..100, 1u64..100],
            press in 1u64..100,
            bytes in 0usize..200,
        ) {
            let (sender, receiver) = std::sync::mpsc::channel();
            let mut sorted = feeds.clone().map(|mut feed| { feed.sort_unstable(); feed });
            let passed = stand[0].min(stand[1]).min(press);
            let at = |seq: u64| crate::change::moment(7, seq);
            timely::execute_directly({
                let sorted = std::mem::take(&mut sorted);
                move |worker| {
                    let (mut inputs, mut presses, probe) = worker.dataflow::<Moment, _, _>(|scope| {
                        let (one, first) = scope.new_input::<Vec<u64>>();
                        let (two, second) = scope.new_input::<Vec<u64>>();
                        let (presses, pressure) = scope.new_input::<Vec<Moment>>();
                        let both = timely::dataflow::operators::Concat::concat(first, second);
                        let gated = both.gate_under_pressure(
                            "Gate",
                            Natural,
                            bytes,
                            pressure,
                            |_, batch, index| crate::change::moment(7, batch[index]),
                        );
                        gated.clone().capture_into(sender.clone());
                        let (probe, _) = gated.probe();
                        ([one, two], presses, probe)
                    });
                    presses.send(at(press));
                    let mut rest = Vec::new();
                    for ((input, feed), stand) in inputs.iter_mut().zip(sorted).zip(stand) {
                        for seq in feed {
                            if seq >= stand {
                                rest.push(seq);
                                continue;
                            }
                            input.advance_to(at(seq));
                            input.send(seq);
                        }
                        input.advance_to(at(stand));
                        input.flush();
                    }
                    presses.advance_to(at(stand[0].max(stand[1])));
                    for _ in 0..20 {
                        worker.step();
                    }
                    sender.send(timely::dataflow::operators::capture::Event::Progress(Vec::new())).unwrap();
                    rest.sort_unstable();
                    for seq in rest {
                        inputs[0].advance_to(at(seq.max(*stand.iter().max().unwrap())));
                        inputs[0].send(seq);
                    }
                    drop(inputs);
                    drop(presses);
                    worker.step_or_park_while(None, || !probe.done());
                }
            });
            // What came before the mark, and what after it.
            let (mut before, mut after, mut marked) = (Vec::new(), Vec::new(), false);
            for event in receiver {
                match event {
                    timely::dataflow::operators::capture::Event::Progress(changes) => marked |= changes.is_empty(),
                    timely::dataflow::operators::capture::Event::Messages(_, batch) => {
                        prop_assert!(batch.is_sorted());
                        if marked { &mut after } else { &mut before }.extend(batch);
                    }
                }
            }
            let mut want: Vec<u64> =
                feeds.iter().zip(stand).flat_map(|(feed, stand)| feed.iter().filter(move |seq| **seq < stand)).copied().collect();
            want.retain(|seq| *seq < passed);
            want.sort_unstable();
            prop_assert!(before.is_sorted(), "pieces come in the order of times");
            prop_assert_eq!(&before, &want);
            let mut all: Vec<u64> = before.into_iter().chain(after).collect();
            all.sort_unstable();
            let mut fed: Vec<u64> = feeds.concat();
            fed.sort_unstable();
            prop_assert_eq!(all, fed);
        }
    }
}
