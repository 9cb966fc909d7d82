//! Targets that speak PostgreSQL's protocol, for the tests of their lanes: a schema and a job, and ways that are cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use postgres::{Client, NoTls};
use tidegate::config::{PostgresConfig, ZeroDates};
use tidegate::target::postgres::PostgresTarget;
use tidegate::target::{Lane, Progress, Target};

use crate::hologres::target_url;
use crate::steps::{Schemas, schema};

pub fn url() -> String {
    std::env::var("PG_URL").expect("PG_URL is not set: these tests need a PostgreSQL; tests/run starts one")
}

/// One test's schema and job.
pub struct Place {
    pub config: PostgresConfig,
    pub job: String,
    client: Client,
}

impl Place {
    pub fn new() -> Place {
        Place::at(&target_url(&url()))
    }

    /// A place whose job goes this way to the server; the test itself goes straight.
    pub fn at(url: &str) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("target_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut client = Client::connect(&self::url(), NoTls).unwrap();
        client
            .batch_execute(&format!(
                "SET client_min_messages = error; SET TIME ZONE 'UTC'; CREATE SCHEMA {name}; SET search_path = {name}"
            ))
            .unwrap();
        let config = PostgresConfig {
            url: url.into(),
            password_file: None,
            schema: name.clone(),
            create_tables: true,
            zero_dates: ZeroDates::Error,
        };
        Place { config, job: name, client }
    }

    pub fn target(&self) -> PostgresTarget {
        PostgresTarget::new(&self.config).unwrap()
    }

    /// A new run with one lane.
    pub fn run(&self, schemas: &Schemas) -> Box<dyn Lane> {
        let target = self.target();
        let generation = target.begin(&self.job, 1, "shop").unwrap().generation;
        target.lane(&self.job, 0, generation, schemas.find()).unwrap()
    }

    pub fn execute(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap();
    }

    /// Rows as text, columns joined by `|`.
    pub fn query(&mut self, sql: &str) -> Vec<String> {
        let text = |n: &postgres::SimpleQueryMessage| match n {
            postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|n| row.get(n).unwrap_or("NULL").to_string()).collect::<Vec<_>>().join("|"))
            }
            _ => None,
        };
        self.client.simple_query(sql).unwrap().iter().filter_map(text).collect()
    }

    pub fn recorded(&self) -> Option<Progress> {
        self.target().begin(&self.job, 1, "shop").unwrap().lanes.get(&0).cloned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (schema, job) = (&self.config.schema, &self.job);
        let _ = self.client.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE"));
        let _ = self.client.batch_execute(&format!("DELETE FROM tidegate.landed WHERE target LIKE '%{job}%'"));
        for table in ["generation", "progress", "checkpoint"] {
            let _ = self.client.batch_execute(&format!("DELETE FROM tidegate.{table} WHERE job = '{job}'"));
        }
    }
}

pub fn orders() -> Schemas {
    Schemas::of(&[schema("orders", &[("id", "bigint"), ("note", "varchar(20)")], &["id"])])
}

/// When a [`way`] to the server is cut, once.
#[derive(Clone, Copy)]
pub enum Cut {
    /// At the answer to what has these bytes in it.
    AtTheAnswerTo(&'static [u8]),
    /// As soon as these bytes are sent; the server does not hear of it.
    Behind(&'static [u8]),
}

/// The URL of a way to the server that is cut once.
pub fn way(to: &str, cut: Cut) -> String {
    let server: postgres::Config = to.parse().unwrap();
    let host = match &server.get_hosts()[0] {
        postgres::config::Host::Tcp(host) => host.clone(),
        other => panic!("PG_URL names no TCP host: {other:?}"),
    };
    let upstream = format!("{host}:{}", server.get_ports().first().unwrap_or(&5432));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (Cut::AtTheAnswerTo(bytes) | Cut::Behind(bytes)) = cut;
    let done = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&upstream).unwrap());
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let seen = Arc::new(AtomicBool::new(false));
            let (sees, done) = (seen.clone(), done.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_client.read(&mut buffer) {
                    let triggered =
                        buffer[..read].windows(bytes.len()).any(|w| w == bytes) && !done.swap(true, Ordering::SeqCst);
                    sees.fetch_or(triggered, Ordering::SeqCst);
                    if to_server.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    if triggered && matches!(cut, Cut::Behind(_)) {
                        let _ = from_client.shutdown(Shutdown::Both);
                        return std::mem::forget(to_server);
                    }
                }
                let _ = to_server.shutdown(Shutdown::Both);
            });
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    let lost = seen.load(Ordering::SeqCst) && matches!(cut, Cut::AtTheAnswerTo(_));
                    if lost || client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    let database = server.get_dbname().unwrap_or("postgres");
    format!("postgres://{}@{address}/{database}", server.get_user().unwrap_or("postgres"))
}
