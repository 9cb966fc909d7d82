//! What the binlog reader refuses on real servers, and what it says then.

use std::time::{Duration, Instant};

use crate::binlog::{Database, SERVERS, decode, read_to_end, with_tables, without_schemas, write_transactions};
use mysql::prelude::Queryable;
use tidegate::source::mysql::MysqlReader;
use tidegate::source::{Raws, Reader, Resume, Start};

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
        config.url = host.clone();
        let end = database.end();
        database.run("CREATE TABLE later (id int PRIMARY KEY)");
        let (file, offset) = end.rsplit_once(':').unwrap();
        config.start = format!("{file}:{}", offset.parse::<u64>().unwrap() + 3).parse().unwrap();
        said(&open(&config), &["[source] start", "no event begins there"]);
        config.start = "latest".parse().unwrap();
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
        config.start = "binlog.999999:4".parse().unwrap();
        said(&open(&config), &["[source] start = 'binlog.999999:4'", "has no such file", "its oldest file is"]);
        config.start = format!("{}9999999", database.end()).parse().unwrap();
        said(&open(&config), &["[source] start", "ends at"]);
        database.run("CREATE TABLE inside (id int PRIMARY KEY)");
        database.run("BEGIN");
        for sql in ["INSERT INTO inside VALUES (1)", "SAVEPOINT a", "INSERT INTO inside VALUES (2)", "COMMIT"] {
            database.run(sql);
        }
        let end: u64 = database.end().rsplit_once(':').unwrap().1.parse().unwrap();
        let offset = offset.parse::<u64>().unwrap();
        let question = format!("SHOW BINLOG EVENTS IN '{file}' FROM {offset}");
        let events: Vec<mysql::Row> = database.conn.query(question).unwrap();
        let (mut begins, mut inside) = (0, 0);
        for event in &events {
            let (at, kind): (u64, String) = (event.get(1).unwrap(), event.get(2).unwrap());
            config.start = format!("{file}:{at}").parse().unwrap();
            match at < end && MysqlReader::open(&config, "closed", &Start::Configured, true).is_ok() {
                true => {
                    assert_ne!(kind, "Query", "{server}: {at}");
                    begins += 1;
                }
                false => {
                    said(&open(&config), &["[source] start", &format!("inside of a transaction, or may be ({kind})")]);
                    inside += 1;
                }
            }
        }
        assert!(begins > 2 && inside > 2, "{server}: {begins} {inside}");
        for odd in [5, 13, 150, offset - 1] {
            config.start = format!("{file}:{odd}").parse().unwrap();
            said(&open(&config), &["[source] start", "no event begins there"]);
        }
        database.run("SET GLOBAL binlog_row_image = MINIMAL");
        config.start = "latest".parse().unwrap();
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

#[test]
fn transactions_of_another_gtid_mode_are_refused_with_what_to_set() {
    let mut database = with_tables("MYSQL_URL", "gtids");
    let modes = |database: &mut Database, modes: &[&str]| {
        modes.iter().for_each(|mode| database.run(&format!("SET GLOBAL gtid_mode = {mode}")));
    };
    let start = database.end();
    modes(&mut database, &["ON_PERMISSIVE", "OFF_PERMISSIVE"]);
    database.run("INSERT INTO t VALUES (1, 'without a GTID')");
    let permitted = database.changes(&start);
    modes(&mut database, &["ON_PERMISSIVE", "ON"]);
    assert_eq!(without_schemas(permitted).len(), 1);
    let error = database.error(&start);
    for word in ["was logged under another gtid_mode", "GTID_MODE = ON", "set gtid_mode to ON_PERMISSIVE"] {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}
