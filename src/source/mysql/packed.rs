//! A compressed transaction, which is one event, as the events inside of it: unpacked one by one, so that it takes no more
//! memory than its compressed bytes, however many rows it has.

use std::io::{self, BufRead, BufReader, Cursor};

use mysql::binlog::events::{Event, TransactionPayloadEvent};
use mysql_common::binlog::EventStreamReader;
use mysql_common::binlog::consts::{BinlogVersion, TransactionPayloadCompressionType};

/// What is left of a compressed transaction.
pub(super) struct Packed {
    bytes: Box<dyn BufRead + Send>,
    events: EventStreamReader,
    /// Where the event ends that it is.
    pub end: u32,
}

impl Packed {
    /// The transaction that an event is which ends at `end`.
    ///
    /// # Errors
    /// It is none.
    pub fn new(event: &TransactionPayloadEvent<'_>, end: u32) -> io::Result<Packed> {
        let packed = Cursor::new(event.payload_raw().to_vec());
        let bytes: Box<dyn BufRead + Send> = match event.algorithm() {
            TransactionPayloadCompressionType::NONE => Box::new(packed),
            TransactionPayloadCompressionType::ZSTD => Box::new(BufReader::new(zstd::Decoder::with_buffer(packed)?)),
        };
        Ok(Packed { bytes, events: EventStreamReader::new(BinlogVersion::Version4), end })
    }

    /// Whether all events have been taken.
    ///
    /// # Errors
    /// What is left can't be unpacked.
    pub fn is_empty(&mut self) -> io::Result<bool> {
        Ok(self.bytes.fill_buf()?.is_empty())
    }

    /// The next event.
    ///
    /// # Errors
    /// It can't be unpacked, or there is none.
    pub fn next(&mut self) -> io::Result<Event> {
        self.events.read_decompressed(&mut self.bytes)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
