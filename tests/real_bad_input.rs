//! What can't be landed: one sentence that names the table, exit code 3, and nothing half done.

#[allow(dead_code, reason = "each test program uses its part of it")]
mod place;

use std::process::{Command, Output};

use place::env;
use postgres::{Client, NoTls};

/// A job from a file of changes to PostgreSQL.
struct Job {
    name: String,
    folder: tempfile::TempDir,
}

impl Job {
    fn new(name: &str, lines: &[&str]) -> Job {
        let name = format!("bad_{name}_{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let job = Job { name, folder };
        std::fs::write(job.folder.path().join("changes.jsonl"), lines.join("\n")).unwrap();
        job.configure("");
        assert_eq!(code(&job.run("publish")), Some(0));
        job
    }

    fn configure(&self, land: &str) {
        let config = format!(
            "job = \"{0}\"\n[source]\nkind = \"jsonl\"\npath = \"{1}\"\n[kafka]\nbrokers = \"{2}\"\ntopic = \"{0}\"\n\
             [land]\nepoch = \"200ms\"\n{land}\n[target]\nkind = \"postgres\"\nurl = \"{3}\"\nschema = \"{0}\"\n",
            self.name,
            self.folder.path().join("changes.jsonl").display(),
            env("KAFKA_ADDR"),
            env("PG_URL"),
        );
        std::fs::write(self.folder.path().join("tidegate.toml"), config).unwrap();
    }

    fn run(&self, command: &str) -> Output {
        let config = self.folder.path().join("tidegate.toml");
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process.arg(command).arg("--config").arg(config).arg("--until-caught-up").output().unwrap()
    }

    /// That `land` refuses in one sentence with all those words.
    fn refused(&self, words: &[&str]) {
        let output = self.run("land");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), Some(3), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "'{word}' is not in: {said}");
        }
    }

    fn count(&self, table: &str) -> i64 {
        let mut client = Client::connect(&env("PG_URL"), NoTls).unwrap();
        let exists = client.query_one("SELECT to_regclass($1)::text", &[&format!("{}.{table}", self.name)]).unwrap();
        match exists.get::<_, Option<String>>(0) {
            None => 0,
            Some(_) => client.query_one(&format!("SELECT count(*) FROM {}.{table}", self.name), &[]).unwrap().get(0),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&env("PG_URL"), NoTls) {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
        }
    }
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

const KEYED: &str =
    r#"{"op":"insert","database":"shop","table":"good","time":1700000000000,"key":["id"],"row":{"id":1}}"#;

fn keyless(id: u32, time: u64) -> String {
    format!(
        r#"{{"op":"insert","database":"shop","table":"bare","time":{time},"key":[],"types":{{"id":"int"}},"row":{{"id":{id}}}}}"#
    )
}

#[test]
fn a_table_without_a_key_is_refused_before_any_work() {
    let job = Job::new("keyless", &[KEYED, &keyless(1, 1_700_000_000_000)]);
    job.refused(&["shop.bare", "neither a primary key nor", "[land] tables"]);
    assert_eq!(job.count("good"), 0, "nothing has been done");
    job.configure("tables = [\"shop.good\"]");
    assert_eq!(code(&job.run("land")), Some(0));
    assert_eq!((job.count("good"), job.count("bare")), (1, 0));
}

#[test]
fn changes_from_before_a_table_had_a_key_are_not_taken_for_one_row() {
    let later = r#"{"op":"insert","database":"shop","table":"bare","time":1700000001000,"key":["id"],"types":{"id":"int"},"row":{"id":3}}"#;
    let (first, second) = (keyless(1, 1_700_000_000_000), keyless(2, 1_700_000_000_000));
    let job = Job::new("late_key", &[&first, &second, later]);
    job.refused(&["shop.bare", "have no key"]);
    // The lane of the row with a key may have been first.
    assert!(job.count("bare") <= 1);
}

#[test]
fn an_empty_text_is_a_key() {
    let job = Job::new(
        "empty_key",
        &[r#"{"op":"insert","database":"shop","table":"t","time":1700000000000,"key":["k"],"row":{"k":"","v":1}}"#],
    );
    assert_eq!(code(&job.run("land")), Some(0));
    assert_eq!(job.count("t"), 1);
}
