//! What becomes of tables that change while they are published and landed.

use crate::job::source::Source;

#[test]
fn rows_from_before_a_column_was_dropped_are_landed_without_it() {
    for server in ["MYSQL_URL", "MARIADB_URL"] {
        let mut source = Source::new(server, "alter");
        source.run(&["CREATE TABLE a (id int PRIMARY KEY, s varchar(9), v int)"]);
        let mut job = source.job(&[".*"]);
        source.run(&[
            "INSERT INTO a VALUES (1, 'x', 1), (2, 'y', 2)",
            "ALTER TABLE a DROP COLUMN s",
            "INSERT INTO a VALUES (3, 3)",
            "UPDATE a SET v = 20 WHERE id = 2",
        ]);
        let output = job.try_run("publish");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        // What a server does to rows while it alters a table is not logged: that is said.
        assert!(said.contains("is not in the binlog, run verify: ALTER TABLE a DROP COLUMN s"), "{said}");
        // Only now: the table is made as it looks in the end.
        job.run("land");
        assert_eq!(job.count("a", "(id, v) IN ((1, 1), (2, 20), (3, 3))"), 3, "{server}");
        job.run("verify");
    }
}

#[test]
fn a_database_that_is_dropped_is_warned_of() {
    for server in ["MYSQL_URL", "MARIADB_URL"] {
        let mut source = Source::new(server, "dropped");
        let gone = format!("{}_gone", source.name);
        source.run(&[&format!("CREATE DATABASE {gone}"), "CREATE TABLE t (id int PRIMARY KEY)"]);
        let job = source.job(&["*.*"]);
        source.run(&[&format!("DROP DATABASE {gone}"), "INSERT INTO t VALUES (1)"]);
        let output = job.try_run("publish");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let warning =
            format!("what becomes of the rows of {gone}.* is not in the binlog, run verify: DROP DATABASE {gone}");
        assert!(output.status.success() && said.contains(&warning), "{server}: {said}");
    }
}

#[test]
fn rows_that_foreign_keys_change_without_a_word_in_the_binlog_are_warned_of() {
    for (server, has_warning) in [("MYSQL_URL", false), ("MARIADB_URL", true)] {
        let mut source = Source::new(server, "cascades");
        source.run(&[
            "CREATE TABLE a (id int PRIMARY KEY)",
            "CREATE TABLE has_key (id int NOT NULL UNIQUE, x int UNIQUE)",
            "CREATE TABLE keyless (id int NOT NULL, x int UNIQUE, UNIQUE (id, x))",
        ]);
        for (table, rule) in
            [("b", "ON DELETE CASCADE"), ("c", "ON UPDATE SET NULL"), ("d", ""), ("unwanted", "ON DELETE CASCADE")]
        {
            source.run(&[&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, a int, CONSTRAINT of_{table} FOREIGN KEY (a) REFERENCES a (id) {rule})"
            )]);
        }
        let name = source.name.clone();
        let mut job = source.job(&[".*", "!.unwanted"]);
        source.run(&[
            "INSERT INTO a VALUES (1), (2)",
            "INSERT INTO b VALUES (10, 1), (20, 2)",
            "DELETE FROM a WHERE id = 1",
        ]);
        let output = job.try_run("publish");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{server}: {said}");
        let warning = said.lines().find(|line| line.contains("foreign keys"));
        assert_eq!(warning.is_some(), has_warning, "{server}: {said}");
        assert!(said.contains(&format!("or give them a key: {name}.keyless")), "{server}: {said}");
        let keys = format!("{name}.b (of_b), {name}.c (of_c)");
        assert!(warning.is_none_or(|warning| warning.ends_with(&keys)), "{server}: {said}");
        // That the warning is true, on both.
        job.run("land");
        assert_eq!(job.count("b", "true"), if has_warning { 2 } else { 1 }, "{server}");
    }
}

#[test]
fn a_key_that_becomes_another_stops_publish_by_name() {
    for alter in [
        "ALTER TABLE a DROP PRIMARY KEY, ADD PRIMARY KEY (y, x)",
        "ALTER TABLE a DROP PRIMARY KEY, ADD PRIMARY KEY (y)",
        "ALTER TABLE a MODIFY x decimal(9,3)",
    ] {
        let mut source = Source::new("MYSQL_URL", "moved");
        source.run(&["CREATE TABLE a (x decimal(9,2), y int, PRIMARY KEY (x, y))"]);
        let mut job = source.job(&[".*"]);
        source.run(&["INSERT INTO a VALUES (1, 2)", alter, "INSERT INTO a VALUES (2, 1)"]);
        for _ in 0..2 {
            let output = job.try_run("publish");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{said}");
            let last = said.trim_end().lines().last().unwrap();
            assert!(last.contains(&format!("the key of table {}.a was (x, y)", source.name)), "{said}");
        }
        job.run("land");
        assert!(job.count("a", "true") <= 1, "what comes behind it is not landed as if it were the same key");
    }
}

#[test]
fn patterns_of_tables_may_take_tables_out_and_have_to_match_one() {
    let mut source = Source::new("MYSQL_URL", "patterns");
    source.run(&["CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE log (id int)"]);
    let name = source.name.clone();
    let mut job = source.job(&[".*", "!.log"]);
    source.run(&["INSERT INTO a VALUES (1)", "SET SESSION binlog_format = STATEMENT"]);
    source.run(&["INSERT INTO log VALUES (1)"; 5]);
    let said = String::from_utf8_lossy(&job.try_run("publish").stderr).into_owned();
    assert_eq!(said.matches(&format!("a statement about {name}.log, which is not wanted,")).count(), 1, "{said}");
    job.run("land");
    assert_eq!((job.count("a", "true"), job.count("log", "true")), (1, 0));
    job.run("verify");
    let wrong = source.job(&[".a", "x.*"]);
    wrong.refused("publish", &["[source] tables: the source has no table that matches", &format!("{name}x.*")]);
}
