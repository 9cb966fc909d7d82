//! A source that is killed while it writes a large transaction to its binlog. MariaDB leaves the half that it has written at
//! the end of that file, down to a part of an event, and rolls the transaction back: its rows were never committed, and nobody
//! may see them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::binlog::kill_readers;
use crate::faults::apart::{Servers, apart};
use crate::job::source::binlog_end;
use crate::job::{Job, env};
use mysql::Conn;
use mysql::prelude::Queryable;

/// How much of what was written a crash leaves: if the operating system crashes too that may be less than all.
#[derive(Clone, Copy)]
enum Left {
    All,
    Bytes(u64),
    /// Whole events, of so many bytes at most.
    Events(u64),
}

/// After how many bytes of the transaction the server is killed, and what the crash leaves.
const CRASHES: [(u64, Left); 5] = [
    (1 << 23, Left::All),
    (1 << 22, Left::Events(2_000_000)),
    (1, Left::Bytes(20)),
    (1 << 17, Left::Events(60_000)),
    (1 << 17, Left::Bytes(60_000)),
];

/// How often a crash may come too late.
const TRIES: usize = 5;

/// How many rows the transaction has; of 200 bytes and more each.
const ROWS: usize = 500_000;

/// How many a transaction behind a crash has.
const KEPT: i64 = 25_000;

fn connect(server: &str) -> Conn {
    let mut conn = Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
    // So that what is ahead in the binlog is asked for.
    conn.query_drop("SET GLOBAL binlog_row_metadata = MINIMAL").unwrap();
    conn
}

/// The newest file of the binlog.
fn newest(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("data")).unwrap().map(|file| file.unwrap().path());
    let number = |path: &Path| path.extension().and_then(|number| number.to_str()?.parse::<u64>().ok());
    let is_binlog = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "binlog");
    files.filter(is_binlog).filter(|path| number(path).is_some()).max_by_key(|path| number(path)).unwrap()
}

/// How many bytes, of so many at most, are whole events from a place in a file on.
fn whole_events(file: &Path, from: u64, bytes_max: u64) -> u64 {
    let file = std::fs::read(file).unwrap();
    let mut end = from as usize;
    loop {
        let length = file.get(end + 9..end + 13).map(|length| u32::from_le_bytes(length.try_into().unwrap()) as usize);
        match length {
            Some(length) if end + length <= from as usize + bytes_max as usize => end += length,
            _ => return end as u64 - from,
        }
    }
}

/// Kills what reads the binlog, again and again, for as long as a reader takes for half a transaction and more.
fn disturb(url: &str) {
    let mut conn = connect(url);
    for pause in [1, 3, 10, 30, 60, 100, 200] {
        std::thread::sleep(Duration::from_millis(pause));
        kill_readers(&mut conn);
    }
}

/// Crashes the server while a large transaction comes into its binlog, and starts it again. Whether that was in the midst.
fn crash(servers: &mut Servers, (url, server): (&str, &str), name: &str, (bytes, left): (u64, Left)) -> bool {
    let mut conn = connect(url);
    conn.query_drop(format!("USE {name}")).unwrap();
    conn.query_drop("BEGIN").unwrap();
    conn.query_drop("INSERT INTO t SELECT seq, repeat(lpad(seq, 32, '-'), 6) FROM numbers").unwrap();
    let file = newest(&servers.folder(server));
    let size = || std::fs::metadata(&file).unwrap().len();
    let before = size();
    let commit = std::thread::spawn(move || conn.query_drop("COMMIT").is_ok());
    let deadline = Instant::now() + Duration::from_secs(30);
    while size() < before + bytes {
        assert!(Instant::now() < deadline, "the transaction does not come into the binlog");
    }
    servers.kill(server);
    let done = commit.join().unwrap();
    let grown = size() - before;
    if !done {
        let left = match left {
            Left::All => grown,
            Left::Bytes(bytes) => bytes.min(grown),
            Left::Events(bytes) => whole_events(&file, before, bytes.min(grown)),
        };
        std::fs::File::options().write(true).open(&file).unwrap().set_len(before + left).unwrap();
    }
    servers.start(server);
    let mut conn = connect(url);
    let rows: usize = conn.query_first(format!("SELECT count(*) FROM {name}.t WHERE id > 0")).unwrap().unwrap();
    println!("{server}: killed after {bytes} bytes, {grown} were written, {rows} rows stayed, answered {done}");
    if rows != 0 {
        conn.query_drop(format!("DELETE FROM {name}.t WHERE id > 0")).unwrap();
    }
    rows == 0
}

fn survive(servers: &mut Servers, source: (&str, &str), crashes: &[(u64, Left)]) {
    let name = format!("crash_{}", std::process::id());
    let mut conn = connect(source.0);
    for sql in [
        format!("CREATE DATABASE {name}"),
        format!("USE {name}"),
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(200))".into(),
        "CREATE TABLE plain (id int PRIMARY KEY, v varchar(200)) ENGINE = MyISAM".into(),
        "CREATE TABLE numbers (seq int PRIMARY KEY)".into(),
        format!(
            "INSERT INTO numbers WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT (a.i - 1) * 1000 + b.i FROM n a, n b WHERE a.i <= {}",
            ROWS / 1000
        ),
    ] {
        conn.query_drop(sql).unwrap();
    }
    let place = binlog_end(&mut conn);
    drop(conn);
    let settings = format!(
        "kind = \"mysql\"\nurl = \"{}\"\ntables = [\"{name}.t\", \"{name}.plain\"]\nstart = \"{place}\"",
        env(source.0)
    );
    let mut job = Job::new("crash", &settings);
    job.start("land");
    job.start("publish");
    let mut kept = 0;
    for (number, &how) in crashes.iter().enumerate() {
        let in_the_midst = (0..TRIES).any(|_| crash(servers, source, &name, how));
        assert!(in_the_midst, "the server was never killed in the midst of the transaction");
        if number % 2 == 1 {
            job.kill();
            job.start("publish");
        }
        disturb(source.0);
        // What has its end is large too.
        let mut conn = connect(source.0);
        for table in ["t", "plain"] {
            let rows = format!("SELECT -{kept} - seq, repeat('k', 200) FROM {name}.numbers WHERE seq <= {KEPT}");
            conn.query_drop(format!("INSERT INTO {name}.{table} {rows}")).unwrap();
        }
        conn.query_drop("FLUSH TABLES").unwrap();
        kept += KEPT;
        job.wait("what comes behind it", |job| job.count("plain", "true") == kept);
    }
    job.stop_all();
    let mut again = Job::new("again", &settings);
    again.run("publish");
    again.run("land");
    for job in [&mut job, &mut again] {
        assert_eq!(job.count("t", "id > 0"), 0, "rows that were never committed");
        assert_eq!((job.count("t", "true"), job.count("plain", "true")), (kept, kept));
    }
}

#[test]
fn half_a_transaction_that_a_crash_left_is_passed_over() {
    let test = "half_a_transaction_that_a_crash_left_is_passed_over";
    let Some(mut servers) = apart(test, &["mysql", "mariadb", "kafka", "postgres"]) else { return };
    survive(&mut servers, ("MYSQL_URL", "mysql"), &CRASHES[..2]);
    survive(&mut servers, ("MARIADB_URL", "mariadb"), &CRASHES);
}
