//! Odd settings of real servers, and what they log then: published, landed and found identical.

use crate::job::env;
use crate::job::source::{Source, arrives};
use mysql::prelude::Queryable;

const SERVERS: [&str; 2] = ["MYSQL_URL", "MARIADB_URL"];

/// Sets a global variable back when it goes.
struct Reset(&'static str, &'static str);

impl Drop for Reset {
    fn drop(&mut self) {
        let mut conn = mysql::Conn::new(mysql::Opts::from_url(&env(self.0)).unwrap()).unwrap();
        conn.query_drop(self.1).unwrap();
    }
}

#[test]
fn columns_that_are_generated_invisible_or_hidden_arrive() {
    let both = [
        "CREATE TABLE g (id int PRIMARY KEY, a int, s int AS (a * 2) STORED, v varchar(20) AS (concat('v', a)) VIRTUAL, \
         z int DEFAULT 7)",
        "INSERT INTO g (id, a) VALUES (1, 1), (2, NULL)",
        "UPDATE g SET a = 5 WHERE id = 2",
        "CREATE TABLE parts (id int, v int, PRIMARY KEY (id)) PARTITION BY HASH (id) PARTITIONS 4",
        "INSERT INTO parts VALUES (1, 1), (2, 2), (3, 3)",
        "UPDATE parts SET id = id + 10",
        "CREATE TABLE checked (id int PRIMARY KEY, v int CHECK (v > 0), KEY (v))",
        "INSERT INTO checked VALUES (1, 1)",
        "CREATE TABLE mine (id int PRIMARY KEY, v int) ENGINE = MyISAM",
        "INSERT INTO mine VALUES (1, 1), (2, 2)",
        "INSERT IGNORE INTO mine VALUES (3, 3), (2, 9), (4, 4)",
        "CREATE TABLE places (id int PRIMARY KEY, p point NOT NULL, g geometry, SPATIAL INDEX (p))",
        "INSERT INTO places VALUES (1, ST_GeomFromText('POINT(1 2)'), \
         ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))')), (2, ST_GeomFromText('POINT(0 0)', 4326), NULL)",
    ];
    let mysql = [
        "SET SESSION sql_generate_invisible_primary_key = ON",
        "CREATE TABLE gipk (v varchar(9))",
        "INSERT INTO gipk VALUES ('a'), ('a'), (NULL)",
        "DELETE FROM gipk WHERE v IS NULL",
        "SET SESSION sql_generate_invisible_primary_key = OFF",
        "CREATE TABLE unseen (id int PRIMARY KEY, v int INVISIBLE DEFAULT 3, w int)",
        "INSERT INTO unseen (id, w) VALUES (1, 1)",
        "CREATE TABLE functional (id int PRIMARY KEY, a int, j json, UNIQUE ((a + 1)), \
         KEY ((CAST(j->'$.x' AS UNSIGNED ARRAY))))",
        "INSERT INTO functional VALUES (1, 1, '{\"x\": [1, 2]}'), (2, NULL, NULL)",
        "UPDATE functional SET a = 9 WHERE id = 1",
    ];
    let mariadb = [
        "CREATE TABLE unseen (id int PRIMARY KEY, v int INVISIBLE DEFAULT 3, w int)",
        "INSERT INTO unseen (id, w) VALUES (1, 1)",
    ];
    for (server, own) in [("MYSQL_URL", &mysql[..]), ("MARIADB_URL", &mariadb)] {
        let _reset = Reset(server, "SET GLOBAL binlog_row_metadata = FULL");
        for metadata in ["MINIMAL", "FULL"] {
            let before = format!("SET GLOBAL binlog_row_metadata = {metadata}");
            let mut job = arrives(server, "hidden", &[&[&before[..]], &both[..], own].concat());
            assert_eq!(job.count("g", "(id, s, v, z) IN ((1, 2, 'v1', 7), (2, 10, 'v5', 7))"), 2, "{server}");
            assert_eq!(job.count("unseen", "v = 3"), 1, "{server}");
        }
    }
}

#[test]
fn the_hash_of_a_long_unique_key_is_not_published() {
    let _reset = Reset("MARIADB_URL", "SET GLOBAL binlog_row_metadata = FULL");
    let mut source = Source::new("MARIADB_URL", "hashed");
    let statements = [
        "CREATE TABLE hashed (id int PRIMARY KEY, long_one text, UNIQUE (long_one))",
        "INSERT INTO hashed VALUES (1, repeat('x', 5000)), (2, NULL)",
        "UPDATE hashed SET long_one = 'y' WHERE id = 2",
        "CREATE TABLE keyed (a varchar(3000) CHARACTER SET utf8mb4 NOT NULL, b int NOT NULL, UNIQUE (a, b))",
        "INSERT INTO keyed VALUES ('a', 1), ('a', 2)",
        "CREATE TABLE named (id int PRIMARY KEY, DB_ROW_HASH_1 int)",
        "INSERT INTO named VALUES (1, 7)",
    ];
    let mut job = source.job(&[".*"]);
    source.run(&statements);
    ["publish", "land", "verify"].iter().for_each(|command| job.run(command));
    assert_eq!((job.count("hashed", "true"), job.count("keyed", "true")), (2, 2));
    assert_eq!(job.count("named", "\"DB_ROW_HASH_1\" = 7"), 1);
    let sql = "SELECT count(*) FROM information_schema.columns WHERE table_schema = $1 AND table_name <> 'named'";
    let columns: i64 = job.target.query_one(sql, &[&job.name]).unwrap().get(0);
    assert_eq!(columns, 4, "no column that MariaDB hides");
    // Without their names nothing says which columns are hidden.
    let minimal = source.job(&[".*"]);
    source.run(&["SET GLOBAL binlog_row_metadata = MINIMAL", "INSERT INTO hashed VALUES (3, 'z')"]);
    minimal.refused("publish", &[".hashed", "hides the hash", "binlog_row_metadata=FULL"]);
}

#[test]
fn a_limit_for_all_questions_hides_nothing_from_verify() {
    for server in SERVERS {
        let _reset = Reset(server, "SET GLOBAL sql_select_limit = 18446744073709551615");
        let mut source = Source::new(server, "limited");
        let mut job = source.job(&[".*"]);
        let columns: Vec<String> = (0..9).map(|n| format!("c{n} int")).collect();
        let rows: Vec<String> = (0..50).map(|id| format!("({id})")).collect();
        source.run(&[
            "SET GLOBAL sql_select_limit = 5",
            &format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", ")),
            &format!("INSERT INTO t (id) VALUES {}", rows.join(", ")),
        ]);
        ["publish", "land", "verify"].iter().for_each(|command| job.run(command));
        job.target.execute(&format!("DELETE FROM {}.t WHERE id > 40", job.name), &[]).unwrap();
        let found = job.try_run("verify");
        let said = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.status.code(), Some(1), "{server}: {said}");
        assert_eq!(said.matches("missing limited").count(), 9, "{server}: {said}");
    }
}

#[test]
fn a_binlog_without_checksums_is_read() {
    for server in SERVERS {
        let _reset = Reset(server, "SET GLOBAL binlog_checksum = CRC32");
        arrives(
            server,
            "bare",
            &[
                "CREATE TABLE t (id int PRIMARY KEY, v text)",
                "INSERT INTO t VALUES (1, 'with')",
                "SET GLOBAL binlog_checksum = NONE",
                "INSERT INTO t VALUES (2, 'without'), (3, repeat('x', 9000))",
                "FLUSH BINARY LOGS",
                "UPDATE t SET v = 'again' WHERE id = 2",
                "SET GLOBAL binlog_checksum = CRC32",
                "INSERT INTO t VALUES (4, 'with')",
            ],
        );
    }
}

#[test]
fn what_the_server_logs_beside_the_rows_does_no_harm() {
    arrives(
        "MYSQL_URL",
        "beside",
        &[
            "SET SESSION binlog_rows_query_log_events = ON",
            "CREATE TABLE t (id int PRIMARY KEY, v mediumtext, j json)",
            "INSERT INTO t VALUES (1, 'a', '{}')",
            "SET SESSION binlog_transaction_compression = ON",
            "INSERT INTO t VALUES (2, repeat('b', 100000), '[1.5, \"x\"]')",
            "SET gtid_next = 'AUTOMATIC:tagged'",
            "INSERT INTO t VALUES (3, 'c', JSON_OBJECT('d', CAST(1.10 AS DECIMAL(5,2)), 't', CAST('-10:11:12.5' AS TIME(3)), \
             'at', CAST('2026-02-03 04:05:06.007' AS DATETIME(3)), 'n', -1, 'u', 18446744073709551615, 'f', 1e300))",
            "SET gtid_next = AUTOMATIC",
            "SET SESSION binlog_transaction_compression = OFF, binlog_rows_query_log_events = OFF",
            "SET timestamp = UNIX_TIMESTAMP() + 864000",
            "INSERT INTO t VALUES (4, 'later', NULL)",
            "SET timestamp = DEFAULT",
            "UPDATE t SET v = 'd' WHERE id < 3",
        ],
    );
    arrives(
        "MARIADB_URL",
        "beside",
        &[
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "SET SESSION binlog_annotate_row_events = ON, skip_replication = ON",
            "INSERT INTO t VALUES (1, 'a')",
            "SET SESSION skip_replication = OFF",
            "SET timestamp = UNIX_TIMESTAMP() + 864000",
            "INSERT INTO t VALUES (2, 'b')",
            "SET timestamp = DEFAULT",
            "SET SESSION gtid_domain_id = 7, server_id = 99",
            "INSERT INTO t VALUES (3, 'c')",
            "SET SESSION gtid_domain_id = 0, server_id = 1",
            "UPDATE t SET v = 'd' WHERE id < 3",
            "DELETE FROM t WHERE id = 3 RETURNING v",
        ],
    );
}
