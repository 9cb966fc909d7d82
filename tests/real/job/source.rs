//! A database at a server, whose changes a job publishes.

use mysql::prelude::Queryable;

use super::{Job, env};

/// Where the binlog ends now, as `file:offset`. Each of the two servers has its own words for it.
pub fn binlog_end(conn: &mut mysql::Conn) -> String {
    let row: Result<Option<mysql::Row>, _> = conn.query_first("SHOW BINARY LOG STATUS");
    let row = row.or_else(|_| conn.query_first("SHOW MASTER STATUS")).unwrap().unwrap();
    format!("{}:{}", row.get::<String, _>(0).unwrap(), row.get::<u64, _>(1).unwrap())
}

/// A database at the source with a job that publishes it; the database goes when it goes.
pub struct Source {
    server: &'static str,
    pub conn: mysql::Conn,
    pub name: String,
}

impl Source {
    pub fn new(server: &'static str, name: &str) -> Source {
        let name = format!("{name}_{}", std::process::id());
        let conn = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
        let mut source = Source { server, conn, name };
        let database = source.name.clone();
        source.run(&[
            "SET NAMES utf8mb4, time_zone = '+00:00'",
            &format!("CREATE DATABASE {database}"),
            &format!("USE {database}"),
        ]);
        source
    }

    pub fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            let short: String = sql.chars().take(300).collect();
            self.conn.query_drop(sql).unwrap_or_else(|error| panic!("{}: {short}: {error}", self.server));
        }
    }

    /// A job that reads from where the binlog ends now, the tables whose names go on so behind the database's: `.*`, or with a !
    /// not those.
    pub fn job(&mut self, tables: &[&str]) -> Job {
        let start = binlog_end(&mut self.conn);
        let pattern = |table: &&str| match table.strip_prefix('!') {
            Some(table) => format!("\"!{}{table}\"", self.name),
            None => format!("\"{}{table}\"", self.name),
        };
        let tables = tables.iter().map(pattern).collect::<Vec<_>>().join(", ");
        let url = env(self.server);
        Job::new(&self.name, &format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [{tables}]\nstart = \"{start}\""))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.conn.query_drop(format!("DROP DATABASE {}", self.name));
    }
}

/// Publishes, lands and compares what the statements did.
pub fn arrives(server: &'static str, name: &str, statements: &[&str]) -> Job {
    let mut source = Source::new(server, name);
    let job = source.job(&[".*"]);
    source.run(statements);
    job.run("publish");
    job.run("land");
    job.run("verify");
    job
}
