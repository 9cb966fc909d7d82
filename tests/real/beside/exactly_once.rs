//! Each change is once in the topic, for a consumer of committed records, whatever becomes of the publishers.

use std::time::Duration;

use crate::job::source::Source;
use crate::job::{Job, env, landed};
use crate::topic::{committed, wait_for_records};

/// Every change once, and each partition in the order of the source. A line of the source owns two numbers.
fn assert_once(topic: &str, lines: usize) {
    let seqs = committed(topic);
    for (partition, seqs) in &seqs {
        assert!(seqs.is_sorted_by(|a, b| a < b), "partition {partition} repeats or reorders");
    }
    let mut all: Vec<u64> = seqs.into_values().flatten().collect();
    all.sort_unstable();
    let want: Vec<u64> = (1..=lines as u64).map(|line| line * 2).collect();
    assert!(all == want, "{} changes of {lines}", all.len());
}

fn lines(count: i64) -> Vec<String> {
    let line = |number: i64| {
        let (id, time) = (number % 1_000, 1_700_000_000_000 + number / 100);
        let op = if number < 1_000 { "insert" } else { "update" };
        format!(
            r#"{{"op":"{op}","database":"shop","table":"t","time":{time},"key":["id"],"row":{{"id":{id},"v":{number}}}}}"#
        )
    };
    (0..count).map(line).collect()
}

#[test]
fn a_publisher_killed_at_any_moment_leaves_each_change_once() {
    let count = 400_000;
    let mut job = Job::of_lines("once", &lines(count));
    // With other numbers of writers each time: all of the older ones are fenced.
    for (round, workers) in [2, 1, 4, 3, 1, 2, 4, 1].iter().enumerate() {
        job.start_with("publish", &["-w", &workers.to_string()]);
        std::thread::sleep(Duration::from_millis(250 + 77 * round as u64));
        job.kill();
    }
    job.run("publish");
    assert_once(&job.name, count as usize);
    job.run("land");
    assert_eq!(landed(&mut job), (0..1_000).map(|id| (id, count - 1_000 + id)).collect());
}

#[test]
fn what_a_killed_publisher_has_open_hides_nothing_of_one_without_transactions() {
    // While it begins, and in the midst of its work.
    for (round, wait) in [Some(250), Some(400), None].into_iter().enumerate() {
        let count = 200_000;
        let mut job = Job::of_lines(&format!("open{round}"), &lines(count));
        job.configure_publish("commit_interval = \"20s\"");
        job.start("publish");
        match wait {
            Some(ms) => std::thread::sleep(Duration::from_millis(ms)),
            None => {
                wait_for_records(&job.name);
                std::thread::sleep(Duration::from_millis(150));
            }
        }
        job.kill();
        job.configure_publish("delivery = \"at-least-once\"");
        job.run("publish");
        job.run("land");
        assert_eq!(landed(&mut job), (0..1_000).map(|id| (id, count - 1_000 + id)).collect());
    }
}

#[test]
fn of_two_publishers_the_older_stops_and_nothing_is_twice() {
    let first = lines(50_000);
    let job = Job::of_lines("two", &first);
    let config = "delivery = \"exactly-once\"\ncommit_interval = \"20ms\"";
    job.configure_publish(config);
    // An older one that goes on: it waits for lines that never come, or is in the middle of them.
    let older: Vec<_> = (0..3)
        .map(|_| {
            let child = job.command("publish", &["-w", "2"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(120));
            child
        })
        .collect();
    for child in older {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {}
            Some(3) => assert!(said.contains("a newer publish of this topic has begun"), "{said}"),
            other => panic!("{other:?}: {said}"),
        }
    }
    job.run("publish");
    assert_once(&job.name, first.len());
}

#[test]
fn a_topic_gets_more_partitions_between_runs_and_every_key_keeps_its_order() {
    let count = 60_000;
    let mut job = Job::of_lines("grown", &lines(count / 3));
    crate::job::guard(&mut job);
    job.run("publish");
    job.start("land");
    for (partitions, lines_so_far) in [(6, count * 2 / 3), (9, count)] {
        let config = std::fs::read_to_string(job.file("tidegate.toml")).unwrap();
        let line = config.lines().find(|line| line.starts_with("partitions = ")).unwrap();
        let config = config.replace(line, &format!("partitions = {partitions}"));
        std::fs::write(job.file("tidegate.toml"), config).unwrap();
        job.write_lines(&lines(lines_so_far));
        job.run("publish");
    }
    // The one that knew of fewer partitions has stopped, with a sentence; another one goes on where it was.
    assert_eq!(job.ended_by_itself(), Some(3));
    job.run("land");
    assert_once(&job.name, count as usize);
    assert_eq!(landed(&mut job), (0..1_000).map(|id| (id, count - 1_000 + id)).collect());
}

#[test]
fn a_publish_with_a_mistake_in_its_source_ends_no_other() {
    let mut source = Source::new("MYSQL_URL", "mistaken");
    source.run(&["CREATE TABLE t (id int PRIMARY KEY, v int)"]);
    let mut job = source.job(&[".t"]);
    source.run(&["INSERT INTO t VALUES (1, 1)"]);
    job.start("publish");
    job.start("land");
    job.wait("the first row", |job| job.count("t", "id = 1") == 1);
    let config = std::fs::read_to_string(job.file("tidegate.toml")).unwrap();
    for (right, wrong, words) in
        [("mysql://r:r@", "mysql://r:wrong@", "refuses user 'r'"), ("mysql://", "mysq://", "can't be used")]
    {
        std::fs::write(job.file("mistaken.toml"), config.replace(right, wrong)).unwrap();
        let mut mistaken = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = mistaken.arg("publish").arg("--config").arg(job.file("mistaken.toml")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && said.contains(words), "{said}");
    }
    let (before, section) = config.split_once("[source]").unwrap();
    let (_, after) = section.split_once("[kafka]").unwrap();
    job.write_lines(&[]);
    let lines = job.file("changes.jsonl");
    assert!(lines.exists());
    let other = format!("{before}[source]\nkind = \"jsonl\"\npath = \"{}\"\n[kafka]{after}", lines.display());
    std::fs::write(job.file("mistaken.toml"), other).unwrap();
    let mut mistaken = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = mistaken.arg("publish").arg("--config").arg(job.file("mistaken.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("is of another kind of source"), "{said}");
    source.run(&["INSERT INTO t VALUES (2, 2)"]);
    job.wait("the second row", |job| job.count("t", "id = 2") == 1);
    job.stop_all();
    // Nor does it leave something for the next.
    let wrong = config.replace(&env("MYSQL_URL"), &env("MARIADB_URL")).replace(".t\"", ".*\"");
    std::fs::write(job.file("tidegate.toml"), wrong).unwrap();
    job.refused("publish", &["is another server"]);
    std::fs::write(job.file("tidegate.toml"), config).unwrap();
    let said = String::from_utf8_lossy(&job.try_run("publish").stderr).into_owned();
    assert!(!said.contains("[source] tables was"), "{said}");
}
