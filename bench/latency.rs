//! How long a change takes from its commit in MySQL to being durable in PostgreSQL, with epochs of 100 ms and a steady load:
//! `cargo bench --bench latency [CHANGES_PER_SECOND] [SECONDS]`, with MYSQL_URL, KAFKA_ADDR and PG_URL set (`bench/run`
//! starts the servers and sets them).
//!
//! One client commits transactions of ten rows and notes when each commit returned; another one asks PostgreSQL every few
//! milliseconds which of the rows on their way it shows. So what is measured is an upper bound, by the time of one question.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mysql::prelude::Queryable;

const ROWS: u64 = 10;
/// What comes before that is not counted: caches are cold and tables are made.
const WARM_UP: Duration = Duration::from_secs(3);

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (rate, seconds) = (numbers.next().unwrap_or(2_000), numbers.next().unwrap_or(20));
    let env = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use bench/run"));
    let (mysql, kafka, postgres) = (env("MYSQL_URL"), env("KAFKA_ADDR"), env("PG_URL"));
    let name = format!("latency_{}", std::process::id());
    let mut source = mysql::Conn::new(mysql::Opts::from_url(&mysql).unwrap()).unwrap();
    source.query_drop(format!("CREATE DATABASE {name}")).unwrap();
    source.query_drop(format!("USE {name}")).unwrap();
    source.query_drop("CREATE TABLE t (id bigint PRIMARY KEY, v bigint, note varchar(200))").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tidegate.toml");
    let text = format!(
        "job = \"{name}\"\n[source]\nkind = \"mysql\"\nurl = \"{mysql}\"\ntables = [\"{name}.*\"]\n\
         [kafka]\nbrokers = \"{kafka}\"\ntopic = \"{name}\"\npartitions = 4\n[land]\nepoch = \"100ms\"\n\
         [target]\nkind = \"postgres\"\nurl = \"{postgres}\"\nschema = \"{name}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let start = |command: &str| -> Child {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        process.arg(command).arg("--config").arg(&config).args(["-w", "2"]).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut running = [start("publish"), start("land")];
    let mut target = postgres::Client::connect(&postgres, postgres::NoTls).unwrap();
    // Until the first row is through, nothing is measured.
    source.query_drop("INSERT INTO t VALUES (0, 0, 'first')").unwrap();
    let mut ids = 1u64;
    while !target.query(&format!("SELECT 1 FROM {name}.t"), &[]).is_ok_and(|rows| !rows.is_empty()) {
        std::thread::sleep(Duration::from_millis(100));
        // publish may not have begun when an earlier one was written.
        source.query_drop(format!("INSERT INTO t VALUES ({ids}, 0, 'first')")).unwrap();
        ids += 1;
    }

    let under_way: Arc<Mutex<VecDeque<(u64, Instant)>>> = Arc::default();
    let written = Arc::clone(&under_way);
    let began = Instant::now();
    let end = began + WARM_UP + Duration::from_secs(seconds);
    let load = std::thread::spawn(move || {
        let note = "x".repeat(150);
        let mut due = Instant::now();
        while Instant::now() < end {
            let rows: Vec<String> = (ids..ids + ROWS).map(|id| format!("({id}, {id}, '{note}')")).collect();
            source.query_drop(format!("INSERT INTO t VALUES {}", rows.join(","))).unwrap();
            let committed = Instant::now();
            written.lock().unwrap().extend((ids..ids + ROWS).map(|id| (id, committed)));
            ids += ROWS;
            due += Duration::from_secs_f64(ROWS as f64 / rate as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        source
    });
    let mut histogram = Histogram::<u64>::new_with_max(60_000_000, 3).unwrap();
    let seen = target.prepare(&format!("SELECT id FROM {name}.t WHERE id = ANY($1)")).unwrap();
    while Instant::now() < end || !under_way.lock().unwrap().is_empty() {
        let asked: Vec<i64> = under_way.lock().unwrap().iter().map(|(id, _)| *id as i64).collect();
        let rows = target.query(&seen, &[&asked]).unwrap();
        let now = Instant::now();
        let there: std::collections::HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        under_way.lock().unwrap().retain(|(id, committed)| {
            let arrived = there.contains(&(*id as i64));
            if arrived && *committed > began + WARM_UP {
                histogram.record((now - *committed).as_micros() as u64).unwrap();
            }
            !arrived
        });
        assert!(now < end + Duration::from_secs(60), "changes do not arrive");
        std::thread::sleep(Duration::from_millis(3));
    }
    let mut source = load.join().unwrap();
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "commit to durable, epochs of 100 ms, {} changes/s: p50 {:.0} ms, p99 {:.0} ms, at most {:.0} ms",
        histogram.len() / seconds,
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
    for child in &mut running {
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
    source.query_drop(format!("DROP DATABASE {name}")).unwrap();
    target.batch_execute(&format!("DROP SCHEMA {name} CASCADE")).unwrap();
}
