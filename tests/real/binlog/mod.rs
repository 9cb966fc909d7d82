//! A server to write to, and what its binlog says of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder};
use tidegate::change::{Changes, Op};
use tidegate::codec::binlog::BinlogDecoder;
use tidegate::config::MysqlConfig;
use tidegate::source::mysql::MysqlReader;
use tidegate::source::{Decoder, Mark, Raws, Reader, SourceError, Start};

/// The two servers, by the variable that says where they are.
pub const SERVERS: [&str; 2] = ["MYSQL_URL", "MARIADB_URL"];

pub fn url(server: &str) -> String {
    std::env::var(server).unwrap_or_else(|_| panic!("{server} is not set: run tests/run, which starts the servers"))
}

/// A database of the test's own, dropped in the end.
pub struct Database {
    pub name: String,
    pub server: &'static str,
    pub conn: Conn,
}

impl Database {
    pub fn new(server: &'static str, name: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut conn = connect(&url(server));
        conn.query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).unwrap();
        conn.query_drop(format!("USE {name}")).unwrap();
        Database { name, server, conn }
    }

    pub fn run(&mut self, sql: &str) {
        self.conn.query_drop(sql).unwrap_or_else(|error| panic!("{}: {sql}: {error}", self.server));
    }

    pub fn is_mariadb(&self) -> bool {
        self.server == "MARIADB_URL"
    }

    /// The end of the binlog now.
    pub fn end(&mut self) -> String {
        crate::job::source::binlog_end(&mut self.conn)
    }

    pub fn config(&self, start: &str) -> MysqlConfig {
        MysqlConfig {
            url: url(self.server),
            password_file: None,
            tables: vec![format!("{}.*", self.name)],
            server_id: None,
            start: start.parse().unwrap(),
        }
    }

    /// A reader of what was written since `start`, that ends where the binlog ends now.
    pub fn reader(&self, start: &str) -> MysqlReader {
        MysqlReader::open(&self.config(start), &self.name, &Start::Configured, true).unwrap_or_else(|e| panic!("{e}"))
    }

    /// All changes since `start`.
    pub fn changes(&self, start: &str) -> Vec<Seen> {
        let (raws, _) = read_to_end(&mut self.reader(start)).unwrap_or_else(|error| panic!("{error}"));
        decode(&raws).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What goes wrong when everything since `start` is read and decoded.
    pub fn error(&self, start: &str) -> String {
        let result = read_to_end(&mut self.reader(start)).and_then(|(raws, _)| decode(&raws));
        result.expect_err("it should be refused").to_string()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.conn.query_drop(format!("DROP DATABASE {}", self.name)); // the test may have broken the connection
    }
}

/// Kills whatever reads a server's binlog.
pub fn kill_readers(conn: &mut Conn) {
    let dumps: Vec<u64> =
        conn.query("SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'").unwrap();
    for dump in dumps {
        let _ = conn.query_drop(format!("KILL {dump}")); // it may be gone by itself
    }
}

pub fn connect(url: &str) -> Conn {
    let options = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    let mut conn = Conn::new(options).unwrap();
    conn.query_drop("SET time_zone = '+00:00'").unwrap();
    conn
}

/// A change as plain values.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub op: Op,
    pub seq: u64,
    pub time: u64,
    pub table: String,
    pub key: String,
    pub position: String,
    pub row: String,
}

pub fn read_to_end(reader: &mut dyn Reader) -> Result<(Raws, Vec<Mark>), SourceError> {
    let mut all = Raws::default();
    let mut marks = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut raws = Raws::default();
        let mark = reader.read(&mut raws)?;
        raws.iter().for_each(|(head, payload)| all.push(*head, payload));
        let end = mark.end;
        marks.push(mark);
        if end {
            return Ok((all, marks));
        }
        assert!(Instant::now() < deadline, "the end of the binlog does not come");
    }
}

pub fn decode(raws: &Raws) -> Result<Vec<Seen>, SourceError> {
    let mut decoder = BinlogDecoder::new(false);
    let mut changes = Changes::default();
    for raw in raws.raws() {
        decoder.decode(&raw, &mut changes)?;
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let seen = changes.changes().map(|change| Seen {
        op: change.op(),
        seq: change.head.seq,
        time: change.head.time,
        table: change.table().to_string(),
        key: text(change.key()),
        position: text(change.position()),
        row: text(change.row()),
    });
    Ok(seen.collect())
}

/// The row changes, as operation, key and row.
pub fn rows(seen: &[Seen]) -> Vec<(Op, &str, &str)> {
    seen.iter().filter(|s| s.op != Op::Schema).map(|s| (s.op, s.key.as_str(), s.row.as_str())).collect()
}

/// The changes of rows.
pub fn without_schemas(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter().filter(|seen| seen.op != Op::Schema).collect()
}

/// Transactions of some rows each, on two tables, of which one is not wanted.
pub fn write_transactions(database: &mut Database, count: usize) {
    write_transactions_from(database, 0, count);
}

/// The same, with ids from `first * 10` on.
pub fn write_transactions_from(database: &mut Database, first: usize, count: usize) {
    for number in first..first + count {
        database.run("START TRANSACTION");
        for row in 0..1 + number % 4 {
            database.run(&format!("INSERT INTO t VALUES ({}, 'row {row} of {number}')", number * 10 + row));
            database.run("INSERT INTO other.unwanted VALUES (1)");
        }
        database.run(&format!("UPDATE t SET v = 'again' WHERE id = {}", number * 10));
        database.run("COMMIT");
    }
}

/// With a table `t`, and one in a database of all that is not wanted.
pub fn with_tables(server: &'static str, name: &str) -> Database {
    let mut database = Database::new(server, name);
    database.run("CREATE TABLE t (id int primary key, v varchar(100))");
    database.run("CREATE DATABASE IF NOT EXISTS other");
    database.run("CREATE TABLE IF NOT EXISTS other.unwanted (a int)");
    database
}
