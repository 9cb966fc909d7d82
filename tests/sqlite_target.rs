//! The SQLite target: what a step does to the file, once, however often it is applied.

mod steps;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;
use steps::{Net, Schemas, reached, schema, step};
use tidegate::change::LookBack;
use tidegate::change::Op::{Delete, Insert, Update};
use tidegate::config::SqliteConfig;
use tidegate::target::sqlite::SqliteTarget;
use tidegate::target::{Checkpoint, Lane, Target, TargetError};

struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("land.db")
    }

    fn target(&self) -> SqliteTarget {
        SqliteTarget::new(&SqliteConfig { path: self.path() })
    }

    /// A new run of job `j` with one lane.
    fn run(&self, schemas: &Schemas) -> Box<dyn Lane> {
        let target = self.target();
        let generation = target.begin("j", 1, "shop").unwrap().generation;
        target.lane("j", 0, generation, schemas.find()).unwrap()
    }

    fn query(&self, sql: &str) -> Vec<String> {
        query(&self.path(), sql)
    }
}

/// Rows with their columns as SQL literals, joined by `|`.
fn query(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let texts = (0..columns).map(|n| {
            Ok(match row.get_ref(n)? {
                rusqlite::types::ValueRef::Null => "NULL".to_string(),
                rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                rusqlite::types::ValueRef::Real(r) => format!("{r:?}"),
                rusqlite::types::ValueRef::Text(t) => format!("'{}'", std::str::from_utf8(t).unwrap()),
                rusqlite::types::ValueRef::Blob(b) => format!("x{b:02x?}"),
            })
        });
        Ok(texts.collect::<Result<Vec<_>, rusqlite::Error>>()?.join("|"))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn orders() -> Schemas {
    Schemas::of(&[schema("orders", &[("id", "bigint"), ("note", "varchar(20)")], &["id"])])
}

#[test]
fn a_column_of_which_nothing_but_null_is_known_is_made_with_its_first_value() {
    let scratch = Scratch::new();
    let of = |ty| schema("t", &[("id", "bigint"), ("v", ty)], &["id"]);
    let schemas = Schemas::of(&[of("unknown")]);
    let mut lane = scratch.run(&schemas);
    lane.apply(&step(1, &[(Insert, "t", "1", r#"{"id":1,"v":null}"#), (Insert, "t", "2", r#"{"id":2,"v":null}"#)]))
        .unwrap();
    assert_eq!(scratch.query("SELECT * FROM t"), ["1", "2"]);
    // The row may be here before the statement of its table's new schema.
    let later = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        schemas.set(of("blob"));
    });
    let rows = [r#"{"id":1,"v":null}"#, r#"{"id":2,"v":"AP8="}"#, r#"{"id":3,"v":null}"#];
    lane.apply(&step(2, &[(Insert, "t", "1", rows[0]), (Insert, "t", "2", rows[1]), (Insert, "t", "3", rows[2])]))
        .unwrap();
    later.join().unwrap();
    assert_eq!(scratch.query("SELECT * FROM t ORDER BY id"), ["1|NULL", "2|x[00, ff]", "3|NULL"]);
    lane.apply(&step(3, &[(Update, "t", "2", r#"{"id":2,"v":null}"#), (Delete, "t", "3", rows[2])])).unwrap();
    assert_eq!(scratch.query("SELECT * FROM t ORDER BY id"), ["1|NULL", "2|NULL"]);
}

#[test]
fn a_step_inserts_updates_and_deletes_and_applying_it_again_changes_nothing() {
    let scratch = Scratch::new();
    let mut lane = scratch.run(&orders());
    let first = step(
        1,
        &[
            (Insert, "orders", "1", r#"{"id":1,"note":"a"}"#),
            (Insert, "orders", "2", r#"{"id":2,"note":"b\n\"é"}"#),
            (Insert, "orders", "3", r#"{"id":3,"note":null}"#),
        ],
    );
    let second = step(
        2,
        &[
            (Update, "orders", "1", r#"{"id":1,"note":"c"}"#),
            (Delete, "orders", "2", r#"{"id":2,"note":"b"}"#),
            (Insert, "orders", "4", r#"{"id":4,"note":""}"#),
        ],
    );
    lane.apply(&first).unwrap();
    assert_eq!(scratch.query("SELECT * FROM orders ORDER BY id"), ["1|'a'", "2|'b\n\"é'", "3|NULL"]);
    lane.apply(&second).unwrap();
    lane.apply(&first).unwrap();
    lane.apply(&second).unwrap();
    assert_eq!(scratch.query("SELECT * FROM orders ORDER BY id"), ["1|'c'", "3|NULL", "4|''"]);
    assert_eq!(scratch.target().begin("j", 1, "shop").unwrap().lanes, BTreeMap::from([(0, reached(2))]));
}

#[test]
fn a_table_that_was_landed_and_is_gone_is_not_made_anew() {
    let scratch = Scratch::new();
    scratch.run(&orders()).apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    Connection::open(scratch.path()).unwrap().execute_batch("DROP TABLE orders").unwrap();
    let next = step(2, &[(Insert, "orders", "2", r#"{"id":2,"note":"b"}"#)]);
    let error = scratch.run(&orders()).apply(&next).unwrap_err().to_string();
    assert!(error.starts_with("table shop.orders: job 'j' has landed it") && error.contains("that is gone"), "{error}");
}

#[test]
fn a_step_that_fails_leaves_neither_rows_nor_progress() {
    let scratch = Scratch::new();
    let mut lane = scratch.run(&orders());
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    let bad = step(2, &[(Delete, "orders", "1", r#"{"id":1}"#), (Insert, "orders", "2", r#"{"id":"x","note":"b"}"#)]);
    let error = lane.apply(&bad).unwrap_err().to_string();
    assert!(error.starts_with("table shop.orders, key 2: "), "{error}");
    let state = scratch.target().begin("j", 1, "shop").unwrap();
    assert_eq!(state.lanes[&0].epoch, 1);
    assert_eq!(scratch.query("SELECT * FROM orders"), ["1|'a'"]);
}

#[test]
fn a_newer_run_stops_an_older_one() {
    let scratch = Scratch::new();
    let (older, newer) = (scratch.target(), scratch.target());
    let generation = older.begin("j", 1, "shop").unwrap().generation;
    let mut lane = older.lane("j", 0, generation, orders().find()).unwrap();
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    let next = newer.begin("j", 1, "shop").unwrap().generation;
    assert_eq!(next, generation + 1);
    let fenced = |outcome: Result<(), TargetError>| match outcome {
        Err(TargetError::Fenced { ours, newer, .. }) => assert_eq!((ours, newer), (generation, next)),
        other => panic!("not fenced: {other:?}"),
    };
    fenced(lane.apply(&step(2, &[(Delete, "orders", "1", r#"{"id":1}"#)])));
    fenced(older.checkpoint("j", generation, &Checkpoint::default()));
    fenced(older.lane("j", 0, generation, orders().find()).map(drop));
    assert_eq!(scratch.query("SELECT * FROM orders"), ["1|'a'"]);
    // Another job is another matter.
    assert_eq!(older.begin("k", 3, "shop").unwrap().generation, 1);
}

#[test]
fn a_job_keeps_its_number_of_lanes_and_its_checkpoint() {
    let scratch = Scratch::new();
    let target = scratch.target();
    let generation = target.begin("j", 4, "shop").unwrap().generation;
    let checkpoint = Checkpoint {
        epoch: 9,
        offsets: BTreeMap::from([(0, 17), (1, 18), (3, u64::MAX)]),
        passed: BTreeMap::from([(1, u64::MAX)]),
        look_backs: BTreeMap::from([(3, LookBack { judged_from: 7, read: 8, newest: 9, horizon_max: 10 })]),
        ..Checkpoint::default()
    };
    target.checkpoint("j", generation, &checkpoint).unwrap();
    let error = scratch.target().begin("j", 5, "shop").unwrap_err().to_string();
    assert!(error.contains("lanes = 4") && error.contains("lanes = 5"), "{error}");
    assert_eq!(scratch.target().begin("j", 4, "shop").unwrap().checkpoint, Some(checkpoint));
}

#[test]
fn a_column_that_the_source_adds_is_added() {
    let scratch = Scratch::new();
    let schemas = orders();
    let mut lane = scratch.run(&schemas);
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    schemas.set(schema(
        "orders",
        &[("id", "bigint"), ("note", "varchar(20)"), ("price", "decimal(65,30)"), ("raw", "blob")],
        &["id"],
    ));
    let price = "12345678901234567890123456789012345.100000000000000000000000000000";
    let row = format!(r#"{{"id":2,"note":"b","price":"{price}","raw":"AP8="}}"#);
    lane.apply(&step(2, &[(Update, "orders", "1", r#"{"id":1,"note":"z"}"#), (Insert, "orders", "2", &row)])).unwrap();
    assert_eq!(
        scratch.query("SELECT * FROM orders ORDER BY id"),
        ["1|'z'|NULL|NULL".to_string(), format!("2|'b'|'{price}'|x[00, ff]")]
    );
}

#[test]
fn a_column_that_nobody_announced_is_an_error_by_name() {
    let scratch = Scratch::new();
    let connection = Connection::open(scratch.path()).unwrap();
    connection.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)").unwrap();
    let mut lane = scratch.run(&Schemas::default());
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    let error = lane.apply(&step(2, &[(Insert, "orders", "2", r#"{"id":2,"colour":"red"}"#)])).unwrap_err().to_string();
    assert!(error.starts_with("table shop.orders: missing column in the target: colour"), "{error}");
}

#[test]
fn what_sqlite_would_round_is_refused_by_name() {
    for (declared, value, column) in [
        ("INTEGER", "18446744073709551615", Some("v")),
        ("REAL", "9007199254740993", Some("v")),
        ("NUMERIC", r#""0.12345678901234567890""#, Some("v")),
        ("NUMERIC", r#""0123""#, Some("v")),
        ("REAL", r#""12.50""#, None),
        ("TEXT", "18446744073709551615", None),
        ("TEXT", r#""0000-00-00""#, None),
        ("INTEGER", "-9223372036854775808", None),
    ] {
        let scratch = Scratch::new();
        let connection = Connection::open(scratch.path()).unwrap();
        connection.execute_batch(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")).unwrap();
        let mut lane = scratch.run(&Schemas::default());
        let outcome = lane.apply(&step(1, &[(Insert, "t", "1", &format!(r#"{{"id":1,"v":{value}}}"#))]));
        match (outcome, column) {
            (Ok(()), None) => {}
            (Err(TargetError::Rows(rows)), Some(want)) => {
                assert_eq!((&*rows[0].key, rows[0].column.as_deref()), ("1", Some(want)))
            }
            (outcome, _) => panic!("{declared} {value}: {outcome:?}"),
        }
    }
}

#[test]
fn a_file_that_was_restored_is_noticed() {
    let scratch = Scratch::new();
    let mut lane = scratch.run(&Schemas::of(&[schema("t", &[("id", "int")], &["id"])]));
    for number in 1..=3 {
        lane.apply(&step(number, &[(Insert, "t", &number.to_string(), &format!(r#"{{"id":{number}}}"#))])).unwrap();
    }
    let connection = Connection::open(scratch.path()).unwrap();
    connection.execute_batch("UPDATE tidegate_progress SET step = 1; DELETE FROM t WHERE id > 1").unwrap();
    let error = lane.apply(&step(4, &[(Insert, "t", "4", r#"{"id":4}"#)])).unwrap_err().to_string();
    assert!(error.contains("it is at step 1 and was at 3"), "{error}");
    assert_eq!(scratch.query("SELECT * FROM t"), ["1"]);
}

#[test]
fn all_rows_of_a_step_that_are_refused_are_named_at_once() {
    let scratch = Scratch::new();
    let connection = Connection::open(scratch.path()).unwrap();
    connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER CHECK (v < 9))").unwrap();
    let mut lane = scratch.run(&Schemas::default());
    let error = lane.apply(&step(
        1,
        &[
            (Insert, "t", "1", r#"{"id":1,"v":1}"#),
            (Insert, "t", "2", r#"{"id":2,"v":10}"#),
            (Update, "t", "3", r#"{"id":3,"v":18446744073709551615}"#),
            (Insert, "t", "4", r#"{"id":4,"v":4}"#),
            (Insert, "t", "5", r#"{"v":1}"#),
        ],
    ));
    let Err(TargetError::Rows(refused)) = error else { panic!("{error:?}") };
    let mut keys: Vec<&str> = refused.iter().map(|row| &*row.key).collect();
    keys.sort();
    assert_eq!(keys, ["2", "3", "5"]);
    assert_eq!(scratch.query("SELECT * FROM t"), [""; 0], "and nothing of it is done");
}

#[test]
fn values_keep_their_text_and_their_types() {
    let scratch = Scratch::new();
    let columns = [
        ("id", "int"),
        ("big", "bigint unsigned"),
        ("f", "float"),
        ("d", "double"),
        ("n", "decimal(5,2)"),
        ("j", "json"),
        ("b", "varbinary(9)"),
        ("t", "datetime(3)"),
        ("e", "enum('x')"),
    ];
    let mut lane = scratch.run(&Schemas::of(&[schema("t", &columns, &["id"])]));
    let row = r#"{"id":-1,"big":18446744073709551615,"f":0.1,"d":1e+300,"n":"-1.50","j":{"b":[1.10,null],"a":"\u00e9"},"b":"AA==","t":"0000-00-00 00:00:00.000","e":"x"}"#;
    lane.apply(&step(1, &[(Insert, "t", "-1", row)])).unwrap();
    assert_eq!(
        scratch.query("SELECT * FROM t"),
        [
            r#"-1|'18446744073709551615'|0.1|1e300|'-1.50'|'{"b":[1.10,null],"a":"\u00e9"}'|x[00]|'0000-00-00 00:00:00.000'|'x'"#
        ]
    );
}

#[test]
fn a_job_that_someone_deleted_does_not_go_on_with_its_old_progress() {
    let scratch = Scratch::new();
    let mut lane = scratch.run(&orders());
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1,"note":"a"}"#)])).unwrap();
    query(&scratch.path(), "DELETE FROM tidegate_generation");
    let refused = scratch.target().begin("j", 1, "another").unwrap_err().to_string();
    assert!(refused.contains("deleted it from tidegate_generation"), "{refused}");
    let refused = lane.apply(&step(2, &[])).unwrap_err().to_string();
    assert!(refused.contains("deleted it from tidegate_generation"), "{refused}");
}

#[test]
fn a_key_column_that_takes_two_keys_of_the_source_for_one_is_refused() {
    let cases = [
        ("varchar(9)", "TEXT COLLATE NOCASE", false),
        ("varchar(9)", "INTEGER", false),
        ("double", "REAL", false),
        ("double", "NUMERIC", false),
        ("varchar(9)", "TEXT", true),
        ("varchar(9)", "TEXT COLLATE binary", true),
        ("bigint", "INTEGER", true),
    ];
    for (source, ty, fine) in cases {
        let scratch = Scratch::new();
        query(&scratch.path(), &format!("CREATE TABLE t (k {ty} PRIMARY KEY, v INTEGER)"));
        let mut lane = scratch.run(&Schemas::of(&[schema("t", &[("k", source), ("v", "int")], &["k"])]));
        let row = if source == "varchar(9)" { r#"{"k":"1","v":1}"# } else { r#"{"k":1,"v":1}"# };
        let outcome = lane.apply(&step(1, &[(Insert, "t", "1", row)]));
        assert_eq!(outcome.is_ok(), fine, "{source} into {ty}: {outcome:?}");
        let said = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(fine || said.contains("the key column k"), "{said}");
    }
    // The key's index tells apart what the column takes for one.
    let scratch = Scratch::new();
    query(&scratch.path(), "CREATE TABLE t (k TEXT COLLATE NOCASE, v INTEGER, PRIMARY KEY (k COLLATE BINARY))");
    let mut lane = scratch.run(&Schemas::of(&[schema("t", &[("k", "varchar(9)"), ("v", "int")], &["k"])]));
    lane.apply(&step(1, &[(Insert, "t", "a", r#"{"k":"a","v":1}"#), (Insert, "t", "A", r#"{"k":"A","v":1}"#)]))
        .unwrap();
    lane.apply(&step(2, &[(Delete, "t", "a", r#"{"k":"a","v":1}"#)])).unwrap();
    assert_eq!(scratch.query("SELECT * FROM t"), ["'A'|1"]);
    // In a table of tidegate's own -0 and 0 are two.
    let scratch = Scratch::new();
    let mut lane = scratch.run(&Schemas::of(&[schema("t", &[("k", "double"), ("v", "int")], &["k"])]));
    let zeros = [(Insert, "t", "0", r#"{"k":0,"v":1}"#), (Insert, "t", "-0", r#"{"k":-0,"v":1}"#)];
    lane.apply(&step(1, &zeros)).unwrap();
    lane.apply(&step(2, &[(Delete, "t", "0", r#"{"k":0,"v":1}"#)])).unwrap();
    assert_eq!(scratch.query("SELECT * FROM t"), ["'-0'|1"]);
}

#[test]
fn rows_of_other_fields_or_order_in_one_step_are_understood() {
    let scratch = Scratch::new();
    let columns = [("a", "int"), ("b", "varchar(9)"), ("c", "int")];
    let mut lane = scratch.run(&Schemas::of(&[schema("t", &columns, &["a", "b"])]));
    lane.apply(&step(
        1,
        &[
            (Insert, "t", r#"["1","x"]"#, r#"{"a":1,"b":"x","c":1}"#),
            (Insert, "t", r#"["1","y"]"#, r#"{"c":2,"b":"y","a":1}"#),
            (Insert, "t", r#"["2","x"]"#, r#"{"a":2,"b":"x"}"#),
            (Insert, "t", r#"["3","x"]"#, r#"{"a":3,"b":"x","c":3}"#),
        ],
    ))
    .unwrap();
    lane.apply(&step(
        2,
        &[(Update, "t", r#"["1","x"]"#, r#"{"b":"x","a":1}"#), (Delete, "t", r#"["1","y"]"#, r#"{"a":1,"b":"y"}"#)],
    ))
    .unwrap();
    assert_eq!(scratch.query("SELECT * FROM t ORDER BY a, b"), ["1|'x'|1", "2|'x'|NULL", "3|'x'|3"]);
}

#[test]
fn tables_that_can_not_be_landed_are_refused_by_name() {
    let scratch = Scratch::new();
    let schemas = Schemas::of(&[
        schema("keyless", &[("a", "int")], &[]),
        schema("tidegate_progress", &[("a", "int")], &["a"]),
        schema("orders", &[("id", "int")], &["id"]),
        schema("crm.Orders", &[("id", "int")], &["id"]),
        schema("other", &[("id", "int"), ("x", "int")], &["x"]),
    ]);
    let mut lane = scratch.run(&schemas);
    Connection::open(scratch.path()).unwrap().execute_batch("CREATE TABLE other (id INTEGER PRIMARY KEY, x)").unwrap();
    lane.apply(&step(1, &[(Insert, "orders", "1", r#"{"id":1}"#)])).unwrap();
    for (table, key, row, want) in [
        ("keyless", "", r#"{"a":1}"#, "table shop.keyless: it has no primary key"),
        ("tidegate_progress", "1", r#"{"a":1}"#, "table shop.tidegate_progress: its name begins with"),
        ("crm.Orders", "1", r#"{"id":1}"#, "table crm.Orders: the file's table Orders already holds shop.orders"),
        ("other", "1", r#"{"id":1,"x":1}"#, "table shop.other: the primary key of the file's table is (id)"),
        ("unknown", "1", r#"{"id":1}"#, "table shop.unknown: the file has no table unknown"),
        ("orders", "2", r#"{"id":2"#, "table shop.orders, key 2: the row is no JSON object"),
    ] {
        let error = lane.apply(&step(2, &[(Insert, table, key, row)])).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
    let target = scratch.target();
    let generation = target.begin("k", 1, "shop").unwrap().generation;
    let mut other = target.lane("k", 0, generation, schemas.find()).unwrap();
    let error = other.apply(&step(1, &[(Insert, "orders", "3", r#"{"id":3}"#)])).unwrap_err().to_string();
    assert!(error.contains("the file's table orders is landed by job 'j', and each of two jobs"), "{error}");
    assert_eq!(scratch.query("SELECT * FROM orders"), ["1"]);
}

#[test]
fn a_path_that_can_not_be_is_said_to_be_none() {
    let target = SqliteTarget::new(&SqliteConfig { path: "/nowhere/at/all.db".into() });
    let error = target.begin("j", 1, "shop").unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all.db"), "{error}");
}

#[test]
fn lanes_of_two_processes_share_a_file() {
    let scratch = Scratch::new();
    let generation = scratch.target().begin("j", 4, "shop").unwrap().generation;
    std::thread::scope(|scope| {
        for lane in 0..4u32 {
            let target = scratch.target();
            scope.spawn(move || {
                let mut applies = target.lane("j", lane, generation, orders().find()).unwrap();
                for epoch in 1..=20u64 {
                    let id = (u64::from(lane) * 100 + epoch).to_string();
                    let row = format!(r#"{{"id":{id},"note":"{lane}"}}"#);
                    applies.apply(&step(epoch, &[(Insert, "orders", &id, &row)])).unwrap();
                }
            });
        }
    });
    assert_eq!(scratch.query("SELECT count(*), count(DISTINCT note) FROM orders"), ["80|4"]);
}

/// What happens to a run between steps.
#[derive(Clone, Debug)]
enum Event {
    /// The net changes of an epoch: keys, with what becomes of them.
    Step(BTreeMap<(bool, u8), Option<u8>>),
    /// The process dies inside the next step, and a new one begins from what is recorded.
    Crash,
    /// A new process begins so many steps before what is recorded.
    Replay(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let changes = prop::collection::btree_map((any::<bool>(), 0..12u8), prop::option::of(any::<u8>()), 1..12);
    prop_oneof![6 => changes.prop_map(Event::Step), 1 => Just(Event::Crash), 1 => (1..4usize).prop_map(Event::Replay)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_is_replayed_the_file_is_the_naive_map(events in prop::collection::vec(event(), 1..40)) {
        let scratch = Scratch::new();
        let columns = [("id", "int"), ("v", "int")];
        let schemas = Schemas::of(&[schema("a", &columns, &["id"]), schema("b", &columns, &["id"])]);
        let mut lane = scratch.run(&schemas);
        let mut model: BTreeMap<(bool, u8), u8> = BTreeMap::new();
        let mut history = Vec::new();
        for event in events {
            match event {
                Event::Step(wanted) => {
                    let texts: Vec<_> = wanted.iter().filter_map(|(&(b, id), &value)| {
                        let op = match (model.contains_key(&(b, id)), value) {
                            (false, None) => return None,
                            (false, Some(_)) => Insert,
                            (true, Some(_)) => Update,
                            (true, None) => Delete,
                        };
                        match value {
                            Some(value) => model.insert((b, id), value),
                            None => model.remove(&(b, id)),
                        };
                        let table = if b { "b" } else { "a" };
                        Some((op, table, id.to_string(), format!(r#"{{"id":{id},"v":{}}}"#, value.unwrap_or(0))))
                    }).collect();
                    let nets: Vec<Net> = texts.iter().map(|(op, t, k, r)| (*op, *t, k.as_str(), r.as_str())).collect();
                    let step = step(history.len() as u64 + 1, &nets);
                    lane.apply(&step).unwrap();
                    history.push(step);
                }
                Event::Crash => {
                    // Everything of a step is written, and then its last row can't be.
                    let last = step(history.len() as u64 + 1, &[
                        (Delete, "a", "1", r#"{"id":1}"#), (Update, "a", "2", r#"{"id":2,"v":300}"#), (Insert, "b", "99", r#"{"id":99,"v":"1"#),
                    ]);
                    prop_assert!(lane.apply(&last).is_err());
                    lane = scratch.run(&schemas);
                }
                Event::Replay(steps) => {
                    lane = scratch.run(&schemas);
                    let from = history.len().saturating_sub(steps);
                    for step in &history[from..] {
                        lane.apply(step).unwrap();
                    }
                }
            }
        }
        for (table, b) in [("a", false), ("b", true)] {
            let want: Vec<String> = model.iter().filter(|(key, _)| key.0 == b).map(|(key, v)| format!("{}|{v}", key.1)).collect();
            if history.iter().any(|s| [&s.inserts, &s.updates].iter().any(|c| c.changes().any(|c| c.table() == table))) {
                prop_assert_eq!(scratch.query(&format!("SELECT id, v FROM {table} ORDER BY id")), want);
            }
        }
        let progress = scratch.target().begin("j", 1, "shop").unwrap().lanes.get(&0).map_or(0, |progress| progress.epoch);
        prop_assert_eq!(progress, history.len() as u64);
    }
}
