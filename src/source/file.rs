//! Files as sources: DTS records one after the other, and JSON lines of an envelope of our own.
//!
//! A file ends, and then its [`Mark`] says so. The place to read again from is a byte offset; a JSON line is known to
//! people by its number, so the number is kept beside the offset.
//!
//! A JSON line: `{"op":"insert","database":"shop","table":"orders","time":1760000000123,"key":["id"],"row":{…}}`. For
//! `update` there may be a `before`, for `delete` the row is the one before. Without `time` (ms) a line has the clock's.
//! See [`JsonlDecoder`] for types.

mod jsonl;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::change::{BATCH_BYTES, BATCH_ROWS, TableFilter};
use crate::config::FileConfig;
use crate::source::dts::{Begin, Records};
use crate::source::{Mark, Raws, Reader, SourceError, Start, now_ms};

pub use jsonl::{JsonlDecoder, JsonlReader};

/// A file that is read front to back.
struct Input {
    path: PathBuf,
    file: BufReader<File>,
    /// The offset of the next byte.
    at: u64,
    /// Its length when it was opened; what is appended later is for the next run.
    len: u64,
}

impl Input {
    fn open(path: &Path, at: u64) -> Result<Input, SourceError> {
        let failed = |error| SourceError::Source(format!("{} can't be read: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if at > len {
            return Err(SourceError::Source(format!(
                "{} has {len} bytes, and an earlier run of the job had read {at}: it is not the file it was",
                path.display()
            )));
        }
        let mut file = BufReader::with_capacity(1 << 18, file);
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        Ok(Input { path: path.to_path_buf(), file, at, len })
    }

    fn failed(&self, error: &std::io::Error) -> SourceError {
        SourceError::Source(format!("{} can't be read at byte {}: {error}", self.path.display(), self.at))
    }

    fn position(&self, what: impl std::fmt::Display) -> String {
        format!("{}:{what}", self.path.display())
    }

    /// Reads one datum behind its length (u32, big-endian). Returns whether there was one.
    fn datum(&mut self, datum: &mut Vec<u8>) -> Result<bool, SourceError> {
        if self.at >= self.len {
            return Ok(false);
        }
        let cut = |input: &Input, error: &std::io::Error| match error.kind() {
            // No record comes behind it that could be gone on with.
            ErrorKind::UnexpectedEof => SourceError::Source(format!(
                "{}: the file ends inside a record; it is cut short, or is no file of DTS records",
                input.position(input.at)
            )),
            _ => input.failed(error),
        };
        let mut len = [0; 4];
        self.file.read_exact(&mut len).map_err(|error| cut(self, &error))?;
        let len = u64::from(u32::from_be_bytes(len));
        if self.at + 4 + len > self.len {
            return Err(cut(self, &ErrorKind::UnexpectedEof.into())); // before the memory for it is taken
        }
        datum.resize(len as usize, 0);
        self.file.read_exact(datum).map_err(|error| cut(self, &error))?;
        self.at += 4 + len;
        Ok(true)
    }
}

/// Reader of a file of DTS records, each behind its length (u32, big-endian). A record of two bytes or less is passed
/// over, as in a topic.
pub struct DtsFileReader {
    input: Input,
    records: Records,
    datum: Vec<u8>,
}

impl DtsFileReader {
    /// Opens the file at the place where to begin.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn open(config: &FileConfig, start: &Start) -> Result<DtsFileReader, SourceError> {
        let filter = TableFilter::new(&config.tables).map_err(SourceError::Source)?;
        let begin = Begin::of(start)?;
        let input = Input::open(&config.path, begin.place.unwrap_or(0))?;
        Ok(DtsFileReader { input, records: Records::new(filter, &begin), datum: Vec::new() })
    }
}

impl Reader for DtsFileReader {
    fn begun(&self) -> Mark {
        self.records.mark(self.input.at, false)
    }

    fn read(&mut self, out: &mut Raws) -> Result<Mark, SourceError> {
        let now = now_ms();
        let begun = self.input.at;
        // A file of nothing wanted gives marks too.
        while out.payload_bytes() < BATCH_BYTES && out.len() < BATCH_ROWS && self.input.at - begun < (1 << 24) {
            let at = self.input.at;
            if !self.input.datum(&mut self.datum)? {
                return Ok(self.records.mark(at, true));
            }
            let show = |position: &str| format!("{position} {}", self.input.position(at));
            self.records.take(&self.datum, at, now, show, out);
        }
        Ok(self.records.mark(self.input.at, false))
    }
}
