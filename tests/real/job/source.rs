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
    pub conn: mysql::Conn,
    pub name: String,
}

impl Source {
    pub fn new(server: &str, name: &str) -> Source {
        let name = format!("{name}_{}", std::process::id());
        let mut conn = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
        conn.query_drop(format!("CREATE DATABASE {name}")).unwrap();
        conn.query_drop(format!("USE {name}")).unwrap();
        Source { conn, name }
    }

    pub fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            self.conn.query_drop(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// A job that reads from where the binlog ends now.
    pub fn job(&mut self, server: &str, tables: &str) -> Job {
        let start = binlog_end(&mut self.conn);
        let url = env(server);
        Job::new(&self.name, &format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [{tables}]\nstart = \"{start}\""))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.conn.query_drop(format!("DROP DATABASE {}", self.name));
    }
}
