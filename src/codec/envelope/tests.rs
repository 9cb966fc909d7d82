//! Messages as Canal, Debezium and Maxwell document them, and what becomes of them.

use super::*;

type Seen = (&'static str, u64, String, String, String);

fn decode(kind: EnvelopeKind, key: Option<&str>, value: &str) -> Result<(Vec<Seen>, Vec<TableSchema>), String> {
    decode_with(kind, key, value, &|_| None)
}

fn decode_with<'a>(
    kind: EnvelopeKind,
    key: Option<&'a str>,
    value: &'a str,
    header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
) -> Result<(Vec<Seen>, Vec<TableSchema>), String> {
    let mut out = Changes::default();
    let mut schemas = Vec::new();
    let record = ForeignRecord { key: key.map(str::as_bytes), value: value.as_bytes(), header };
    ForeignDecoder::new(kind, TableFilter::default())
        .decode(&record, &mut out, |schema| schemas.push(schema))
        .changes?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let seen = out.changes().map(|change| {
        (change.op().name(), change.head.time, change.table_name().to_string(), text(change.key()), text(change.row()))
    });
    Ok((seen.collect(), schemas))
}

fn seen(op: &'static str, time: u64, key: &str, row: &str) -> Seen {
    (op, time, "shop.t".into(), key.into(), row.into())
}

#[test]
fn canal_says_every_value_as_text_and_its_types_beside() {
    let message = r#"{"data":[{"id":"1","n":"18446744073709551615","d":"1.50","f":"0.5","at":"2026-01-02 03:04:05.5",
        "b":"a\u00ff","j":"{\"x\": [1]}","s":"é\"","z":null}],"database":"shop","es":1700000000123,"id":5,"isDdl":false,
        "mysqlType":{"id":"int(11)","n":"bigint unsigned","d":"decimal(10,2)","f":"double","at":"timestamp(1)",
        "b":"varbinary(9)","j":"json","s":"varchar(20)","z":"int"},"old":null,"pkNames":["id"],"sql":"",
        "sqlType":{"id":4},"table":"t","ts":1700000000999,"type":"INSERT"}"#;
    let (changes, schemas) = decode(EnvelopeKind::CanalJson, None, message).unwrap();
    let row = r#"{"id":1,"n":18446744073709551615,"d":"1.50","f":0.5,"at":"2026-01-02T03:04:05.5Z","b":"Yf8=","j":{"x": [1]},"s":"é\"","z":null}"#;
    assert_eq!(changes, [seen("insert", 1_700_000_000_123, "1", row)]);
    assert_eq!(schemas[0].key, ["id"]);
    assert_eq!(schemas[0].column("n").unwrap().ty.to_string(), "bigint unsigned");
}

#[test]
fn a_statement_of_several_rows_and_a_moved_key_come_apart() {
    let message = r#"{"data":[{"id":"2","v":"b"},{"id":"5","v":"c"}],"old":[{"v":"a"},{"id":"3"}],"database":"shop",
        "table":"t","es":7000,"type":"UPDATE","isDdl":false,"pkNames":["id"],"mysqlType":{"id":"int","v":"text"}}"#;
    let (changes, _) = decode(EnvelopeKind::CanalJson, None, message).unwrap();
    let want = [
        seen("update", 7000, "2", r#"{"id":2,"v":"b"}"#),
        seen("delete", 7000, "3", r#"{"id":3,"v":"c"}"#),
        seen("insert", 7000, "5", r#"{"id":5,"v":"c"}"#),
    ];
    assert_eq!(changes, want);
    let ddl = r#"{"database":"shop","table":"t","es":1,"type":"ALTER","isDdl":true,"sql":"alter table t add x int","data":null}"#;
    assert!(decode(EnvelopeKind::CanalJson, None, ddl).unwrap().0.is_empty());
    let error = decode(EnvelopeKind::CanalJson, None, &ddl.replace("ALTER", "TRUNCATE")).unwrap_err();
    assert!(error.contains("TRUNCATE of shop.t"), "{error}");
}

#[test]
fn debezium_with_its_schema_has_its_encodings_undone() {
    let column = |field: &str, ty: &str, name: &str, parameters: &str| {
        format!(
            r#"{{"type":"{ty}","optional":true,"name":"{name}","version":1,"field":"{field}","parameters":{{{parameters}}}}}"#
        )
    };
    let columns = [
        r#"{"type":"int32","optional":false,"field":"id"}"#.to_string(),
        column(
            "d",
            "bytes",
            "org.apache.kafka.connect.data.Decimal",
            r#""scale":"2","connect.decimal.precision":"10""#,
        ),
        column("day", "int32", "io.debezium.time.Date", ""),
        column("dt", "int64", "io.debezium.time.MicroTimestamp", ""),
        column("t", "int64", "io.debezium.time.MicroTime", ""),
        column("at", "string", "io.debezium.time.ZonedTimestamp", ""),
        column("bits", "bytes", "io.debezium.data.Bits", r#""length":"12""#),
        column("j", "string", "io.debezium.data.Json", ""),
        r#"{"type":"bytes","optional":true,"field":"raw"}"#.to_string(),
    ]
    .join(",");
    let schema = format!(
        r#"{{"type":"struct","fields":[{{"type":"struct","fields":[{columns}],"optional":true,"field":"before"}},{{"type":"struct","fields":[{columns}],"optional":true,"field":"after"}}]}}"#
    );
    let row = r#"{"id":4,"d":"/wY=","day":-1,"dt":0,"t":-3723000001,"at":"2026-01-02T03:04:05Z","bits":"AQg=","j":"{\"a\":1}","raw":"AP8="}"#;
    let message = format!(
        r#"{{"schema":{schema},"payload":{{"before":null,"after":{row},"source":{{"db":"shop","table":"t","ts_ms":1700000000000}},"op":"c","ts_ms":1700000000777}}}}"#
    );
    let key = r#"{"schema":{"type":"struct"},"payload":{"id":4}}"#;
    let (changes, schemas) = decode(EnvelopeKind::DebeziumJson, Some(key), &message).unwrap();
    let want = r#"{"id":4,"d":"-2.50","day":"1969-12-31","dt":"1970-01-01 00:00:00.000000","t":"-01:02:03.000001","at":"2026-01-02T03:04:05Z","bits":2049,"j":{"a":1},"raw":"AP8="}"#;
    assert_eq!(changes, [seen("insert", 1_700_000_000_000, "4", want)]);
    assert_eq!(schemas[0].column("d").unwrap().ty.to_string(), "decimal(10,2)");
}

#[test]
fn debezium_without_its_schema_has_what_json_has() {
    let event = |op: &str, before: &str, after: &str| {
        format!(
            r#"{{"before":{before},"after":{after},"source":{{"db":"shop","table":"t","ts_ms":5000}},"op":"{op}","ts_ms":1}}"#
        )
    };
    let key = Some(r#"{"a":1,"b":"x"}"#);
    let (one, two) = (r#"{"a":1,"b":"x","v":0.5}"#, r#"{"a":1,"b":"x","v":null}"#);
    for (op, before, after, want) in [
        ("r", "null", one, seen("insert", 5000, r#"["1","x"]"#, one)),
        ("u", one, two, seen("update", 5000, r#"["1","x"]"#, two)),
        ("d", two, "null", seen("delete", 5000, r#"["1","x"]"#, two)),
    ] {
        assert_eq!(decode(EnvelopeKind::DebeziumJson, key, &event(op, before, after)).unwrap().0, [want]);
    }
    let error = decode(EnvelopeKind::DebeziumJson, key, r#"{"a":1,"b":"x"}"#).unwrap_err();
    assert!(error.contains("ExtractNewRecordState"), "{error}");
    let error = decode(EnvelopeKind::DebeziumJson, None, &event("c", "null", one)).unwrap_err();
    assert!(error.contains("names no column"), "{error}");
    assert!(decode(EnvelopeKind::DebeziumJson, key, &event("t", "null", "null")).unwrap_err().contains("TRUNCATE"));
}

#[test]
fn maxwell_names_the_key_in_the_records_key() {
    let message = r#"{"database":"shop","table":"t","type":"update","ts":1700000000,"xid":23396,"commit":true,
        "data":{"id":2,"m":"x"},"old":{"id":1}}"#;
    let want = [
        seen("delete", 1_700_000_000_000, "1", r#"{"id":1,"m":"x"}"#),
        seen("insert", 1_700_000_000_000, "2", r#"{"id":2,"m":"x"}"#),
    ];
    for key in [r#"{"database":"shop","table":"t","pk.id":2}"#, r#"["shop","t",[{"id":2}]]"#] {
        assert_eq!(decode(EnvelopeKind::MaxwellJson, Some(key), message).unwrap().0, want);
    }
    let control = r#"{"database":"shop","table":"t","type":"bootstrap-start","ts":1,"data":{}}"#;
    assert!(decode(EnvelopeKind::MaxwellJson, None, control).unwrap().0.is_empty());
    assert!(decode(EnvelopeKind::MaxwellJson, None, message).unwrap_err().contains("without one no row"));
}

#[test]
fn a_row_beside_headers_keeps_the_records_key() {
    fn header(name: &str) -> Option<&'static [u8]> {
        Some(match name {
            "binlog.type" => b"DELETE",
            "binlog.database" => b"shop",
            "binlog.table" => b"t",
            "timestamp" => b"99",
            _ => return None,
        })
    }
    let (changes, schemas) = decode_with(EnvelopeKind::BinlogHeaders, Some("7"), r#"{"id":7}"#, &header).unwrap();
    assert_eq!(changes, [seen("delete", 99, "7", r#"{"id":7}"#)]);
    assert!(schemas.is_empty(), "the key's columns are not known");
    let error = decode(EnvelopeKind::BinlogHeaders, Some("7"), "{}").unwrap_err();
    assert_eq!(error, "the header 'binlog.database' is missing");
}

#[test]
fn what_is_something_else_is_refused_and_leaves_nothing() {
    for kind in [EnvelopeKind::CanalJson, EnvelopeKind::DebeziumJson, EnvelopeKind::MaxwellJson] {
        for value in ["", "[]", "{}", "{\"type\":\"frob\"}", "\u{0}"] {
            assert!(decode(kind, None, value).is_err(), "{kind:?} took {value}");
        }
    }
    let half = r#"{"data":[{"id":"2"},{"id":"x"}],"database":"shop","table":"t","es":7,"type":"INSERT","pkNames":["id"],"mysqlType":{"id":"int"}}"#;
    let mut out = Changes::default();
    let record = ForeignRecord { key: None, value: half.as_bytes(), header: &|_| None };
    let error = ForeignDecoder::new(EnvelopeKind::CanalJson, TableFilter::default())
        .decode(&record, &mut out, |_| {})
        .changes
        .unwrap_err();
    assert!(error.contains("table shop.t, column id") && out.is_empty(), "{error}");
}

/// It names no table where these have it, so that none of it would be wanted.
#[test]
fn what_another_tool_writes_is_refused_also_where_tables_are_named() {
    let tables = TableFilter::new(&["shop.*".to_string()]).unwrap();
    let values =
        [r#"{"id":1}"#, r#"{"payload":{"op":"c","after":{"id":1},"source":{"db":"shop","table":"t","ts_ms":7}}}"#];
    for kind in [EnvelopeKind::CanalJson, EnvelopeKind::MaxwellJson] {
        for value in values {
            let record = ForeignRecord { key: None, value: value.as_bytes(), header: &|_| None };
            let decoded = ForeignDecoder::new(kind, tables.clone())
                .decode(&record, &mut Changes::default(), |_| panic!("{value}"));
            assert!(decoded.changes.is_err(), "{kind:?} took {value}");
        }
    }
}

#[test]
fn of_a_table_that_is_not_wanted_nothing_but_the_time_is_asked() {
    let tables = TableFilter::new(&["shop.*".to_string(), "!shop.log".to_string()]).unwrap();
    let messages = [
        (
            EnvelopeKind::CanalJson,
            r#"{"type":"TRUNCATE","isDdl":true,"database":"shop","table":"log","es":7000,"pkNames":null}"#,
        ),
        (
            EnvelopeKind::CanalJson,
            r#"{"type":"INSERT","database":"shop","table":"log","es":7000,"pkNames":null,"mysqlType":{"a":"frob"},"data":[{"a":"1"}]}"#,
        ),
        (EnvelopeKind::MaxwellJson, r#"{"type":"insert","database":"shop","table":"log","ts":7,"data":{"a":1}}"#),
        (EnvelopeKind::MaxwellJson, r#"{"type":"table-drop","database":"shop","table":"log","ts":7}"#),
        (EnvelopeKind::DebeziumJson, r#"{"op":"t","source":{"db":"shop","table":"log","ts_ms":7000}}"#),
        (
            EnvelopeKind::DebeziumJson,
            r#"{"schema":{"type":"struct","fields":[{"field":"after","type":"struct","fields":[{"field":"a","type":"frob"}]}]},
               "payload":{"op":"c","after":{"a":1},"source":{"db":"shop","table":"log","ts_ms":7000}}}"#,
        ),
        (EnvelopeKind::BinlogHeaders, "no row"),
    ];
    fn header(name: &str) -> Option<&'static [u8]> {
        [("binlog.database", "shop"), ("binlog.table", "log"), ("timestamp", "7000"), ("binlog.type", "frob")]
            .into_iter()
            .find_map(|(known, value)| (known == name).then_some(value.as_bytes()))
    }
    for (kind, message) in messages {
        let record = ForeignRecord { key: None, value: message.as_bytes(), header: &header };
        let decode = |tables: &TableFilter| {
            let mut out = Changes::default();
            let decoded = ForeignDecoder::new(kind, tables.clone()).decode(&record, &mut out, |_| panic!("{message}"));
            assert!(out.is_empty());
            decoded
        };
        assert_eq!(decode(&tables), Decoded { time: Some(7000), changes: Ok(()) }, "{kind:?} {message}");
        let wanted = decode(&TableFilter::default());
        assert!(wanted.time == Some(7000) && wanted.changes.is_err(), "the time is the same: {kind:?} {message}");
    }
}
