//! Split: one stream of net changes becomes three, for three typed sinks.

use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};
use timely::progress::Timestamp;

use super::net::Netted;
use crate::change::Op;

/// The streams of [`SplitByOp::split`]. Within a time the first three touch disjoint keys.
#[derive(Debug)]
pub struct Split<S> {
    /// Keys that were not there and now are.
    pub inserts: S,
    /// Keys that were there and now have another row.
    pub updates: S,
    /// Keys that are gone.
    pub deletes: S,
    /// What has gone under in them, and is not implied by them: see [`Net`](super::Net).
    pub marks: S,
}

/// Splits a stream of changes by what they do.
pub trait SplitByOp: Sized {
    /// The inserts, the updates, the deletes and the marks of each batch, in its order. Schemas end here.
    ///
    /// ```
    /// use timely::dataflow::operators::{Inspect, ToStream};
    /// use tidegate::change::Op;
    /// use tidegate::operators::SplitByOp;
    /// timely::example(|scope| {
    ///     let split = vec![("a", Op::Insert, 1), ("b", Op::Delete, 2)].to_stream(scope).container::<Vec<_>>().split();
    ///     split.inserts.inspect(|change| assert_eq!(change.0, "a"));
    ///     split.deletes.inspect(|change| assert_eq!(change.0, "b"));
    /// });
    /// ```
    fn split(self) -> Split<Self>;
}

impl<'scope, T: Timestamp, B: Netted> SplitByOp for Stream<'scope, T, B> {
    fn split(self) -> Split<Self> {
        let mut builder = OperatorBuilder::new("Split".to_owned(), self.scope());
        let mut input = builder.new_input(self, Pipeline);
        let mut output = || {
            let (output, stream) = builder.new_output::<B>();
            (OutputBuilder::<T, NoopBuilder<B>>::from(output), stream)
        };
        let (mut inserts, insert_stream) = output();
        let (mut updates, update_stream) = output();
        let (mut deletes, delete_stream) = output();
        let (mut marks, mark_stream) = output();
        builder.build(move |_capabilities| {
            move |_frontiers| {
                let (mut inserts, mut updates, mut deletes, mut marks) =
                    (inserts.activate(), updates.activate(), deletes.activate(), marks.activate());
                input.for_each(|cap, batch| {
                    let [mut inserted, mut updated, mut deleted, mut marked] = split_of(batch);
                    inserts.session_with_builder(&cap).give_container(&mut inserted);
                    updates.session_with_builder(&cap).give_container(&mut updated);
                    deletes.session_with_builder(&cap).give_container(&mut deleted);
                    marks.session_with_builder(&cap).give_container(&mut marked);
                });
            }
        });
        Split { inserts: insert_stream, updates: update_stream, deletes: delete_stream, marks: mark_stream }
    }
}

/// The inserts, updates, deletes and marks of a batch, each in the batch's order.
fn split_of<B: Netted>(batch: &B) -> [B; 4] {
    let mut parts = [B::default(), B::default(), B::default(), B::default()];
    for index in 0..batch.len() {
        match batch.op(index) {
            op @ (Op::Insert | Op::Update | Op::Delete) => parts[op as usize].push_from(batch, index),
            Op::Mark => parts[3].push_from(batch, index),
            Op::Schema => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_change_comes_out_once_in_its_own_stream(ops in proptest::collection::vec(0u8..5, 0..50)) {
            let op = |n: u8| [Op::Insert, Op::Update, Op::Delete, Op::Schema, Op::Mark][usize::from(n)];
            let batch: Vec<(usize, Op, ())> = ops.iter().enumerate().map(|(n, o)| (n, op(*o), ())).collect();
            let parts = split_of(&batch);
            for (part, wanted) in parts.iter().zip([Op::Insert, Op::Update, Op::Delete, Op::Mark]) {
                let naive: Vec<_> = batch.iter().filter(|(_, o, _)| *o == wanted).cloned().collect();
                prop_assert_eq!(part, &naive);
            }
        }
    }
}
