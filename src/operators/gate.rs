//! The epoch gate: order restored by the frontier, not by luck.
//!
//! Records may arrive in any order and from any worker. The gate keeps what arrives, with the capability for its time,
//! until the input frontier has passed that time: then nothing of it can be missing. It emits everything of the time as
//! one sorted batch. While it holds a record it holds the capability, so nothing downstream can believe the time done.

use std::collections::BTreeMap;

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::order::TotalOrder;
use timely::progress::Timestamp;

use super::batch::{Batch, Order, merge_sorted};

/// Emits sorted batches of closed times.
pub trait Gate<B> {
    /// Emits one sorted batch per closed time, in the order of times.
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

    /// Like [`gate`](Gate::gate), but when the frontier has passed several times at once, their records come as one
    /// sorted batch at the least of these times, as long as it stays below about `bytes`. Behind by a lot, a hot key is
    /// then handled once. Because the batch travels at the least time, nothing downstream believes any of them done
    /// before the batch is.
    fn gate_coalescing<O: Order<B>>(self, name: &str, order: O, bytes: usize) -> Self;
}

impl<'scope, T: Timestamp + TotalOrder, B: Batch> Gate<B> for Stream<'scope, T, B> {
    fn gate<O: Order<B>>(self, name: &str, order: O) -> Self {
        self.gate_coalescing(name, order, 0)
    }

    fn gate_coalescing<O: Order<B>>(self, name: &str, order: O, bytes: usize) -> Self {
        self.unary_frontier::<NoopBuilder<B>, _, _, _>(Pipeline, name, |_, _| {
            let mut held: BTreeMap<T, (Capability<T>, Vec<B>)> = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each(|cap, batch| {
                    let time = cap.least().expect("records carry a time").clone();
                    let (_, batches) = held
                        .entry(time.clone())
                        .or_insert_with(|| (cap.delayed(&time, output.output_index()), Vec::new()));
                    batches.push(std::mem::take(batch));
                });
                while let Some(first) = held.first_entry()
                    && !frontier.less_equal(first.key())
                {
                    let (cap, mut batches) = first.remove();
                    let mut size: usize = batches.iter().map(Batch::memory_bytes).sum();
                    while let Some(next) = held.first_entry()
                        && !frontier.less_equal(next.key())
                    {
                        size += next.get().1.iter().map(Batch::memory_bytes).sum::<usize>();
                        if size > bytes {
                            break;
                        }
                        batches.extend(next.remove().1);
                    }
                    let mut sorted = merge_sorted(&batches, &order);
                    output.session_with_builder(&cap).give_container(&mut sorted);
                }
            }
        })
    }
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
}
