//! What can't be landed: one sentence that names the table, exit code 3, and nothing half done.

use crate::job::Job;

const KEYED: &str =
    r#"{"op":"insert","database":"shop","table":"good","time":1700000000000,"key":["id"],"row":{"id":1}}"#;

fn keyless(id: u32, time: u64) -> String {
    format!(
        r#"{{"op":"insert","database":"shop","table":"bare","time":{time},"key":[],"types":{{"id":"int"}},"row":{{"id":{id}}}}}"#
    )
}

#[test]
fn a_table_without_a_key_is_refused_before_any_work() {
    let mut job = Job::of_lines("keyless", &[KEYED.into(), keyless(1, 1_700_000_000_000)]);
    job.run("publish");
    job.refused("land", &["shop.bare", "neither a primary key nor", "[land] tables"]);
    assert_eq!(job.count("good", "true"), 0, "nothing has been done");
    job.configure("tables = [\"shop.good\"]");
    job.run("land");
    assert_eq!((job.count("good", "true"), job.count("bare", "true")), (1, 0));
}

#[test]
fn changes_from_before_a_table_had_a_key_are_not_taken_for_one_row() {
    let later = r#"{"op":"insert","database":"shop","table":"bare","time":1700000001000,"key":["id"],"types":{"id":"int"},"row":{"id":3}}"#;
    let lines = [keyless(1, 1_700_000_000_000), keyless(2, 1_700_000_000_000), later.into()];
    let mut job = Job::of_lines("late_key", &lines);
    job.run("publish");
    job.refused("land", &["shop.bare", "have no key"]);
    assert_eq!(job.count("bare", "id < 3"), 0);
}

#[test]
fn a_source_that_is_silent_is_not_waited_for() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mysql://r:r@{}/", silent.local_addr().unwrap());
    let job = Job::new("silent", &format!("kind = \"mysql\"\nurl = \"{url}\""));
    let publish = job.command("publish", &[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let verify = job.command("verify", &[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    for child in [publish, verify] {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("has not answered as a MySQL server does"), "{said}");
    }
}

#[test]
fn an_empty_text_is_a_key() {
    let line = r#"{"op":"insert","database":"shop","table":"t","time":1700000000000,"key":["k"],"row":{"k":"","v":1}}"#;
    let mut job = Job::of_lines("empty_key", &[line.into()]);
    job.run("publish");
    job.run("land");
    assert_eq!(job.count("t", "k = ''"), 1);
}

#[test]
fn a_record_that_is_none_of_ours_is_refused_with_its_place() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let mut job = Job::of_lines("foreign", &[KEYED.into()]);
    job.run("publish");
    let producer: BaseProducer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", crate::job::env("KAFKA_ADDR")).create().unwrap();
    producer.send(BaseRecord::to(&job.name).partition(2).key("k").payload("{\"a\":1}")).map_err(|(e, _)| e).unwrap();
    producer.flush(std::time::Duration::from_secs(20)).unwrap();
    let place = format!("{}/2/", job.name);
    job.refused("land", &[&place, "the header 'binlog.type' is missing"]);
    assert_eq!(job.count("good", "true"), 0);
}

#[test]
fn a_broken_line_is_refused_with_its_place_and_goes_to_the_dead_letters_if_told() {
    let other = KEYED.replace("\"id\":1", "\"id\":2");
    let broken = KEYED.replace("\"row\":{\"id\":1}", "\"types\":{\"id\":\"int\"},\"row\":{\"id\":\"x\"}");
    let mut job = Job::of_lines("broken", &[KEYED.into(), broken, "this is no JSON".into(), other]);
    job.refused("publish", &["changes.jsonl:2", "shop.good", "column id"]);
    let letters = job.file("letters.jsonl");
    let nowhere = job.file("no/letters.jsonl");
    job.configure(&format!("[publish]\ndead_letter = \"{}\"", nowhere.display()));
    job.refused("publish", &["[publish] dead_letter = ", "no/letters.jsonl", "can't be written"]);
    job.configure(&format!("[publish]\ndead_letter = \"{}\"", letters.display()));
    let published = String::from_utf8(job.try_run("publish").stdout).unwrap();
    assert!(published.contains("stopped in good order, 2 changes in Kafka, 2 dead letters"), "{published}");
    job.run("land");
    assert_eq!(job.count("good", "true"), 2);
    let letters = std::fs::read_to_string(letters).unwrap();
    let letters: Vec<&str> = letters.lines().collect();
    assert!(letters.len() == 2 && letters[0].contains("changes.jsonl:2"), "{letters:?}");
    assert!(
        letters[1].contains("changes.jsonl:3") && letters[1].contains("no change in tidegate's JSON"),
        "{letters:?}"
    );
}
