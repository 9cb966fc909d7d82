//! A trial: a job from a server to PostgreSQL, its processes, and what has to hold in the end.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use postgres::{Client, NoTls};

use super::network::{address, on};
use super::running::{Process, Running};
use super::workload::{CREATE, TABLES, Work, connect};
use super::{PATIENCE, Random};
use crate::hologres::target_url;
use crate::job::{env, free_address};
use crate::topic::{committed, written};

/// How long a supervisor waits before it starts again what has failed: as deploy/tidegate@.service says.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// Where the processes of a trial run.
#[derive(Clone, Copy)]
pub enum Place {
    /// Here; those of a cluster find each other on loopback.
    Here,
    /// Each command on the host of its name.
    ByCommand,
    /// Process `n` of a cluster on host `n` of these.
    ByNumber(&'static [&'static str]),
}

impl Place {
    /// The words before the command of a process.
    fn words(self, command: &str, number: usize) -> Vec<String> {
        match self {
            Place::Here => Vec::new(),
            Place::ByCommand => on(command),
            Place::ByNumber(hosts) => on(hosts[number]),
        }
    }

    /// Where a process of a cluster is found.
    fn address(self, command: &str, number: usize) -> String {
        let port = if command == "publish" { 2101 } else { 2102 };
        match self {
            Place::ByNumber(_) => format!("{}:{port}", address(number)),
            _ => free_address(),
        }
    }
}

/// A job under faults.
pub struct Trial {
    pub name: String,
    server: &'static str,
    folder: tempfile::TempDir,
    source: mysql::Conn,
    pub random: Random,
    started: u32,
    place: Place,
    /// How `publish` delivers.
    pub delivery: &'static str,
    /// What processes have said when they gave up and were started again, and how often.
    pub gave_up: BTreeMap<String, u32>,
    /// The next mark.
    mark: u64,
    recovery: Vec<u128>,
}

fn target() -> Result<Client, postgres::Error> {
    Client::connect(&env("PG_URL"), NoTls)
}

impl Trial {
    pub fn new(server: &'static str, seed: u64, place: Place) -> Trial {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("faults_{}_{}_{number}", server[..5].to_lowercase(), std::process::id());
        let mut source = connect(server, &name);
        CREATE.iter().for_each(|table| source.query_drop(table).unwrap());
        source
            .query_drop("CREATE TRIGGER t AFTER INSERT ON watched FOR EACH ROW INSERT INTO audit (what) VALUES (concat('row ', NEW.id, ': ', NEW.v))")
            .unwrap();
        target()
            .unwrap()
            .batch_execute(&format!(
                "CREATE SCHEMA {name}; SET search_path = {name}; CREATE TABLE counter (id integer PRIMARY KEY, v bigint);
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF NEW.v < OLD.v THEN RAISE EXCEPTION 'row % steps back from % to %', OLD.id, OLD.v, NEW.v; END IF;
                     RETURN NEW;
                 END $$;
                 CREATE TRIGGER guard BEFORE UPDATE ON counter FOR EACH ROW EXECUTE FUNCTION refuse()"
            ))
            .unwrap();
        Trial {
            name,
            server,
            folder: tempfile::tempdir().unwrap(),
            source,
            random: Random(seed),
            started: 0,
            place,
            delivery: "exactly-once",
            gave_up: BTreeMap::new(),
            mark: 0,
            recovery: Vec::new(),
        }
    }

    /// Starts a command on a random number of workers, in so many processes; `land` with epochs of a random length.
    pub fn start(&mut self, command: &'static str, processes: usize) -> Running {
        self.started += 1;
        let path = |what: &str| self.folder.path().join(format!("{command}.{}.{what}", self.started));
        let config = format!(
            "job = \"{0}\"\n[source]\nkind = \"mysql\"\nurl = \"{1}\"\ntables = [\"{0}.*\"]\n[kafka]\nbrokers = \"{2}\"\n\
             topic = \"{0}\"\npartitions = 4\n[publish]\ndelivery = \"{5}\"\n[land]\nepoch = \"{3}\"\n[target]\nkind = \"postgres\"\nurl = \"{4}\"\n\
             schema = \"{0}\"\n",
            self.name,
            env(self.server),
            env("KAFKA_ADDR"),
            self.random.of(&["100ms", "300ms", "1s"]),
            target_url(&env("PG_URL")),
            self.delivery,
        );
        std::fs::write(path("toml"), config).unwrap();
        let hosts: Vec<String> = (0..processes).map(|number| self.place.address(command, number)).collect();
        std::fs::write(path("hosts"), hosts.join("\n") + "\n").unwrap();
        let workers = self.random.of(&["1", "2", "3"]);
        let start = |number: usize| {
            let mut words = self.place.words(command, number);
            words.push(env!("CARGO_BIN_EXE_tidegate").into());
            let mut process = Command::new(&words[0]);
            process.args(&words[1..]).arg(command).arg("--config").arg(path("toml")).args(["-w", workers]);
            if processes > 1 {
                process.args(["-n", &processes.to_string(), "-p", &number.to_string(), "-h"]).arg(path("hosts"));
            }
            Process::start(process, path(&format!("{number}.out")))
        };
        Running { command, processes: (0..processes).map(start).collect() }
    }

    /// Starts a command in one process or in two.
    pub fn start_any(&mut self, command: &'static str) -> Running {
        let processes = if self.random.below(3) == 0 { 2 } else { 1 };
        self.start(command, processes)
    }

    /// Does what a supervisor of each process does: what has given up, and says in one sentence why, or has been killed, is
    /// started again after a while.
    pub fn supervise(&mut self, running: &mut Running) {
        for number in 0..running.processes.len() {
            let process = &mut running.processes[number];
            match process.ended {
                Some(since) if since.elapsed() >= RESTART_PAUSE => process.start_again(),
                Some(_) => {}
                None => {
                    let Some(status) = process.child.try_wait().unwrap() else { continue };
                    (process.ended, process.ends) = (Some(Instant::now()), process.ends + 1);
                    if status.signal().is_none() {
                        let sentence = running.last_sentence(number).replace(&self.name, "JOB");
                        *self.gave_up.entry(format!("{}: {sentence}", running.command)).or_default() += 1;
                    }
                }
            }
        }
    }

    /// Supervises so long.
    pub fn supervise_for(&mut self, time: Duration, running: &mut [&mut Running]) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            running.iter_mut().for_each(|running| self.supervise(running));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has the source take a statement.
    pub fn at_source(&mut self, sql: &str) {
        self.source.query_drop(sql).unwrap();
    }

    /// Writes a row at the source and waits until it is at the target. Nothing may end meanwhile.
    pub fn arrives(&mut self, running: &mut [&mut Running]) -> Duration {
        self.await_mark(PATIENCE, |_| running.iter_mut().for_each(|running| running.is_running()))
    }

    /// The same, within `limit`, where what gives up is started again.
    pub fn recovers(&mut self, limit: Duration, running: &mut [&mut Running]) -> Duration {
        self.await_mark(limit, |trial| running.iter_mut().for_each(|running| trial.supervise(running)))
    }

    fn await_mark(&mut self, limit: Duration, mut meanwhile: impl FnMut(&mut Trial)) -> Duration {
        let id = self.mark;
        self.mark += 1;
        let begun = Instant::now();
        while self.source.query_drop(format!("REPLACE INTO marks VALUES ({id})")).is_err() {
            self.source = connect(self.server, &self.name); // its server has been away
        }
        let sql = format!("SELECT 1 FROM {}.marks WHERE id = {id}", self.name);
        let mut client = None;
        loop {
            if client.is_none() {
                client = target().ok();
            }
            match client.as_mut().map(|client| client.query_opt(&sql, &[])) {
                Some(Ok(Some(_))) => break,
                Some(Err(error)) if error.is_closed() => client = None,
                _ => {}
            }
            meanwhile(self);
            if begun.elapsed() >= limit {
                self.show();
                panic!("mark {id} does not arrive within {limit:?}: {:#?}", self.gave_up);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.recovery.push(begun.elapsed().as_millis());
        begun.elapsed()
    }

    /// Shows the end of what each process has said.
    fn show(&self) {
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            println!("{}:", path.display());
            lines[lines.len().saturating_sub(8)..].iter().for_each(|line| println!("    {line}"));
        }
    }

    /// All rows of a table on both sides, as text.
    fn dump(&mut self, table: &str, columns: &str) -> [BTreeMap<Vec<Option<String>>, u32>; 2] {
        let mut both = [BTreeMap::new(), BTreeMap::new()];
        let rows: Vec<mysql::Row> = self.source.query(format!("SELECT {columns} FROM {table}")).unwrap();
        for row in rows {
            let text = |value: mysql::Value| match value {
                mysql::Value::NULL => None,
                mysql::Value::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
                other => Some(other.as_sql(true)),
            };
            *both[0].entry(row.unwrap().into_iter().map(text).collect()).or_default() += 1;
        }
        for row in target().unwrap().simple_query(&format!("SELECT {columns} FROM {}.{table}", self.name)).unwrap() {
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

    /// Ends the trial: both sides are identical, and each change is once in the topic, in order. Says what was done to it.
    pub fn ends(&mut self, what: &str, work: Work, mut publish: Running, mut land: Running) {
        let taken = work.end();
        let recovery = std::mem::take(&mut self.recovery);
        self.arrives(&mut [&mut publish, &mut land]);
        publish.stop(0);
        land.stop(0);
        let mut rows = 0;
        for (table, columns) in TABLES {
            let [source, target] = self.dump(table, columns);
            let only = |here: &BTreeMap<_, _>, there: &BTreeMap<_, _>| -> Vec<Vec<Option<String>>> {
                here.keys().filter(|row| here.get(*row) != there.get(*row)).cloned().collect()
            };
            if source != target {
                let (missing, extra) = (only(&source, &target), only(&target, &source));
                for row in missing.iter().chain(&extra) {
                    println!(
                        "{row:?} in the topic: {:?}",
                        written(&self.name, table, row[0].as_deref().unwrap_or_default())
                    );
                }
                self.show();
                panic!("{}: {table}: only at the source {missing:?}, only at the target {extra:?}", self.server);
            }
            rows += source.len();
        }
        self.verify();
        let seqs = committed(&self.name);
        assert!(seqs.values().all(|seqs| seqs.is_sorted_by(|a, b| a < b)), "a partition repeats or reorders");
        let mut all: Vec<u64> = seqs.into_values().flatten().collect();
        let changes = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), changes, "a change is twice in the topic");
        let mut recovery = recovery;
        recovery.sort_unstable();
        println!(
            "{}: {what}, {taken} statements, {changes} changes, {rows} rows identical; recovered in {} ms (median), {} ms at most",
            self.server,
            recovery[recovery.len() / 2],
            recovery[recovery.len() - 1]
        );
        for (sentence, times) in &self.gave_up {
            println!("{times} times {sentence}");
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.source.query_drop(format!("DROP DATABASE {}", self.name));
        if let Ok(mut target) = target() {
            let _ = target.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name));
        }
    }
}
