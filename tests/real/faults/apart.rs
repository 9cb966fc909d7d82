//! Servers that a test may end: see tests/services/apart.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::job::env;

/// Servers of this test's own, in a network of its own.
pub struct Servers {
    orders: File,
    answers: BufReader<File>,
}

/// Runs the test of that name again, apart, with servers of its own, and answers `None` when that has passed; when the
/// test already is that other run, its servers. What the other run says is moved in, so that nobody takes its result for
/// another test's.
pub fn apart(test: &str, servers: &[&str]) -> Option<Servers> {
    if std::env::var_os("APART_ORDERS").is_some() {
        let pipe = |name: &str| File::options().read(true).write(true).open(env(name)).unwrap();
        let (orders, answers) = (pipe("APART_ORDERS"), BufReader::new(pipe("APART_ANSWERS")));
        return Some(Servers { orders, answers });
    }
    let mut passed = false;
    let mut run = Command::new("tests/services/apart")
        .args(servers)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([test, "--nocapture", "--test-threads=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(run.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        passed |= line.starts_with("test result: ok. 1 passed;");
        println!("    {line}");
    }
    let status = run.wait().unwrap();
    assert!(status.success() && passed, "{test}: {status}; see above");
    None
}

impl Servers {
    fn order(&mut self, order: &str, server: &str) {
        writeln!(self.orders, "{order} {server}").unwrap();
        let mut done = String::new();
        self.answers.read_line(&mut done).unwrap();
        assert_eq!(done.trim_end(), format!("{order} {server}"));
    }

    /// Ends a server in good order.
    pub fn end(&mut self, server: &str) {
        self.order("end", server);
    }

    /// Kills a server.
    pub fn kill(&mut self, server: &str) {
        self.order("kill", server);
    }

    /// Starts a server again; it answers then.
    pub fn start(&mut self, server: &str) {
        self.order("start", server);
    }

    /// Where a server keeps what it has.
    pub fn folder(&self, server: &str) -> PathBuf {
        PathBuf::from(env("APART_FOLDER")).join(server)
    }

    /// What a server says.
    pub fn log(&self, server: &str) -> PathBuf {
        PathBuf::from(env("APART_FOLDER")).join(format!("{server}.log"))
    }
}
