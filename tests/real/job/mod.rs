//! A job of its own for a test: a configuration, a topic, a schema at the target, and the processes that run.

pub mod source;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::hologres::target_url;

/// What the environment says where a server is.
pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run, which starts the servers"))
}

/// An address of loopback where nothing listens, for a process that may be started again: no outgoing connection is given its
/// port meanwhile.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(37).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", 10_000 + number % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Ids with their versions.
pub type Rows = BTreeMap<i64, i64>;

/// Makes the target's table, which refuses to step back.
pub fn guard(job: &mut Job) {
    job.target
        .batch_execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, v bigint);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.v < OLD.v THEN RAISE EXCEPTION 'row % steps back from % to %', OLD.id, OLD.v, NEW.v; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER guard BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .unwrap();
}

/// What the table holds.
pub fn landed(job: &mut Job) -> Rows {
    job.target.query("SELECT id, v FROM t", &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A job from a source to PostgreSQL; processes and schema go when it goes.
pub struct Job {
    pub name: String,
    folder: tempfile::TempDir,
    source: String,
    running: Vec<Child>,
    /// Where the job lands; the test itself goes straight to PostgreSQL.
    pub url: String,
    pub target: Client,
}

impl Job {
    /// A job that reads the source which those lines of `[source]` say.
    pub fn new(name: &str, source: &str) -> Job {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut target = Client::connect(&env("PG_URL"), NoTls).unwrap();
        target.batch_execute(&format!("CREATE SCHEMA {name}; SET search_path = {name}")).unwrap();
        let url = target_url(&env("PG_URL"));
        let folder = tempfile::tempdir().unwrap();
        let job = Job { name, folder, source: source.into(), running: Vec::new(), url, target };
        job.configure("");
        job
    }

    /// A job that reads a file of changes in tidegate's own JSON.
    pub fn of_lines(name: &str, lines: &[String]) -> Job {
        let mut job = Job::new(name, "");
        job.source = format!("kind = \"jsonl\"\npath = \"{}\"", job.file("changes.jsonl").display());
        job.configure("");
        job.write_lines(lines);
        job
    }

    pub fn write_lines(&self, lines: &[String]) {
        std::fs::write(self.file("changes.jsonl"), lines.join("\n") + "\n").unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration, with more settings for `[land]`.
    pub fn configure(&self, land: &str) {
        let config = format!(
            "job = \"{0}\"\n[source]\n{1}\n[kafka]\nbrokers = \"{2}\"\ntopic = \"{0}\"\npartitions = 4\n\
             [land]\nepoch = \"200ms\"\n{land}\n[target]\nkind = \"postgres\"\nurl = \"{3}\"\nschema = \"{0}\"\n",
            self.name,
            self.source,
            env("KAFKA_ADDR"),
            self.url,
        );
        std::fs::write(self.file("tidegate.toml"), config).unwrap();
    }

    /// Writes the configuration, with settings for `[publish]`.
    pub fn configure_publish(&self, publish: &str) {
        self.configure(&format!("[publish]\n{publish}\n"));
    }

    pub fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process.arg(command).arg("--config").arg(self.file("tidegate.toml")).args(arguments);
        process
    }

    /// Runs a command until it has caught up, whatever comes of it.
    pub fn try_run(&self, command: &str) -> Output {
        let arguments: &[&str] = if command == "verify" { &["-w", "2"] } else { &["--until-caught-up", "-w", "2"] };
        self.command(command, arguments).output().unwrap()
    }

    /// Runs a command until it has caught up.
    pub fn run(&self, command: &str) {
        let output = self.try_run(command);
        let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        assert!(output.status.success(), "{command}: {out}{err}");
    }

    /// That a command refuses in one sentence with all those words.
    pub fn refused(&self, command: &str, words: &[&str]) {
        let output = self.try_run(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "'{word}' is not in: {said}");
        }
    }

    /// Starts a command that runs on, on two workers.
    pub fn start(&mut self, command: &str) {
        self.start_with(command, &["-w", "2"]);
    }

    /// Starts a command that runs on.
    pub fn start_with(&mut self, command: &str, arguments: &[&str]) {
        let child = self.command(command, arguments).stderr(Stdio::inherit()).spawn().unwrap();
        self.running.push(child);
    }

    /// Ends what was started last, with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.running.pop().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "a process ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until what was started last ends by itself; its exit code.
    pub fn ended_by_itself(&mut self) -> Option<i32> {
        self.running.pop().unwrap().wait().unwrap().code()
    }

    /// Stops everything that was started, with SIGTERM.
    pub fn stop_all(&mut self) {
        for mut child in self.running.drain(..) {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            assert_eq!(child.wait().unwrap().code(), Some(0), "after SIGTERM");
        }
    }

    /// Waits until `done`, while all that has been started runs.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Job) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !done(self) {
            for child in &mut self.running {
                assert_eq!(child.try_wait().unwrap(), None, "a process ended by itself");
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many rows of a table of the target fit a condition; 0 while it is not there.
    pub fn count(&mut self, table: &str, condition: &str) -> i64 {
        let exists =
            self.target.query_one("SELECT to_regclass($1)::text", &[&format!("{}.{table}", self.name)]).unwrap();
        match exists.get::<_, Option<String>>(0) {
            None => 0,
            Some(_) => {
                self.target.query_one(&format!("SELECT count(*) FROM {table} WHERE {condition}"), &[]).unwrap().get(0)
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.target.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}
