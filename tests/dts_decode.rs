//! DTS records become changes: the records of Alibaba's own, then each rule about operations, keys, names and errors.

use tidegate::change::{Changes, Op, TableFilter, TableSchema};
use tidegate::codec::dts::{DateTime, DtsDecoder, Front, Images, NewRecord, Operation, Value, encode};
use tidegate::source::{Decoder, Raws, SourceError};

/// The changes of some records, each rendered as one line; schemas are left out.
fn changes_of(decoder: &mut DtsDecoder, data: &[Vec<u8>]) -> Result<Vec<String>, SourceError> {
    Ok(decoded(decoder, data)?
        .changes()
        .filter(|c| c.op() != Op::Schema)
        .map(|c| {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let (key, before, row) = (text(c.key()), text(c.before()), text(c.row()));
            format!("{} {} {}.{} [{key}] {before}{row}", c.head.seq, c.op().name(), c.database(), c.table())
        })
        .collect())
}

fn decoded(decoder: &mut DtsDecoder, data: &[Vec<u8>]) -> Result<Changes, SourceError> {
    let mut raws = Raws::default();
    for (n, datum) in data.iter().enumerate() {
        raws.push_raw(10 + 2 * n as u64, 1_000, &format!("{n}@1 topic/0/{n}"), b"", datum);
    }
    let mut out = Changes::default();
    for raw in raws.raws() {
        decoder.decode(&raw, &mut out)?;
    }
    Ok(out)
}

fn schemas_of(decoder: &mut DtsDecoder, data: &[Vec<u8>]) -> Vec<String> {
    let describe = |schema: TableSchema| {
        let columns: Vec<String> = schema.columns.iter().map(|c| format!("{} {}", c.name, c.ty)).collect();
        format!("{}@{} ({}) key ({})", schema.name, schema.since_seq, columns.join(", "), schema.key.join(", "))
    };
    let changes = decoded(decoder, data).unwrap();
    let schemas = changes.changes().filter(|c| c.op() == Op::Schema);
    schemas.map(|c| describe(serde_json::from_slice(c.row()).unwrap())).collect()
}

fn decoder() -> DtsDecoder {
    DtsDecoder::new(TableFilter::default(), false)
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/fixtures/dts/{name}.bin")).unwrap()
}

fn datum(record: &NewRecord) -> Vec<u8> {
    let mut out = Vec::new();
    encode(record, &mut out);
    out
}

const FIELDS: &[(&str, i32)] = &[("id", 8), ("name", 253)];
const BY_ID: &[(&str, &str)] = &[("pk_uk_info", r#"{"PRIMARY":["id"]}"#)];

fn int(value: &str) -> Value<'_> {
    Value::Integer { precision: 8, value }
}

fn text(value: &str) -> Value<'_> {
    Value::Character { charset: "utf8mb4", value: value.as_bytes() }
}

/// A record of `shop.t` (id, name) with these images; an empty one is absent.
fn record(operation: Operation, before: &[Value], after: &[Value]) -> Vec<u8> {
    datum(&NewRecord {
        object_name: Some("shop.t"),
        tags: BY_ID,
        fields: Some(FIELDS),
        before: if before.is_empty() { Images::Absent } else { Images::Row(before) },
        after: if after.is_empty() { Images::Absent } else { Images::Row(after) },
        ..NewRecord::new(operation, 1)
    })
}

/// An insert into `shop.t` of one column beside the key.
fn insert_of(number: i32, value: Value) -> Vec<u8> {
    datum(&NewRecord {
        object_name: Some("shop.t"),
        tags: BY_ID,
        fields: Some(&[("id", 8), ("v", number)]),
        after: Images::Row(&[int("1"), value]),
        ..NewRecord::new(Operation::Insert, 1)
    })
}

fn reason(result: Result<Vec<String>, SourceError>) -> String {
    match result.unwrap_err() {
        SourceError::Record { position, reason } => format!("{position}: {reason}"),
        SourceError::Rows(rows) => panic!("a record of DTS has one row: {rows:?}"),
        SourceError::Source(reason) => panic!("the record is wrong, not the source: {reason}"),
    }
}

#[test]
fn the_records_of_alibabas_own_decode_exactly() {
    let data: Vec<_> = ["insert", "update", "delete", "ddl"].map(fixture).into();
    assert_eq!(
        changes_of(&mut decoder(), &data).unwrap(),
        [
            r#"10 insert mydb.t1 [123456789] {"a":123456789,"b":"test insert statement."}"#,
            r#"12 update mydb.t1 [123456789] {"a":123456789,"b":"test update statement."}"#,
            r#"14 delete mydb.t1 [123456789] {"a":123456789,"b":"test update statement."}"#,
        ]
    );
    assert_eq!(schemas_of(&mut decoder(), &data), ["mydb.t1@10 (a bigint, b varchar) key (a)"]);
    let fronts: Vec<_> = data.iter().map(|d| Front::read(d).unwrap()).collect();
    assert_eq!(fronts[3].operation, Ok(Operation::Ddl));
    assert_eq!((fronts[0].source_position, fronts[0].source_timestamp), ("72469@78", 1_696_984_408));
}

#[test]
fn the_last_field_may_be_absent() {
    let full = fixture("insert");
    let older = full[..full.len() - 5].to_vec();
    assert_eq!(
        changes_of(&mut decoder(), std::slice::from_ref(&older)).unwrap(),
        changes_of(&mut decoder(), &[full]).unwrap()
    );
}

#[test]
fn a_record_cut_anywhere_is_an_error_and_never_a_panic() {
    for name in ["insert", "update", "delete"] {
        let full = fixture(name);
        for len in 3..full.len() - 5 {
            let error = reason(changes_of(&mut decoder(), &[full[..len].to_vec()]));
            assert!(error.starts_with("0@1 topic/0/0: "), "{error}");
        }
    }
}

#[test]
fn damaged_records_never_panic() {
    let full = fixture("update");
    for at in 0..full.len() {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut damaged = full.clone();
            damaged[at] = byte;
            let _ = changes_of(&mut decoder(), &[damaged]);
        }
    }
}

#[test]
fn an_update_of_the_key_is_a_delete_and_an_insert() {
    let moved = record(Operation::Update, &[int("1"), text("a")], &[int("2"), text("b")]);
    let kept = record(Operation::Update, &[int("2"), text("b")], &[int("2"), text("c")]);
    let blind = record(Operation::Update, &[], &[int("3"), text("d")]);
    let expected = [
        r#"10 delete shop.t [1] {"id":1,"name":"a"}"#,
        r#"11 insert shop.t [2] {"id":2,"name":"b"}"#,
        r#"12 update shop.t [2] {"id":2,"name":"c"}"#,
        r#"14 update shop.t [3] {"id":3,"name":"d"}"#,
    ];
    let data = [moved, kept, blind];
    assert_eq!(changes_of(&mut decoder(), &data).unwrap(), expected);
    let with_before = changes_of(&mut DtsDecoder::new(TableFilter::default(), true), &data).unwrap();
    assert_eq!(with_before[..2], expected[..2], "a moved row is two changes of their own");
    assert_eq!(with_before[2], r#"12 update shop.t [2] {"id":2,"name":"b"}{"id":2,"name":"c"}"#);
    assert_eq!(with_before[3], expected[3]);
}

#[test]
fn a_key_whose_bytes_differ_but_whose_text_does_not_stays() {
    let before = [Value::Integer { precision: 4, value: "1" }, text("a")];
    let same = record(Operation::Update, &before, &[int("1"), text("b")]);
    assert_eq!(changes_of(&mut decoder(), &[same]).unwrap(), [r#"10 update shop.t [1] {"id":1,"name":"b"}"#]);
}

#[test]
fn fillers_and_records_that_change_no_row_make_no_change() {
    let mut data = vec![vec![], vec![0], vec![0, 0]];
    for operation in Operation::ALL.into_iter().filter(|o| !o.is_row()) {
        data.push(datum(&NewRecord { after: Images::Text("x"), ..NewRecord::new(operation, 1) }));
    }
    assert_eq!(changes_of(&mut decoder(), &data).unwrap(), Vec::<String>::new());
}

#[test]
fn an_operation_of_the_future_is_refused() {
    let mut datum = datum(&NewRecord { source_position: "", ..NewRecord::new(Operation::Init, 1) });
    let at = datum.iter().position(|&b| b == 32).unwrap(); // 16 in zigzag
    datum[at] = 34;
    assert!(reason(changes_of(&mut decoder(), &[datum])).contains("number 17"));
}

#[test]
fn composite_keys_keep_the_order_of_the_tag_and_tables_without_one_have_none() {
    let row = [int("1"), text("x,\"y")];
    let with = |tags| {
        let record = NewRecord {
            object_name: Some("shop.t"),
            tags,
            fields: Some(FIELDS),
            after: Images::Row(&row),
            ..NewRecord::new(Operation::Insert, 1)
        };
        changes_of(&mut decoder(), &[datum(&record)]).unwrap().remove(0)
    };
    let shown = |key| format!(r#"10 insert shop.t [{key}] {{"id":1,"name":"x,\"y"}}"#);
    assert_eq!(with(&[("pk_uk_info", r#"{"PRIMARY":["name","id"]}"#)]), shown(r#"["x,\"y","1"]"#));
    assert_eq!(with(&[("pk_uk_info", r#"{"uk":["name"]}"#)]), shown("x,\"y"));
    assert_eq!(with(&[]), shown(""));
}

#[test]
fn names_lose_their_escapes_and_logical_names_win() {
    let mut record = NewRecord {
        object_name: Some(r"my\u002Edb.t\u002E1"),
        tags: &[("pk_uk_info", r#"{"PRIMARY":["a\\u002Eb"]}"#)],
        fields: Some(&[(r"a\u002Eb", 8)]),
        after: Images::Row(&[int("7")]),
        ..NewRecord::new(Operation::Insert, 1)
    };
    assert_eq!(changes_of(&mut decoder(), &[datum(&record)]).unwrap(), [r#"10 insert my.db.t.1 [7] {"a.b":7}"#]);
    record.object_name = Some("shop_07.t_0003");
    record.tags = &[("l_db_name", "shop"), ("l_tb_name", "t"), ("pk_uk_info", r#"{"PRIMARY":["a.b"]}"#)];
    let logical = TableFilter::new(&["shop.t".into()]).unwrap();
    let seen = changes_of(&mut DtsDecoder::new(logical, false), &[datum(&record)]).unwrap();
    assert_eq!(seen, [r#"10 insert shop.t [7] {"a.b":7}"#]);
    let physical = TableFilter::new(&["shop_07.*".into()]).unwrap();
    assert!(changes_of(&mut DtsDecoder::new(physical, false), &[datum(&record)]).unwrap().is_empty());
}

#[test]
fn unwanted_tables_are_dropped_even_where_their_values_can_not_be_used() {
    let broken = insert_of(253, Value::Character { charset: "klingon", value: b"x" });
    let filter = TableFilter::new(&["shop.other".into()]).unwrap();
    assert!(decoded(&mut DtsDecoder::new(filter, false), &[broken]).unwrap().is_empty());
}

#[test]
fn errors_name_place_table_key_and_column_and_leave_the_batch_alone() {
    let dt = DateTime { year: Some(2026), month: Some(13), day: Some(1), ..DateTime::default() };
    for (number, value, expected) in [
        (253, Value::Character { charset: "klingon", value: b"x" }, "character set 'klingon'"),
        (253, Value::Character { charset: "utf8mb4", value: b"\xff" }, "no text in utf8mb4"),
        (8, int("1x"), "'1x'"),
        (8, int("18446744073709551616"), "64 bits"),
        (246, Value::Decimal { value: "1,5", precision: 2, scale: 1 }, "no decimal"),
        (5, Value::Float { value: f64::NAN, precision: 0, scale: 0 }, "is NaN"),
        (12, Value::DateTime(dt), "month 13"),
        (245, Value::TextObject { kind: "json", value: "{" }, "no JSON"),
        (7, Value::Timestamp { seconds: i64::MAX, micros: 0 }, "calendar"),
        (7, Value::Timestamp { seconds: 1, micros: 1_000_000 }, "microseconds"),
    ] {
        let mut decoder = decoder();
        let mut raws = Raws::default();
        raws.push_raw(10, 1, "5@1 topic/0/77", b"", &insert_of(number, value));
        let mut out = Changes::default();
        let error = decoder.decode(&raws.raws().next().unwrap(), &mut out).unwrap_err().to_string();
        assert!(error.starts_with("5@1 topic/0/77: table shop.t, key 1, column v: the value "), "{error}");
        assert!(error.contains(expected), "{error}");
        assert!(out.is_empty(), "{expected}: something was appended");
    }
    let null_key = record(Operation::Insert, &[], &[Value::Null, text("x")]);
    assert!(reason(changes_of(&mut decoder(), &[null_key])).contains("column id: it is in the key and null"));
    let short = record(Operation::Insert, &[], &[int("1")]);
    assert!(reason(changes_of(&mut decoder(), &[short])).contains("2 fields but 1 values"));
    let imageless = record(Operation::Delete, &[], &[]);
    assert!(reason(changes_of(&mut decoder(), &[imageless])).contains("delete without the row before"));
}

#[test]
fn a_schema_is_announced_once_and_again_when_it_grows_or_changes() {
    let small = record(Operation::Insert, &[], &[int("1"), text("a")]);
    let large = record(Operation::Insert, &[], &[int("18446744073709551615"), text("a")]);
    let mut decoder = decoder();
    let data = [small.clone(), small.clone(), large.clone(), small.clone(), large];
    assert_eq!(
        schemas_of(&mut decoder, &data),
        ["shop.t@10 (id bigint, name varchar) key (id)", "shop.t@14 (id bigint unsigned, name varchar) key (id)"]
    );
    let wider = datum(&NewRecord {
        object_name: Some("shop.t"),
        tags: BY_ID,
        fields: Some(&[("id", 8), ("name", 253), ("added", 12)]),
        after: Images::Row(&[int("2"), text("b"), Value::Null]),
        ..NewRecord::new(Operation::Insert, 1)
    });
    assert_eq!(
        schemas_of(&mut decoder, &[wider.clone(), wider, small]),
        [
            "shop.t@10 (id bigint unsigned, name varchar, added datetime(6)) key (id)",
            "shop.t@14 (id bigint unsigned, name varchar) key (id)",
        ],
        "what was learned of a column is kept"
    );
}

#[test]
fn a_type_is_not_guessed_before_a_value_tells_it() {
    let blob = Value::BinaryObject { kind: "blob", value: b"\0" };
    let data = [Value::Null, blob, Value::Null].map(|value| insert_of(252, value));
    let announced = |ty: &str, seq: u64| format!("shop.t@{seq} (id bigint, v {ty}) key (id)");
    assert_eq!(schemas_of(&mut decoder(), &data), [announced("unknown", 10), announced("blob", 12)]);
    let decimal = |value, precision| insert_of(246, Value::Decimal { value, precision, scale: 2 });
    let unstated = [decimal("1.23", 0), decimal("123.45", 0), decimal("1.23", 5)];
    assert_eq!(schemas_of(&mut decoder(), &unstated), [announced("decimal(0,0)", 10)], "which a target keeps as text");
    let stated = [decimal("1.23", 5), decimal("123.45", 5), decimal("123.45", 0)];
    let expected = [announced("decimal(5,2)", 10), announced("decimal(0,0)", 14)];
    assert_eq!(schemas_of(&mut decoder(), &stated), expected);
}

#[test]
fn every_value_has_its_form_and_type() {
    let dt = |parts: [Option<i32>; 7]| {
        let [year, month, day, hour, minute, second, micros] = parts;
        Value::DateTime(DateTime { year, month, day, hour, minute, second, micros })
    };
    let full = [Some(2026), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7)];
    let date = [Some(2026), Some(2), Some(3), None, None, None, None];
    let time = |h, m, s, us| dt([None, None, None, Some(h), Some(m), Some(s), Some(us)]);
    let object = |kind, value| Value::BinaryObject { kind, value };
    for (number, value, json, ty) in [
        (1, int("-5"), "-5", "smallint"),
        (2, int("65535"), "65535", "mediumint"),
        (3, int("4294967295"), "4294967295", "bigint"),
        (16, int("5"), "5", "bit(64)"),
        (16, object("bit", b"\x01\x00"), "256", "bit(64)"),
        (13, int("2026"), "2026", "year"),
        (13, dt([Some(2026), None, None, None, None, None, None]), "2026", "year"),
        (4, Value::Float { value: f64::from(0.1f32), precision: 0, scale: 0 }, "0.1", "float"),
        (5, Value::Float { value: 0.1, precision: 0, scale: 0 }, "0.1", "double"),
        (246, Value::Decimal { value: "-0.50", precision: 5, scale: 2 }, "\"-0.50\"", "decimal(5,2)"),
        (246, Value::Null, "null", "unknown"),
        (246, Value::Decimal { value: "1.5", precision: 0, scale: 0 }, "\"1.5\"", "decimal(0,0)"),
        (252, Value::Null, "null", "unknown"),
        (255, Value::Null, "null", "unknown"),
        (253, text("né😀"), "\"né😀\"", "varchar"),
        (254, Value::Character { charset: "gbk", value: b"\xd6\xd0" }, "\"中\"", "char"),
        (253, Value::Character { charset: "binary", value: b"\0\xff" }, "\"AP8=\"", "varbinary"),
        (254, object("binary", b"\0\xff"), "\"AP8=\"", "binary"),
        (252, object("blob", b"\0\xff"), "\"AP8=\"", "blob"),
        (252, text("x"), "\"x\"", "text"),
        (252, Value::TextObject { kind: "text", value: "x\n" }, "\"x\\n\"", "text"),
        (245, Value::TextObject { kind: "json", value: "{\"a\": [1, null]}" }, "{\"a\": [1, null]}", "json"),
        (245, text("[1]"), "[1]", "json"),
        (247, text("red"), "\"red\"", "enum"),
        (248, text("a,b"), "\"a,b\"", "set"),
        (255, Value::BinaryGeometry { kind: "point", value: b"\x01" }, "\"AQ==\"", "geometry"),
        (255, Value::TextGeometry { kind: "point", value: "POINT(1 1)" }, "\"POINT(1 1)\"", "text"),
        (10, dt(date), "\"2026-02-03\"", "date"),
        (12, dt(full), "\"2026-02-03 04:05:06.000007\"", "datetime(6)"),
        (
            12,
            dt([full[0], full[1], full[2], full[3], full[4], full[5], None]),
            "\"2026-02-03 04:05:06\"",
            "datetime(6)",
        ),
        (12, dt([Some(0); 7]), "\"0000-00-00 00:00:00\"", "datetime(6)"),
        (11, time(4, 5, 6, 0), "\"04:05:06\"", "time(6)"),
        (11, time(-838, -59, -59, 0), "\"-838:59:59\"", "time(6)"),
        (11, time(0, 0, 0, -500_000), "\"-00:00:00.500000\"", "time(6)"),
        (7, Value::Timestamp { seconds: 951_782_400, micros: 7 }, "\"2000-02-29T00:00:00.000007Z\"", "timestamp(6)"),
        (7, Value::Timestamp { seconds: 0, micros: 0 }, "\"0000-00-00T00:00:00Z\"", "timestamp(6)"),
        (253, Value::Empty { none: false }, "null", "unknown"),
        (253, Value::Empty { none: true }, "null", "unknown"),
    ] {
        let datum = [insert_of(number, value)];
        let row = format!(r#"10 insert shop.t [1] {{"id":1,"v":{json}}}"#);
        assert_eq!(changes_of(&mut decoder(), &datum).unwrap(), [row]);
        let schema = format!("shop.t@10 (id bigint, v {ty}) key (id)");
        assert_eq!(schemas_of(&mut decoder(), &datum), [schema], "{value:?}");
    }
}
