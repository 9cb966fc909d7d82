//! What is landed in Hologres, through a stand-in that refuses and breaks what Hologres refuses and breaks.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::hologres::{FAULTS, Hologres};
use crate::job::{Job, Rows, guard, landed};
use crate::landing::{Cut, Place, orders, url, way};
use crate::steps::{Net, Schemas, reached, schema, step};
use postgres::{Client, NoTls};
use tidegate::change::Op::{Delete, Insert, Update};
use tidegate::target::{Target, TargetError};

/// Statements that Hologres refuses, and why.
const REFUSED: [(&str, &str); 26] = [
    ("SELECT v FROM s.t WHERE id = 1 FOR UPDATE", "FOR UPDATE"),
    ("SELECT v FROM s.t WHERE id = 1 FOR SHARE", "FOR SHARE"),
    ("UPDATE s.t SET id = 2 WHERE id = 1", "key column id"),
    ("UPDATE s.t SET v = (SELECT max(v) FROM s.t), id = 2 WHERE id = 1", "key column id"),
    ("LOCK TABLE s.t", "LOCK"),
    ("SELECT pg_advisory_lock(1)", "advisory"),
    ("CREATE TEMP TABLE x (id int)", "temporary"),
    ("SAVEPOINT a", "savepoints"),
    ("MERGE INTO s.t USING s.t AS o ON false WHEN MATCHED THEN DO NOTHING", "MERGE"),
    ("WITH gone AS (DELETE FROM s.t RETURNING id) SELECT id FROM gone", "CTE"),
    ("BEGIN", "transactions"),
    ("START TRANSACTION", "transactions"),
    ("CREATE TABLE s.x (id int PRIMARY KEY); INSERT INTO s.t VALUES (1, 1)", "DDL mixed"),
    ("CREATE TABLE s.x (id int PRIMARY KEY, n numeric)", "NUMERIC without precision"),
    ("CREATE TABLE s.x (id int PRIMARY KEY, n decimal NOT NULL)", "NUMERIC without precision"),
    ("CREATE TABLE s.x (id int PRIMARY KEY, n int UNIQUE)", "UNIQUE"),
    ("CREATE TABLE s.x (id int PRIMARY KEY, n int CHECK (n > 0))", "CHECK"),
    ("CREATE TABLE s.x (id double precision, PRIMARY KEY (id))", "type of the key column id"),
    ("CREATE TABLE s.x (a int, id numeric(20,0), PRIMARY KEY (a, id))", "type of the key column id"),
    ("CREATE TABLE s.x (id json PRIMARY KEY)", "type of the key column id"),
    ("CREATE TABLE s.x (id int[] PRIMARY KEY)", "type of the key column id"),
    ("CREATE TABLE s.x (id int PRIMARY KEY, hg_n int)", "hg_n"),
    ("INSERT INTO s.t VALUES (1, 1) ON CONFLICT (id) DO NOTHING RETURNING v", "RETURNING"),
    ("SET search_path = s, public", "search_path"),
    ("INSERT INTO t VALUES (1, 1)", "without its schema"),
    ("DELETE FROM s.t WHERE id = ANY('{1}') AND v = ANY('{1}')", "product of two ANY"),
];

#[test]
fn the_stand_in_refuses_what_hologres_refuses_and_nothing_else() {
    let stand_in = Hologres::start(&url());
    let mut place = Place::at(&stand_in.url());
    place.execute("CREATE TABLE t (id int PRIMARY KEY, v int)");
    let mut client = Client::connect(&stand_in.url(), NoTls).unwrap();
    let schema = place.job.clone();
    let of = |sql: &str| sql.replace("s.", &format!("{schema}."));
    for (sql, why) in REFUSED {
        let error = client.batch_execute(&of(sql)).expect_err(sql);
        let said = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).message().to_string();
        assert!(said.starts_with("not supported by Hologres: ") && said.contains(why), "{sql}: {said}");
        if !sql.contains(';') {
            assert!(client.prepare(&of(sql)).is_err(), "{sql}");
        }
    }
    let many: Vec<String> = (1..=32_768).map(|n| format!("${n}")).collect();
    assert!(client.prepare(&format!("SELECT {}", many.join(","))).is_err(), "too many parameters");
    assert!(client.batch_execute(&format!("SELECT '{}'", "x".repeat(100 << 10))).is_err(), "too much SQL");
    for sql in [
        "CREATE TABLE s.y (\"a b\" text, id bigint NOT NULL, n numeric(20,0), at timestamptz, \
         PRIMARY KEY (\"a b\", id)) WITH (orientation = 'column', distribution_key = 'id')",
        "INSERT INTO s.y VALUES ('x', 1, 2, '2026-01-01 00:00:00.0006+00'::timestamp with time zone) \
         ON CONFLICT (\"a b\", id) DO UPDATE SET n = excluded.n",
        "UPDATE s.y SET n = 3 WHERE id = 1",
        "SET hg_experimental_x = on",
        "SELECT hg_version()",
        "DELETE FROM s.t WHERE id = ANY('{1,2}')",
    ] {
        client.batch_execute(&of(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    let kept = place.query("SELECT n, extract(microseconds FROM at) FROM y");
    assert_eq!(kept, ["3|1000"], "it keeps milliseconds");
    let counted = client.execute(&of("UPDATE s.y SET n = 4"), &[]).unwrap();
    assert_eq!(counted, 0, "counts say nothing");
}

/// Changes of `keys` keys, many of them over and over, with versions that only grow, and what they come to.
fn history(changes: i64, keys: i64) -> (Vec<String>, Rows) {
    let (mut lines, mut rows) = (Vec::new(), Rows::new());
    let mut random = 7u64;
    for version in 1..=changes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = (random >> 33) as i64 % keys;
        let op = match rows.remove(&id) {
            Some(_) if (random >> 20).is_multiple_of(5) => "delete",
            Some(_) => "update",
            None => "insert",
        };
        if op != "delete" {
            rows.insert(id, version);
        }
        lines.push(format!(
            r#"{{"op":"{op}","database":"shop","table":"t","time":{},"key":["id"],"row":{{"id":{id},"v":{version}}}}}"#,
            1_700_000_000_000 + version * 20
        ));
    }
    (lines, rows)
}

/// Lands a history through a stand-in that breaks things, killing `land` on the way; the table refuses to step back.
fn land_through_faults(name: &str, stubborn: bool) {
    let stand_in = Hologres::start(&url());
    let (lines, want) = history(24_000, 300);
    let mut job = Job::of_lines(name, &lines);
    job.url = stand_in.url();
    guard(&mut job);
    job.run("publish");
    stand_in.faults.strike(12, 11);
    for kill in 0..8 {
        stand_in.faults.stubborn.store(stubborn && kill % 3 == 1, Ordering::Relaxed);
        // Steps are of other sizes in each life.
        job.configure(["memory = \"4MB\"", "memory = \"100KB\"", "memory = \"700KB\""][kill % 3]);
        job.start_with("land", &["-w", ["1", "2", "3"][kill % 3]]);
        thread::sleep(Duration::from_millis(300 + 220 * (kill as u64 * 5 % 7)));
        job.kill();
    }
    stand_in.faults.stubborn.store(false, Ordering::Relaxed);
    job.configure("memory = \"100KB\"");
    job.start("land");
    job.wait("the history", |job| landed(job) == want);
    job.stop_all();
    stand_in.faults.strike(0, 0);
    job.run("land");
    assert_eq!(landed(&mut job), want);
    for (fault, struck) in FAULTS.iter().zip(&stand_in.faults.struck) {
        assert!(struck.load(Ordering::Relaxed) > 0, "{fault:?} has never struck");
    }
}

#[test]
fn torn_lost_late_and_stale_statements_and_kills_leave_the_same_table() {
    land_through_faults("holo_faults", false);
}

#[test]
fn so_they_do_where_no_session_can_be_ended() {
    land_through_faults("holo_stubborn", true);
}

#[test]
fn without_transactions_a_step_says_first_how_far_it_goes() {
    let stand_in = Hologres::start(&url());
    let mut place = Place::at(&stand_in.url());
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20)); CREATE TABLE pairs (a int, b text, c int, PRIMARY KEY (a, b))");
    let schemas = Schemas::of(&[
        schema("orders", &[("id", "bigint"), ("note", "varchar(20)")], &["id"]),
        schema("pairs", &[("a", "int"), ("b", "varchar(9)"), ("c", "int")], &["a", "b"]),
    ]);
    let mut lane = place.run(&schemas);
    let rows: Vec<(String, String)> =
        (0..1500).map(|n| (format!(r#"["{n}","k{n}"]"#), format!(r#"{{"a":{n},"b":"k{n}","c":{n}}}"#))).collect();
    let mut nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "pairs", k.as_str(), r.as_str())).collect();
    nets.push((Insert, "orders", "1", r#"{"id":1,"note":"a"}"#));
    lane.apply(&step(1, &nets)).unwrap();
    let deletes: Vec<Net> = rows[..1357].iter().map(|(k, r)| (Delete, "pairs", k.as_str(), r.as_str())).collect();
    lane.apply(&step(2, &deletes)).unwrap();
    assert_eq!(place.query("SELECT count(*), min(a) FROM pairs"), ["143|1357"]);
    // Half of a step is written, then a row can't be.
    let third = |seq: u64, nets: &[Net]| {
        let mut step = step(seq, nets);
        step.progress.step = 3;
        step
    };
    let half = third(
        5,
        &[
            (Update, "orders", "1", r#"{"id":1,"note":"new"}"#),
            (Insert, "orders", "2", r#"{"id":2,"note":"far too long for twenty"}"#),
        ],
    );
    let error = lane.apply(&half).unwrap_err().to_string();
    assert!(error.starts_with("table shop.orders, key 2, column note: 23 characters"), "{error}");
    assert_eq!(place.query("SELECT * FROM orders"), ["1|new"]);
    let state = place.target().begin(&place.job, 1, "shop").unwrap();
    assert_eq!(state.lanes[&0], reached(2));
    assert_eq!(state.through[&0], reached(5).seqs);
    // An older run's session is ended, and what it tries again is refused.
    assert!(matches!(lane.apply(&half), Err(TargetError::Fenced { .. })));
    let mut lane = place.run(&schemas);
    let short = lane.apply(&third(4, &[(Update, "orders", "1", r#"{"id":1,"note":"old"}"#)])).unwrap_err().to_string();
    assert!(short.contains("may be half written"), "{short}");
    lane.apply(&third(6, &[(Update, "orders", "1", r#"{"id":1,"note":"newest"}"#)])).unwrap();
    assert_eq!(place.query("SELECT * FROM orders"), ["1|newest"]);
    let state = place.target().begin(&place.job, 1, "shop").unwrap();
    assert_eq!((state.lanes[&0].epoch, state.through.len()), (6, 0));
}

#[test]
fn without_transactions_a_statement_of_an_older_run_can_not_come_after_a_newer_one_begins() {
    let stand_in = Hologres::start(&url());
    let mut place = Place::at(&stand_in.url());
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20)); INSERT INTO orders VALUES (1, 'a')");
    let mut older = place.run(&orders());
    place.execute("BEGIN; SELECT * FROM orders FOR UPDATE");
    thread::scope(|scope| {
        let applying =
            scope.spawn(move || older.apply(&step(1, &[(Update, "orders", "1", r#"{"id":1,"note":"late"}"#)])));
        thread::sleep(Duration::from_millis(300));
        let state = place.target().begin(&place.job, 1, "shop").unwrap();
        assert_eq!((state.generation, state.through[&0].newest()), (2, 10));
        place.execute("COMMIT");
        assert!(matches!(applying.join().unwrap(), Err(TargetError::Fenced { .. })));
    });
    assert_eq!(place.query("SELECT note FROM orders"), ["a"]);
}

#[test]
fn without_transactions_a_lane_ends_its_lost_session_before_it_writes_again() {
    let stand_in = Hologres::start(&url());
    let mut place = Place::at(&stand_in.url());
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note varchar(20)); INSERT INTO orders VALUES (1, 'a')");
    let generation = place.target().begin(&place.job, 1, "shop").unwrap().generation;
    place.config.url = way(&stand_in.url(), Cut::Behind(b"cut here"));
    let mut lane = place.target().lane(&place.job, 0, generation, orders().find()).unwrap();
    place.execute("BEGIN; SELECT * FROM orders FOR UPDATE");
    let prefix = format!("tidegate/{}/{generation}/0", place.job);
    thread::scope(|scope| {
        let applying =
            scope.spawn(move || lane.apply(&step(1, &[(Update, "orders", "1", r#"{"id":1,"note":"cut here"}"#)])));
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{prefix}' AND wait_event_type = 'Lock'"
        );
        // In a transaction it would go on seeing what it has seen first.
        let mut now = || {
            place.execute("SELECT pg_stat_clear_snapshot()");
            place.query(&waiting)
        };
        for _ in 0..200 {
            if now() == ["1"] {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        // The new one comes now; on a busy machine there may be none for a moment.
        let meanwhile: Vec<Vec<String>> = (0..9)
            .map(|_| {
                thread::sleep(Duration::from_millis(100));
                now()
            })
            .collect();
        place.execute("COMMIT");
        assert!(
            meanwhile.iter().all(|waiting| waiting == &["0"] || waiting == &["1"]),
            "the lost session's statement is still waiting beside the new one's: {meanwhile:?}"
        );
        applying.join().unwrap().unwrap();
    });
    assert_eq!(place.query("SELECT note FROM orders"), ["cut here"]);
}
