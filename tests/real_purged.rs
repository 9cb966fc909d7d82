//! A place in a binlog that the server has purged: a program of its own, because purging takes binlogs from every reader.

#[allow(dead_code, reason = "each test program uses its part of it")]
mod hologres;
#[allow(dead_code, reason = "each test program uses its part of it")]
mod job;

use std::time::{Duration, Instant};

use job::{Job, env};
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
