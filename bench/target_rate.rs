//! How many rows a second the targets take: `cargo bench --bench target_rate [ROWS]`, PostgreSQL at `PG_URL` if that is
//! set, and SQLite in a scratch file.
//!
//! Rows are about 300 bytes of JSON with ten columns of the usual types. *fresh* inserts rows that are not there; *mixed*
//! goes on with two fifths inserts, two fifths updates and one fifth deletes. Steps are made before the clock starts.

use std::sync::Arc;
use std::time::Instant;

use tidegate::change::{Change, Changes, Column, NewChange, Op, TableName, TableSchema};
use tidegate::config::{PostgresConfig, SqliteConfig, ZeroDates};
use tidegate::target::postgres::PostgresTarget;
use tidegate::target::sqlite::SqliteTarget;
use tidegate::target::{FindSchema, Progress, Step, Target};

const STEP_ROWS: u64 = 20_000;

fn main() {
    // cargo passes --bench
    let rows = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    match std::env::var("PG_URL") {
        Err(_) => println!("postgres: PG_URL is not set, left out"),
        Ok(url) => {
            let config = PostgresConfig {
                url,
                password_file: None,
                schema: format!("target_rate_{}", std::process::id()),
                create_tables: true,
                zero_dates: ZeroDates::Error,
            };
            for lanes in [1, 2] {
                let config = PostgresConfig { schema: format!("{}_{lanes}", config.schema), ..config.clone() };
                run("postgres", &PostgresTarget::new(&config).unwrap(), lanes, rows);
                let mut client = postgres::Client::connect(&config.url, postgres::NoTls).unwrap();
                client.batch_execute(&format!("DROP SCHEMA {} CASCADE", config.schema)).unwrap();
            }
        }
    }
    for lanes in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let target = SqliteTarget::new(&SqliteConfig { path: folder.path().join("rate.db") });
        run("sqlite", &target, lanes, rows);
    }
}

fn run(name: &str, target: &dyn Target, lanes: u32, rows: u64) {
    let job = format!("target-rate-{}-{name}-{lanes}", std::process::id());
    let generation = target.begin(&job, lanes, "shop").unwrap().generation;
    for (workload, rows) in [("fresh", rows), ("mixed", rows / 2)] {
        let plans: Vec<Vec<Step>> = (0..lanes).map(|lane| steps(workload, lane, lanes, rows)).collect();
        let bytes: usize = plans.iter().flatten().map(|s| s.inserts.payload_bytes() + s.updates.payload_bytes()).sum();
        let upserts: usize = plans.iter().flatten().map(|s| s.inserts.len() + s.updates.len()).sum();
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (lane, plan) in plans.iter().enumerate() {
                let mut lane = target.lane(&job, lane as u32, generation, schemas()).unwrap();
                scope.spawn(move || plan.iter().for_each(|step| lane.apply(step).unwrap()));
            }
        });
        let seconds = began.elapsed().as_secs_f64();
        let changes: usize = plans.iter().flatten().map(Step::len).sum();
        println!(
            "{name} {workload}: {lanes} lane(s), {changes} changes of {} bytes in {seconds:.2} s = {:.0}/s",
            bytes / upserts.max(1),
            changes as f64 / seconds
        );
    }
}

fn schemas() -> FindSchema {
    let column =
        |(name, ty): (&str, &str)| Column { name: name.into(), ty: ty.parse().unwrap(), nullable: name != "id" };
    let columns = [
        ("id", "bigint"),
        ("customer", "int"),
        ("state", "varchar(20)"),
        ("amount", "decimal(12,2)"),
        ("weight", "double"),
        ("placed", "datetime(6)"),
        ("updated", "timestamp(3)"),
        ("day", "date"),
        ("flag", "tinyint(1)"),
        ("note", "varchar(255)"),
    ];
    let schema = TableSchema {
        name: TableName::new("shop", "orders"),
        columns: columns.map(column).to_vec(),
        key: vec!["id".into()],
        since_seq: 0,
        partial: false,
    };
    Arc::new(move |_, _| Some(schema.clone()))
}

/// A lane's share of `rows` changes, as steps.
fn steps(workload: &str, lane: u32, lanes: u32, rows: u64) -> Vec<Step> {
    let share = rows / u64::from(lanes);
    let base = u64::from(lane) * 1_000_000_000;
    let mut steps = Vec::new();
    for first in (0..share).step_by(STEP_ROWS as usize) {
        let mut parts: [Vec<(Op, u64)>; 3] = Default::default();
        for n in first..(first + STEP_ROWS).min(share) {
            match (workload, n % 5) {
                ("fresh", _) => parts[0].push((Op::Insert, base + n)),
                (_, 0 | 1) => parts[0].push((Op::Insert, base + 100_000_000 + n)),
                (_, 2 | 3) => parts[1].push((Op::Update, base + n)),
                _ => parts[2].push((Op::Delete, base + n)),
            }
        }
        let [inserts, updates, deletes] = parts.map(|part| batch(&part));
        let epoch = first / STEP_ROWS + 1;
        steps.push(Step {
            progress: Progress { step: epoch, epoch, seqs: [first].into_iter().collect() },
            inserts,
            updates,
            deletes,
        });
    }
    steps
}

fn batch(changes: &[(Op, u64)]) -> Changes {
    let mut unsorted = Changes::default();
    for &(op, id) in changes {
        let row = format!(
            "{{\"id\":{id},\"customer\":{},\"state\":\"paid\",\"amount\":\"{}.{:02}\",\"weight\":{:?},\
             \"placed\":\"2026-02-03 04:05:06.{:06}\",\"updated\":\"2026-02-03T04:05:06.{:03}Z\",\"day\":\"2026-02-03\",\
             \"flag\":1,\"note\":\"{:0>100}\"}}",
            id % 99_991,
            id % 100_000,
            id % 100,
            id as f64 / 8.0,
            id % 1_000_000,
            id % 1000,
            id * 7
        );
        unsorted.push_change(&NewChange {
            op,
            seq: id,
            time: id,
            database: "shop",
            table: "orders",
            key: id.to_string().as_bytes(),
            position: b"",
            before: b"",
            row: row.as_bytes(),
        });
    }
    let mut order: Vec<usize> = (0..unsorted.len()).collect();
    order.sort_unstable_by(|&a, &b| unsorted.change(a).cmp_by_key(&unsorted.change(b)));
    let mut sorted = Changes::default();
    for index in order {
        let (head, payload) = unsorted.get(index);
        debug_assert_eq!(Change::new(head, payload).op(), head.op());
        sorted.push(*head, payload);
    }
    sorted
}
