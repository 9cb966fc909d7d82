//! Every type of MySQL and MariaDB, written to real servers and read from their binlogs: with metadata in the binlog, and
//! with as little of it as the server can be made to write.

use crate::binlog::{Database, SERVERS, rows};
use tidegate::change::{Op, TableSchema};

/// Column name and type, a value as SQL, and the value as JSON.
const VALUES: &[(&str, &str, &str, &str)] = &[
    ("tiny_low", "tinyint", "-128", "-128"),
    ("tiny_high", "tinyint unsigned", "255", "255"),
    ("flag", "boolean", "true", "1"),
    ("y", "year", "2026", "2026"),
    ("y0", "year", "0", "0"),
    ("small_low", "smallint", "-32768", "-32768"),
    ("small_high", "smallint unsigned", "65535", "65535"),
    ("medium_low", "mediumint", "-8388608", "-8388608"),
    ("medium_high", "mediumint unsigned", "16777215", "16777215"),
    ("int_low", "int", "-2147483648", "-2147483648"),
    ("int_high", "int(10) unsigned zerofill", "4294967295", "4294967295"),
    ("big_low", "bigint", "-9223372036854775808", "-9223372036854775808"),
    ("big_high", "bigint unsigned", "18446744073709551615", "18446744073709551615"),
    ("f", "float", "0.1", "0.1"),
    ("f2", "float", "16777216", "16777216.0"),
    ("d", "double", "0.1", "0.1"),
    ("d2", "double", "-1.7976931348623157e308", "-1.7976931348623157e+308"),
    ("price", "decimal(10,2)", "-12.50", "\"-12.50\""),
    (
        "long_price",
        "decimal(65,30)",
        "12345678901234567890123456789012345.123456789012345678901234567891",
        "\"12345678901234567890123456789012345.123456789012345678901234567891\"",
    ),
    ("whole", "decimal(20,0)", "-99999999999999999999", "\"-99999999999999999999\""),
    ("b1", "bit(1)", "b'1'", "1"),
    ("b12", "bit(12)", "b'101010101010'", "2730"),
    ("b64", "bit(64)", "0xffffffffffffffff", "18446744073709551615"),
    ("day", "date", "'2026-02-03'", "\"2026-02-03\""),
    ("day_max", "date", "'9999-12-31'", "\"9999-12-31\""),
    ("clock", "time", "'-838:59:59'", "\"-838:59:59\""),
    ("clock3", "time(3)", "'-00:00:00.123'", "\"-00:00:00.123\""),
    ("clock6", "time(6)", "'12:34:56.000007'", "\"12:34:56.000007\""),
    ("at", "datetime", "'2026-02-03 04:05:06'", "\"2026-02-03 04:05:06\""),
    ("at1", "datetime(1)", "'2026-02-03 04:05:06.7'", "\"2026-02-03 04:05:06.7\""),
    ("at6", "datetime(6)", "'1000-01-01 00:00:00.000001'", "\"1000-01-01 00:00:00.000001\""),
    ("stamp", "timestamp null", "'2026-02-03 04:05:06'", "\"2026-02-03T04:05:06Z\""),
    ("stamp6", "timestamp(6) null", "'2038-01-19 03:14:07.999999'", "\"2038-01-19T03:14:07.999999Z\""),
    ("c", "char(5)", "'ab  '", "\"ab\""),
    ("v", "varchar(10)", "'né \\\" 😀 '", "\"né \\\" 😀 \""),
    ("v_long", "varchar(300)", "repeat('é', 300)", "é*300"),
    ("empty", "varchar(3)", "''", "\"\""),
    ("latin", "varchar(10) character set latin1", "'é€'", "\"é€\""),
    ("chinese", "char(4) character set gbk", "'中国'", "\"中国\""),
    ("wide", "varchar(4) character set utf16", "'é😀'", "\"é😀\""),
    ("txt", "text", "'line\\nline'", "\"line\\nline\""),
    ("txt_tiny", "tinytext character set latin1", "'ü'", "\"ü\""),
    ("txt_long", "longtext", "'日本'", "\"日本\""),
    ("bin", "binary(4)", "0x0100", "\"AQAAAA==\""),
    ("bin_empty", "binary(2)", "''", "\"AAA=\""),
    ("varbin", "varbinary(4)", "0x0100", "\"AQA=\""),
    ("blob_tiny", "tinyblob", "0xff", "\"/w==\""),
    ("blob_long", "longblob", "0x00ff", "\"AP8=\""),
    ("e", "enum('a','it''s','ü')", "'ü'", "\"ü\""),
    ("e_latin", "enum('x','ü') character set latin1", "'ü'", "\"ü\""),
    ("s", "set('a','b','ü')", "'ü,a'", "\"a,ü\""),
    ("s_none", "set('a','b')", "''", "\"\""),
    ("place", "point", "ST_GeomFromText('POINT(1 2)')", "\"AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA==\""),
];

/// What only one of the servers has.
const MYSQL_VALUES: &[(&str, &str, &str, &str)] = &[
    ("gb", "varchar(4) character set gb18030", "'日本'", "\"日本\""),
    ("gb_text", "text character set gb18030", "'日😀'", "\"日😀\""),
    ("vec", "vector(2)", "string_to_vector('[1,2]')", "\"AACAPwAAAEA=\""),
];

const MARIADB_VALUES: &[(&str, &str, &str, &str)] = &[
    ("ip6", "inet6", "'2001:db8::ff00:42:8329'", "\"2001:db8::ff00:42:8329\""),
    ("ip6_mapped", "inet6", "'::ffff:192.0.2.1'", "\"::ffff:192.0.2.1\""),
    ("ip6_low", "inet6", "'::1'", "\"::1\""),
    ("ip4", "inet4", "'192.0.2.1'", "\"192.0.2.1\""),
    ("u1", "uuid", "'2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d'", "\"2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d\""),
    ("u4", "uuid", "'9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d'", "\"9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d\""),
    ("u7", "uuid", "'01939c00-282d-7000-8000-000000000001'", "\"01939c00-282d-7000-8000-000000000001\""),
    ("u8", "uuid", "'2489e9ad-2ee2-8e00-8ec9-32d5f69181c0'", "\"2489e9ad-2ee2-8e00-8ec9-32d5f69181c0\""),
    ("u0", "uuid", "'00000000-0000-0000-0000-000000000000'", "\"00000000-0000-0000-0000-000000000000\""),
    ("bin16", "binary(16)", "'x'", "\"eAAAAAAAAAAAAAAAAAAAAA==\""),
    ("bin4", "binary(4)", "'x'", "\"eAAAAA==\""),
    ("late", "varchar(9) character set utf8mb4 collate uca1400_ai_ci", "'é'", "\"é\""),
];

/// JSON that MySQL keeps in its binary form, and as which text it comes out.
const DOCUMENTS: &[(&str, &str)] = &[
    ("'null'", "null"),
    ("'{}'", "{}"),
    ("'[]'", "[]"),
    (
        "'{\"bb\": [1, -2, 65536, 4294967296, -9223372036854775808, 18446744073709551615], \"a\": {\"x\": null}}'",
        "{\"a\":{\"x\":null},\"bb\":[1,-2,65536,4294967296,-9223372036854775808,18446744073709551615]}",
    ),
    ("'[true, false, 1.5, 1e100, \"é\\\\n😀\"]'", "[true,false,1.5,1e+100,\"é\\n😀\"]"),
    (
        "json_array(cast('12.3400' as decimal(10,4)), cast('2026-02-03' as date), cast('-01:02:03.5' as time(1)), \
      cast('2026-02-03 04:05:06.25' as datetime(2)))",
        "[12.3400,\"2026-02-03\",\"-01:02:03.500000\",\"2026-02-03 04:05:06.250000\"]",
    ),
    ("json_array(repeat('x', 70000))", "[x*70000]"),
];

/// A JSON text of the tables above, with `x*3` written out.
fn written_out(text: &str) -> String {
    let Some((before, count)) = text.split_once('*') else { return text.into() };
    let count: String = count.chars().take_while(char::is_ascii_digit).collect();
    let letter = before.chars().last().unwrap();
    let long = format!("\"{}\"", letter.to_string().repeat(count.parse().unwrap()));
    text.replace(&format!("{letter}*{count}"), &long)
}

/// What the server may be made to write about its tables, the most first.
fn metadata(database: &Database) -> [&'static str; 2] {
    if database.is_mariadb() { ["FULL", "NO_LOG"] } else { ["FULL", "MINIMAL"] }
}

#[test]
fn every_type_arrives_as_it_is() {
    for server in SERVERS {
        let mut database = Database::new(server, "types");
        let own = if database.is_mariadb() { MARIADB_VALUES } else { MYSQL_VALUES };
        let values = [VALUES, own].concat();
        let columns: Vec<String> = values.iter().map(|(name, ty, ..)| format!("`{name}` {ty}")).collect();
        database.run(&format!("CREATE TABLE t (id int primary key, {})", columns.join(", ")));
        let sql: Vec<&str> = values.iter().map(|(_, _, sql, _)| *sql).collect();
        let as_json: String =
            values.iter().map(|(name, _, _, json)| format!(",\"{name}\":{}", written_out(json))).collect();
        let nulls: String = values.iter().map(|(name, ..)| format!(",\"{name}\":null")).collect();
        let mut schemas = Vec::new();
        for level in metadata(&database) {
            database.run(&format!("SET GLOBAL binlog_row_metadata = {level}"));
            database.run("FLUSH TABLES"); // the server describes an open table as before
            let start = database.end();
            database.run(&format!("INSERT INTO t VALUES (1, {})", sql.join(", ")));
            database.run(&format!("INSERT INTO t VALUES (2{})", ", NULL".repeat(values.len())));
            database.run("UPDATE t SET id = 3 WHERE id = 1");
            database.run("DELETE FROM t");
            let seen = database.changes(&start);
            database.run("SET GLOBAL binlog_row_metadata = FULL");
            let full = |id: u32| format!("{{\"id\":{id}{as_json}}}");
            let empty = format!("{{\"id\":2{nulls}}}");
            let expected = [
                (Op::Insert, "1", full(1)),
                (Op::Insert, "2", empty.clone()),
                (Op::Delete, "1", full(1)),
                (Op::Insert, "3", full(3)),
                (Op::Delete, "2", empty),
                (Op::Delete, "3", full(3)),
            ];
            assert_eq!(rows(&seen).len(), expected.len(), "{server} {level}");
            for (seen, (op, key, row)) in rows(&seen).into_iter().zip(&expected) {
                assert_eq!(seen, (*op, *key, row.as_str()), "{server} {level}");
            }
            let schema: TableSchema = serde_json::from_str(&seen[0].row).unwrap();
            assert_eq!((seen[0].op, schema.key.as_slice()), (Op::Schema, &["id".to_string()][..]));
            schemas.push(schema);
        }
        assert!(schemas[0].same_shape(&schemas[1]), "{server}: {:?}", schemas);
    }
}

#[test]
fn json_keeps_its_numbers() {
    let mut database = Database::new("MYSQL_URL", "documents");
    database.run("CREATE TABLE t (id int primary key, j json)");
    let start = database.end();
    for (index, (sql, _)) in DOCUMENTS.iter().enumerate() {
        database.run(&format!("INSERT INTO t VALUES ({index}, {sql})"));
    }
    let seen = database.changes(&start);
    for (index, (sql, json)) in DOCUMENTS.iter().enumerate() {
        assert_eq!(seen[index + 1].row, format!("{{\"id\":{index},\"j\":{}}}", written_out(json)), "{sql}");
    }
}

#[test]
fn zero_dates_stay_zero() {
    for server in SERVERS {
        let mut database = Database::new(server, "zero");
        database.run("SET sql_mode = ''");
        database.run("CREATE TABLE t (id int primary key, a date, b datetime(3), c timestamp null, e enum('a'))");
        let start = database.end();
        database.run("INSERT INTO t VALUES (1, '0000-00-00', '2026-00-00', '0000-00-00', 'no member')");
        assert_eq!(
            database.changes(&start)[1].row,
            r#"{"id":1,"a":"0000-00-00","b":"2026-00-00 00:00:00.000","c":"0000-00-00T00:00:00Z","e":""}"#,
            "{server}"
        );
    }
}

#[test]
fn the_key_is_the_primary_key_or_one_that_does_its_work() {
    let tables = [
        ("a int, b varchar(9), primary key (b, a)", &["b", "a"][..], "[\"x\",\"1\"]"),
        ("a int, b varchar(9), primary key (b(3))", &["b"], "x"),
        ("a int, b varchar(9) not null, unique (a), unique (b)", &["b"], "x"),
        ("a int, b varchar(9)", &[], ""),
    ];
    for server in SERVERS {
        let mut database = Database::new(server, "keys");
        for level in metadata(&database) {
            database.run(&format!("SET GLOBAL binlog_row_metadata = {level}"));
            for (index, (columns, key, text)) in tables.iter().enumerate() {
                database.run(&format!("CREATE OR REPLACE TABLE t{index} ({columns})").replace(
                    "CREATE OR REPLACE TABLE",
                    if database.is_mariadb() { "CREATE OR REPLACE TABLE" } else { "CREATE TABLE IF NOT EXISTS" },
                ));
                let start = database.end();
                database.run(&format!("INSERT INTO t{index} VALUES (1, 'x')"));
                let seen = database.changes(&start);
                let schema: TableSchema = serde_json::from_str(&seen[0].row).unwrap();
                assert_eq!(schema.key, *key, "{server} {level} {columns}");
                assert_eq!(seen[1].key, *text, "{server} {level} {columns}");
                database.run(&format!("DROP TABLE t{index}"));
            }
            database.run("SET GLOBAL binlog_row_metadata = FULL");
        }
    }
}
