//! What `publish` and `land` say of their work, on stdout: where they begin, every ten seconds how far they are, and what
//! they have done in the end. Errors have stderr to themselves.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidegate::change::Changes;
use tidegate::letter::DeadLetters;
use tidegate::source::now_ms;

/// How often it is said how far the work is, while there is any.
const EVERY: Duration = Duration::from_secs(10);
/// How many times as long it is not said again that there is none.
const IDLE: u32 = 60;

/// Writes a line to stdout. A reader that is gone is no reason to stop.
pub fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What one process has done so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    done: Arc<Done>,
    letters: DeadLetters,
}

#[derive(Debug, Default)]
struct Done {
    rows: AtomicU64,
    /// Commit time of the newest (ms).
    newest: AtomicU64,
}

/// What is on its way to being done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    rows: u64,
    newest: u64,
}

impl Work {
    /// The work that a batch is; marks and schemas are none.
    pub fn of(batch: &Changes) -> Work {
        let rows = batch.heads().iter().filter(|head| head.op().is_row());
        rows.fold(Work::default(), |work, head| Work { rows: work.rows + 1, newest: work.newest.max(head.time) })
    }
}

impl Report {
    /// Of work whose unusable input goes to `letters`.
    pub fn new(letters: DeadLetters) -> Report {
        Report { letters, ..Report::default() }
    }

    /// Counts work that is durable.
    pub fn add(&self, work: Work) {
        self.done.rows.fetch_add(work.rows, Ordering::Relaxed);
        self.done.newest.fetch_max(work.newest, Ordering::Relaxed);
    }

    /// Says from now on every ten seconds how far `command` is, `did` being what it does to rows.
    pub fn start(&self, command: &'static str, did: &'static str) {
        let Report { done, letters } = self.clone();
        std::thread::spawn(move || {
            let (mut before, mut at, mut idle) = (0, Instant::now(), 0);
            loop {
                std::thread::sleep(EVERY);
                let rows = done.rows.load(Ordering::Relaxed);
                if rows == before {
                    if idle % IDLE == 0 {
                        say(&format_args!("{command}: {rows} changes {did}{}, nothing new", dead(&letters)));
                    }
                    idle += 1;
                } else {
                    idle = 0;
                    let rate = (rows - before) as f64 / at.elapsed().as_secs_f64();
                    let age = now_ms().saturating_sub(done.newest.load(Ordering::Relaxed));
                    let letters = dead(&letters);
                    say(&format_args!(
                        "{command}: {rows} changes {did}{letters}, {rate:.0}/s, the newest {} old",
                        ago(age)
                    ));
                }
                (before, at) = (rows, Instant::now());
            }
        });
    }

    /// Says what `command` has done.
    pub fn end(&self, command: &str, did: &str) {
        say(&format_args!(
            "{command}: stopped in good order, {} changes {did}{}",
            self.done.rows.load(Ordering::Relaxed),
            dead(&self.letters)
        ));
    }
}

/// That there are dead letters, if there are.
fn dead(letters: &DeadLetters) -> String {
    match letters.kept() {
        0 => String::new(),
        1 => ", 1 dead letter".into(),
        kept => format!(", {kept} dead letters"),
    }
}

fn ago(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
