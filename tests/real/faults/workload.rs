//! The workload: statements of every odd kind, which a server takes until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use super::{PATIENCE, Random};
use crate::job::env;

pub const CREATE: [&str; 7] = [
    "CREATE TABLE moved (id int PRIMARY KEY, v int, note varchar(20))",
    // Keys that the server takes for one another, and the topic must not.
    "CREATE TABLE folded (name varchar(30) COLLATE utf8mb4_general_ci PRIMARY KEY, n int)",
    "CREATE TABLE pairs (a int, b varchar(10), c decimal(10,3), PRIMARY KEY (a, b))",
    "CREATE TABLE watched (id int AUTO_INCREMENT PRIMARY KEY, v int)",
    "CREATE TABLE audit (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, what varchar(40))",
    "CREATE TABLE counter (id int PRIMARY KEY, v bigint)",
    "CREATE TABLE marks (id int PRIMARY KEY)",
];

pub const TABLES: [(&str, &str); 7] = [
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
        // It does not grow for ever, nor do the statements that change all of it.
        16 => one(format!("DELETE FROM watched WHERE v = {a} OR id % 500 = {}", n % 500)),
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

/// A connection to the source's database, which is made if it is not there; waits for a server that is not there.
pub fn connect(server: &str, database: &str) -> mysql::Conn {
    let deadline = Instant::now() + PATIENCE;
    let once = || -> Result<mysql::Conn, mysql::Error> {
        let mut conn = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap())?;
        conn.query_drop("SET NAMES utf8mb4")?;
        conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4"))?;
        conn.query_drop(format!("USE {database}"))?;
        Ok(conn)
    };
    loop {
        match once() {
            Ok(conn) => return conn,
            Err(error) => assert!(Instant::now() < deadline, "{server}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Statements on their way to a server.
pub struct Work {
    on: Arc<AtomicBool>,
    /// In ms.
    pause: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Work {
    /// Has the server take statements from now on, with a pause after each few.
    pub fn start(server: &'static str, database: &str, seed: u64, pause: Duration) -> Work {
        let on = Arc::new(AtomicBool::new(true));
        let pause = Arc::new(AtomicU64::new(pause.as_millis() as u64));
        let (working, pausing, database) = (Arc::clone(&on), Arc::clone(&pause), database.to_string());
        let thread = std::thread::spawn(move || work(server, &database, seed, &pausing, &working));
        Work { on, pause, thread }
    }

    /// Has it pause otherwise.
    pub fn pause(&self, pause: Duration) {
        self.pause.store(pause.as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends it; says how many statements the server took.
    pub fn end(self) -> u64 {
        self.on.store(false, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn work(server: &'static str, database: &str, seed: u64, pause: &AtomicU64, on: &AtomicBool) -> u64 {
    let (mut conn, mut random, mut taken) = (connect(server, database), Random(seed), 0);
    (0..10).for_each(|id| conn.query_drop(format!("INSERT INTO counter VALUES ({id}, 0)")).unwrap());
    while on.load(Ordering::Relaxed) {
        for sql in statements(&mut random) {
            match conn.query_drop(&sql) {
                Ok(()) => taken += 1,
                // A key may be there or be gone: such statements are refused, and what else they did is taken back, and by a
                // deadlock savepoints too.
                Err(mysql::Error::MySqlError(refused)) if matches!(refused.code, 1062 | 1213 | 1205 | 1305) => {}
                // The server restarts, which takes back what has not been committed: the rest would be of another transaction.
                Err(mysql::Error::MySqlError(ends)) if matches!(ends.code, 1053 | 1927 | 3169) => {
                    conn = connect(server, database);
                    break;
                }
                Err(mysql::Error::IoError(_) | mysql::Error::CodecError(_) | mysql::Error::DriverError(_)) => {
                    conn = connect(server, database);
                    break;
                }
                Err(error) => panic!("{sql}: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(pause.load(Ordering::Relaxed)));
    }
    taken
}
