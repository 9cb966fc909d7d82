//! Rows of the transaction that is open, kept back until it is sure that it has an end.
//!
//! Where MariaDB crashes while it writes a transaction, a part of that stays at the end of the file, and its rows were never
//! committed. So few rows are kept back until their transaction has ended; of a large one it is found out, by whoever can,
//! whether it has an end, and its rows are handed on or passed over from there on. What is kept back is not promised either: the
//! next mark says nothing of its numbers.

use crate::source::Raws;

/// Rows of the open transaction.
pub(super) struct Held {
    /// How many bytes are kept back at most.
    bytes_max: usize,
    rows: Raws,
    /// Of a transaction with more, which has that first number: what becomes of its rows.
    large: Option<(u64, Fate)>,
    /// One behind the number of the last row that has been handed on.
    handed: u64,
}

enum Fate {
    /// It has an end.
    HandedOn,
    /// It has none; so many rows were passed over until now, of which the first has that number.
    PassedOver { first: Option<u64>, rows: usize },
}

impl Held {
    pub fn new(bytes_max: usize) -> Held {
        Held { bytes_max, rows: Raws::default(), large: None, handed: 0 }
    }

    /// What is kept back, for more to be added behind it.
    pub fn take(&mut self) -> Raws {
        std::mem::take(&mut self.rows)
    }

    /// Whether it has to be found out whether the transaction from that number on, which is open, has an end.
    pub fn asks(&mut self, from: u64, taken: &Raws) -> bool {
        self.large.take_if(|(large, _)| *large != from);
        let bytes = || (first_of(taken, from)..taken.len()).map(|index| taken.get(index).1.len()).sum::<usize>();
        self.large.is_none() && taken.payload_bytes() > self.bytes_max && bytes() > self.bytes_max
    }

    /// Takes note of whether it has.
    pub fn found(&mut self, from: u64, ends: bool) {
        let fate = if ends { Fate::HandedOn } else { Fate::PassedOver { first: None, rows: 0 } };
        self.large = Some((from, fate));
    }

    /// Takes what is not to be handed on yet, of the transaction from that number on, off what was taken.
    pub fn keep(&mut self, from: u64, taken: &mut Raws) {
        match &mut self.large {
            Some((_, Fate::HandedOn)) => {}
            Some((_, Fate::PassedOver { first, rows })) => {
                let passed = taken.split_off(first_of(taken, from));
                *first = first.or(passed.heads().first().map(|head| head.seq));
                *rows += passed.len();
            }
            None => self.rows = taken.split_off(first_of(taken, from)),
        }
    }

    /// Takes note that those are handed on.
    pub fn hand_on(&mut self, rows: &Raws) {
        self.handed = rows.heads().last().map_or(self.handed, |head| head.seq + 1);
    }

    /// The number of the first row that was taken and not handed on.
    pub fn first(&self) -> Option<u64> {
        match &self.large {
            Some((_, Fate::PassedOver { first, .. })) => *first,
            _ => self.rows.heads().first().map(|head| head.seq),
        }
    }

    /// Forgets the transaction from that number on: it is taken again.
    pub fn forget(&mut self, from: u64, taken: &mut Raws) {
        taken.split_off(first_of(taken, from));
        self.large = None;
    }

    /// Whether what is committed, up to that number, shows that a transaction had an end that was passed over.
    pub fn is_refuted(&self, committed: u64) -> bool {
        matches!(self.large, Some((from, Fate::PassedOver { .. })) if committed > from)
    }

    /// Passes over the transaction from that number on, which the file does not end. How many rows it had; `None`: some have
    /// been handed on.
    pub fn cut_off(&mut self, from: u64, taken: &mut Raws) -> Option<usize> {
        let passed = match self.large.take() {
            Some((large, Fate::PassedOver { rows, .. })) if large == from => rows,
            _ => 0,
        };
        let rows = taken.split_off(first_of(taken, from)).len();
        (self.handed <= from).then_some(passed + rows)
    }
}

/// The place of the first row from a number on.
fn first_of(rows: &Raws, from: u64) -> usize {
    rows.heads().partition_point(|head| head.seq < from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A transaction: its rows, by their bytes, and whether the file ends inside of it.
    type Transaction = (Vec<usize>, bool);

    /// What a reader does with it, over transactions in place of a server.
    struct Model<'a> {
        transactions: &'a [Transaction],
        held: Held,
        /// The transaction that comes next or is open, and how many of its rows were taken.
        at: usize,
        row: usize,
        /// The next number, and the first of the open transaction.
        seq: u64,
        from: u64,
        promised: u64,
    }

    impl Model<'_> {
        fn open(&self) -> Option<u64> {
            (self.row > 0).then_some(self.from)
        }

        /// Takes the next row, or the end.
        fn step(&mut self, taken: &mut Raws) {
            let (rows, cut) = &self.transactions[self.at];
            match rows.get(self.row) {
                Some(bytes) => {
                    if self.seq >= self.promised {
                        taken.push_raw_parts(self.seq, 0, "", &[], &[&vec![0; *bytes], &[]]);
                    }
                    (self.row, self.seq) = (self.row + 1, self.seq + 1);
                }
                None => {
                    let from = self.from;
                    (self.at, self.row, self.from) = (self.at + 1, 0, self.seq);
                    if *cut {
                        let rows = self.held.cut_off(from, taken).expect("no row of it has been handed on");
                        assert!(rows <= (self.seq - from) as usize);
                    }
                }
            }
        }

        /// Loses the connection.
        fn lose(&mut self, taken: &mut Raws) {
            (self.row, self.seq) = (0, self.from);
            self.held.forget(self.from, taken);
        }

        fn read(&mut self, steps: usize, breaks: bool, answers: bool) -> (Raws, u64) {
            let mut taken = self.held.take();
            for _ in 0..steps {
                if self.at < self.transactions.len() {
                    self.step(&mut taken);
                }
            }
            if breaks {
                self.lose(&mut taken);
            }
            let committed = self.open().unwrap_or(self.seq);
            assert!(!self.held.is_refuted(committed));
            if let Some(from) = self.open() {
                if self.held.asks(from, &taken) {
                    match answers {
                        true => self.held.found(from, !self.transactions[self.at].1),
                        false => self.lose(&mut taken),
                    }
                }
                if self.open().is_some() {
                    self.held.keep(from, &mut taken);
                }
            }
            self.held.hand_on(&taken);
            let mark = self.held.first().unwrap_or(self.seq.max(self.promised));
            assert!(mark >= self.promised, "a mark goes back");
            (taken, mark)
        }
    }

    proptest! {
        #[test]
        fn rows_of_transactions_with_an_end_are_handed_on_once_whatever_breaks(
            transactions in proptest::collection::vec((proptest::collection::vec(1usize..40, 1..8), any::<bool>()), 1..12),
            reads in proptest::collection::vec((1usize..6, 0u8..4, 0u8..4), 1..60),
        ) {
            let (mut expected, mut seq) = (Vec::new(), 0);
            for (rows, cut) in &transactions {
                let end = seq + rows.len() as u64;
                expected.extend((seq..end).filter(|_| !cut));
                seq = end;
            }
            let held = Held::new(60);
            let mut model = Model { transactions: &transactions, held, at: 0, row: 0, seq: 0, from: 0, promised: 0 };
            let mut handed = Vec::new();
            // In the end nothing breaks any more.
            let quiet = std::iter::repeat_n((3, 1, 1), 60);
            for (steps, breaks, answers) in reads.into_iter().chain(quiet) {
                let (rows, mark) = model.read(steps, breaks == 0, answers > 0);
                for head in rows.heads() {
                    prop_assert!(model.promised <= head.seq && head.seq < mark, "{} is not what marks said", head.seq);
                    handed.push(head.seq);
                }
                model.promised = mark;
            }
            prop_assert_eq!(handed, expected);
        }
    }

    #[test]
    fn an_end_of_a_transaction_that_was_passed_over_is_noticed() {
        let mut held = Held::new(60);
        held.found(3, false);
        assert!(!held.is_refuted(3), "it is still open");
        assert!(held.is_refuted(5));
        held.found(3, true);
        assert!(!held.is_refuted(5));
    }

    #[test]
    fn rows_that_were_handed_on_are_not_passed_over() {
        let mut rows = Raws::default();
        for seq in [3, 4] {
            rows.push_raw_parts(seq, 0, "", &[], &[&[0; 100], &[]]);
        }
        let mut held = Held::new(60);
        assert!(held.asks(3, &rows));
        held.found(3, true);
        held.keep(3, &mut rows);
        held.hand_on(&rows);
        assert_eq!(held.cut_off(3, &mut rows), None);
        assert_eq!(held.cut_off(5, &mut rows), Some(0), "another one");
    }
}
