//! How a batch crosses from one process to another.
//!
//! A [`Rows`] is already three flat arrays, so every codec here moves whole arrays, never rows: nothing is walked, nothing
//! is allocated per row, and what separates the codecs is how many times the bytes are copied. One switch, [`select`],
//! picks the codec for what this process *writes*; the first word of a message names its codec, so that a reader
//! understands any of them whatever its own setting.
//!
//! | codec | write | read |
//! |---|---|---|
//! | `columnar` (the default: fastest that is sound) | one copy into the send buffer | one copy out of it |
//! | `bincode` | the same through serde (`serde_bytes`, so that byte arrays stay arrays) | the same |
//! | `abomonation` (cargo feature of that name) | one more copy | two more copies |
//!
//! **abomonation is unsound in general** (RUSTSEC-2021-0120): it turns bytes into live Rust values in place. It is here
//! for comparison, off unless built in, and fenced in: only byte vectors cross, so nothing inside a message needs more
//! than the alignment of its head; the message is copied into a buffer aligned for that head before decoding, because
//! timely hands out read-only bytes of any alignment; and the decoded value is only read to copy the bytes out.

use std::sync::atomic::{AtomicU8, Ordering};

use bytemuck::Pod;
use serde::{Deserialize, Serialize};
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

use crate::change::Rows;

#[cfg(feature = "abomonation")]
mod abomonate;

/// How batches are laid out between processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// The `columnar` crate's indexed encoding of the three arrays.
    #[default]
    Columnar,
    /// bincode with `serde_bytes`.
    Bincode,
    /// abomonation; unsound in general, see the module's page.
    #[cfg(feature = "abomonation")]
    Abomonation,
}

impl Codec {
    /// Every codec that is built in.
    pub const ALL: &'static [Codec] = &[
        Codec::Columnar,
        Codec::Bincode,
        #[cfg(feature = "abomonation")]
        Codec::Abomonation,
    ];

    fn tag(self) -> u64 {
        match self {
            Codec::Columnar => 0,
            Codec::Bincode => 1,
            #[cfg(feature = "abomonation")]
            Codec::Abomonation => 2,
        }
    }

    fn from_tag(tag: u64) -> Option<Codec> {
        Codec::ALL.iter().copied().find(|codec| codec.tag() == tag)
    }
}

static SELECTED: AtomicU8 = AtomicU8::new(0);

/// Chooses the codec for everything that this process sends from now on.
pub fn select(codec: Codec) {
    SELECTED.store(codec.tag() as u8, Ordering::Relaxed);
}

/// The codec in force.
pub fn selected() -> Codec {
    Codec::from_tag(u64::from(SELECTED.load(Ordering::Relaxed))).expect("only select() stores a tag")
}

/// The three arrays of a batch as bytes, for serde.
#[derive(Serialize, Deserialize)]
struct Flat<'a> {
    #[serde(borrow, with = "serde_bytes")]
    heads: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    ends: &'a [u8],
    #[serde(borrow, with = "serde_bytes")]
    bytes: &'a [u8],
}

impl<'a> Flat<'a> {
    fn of<H: Pod>(rows: &'a Rows<H>) -> Self {
        let (heads, ends, bytes) = rows.as_parts();
        Flat { heads: bytemuck::cast_slice(heads), ends: bytemuck::cast_slice(ends), bytes }
    }

    fn slices(&self) -> (&'a [u8], &'a [u8], &'a [u8]) {
        (self.heads, self.ends, self.bytes)
    }

    fn rows<H: Pod>(&self) -> Option<Rows<H>> {
        if !self.heads.len().is_multiple_of(size_of::<H>()) || !self.ends.len().is_multiple_of(8) {
            return None;
        }
        Rows::from_parts(
            bytemuck::allocation::pod_collect_to_vec(self.heads),
            bytemuck::allocation::pod_collect_to_vec(self.ends),
            self.bytes.to_vec(),
        )
    }
}

const TAG_BYTES: usize = 8;

/// The size of what a codec writes of the arrays, in bytes; behind it comes padding.
fn body_len(codec: Codec, flat: &Flat) -> usize {
    match codec {
        Codec::Columnar => columnar::bytes::indexed::length_in_bytes(&flat.slices()),
        Codec::Bincode => bincode::serialized_size(flat).expect("sizes of byte slices add up") as usize,
        #[cfg(feature = "abomonation")]
        Codec::Abomonation => abomonate::encoded_len(flat),
    }
}

/// The encoded size of `rows` in bytes, a multiple of eight.
pub fn encoded_len<H: Pod>(codec: Codec, rows: &Rows<H>) -> usize {
    (TAG_BYTES + body_len(codec, &Flat::of(rows))).next_multiple_of(8)
}

/// Writes `rows`: exactly [`encoded_len`] bytes.
pub fn encode<H: Pod, W: std::io::Write>(codec: Codec, rows: &Rows<H>, writer: &mut W) -> std::io::Result<()> {
    let flat = Flat::of(rows);
    writer.write_all(&codec.tag().to_le_bytes())?;
    match codec {
        Codec::Columnar => columnar::bytes::indexed::write(writer, &flat.slices())?,
        Codec::Bincode => bincode::serialize_into(&mut *writer, &flat).map_err(std::io::Error::other)?,
        #[cfg(feature = "abomonation")]
        Codec::Abomonation => abomonate::encode(&flat, writer)?,
    }
    let body = body_len(codec, &flat);
    writer.write_all(&[0; 8][..body.next_multiple_of(8) - body])
}

/// Reads what [`encode`] wrote; `None` where the bytes are not that.
pub fn decode<H: Pod>(bytes: &[u8]) -> Option<Rows<H>> {
    let (tag, body) = bytes.split_at_checked(TAG_BYTES)?;
    match Codec::from_tag(u64::from_le_bytes(tag.try_into().ok()?))? {
        Codec::Columnar => decode_columnar(body),
        Codec::Bincode => {
            // The padding behind the value is not an error.
            bincode::deserialize::<Flat>(body).ok()?.rows()
        }
        #[cfg(feature = "abomonation")]
        Codec::Abomonation => abomonate::decode(body),
    }
}

fn decode_columnar<H: Pod>(body: &[u8]) -> Option<Rows<H>> {
    // timely aligns messages to words, but does not promise it.
    let copied: Vec<u64>;
    let words: &[u64] = match bytemuck::try_cast_slice(body) {
        Ok(words) => words,
        Err(_) => {
            copied = bytemuck::allocation::pod_collect_to_vec(&body[..body.len() / 8 * 8]);
            &copied
        }
    };
    columnar::bytes::indexed::validate_structure(words, 3).ok()?;
    let mut slices = columnar::bytes::indexed::decode(words);
    let mut next = || slices.next();
    let (heads, ends, bytes) = (next()?, next()?, next()?);
    Flat { heads, ends, bytes }.rows()
}

impl<H: Pod> ContainerBytes for Rows<H> {
    fn from_bytes(bytes: Bytes) -> Self {
        decode(&bytes).expect("a batch from a tidegate process of another version: run the same build everywhere")
    }

    fn length_in_bytes(&self) -> usize {
        encoded_len(selected(), self)
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        encode(selected(), self, writer).expect("timely's send buffer has the size that was asked for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_codec_gives_back_what_it_was_given(
            records in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..50),
            shift in 0usize..8,
        ) {
            let mut rows = Rows::<u64>::default();
            for (head, payload) in &records {
                rows.push(*head, payload);
            }
            for &codec in Codec::ALL {
                let mut encoded = vec![0xAA; shift];
                encode(codec, &rows, &mut encoded).unwrap();
                prop_assert_eq!(encoded.len() - shift, encoded_len(codec, &rows), "{:?}", codec);
                // Wherever the message lies in memory, aligned or not.
                prop_assert_eq!(decode::<u64>(&encoded[shift..]), Some(rows.clone()), "{:?}", codec);
            }
        }

        #[test]
        fn no_bytes_make_a_sound_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0u64..2) {
            let mut message = tag.to_le_bytes().to_vec();
            message.extend(bytes);
            let _ = decode::<u64>(&message);
        }
    }
}
