//! A source that is out of reach for a while: it is said, and publish goes on where it was.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::job::{Job, env};
use mysql::prelude::Queryable;

/// A way to a server that can be cut.
#[derive(Clone, Default)]
struct Way {
    cut: Arc<AtomicBool>,
    /// Lets 200 kB a second through.
    slow: Arc<AtomicBool>,
    /// Where it leads to instead, if anywhere.
    elsewhere: Arc<Mutex<Option<String>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    /// Opens a port that leads to `address`; returns it.
    fn to(&self, address: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let to = way.elsewhere.lock().unwrap().clone().unwrap_or_else(|| address.clone());
                let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
                if way.cut.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let slow = Arc::clone(&way.slow);
                    way.open.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut bytes = [0; 1 << 14];
                        while let Ok(n @ 1..) = from.read(&mut bytes) {
                            if slow.load(Ordering::SeqCst) {
                                std::thread::sleep(Duration::from_micros(5 * n as u64));
                            }
                            if to.write_all(&bytes[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both); // it may be closed already
                    });
                }
            }
        });
        port
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both); // it may be closed already
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

/// `host:port` of the server that a variable names.
fn address_of(server: &str) -> String {
    let options = mysql::Opts::from_url(&env(server)).unwrap();
    format!("{}:{}", options.get_ip_or_hostname(), options.get_tcp_port())
}

#[test]
fn another_server_behind_the_same_address_is_not_read_on_from() {
    let name = format!("failover_{}", std::process::id());
    let mut source = mysql::Conn::new(mysql::Opts::from_url(&env("MYSQL_URL")).unwrap()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).unwrap();
    let (way, address) = (Way::default(), address_of("MYSQL_URL"));
    let url = env("MYSQL_URL").replace(&address, &format!("127.0.0.1:{}", way.to(address.clone())));
    let mut job = Job::new(&name, &format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [\"{name}.*\"]"));
    let words = ["is another server (server_id ", "let the url lead to the old one", "copied anew"];
    let out = job.file("publish.out");
    let stdout = File::create(&out).unwrap();
    let publish = job.command("publish", &[]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    job.wait("publish to begin", |_| std::fs::read_to_string(&out).unwrap().contains(": reads "));
    *way.elsewhere.lock().unwrap() = Some(address_of("MARIADB_URL"));
    way.cut();
    way.mend();
    let ended = publish.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(3) && words.iter().all(|word| said.contains(word)), "{said}");
    job.refused("publish", &words);
    *way.elsewhere.lock().unwrap() = None;
    source.query_drop(format!("INSERT INTO {name}.t VALUES (1)")).unwrap();
    job.run("publish");
    job.run("land");
    assert_eq!(job.count("t", "true"), 1, "with the old one it goes on where it was");
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
}

#[test]
fn an_outage_of_the_source_is_said_and_loses_nothing() {
    for server in ["MYSQL_URL", "MARIADB_URL"] {
        let name = format!("outage_{}", std::process::id());
        let mut source = mysql::Conn::new(mysql::Opts::from_url(&env(server)).unwrap()).unwrap();
        let address = address_of(server);
        source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
        source.query_drop(format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).unwrap();
        let way = Way::default();
        let url = env(server).replace(&address, &format!("127.0.0.1:{}", way.to(address.clone())));
        let lines = format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [\"{name}.*\"]\nstart = \"latest\"");
        let mut job = Job::new(&name, &lines);
        let out = job.file("publish.out");
        let stdout = File::create(&out).unwrap();
        let mut publish = job.command("publish", &["-w", "2"]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        job.wait("publish to begin", |_| std::fs::read_to_string(&out).unwrap().contains(": reads "));
        job.start("land");
        source.query_drop(format!("INSERT INTO {name}.t VALUES (1)")).unwrap();
        job.wait("the first row", |job| job.count("t", "true") == 1);
        way.cut();
        source.query_drop(format!("INSERT INTO {name}.t VALUES (2)")).unwrap();
        std::thread::sleep(Duration::from_secs(9));
        way.mend();
        source.query_drop(format!("INSERT INTO {name}.t VALUES (3)")).unwrap();
        job.wait("the last row", |job| job.count("t", "id IN (1, 2, 3)") == 3);
        assert!(Command::new("kill").args(["-TERM", &publish.id().to_string()]).status().unwrap().success());
        let mut said = String::new();
        publish.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(publish.wait().unwrap().code(), Some(0), "{said}");
        let port = url.rsplit_once(':').unwrap().1.trim_end_matches('/');
        let words = [
            format!("127.0.0.1:{port} is lost: reading the binlog"),
            format!("127.0.0.1:{port} is not back after "),
            format!("127.0.0.1:{port} is back after "),
        ];
        let places: Vec<usize> = words
            .iter()
            .map(|word| said.find(word).unwrap_or_else(|| panic!("{server}: '{word}' is not in: {said}")))
            .collect();
        assert!(places.is_sorted() && said.matches("is lost").count() == 1, "{said}");
        job.stop_all();
        source.query_drop(format!("DROP DATABASE {name}")).unwrap();
    }
}

#[test]
fn an_event_that_takes_long_to_come_is_waited_for() {
    let name = format!("slow_{}", std::process::id());
    let mut source = mysql::Conn::new(mysql::Opts::from_url(&env("MYSQL_URL")).unwrap()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("CREATE TABLE {name}.t (id int PRIMARY KEY)")).unwrap();
    source.query_drop(format!("CREATE TABLE {name}.large (id int PRIMARY KEY, b longblob)")).unwrap();
    let (way, address) = (Way::default(), address_of("MYSQL_URL"));
    let url = env("MYSQL_URL").replace(&address, &format!("127.0.0.1:{}", way.to(address.clone())));
    let lines = format!("kind = \"mysql\"\nurl = \"{url}\"\ntables = [\"{name}.t\"]\nstart = \"latest\"");
    let mut job = Job::new(&name, &lines);
    let out = job.file("publish.out");
    let stdout = File::create(&out).unwrap();
    let mut publish = job.command("publish", &[]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
    job.wait("publish to begin", |_| std::fs::read_to_string(&out).unwrap().contains(": reads "));
    way.slow.store(true, Ordering::SeqCst);
    // 20 seconds: the server is asked for its end meanwhile, again and again.
    source.query_drop(format!("INSERT INTO {name}.large VALUES (1, repeat('x', 4000000))")).unwrap();
    source.query_drop(format!("INSERT INTO {name}.t VALUES (1)")).unwrap();
    job.start("land");
    job.wait("what comes behind the large event", |job| job.count("t", "true") == 1);
    Command::new("kill").args(["-TERM", &publish.id().to_string()]).status().unwrap();
    publish.wait().unwrap();
    let mut said = String::new();
    publish.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains("is lost"), "{said}");
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
}
