//! Rows of one side of one large chunk, dealt into buckets by the hash of their key.
//!
//! Rows that can't be cut into ranges of keys are read whole, in the order their server likes. Two such orders have nothing
//! to do with each other, so the rows' hashes are kept, 32 bytes each, until both sides are complete, and then compared
//! bucket by bucket. What is more than [`MEMORY_ROWS`] goes to a file without a name, a run at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::VerifyError;
use super::read::Record;

/// Buckets of a chunk: so many that one of them fits in memory however large the chunk is.
pub const BUCKETS: usize = 1024;

/// So many rows of a side are kept in memory: 32 MB.
const MEMORY_ROWS: usize = 1 << 20;

/// The rows of one side.
#[derive(Default)]
pub struct Spill {
    buckets: Vec<Vec<Record>>,
    /// Rows in `buckets`.
    held: usize,
    /// Rows in all.
    rows: u64,
    file: Option<File>,
    /// Rows in the file.
    written: u64,
    /// For each run in the file where each bucket begins, in rows; and the run's end.
    runs: Vec<Vec<u64>>,
}

impl Spill {
    /// An empty one.
    pub fn new() -> Self {
        Spill { buckets: vec![Vec::new(); BUCKETS], ..Spill::default() }
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The temporary folder is full or can't be written.
    pub fn push(&mut self, record: Record) -> Result<(), VerifyError> {
        if self.held == MEMORY_ROWS {
            self.flush().map_err(|error| {
                VerifyError(format!(
                    "rows without ranges of integer keys are kept in {}, which can't be written ({error}): make room or set TMPDIR",
                    std::env::temp_dir().display()
                ))
            })?;
        }
        self.buckets[bucket(&record)].push(record);
        self.held += 1;
        self.rows += 1;
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.file.is_none() {
            self.file = Some(nameless_file()?);
        }
        let file = self.file.as_ref().expect("just made");
        let mut starts = Vec::with_capacity(BUCKETS + 1);
        let mut run: Vec<u8> = Vec::with_capacity(self.held * size_of::<Record>());
        for bucket in &mut self.buckets {
            starts.push(self.written + (run.len() / size_of::<Record>()) as u64);
            run.extend_from_slice(bytemuck::cast_slice(bucket));
            bucket.clear();
        }
        file.write_all_at(&run, self.written * size_of::<Record>() as u64)?;
        self.written += self.held as u64;
        starts.push(self.written);
        self.runs.push(starts);
        self.held = 0;
        Ok(())
    }

    /// Hands out all rows of a bucket, in pieces.
    ///
    /// # Errors
    /// The file can't be read, or what `each` returned.
    pub fn bucket(
        &self,
        bucket: usize,
        mut each: impl FnMut(&[Record]) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        each(&self.buckets[bucket])?;
        for starts in &self.runs {
            let (start, end) = (starts[bucket], starts[bucket + 1]);
            let mut piece = vec![Record::default(); (end - start) as usize];
            if let (Some(file), false) = (&self.file, piece.is_empty()) {
                file.read_exact_at(bytemuck::cast_slice_mut(&mut piece), start * size_of::<Record>() as u64)
                    .map_err(|error| VerifyError(format!("the temporary file of verify can't be read: {error}")))?;
            }
            each(&piece)?;
        }
        Ok(())
    }
}

fn bucket(record: &Record) -> usize {
    (record.key >> 118) as usize
}

/// A file that is gone when it is closed, however the process ends.
fn nameless_file() -> std::io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("tidegate-verify-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_out_of_its_bucket_once_from_memory_and_from_the_file() {
        let rows = 2 * MEMORY_ROWS as u64 + 12_345;
        let mut spill = Spill::new();
        for n in 0..rows {
            let key = xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes());
            spill.push(Record { key, row: u128::from(n) }).unwrap();
        }
        assert!(spill.file.is_some() && spill.rows() == rows);
        let mut seen = vec![false; rows as usize];
        for number in 0..BUCKETS {
            spill
                .bucket(number, |records| {
                    for record in records {
                        assert_eq!(bucket(record), number);
                        assert!(!std::mem::replace(&mut seen[record.row as usize], true));
                    }
                    Ok(())
                })
                .unwrap();
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}
