//! Dead letters: input that can't be used, kept aside where the configuration says so.
//!
//! A line of the file is one JSON object with the place, the reason and the input. What may be kept aside twice after a
//! restart is never lost: a letter is on disk before what it stands for is passed over.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Where dead letters go, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    file: Option<PathBuf>,
    kept: Arc<AtomicU64>,
}

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
        DeadLetters { file, kept: Arc::default() }
    }

    /// That they can be kept, before the first one has to be.
    ///
    /// # Errors
    /// That the file can't be written.
    pub fn check(&self) -> Result<(), String> {
        let Some(file) = &self.file else { return Ok(()) };
        // Nothing is made where nothing is kept yet; another process may begin to keep some meanwhile.
        let mut beside = file.clone().into_os_string();
        beside.push(format!(".{}", std::process::id()));
        let made = match file.exists() {
            true => OpenOptions::new().append(true).open(file).map(drop),
            // One that a kill has left there, perhaps under a number that comes again, refuses nothing.
            false => OpenOptions::new().create(true).append(true).open(&beside).map(|_| {
                let _ = std::fs::remove_file(&beside);
            }),
        };
        made.map_err(|error| format!("dead_letter = \"{}\" can't be written: {error}", file.display()))
    }

    /// Whether they are kept.
    pub fn are_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Keeps one.
    ///
    /// # Errors
    /// The letter in one sentence where none are kept; that the file can't be written.
    pub fn keep(&self, letter: &DeadLetter) -> Result<(), String> {
        self.keep_all(std::slice::from_ref(letter))
    }

    /// Keeps some; the disk is waited for once.
    ///
    /// # Errors
    /// As [`keep`](DeadLetters::keep), of the first.
    pub fn keep_all(&self, letters: &[DeadLetter]) -> Result<(), String> {
        let Some(first) = letters.first() else { return Ok(()) };
        let Some(file) = &self.file else { return Err(format!("{}: {}", first.position, first.reason)) };
        let mut lines = Vec::new();
        for letter in letters {
            serde_json::to_writer(&mut lines, letter).expect("a letter is plain data");
            lines.push(b'\n');
        }
        let written = OpenOptions::new().create(true).append(true).open(file).and_then(|mut file| {
            file.write_all(&lines)?;
            file.sync_data()
        });
        written.map_err(|error| format!("dead letters: {}: {error}", file.display()))?;
        self.kept.fetch_add(letters.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How many this process has kept.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}

/// Bytes as text for a letter.
pub fn text_of(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_lines_of_a_file_or_none_is_kept() {
        let letter =
            |position: &str| DeadLetter { position: position.into(), reason: "why".into(), ..DeadLetter::default() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("letters");
        let letters = DeadLetters::new(Some(file.clone()));
        letters.keep_all(&[]).unwrap();
        letters.check().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing to be kept");
        letters.keep_all(&[letter("a"), letter("b")]).unwrap();
        letters.clone().keep(&letter("c")).unwrap();
        letters.check().unwrap();
        assert_eq!(letters.kept(), 3);
        let nowhere = DeadLetters::new(Some(folder.path().join("no/letters"))).check().unwrap_err();
        assert!(
            nowhere.starts_with("dead_letter = \"") && nowhere.contains("no/letters\" can't be written: "),
            "{nowhere}"
        );
        let line = |position: &str| format!("{{\"position\":\"{position}\",\"reason\":\"why\"}}\n");
        assert_eq!(std::fs::read_to_string(file).unwrap(), [line("a"), line("b"), line("c")].concat());
        assert_eq!(DeadLetters::default().keep_all(&[letter("a"), letter("b")]).unwrap_err(), "a: why");
    }
}
