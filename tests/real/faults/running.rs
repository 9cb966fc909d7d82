//! The processes that one command runs as, and how they have to end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// One process, and what it says: on stdout in `out`, on stderr in the file beside it.
pub struct Process {
    pub child: Child,
    out: PathBuf,
    command: Command,
    /// How often it has ended and, if it is to be started again, since when it has.
    pub ends: u32,
    pub ended: Option<Instant>,
}

impl Process {
    pub fn start(mut command: Command, out: PathBuf) -> Process {
        let child = command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(out.with_extension("err")).unwrap())
            .spawn()
            .unwrap();
        Process { child, out, command, ends: 0, ended: None }
    }

    /// Starts it again as it was, after it has ended.
    pub fn start_again(&mut self) {
        let out = self.out.clone();
        *self =
            Process { ends: self.ends, ..Process::start(std::mem::replace(&mut self.command, Command::new("")), out) };
    }
}

/// The processes that one command runs as now.
pub struct Running {
    pub command: &'static str,
    pub processes: Vec<Process>,
}

impl Running {
    pub fn signal(&self, number: usize, signal: &str) {
        let pid = self.processes[number].child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// What a process said on stderr.
    pub fn said(&self, number: usize) -> String {
        std::fs::read_to_string(self.processes[number].out.with_extension("err")).unwrap()
    }

    /// Whether the first process has begun to read; then the others are connected.
    pub fn is_up(&self) -> bool {
        std::fs::read_to_string(&self.processes[0].out).unwrap().contains(": reads ")
    }

    pub fn wait_until_up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_up() {
            assert_eq!(self.processes[0].child.try_wait().unwrap(), None, "{}: {}", self.command, self.said(0));
            assert!(Instant::now() < deadline, "{} does not begin", self.command);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) {
        for number in 0..self.processes.len() {
            let ended = self.processes[number].child.try_wait().unwrap();
            assert_eq!(ended, None, "{} ended by itself: {}", self.command, self.said(number));
        }
    }

    /// The exit code of a process that has to end by itself.
    pub fn ended(&mut self, number: usize) -> Option<i32> {
        self.ended_within(number, PATIENCE)
    }

    pub fn ended_within(&mut self, number: usize, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.processes[number].child.try_wait().unwrap() {
                return status.code();
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "{}, process {number} does not end within {patience:?}", self.command);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The one sentence with which a process gives up, with exit code 3.
    pub fn last_sentence(&mut self, number: usize) -> String {
        let code = self.ended(number);
        let said = self.said(number);
        let ours: Vec<&str> = said.lines().filter(|line| line.starts_with("tidegate: ")).collect();
        assert_eq!((code, ours.len()), (Some(3), 1), "{}: {said}", self.command);
        assert!(!said.contains("panicked") && !said.contains("bug in tidegate"), "{}: {said}", self.command);
        ours[0].to_string()
    }

    /// That a process ends with exit code 3 and one sentence with some of those words.
    pub fn gives_up(&mut self, number: usize, words: &[&str]) {
        let sentence = self.last_sentence(number);
        assert!(words.iter().any(|words| sentence.contains(words)), "{}: {sentence}", self.command);
    }

    /// Kills one process with SIGKILL; the others have to end by themselves.
    pub fn kill(mut self, victim: usize) {
        self.processes[victim].child.kill().unwrap();
        self.processes[victim].child.wait().unwrap();
        for other in (0..self.processes.len()).filter(|other| *other != victim) {
            self.gives_up(other, &["another process of the cluster is gone"]);
        }
    }

    /// Stops it with SIGTERM to one process.
    pub fn stop(mut self, told: usize) {
        self.signal(told, "-TERM");
        for number in 0..self.processes.len() {
            assert_eq!(self.ended(number), Some(0), "{}: {}", self.command, self.said(number));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
