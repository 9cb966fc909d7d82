//! The abomonation codec, see the warning on [`super`].
//!
//! What crosses is a triple of byte vectors. abomonation writes the triple as it lies in memory (three pointers, lengths
//! and capacities) and the contents behind it; decoding patches the pointers in place.

use abomonation::measure;
use bytemuck::Pod;

use super::Flat;
use crate::change::Rows;

type Triple = (Vec<u8>, Vec<u8>, Vec<u8>);

fn triple(flat: &Flat) -> Triple {
    (flat.heads.to_vec(), flat.ends.to_vec(), flat.bytes.to_vec())
}

pub(super) fn encoded_len(flat: &Flat) -> usize {
    size_of::<Triple>() + flat.heads.len() + flat.ends.len() + flat.bytes.len()
}

pub(super) fn encode<W: std::io::Write>(flat: &Flat, writer: &mut W) -> std::io::Result<()> {
    let triple = triple(flat);
    debug_assert_eq!(measure(&triple), encoded_len(flat));
    // SAFETY: `encode` is unsafe because it reads padding bytes of what it is given; a triple of vectors is nine words
    // without padding, and its contents are bytes.
    unsafe { abomonation::encode(&triple, writer) }
}

pub(super) fn decode<H: Pod>(body: &[u8]) -> Option<Rows<H>> {
    let mut words = vec![0u64; body.len().div_ceil(8)];
    let buffer: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    buffer[..body.len()].copy_from_slice(body);
    // SAFETY: the buffer is aligned to eight bytes, which a triple of vectors needs, and its contents are bytes, which
    // need no alignment. The bytes come from `encode` of a peer of the same build: timely's connections are between the
    // processes of one cluster, and the codec's tag was checked. The reference does not outlive `words`, and is only
    // read: nothing of the decoded vectors is dropped, grown or freed.
    let (triple, _) = unsafe { abomonation::decode::<Triple>(buffer) }?;
    Flat { heads: &triple.0, ends: &triple.1, bytes: &triple.2 }.rows()
}
