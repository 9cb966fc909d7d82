//! What is known of what came before a place in a partition, where nobody states it.

use serde::{Deserialize, Serialize};

/// Of a place to read on from: what is known of what came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookBack {
    /// Of what is older than this event time (ms) something newer may have come before the place.
    pub judged_from: u64,
    /// All records with lower offsets are durable, or have been decided about.
    pub read: u64,
    /// Their newest event time (ms).
    pub newest: u64,
    /// By how many ms at most a record might come late in any run until then: what came so late may have been applied.
    pub horizon_max: u64,
}

impl LookBack {
    /// Of the beginning of a job, at the offset `read`.
    pub fn nothing(read: u64) -> LookBack {
        LookBack { judged_from: 0, read, newest: 0, horizon_max: 0 }
    }

    /// Where to read on, and what is known there: from `offset`, the place that this was kept with, or if retention has deleted
    /// what is below `low`, from behind what is durable. `None`: retention has deleted more. `applied` is the newest event
    /// time (ms) of what any run has applied.
    pub fn resume(self, offset: u64, low: u64, applied: Option<u64>) -> Option<(u64, LookBack)> {
        // Of what came before, nothing newer is applied than the newest of it, or of all.
        let judged_from = applied.map_or(0, |applied| self.newest.min(applied) + 1);
        match low {
            _ if low <= offset => Some((offset, self)),
            _ if low <= self.read => Some((self.read, LookBack { judged_from, ..self })),
            _ => None,
        }
    }
}
