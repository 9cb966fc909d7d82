//! JSON lines as a source: what is written comes back, and what is wrong is told with file and line.

use tidegate::change::{Changes, Op, TableFilter, TableSchema};
use tidegate::config::FileConfig;
use tidegate::source::file::{JsonlDecoder, JsonlReader};
use tidegate::source::{Decoder, Mark, Raws, Reader, SourceError, Start};

struct Seen {
    rows: Vec<String>,
    schemas: Vec<String>,
    mark: Mark,
}

fn read(text: &str, start: &Start) -> Result<Seen, SourceError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let config = FileConfig { path: file.path().into(), tables: Vec::new() };
    let mut reader = JsonlReader::open(&config, start)?;
    let filter = TableFilter::new(&["shop.*".into()]).unwrap();
    let mut decoder = JsonlDecoder::new(filter, true);
    let mut changes = Changes::default();
    let mut raws = Raws::default();
    let mark = loop {
        let mark = reader.read(&mut raws)?;
        if mark.end {
            break mark;
        }
    };
    for raw in raws.raws() {
        decoder.decode(&raw, &mut changes)?;
    }
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let rows = changes.changes().filter(|c| c.op() != Op::Schema).map(|c| {
        let (key, before, row) = (text(c.key()), text(c.before()), text(c.row()));
        format!("{}@{} {} {} [{key}] {before}{row}", c.head.seq, c.head.time, c.op().name(), c.table())
    });
    let schemas = changes.changes().filter(|c| c.op() == Op::Schema).map(|c| {
        let schema: TableSchema = serde_json::from_slice(c.row()).unwrap();
        let columns: Vec<_> = schema.columns.iter().map(|c| format!("{} {}", c.name, c.ty)).collect();
        format!("{}@{} {}", schema.name.table, schema.since_seq, columns.join(", "))
    });
    Ok(Seen { rows: rows.collect(), schemas: schemas.collect(), mark })
}

fn error(line: &str) -> String {
    let text = format!("\n{line}\n");
    read(&text, &Start::Configured).err().expect("an error").to_string()
}

const LINES: &str = concat!(
    r#"{"op":"insert","database":"shop","table":"t","time":5000,"key":["id"],"row":{"id":1,"v":null}}"#,
    "\n\n",
    r#"{"op":"update","database":"shop","table":"t","time":4000,"key":["id"],"row":{"id":1,"v":"né\u0041"}, "before":{"id":1,"v":null}}"#,
    "\n",
    r#"{"op":"update","database":"shop","table":"t","time":6000,"key":["id"],"row":{"id":2,"v":"b"},"before":{"id":1,"v":"néA"}}"#,
    "\r\n",
    r#"{"op":"insert","database":"other","table":"t","row":{"id":1}}"#,
    "\n",
    r#"{"op":"delete","database":"shop","table":"t","time":7000,"key":["v","id"],"row":{"id":2,"v":"b"}}"#,
);

#[test]
fn lines_become_changes_in_their_order() {
    let Seen { rows, schemas, mark } = read(LINES, &Start::Configured).unwrap();
    // The line without a time has the clock's, which is later than any time here.
    let now = mark.time;
    assert_eq!(
        rows,
        [
            r#"2@5000 insert t [1] {"id":1,"v":null}"#.to_string(),
            r#"6@5000 update t [1] {"id":1,"v":null}{"id":1,"v":"néA"}"#.into(),
            r#"8@6000 delete t [1] {"id":1,"v":"néA"}"#.into(),
            r#"9@6000 insert t [2] {"id":2,"v":"b"}"#.into(),
            format!(r#"12@{now} delete t [["b","2"]] {{"id":2,"v":"b"}}"#),
        ]
    );
    assert_eq!(schemas[0], "t@2 id bigint, v text");
    assert_eq!(schemas.len(), 2, "the key of the last line is another: {schemas:?}");
    assert_eq!((mark.seq, mark.resume.seq), (14, 14));
    assert!(mark.resume.position.ends_with(" line 7"), "{mark:?}");
}

#[test]
fn reading_again_gives_the_same_numbers() {
    let first = LINES.find('\n').unwrap() + 1;
    let resume = tidegate::source::Resume { position: format!("{first} line 2"), seq: 4 };
    let seen = read(LINES, &Start::Resume { resume, clock: tidegate::source::Clock::from(5000) }).unwrap();
    assert_eq!(seen.rows[0], r#"6@5000 update t [1] {"id":1,"v":null}{"id":1,"v":"néA"}"#);
    let elsewhere = tidegate::source::Resume { position: "17".into(), seq: 4 };
    let error = read(LINES, &Start::Resume { resume: elsewhere, clock: tidegate::source::Clock::from(0) })
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("another kind of source"), "{error}");
}

#[test]
fn types_are_stated_or_guessed() {
    let line = |types: &str, row: &str| {
        format!(r#"{{"op":"insert","database":"shop","table":"t","time":1,"types":{{{types}}},"row":{{{row}}}}}"#)
            + "\n"
    };
    let guessed = line("", r#""a":1,"b":1.5,"c":"x","d":true,"e":[1, 2],"f":18446744073709551615,"g":null"#);
    let seen = read(&guessed, &Start::Configured).unwrap();
    let types = "a bigint, b double, c text, d tinyint, e json, f bigint unsigned, g text";
    assert_eq!(seen.schemas, [format!("t@2 {types}")]);
    let row = r#"{"a":1,"b":1.5,"c":"x","d":1,"e":[1, 2],"f":18446744073709551615,"g":null}"#;
    assert_eq!(seen.rows, [format!("2@1 insert t [] {row}")]);

    let stated = r#""a":"decimal(10,2)","b":"float","c":"datetime(3)","d":"int unsigned","e":"json","f":"blob""#;
    let values = r#""a":1.50,"b":0.1,"c":"2026-01-01 00:00:00.000","d":7,"e":"text","f":"AP8=""#;
    let seen = read(&line(stated, values), &Start::Configured).unwrap();
    let types = "a decimal(10,2), b float, c datetime(3), d int unsigned, e json, f blob";
    assert_eq!(seen.schemas, [format!("t@2 {types}")]);
    let row = r#"{"a":"1.50","b":0.1,"c":"2026-01-01 00:00:00.000","d":7,"e":"text","f":"AP8="}"#;
    assert_eq!(seen.rows, [format!("2@1 insert t [] {row}")]);

    let grows = line("", r#""a":1"#) + &line("", r#""a":1.5"#) + &line("", r#""a":2"#) + &line("", r#""a":null"#);
    let seen = read(&grows, &Start::Configured).unwrap();
    assert_eq!(seen.schemas, ["t@2 a bigint", "t@4 a double"], "and stays so");
}

#[test]
fn errors_name_file_line_table_and_column() {
    let in_line_two = |line: &str, expected: &str| {
        let error = error(line);
        assert!(error.contains(":2: ") && error.contains(expected), "{error}");
    };
    in_line_two("{\"op\":", "no change in tidegate's JSON");
    in_line_two(r#"{"op":"insert","database":"shop","table":"t","rwo":{}}"#, "unknown field `rwo`");
    in_line_two(r#"{"op":"upsert","database":"shop","table":"t","row":{}}"#, "'upsert'");
    in_line_two(r#"{"op":"insert","database":"shop","table":"t","key":["k"],"row":{}}"#, "column k, which is not in");
    in_line_two(
        r#"{"op":"insert","database":"shop","table":"t","key":["k"],"row":{"k":null}}"#,
        "table shop.t, column k: it is in the key and null",
    );
    in_line_two(
        r#"{"op":"insert","database":"shop","table":"t","types":{"v":"int"},"row":{"v":"x"}}"#,
        "table shop.t, column v: its type is int, and \"x\" is no value of it",
    );
    in_line_two(r#"{"op":"insert","database":"shop","table":"t","types":{"v":"frob"},"row":{}}"#, "'frob'");
    let missing = FileConfig { path: "/nowhere/x.jsonl".into(), tables: Vec::new() };
    let error = JsonlReader::open(&missing, &Start::Configured).err().unwrap().to_string();
    assert!(error.starts_with("/nowhere/x.jsonl can't be read"), "{error}");
}

#[test]
fn a_line_that_is_being_written_is_not_cut_in_two() {
    use std::io::Write;
    let line = r#"{"op":"insert","database":"shop","table":"t","time":5000,"key":["id"],"row":{"id":1}}"#;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{line}").unwrap();
    let config = FileConfig { path: file.path().into(), tables: Vec::new() };
    let mut reader = JsonlReader::open(&config, &Start::Configured).unwrap();
    // Appended while it is read, and half of it is there.
    let second = line.replace("\"id\":1", "\"id\":2");
    file.write_all(&second.as_bytes()[..40]).unwrap();
    let mut raws = Raws::default();
    let mark = loop {
        let mark = reader.read(&mut raws).unwrap();
        if mark.end {
            break mark;
        }
    };
    file.write_all(&second.as_bytes()[40..]).unwrap();
    file.write_all(b"\n").unwrap();
    let start = Start::Resume { resume: mark.resume, clock: tidegate::source::Clock::from(0) };
    let mut reader = JsonlReader::open(&config, &start).unwrap();
    loop {
        let mark = reader.read(&mut raws).unwrap();
        if mark.end {
            break;
        }
    }
    let bodies: Vec<String> = raws.raws().map(|raw| String::from_utf8_lossy(raw.body).into_owned()).collect();
    assert_eq!(bodies, [line.to_string(), second]);
}

#[test]
fn a_line_of_which_a_part_is_there_is_neither_taken_nor_passed_over() {
    use std::io::Write;
    let line = r#"{"op":"insert","database":"shop","table":"t","time":5000,"key":["id"],"row":{"id":1}}"#;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&line.as_bytes()[..40]).unwrap();
    let config = FileConfig { path: file.path().into(), tables: Vec::new() };
    let mut reader = JsonlReader::open(&config, &Start::Configured).unwrap();
    file.write_all(&line.as_bytes()[40..]).unwrap();
    let mut raws = Raws::default();
    let refused = reader.read(&mut raws).unwrap_err().to_string();
    assert!(refused.contains(":1: the file ended in the midst of a line"), "{refused}");
    assert!(raws.is_empty());
    // All of it, though nothing ends it.
    let mut reader = JsonlReader::open(&config, &Start::Configured).unwrap();
    assert!(!reader.read(&mut raws).unwrap().end || !raws.is_empty());
    assert_eq!(raws.raws().map(|raw| raw.body.to_vec()).collect::<Vec<_>>(), [line.as_bytes().to_vec()]);
}
