//! The PostgreSQL target against a real server at `PG_URL`: what a step counts for when connections die under it, and what
//! the server's own errors become.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::landing::{Cut, Place, orders, url, way};
use crate::steps::{Net, Schemas, reached, schema, step};
use postgres::{Client, NoTls};
use tidegate::change::Op::{Delete, Insert, Update};
use tidegate::config::PostgresConfig;
use tidegate::target::postgres::PostgresTarget;
use tidegate::target::{RefusedRow, Target, TargetError};

/// The rows that were refused.
fn refused(outcome: Result<(), TargetError>) -> Vec<RefusedRow> {
    match outcome {
        Err(TargetError::Rows(rows)) => rows,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_insert_update_and_delete_and_applying_them_again_changes_nothing() {
    let mut place = Place::new();
    let mut lane = place.run(&orders());
    let first = step(
        1,
        &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#), (Insert, "orders", "2", r#"{"id":2,"note":"b"}"#)],
    );
    let second = step(
        2,
        &[
            (Update, "orders", "1", r#"{"id":1,"note":"c"}"#),
            (Delete, "orders", "2", r#"{"id":2,"note":"b"}"#),
            (Insert, "orders", "3", r#"{"id":3,"note":null}"#),
        ],
    );
    for step in [&first, &second, &first, &second, &step(3, &[])] {
        lane.apply(step).unwrap();
    }
    assert_eq!(place.query("SELECT * FROM orders ORDER BY id"), ["1|c", "3|NULL"]);
    assert_eq!(place.recorded(), Some(reached(3)));
}

#[test]
fn rows_are_found_by_their_key_though_the_table_was_small_when_that_was_planned() {
    let mut place = Place::new();
    let pairs = schema("pairs", &[("a", "bigint"), ("b", "bigint"), ("note", "text")], &["a", "b"]);
    let orders = schema("orders", &[("a", "bigint"), ("b", "bigint"), ("note", "text")], &["a"]);
    let mut lane = place.run(&Schemas::of(&[orders, pairs]));
    let rows: Vec<String> = (0..200).map(|id| format!(r#"{{"a":{id},"b":1,"note":"x"}}"#)).collect();
    let of = |op, ids: std::ops::Range<usize>| {
        let both = |id: usize| ["orders", "pairs"].map(|table| (op, table, id.to_string(), rows[id].as_str()));
        ids.flat_map(both).collect::<Vec<_>>()
    };
    let mut apply = |number, op, ids| {
        let changes = of(op, ids);
        let nets: Vec<Net> = changes.iter().map(|(op, table, key, row)| (*op, *table, key.as_str(), *row)).collect();
        lane.apply(&step(number, &nets)).unwrap();
    };
    apply(1, Insert, 0..200);
    // As after autovacuum, which may come then, and never again.
    place
        .execute("ALTER TABLE orders SET (autovacuum_enabled = off); ALTER TABLE pairs SET (autovacuum_enabled = off)");
    place.execute("ANALYZE orders; ANALYZE pairs");
    apply(2, Delete, 0..20);
    place.execute(
        "INSERT INTO orders SELECT 1000 + g, 1, 'x' FROM generate_series(1, 30000) g;
         INSERT INTO pairs SELECT 1000 + g, 1, 'x' FROM generate_series(1, 30000) g",
    );
    (1..9).for_each(|n| apply(n as u64 + 2, Delete, n * 20..(n + 1) * 20));
    // Servers count what was read with some delay.
    let read = "SELECT s.n_tup_del, s.seq_tup_read + i.idx_tup_read FROM pg_stat_user_tables s JOIN pg_stat_user_indexes i \
                USING (relid) WHERE s.schemaname = current_schema() ORDER BY s.relname";
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let read = loop {
        let read = place.query(read);
        if read.iter().all(|read| read.starts_with("180|")) || std::time::Instant::now() > deadline {
            break read;
        }
        thread::sleep(Duration::from_millis(200));
        lane.apply(&step(11, &[])).unwrap(); // they count at the end of a transaction
    };
    let few = |read: &String| read.strip_prefix("180|").is_some_and(|read| read.parse::<u32>().unwrap() < 2000);
    assert!(read.len() == 2 && read.iter().all(few), "deleted | read: {read:?}");
}

#[test]
fn the_one_row_of_a_large_batch_that_the_server_refuses_is_named() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text CHECK (note <> 'bad'))");
    let mut lane = place.run(&orders());
    let rows: Vec<(String, String)> = (0..9_000)
        .map(|id| (id.to_string(), format!(r#"{{"id":{id},"note":"{}"}}"#, if id == 6_543 { "bad" } else { "ok" })))
        .collect();
    let nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "orders", k.as_str(), r.as_str())).collect();
    let [row] = &refused(lane.apply(&step(1, &nets)))[..] else { panic!("more than one is blamed") };
    assert!(row.key == "6543" && row.reason.contains("orders_note_check"), "{row}");
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["0"]);
    // The connection is good for what comes after.
    let good: Vec<Net> = nets.iter().filter(|net| net.2 != "6543").copied().collect();
    lane.apply(&step(1, &good)).unwrap();
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["8999"]);
}

#[test]
fn all_rows_of_a_step_that_do_not_become_what_their_columns_are_are_named_at_once() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note date)");
    let mut lane = place.run(&orders());
    let row = |id: u32| match id % 1_000 {
        7 => format!(r#"{{"id":{id},"note":"0000-00-00"}}"#),
        8 => format!(r#"{{"note":"2026-01-01","id":{id},"id":{id}}}"#),
        9 => format!(r#"{{"note":"no day","id":{id}}}"#),
        n if n % 2 == 0 => format!(r#"{{"note":"2026-01-01","id":{id}}}"#),
        _ => format!(r#"{{"id":{id},"note":"2026-01-01"}}"#),
    };
    let rows: Vec<(String, String)> = (0..9_000).map(|id| (format!("{id:04}"), row(id))).collect();
    let nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "orders", k.as_str(), r.as_str())).collect();
    let error = lane.apply(&step(1, &nets)).unwrap_err();
    assert!(error.to_string().ends_with("(and 26 more rows of this step)"), "{error}");
    let mut bad: Vec<(String, bool)> = refused(Err(error)).into_iter().map(|row| (row.key, row.zero_date)).collect();
    bad.sort();
    let want: Vec<(String, bool)> =
        (0..9).flat_map(|n| [(7, true), (8, false), (9, false)].map(|(m, zero)| (format!("{n}00{m}"), zero))).collect();
    assert_eq!(bad, want);
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["0"]);
    let good: Vec<Net> = nets.iter().filter(|net| !bad.iter().any(|(key, _)| key == net.2)).copied().collect();
    lane.apply(&step(1, &good)).unwrap();
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["8973"]);
}

#[test]
fn a_table_whose_first_row_is_unusable_is_refused_by_that_row() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
    let mut lane = place.run(&orders());
    let nets = [(Insert, "orders", "1", r#"{"note":"a"}"#), (Insert, "orders", "2", r#"{"id":2,"note":"b"}"#)];
    let [row] = &refused(lane.apply(&step(1, &nets)))[..] else { panic!("more than one is blamed") };
    assert!(row.key == "1" && row.reason.contains("no key column id"), "{row}");
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["0"]);
}

#[test]
fn a_row_that_takes_the_place_of_a_deleted_one_is_not_blamed_for_another() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text UNIQUE CHECK (note <> 'bad'))");
    let mut lane = place.run(&orders());
    lane.apply(&step(1, &[(Insert, "orders", "9", r#"{"id":9,"note":"taken"}"#)])).unwrap();
    let nets: [Net; 3] = [
        (Delete, "orders", "9", r#"{"id":9,"note":"taken"}"#),
        (Insert, "orders", "1", r#"{"id":1,"note":"taken"}"#),
        (Insert, "orders", "2", r#"{"id":2,"note":"bad"}"#),
    ];
    let [row] = &refused(lane.apply(&step(2, &nets)))[..] else { panic!("more than one is blamed") };
    assert!(row.key == "2" && row.reason.contains("check"), "{row}");
    assert_eq!(place.query("SELECT id, note FROM orders"), ["9|taken"]);
}

#[test]
fn a_step_under_way_when_a_newer_run_begins_is_whole_or_not_at_all() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
    let rows: Vec<(String, String)> =
        (0..30_000).map(|id| (id.to_string(), format!(r#"{{"id":{id},"note":"x"}}"#))).collect();
    let nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "orders", k.as_str(), r.as_str())).collect();
    let step = step(1, &nets);
    for pause_ms in [0, 5, 20, 60, 150] {
        let mut older = place.run(&orders());
        let (outcome, state) = thread::scope(|scope| {
            let applying = scope.spawn(|| older.apply(&step));
            thread::sleep(Duration::from_millis(pause_ms));
            let state = place.target().begin(&place.job, 1, "shop").unwrap();
            (applying.join().unwrap(), state)
        });
        let there = place.query("SELECT count(*) FROM orders WHERE note = 'x'").join("");
        match (&outcome, state.lanes.get(&0).map_or(0, |progress| progress.epoch), there.as_str()) {
            (Ok(()), 1, "30000") | (Err(TargetError::Fenced { .. }), 0, "0") => {}
            // Committed, and ended before it heard of it.
            (Err(TargetError::Fenced { .. }), 1, "30000") => {}
            other => panic!("after {pause_ms} ms: {other:?}"),
        }
        place.execute("TRUNCATE orders");
        place.execute(&format!("DELETE FROM tidegate.progress WHERE job = '{}'", place.job));
    }
}

#[test]
fn a_generation_can_not_be_taken_while_a_step_of_an_older_one_may_still_commit() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'a')");
    let mut older = place.run(&orders());
    // The newer run's user may not end the older one's sessions: the row of the generation alone holds it back.
    let role = format!("{}_other", place.job);
    place.execute(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA tidegate TO {role}"));
    place.execute(&format!("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA tidegate TO {role}"));
    let owner = url().parse::<postgres::Config>().unwrap().get_user().unwrap().to_string();
    let other = place.config.url.replace(&format!("{owner}@"), &format!("{role}@"));
    let newer = PostgresTarget::new(&PostgresConfig { url: other, ..place.config.clone() }).unwrap();
    place.execute("BEGIN; SELECT * FROM orders FOR UPDATE");
    let (applied, state) = thread::scope(|scope| {
        let applying = scope.spawn(move || older.apply(&step(1, &[(Update, "orders", "1", r#"{"id":1,"note":"b"}"#)])));
        let job = place.job.clone();
        thread::sleep(Duration::from_millis(300));
        let beginning = scope.spawn(move || newer.begin(&job, 1, "shop"));
        thread::sleep(Duration::from_millis(700));
        let generation = format!("SELECT generation FROM tidegate.generation WHERE job = '{}'", place.job);
        let meanwhile = place.query(&generation);
        place.execute("COMMIT");
        assert_eq!(meanwhile, ["1"], "the step has passed its check and not committed");
        (applying.join().unwrap(), beginning.join().unwrap())
    });
    place.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    applied.unwrap();
    let state = state.unwrap();
    assert_eq!((state.generation, state.lanes[&0].epoch), (2, 1));
}

/// Counts each row of `orders` that is written, in the writing transaction.
const COUNT_WRITES: &str = "CREATE TABLE written (id bigint);
    CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN EXECUTE format('INSERT INTO %I.written VALUES ($1)', TG_TABLE_SCHEMA) USING NEW.id; RETURN NULL; END $$;
    CREATE TRIGGER count_write AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION count_write()";

#[test]
fn steps_whose_sessions_are_killed_are_applied_exactly_once() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
    place.execute(COUNT_WRITES);
    let mut lane = place.run(&orders());
    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, prefix) = (stop.clone(), format!("tidegate/{}/%", place.job));
    let killer = thread::spawn(move || {
        let mut client = Client::connect(&url(), NoTls).unwrap();
        let mut killed = 0;
        while !stopping.load(Ordering::Relaxed) {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1";
            killed += client.query(sql, &[&prefix]).unwrap().len();
            thread::sleep(Duration::from_millis(90));
        }
        killed
    });
    for epoch in 0..20u64 {
        let rows: Vec<(String, String)> = (epoch * 1000..epoch * 1000 + 1000)
            .map(|id| (id.to_string(), format!(r#"{{"id":{id},"note":"x"}}"#)))
            .collect();
        let nets: Vec<Net> = rows.iter().map(|(k, r)| (Insert, "orders", k.as_str(), r.as_str())).collect();
        lane.apply(&step(epoch + 1, &nets)).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(killer.join().unwrap() > 0, "nothing was killed");
    assert_eq!(place.query("SELECT count(*), count(DISTINCT id) FROM written"), ["20000|20000"]);
    assert_eq!(place.query("SELECT count(*) FROM orders"), ["20000"]);
    assert_eq!(place.recorded(), Some(reached(20)));
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_applied_again() {
    let mut place = Place::new();
    place.execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
    place.execute(COUNT_WRITES);
    let target = place.target();
    let generation = target.begin(&place.job, 1, "shop").unwrap().generation;
    place.config.url = way(&url(), Cut::AtTheAnswerTo(b"COMMIT\0"));
    let mut lane = place.target().lane(&place.job, 0, generation, orders().find()).unwrap();
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    lane.apply(&step(2, &[(Update, "orders", "1", r#"{"id":1,"note":"b"}"#)])).unwrap();
    assert_eq!(place.query("SELECT count(*) FROM written"), ["2"], "one write a step");
    assert_eq!(place.query("SELECT note FROM orders"), ["b"]);
}

#[test]
fn a_server_that_can_not_be_used_is_told_apart() {
    let refuse = |url: &str| {
        let config = PostgresConfig { url: url.into(), ..Place::new().config.clone() };
        PostgresTarget::new(&config).and_then(|target| target.begin("j", 1, "shop").map(drop)).unwrap_err().to_string()
    };
    let server: postgres::Config = url().parse().unwrap();
    let at = format!("127.0.0.1:{}", server.get_ports()[0]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong_password = TcpListener::bind("127.0.0.1:0").unwrap();
    let guarded = wrong_password.local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = silent.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = wrong_password.accept().unwrap();
        let _ = client.read(&mut [0; 4096]);
        let fields = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"u\"\0\0";
        let mut message = vec![b'E'];
        message.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(fields);
        client.write_all(&message).unwrap();
    });
    for (url, want) in [
        ("mysql://u@h/d".to_string(), "it does not begin with postgres://"),
        (format!("postgres://u:p@{closed}/d"), "can't be reached"),
        (format!("postgres://u:p@{taken}/d?connect_timeout=1"), "has not answered as a PostgreSQL server does"),
        (format!("postgres://u:p@{guarded}/d"), "correct the user or password in [target] url or password_file"),
        (format!("postgres://tidegate_nobody@{at}/postgres"), "refuses user 'tidegate_nobody'"),
        (format!("postgres://postgres@{at}/tidegate_nowhere"), "has no database 'tidegate_nowhere': create it"),
    ] {
        let said = refuse(&url);
        assert!(said.contains(want), "{said}");
        assert!(!said.contains(":p@"), "the password is shown: {said}");
        assert!(!said.contains("the target: "), "its place is missing: {said}");
    }
}

#[test]
fn a_user_without_rights_is_told_which() {
    let mut place = Place::new();
    let role = format!("{}_poor", place.job);
    // begin as the owner first, so that only the rights on the tables are missing.
    place.target().begin(&place.job, 1, "shop").unwrap();
    place.execute(&format!("CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA tidegate TO {role}"));
    let server: postgres::Config = url().parse().unwrap();
    let owner = server.get_user().unwrap().to_string();
    let config = PostgresConfig {
        url: place.config.url.replace(&format!("{owner}@"), &format!("{role}@")),
        ..place.config.clone()
    };
    let target = PostgresTarget::new(&config).unwrap();
    let refused = target.begin(&place.job, 1, "shop").unwrap_err().to_string();
    let schema_name = place.config.schema.clone();
    place.execute(&format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY);
         GRANT ALL ON ALL TABLES IN SCHEMA tidegate, {schema_name} TO {role}; GRANT USAGE ON SCHEMA {schema_name} TO {role}"
    ));
    let generation = target.begin(&place.job, 1, "shop").unwrap().generation;
    let schemas = orders();
    schemas.set(schema("fresh", &[("id", "int")], &["id"]));
    let mut lane = target.lane(&place.job, 0, generation, schemas.find()).unwrap();
    let column = lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap_err().to_string();
    let mut lane = target.lane(&place.job, 0, generation, schemas.find()).unwrap();
    let table = lane.apply(&step(1, &[(Insert, "fresh", "1", r#"{"id":1}"#)])).unwrap_err().to_string();
    drop(lane);
    place.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert!(refused.contains("permission denied") && refused.contains("grant it"), "{refused}");
    for (what, said) in [("column note of table", column), ("\"fresh\"", table)] {
        let all = [what, &schema_name, "can't be made: the target refuses a right", "or make it there"];
        assert!(all.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// A source's type, a target's, a value in JSON, and its key.
type KeyCase = (&'static str, &'static str, &'static str, &'static str);

/// Makes a table and lands its first row, as the step of that number.
fn land_key(
    place: &mut Place,
    table: &str,
    number: u64,
    (source, target, value, key): &KeyCase,
) -> Result<(), TargetError> {
    place.execute(&format!("CREATE TABLE {table} (k {target} PRIMARY KEY, v int)"));
    let mut lane = place.run(&Schemas::of(&[schema(table, &[("k", source), ("v", "int")], &["k"])]));
    lane.apply(&step(number, &[(Insert, table, key, &format!("{{\"k\":{value},\"v\":1}}"))]))
}

#[test]
fn a_key_column_that_takes_two_keys_of_the_source_for_one_is_refused() {
    let mut place = Place::new();
    place.execute(
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public; CREATE TYPE mood AS ENUM ('a', 'b');
         CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE DOMAIN letters AS public.citext",
    );
    let coarse: [KeyCase; 7] = [
        ("varchar(20)", "public.citext", "\"a\"", "a"),
        ("varchar(20)", "letters", "\"a\"", "a"),
        ("varchar(20)", "text COLLATE ci", "\"a\"", "a"),
        ("varchar(20)", "integer", "\"1\"", "1"),
        ("varchar(20)", "interval", "\"1 day\"", "1 day"),
        ("double", "double precision", "0", "0"),
        ("double", "numeric", "0", "0"),
    ];
    let fine: [KeyCase; 8] = [
        ("varchar(20)", "char(20)", "\"a\"", "a"),
        ("varchar(40)", "uuid", "\"00000000-0000-0000-0000-00000000000a\"", "00000000-0000-0000-0000-00000000000a"),
        ("varchar(20)", "varchar(20)", "\"a\"", "a"),
        ("varchar(20)", "text COLLATE \"C\"", "\"a\"", "a"),
        ("varchar(20)", "mood", "\"a\"", "a"),
        ("bigint", "numeric(20,0)", "1", "1"),
        ("datetime(6)", "timestamp", "\"2026-01-01 00:00:00.5\"", "2026-01-01 00:00:00.5"),
        ("bigint unsigned", "numeric(20,0)", "1", "1"),
    ];
    for (n, case) in coarse.iter().chain(&fine).enumerate() {
        let (table, target) = (format!("t{n}"), case.1);
        let outcome = land_key(&mut place, &table, n.saturating_sub(coarse.len()) as u64 + 1, case);
        if n < coarse.len() {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains(&format!("shop.{table}")) && said.contains("the key column k"), "{target}: {said}");
        } else {
            outcome.unwrap_or_else(|error| panic!("{target}: {error}"));
        }
        assert_eq!(place.query(&format!("SELECT count(*) FROM {table}")), [if n < coarse.len() { "0" } else { "1" }]);
    }
    let unusual: [KeyCase; 2] = [
        ("varchar(20)", "char(20)", "\"a \"", "a "),
        ("varchar(40)", "uuid", "\"00000000-0000-0000-0000-00000000000A\"", "00000000-0000-0000-0000-00000000000A"),
    ];
    for (n, case) in unusual.iter().enumerate() {
        let rows = refused(land_key(&mut place, &format!("unusual{n}"), fine.len() as u64 + 1, case));
        assert!(rows[0].column.as_deref() == Some("k") && rows[0].key == case.3, "{}: {}", case.1, rows[0]);
    }
}

#[test]
fn a_column_that_was_narrowed_at_the_target_rounds_nothing() {
    let mut place = Place::new();
    let mut lane = place.run(&Schemas::of(&[schema("t", &[("id", "bigint"), ("v", "decimal(10,3)")], &["id"])]));
    lane.apply(&step(1, &[(Insert, "t", "1", r#"{"id":1,"v":"3.125"}"#)])).unwrap();
    place.execute("ALTER TABLE t ALTER v TYPE numeric(10,1)");
    lane.apply(&step(2, &[(Insert, "t", "2", r#"{"id":2,"v":"3.100"}"#)])).unwrap();
    place.execute("ALTER TABLE t ALTER v TYPE numeric(10,3)");
    lane.apply(&step(3, &[(Insert, "t", "3", r#"{"id":3,"v":"3.125"}"#)])).unwrap();
    place.execute("ALTER TABLE t ALTER v TYPE numeric(10,2)");
    let rows = refused(lane.apply(&step(4, &[(Insert, "t", "4", r#"{"id":4,"v":"3.125"}"#)])));
    assert_eq!((rows.len(), rows[0].key.as_str()), (1, "4"), "{rows:?}");
    place.execute("ALTER TABLE t ALTER v TYPE numeric(10,3)");
    lane.apply(&step(4, &[(Insert, "t", "4", r#"{"id":4,"v":"3.125"}"#)])).unwrap();
    assert_eq!(place.query("SELECT * FROM t WHERE id > 2 ORDER BY id"), ["3|3.130", "4|3.125"]);
}
