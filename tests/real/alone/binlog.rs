//! The binlog reader on real servers: transactions, places to go on from, broken connections, and what changes under it.

use std::time::{Duration, Instant};

use crate::binlog::{
    Database, SERVERS, Seen, connect, decode, kill_readers, read_to_end, rows, url, with_tables, without_schemas,
    write_transactions, write_transactions_from,
};
use tidegate::change::{BATCH_BYTES, Changes, Op};
use tidegate::codec::binlog::BinlogDecoder;
use tidegate::source::mysql::MysqlReader;
use tidegate::source::{Decoder, Raws, Reader, SourceError, Start, now_ms};

#[test]
fn a_transaction_has_one_time_and_every_place_gives_the_same_numbers() {
    for server in SERVERS {
        let mut database = with_tables(server, "places");
        let start = database.end();
        let begun = now_ms();
        write_transactions(&mut database, 50);
        // One that no single read can take.
        let filler: Vec<String> = (1000..9000).map(|id| format!("({id}, repeat('x', 90))")).collect();
        database.run("START TRANSACTION");
        for _ in 0..5 {
            database.run(&format!("REPLACE INTO t VALUES {}", filler.join(",")));
            database.run("DELETE FROM t WHERE id >= 1000");
        }
        database.run("COMMIT");
        write_transactions_from(&mut database, 20_000, 50);
        let (raws, mut marks) = read_to_end(&mut database.reader(&start)).unwrap();
        let all = without_schemas(decode(&raws).unwrap());
        let small: usize = (0..50).map(|number| 2 + number % 4).sum();
        assert_eq!(all.len(), 2 * small + 80_000, "{server}");
        assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].time <= pair[1].time));
        let large: Vec<u64> = all[small..small + 80_000].iter().map(|seen| seen.time).collect();
        assert!(large.iter().all(|time| *time == large[0]), "{server}: one transaction, one time");
        assert!(all[0].time + 1_000 >= begun && all[0].time <= now_ms(), "{server}: {}", all[0].time);
        assert!(marks.len() > 4, "{server}: {} reads took all", marks.len());
        assert!(marks.iter().any(|mark| mark.resume.seq < mark.seq), "{server}: no read ended inside of a transaction");

        // The marks inside of a transaction share the place where it begins.
        marks.dedup_by_key(|mark| mark.resume.seq);
        for mark in &marks {
            let start = Start::Resume { resume: mark.resume.clone(), clock: tidegate::source::Clock::from(mark.time) };
            let mut reader = MysqlReader::open(&database.config("latest"), "again", &start, true).unwrap();
            let again = without_schemas(decode(&read_to_end(&mut reader).unwrap().0).unwrap());
            let rest: Vec<&Seen> = all.iter().filter(|seen| seen.seq >= mark.resume.seq).collect();
            assert_eq!(again.len(), rest.len(), "{server}: from {mark:?}");
            for (again, first) in again.iter().zip(rest) {
                let what = |seen: &Seen| (seen.seq, seen.position.clone(), seen.row.clone());
                assert_eq!(what(again), what(first), "{server}");
            }
        }
    }
}

/// A reader on a thread of its own, until `rows` rows have come.
fn follow(mut reader: MysqlReader, rows: usize) -> std::thread::JoinHandle<Vec<Seen>> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(40);
        let mut all = Raws::default();
        let (mut decoder, mut changes) = (BinlogDecoder::new(false), Changes::default());
        let (mut seen, mut time, mut promised) = (0, 0, 0);
        while seen < rows {
            assert!(Instant::now() < deadline, "{seen} of {rows} rows have come");
            let mut raws = Raws::default();
            let mark = reader.read(&mut raws).unwrap_or_else(|error| panic!("{error}"));
            let kept = raws.heads().iter().all(|head| head.time >= time && (promised..mark.seq).contains(&head.seq));
            assert!(kept && mark.time >= time && mark.seq >= promised, "a promise was broken");
            (time, promised) = (mark.time, mark.seq);
            for raw in raws.raws() {
                changes.clear();
                decoder.decode(&raw, &mut changes).unwrap();
                seen += changes.changes().filter(|change| change.op() != Op::Schema).count();
            }
            raws.iter().for_each(|(head, payload)| all.push(*head, payload));
        }
        without_schemas(decode(&all).unwrap())
    })
}

#[test]
fn a_broken_connection_loses_and_doubles_nothing() {
    for server in SERVERS {
        let mut database = with_tables(server, "broken");
        let start = database.end();
        let reader = MysqlReader::open(&database.config(&start), &database.name, &Start::Configured, false).unwrap();
        // More than is kept back of a transaction, and one that is.
        let sizes = [60_000, 100, 4_000, 60_000, 100, 5_000, 3_000, 60_000];
        let rows = 8 * (0..50).map(|number| 2 + number % 4).sum::<usize>() + sizes.iter().sum::<usize>();
        let following = follow(reader, rows);
        let mut killer = connect(&url(server));
        for (round, size) in sizes.into_iter().enumerate() {
            write_transactions_from(&mut database, round * 500, 50);
            let first = 1_000_000 + round * 100_000;
            let large: Vec<String> =
                (first..first + size).map(|id| format!("({id}, repeat('x', {}))", 60 + id % 40)).collect();
            database.run(&format!("INSERT INTO t VALUES {}", large.join(",")));
            if [0, 3, 5, 7].contains(&round) {
                database.run("FLUSH BINARY LOGS");
            }
            for pause in [0, 2, 5, 12, 30, 60, 110] {
                std::thread::sleep(Duration::from_millis(pause));
                kill_readers(&mut killer);
            }
        }
        let seen = following.join().unwrap();
        let (raws, _) = read_to_end(&mut database.reader(&start)).unwrap();
        let undisturbed = without_schemas(decode(&raws).unwrap());
        let what =
            |seen: &[Seen]| -> Vec<_> { seen.iter().map(|s| (s.seq, s.position.clone(), s.row.clone())).collect() };
        assert_eq!(what(&seen), what(&undisturbed), "{server}");
    }
}

#[test]
fn time_moves_on_while_nothing_happens() {
    for server in SERVERS {
        let database = Database::new(server, "idle");
        let mut reader =
            MysqlReader::open(&database.config("latest"), &database.name, &Start::Configured, false).unwrap();
        let begun = now_ms();
        let deadline = Instant::now() + Duration::from_secs(10);
        while reader.read(&mut Raws::default()).unwrap().time < begun + 500 {
            assert!(Instant::now() < deadline, "{server}: time stands still");
        }
    }
}

#[test]
fn the_end_of_an_empty_binlog_is_reached_at_once() {
    for server in SERVERS {
        let mut database = Database::new(server, "empty");
        let end = database.end();
        let (raws, marks) = read_to_end(&mut database.reader("latest")).unwrap();
        assert_eq!((raws.len(), marks.len()), (0, 1), "{server}");
        assert!(marks[0].resume.position.starts_with(&format!("{end} at ")), "{server}: {:?}", marks[0]);
    }
}

#[test]
fn files_follow_one_another() {
    for server in SERVERS {
        let mut database = with_tables(server, "files");
        let start = database.end();
        for round in 0..3 {
            write_transactions_from(&mut database, round * 500, 5);
            database.run("FLUSH BINARY LOGS");
        }
        write_transactions_from(&mut database, 1500, 5);
        let seen = without_schemas(database.changes(&start));
        let files: std::collections::BTreeSet<_> = seen.iter().map(|s| s.position.split(':').next().unwrap()).collect();
        assert_eq!((seen.len(), files.len()), (4 * (0..5).map(|n| 2 + n % 4).sum::<usize>(), 4), "{server}: {files:?}");
    }
}

#[test]
fn compressed_transactions_are_read() {
    let mut database = with_tables("MYSQL_URL", "compressed");
    database.run("SET SESSION binlog_transaction_compression = ON");
    let start = database.end();
    write_transactions(&mut database, 20);
    let (raws, _) = read_to_end(&mut database.reader(&start)).unwrap();
    let seen = without_schemas(decode(&raws).unwrap());
    assert_eq!(seen.len(), (0..20).map(|number| 2 + number % 4).sum::<usize>());
    assert!(seen.windows(2).all(|pair| pair[0].seq < pair[1].seq));

    // A long one comes in parts, none of which is a place to go on from.
    database.run("CREATE TABLE long_one (id int primary key, v varchar(200))");
    let start = database.end();
    database.run(
        "INSERT INTO long_one SELECT a.n * 1000 + b.n, repeat('x', 200) FROM \
         (WITH RECURSIVE s AS (SELECT 0 n UNION ALL SELECT n + 1 FROM s WHERE n < 99) SELECT n FROM s) a, \
         (WITH RECURSIVE s AS (SELECT 0 n UNION ALL SELECT n + 1 FROM s WHERE n < 999) SELECT n FROM s) b",
    );
    database.run("INSERT INTO long_one VALUES (-1, 'behind it')");
    let mut reader = database.reader(&start);
    let (mut all, mut parts, mut largest) = (Raws::default(), 0, 0);
    loop {
        let mut raws = Raws::default();
        let mark = reader.read(&mut raws).unwrap();
        raws.iter().for_each(|(head, payload)| all.push(*head, payload));
        largest = largest.max(raws.payload_bytes());
        parts += usize::from(mark.seq > mark.resume.seq);
        if mark.end {
            break;
        }
    }
    let seen = without_schemas(decode(&all).unwrap());
    assert_eq!(seen.len(), 100_001);
    assert!(parts > 5 && largest < 8 * BATCH_BYTES, "{parts} parts, {largest} bytes");
    let again = without_schemas(database.changes(&start));
    assert_eq!(seen.last().unwrap().seq, again.last().unwrap().seq);
}

#[test]
fn statements_that_change_a_table_do_not_change_what_is_read() {
    for server in SERVERS {
        let mut database = Database::new(server, "altered");
        let start = database.end();
        database.run("CREATE TABLE t (id int primary key)");
        database.run("INSERT INTO t VALUES (1)");
        database.run("ALTER TABLE t ADD COLUMN v varchar(5) DEFAULT 'new'");
        database.run("INSERT INTO t VALUES (2, 'two')");
        database.run("ALTER TABLE t DROP COLUMN v, ADD COLUMN first_one int FIRST");
        database.run("UPDATE t SET first_one = 5 WHERE id = 2");
        database.run("CREATE TABLE copy AS SELECT * FROM t");
        database.run("DROP TABLE t");
        let seen = database.changes(&start);
        let copied = seen.iter().filter(|seen| seen.op == Op::Insert && seen.table == "copy").count();
        let of_t: Vec<Seen> = seen.into_iter().filter(|seen| seen.table == "t").collect();
        assert_eq!(
            rows(&of_t),
            [
                (Op::Insert, "1", r#"{"id":1}"#),
                (Op::Insert, "2", r#"{"id":2,"v":"two"}"#),
                (Op::Update, "2", r#"{"first_one":5,"id":2}"#),
            ],
            "{server}"
        );
        assert_eq!(of_t.iter().filter(|seen| seen.op == Op::Schema).count(), 3, "{server}: each shape is announced");
        assert_eq!(copied, 2, "{server}");
    }
}

#[test]
fn statements_logged_as_text_about_tables_that_are_not_wanted_stop_nothing() {
    for server in SERVERS {
        let mut database = Database::new(server, "wanted");
        let mut other = Database::new(server, "unwanted");
        for sql in ["CREATE TABLE t (id int primary key, v int)", "INSERT INTO t VALUES (1, 1)"] {
            database.run(sql);
            other.run(sql);
        }
        let start = database.end();
        other.run("SET SESSION binlog_format = STATEMENT");
        other.run("UPDATE t SET v = 2 WHERE id = 1");
        database.run("INSERT INTO t VALUES (2, 2)");
        assert_eq!(rows(&database.changes(&start)), [(Op::Insert, "2", r#"{"id":2,"v":2}"#)], "{server}");
        // Which of two tables a statement writes to can't be told from its first words.
        other.run("UPDATE t, t AS u SET t.v = 3 WHERE t.id = u.id");
        assert!(database.error(&start).contains("binlog_format=ROW"), "{server}");
    }
}

#[test]
fn what_can_not_be_replicated_stops_nothing_where_it_is_of_tables_that_are_not_wanted() {
    for server in SERVERS {
        let mut database = Database::new(server, "xa_wanted");
        let mut other = Database::new(server, "xa_unwanted");
        database.run("CREATE TABLE t (id int primary key, v int)");
        other.run("CREATE TABLE t (id int primary key, j json)");
        let start = database.end();
        let xids = ["once", "twice", "gone", "late"].map(|name| format!("'{}_{name}'", other.name));
        let prepare = |other: &mut Database, id: usize| {
            let xid = &xids[id];
            let insert = format!("INSERT INTO t VALUES ({id}, json_object('a', repeat('x', 500), 'b', 1))");
            for sql in [format!("XA START {xid}"), insert, format!("XA END {xid}"), format!("XA PREPARE {xid}")] {
                other.run(&sql);
            }
        };
        for (id, end) in [(0, "COMMIT"), (2, "ROLLBACK"), (1, "COMMIT")] {
            prepare(&mut other, id);
            database.run(&format!("INSERT INTO t VALUES ({id}, 2)"));
            other.run(&format!("XA {end} {}", xids[id]));
        }
        if !database.is_mariadb() {
            let (xid, insert) = (&xids[3], "INSERT INTO t VALUES (9, NULL)".to_string());
            let phases =
                [format!("XA START {xid}"), insert, format!("XA END {xid}"), format!("XA COMMIT {xid} ONE PHASE")];
            phases.iter().for_each(|sql| other.run(sql));
            other.run("SET SESSION binlog_row_value_options = PARTIAL_JSON");
            other.run("UPDATE t SET j = json_set(j, '$.b', 2)");
            other.run("SET SESSION binlog_row_value_options = ''");
        }
        database.run("INSERT INTO t VALUES (3, 3)");
        let changes = database.changes(&start);
        let keys: Vec<&str> = rows(&changes).iter().map(|(_, key, _)| *key).collect();
        assert_eq!(keys, ["0", "2", "1", "3"], "{server}");
        // Which rows are committed is not known where it was prepared before.
        prepare(&mut other, 3);
        let start = database.end();
        other.run(&format!("XA COMMIT {}", xids[3]));
        assert!(database.error(&start).contains("whose beginning has not been read"), "{server}");
    }
}

#[test]
fn a_row_does_not_get_the_names_that_its_columns_have_later() {
    // The comment's quotes must not hide what stands behind it.
    let sessions = [("", r"it\'s"), ("NO_BACKSLASH_ESCAPES", r"C:\")];
    for (server, (mode, comment)) in SERVERS.into_iter().flat_map(|server| sessions.map(|session| (server, session))) {
        let mut database = Database::new(server, "names");
        database.run(&format!("SET sql_mode = '{mode}'"));
        let alter = format!("ALTER TABLE swapped COMMENT '{comment}', CHANGE a b int, CHANGE b a int");
        let level = if database.is_mariadb() { "NO_LOG" } else { "MINIMAL" };
        database.run(&format!("SET GLOBAL binlog_row_metadata = {level}"));
        let start = database.end();
        for sql in [
            "CREATE TABLE swapped (id int PRIMARY KEY, a int, b int)",
            "CREATE TABLE kept (id int PRIMARY KEY, a int, b int)",
            "INSERT INTO swapped VALUES (1, 10, 20)",
            "INSERT INTO kept VALUES (2, 10, 20)",
            "ALTER TABLE kept ADD INDEX (a)",
            "FLUSH BINARY LOGS",
            &alter,
            "INSERT INTO swapped VALUES (3, 30, 40)",
        ] {
            database.run(sql);
        }
        let (raws, _) = read_to_end(&mut database.reader(&start)).unwrap();
        database.run("SET GLOBAL binlog_row_metadata = FULL");
        let mut decoder = tidegate::codec::binlog::BinlogDecoder::new(false);
        let decoded: Vec<Result<String, String>> = raws
            .raws()
            .map(|raw| {
                let mut changes = tidegate::change::Changes::default();
                match tidegate::source::Decoder::decode(&mut decoder, &raw, &mut changes) {
                    Ok(()) => Ok(String::from_utf8(changes.change(changes.len() - 1).row().to_vec()).unwrap()),
                    Err(SourceError::Record { reason, .. }) => Err(reason),
                    Err(error) => panic!("{error}"),
                }
            })
            .collect();
        let refused = decoded[0].as_ref().unwrap_err();
        let named = format!("{}.swapped was altered at binlog ", database.name);
        assert!(refused.contains(&named) && refused.contains("binlog_row_metadata=FULL"), "{server}: {refused}");
        let expected = [r#"{"id":2,"a":10,"b":20}"#, r#"{"id":3,"b":30,"a":40}"#].map(|row| Ok(row.to_string()));
        assert_eq!(decoded[1..], expected, "{server}");
    }
}

#[test]
fn a_time_in_the_future_is_not_believed() {
    for server in SERVERS {
        let mut database = with_tables(server, "future");
        let start = database.end();
        database.run("SET timestamp = UNIX_TIMESTAMP() + 864000");
        database.run("INSERT INTO t VALUES (1, 'in ten days')");
        database.run("SET timestamp = DEFAULT");
        database.run("INSERT INTO t VALUES (2, 'now')");
        let seen = without_schemas(database.changes(&start));
        let bound = now_ms() + tidegate::source::AHEAD_MAX_MS;
        assert_eq!(seen.len(), 2, "{server}");
        assert!(seen[0].time <= seen[1].time && seen[1].time <= bound, "{server}: {seen:?}, {bound}");
    }
}

#[test]
fn a_sequence_is_no_table() {
    let mut database = with_tables("MARIADB_URL", "sequence");
    for metadata in ["MINIMAL", "FULL"] {
        let start = database.end();
        database.run(&format!("SET GLOBAL binlog_row_metadata = {metadata}"));
        database.run("CREATE SEQUENCE s");
        database.run("INSERT INTO t SELECT NEXTVAL(s), 'by the sequence'");
        let seen = without_schemas(database.changes(&start));
        database.run("DROP SEQUENCE s");
        database.run("DELETE FROM t");
        let tables: Vec<&str> = seen.iter().map(|seen| seen.table.as_str()).collect();
        assert_eq!(tables, ["t"], "{metadata}");
    }
}
