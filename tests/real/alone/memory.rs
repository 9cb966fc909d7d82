//! Memory stays under a stated limit, whatever comes: a transaction larger than it, a long backlog, a target that stands
//! still. The README states the limit; `ROWS` says how much comes.

use std::io::{BufWriter, Write};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::job::{Job, env};
use mysql::prelude::Queryable;

/// `[publish] memory` and `[land] memory`.
const MEMORY_MB: u64 = 16;
const WORKERS: u64 = 2;

/// What the README states that a process takes at most, in MB.
fn limit_mb() -> u64 {
    100 + WORKERS * (5 * MEMORY_MB + 80)
}

fn rows(default: u64) -> u64 {
    std::env::var("ROWS").map_or(default, |rows| rows.parse().expect("ROWS is a number"))
}

/// A process, and the most memory that it has taken so far.
struct Watched {
    child: Child,
    peak_mb: Arc<AtomicU64>,
    watch: JoinHandle<()>,
}

impl Watched {
    fn start(job: &Job, command: &str, arguments: &[&str]) -> Watched {
        let child = job.command(command, arguments).args(["-w", &WORKERS.to_string()]).spawn().unwrap();
        let peak_mb = Arc::new(AtomicU64::new(0));
        let (path, peak) = (format!("/proc/{}/status", child.id()), Arc::clone(&peak_mb));
        let watch = std::thread::spawn(move || {
            while let Ok(status) = std::fs::read_to_string(&path)
                && let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
            {
                peak.fetch_max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Watched { child, peak_mb, watch }
    }

    /// Waits for its end and says its peak.
    fn ended(mut self, what: &str) {
        let status = self.child.wait().unwrap();
        self.watch.join().unwrap();
        let peak_mb = self.peak_mb.load(Ordering::Relaxed);
        println!("{what}: {peak_mb} MB of {} MB at most", limit_mb());
        assert!(status.success(), "{what}: {status}");
        assert!(peak_mb > 0 && peak_mb <= limit_mb(), "{what} took {peak_mb} MB, more than {} MB", limit_mb());
    }

    fn stop(self, what: &str) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended(what);
    }
}

fn memory() -> String {
    format!("memory = \"{MEMORY_MB}MB\"\n[publish]\nmemory = \"{MEMORY_MB}MB\"")
}

/// What tells two tables apart, on both kinds of server.
const SUMS: &str = "count(*), count(note), sum(id), sum(n), sum(length(note))";

#[test]
fn a_transaction_larger_than_memory_is_landed_in_pieces() {
    let rows = rows(400_000);
    let name = format!("giant_{}", std::process::id());
    let mut source = mysql::Conn::new(env("MARIADB_URL").as_str()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("USE {name}")).unwrap();
    source.query_drop("CREATE TABLE t (id bigint PRIMARY KEY, n bigint, note varchar(300))").unwrap();
    let url = env("MARIADB_URL");
    let mut job = Job::new("giant", &format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [\"{name}.*\"]"));
    job.configure(&memory());
    job.run("publish"); // begins at the end that is there now
    for sql in [
        "SET autocommit = 0",
        &format!("INSERT INTO t SELECT seq, seq, concat(seq, repeat('-', 100 + seq % 50)) FROM seq_1_to_{rows}"),
        "UPDATE t SET note = NULL, n = -n WHERE id % 3 = 0",
        "DELETE FROM t WHERE id % 10 = 0",
        "COMMIT",
        "INSERT INTO t VALUES (0, 0, 'behind it')",
        "COMMIT",
    ] {
        source.query_drop(sql).unwrap();
    }
    let publish = Watched::start(&job, "publish", &["--until-caught-up"]);
    let land = Watched::start(&job, "land", &[]);
    publish.ended("publish, one giant transaction");
    wait(&mut job, "the table", |job| job.count("t", "true") > 0);
    let want: Option<String> = source.query_first(format!("SELECT concat_ws('|', {SUMS}) FROM t")).unwrap();
    // Each lane goes at a pace of its own.
    wait(&mut job, "all other rows", |job| Some(sums(job)) == want);
    land.stop("land, one giant transaction");
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
}

fn sums(job: &mut Job) -> String {
    job.target.query_one(&format!("SELECT concat_ws('|', {SUMS}) FROM t"), &[]).unwrap().get(0)
}

/// Where lines land, which say no types.
const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint, note text)";

/// So many changes of small rows, a new transaction every hundred.
fn write_lines(job: &Job, changes: u64) {
    let mut file = BufWriter::new(std::fs::File::create(job.file("changes.jsonl")).unwrap());
    for number in 0..changes {
        let (id, time) = (number % 50_000, 1_700_000_000_000 + number / 100);
        let op = if number < 50_000 { "insert" } else { "update" };
        writeln!(
            file,
            r#"{{"op":"{op}","database":"shop","table":"t","time":{time},"key":["id"],"row":{{"id":{id},"n":{number},"note":"x"}}}}"#
        )
        .unwrap();
    }
    file.flush().unwrap();
}

/// What [`SUMS`] are behind those changes.
fn sums_of(changes: u64) -> String {
    let newest = |id: u64| id + (changes - 1 - id) / 50_000 * 50_000;
    let (ids, numbers) = (0..50_000).fold((0, 0), |(ids, numbers), id| (ids + id, numbers + newest(id)));
    format!("50000|50000|{ids}|{numbers}|50000")
}

#[test]
fn a_long_backlog_is_caught_up_with_within_the_limit() {
    let changes = rows(1_000_000);
    let mut job = Job::of_lines("backlog", &[]);
    job.configure(&memory());
    job.target.batch_execute(TABLE).unwrap();
    write_lines(&job, changes);
    Watched::start(&job, "publish", &["--until-caught-up"]).ended("publish, a long file");
    Watched::start(&job, "land", &["--until-caught-up"]).ended("land, a long backlog");
    assert_eq!(sums(&mut job), sums_of(changes));
}

#[test]
fn a_target_that_stands_still_is_waited_for_within_the_limit() {
    let changes = rows(1_000_000);
    let stall = Duration::from_secs(std::env::var("STALL").map_or(10, |stall| stall.parse().expect("seconds")));
    let mut job = Job::of_lines("stall", &[]);
    job.configure(&memory());
    job.target.batch_execute(TABLE).unwrap();
    job.target.batch_execute("BEGIN; LOCK TABLE t IN EXCLUSIVE MODE").unwrap();
    write_lines(&job, changes);
    let land = {
        job.run("publish");
        Watched::start(&job, "land", &["--until-caught-up"])
    };
    std::thread::sleep(stall);
    assert_eq!(job.count("t", "true"), 0, "the lock is held");
    job.target.batch_execute("COMMIT").unwrap();
    land.ended("land, a target that stood still");
    assert_eq!(sums(&mut job), sums_of(changes));
}

/// Waits until `done`.
fn wait(job: &mut Job, what: &str, mut done: impl FnMut(&mut Job) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(900);
    while !done(job) {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
