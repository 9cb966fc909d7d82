//! `tidegate verify` on real servers: rows of every type on MySQL and MariaDB against PostgreSQL and SQLite, damage that is
//! planted and must be found, and nothing else, and what it says when it can't compare.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::place::types::{BOTH, MARIADB, MYSQL, Sample};
use crate::place::{Kind, Place, Verified, env};
use mysql::prelude::Queryable;
use tidegate::change::ColumnType;

/// The target's type for a column of the source.
fn type_at(kind: Kind, ty: &str, in_key: bool) -> String {
    let text = if ty == "boolean" { "tinyint" } else { ty };
    let ty: ColumnType = text.parse().unwrap();
    match kind {
        Kind::Postgres => ty.postgres(in_key),
        Kind::Sqlite => ty.sqlite(in_key).into(),
    }
}

/// A literal of the target.
fn literal(kind: Kind, value: &str) -> String {
    match (kind, value.strip_prefix("\\x")) {
        (Kind::Sqlite, Some(hex)) => format!("X'{hex}'"),
        _ => format!("'{}'", value.replace('\'', "''")),
    }
}

/// A table with a column of each type, rows 1 to the number of types with the samples in every column, and row 0 without
/// any value.
fn every_type(server: &str, kind: Kind, own: &'static [Sample]) {
    let mut place = Place::new(server, kind);
    // MariaDB's JSON is a text.
    let type_of = |sample: &Sample| match (server, sample.ty) {
        ("MARIADB_URL", "json") => "longtext",
        (_, ty) => ty,
    };
    let samples: Vec<&Sample> = BOTH.iter().chain(own).collect();
    let columns = |column: &dyn Fn(&Sample) -> String| {
        let columns = samples.iter().enumerate().map(|(n, sample)| format!("c{n} {}", column(sample)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let create = |columns: String| format!("CREATE TABLE types (id int NOT NULL PRIMARY KEY, {columns})");
    place.at_source(&create(columns(&|sample| sample.ty.to_string())));
    place.at_target(&create(columns(&|sample| type_at(kind, type_of(sample), false))));
    let values = |value: &dyn Fn(&Sample) -> String| samples.iter().map(|s| value(s)).collect::<Vec<_>>().join(", ");
    let at_source = values(&|sample| sample.source.to_string());
    let at_target = values(&|sample| literal(kind, sample.target));
    for id in 1..=samples.len() {
        place.at_source(&format!("INSERT INTO types VALUES ({id}, {at_source})"));
        place.at_target(&format!("INSERT INTO types VALUES ({id}, {at_target})"));
    }
    place.at_source("INSERT INTO types (id) VALUES (0)");
    place.at_target("INSERT INTO types (id) VALUES (0)");
    place.is_identical(samples.len() as u64 + 1);

    // One column of each row, each another one.
    let mut near_misses = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        place.at_target(&format!("UPDATE types SET c{n} = {} WHERE id = {}", literal(kind, sample.near), n + 1));
        if kind == Kind::Postgres && crate::hologres::on_hologres() && sample.ty == "timestamp(6) null" {
            continue; // less than it keeps
        }
        near_misses.push(["types", "changed", &format!("id={}", n + 1), &format!("c{n}")].map(String::from));
    }
    place.finds_and_mends(&refer(&near_misses));

    // A value where there is none, and none where there is a value, the empty ones above all.
    let empty = samples.iter().position(|sample| sample.ty == "tinytext").unwrap();
    place.at_target(&format!("UPDATE types SET c{empty} = '' WHERE id = 0"));
    let mut nulls = vec![["types", "changed", "id=0", &format!("c{empty}")].map(String::from)];
    for n in 0..samples.len() {
        place.at_target(&format!("UPDATE types SET c{n} = NULL WHERE id = {}", n + 1));
        nulls.push(["types", "changed", &format!("id={}", n + 1), &format!("c{n}")].map(String::from));
    }
    place.finds_and_mends(&refer(&nulls));
}

fn refer(wanted: &[[String; 4]]) -> Vec<(&str, &str, &str, &str)> {
    wanted.iter().map(|[table, kind, key, columns]| (&table[..], &kind[..], &key[..], &columns[..])).collect()
}

#[test]
fn every_type_of_mysql_is_compared_in_postgres() {
    every_type("MYSQL_URL", Kind::Postgres, MYSQL);
}

#[test]
fn every_type_of_mysql_is_compared_in_sqlite() {
    every_type("MYSQL_URL", Kind::Sqlite, MYSQL);
}

#[test]
fn every_type_of_mariadb_is_compared_in_postgres() {
    every_type("MARIADB_URL", Kind::Postgres, MARIADB);
}

#[test]
fn every_type_of_mariadb_is_compared_in_sqlite() {
    every_type("MARIADB_URL", Kind::Sqlite, MARIADB);
}

#[test]
fn what_has_no_letter_is_not_taken_for_a_question_mark() {
    // Each a text with question marks, and the bytes of one that the server shows as the same text.
    let columns = [("sjis", "x'3f8540'"), ("utf16", ""), ("ucs2", ""), ("ascii", ""), ("gbk", "x'a2a0'"), ("ujis", "")];
    for mut place in pairs() {
        let of = |ty: &dyn Fn(&str) -> String| {
            let columns: Vec<String> = columns.iter().map(|(name, _)| format!("c_{name} {}", ty(name))).collect();
            format!("CREATE TABLE odd (id int NOT NULL PRIMARY KEY, {})", columns.join(", "))
        };
        place.at_source(&of(&|charset| format!("varchar(9) CHARACTER SET {charset}")));
        place.at_target(&of(&|_| "text".into()));
        let rows = "INSERT INTO odd VALUES (1, '?a?', '㼿?', '?', '?', '?', '?'), (2, '', '', '', '', '', NULL)";
        place.at_source(rows);
        place.at_target(rows);
        place.is_identical(2);
        for (n, (name, bytes)) in columns.iter().enumerate().filter(|(_, (_, bytes))| !bytes.is_empty()) {
            place.at_source(&format!("INSERT INTO odd (id, c_{name}) VALUES ({}, _{name} {bytes})", n + 10));
            let shown: String =
                place.source.query_first(format!("SELECT c_{name} FROM odd WHERE id = {}", n + 10)).unwrap().unwrap();
            assert!(shown.chars().all(|letter| letter == '?'), "{shown}");
            place.at_target(&format!("INSERT INTO odd (id, c_{name}) VALUES ({}, '{shown}')", n + 10));
        }
        let repair = place.file("repair.sql");
        let verified = place.verify(&["--json", "--repair", repair.to_str().unwrap()]);
        let wanted = [["changed", "id=10", "c_sjis"], ["changed", "id=14", "c_gbk"]];
        let table = format!("{}.odd", place.name);
        let wanted = wanted.map(|[kind, key, column]| [&table[..], kind, key, column].map(String::from));
        assert_eq!((verified.code, verified.found()), (1, wanted.into()), "{}", verified.out);
        assert!(verified.out.contains("\\\\x3f8540"), "{}", verified.out);
        let repair = std::fs::read_to_string(repair).unwrap();
        assert_eq!(repair.matches("is no text in its character set").count(), 2, "{repair}");
    }
}

/// Statements that insert rows, many at a time.
fn inserts(table: &str, rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.collect();
    let insert = |rows: &[String]| format!("INSERT INTO {table} VALUES {};\n", rows.join(", "));
    rows.chunks(1000).map(insert).collect()
}

const SERVERS: [&str; 2] = ["MYSQL_URL", "MARIADB_URL"];
const TARGETS: [Kind; 2] = [Kind::Postgres, Kind::Sqlite];

/// Each server with each target.
fn pairs() -> impl Iterator<Item = Place> {
    SERVERS.into_iter().flat_map(|server| TARGETS.into_iter().map(move |kind| Place::new(server, kind)))
}

#[test]
fn damage_between_and_beyond_the_keys_of_the_source_is_found() {
    for mut place in pairs() {
        let ids = || (0..20_000).map(|n| n * 3 - 30_000);
        let rows = inserts("numbers", ids().map(|id| format!("({id}, 'note {id}')")));
        for statement in ["CREATE TABLE numbers (id bigint NOT NULL PRIMARY KEY, note varchar(20))", &rows] {
            place.at_source(statement);
            place.at_target(statement);
        }
        place.is_identical(20_000);
        place.at_target(
            "DELETE FROM numbers WHERE id IN (-30000, 29997, -3, 2100); \
             INSERT INTO numbers VALUES (-9223372036854775808, NULL), (-30001, 'a'), (-1, 'b'), (29998, 'c'), \
             (9223372036854775807, 'd'); \
             UPDATE numbers SET note = 'note -6 ' WHERE id = -6; \
             UPDATE numbers SET note = NULL WHERE id = 0; \
             UPDATE numbers SET note = '' WHERE id = 29994",
        );
        place.finds_and_mends(&[
            ("numbers", "missing", "id=-30000", ""),
            ("numbers", "missing", "id=-3", ""),
            ("numbers", "missing", "id=2100", ""),
            ("numbers", "missing", "id=29997", ""),
            ("numbers", "extra", "id=-9223372036854775808", ""),
            ("numbers", "extra", "id=-30001", ""),
            ("numbers", "extra", "id=-1", ""),
            ("numbers", "extra", "id=29998", ""),
            ("numbers", "extra", "id=9223372036854775807", ""),
            ("numbers", "changed", "id=-6", "note"),
            ("numbers", "changed", "id=0", "note"),
            ("numbers", "changed", "id=29994", "note"),
        ]);
    }
}

#[test]
fn names_that_differ_in_case_alone_are_found_as_land_finds_them() {
    for mut place in pairs() {
        place.at_source(
            "CREATE TABLE cased (OrderId bigint NOT NULL PRIMARY KEY, Note varchar(20));\n\
             INSERT INTO cased VALUES (1, 'a'), (2, 'b')",
        );
        // Of SQLite's tables the names do not count either.
        let table = if matches!(place.kind, Kind::Sqlite) { "Cased" } else { "cased" };
        place.at_target(&format!(
            "CREATE TABLE {table} (orderid bigint NOT NULL PRIMARY KEY, note varchar(20)); \
             INSERT INTO {table} VALUES (1, 'a'), (2, 'b')"
        ));
        place.is_identical(2);
        place.at_target(&format!("UPDATE {table} SET note = 'c' WHERE orderid = 2"));
        place.finds_and_mends(&[("cased", "changed", "OrderId=2", "Note")]);
    }
}

#[test]
fn keys_that_are_text_at_the_target_are_compared_to_the_letter() {
    for mut place in pairs() {
        place.at_source(
            "CREATE TABLE large (id bigint unsigned NOT NULL PRIMARY KEY, n int);\n\
             INSERT INTO large VALUES (0, 1), (9223372036854775807, 2), (9223372036854775808, 3), (18446744073709551615, 4);\n\
             CREATE TABLE codes (code varbinary(20) NOT NULL PRIMARY KEY, n int);\n\
             ALTER TABLE codes MODIFY code varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;\n\
             INSERT INTO codes VALUES ('', 0), ('a', 1), ('B', 2), ('née', 3), ('it''s', 4), ('10', 5), ('9', 6);\n\
             CREATE TABLE prices (price decimal(10,2) NOT NULL PRIMARY KEY, n int);\n\
             INSERT INTO prices VALUES (-1.5, 1), (0, 2), (1.1, 3), (20, 4)",
        );
        let create = |table: &str, key: &str, ty: &str| {
            format!("CREATE TABLE {table} ({key} {} NOT NULL PRIMARY KEY, n int);", type_at(place.kind, ty, true))
        };
        let tables = [
            create("large", "id", "bigint unsigned"),
            create("codes", "code", "varchar(20)"),
            // Text at every target, as it is in a key on Hologres.
            "CREATE TABLE prices (price text NOT NULL PRIMARY KEY, n int);".into(),
        ];
        place.at_target(&format!(
            "{} INSERT INTO large VALUES ('0', 1), ('9223372036854775807', 2), ('9223372036854775808', 3), \
             ('18446744073709551615', 4); \
             INSERT INTO codes VALUES ('', 0), ('a', 1), ('B', 2), ('née', 3), ('it''s', 4), ('10', 5), ('9', 6); \
             INSERT INTO prices VALUES ('-1.50', 1), ('0.00', 2), ('1.10', 3), ('20.00', 4)",
            tables.concat()
        ));
        place.is_identical(15);
        place.at_target(
            "DELETE FROM large WHERE id = '9223372036854775808'; \
             INSERT INTO large VALUES ('18446744073709551614', 3); \
             UPDATE large SET n = 5 WHERE id = '18446744073709551615'; \
             UPDATE codes SET code = 'A' WHERE code = 'a'; \
             UPDATE codes SET code = 'B ' WHERE code = 'B'; \
             UPDATE codes SET n = NULL WHERE code = ''; \
             UPDATE codes SET n = 7 WHERE code = 'it''s'; \
             INSERT INTO codes VALUES ('nee', 3); \
             UPDATE prices SET price = '1.1' WHERE n = 3",
        );
        place.finds_and_mends(&[
            ("large", "missing", "id=9223372036854775808", ""),
            ("large", "extra", "id=18446744073709551614", ""),
            ("large", "changed", "id=18446744073709551615", "n"),
            ("codes", "missing", "code=a", ""),
            ("codes", "extra", "code=A", ""),
            ("codes", "missing", "code=B", ""),
            ("codes", "extra", "code=B ", ""),
            ("codes", "changed", "code=", "n"),
            ("codes", "changed", "code=it's", "n"),
            ("codes", "extra", "code=nee", ""),
            ("prices", "missing", "price=1.10", ""),
            ("prices", "extra", "price=1.1", ""),
        ]);
    }
}

#[test]
fn composite_keys_are_told_apart_by_all_their_columns() {
    for mut place in pairs() {
        place.at_source(
            "CREATE TABLE both_keys (n double, shop int NOT NULL, code varchar(10) NOT NULL, PRIMARY KEY (shop, code));\n\
             CREATE TABLE odd (day date NOT NULL, raw varbinary(4) NOT NULL, kind enum('x','y') NOT NULL, \
             at datetime(3) NOT NULL, n int, UNIQUE (day, raw, kind, at), UNIQUE (n))",
        );
        let ty = |ty: &str| type_at(place.kind, ty, true);
        let odd = format!(
            "CREATE TABLE odd (day {}, raw {}, kind {}, at {}, n int, PRIMARY KEY (day, raw, kind, at))",
            ty("date"),
            ty("varbinary(4)"),
            ty("enum('x','y')"),
            ty("datetime(3)")
        );
        place.at_target(&odd);
        place.at_target("CREATE TABLE both_keys (shop int, code text, n double precision, PRIMARY KEY (shop, code))");
        let keys = || (-5..5).flat_map(|shop| (0..700).map(move |code| (shop, code)));
        place.at_source(&inserts("both_keys (shop, code, n)", keys().map(|(s, c)| format!("({s}, 'c{c}', {c} / 8)"))));
        place.at_target(&inserts("both_keys", keys().map(|(s, c)| format!("({s}, 'c{c}', {c} / 8.0)"))));
        let row =
            |day: u32, raw: &str, n: u32| format!("('2024-02-{day:02}', {raw}, 'x', '2024-02-29 00:00:00.250', {n})");
        let kind = place.kind;
        let raw = |hex: &str| literal(kind, &format!("\\x{hex}"));
        place.at_source(&inserts("odd", (1..=29).map(|n| row(n, "x'00ff'", n))));
        place.at_target(&inserts("odd", (1..=29).map(|n| row(n, &raw("00ff"), n))));
        place.is_identical(7029);
        let raw = raw("00ff00");
        place.at_target(&format!(
            "DELETE FROM both_keys WHERE shop = -5 AND code = 'c699'; \
             DELETE FROM both_keys WHERE shop = 4 AND code = 'c0'; \
             INSERT INTO both_keys VALUES (-6, 'c0', 0), (4, 'C1', 0), (0, '', 0); \
             UPDATE both_keys SET n = 1e-300 WHERE shop = 2 AND code = 'c0'; \
             UPDATE odd SET raw = {raw} WHERE n = 1; \
             UPDATE odd SET n = NULL WHERE n = 29; \
             DELETE FROM odd WHERE n = 12"
        ));
        let odd = |raw: &str, day: u32| format!("day=2024-02-{day:02}|raw=\\x{raw}|kind=x|at=2024-02-29 00:00:00.250");
        let (lost, found, first, last) = (odd("00ff", 12), odd("00ff00", 1), odd("00ff", 1), odd("00ff", 29));
        let wanted = [
            ("both_keys", "missing", "shop=-5|code=c699", ""),
            ("both_keys", "missing", "shop=4|code=c0", ""),
            ("both_keys", "extra", "shop=-6|code=c0", ""),
            ("both_keys", "extra", "shop=4|code=C1", ""),
            ("both_keys", "extra", "shop=0|code=", ""),
            ("both_keys", "changed", "shop=2|code=c0", "n"),
            ("odd", "missing", &lost, ""),
            ("odd", "extra", &found, ""),
            ("odd", "missing", &first, ""),
            ("odd", "changed", &last, "n"),
        ];
        place.finds_and_mends(&wanted);
    }
}

#[test]
fn a_zero_date_equals_null_only_where_the_policy_says_so() {
    for server in SERVERS {
        let mut place = Place::new(server, Kind::Postgres);
        place.at_source("SET sql_mode = ''");
        place.at_source("CREATE TABLE days (id int PRIMARY KEY, day date, at datetime, t timestamp NULL)");
        place.at_target("CREATE TABLE days (id int PRIMARY KEY, day date, at timestamp, t timestamptz)");
        place.at_source("INSERT INTO days VALUES (1, '0000-00-00', '0000-00-00', '0000-00-00'), (2, NULL, NULL, NULL)");
        place.at_target("INSERT INTO days VALUES (1, NULL, NULL, NULL), (2, NULL, NULL, NULL)");
        let found = place.verify(&["--json"]).found();
        assert_eq!(
            found.into_iter().map(|[_, _, key, columns]| (key, columns)).collect::<Vec<_>>(),
            [("id=1".to_string(), "day|at|t".to_string())]
        );
        let config = std::fs::read_to_string(place.file("tidegate.toml")).unwrap();
        let config = config.replace("[verify]", "zero_dates = \"null\"\n[verify]");
        std::fs::write(place.file("tidegate.toml"), config).unwrap();
        place.is_identical(2);
        place.at_target("UPDATE days SET day = '1970-01-01' WHERE id = 1");
        place.finds_and_mends(&[("days", "changed", "id=1", "day")]);
    }
}

#[test]
fn a_row_that_is_changing_is_undecided_and_the_others_are_not() {
    for server in SERVERS {
        let mut place = Place::new(server, Kind::Postgres);
        place.configure(&env(server), "");
        place.at_source("CREATE TABLE t (id int PRIMARY KEY, n int);\nINSERT INTO t VALUES (1, 0), (2, 0), (3, 0)");
        place.at_target("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, -1), (2, 0), (3, 0)");
        let stop = Arc::new(AtomicBool::new(false));
        let (writer, name, stopped) = (env(server), place.name.clone(), Arc::clone(&stop));
        let writer = std::thread::spawn(move || {
            let mut connection = mysql::Conn::new(mysql::Opts::from_url(&writer).unwrap()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                connection.query_drop(format!("UPDATE {name}.t SET n = n + 1 WHERE id = 1")).unwrap();
            }
        });
        let moving = place.verify(&["--json"]);
        place.at_target("DELETE FROM t WHERE id = 3");
        let both = place.verify(&["--json"]);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        let of = |verified: &Verified| -> Vec<(String, String)> {
            verified.found().into_iter().map(|[_, kind, key, _]| (kind, key)).collect()
        };
        let pair = |kind: &str, key: &str| (kind.to_string(), key.to_string());
        assert_eq!((moving.code, of(&moving)), (2, vec![pair("undecided", "id=1")]), "{}", moving.err);
        assert_eq!((both.code, of(&both)), (1, vec![pair("missing", "id=3"), pair("undecided", "id=1")]));
    }
}

/// That verify could not run: exit code 3 and one sentence with these words.
fn refused(verified: &Verified, words: &[&str]) {
    assert_eq!((verified.code, verified.err.lines().count()), (3, 1), "{}{}", verified.out, verified.err);
    assert_eq!(verified.out, "", "nothing is said about tables");
    words.iter().for_each(|word| assert!(verified.err.contains(word), "no '{word}' in {}", verified.err));
}

#[test]
fn what_can_not_be_compared_is_named_and_never_called_equal() {
    for server in SERVERS {
        let mut place = Place::new(server, Kind::Postgres);
        let name = place.name.clone();
        refused(&place.verify(&[]), &["no table", &format!("{name}.*")]);
        place.at_source(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int);\nINSERT INTO t VALUES (1, 1, 1);\n\
             CREATE TABLE log (line text, at int NULL UNIQUE);\nCREATE TABLE more (a int NOT NULL, KEY (a))",
        );
        refused(&place.verify(&[]), &[&format!("{name}.log, {name}.more"), "primary key"]);
        let only = |table: &str| format!("tables = [\"{name}.{table}\"]");
        place.configure(&env(server), &only("t"));

        let missing = place.verify(&["-w", "2"]);
        assert_eq!(missing.code, 1, "{}", missing.err);
        assert!(missing.out.contains(&format!("{name}.t: the target has no such table")), "{}", missing.out);
        place.at_target("CREATE TABLE t (id int PRIMARY KEY, a int, more int); INSERT INTO t VALUES (1, 1, 7)");
        let column = place.verify(&[]);
        assert_eq!(column.code, 1);
        assert!(
            column.out.contains(&format!("{name}.t: columns that the target does not have: b\n")),
            "{}",
            column.out
        );
        assert!(column.out.contains("columns that only the target has, not compared: more\n"), "{}", column.out);
        place.at_target("ALTER TABLE t RENAME id TO key");
        let key = place.verify(&[]);
        assert_eq!(key.code, 1);
        assert!(key.out.contains("not compared: the target has not all columns of the key"), "{}", key.out);
        place.at_target("DROP TABLE t; CREATE VIEW t AS SELECT 1 AS id, 1 AS a, 1 / (SELECT 0) AS b");
        refused(&place.verify(&[]), &[&format!("table {name}.t"), "division by zero"]);

        place.configure(&env(server), &only("nowhere"));
        refused(&place.verify(&[]), &[&format!("{name}.nowhere")]);
        place.configure(&env(server).replace("://r:r@", "://r:wrong@"), "");
        refused(&place.verify(&[]), &["source mysql at 127.0.0.1", "Access denied"]);
        place.configure("mysql://r:r@127.0.0.1:1/", "");
        refused(&place.verify(&[]), &["127.0.0.1:1", "refused"]);
    }
}

#[test]
fn a_signal_ends_it_while_a_server_keeps_it_waiting() {
    let mut place = Place::new("MYSQL_URL", Kind::Postgres);
    place.at_source("CREATE TABLE t (id int PRIMARY KEY)");
    place.at_target("CREATE TABLE t (id int PRIMARY KEY)");
    for signal in ["TERM", "INT"] {
        place.at_source("LOCK TABLES t WRITE");
        let repair = place.file("repair.sql");
        let verify = place.start(&["--repair", repair.to_str().unwrap()]);
        let waits =
            "SELECT count(*) FROM performance_schema.processlist WHERE state LIKE 'Waiting for table metadata%'";
        let mut other = mysql::Conn::new(mysql::Opts::from_url(&env("MYSQL_URL")).unwrap()).unwrap();
        while other.query_first::<u32, _>(waits).unwrap() == Some(0) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = std::process::Command::new("kill").args([&format!("-{signal}"), &verify.id().to_string()]).status();
        assert!(kill.unwrap().success());
        refused(&Verified::of(&verify.wait_with_output().unwrap()), &["signal", "again"]);
        assert!(!repair.exists(), "half a repair is none");
        place.at_source("UNLOCK TABLES");
        std::fs::write(&repair, "of somebody else").unwrap();
        refused(&place.verify(&["--repair", repair.to_str().unwrap()]), &["--repair", "exists already"]);
        assert_eq!(std::fs::read_to_string(&repair).unwrap(), "of somebody else");
        std::fs::remove_file(&repair).unwrap();
    }
}

#[test]
fn tables_that_are_hidden_from_its_user_are_spoken_of() {
    for server in SERVERS {
        let mut place = Place::new(server, Kind::Sqlite);
        let (name, url) = (place.name.clone(), env(server));
        for table in ["seen", "hidden"] {
            place.at_source(&format!("CREATE TABLE {table} (id int PRIMARY KEY)"));
            place.at_target(&format!("CREATE TABLE {table} (id INTEGER PRIMARY KEY)"));
        }
        place.at_source(&format!(
            "CREATE USER {name} IDENTIFIED BY 'p';\nGRANT SELECT ON {name}.seen TO {name};\nINSERT INTO hidden VALUES (1)"
        ));
        let (_, address) = url.split_once('@').unwrap();
        place.configure(&format!("mysql://{name}:p@{address}"), "");
        let said = place.verify(&[]);
        assert!(said.err.contains(&format!("some tables of {name} alone")), "{server}: {}{}", said.out, said.err);
        place.at_source(&format!("GRANT SELECT ON {name}.* TO {name}"));
        let said = place.verify(&[]);
        assert!(said.code == 1 && said.err.is_empty(), "{server}: {}{}", said.out, said.err);
        place.at_source(&format!("DROP USER {name}"));
    }
}
