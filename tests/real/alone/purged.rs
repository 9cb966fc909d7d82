//! A place in a binlog that the server has purged: a program of its own, because purging takes binlogs from every reader.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::job::{Job, env};
use mysql::prelude::Queryable;

fn a_purged_binlog(server: &str) {
    let name = format!("purged_{}", std::process::id());
    let mut source = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).unwrap();
    let settings = format!("kind = \"mysql\"\nurl = \"{}\"\ntables = [\"{name}.*\"]", env(server));
    let mut job = Job::new("purged", &settings);
    job.run("publish");
    source.query_drop(format!("INSERT INTO {name}.t VALUES (1)")).unwrap();
    source.query_drop("FLUSH BINARY LOGS").unwrap();
    let kept: Vec<mysql::Row> = source.query("SHOW BINARY LOGS").unwrap();
    let newest: String = kept.last().unwrap().get(0).unwrap();
    // A server keeps what a replica still reads.
    let purged = |source: &mut mysql::Conn| {
        source.query_drop(format!("PURGE BINARY LOGS TO '{newest}'")).unwrap();
        source.query::<mysql::Row, _>("SHOW BINARY LOGS").unwrap().len() == 1
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !purged(&mut source) {
        assert!(Instant::now() < deadline, "the server does not purge");
        std::thread::sleep(Duration::from_millis(200));
    }
    job.refused("publish", &["any more", &newest, "copy the tables anew", "binlog_expire_logs_seconds"]);
    assert_eq!(job.count("t", "true"), 0);
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
}

#[test]
fn a_binlog_that_mysql_has_purged() {
    a_purged_binlog("MYSQL_URL");
}

#[test]
fn a_binlog_that_mariadb_has_purged() {
    a_purged_binlog("MARIADB_URL");
}

/// The server goes on showing a connected replica the file that is gone, and nothing of the one that has its name.
fn a_binlog_begun_anew(server: &str, flush: bool) {
    let name = format!("anew_{}_{flush}", std::process::id());
    let mut source = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).unwrap();
    let settings = format!("kind = \"mysql\"\nurl = \"{}\"\ntables = [\"{name}.*\"]\nstart = \"latest\"", env(server));
    let mut job = Job::new("anew", &settings);
    let out = job.file("publish.out");
    let publish =
        job.command("publish", &[]).stdout(File::create(&out).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    job.wait("publish to begin", |_| std::fs::read_to_string(&out).unwrap().contains(": reads "));
    std::thread::sleep(Duration::from_millis(1_100)); // a file is told from another by its second
    if source.query_drop("RESET BINARY LOGS AND GTIDS").is_err() {
        source.query_drop("RESET MASTER").unwrap();
    }
    source.query_drop(format!("INSERT INTO {name}.t VALUES (1)")).unwrap();
    if flush {
        source.query_drop("FLUSH BINARY LOGS").unwrap();
        source.query_drop(format!("INSERT INTO {name}.t VALUES (2)")).unwrap();
    }
    let ended = publish.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(3), "{said}");
    // Where the new file is shorter, the server itself refuses the place.
    assert!(["was begun anew", "can't go on sending its binlog"].iter().any(|words| said.contains(words)), "{said}");
    job.run("land");
    assert_eq!(job.count("t", "true"), 0, "nothing comes behind what is missing");
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
}

#[test]
fn a_binlog_that_mysql_has_begun_anew() {
    [false, true].into_iter().for_each(|flush| a_binlog_begun_anew("MYSQL_URL", flush));
}

#[test]
fn a_binlog_that_mariadb_has_begun_anew() {
    [false, true].into_iter().for_each(|flush| a_binlog_begun_anew("MARIADB_URL", flush));
}
