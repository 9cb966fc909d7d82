//! The binlog reader on real servers: transactions, places to go on from, broken connections, and what it refuses.

#[allow(dead_code, reason = "each test program uses its part of it")]
mod binlog;

use std::time::{Duration, Instant};

use binlog::{Database, SERVERS, Seen, connect, decode, read_to_end, rows, url};
use mysql::prelude::Queryable;
use tidegate::change::{BATCH_BYTES, Op};
use tidegate::source::mysql::MysqlReader;
use tidegate::source::{Raws, Reader, Resume, SourceError, Start, now_ms};

fn without_schemas(seen: Vec<Seen>) -> Vec<Seen> {
    seen.into_iter().filter(|seen| seen.op != Op::Schema).collect()
}

/// Transactions of some rows each, on two tables, of which one is not wanted.
fn write_transactions(database: &mut Database, count: usize) {
    write_transactions_from(database, 0, count);
}

/// The same, with ids from `first * 10` on.
fn write_transactions_from(database: &mut Database, first: usize, count: usize) {
    for number in first..first + count {
        database.run("START TRANSACTION");
        for row in 0..1 + number % 4 {
            database.run(&format!("INSERT INTO t VALUES ({}, 'row {row} of {number}')", number * 10 + row));
            database.run("INSERT INTO other.unwanted VALUES (1)");
        }
        database.run(&format!("UPDATE t SET v = 'again' WHERE id = {}", number * 10));
        database.run("COMMIT");
    }
}

fn with_tables(server: &'static str, name: &str) -> Database {
    let mut database = Database::new(server, name);
    database.run("CREATE TABLE t (id int primary key, v varchar(100))");
    database.run("CREATE DATABASE IF NOT EXISTS other");
    database.run("CREATE TABLE IF NOT EXISTS other.unwanted (a int)");
    database
}

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
        let (raws, marks) = read_to_end(&mut database.reader(&start)).unwrap();
        let all = without_schemas(decode(&raws).unwrap());
        let small: usize = (0..50).map(|number| 2 + number % 4).sum();
        assert_eq!(all.len(), 2 * small + 80_000, "{server}");
        assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].time <= pair[1].time));
        let large: Vec<u64> = all[small..small + 80_000].iter().map(|seen| seen.time).collect();
        assert!(large.iter().all(|time| *time == large[0]), "{server}: one transaction, one time");
        assert!(all[0].time + 1_000 >= begun && all[0].time <= now_ms(), "{server}: {}", all[0].time);
        assert!(marks.len() > 4, "{server}: {} reads took all", marks.len());
        assert!(marks.iter().any(|mark| mark.resume.seq < mark.seq), "{server}: no read ended inside of a transaction");

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
        let (mut seen, mut time): (Vec<Seen>, u64) = (Vec::new(), 0);
        while seen.len() < rows {
            assert!(Instant::now() < deadline, "{} of {rows} rows have come", seen.len());
            let mut raws = Raws::default();
            let mark = reader.read(&mut raws).unwrap_or_else(|error| panic!("{error}"));
            assert!(raws.heads().iter().all(|head| head.time >= time && head.seq < mark.seq), "a promise was broken");
            time = mark.time;
            if !raws.is_empty() {
                raws.iter().for_each(|(head, payload)| all.push(*head, payload));
                seen = without_schemas(decode(&all).unwrap());
            }
        }
        seen
    })
}

#[test]
fn a_broken_connection_loses_and_doubles_nothing() {
    for server in SERVERS {
        let mut database = with_tables(server, "broken");
        let start = database.end();
        let reader = MysqlReader::open(&database.config(&start), &database.name, &Start::Configured, false).unwrap();
        let rows = 8 * (0..50).map(|number| 2 + number % 4).sum::<usize>();
        let following = follow(reader, rows);
        let mut killer = connect(&url(server));
        for round in 0..8 {
            write_transactions_from(&mut database, round * 500, 50);
            let dumps: Vec<u64> = killer
                .query("SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
                .unwrap();
            for dump in dumps {
                let _ = killer.query_drop(format!("KILL {dump}")); // it may be gone by itself
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
fn what_can_not_be_replicated_is_refused_with_its_place() {
    for server in SERVERS {
        let mut database = Database::new(server, "refused");
        database.run("CREATE TABLE t (id int primary key, v varchar(9), w int)");
        database.run("INSERT INTO t VALUES (1, 'a', 1)");
        let refused = |database: &mut Database, statements: &[&str], words: &[&str]| {
            let start = database.end();
            statements.iter().for_each(|sql| database.run(sql));
            let error = database.error(&start);
            let (file, _) = start.rsplit_once(':').unwrap();
            for word in words.iter().chain(&[file]) {
                assert!(error.contains(word), "{server}: {error}");
            }
        };
        refused(
            &mut database,
            &["SET SESSION binlog_row_image = MINIMAL", "UPDATE t SET v = 'b'", "SET SESSION binlog_row_image = FULL"],
            &[".t", "binlog_row_image=FULL"],
        );
        refused(
            &mut database,
            &["SET SESSION binlog_format = STATEMENT", "UPDATE t SET v = 'c'", "SET SESSION binlog_format = ROW"],
            &["binlog_format=ROW"],
        );
        database.run("CREATE FUNCTION f(x int) RETURNS int DETERMINISTIC MODIFIES SQL DATA BEGIN INSERT INTO t VALUES (x, 'f', 1); RETURN x; END");
        for (text, logged) in [
            ("DO f(71)", "f`(71)"),
            ("CREATE TABLE filled (id int primary key) SELECT id FROM t", "CREATE TABLE filled"),
        ] {
            let statements = ["SET SESSION binlog_format = STATEMENT", text, "SET SESSION binlog_format = ROW"];
            refused(&mut database, &statements, &["binlog_format=ROW", logged]);
        }
        refused(&mut database, &["TRUNCATE TABLE t"], &["TRUNCATE TABLE", ".t", "dead_letter"]);
        if database.is_mariadb() {
            let truncate = "SET STATEMENT max_statement_time=10 FOR TRUNCATE TABLE t";
            refused(&mut database, &[truncate], &["TRUNCATE TABLE", ".t", "dead_letter"]);
        }
        // In latin1 the two bytes of ä are two letters.
        database.run("CREATE TABLE `tÃ¤` (id int primary key)");
        let start = database.end();
        database.run("SET NAMES latin1");
        database.run("TRUNCATE TABLE `tä`");
        database.run("SET NAMES utf8mb4");
        let mut config = database.config(&start);
        config.tables = vec![format!("{}.tÃ¤", database.name)];
        let mut reader = MysqlReader::open(&config, "latin1", &Start::Configured, true).unwrap();
        let error = decode(&read_to_end(&mut reader).unwrap().0).unwrap_err().to_string();
        assert!(error.contains("TRUNCATE TABLE") && error.contains(".tÃ¤"), "{server}: {error}");
        // Of the two tables of such a statement, one alone may be wanted.
        database.run("CREATE TABLE u (id int primary key)");
        database
            .run("CREATE TABLE parts (id int primary key) PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (9))");
        database.run("INSERT INTO u VALUES (1)");
        let start = database.end();
        database.run("ALTER TABLE parts EXCHANGE PARTITION p WITH TABLE u");
        for (wanted, refused) in [("u", true), ("parts", true), ("t", false)] {
            let mut config = database.config(&start);
            config.tables = vec![format!("{}.{wanted}", database.name)];
            let mut reader = MysqlReader::open(&config, "exchange", &Start::Configured, true).unwrap();
            let decoded = decode(&read_to_end(&mut reader).unwrap().0);
            assert_eq!(decoded.is_err(), refused, "{server}: {decoded:?}");
            if let Err(error) = decoded {
                let named = format!("EXCHANGE PARTITION takes rows of {}.{wanted} away, or brings some", database.name);
                assert!(error.to_string().contains(&named), "{server}: {error}");
            }
        }
        refused(
            &mut database,
            &["XA START 'x'", "INSERT INTO t VALUES (3, 'x', 1)", "XA END 'x'", "XA PREPARE 'x'", "XA ROLLBACK 'x'"],
            &["XA"],
        );
        if !database.is_mariadb() {
            database.run("CREATE TABLE d (id int primary key, j json)");
            database.run("INSERT INTO d VALUES (1, json_object('a', repeat('x', 500), 'b', 1))");
            refused(
                &mut database,
                &[
                    "SET SESSION binlog_row_value_options = PARTIAL_JSON",
                    "UPDATE d SET j = json_set(j, '$.b', 2)",
                    "SET SESSION binlog_row_value_options = ''",
                ],
                &["binlog_row_value_options"],
            );
        } else {
            database.run("SET GLOBAL log_bin_compress_min_len = 10");
            let start = database.end();
            database.run("SET GLOBAL log_bin_compress = ON");
            database.run("INSERT INTO t VALUES (77, 'compressed', 1)".replace("compressed", "zzzzzzzzz").as_str());
            let open = MysqlReader::open(&database.config(&start), "job", &Start::Configured, true);
            let error = open.err().map(|error| error.to_string()).unwrap_or_default();
            database.run("SET GLOBAL log_bin_compress = OFF");
            assert!(error.contains("log_bin_compress is ON"), "{error}");
            assert!(database.error(&start).contains("log_bin_compress=OFF"));
        }
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
fn a_row_does_not_get_the_names_that_its_columns_have_later() {
    for server in SERVERS {
        let mut database = Database::new(server, "names");
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
            "ALTER TABLE swapped CHANGE a b int, CHANGE b a int",
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
fn a_system_versioned_table_is_refused_by_name() {
    let mut database = with_tables("MARIADB_URL", "versioned");
    let config = |database: &Database, start: &str, without: &[&str]| {
        let mut config = database.config(start);
        config.tables.extend(without.iter().map(|table| format!("!{}.{table}", database.name)));
        config
    };
    let start = database.end();
    database.run("CREATE TABLE pairs (a bigint NOT NULL, b bigint NOT NULL, PRIMARY KEY (a, b))");
    database.run("INSERT INTO pairs VALUES (1, 2)");
    database
        .run("CREATE TABLE ends (id int PRIMARY KEY, row_start timestamp(6) NOT NULL, row_end timestamp(6) NOT NULL)");
    database.run("INSERT INTO ends VALUES (1, '2026-01-01', '2026-01-02')");
    assert_eq!(without_schemas(database.changes(&start)).len(), 2, "tables that only look like it");

    database.run("CREATE TABLE h (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING");
    database.run(
        "CREATE TABLE e (id int PRIMARY KEY, v int, s timestamp(6) GENERATED ALWAYS AS ROW START, \
         f timestamp(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, f)) WITH SYSTEM VERSIONING",
    );
    let start = database.end();
    // At once, whether something of it is to come or not.
    for (table, without) in [("h", &["e"][..]), ("e", &["h"])] {
        let opened = MysqlReader::open(&config(&database, &start, without), "v", &Start::Configured, true);
        let error = opened.err().expect("it should be refused").to_string();
        let named = format!("table {0}.{table} is system-versioned", database.name);
        assert!(error.contains(&named) && error.contains(&format!("\"!{}.{table}\"", database.name)), "{error}");
    }
    let mut reader = MysqlReader::open(&config(&database, &start, &["h", "e"]), "v", &Start::Configured, true).unwrap();
    assert!(read_to_end(&mut reader).unwrap().0.is_empty());
    // Where its rows lie in the binlog, though it is one no more, or is gone.
    database.run("INSERT INTO h VALUES (1, 1)");
    database.run("UPDATE h SET v = 2");
    for last in ["ALTER TABLE h DROP SYSTEM VERSIONING", "DROP TABLE h"] {
        database.run(last);
        let mut reader = MysqlReader::open(&config(&database, &start, &["e"]), "v", &Start::Configured, true).unwrap();
        let error = read_to_end(&mut reader).expect_err("it should be refused").to_string();
        let named = format!("table {}.h is system-versioned", database.name);
        assert!(error.contains(&named) && error.starts_with("binlog "), "{last}: {error}");
    }
    // While it runs.
    let mut reader = MysqlReader::open(&config(&database, "latest", &["e"]), "v", &Start::Configured, false).unwrap();
    database.run("CREATE TABLE h (id int PRIMARY KEY, v int)");
    database.run("ALTER TABLE h ADD SYSTEM VERSIONING");
    database.run("INSERT INTO h VALUES (1, 1)");
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = loop {
        assert!(Instant::now() < deadline, "it is not refused");
        if let Err(error) = reader.read(&mut Raws::default()) {
            break error.to_string();
        }
    };
    assert!(error.contains(".h is system-versioned"), "{error}");
}

#[test]
fn what_can_not_be_opened_is_refused_with_what_to_do() {
    for server in SERVERS {
        let mut database = Database::new(server, "closed");
        let open = |config: &tidegate::config::MysqlConfig| {
            let opened = MysqlReader::open(config, "closed", &Start::Configured, true);
            opened.err().expect("it should be refused").to_string()
        };
        let mut config = database.config("latest");
        let (host, user) = (config.url.clone(), format!("weak_{}", std::process::id()));
        let said = |error: &str, words: &[&str]| {
            for word in words {
                assert!(error.contains(word), "{server}: {error}");
            }
        };

        config.url = host.replace("r:r@", "r:wrong@");
        said(&open(&config), &["refuses user 'r'", "password"]);
        config.url = host.replace("r:r@", "nobody_at_all:x@");
        said(&open(&config), &["refuses user 'nobody_at_all'"]);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        config.url = format!("mysql://r:r@{}/", silent.local_addr().unwrap());
        said(&open(&config), &["does not answer as a MySQL server does"]);
        config.url = host.clone();
        config.start = "lastest".into();
        said(&open(&config), &["'lastest' is no place"]);
        let end = database.end();
        database.run("CREATE TABLE later (id int PRIMARY KEY)");
        let (file, offset) = end.rsplit_once(':').unwrap();
        config.start = format!("{file}:{}", offset.parse::<u64>().unwrap() + 3);
        said(&open(&config), &["[source] start", "no event begins there"]);
        config.start = "latest".into();
        config.url = "mysql://r:r@127.0.0.1:1/".into();
        said(&open(&config), &["127.0.0.1:1", "connecting"]);
        config.url = "127.0.0.1".into();
        said(&open(&config), &["mysql://user:password@host:3306/"]);

        database.run(&format!("CREATE USER {user} IDENTIFIED BY 'p'"));
        config.url = host.replace("r:r@", &format!("{user}:p@"));
        said(&open(&config), &[&user, "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT"]);
        database.run(&format!("GRANT REPLICATION CLIENT ON *.* TO {user}"));
        said(&open(&config), &[&user, "GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT"]);
        database.run(&format!("DROP USER {user}"));

        config.url = host;
        config.start = "binlog.999999:4".into();
        said(&open(&config), &["has no binlog.999999:4 any more", "its oldest file is"]);
        config.start = format!("{}9999999", database.end());
        said(&open(&config), &["that file ends at"]);
        config.start = "yesterday".into();
        said(&open(&config), &["'yesterday' is no place in a binlog"]);

        database.run("SET GLOBAL binlog_row_image = MINIMAL");
        config.start = "latest".into();
        let error = open(&config);
        database.run("SET GLOBAL binlog_row_image = FULL");
        said(&error, &["binlog_row_image is MINIMAL and has to be FULL"]);
    }
}

#[test]
fn a_place_in_another_binlog_is_refused() {
    for server in SERVERS {
        let mut database = with_tables(server, "identity");
        let start = database.end();
        write_transactions(&mut database, 1);
        let (_, marks) = read_to_end(&mut database.reader(&start)).unwrap();
        let Resume { position, seq } = marks.last().unwrap().resume.clone();
        let (place, origin) = position.split_once(" at ").unwrap();
        let (identity, begun) = origin.split_once(" begun ").unwrap();
        assert!(!identity.is_empty(), "{server}");
        let open = |position: String| {
            let start = Start::Resume { resume: Resume { position, seq }, clock: tidegate::source::Clock::from(0) };
            let mut reader = MysqlReader::open(&database.config("latest"), "identity", &start, true)?;
            read_to_end(&mut reader).map(|(_, marks)| marks.last().unwrap().resume.clone())
        };
        assert_eq!(open(position.clone()).unwrap().position, position, "{server}");
        for unknown in [place.to_string(), format!("{place} at {identity}")] {
            assert_eq!(open(unknown).unwrap().position, position, "{server}: what is not known is learned");
        }
        let other = begun.parse::<u32>().unwrap() - 1;
        let said = open(format!("{place} at {identity} begun {other}")).unwrap_err().to_string();
        for word in
            [place, &format!("was begun at {begun}"), &other.to_string(), "RESET BINARY LOGS", "copy the tables anew"]
        {
            assert!(said.contains(word), "{server}: '{word}' is not in: {said}");
        }
        let said = open(format!("{place} at another")).unwrap_err().to_string();
        for word in ["is another server", &format!("({identity})"), "(another)", "[source] start", "copied anew"] {
            assert!(said.contains(word), "{server}: '{word}' is not in: {said}");
        }
    }
}

#[test]
fn a_second_copy_stops_the_first() {
    for server in SERVERS {
        let database = Database::new(server, "twice");
        let open = || MysqlReader::open(&database.config("latest"), &database.name, &Start::Configured, false).unwrap();
        let mut first = open();
        first.read(&mut Raws::default()).unwrap();
        let mut second = open();
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = loop {
            assert!(Instant::now() < deadline, "{server}: both read");
            second.read(&mut Raws::default()).unwrap();
            if let Err(error) = first.read(&mut Raws::default()) {
                break error.to_string();
            }
        };
        assert!(error.contains("is the job running twice?"), "{server}: {error}");
        second.read(&mut Raws::default()).unwrap();
    }
}

#[test]
fn rows_that_were_logged_and_rolled_back_are_refused() {
    // MySQL logs nothing of what is rolled back.
    let begun = ["BEGIN", "INSERT INTO t VALUES (1)", "CREATE TEMPORARY TABLE x (a int PRIMARY KEY)", "SAVEPOINT s"];
    for rollback in [&["ROLLBACK"][..], &["ROLLBACK TO s", "COMMIT"]] {
        let mut database = Database::new("MARIADB_URL", "rolled");
        database.run("CREATE TABLE t (id int PRIMARY KEY)");
        let start = database.end();
        begun.iter().for_each(|sql| database.run(sql));
        database.run("INSERT INTO t VALUES (2)");
        rollback.iter().for_each(|sql| database.run(sql));
        let error = database.error(&start);
        database.run("DROP TEMPORARY TABLE x");
        database.run(&format!("DROP DATABASE {}", database.name.clone()));
        assert!(error.contains("rows are rolled back that were logged"), "{rollback:?}: {error}");
    }
}
