//! A database at the source and one at the target, with names of their own, and `tidegate verify` on them.

pub mod types;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use mysql::prelude::Queryable;
use postgres::NoTls;

use crate::hologres::target_url;

/// What the environment says where a server is.
pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run, which starts the servers"))
}

/// Which target a place has.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Postgres,
    Sqlite,
}

/// One test's databases and configuration; they go when it goes.
pub struct Place {
    pub name: String,
    pub kind: Kind,
    pub source: mysql::Conn,
    postgres: postgres::Client,
    pub folder: tempfile::TempDir,
}

impl Place {
    /// Databases on the server that the variable names, and on the target.
    pub fn new(server: &str, kind: Kind) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vfy_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut source = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
        source.query_drop(format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).unwrap();
        source.query_drop(format!("USE {name}")).unwrap();
        // Neither the server's zone nor this session's may matter.
        source.query_drop("SET NAMES utf8mb4, time_zone = '+05:30'").unwrap();
        let mut postgres = postgres::Client::connect(&env("PG_URL"), NoTls).unwrap();
        postgres.batch_execute(&format!("CREATE SCHEMA {name}; SET search_path = {name}")).unwrap();
        let place = Place { name, kind, source, postgres, folder: tempfile::tempdir().unwrap() };
        place.configure(&env(server), "");
        place
    }

    /// Writes the configuration, with more settings for `[verify]`.
    pub fn configure(&self, source: &str, more: &str) {
        let target = match self.kind {
            Kind::Postgres => {
                format!("kind = \"postgres\"\nurl = \"{}\"\nschema = \"{}\"", target_url(&env("PG_URL")), self.name)
            }
            Kind::Sqlite => format!("kind = \"sqlite\"\npath = \"{}\"", self.file("target.db").display()),
        };
        let config = format!(
            "job = \"verify\"\n[source]\nkind = \"mysql\"\nurl = \"{source}\"\ntables = [\"{}.*\"]\n\
             [target]\n{target}\n[verify]\nchunk_rows = 1000\npatience = \"200ms\"\n{more}\n",
            self.name
        );
        std::fs::write(self.file("tidegate.toml"), config).unwrap();
    }

    /// The path of a file in the place's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs statements at the source.
    pub fn at_source(&mut self, sql: &str) {
        for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            self.source.query_drop(statement).unwrap_or_else(|error| panic!("{error}: {statement}"));
        }
    }

    /// Runs statements at the target.
    pub fn at_target(&mut self, sql: &str) {
        match self.kind {
            Kind::Postgres => self.postgres.batch_execute(sql).unwrap_or_else(|error| panic!("{error:?}: {sql}")),
            Kind::Sqlite => {
                let file = rusqlite::Connection::open(self.file("target.db")).unwrap();
                file.execute_batch(&format!("BEGIN; {sql}; COMMIT")).unwrap_or_else(|error| panic!("{error}: {sql}"));
            }
        }
    }

    /// Starts `tidegate verify`.
    pub fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["verify", "--config"])
            .arg(self.file("tidegate.toml"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs `tidegate verify` to its end.
    pub fn verify(&self, arguments: &[&str]) -> Verified {
        Verified::of(&self.start(arguments).wait_with_output().unwrap())
    }

    /// Runs the SQL of `--repair` at the target.
    pub fn repair(&mut self, file: &str) {
        let sql = std::fs::read_to_string(self.file(file)).unwrap();
        self.at_target(&sql);
    }

    /// Verifies in text and in JSON, on one worker and on two, and holds the report against what is planted; then mends
    /// the target and verifies again. `wanted` are table, kind, key (`a=1|b=2`) in the key's order, and columns that differ
    /// (`a|b`).
    pub fn finds_and_mends(&mut self, wanted: &[(&str, &str, &str, &str)]) {
        let sorted = |key: &str| {
            let mut parts: Vec<&str> = key.split('|').collect();
            parts.sort_unstable();
            parts.join("|")
        };
        let full = |table: &str| format!("{}.{table}", self.name);
        let found = |&(table, kind, key, columns): &(&str, &str, &str, &str)| {
            [full(table), kind.to_string(), sorted(key), columns.to_string()]
        };
        let want: BTreeSet<Found> = wanted.iter().map(found).collect();
        let repair = self.file("repair.sql");
        let _ = std::fs::remove_file(&repair);
        let verified = self.verify(&["--json", "--repair", repair.to_str().unwrap()]);
        assert_eq!(verified.code, 1, "{}{}", verified.out, verified.err);
        assert_eq!(verified.found(), want);
        let text = self.verify(&["-w", "2"]);
        assert_eq!(text.code, 1);
        for (table, kind, key, _) in wanted {
            let key = key.split('|').map(|part| part.replacen('=', "='", 1) + "'").collect::<Vec<_>>().join(" ");
            let line = format!("{kind} {} {key}", full(table));
            assert!(text.out.lines().any(|l| l == line), "no line '{line}' in\n{}", text.out);
        }
        let kinds = ["missing ", "extra ", "changed ", "undecided "];
        let listed = text.out.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
        assert_eq!(listed.count(), want.len(), "{}", text.out);
        assert!(text.out.lines().last().unwrap().starts_with("different ("), "{}", text.out);
        self.repair("repair.sql");
        let mended = self.verify(&["-w", "2", "--json"]);
        assert_eq!((mended.code, mended.found().len()), (0, 0), "{}{}", mended.out, mended.err);
    }

    /// That both sides are identical, with so many rows compared.
    pub fn is_identical(&self, rows: u64) {
        let verified = self.verify(&["--json", "-w", "2"]);
        assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
        let summary = verified.lines().pop().unwrap();
        let read = (summary["source_rows"].as_u64(), summary["target_rows"].as_u64());
        assert_eq!(read, (Some(rows), Some(rows)), "{summary}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.source.query_drop(format!("DROP DATABASE {}", self.name));
        let _ = self.postgres.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name));
    }
}

/// Table, kind, key and differing columns of a difference.
pub type Found = [String; 4];

/// What a run of `tidegate verify` said.
pub struct Verified {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Verified {
    pub fn of(output: &Output) -> Verified {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Verified { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The lines of a report in JSON.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(line).collect()
    }

    /// The differences of a report in JSON.
    pub fn found(&self) -> BTreeSet<Found> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        let one = |line: &serde_json::Value| {
            let key = line["key"].as_object().unwrap().iter();
            let key: Vec<String> = key.map(|(name, value)| format!("{name}={}", text(value))).collect();
            let columns = line["columns"].as_array().unwrap().iter().map(|column| text(&column["column"]));
            let columns: Vec<String> = columns.collect();
            [text(&line["table"]), text(&line["kind"]), key.join("|"), columns.join("|")]
        };
        self.lines().iter().filter(|line| line["type"] == "difference").map(one).collect()
    }
}
