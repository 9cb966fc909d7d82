//! Dead letters: input that can't be used, kept aside where the configuration says so.
//!
//! A line of the file is one JSON object with the place, the reason and the input. What may be kept aside twice after a
//! restart is never lost: a letter is on disk before what it stands for is passed over.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

/// Where dead letters go, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters(Option<PathBuf>);

/// One of them. Bytes that are no UTF-8 are shown with U+FFFD.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadLetter {
    /// Where it was: topic/partition/offset, file:line, binlog file:offset.
    pub position: String,
    /// What is wrong with it.
    pub reason: String,
    /// Its table, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What was to be done, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<&'static str>,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl DeadLetters {
    /// Kept in that file; `None`: not at all.
    pub fn new(file: Option<PathBuf>) -> Self {
        DeadLetters(file)
    }

    /// Whether they are kept.
    pub fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps one.
    ///
    /// # Errors
    /// The letter in one sentence where none are kept; that the file can't be written.
    pub fn keep(&self, letter: &DeadLetter) -> Result<(), String> {
        let Some(file) = &self.0 else { return Err(format!("{}: {}", letter.position, letter.reason)) };
        let mut line = serde_json::to_vec(letter).expect("a letter is plain data");
        line.push(b'\n');
        let written = OpenOptions::new().create(true).append(true).open(file).and_then(|mut file| {
            file.write_all(&line)?;
            file.sync_data()
        });
        written.map_err(|error| format!("dead letters: {}: {error}", file.display()))
    }
}

/// Bytes as text for a letter.
pub fn text_of(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}
