//! The disk of the target runs full under load, and gets room again: nothing is lost and nothing is twice.
//!
//! Disks are tmpfs of a few megabytes: see tests/services/apart.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::faults::apart::{Servers, apart};
use crate::faults::running::Running;
use crate::faults::trial::{Place, Trial};
use crate::faults::workload::Work;
use crate::job::env;
use postgres::{Client, NoTls};

/// How long the next change may take to come through, from when there is room and the server answers.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

fn shell(words: &str) {
    let output = Command::new("sh").args(["-ec", words]).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A small disk that somebody else may fill.
struct Disk {
    at: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The server may still be at work on it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

impl Disk {
    fn mount(at: &Path, size: &str) -> Disk {
        shell(&format!("mkdir -p '{0}' && mount -t tmpfs -o size={size} none '{0}'", at.display()));
        Disk { at: at.to_path_buf() }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// To the last byte.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

fn ask_postgres(sql: &str) -> Result<(), postgres::Error> {
    Client::connect(&env("PG_URL"), NoTls)?.batch_execute(sql)
}

/// Starts the server again if it has given up.
fn see_to_postgres(servers: &mut Servers) {
    for _ in 0..50 {
        if ask_postgres("SELECT 1").is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    servers.start("postgres");
}

struct Siege {
    trial: Trial,
    publish: Running,
    land: Running,
    disk: Disk,
}

impl Siege {
    fn watch(&mut self, millis: u64) {
        self.trial.supervise_for(Duration::from_millis(millis), &mut [&mut self.publish, &mut self.land]);
    }

    fn recovers(&mut self, servers: &mut Servers, what: &str) {
        self.watch(1_000);
        self.disk.make_room();
        see_to_postgres(servers);
        let took = self.trial.recovers(RECOVERY_MAX, &mut [&mut self.publish, &mut self.land]);
        println!("{what}: with room again the next change took {} ms", took.as_millis());
    }
}

#[test]
fn postgres_runs_full_and_gets_room() {
    let test = "postgres_runs_full_and_gets_room";
    let Some(mut servers) = apart(test, &["mysql", "kafka", "postgres"]) else { return };
    let (_, seed) = crate::faults::kills_and_seed(40);
    servers.end("postgres");
    let data = servers.folder("postgres").join("data");
    shell(&format!("mv {0} {0}.before", data.display()));
    let disk = Disk::mount(&data, "300m");
    shell(&format!("cp -a {0}.before/. {0} && chmod 700 {0} && chown nobody:nogroup {0}", data.display()));
    servers.start("postgres");

    let mut trial = Trial::new("MYSQL_URL", seed, Place::Here);
    let mut publish = trial.start("publish", 1);
    publish.wait_until_up();
    let land = trial.start("land", 1);
    let work = Work::start("MYSQL_URL", &trial.name, seed, crate::faults::PAUSE);
    let mut siege = Siege { trial, publish, land, disk };
    siege.trial.arrives(&mut [&mut siege.publish, &mut siege.land]);

    // Tables can't grow: the server refuses what land writes, and goes on.
    siege.disk.fill();
    siege.trial.at_source("INSERT INTO watched (v) WITH RECURSIVE n (v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n WHERE v < 900) SELECT a.v FROM n AS a, n AS b WHERE b.v <= 10");
    let is_full = |siege: &Siege| siege.land.said(0).contains("No space left on device");
    for _ in 0..30 {
        siege.watch(2_000); // a busy machine takes longer to get there
        if is_full(&siege) {
            break;
        }
    }
    assert!(is_full(&siege), "{}", siege.land.said(0));
    siege.recovers(&mut servers, "no room for tables");

    // The log of the server can't grow: it goes down with everything that is under way.
    siege.disk.fill();
    let mut downs = 0;
    for _ in 0..200 {
        downs += u32::from(ask_postgres("SELECT txid_current(); SELECT pg_switch_wal()").is_err());
        if downs > 3 {
            break;
        }
    }
    assert!(downs > 3, "the server does not mind");
    siege.recovers(&mut servers, "no room for the server's log");
    let Siege { mut trial, publish, land, .. } = siege;
    trial.ends("a full disk", work, publish, land);
}

/// A job from a file of changes to SQLite.
struct SqliteJob {
    folder: PathBuf,
    config: PathBuf,
}

impl SqliteJob {
    fn run(&self, command: &str) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process.args([command, "--until-caught-up", "-w", "2", "--config"]).arg(&self.config).output().unwrap()
    }

    fn rows(&self) -> BTreeMap<i64, (i64, String)> {
        let file = rusqlite::Connection::open(self.folder.join("disk/target.db")).unwrap();
        let mut rows = file.prepare("SELECT id, v, note FROM t").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

#[test]
fn sqlite_runs_full_says_so_and_goes_on_with_room() {
    let test = "sqlite_runs_full_says_so_and_goes_on_with_room";
    let Some(_servers) = apart(test, &["kafka"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().to_path_buf();
    let disk = Disk::mount(&folder.join("disk"), "6m");
    let (changes, config) = (folder.join("changes.jsonl"), folder.join("tidegate.toml"));
    let mut want: BTreeMap<i64, (i64, String)> = BTreeMap::new();
    let mut lines = String::new();
    for number in 0..30_000_i64 {
        let (id, time) = (number * 7919 % 20_000, 1_700_000_000_000 + number * 10);
        let note = format!("{number:0>300}");
        let before = want.insert(id, (number, note.clone()));
        let op = if before.is_none() { "insert" } else { "update" };
        lines += &format!(
            "{{\"op\":\"{op}\",\"database\":\"shop\",\"table\":\"t\",\"time\":{time},\"key\":[\"id\"],\"row\":{{\"id\":{id},\"v\":{number},\"note\":\"{note}\"}}}}\n"
        );
    }
    std::fs::write(&changes, lines).unwrap();
    let settings = format!(
        "job = \"disk\"\n[source]\nkind = \"jsonl\"\npath = \"{}\"\n[kafka]\nbrokers = \"{}\"\ntopic = \"disk\"\npartitions = 4\n\
         [land]\nepoch = \"1s\"\nmemory = \"1MiB\"\n[target]\nkind = \"sqlite\"\npath = \"{}\"\n",
        changes.display(),
        env("KAFKA_ADDR"),
        disk.at.join("target.db").display()
    );
    std::fs::write(&config, settings).unwrap();
    let job = SqliteJob { folder, config };
    let published = job.run("publish");
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    for attempt in 0..2 {
        let output = job.run("land");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.trim_end().lines().count()), (Some(3), 1), "{attempt}: {said}");
        assert!(said.contains("target.db") && said.contains("full") && said.contains("room"), "{said}");
        println!("{attempt}: {}", said.trim_end());
    }
    let landed = job.rows();
    assert!(!landed.is_empty() && landed.len() < want.len(), "{} rows of {}", landed.len(), want.len());
    shell(&format!("mount -o remount,size=100m '{}'", disk.at.display()));
    let output = job.run("land");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(job.rows() == want, "{} rows of {}", job.rows().len(), want.len());
}
