//! The whole way on real servers: MySQL and MariaDB take a few hundred thousand mixed statements from several clients at
//! once, while `publish` and `land` run as processes of their own with two workers each; in the end `verify` and a dump of
//! both sides, written here and sharing nothing with it, have to say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::hologres::on_hologres;
use crate::place::{Found, Verified, env};
use mysql::prelude::Queryable;
use postgres::{Client, NoTls};
use tidegate::log::Librdkafka;

/// How many statements each server takes; where jobs land in the stand-in, whose protocol is what counts there, a third.
fn statement_count() -> u64 {
    if on_hologres() { 80_000 } else { 240_000 }
}

const CLIENTS: u64 = 4;

/// Rows written last into each table, enough of them for every partition and every lane to get one.
const LAST_ROWS: u64 = 64;

const TABLES: [&str; 4] = ["orders", "order_lines", "users", "notes"];

const CREATE: [&str; 4] = [
    "CREATE TABLE orders (id bigint unsigned PRIMARY KEY, customer int, state enum('new','paid','sent'), \
     amount decimal(12,2), weight double, note varchar(200), placed datetime(3), updated timestamp(6) NULL)",
    "CREATE TABLE order_lines (order_id int, line smallint, sku char(8) CHARACTER SET latin1, qty mediumint unsigned, \
     PRIMARY KEY (order_id, line))",
    "CREATE TABLE users (email varchar(60) PRIMARY KEY, name text, flags set('a','b','c'), seen date, picture blob)",
    "CREATE TABLE notes (code int NOT NULL, body text, ratio float, UNIQUE (code))",
];

/// Every row of a table as text, on both sides in the same words. The first text is the key.
const DUMPS: [(&str, &str); 4] = [
    (
        "SELECT id, customer, state, amount, weight, note, date_format(placed, '%Y-%m-%d %H:%i:%s.%f'), \
         date_format(updated, '%Y-%m-%d %H:%i:%s.%f') FROM orders",
        "SELECT id::text, customer::text, state, amount::text, weight::text, note, \
         to_char(placed, 'YYYY-MM-DD HH24:MI:SS.US'), to_char(updated AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') \
         FROM orders",
    ),
    (
        "SELECT concat(order_id, '/', line), sku, qty FROM order_lines",
        "SELECT order_id || '/' || line, sku, qty::text FROM order_lines",
    ),
    (
        "SELECT email, name, flags, date_format(seen, '%Y-%m-%d'), lower(hex(picture)) FROM users",
        "SELECT email, name, flags, seen::text, encode(picture, 'hex') FROM users",
    ),
    ("SELECT code, body, ratio + 0e0 FROM notes", "SELECT code::text, body, ratio::text FROM notes"),
];

/// A job: databases on both sides, a topic, a configuration, and the processes that run.
struct Job {
    name: String,
    server: &'static str,
    source: mysql::Conn,
    target: Client,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

impl Job {
    fn new(server: &'static str, name: &str) -> Job {
        let name = format!("{name}_{}_{}", server[..5].to_lowercase(), std::process::id());
        let mut source = connect(server);
        source.query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).unwrap();
        source.query_drop(format!("USE {name}")).unwrap();
        CREATE.iter().for_each(|table| source.query_drop(table).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "job = \"{name}\"\n[source]\nkind = \"mysql\"\nurl = \"{}\"\ntables = [\"{name}.*\"]\n\
             [kafka]\nbrokers = \"{}\"\ntopic = \"{name}\"\npartitions = 4\n[land]\nepoch = \"1s\"\n\
             [target]\nkind = \"postgres\"\nurl = \"{}\"\nschema = \"{name}\"\n",
            env(server),
            env("KAFKA_ADDR"),
            crate::hologres::target_url(&env("PG_URL")),
        );
        std::fs::write(folder.path().join("tidegate.toml"), config).unwrap();
        let target = Client::connect(&env("PG_URL"), NoTls).unwrap();
        Job { name, server, source, target, folder, running: Vec::new() }
    }

    fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process.arg(command).arg("--config").arg(self.folder.path().join("tidegate.toml")).args(arguments);
        process
    }

    fn start(&mut self, command: &str) {
        let child = self.command(command, &["-w", "2"]).stderr(Stdio::inherit()).spawn().unwrap();
        self.running.push(child);
    }

    /// Starts `publish`, waits until it reads, and starts `land`.
    fn start_both(&mut self) {
        self.start("publish");
        self.wait("publish to write its first statement", |job| {
            let config = tidegate::config::Config::load(&job.folder.path().join("tidegate.toml")).unwrap();
            let said =
                tidegate::log::read_to_end(&Librdkafka::new(config.kafka().unwrap()), &config.kafka().unwrap().topic);
            said.is_ok_and(|said| !said.statements.is_empty())
        });
        self.start("land");
    }

    /// Waits until `done`, while all that has been started runs.
    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Job) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(self) {
            for child in &mut self.running {
                assert_eq!(child.try_wait().unwrap(), None, "a process ended by itself");
            }
            assert!(Instant::now() < deadline, "{}: waited in vain for {what}", self.server);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes the last rows and waits until the target has them; then it has all that was written before them.
    fn settle(&mut self) {
        for number in 0..LAST_ROWS {
            let id = 100_000_000 + number;
            for sql in [
                format!("INSERT INTO orders (id) VALUES ({id})"),
                format!("INSERT INTO order_lines VALUES ({id}, 1, 'last', 1)"),
                format!("INSERT INTO users (email) VALUES ('last {id}')"),
                format!("INSERT INTO notes (code) VALUES ({id})"),
            ] {
                self.source.query_drop(sql).unwrap();
            }
        }
        self.wait("the last rows", |job| {
            let count = |(table, last): (&str, &str)| {
                let sql = format!("SELECT count(*) FROM {}.{table} WHERE {last}", job.name);
                job.target.query_one(&sql, &[]).map_or(0, |row| row.get::<_, i64>(0) as u64)
            };
            let last =
                ["id::numeric >= 100000000", "order_id >= 100000000", "email LIKE 'last %'", "code >= 100000000"];
            TABLES.into_iter().zip(last).map(count).all(|count| count == LAST_ROWS)
        });
    }

    fn stop_all(&mut self) {
        for mut child in self.running.drain(..) {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            assert_eq!(child.wait().unwrap().code(), Some(0), "after SIGTERM");
        }
    }

    fn verify(&self) -> Verified {
        Verified::of(&self.command("verify", &["--json", "-w", "2"]).output().unwrap())
    }

    /// All rows of a table on both sides, by key.
    fn dump(&mut self, index: usize) -> [BTreeMap<String, Vec<Option<String>>>; 2] {
        let (at_source, at_target) = DUMPS[index];
        // Hologres keeps milliseconds of a moment.
        let (mut at_source, mut at_target) = (at_source.to_string(), at_target.to_string());
        if on_hologres() {
            let rounded = "left(date_format(date_add(updated, INTERVAL 500 MICROSECOND), '%Y-%m-%d %H:%i:%s.%f'), 23)";
            at_source = at_source.replace("date_format(updated, '%Y-%m-%d %H:%i:%s.%f')", rounded);
            at_target = at_target.replace("'UTC', 'YYYY-MM-DD HH24:MI:SS.US')", "'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')");
        }
        let source: Vec<mysql::Row> = self.source.query(at_source).unwrap();
        let source = source.into_iter().map(|row| {
            let mut texts: Vec<Option<String>> = row.unwrap().into_iter().map(text).collect();
            (texts.remove(0).unwrap(), texts)
        });
        let source = source.collect();
        self.target.batch_execute(&format!("SET search_path = {}; SET extra_float_digits = 1", self.name)).unwrap();
        let target = self.target.query(&at_target, &[]).unwrap();
        let target = target.iter().map(|row| {
            let mut texts: Vec<Option<String>> = (0..row.len()).map(|column| row.get(column)).collect();
            (texts.remove(0).unwrap(), texts)
        });
        [source, target.collect()]
    }

    fn dumps_agree(&mut self) -> u64 {
        let mut rows = 0;
        for (index, table) in TABLES.iter().enumerate() {
            let [source, target] = self.dump(index);
            for (key, row) in &source {
                assert_eq!(target.get(key), Some(row), "{}: {table} {key}", self.server);
            }
            assert_eq!(source.len(), target.len(), "{}: {table}", self.server);
            rows += source.len() as u64;
        }
        rows
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.source.query_drop(format!("DROP DATABASE {}", self.name));
        let _ = self.target.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}

fn connect(server: &str) -> mysql::Conn {
    let options = mysql::OptsBuilder::from_opts(mysql::Opts::from_url(&env(server)).unwrap()).prefer_socket(false);
    let mut conn = mysql::Conn::new(options).unwrap();
    conn.query_drop("SET NAMES utf8mb4, time_zone = '+00:00'").unwrap();
    conn
}

/// A value of MySQL's text protocol.
fn text(value: mysql::Value) -> Option<String> {
    match value {
        mysql::Value::NULL => None,
        mysql::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
        other => panic!("{other:?} in the text protocol"),
    }
}

/// A client that writes at random, but the same for the same seed.
struct Writer {
    random: u64,
}

impl Writer {
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }

    /// Few keys are hot, most are cold.
    fn id(&mut self) -> u64 {
        let end = if self.below(4) == 0 { 50 } else { 20_000 };
        self.below(end)
    }

    fn or_null(&mut self, value: String) -> String {
        if self.below(8) == 0 { "NULL".into() } else { value }
    }

    fn statement(&mut self) -> String {
        let (id, n) = (self.id(), self.below(1_000_000));
        match self.below(16) {
            0..4 => {
                let note = self.or_null(format!("'né \\\\ \"{n}\" 😀'"));
                let amount = self.or_null(format!("{}.{:02}", n / 100, n % 100));
                format!(
                    "INSERT INTO orders VALUES ({id}, {n}, 'new', {amount}, {n} / 8, {note}, now(3), now(6)) \
                     ON DUPLICATE KEY UPDATE amount = amount + 1, state = 'paid', note = concat(note, '+')"
                )
            }
            4 => format!("UPDATE orders SET state = 'sent', weight = {n} / 16 WHERE id BETWEEN {id} AND {}", id + 9),
            5 => format!("DELETE FROM orders WHERE id = {id}"),
            // The primary key changes.
            6 => format!("UPDATE IGNORE orders SET id = {} WHERE id = {id}", self.id()),
            7 | 8 => {
                let rows: Vec<String> = (0..1 + n % 5).map(|line| format!("({id}, {line}, 'sku {n}', {n})")).collect();
                format!(
                    "INSERT IGNORE INTO order_lines VALUES {}",
                    rows.join(", ").replace(&format!("sku {n}"), "sküé")
                )
            }
            9 => format!("UPDATE order_lines SET qty = qty + 1, sku = NULL WHERE order_id = {id}"),
            10 => format!("DELETE FROM order_lines WHERE order_id = {id} AND line > {}", n % 3),
            11 => {
                let seen = self.or_null(format!("'20{:02}-01-31'", n % 100));
                format!(
                    "REPLACE INTO users VALUES ('u{id}@ü.example', 'name {n}', 'a,c', {seen}, unhex('00ff{:04x}'))",
                    n % 65536
                )
            }
            12 => format!("UPDATE IGNORE users SET email = 'u{}@ü.example' WHERE email = 'u{id}@ü.example'", self.id()),
            13 => format!("DELETE FROM users WHERE email = 'u{id}@ü.example'"),
            14 => format!("REPLACE INTO notes VALUES ({id}, repeat('x', {}), {n} / 4)", n % 300),
            _ => format!("DELETE FROM notes WHERE code = {id}"),
        }
    }

    /// Runs so many statements, in transactions of some.
    fn run(&mut self, conn: &mut mysql::Conn, statements: u64) {
        let mut left = statements;
        while left > 0 {
            let size = (1 + self.below(6)).min(left);
            left -= size;
            let mut transaction: Vec<String> = (0..size).map(|_| self.statement()).collect();
            if size > 1 {
                transaction.insert(0, "BEGIN".into());
                transaction.push(if self.below(20) == 0 { "ROLLBACK".into() } else { "COMMIT".into() });
            }
            match conn.query_drop(transaction.join("; ")) {
                Ok(()) => {}
                // Two clients wanted one another's rows, and one of them has been rolled back.
                Err(mysql::Error::MySqlError(error)) if matches!(error.code, 1205 | 1213) => {
                    conn.query_drop("ROLLBACK").unwrap();
                }
                Err(error) => panic!("{error}: {transaction:?}"),
            }
        }
    }
}

/// All clients at once.
fn write(job: &Job, statements: u64) {
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let mut conn = connect(job.server);
            conn.query_drop(format!("USE {}", job.name)).unwrap();
            let mut writer = Writer { random: 0x9e37_79b9_7f4a_7c15 ^ (client + 1) << 32 };
            scope.spawn(move || writer.run(&mut conn, statements / CLIENTS));
        }
    });
}

fn identical(server: &'static str) {
    let mut job = Job::new(server, "whole");
    job.start_both();
    write(&job, statement_count());
    job.settle();
    let verified = job.verify();
    assert_eq!(verified.code, 0, "{server}: {}{}", verified.out, verified.err);
    let rows = job.dumps_agree();
    let summary = verified.lines().pop().unwrap();
    assert_eq!(summary["source_rows"].as_u64(), Some(rows), "{server}: {summary}");
    assert!(rows > 10_000, "{server}: only {rows} rows");
    job.stop_all();
}

#[test]
fn mysql_and_postgres_are_identical() {
    identical("MYSQL_URL");
}

#[test]
fn mariadb_and_postgres_are_identical() {
    identical("MARIADB_URL");
}

#[test]
fn planted_damage_is_found_exactly() {
    for server in ["MYSQL_URL", "MARIADB_URL"] {
        let mut job = Job::new(server, "damaged");
        job.start_both();
        write(&job, 20_000);
        for sql in [
            "REPLACE INTO orders VALUES (1, 1, 'new', 1.10, 0.5, NULL, NULL, NULL)",
            "REPLACE INTO orders VALUES (2, 1, 'new', 1.10, 0.5, 'x', NULL, NULL)",
            "REPLACE INTO order_lines VALUES (7, 3, 'here', 1), (7, 4, 'here', 1)",
            "REPLACE INTO users VALUES ('u1@ü.example', 'name', 'a', NULL, NULL)",
            "REPLACE INTO notes VALUES (5, '', 0.25)",
        ] {
            job.source.query_drop(sql).unwrap();
        }
        job.settle();
        job.stop_all();
        assert_eq!(job.verify().code, 0, "{server}");
        let name = job.name.clone();
        job.target
            .batch_execute(&format!(
                "SET search_path = {name};
                 UPDATE orders SET amount = 1.11 WHERE id = '1';
                 UPDATE orders SET note = NULL WHERE id = '2';
                 DELETE FROM order_lines WHERE order_id = 7 AND line = 3;
                 INSERT INTO order_lines VALUES (-7, 3, 'extra', 1);
                 UPDATE users SET seen = '2026-02-03', flags = 'b' WHERE email = 'u1@ü.example';
                 UPDATE notes SET body = NULL WHERE code = 5;"
            ))
            .unwrap();
        let verified = job.verify();
        let found = |table: &str, kind: &str, key: &str, columns: &str| -> Found {
            [format!("{name}.{table}"), kind.into(), key.into(), columns.into()]
        };
        let planted: BTreeSet<Found> = [
            found("orders", "changed", "id=1", "amount"),
            found("orders", "changed", "id=2", "note"),
            found("order_lines", "missing", "line=3|order_id=7", ""),
            found("order_lines", "extra", "line=3|order_id=-7", ""),
            found("users", "changed", "email=u1@ü.example", "flags|seen"),
            found("notes", "changed", "code=5", "body"),
        ]
        .into();
        assert_eq!((verified.code, verified.found()), (1, planted), "{server}: {}", verified.out);
    }
}
