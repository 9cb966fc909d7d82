//! Processes die, freeze and are stopped at random moments, while a server takes statements of every odd kind: afterwards
//! both sides are identical, each change is once in the topic, and no row has stepped back.
//!
//! `FAULTS` says how many faults there are (of all servers together), `SEED` which; a failure prints the seed.

#[allow(dead_code, reason = "each test program uses its part of it")]
mod hologres;
#[allow(dead_code, reason = "each test program uses its part of it")]
mod job;
mod topic;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hologres::target_url;
use job::env;
use mysql::prelude::Queryable;
use postgres::{Client, NoTls};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(90);

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const CREATE: [&str; 7] = [
    "CREATE TABLE moved (id int PRIMARY KEY, v int, note varchar(20))",
    // Keys that the server takes for one another, and the topic must not.
    "CREATE TABLE folded (name varchar(30) COLLATE utf8mb4_general_ci PRIMARY KEY, n int)",
    "CREATE TABLE pairs (a int, b varchar(10), c decimal(10,3), PRIMARY KEY (a, b))",
    "CREATE TABLE watched (id int AUTO_INCREMENT PRIMARY KEY, v int)",
    "CREATE TABLE audit (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, what varchar(40))",
    "CREATE TABLE counter (id int PRIMARY KEY, v bigint)",
    "CREATE TABLE marks (id int PRIMARY KEY)",
];

const TABLES: [(&str, &str); 7] = [
    ("moved", "id, v, note"),
    ("folded", "name, n"),
    ("pairs", "a, b, c"),
    ("watched", "id, v"),
    ("audit", "id, what"),
    ("counter", "id, v"),
    ("marks", "id"),
];

/// The statements of one round of the workload, some of which the server may refuse.
fn statements(random: &mut Random) -> Vec<String> {
    let (a, b, n) = (random.below(60), random.below(60), random.below(1000));
    let name = random.of(&["Anna", "anna", "ANNA", "Änne", "anne", "Bob", "bob ", "b%b", "né\\'e", "日本", ""]);
    let one = |sql: String| vec![sql];
    match random.below(19) {
        0 => one(format!("INSERT INTO moved VALUES ({a}, {n}, 'new'), ({}, {n}, NULL)", 100 + b)),
        1 => one(format!("REPLACE INTO moved VALUES ({a}, {n}, 'replaced')")),
        2 => one(format!("INSERT INTO moved VALUES ({a}, 1, 'dup') ON DUPLICATE KEY UPDATE v = v + 1, note = NULL")),
        3 => one(format!("UPDATE moved SET id = id + 1000 WHERE id = {a}")),
        4 => one("UPDATE moved SET id = id - 1000 WHERE id >= 1000 AND id - 1000 NOT IN (SELECT id FROM (SELECT id FROM moved) AS m) ORDER BY id LIMIT 3".into()),
        // Two rows change their keys with each other.
        5 => vec![
            "BEGIN".into(),
            format!("UPDATE moved SET id = -1 WHERE id = {a}"),
            format!("UPDATE moved SET id = {a} WHERE id = {b}"),
            format!("UPDATE moved SET id = {b} WHERE id = -1"),
            "COMMIT".into(),
        ],
        6 => vec![
            "BEGIN".into(),
            format!("DELETE FROM moved WHERE id = {a}"),
            format!("INSERT INTO moved VALUES ({a}, {n}, 'again')"),
            format!("DELETE FROM moved WHERE id = {a}"),
            format!("INSERT INTO moved VALUES ({a}, {n}, 'and again')"),
            "COMMIT".into(),
        ],
        7 => vec![
            "BEGIN".into(),
            format!("UPDATE moved SET v = {n} WHERE id < 20"),
            "SAVEPOINT s".into(),
            "DELETE FROM moved".into(),
            "ROLLBACK TO SAVEPOINT s".into(),
            format!("UPDATE counter SET v = v + 1 WHERE id = {}", a % 10),
            "COMMIT".into(),
        ],
        8 => vec!["BEGIN".into(), format!("DELETE FROM moved WHERE id > {a}"), "ROLLBACK".into()],
        9 => one(format!("INSERT INTO folded VALUES ('{name}', {n}) ON DUPLICATE KEY UPDATE n = {n}")),
        10 => one(format!("UPDATE folded SET name = upper(name), n = {n} WHERE name = '{name}'")),
        11 => one(format!("DELETE FROM folded WHERE name = '{name}'")),
        12 => one(format!("REPLACE INTO pairs VALUES ({}, '{a}', {n}.125), ({}, 'x', NULL)", a % 7, b % 7)),
        13 => one(format!("UPDATE pairs JOIN moved ON pairs.a = moved.id SET pairs.c = {n}, moved.v = {n}")),
        14 => one(format!("DELETE pairs, moved FROM pairs JOIN moved ON pairs.a = moved.id WHERE moved.id = {}", a % 7)),
        15 => one(format!("INSERT INTO watched (v) VALUES ({n}), ({a})")),
        16 => one(format!("DELETE FROM watched WHERE v = {a}")),
        17 => one(format!("UPDATE counter SET v = v + 1 WHERE id = {} OR id = {}", a % 10, b % 10)),
        _ if n < 20 => one("FLUSH BINARY LOGS".into()),
        _ if n < 40 => one("INSERT INTO pairs SELECT id, 'many', v FROM watched ON DUPLICATE KEY UPDATE c = v".into()),
        _ => vec![
            "BEGIN".into(),
            "UPDATE counter SET v = v + 1".into(),
            format!("UPDATE watched SET v = {n} WHERE id % 5 = {}", a % 5),
            "COMMIT".into(),
        ],
    }
}

fn connect(server: &str, database: &str) -> mysql::Conn {
    let mut conn = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
    conn.query_drop("SET NAMES utf8mb4").unwrap();
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4")).unwrap();
    conn.query_drop(format!("USE {database}")).unwrap();
    conn
}

/// The processes that one command runs as now.
struct Running {
    command: &'static str,
    processes: Vec<(Child, PathBuf)>,
}

impl Running {
    fn signal(&self, number: usize, signal: &str) {
        let pid = self.processes[number].0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// What a process said on stderr.
    fn said(&self, number: usize) -> String {
        std::fs::read_to_string(self.processes[number].1.with_extension("err")).unwrap()
    }

    /// Waits until the first process has begun to read; then the others are connected.
    fn wait_until_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&self.processes[0].1).unwrap().contains(": reads ") {
            assert_eq!(self.processes[0].0.try_wait().unwrap(), None, "{}: {}", self.command, self.said(0));
            assert!(Instant::now() < deadline, "{} does not begin", self.command);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit code of a process that has to end by itself.
    fn ended(&mut self, number: usize) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.processes[number].0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{}, process {number} does not end", self.command);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// That a process ends with exit code 3 and one sentence with some of those words.
    fn gives_up(&mut self, number: usize, words: &[&str]) {
        let code = self.ended(number);
        let said = self.said(number);
        let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("tidegate: ")).collect();
        assert_eq!((code, ours.len()), (Some(3), 1), "{}: {said}", self.command);
        let told = words.iter().any(|words| ours[0].contains(words));
        assert!(told && !said.contains("panicked"), "{}: {said}", self.command);
    }

    /// Kills one process with SIGKILL; the others have to end by themselves.
    fn kill(mut self, victim: usize) {
        self.processes[victim].0.kill().unwrap();
        self.processes[victim].0.wait().unwrap();
        for other in (0..self.processes.len()).filter(|other| *other != victim) {
            self.gives_up(other, &["another process of the cluster is gone"]);
        }
    }

    /// Stops it with SIGTERM to one process.
    fn stop(mut self, told: usize) {
        self.signal(told, "-TERM");
        for number in 0..self.processes.len() {
            assert_eq!(self.ended(number), Some(0), "{}: {}", self.command, self.said(number));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (child, _) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A job under faults.
struct Job {
    name: String,
    server: &'static str,
    folder: tempfile::TempDir,
    source: mysql::Conn,
    target: Client,
    random: Random,
    started: u32,
}

impl Job {
    fn new(server: &'static str, seed: u64) -> Job {
        let name = format!("faults_{}_{}", server[..5].to_lowercase(), std::process::id());
        let mut source = connect(server, &name);
        CREATE.iter().for_each(|table| source.query_drop(table).unwrap());
        source
            .query_drop("CREATE TRIGGER t AFTER INSERT ON watched FOR EACH ROW INSERT INTO audit (what) VALUES (concat('row ', NEW.id, ': ', NEW.v))")
            .unwrap();
        let mut target = Client::connect(&env("PG_URL"), NoTls).unwrap();
        target
            .batch_execute(&format!(
                "CREATE SCHEMA {name}; SET search_path = {name}; CREATE TABLE counter (id integer PRIMARY KEY, v bigint);
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF NEW.v < OLD.v THEN RAISE EXCEPTION 'row % steps back from % to %', OLD.id, OLD.v, NEW.v; END IF;
                     RETURN NEW;
                 END $$;
                 CREATE TRIGGER guard BEFORE UPDATE ON counter FOR EACH ROW EXECUTE FUNCTION refuse()"
            ))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        Job { name, server, folder, source, target, random: Random(seed), started: 0 }
    }

    /// Starts a command on a random number of workers, in one process or in two; `land` with epochs of a random length.
    fn start(&mut self, command: &'static str, processes: usize) -> Running {
        self.started += 1;
        let path = |what: &str| self.folder.path().join(format!("{command}.{}.{what}", self.started));
        let config = format!(
            "job = \"{0}\"\n[source]\nkind = \"mysql\"\nurl = \"{1}\"\ntables = [\"{0}.*\"]\n[kafka]\nbrokers = \"{2}\"\n\
             topic = \"{0}\"\npartitions = 4\n[land]\nepoch = \"{3}\"\n[target]\nkind = \"postgres\"\nurl = \"{4}\"\n\
             schema = \"{0}\"\n",
            self.name,
            env(self.server),
            env("KAFKA_ADDR"),
            self.random.of(&["100ms", "300ms", "1s"]),
            target_url(&env("PG_URL")),
        );
        std::fs::write(path("toml"), config).unwrap();
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(path("hosts"), format!("127.0.0.1:{}\n127.0.0.1:{}\n", port(), port())).unwrap();
        let workers = self.random.of(&["1", "2", "3"]);
        let start = |number: usize| {
            let out = path(&number.to_string());
            let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            process.arg(command).arg("--config").arg(path("toml")).args(["-w", workers]);
            if processes == 2 {
                process.args(["-n", "2", "-p", &number.to_string(), "-h"]).arg(path("hosts"));
            }
            let child = process
                .stdout(File::create(&out).unwrap())
                .stderr(File::create(out.with_extension("err")).unwrap())
                .spawn()
                .unwrap();
            (child, out)
        };
        Running { command, processes: (0..processes).map(start).collect() }
    }

    fn start_any(&mut self, command: &'static str) -> Running {
        let processes = if self.random.below(3) == 0 { 2 } else { 1 };
        self.start(command, processes)
    }

    /// Writes a row at the source and waits until it is at the target.
    fn wait_for_mark(&mut self, id: u64, running: &mut [&mut Running]) -> Duration {
        self.source.query_drop(format!("INSERT INTO marks VALUES ({id})")).unwrap();
        let written = Instant::now();
        let sql = format!("SELECT 1 FROM marks WHERE id = {id}");
        while !self.target.query_opt(&sql, &[]).is_ok_and(|row| row.is_some()) {
            for running in running.iter_mut() {
                for number in 0..running.processes.len() {
                    let ended = running.processes[number].0.try_wait().unwrap();
                    assert_eq!(ended, None, "{} ended by itself: {}", running.command, running.said(number));
                }
            }
            assert!(written.elapsed() < PATIENCE, "mark {id} does not arrive");
            std::thread::sleep(Duration::from_millis(20));
        }
        written.elapsed()
    }

    /// All rows of a table on both sides, as text.
    fn dump(&mut self, table: &str, columns: &str) -> [BTreeMap<Vec<Option<String>>, u32>; 2] {
        let mut both = [BTreeMap::new(), BTreeMap::new()];
        let sql = format!("SELECT {columns} FROM {table}");
        let rows: Vec<mysql::Row> = self.source.query(&sql).unwrap();
        for row in rows {
            let text = |value: mysql::Value| match value {
                mysql::Value::NULL => None,
                mysql::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
                other => Some(other.as_sql(true)),
            };
            *both[0].entry(row.unwrap().into_iter().map(text).collect()).or_default() += 1;
        }
        for row in self.target.simple_query(&sql).unwrap() {
            if let postgres::SimpleQueryMessage::Row(row) = row {
                *both[1].entry((0..row.len()).map(|n| row.get(n).map(String::from)).collect()).or_default() += 1;
            }
        }
        both
    }

    fn verify(&self) {
        let config = self.folder.path().join("land.2.toml");
        let verify =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["verify", "-w", "2", "--config"]).arg(config).output();
        let verify = verify.unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(verify.status.success(), "{}{}", said(&verify.stdout), said(&verify.stderr));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.source.query_drop(format!("DROP DATABASE {}", self.name));
        let _ = self.target.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name));
    }
}

/// Has the server take statements until the flag goes down; says how many it took.
fn work(server: &'static str, database: &str, seed: u64, on: &AtomicBool) -> u64 {
    let (mut conn, mut random, mut taken) = (connect(server, database), Random(seed), 0);
    (0..10).for_each(|id| conn.query_drop(format!("INSERT INTO counter VALUES ({id}, 0)")).unwrap());
    while on.load(Ordering::Relaxed) {
        for sql in statements(&mut random) {
            // A key may be there or be gone: such statements are refused, and what else they did is taken back.
            match conn.query_drop(&sql) {
                Ok(()) => taken += 1,
                Err(mysql::Error::MySqlError(refused)) if matches!(refused.code, 1062 | 1213 | 1205) => {}
                Err(error) => panic!("{sql}: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    taken
}

fn survive(server: &'static str, faults: u64, seed: u64) {
    let mut job = Job::new(server, seed);
    let on = Arc::new(AtomicBool::new(true));
    let mut publish = job.start("publish", 1);
    publish.wait_until_up();
    let mut land = job.start("land", 1);
    let (working, name) = (Arc::clone(&on), job.name.clone());
    let working = std::thread::spawn(move || work(server, &name, seed, &working));
    let mut recovery: Vec<u128> = Vec::new();
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    for fault in 0..faults {
        let publishes = job.random.below(2) == 0;
        let command = if publishes { "publish" } else { "land" };
        let running = if publishes { &mut publish } else { &mut land };
        // A process of several is killed once they are connected; before, the others wait for it to come back.
        if running.processes.len() > 1 {
            running.wait_until_up();
        }
        std::thread::sleep(Duration::from_millis(job.random.below(400)));
        let several = running.processes.len();
        let chosen = job.random.below(several as u64) as usize;
        let what = match job.random.below(10) {
            0 => "stopped",
            1 if several == 1 => "frozen",
            _ => "killed",
        };
        *done.entry(what).or_default() += 1;
        let next = match what {
            "frozen" => {
                running.wait_until_up();
                running.signal(0, "-STOP");
                let mut next = job.start_any(command);
                next.wait_until_up();
                next
            }
            _ => job.start_later(running, what, chosen, command),
        };
        let running = if publishes { &mut publish } else { &mut land };
        let mut before = std::mem::replace(running, next);
        if what == "frozen" {
            before.signal(0, "-CONT");
            // Kafka or MySQL tells an older publish, whichever it asks first.
            let words: &[&str] = match publishes {
                true => &["a newer publish of this job", "another replica with server_id"],
                false => &["generation"],
            };
            before.gives_up(0, words);
        }
        drop(before);
        recovery.push(job.wait_for_mark(fault, &mut [&mut publish, &mut land]).as_millis());
    }
    on.store(false, Ordering::Relaxed);
    let taken = working.join().unwrap();
    job.wait_for_mark(faults, &mut [&mut publish, &mut land]);
    publish.stop(0);
    land.stop(0);
    job.verify();
    let mut rows = 0;
    for (table, columns) in TABLES {
        let [source, target] = job.dump(table, columns);
        assert!(source == target, "{server}: {table} differs: {source:?} {target:?}");
        rows += source.len();
    }
    let seqs = topic::committed(&job.name);
    assert!(seqs.values().all(|seqs| seqs.is_sorted_by(|a, b| a < b)), "a partition repeats or reorders");
    let mut all: Vec<u64> = seqs.into_values().flatten().collect();
    let changes = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), changes, "a change is twice in the topic");
    recovery.sort_unstable();
    println!(
        "{server}: {done:?}, {taken} statements, {changes} changes, {rows} rows identical; recovered in {} ms (median), {} ms at most",
        recovery[recovery.len() / 2],
        recovery[recovery.len() - 1]
    );
}

impl Job {
    /// Ends what runs, and starts the command anew.
    fn start_later(&mut self, running: &mut Running, what: &str, chosen: usize, command: &'static str) -> Running {
        let ended = Running { command, processes: std::mem::take(&mut running.processes) };
        match what {
            "stopped" => {
                let mut ended = ended;
                ended.wait_until_up();
                ended.stop(chosen);
            }
            _ => ended.kill(chosen),
        }
        self.start_any(command)
    }
}

#[test]
fn whatever_dies_both_sides_are_identical_and_nothing_is_twice() {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (faults, seed) = (number("FAULTS", 100), number("SEED", clock));
    println!("seed {seed}: replay with tests/run faults {faults} {seed}");
    survive("MYSQL_URL", faults / 2, seed);
    survive("MARIADB_URL", faults - faults / 2, seed);
}
