//! `Rows`: a batch of variable-length records in three flat arrays.
//!
//! The idea: a record is a fixed-size head (plain old data, compared and routed without touching memory elsewhere) and a
//! payload of bytes. All heads of a batch lie in one array, all payloads in another, so pushing a record is two appends
//! and never an allocation of its own, a batch crosses a thread as three pointers, and it crosses a process as three
//! memory copies ([`crate::wire`]). Operators exchange, sort and net whole batches without parsing a row.
//!
//! `Rows` is a timely container; what a head means is its user's business ([`crate::change::Head`],
//! [`crate::source::RawHead`]).

use bytemuck::Pod;
use timely::Accountable;
use timely::container::{DrainContainer, PushInto, SizableContainer};

/// A batch is full when its payloads reach this many bytes: large enough that per-batch costs vanish, small enough to
/// stay in a second-level cache.
pub const BATCH_BYTES: usize = 64 << 10;

/// A batch is full when it holds this many records, however small they are.
pub const BATCH_ROWS: usize = 1024;

/// A batch of records, each a head `H` and a payload of bytes.
///
/// ```
/// use tidegate::change::Rows;
/// let mut rows = Rows::<u64>::default();
/// rows.push(7, b"seven");
/// rows.push_parts(8, &[b"ei", b"ght"]);
/// assert_eq!(rows.get(1), (&8, &b"eight"[..]));
/// assert_eq!(rows.payload_bytes(), 10);
/// let last = rows.split_off(1);
/// assert_eq!((rows.len(), last.get(0)), (1, (&8, &b"eight"[..])));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<H> {
    heads: Vec<H>,
    /// Where each payload ends in `bytes`; it begins where the one before it ends.
    ends: Vec<u64>,
    bytes: Vec<u8>,
}

impl<H> Default for Rows<H> {
    fn default() -> Self {
        Rows { heads: Vec::new(), ends: Vec::new(), bytes: Vec::new() }
    }
}

impl<H: Pod> Rows<H> {
    /// An empty batch with room for `rows` records of `bytes` payload bytes in all.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Rows { heads: Vec::with_capacity(rows), ends: Vec::with_capacity(rows), bytes: Vec::with_capacity(bytes) }
    }

    /// Appends one record.
    #[inline]
    pub fn push(&mut self, head: H, payload: &[u8]) {
        self.push_parts(head, &[payload]);
    }

    /// Appends one record whose payload is the concatenation of `parts`.
    #[inline]
    pub fn push_parts(&mut self, head: H, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.heads.push(head);
        self.ends.push(self.bytes.len() as u64);
    }

    /// The number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is no record.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The payload bytes of all records together.
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the batch occupies in memory, in bytes, heads and payloads.
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.heads.len() * (size_of::<H>() + size_of::<u64>())
    }

    /// The head of record `index`.
    #[inline]
    pub fn head(&self, index: usize) -> &H {
        &self.heads[index]
    }

    /// The heads of all records, in order.
    #[inline]
    pub fn heads(&self) -> &[H] {
        &self.heads
    }

    /// The heads of all records, in order, to change in place.
    #[inline]
    pub fn heads_mut(&mut self) -> &mut [H] {
        &mut self.heads
    }

    /// Record `index`: its head and its payload.
    #[inline]
    pub fn get(&self, index: usize) -> (&H, &[u8]) {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        (&self.heads[index], &self.bytes[start..self.ends[index] as usize])
    }

    /// All records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&H, &[u8])> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Removes the last record, if there is one.
    pub fn pop(&mut self) {
        if self.heads.pop().is_some() {
            self.ends.pop();
            self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
        }
    }

    /// Takes away the records from `at` on, and returns them.
    pub fn split_off(&mut self, at: usize) -> Self {
        if at == 0 {
            return std::mem::take(self);
        }
        let start = self.ends[at - 1];
        let ends = self.ends.split_off(at).into_iter().map(|end| end - start).collect();
        Rows { heads: self.heads.split_off(at), ends, bytes: self.bytes.split_off(start as usize) }
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.ends.clear();
        self.bytes.clear();
    }

    /// The three flat arrays: heads, payload ends, payload bytes.
    pub fn as_parts(&self) -> (&[H], &[u64], &[u8]) {
        (&self.heads, &self.ends, &self.bytes)
    }

    /// A batch from its three arrays, or `None` where they do not fit one another.
    pub fn from_parts(heads: Vec<H>, ends: Vec<u64>, bytes: Vec<u8>) -> Option<Self> {
        let fits =
            heads.len() == ends.len() && ends.is_sorted() && ends.last().copied().unwrap_or(0) == bytes.len() as u64;
        fits.then_some(Rows { heads, ends, bytes })
    }
}

/// One record on its way from one batch to another.
pub type Row<'a, H> = (H, &'a [u8]);

impl<'a, H: Pod> PushInto<Row<'a, H>> for Rows<H> {
    #[inline]
    fn push_into(&mut self, (head, payload): Row<'a, H>) {
        self.push(head, payload);
    }
}

impl<H: Pod> Accountable for Rows<H> {
    #[inline]
    fn record_count(&self) -> i64 {
        self.heads.len() as i64
    }
}

impl<H: Pod> SizableContainer for Rows<H> {
    #[inline]
    fn at_capacity(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.heads.len() >= BATCH_ROWS
    }

    fn ensure_capacity(&mut self, stash: &mut Option<Self>) {
        if self.heads.capacity() == 0
            && let Some(mut stash) = stash.take()
        {
            stash.clear();
            *self = stash;
        }
    }
}

impl<H: Pod> DrainContainer for Rows<H> {
    type Item<'a> = Row<'a, H>;
    type DrainIter<'a> = Drain<'a, H>;

    fn drain(&mut self) -> Drain<'_, H> {
        Drain { rows: self, next: 0 }
    }
}

/// Iterator over the records of a batch, by [`DrainContainer::drain`].
#[derive(Debug)]
pub struct Drain<'a, H> {
    rows: &'a Rows<H>,
    next: usize,
}

impl<'a, H: Pod> Iterator for Drain<'a, H> {
    type Item = Row<'a, H>;

    #[inline]
    fn next(&mut self) -> Option<Row<'a, H>> {
        if self.next == self.rows.len() {
            return None;
        }
        let (head, payload) = self.rows.get(self.next);
        self.next += 1;
        Some((*head, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_gives_every_record_in_order_and_clearing_forgets_them() {
        let mut rows = Rows::<u64>::default();
        for i in 0..100u64 {
            rows.push(i, &i.to_le_bytes()[..(i % 9) as usize % 8]);
        }
        let seen: Vec<(u64, Vec<u8>)> = rows.drain().map(|(h, p)| (h, p.to_vec())).collect();
        assert_eq!(seen.len(), 100);
        for (i, (head, payload)) in seen.iter().enumerate() {
            assert_eq!(*head, i as u64);
            assert_eq!(payload[..], head.to_le_bytes()[..(i % 9) % 8]);
        }
        rows.pop();
        assert_eq!((rows.len(), rows.get(98).0), (99, &98));
        rows.push(7, b"again");
        assert_eq!(rows.get(99), (&7, &b"again"[..]));
        rows.clear();
        rows.pop();
        assert!(rows.is_empty() && rows.payload_bytes() == 0);
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(Rows::from_parts(vec![1u64], vec![3], b"abc".to_vec()).is_some());
        assert!(Rows::from_parts(vec![1u64], vec![2], b"abc".to_vec()).is_none());
        assert!(Rows::from_parts(vec![1u64, 2], vec![3, 2], b"ab".to_vec()).is_none());
        assert!(Rows::from_parts(vec![1u64], vec![], b"".to_vec()).is_none());
    }

    #[test]
    fn a_full_batch_says_so_by_bytes_and_by_count() {
        let mut rows = Rows::<u64>::default();
        rows.push(1, &vec![0; BATCH_BYTES]);
        assert!(rows.at_capacity());
        rows.clear();
        for _ in 0..BATCH_ROWS {
            assert!(!rows.at_capacity());
            rows.push(1, b"");
        }
        assert!(rows.at_capacity());
    }
}
