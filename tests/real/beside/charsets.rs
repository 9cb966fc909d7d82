//! Text in every character set: each letter is the one that the server itself says, on both servers, for every code.
//!
//! With `LETTERS=write` in the environment the first test writes the tables (`src/codec/charset/letters.bin`) from what
//! MySQL says; build again afterwards.

use std::io::Write;

use crate::binlog::{Database, SERVERS, read_to_end, rows};
use mysql::prelude::Queryable;
use tidegate::change::{Changes, Op};
use tidegate::codec::binlog::BinlogDecoder;
use tidegate::codec::charset::decode;
use tidegate::source::{Decoder, SourceError};

/// What a server makes of the bytes of a code: the text, where it takes them as they are and has a letter for each.
struct Code {
    bytes: Vec<u8>,
    text: Option<String>,
    letters: u64,
}

/// A row of the answer: the code, the text made of it, its bytes as the server took them, how many letters it sees.
type Asked = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, Option<u64>);

/// A database with the table `b` of all bytes.
fn with_bytes(server: &'static str) -> Database {
    let mut database = Database::new(server, "charsets");
    database.run("CREATE TABLE b (b binary(1) PRIMARY KEY)");
    let bytes: Vec<String> = (0..256).map(|byte| format!("(x'{byte:02x}')")).collect();
    database.run(&format!("INSERT INTO b VALUES {}", bytes.join(",")));
    database
}

/// The names of the server's character sets, and how many bytes a letter may have.
fn charsets(database: &mut Database) -> Vec<(String, usize)> {
    let sql = "SELECT CHARACTER_SET_NAME, MAXLEN FROM information_schema.CHARACTER_SETS \
               WHERE CHARACTER_SET_NAME <> 'binary' ORDER BY CHARACTER_SET_NAME";
    database.conn.query(sql).unwrap()
}

/// Which bytes may stand first, second and so on in the codes to ask for, as conditions on `a.b`, `b.b`, `c.b` and `d.b`.
fn shapes(charset: &str, longest: usize) -> Vec<Vec<&'static str>> {
    const ANY: &str = "BETWEEN x'00' AND x'ff'";
    const GB: [&str; 2] = ["BETWEEN x'81' AND x'fe'", "BETWEEN x'30' AND x'39'"];
    match (charset, longest) {
        ("utf8mb3" | "utf8mb4", _) => Vec::new(), // they are not converted
        ("ucs2", _) => vec![vec![ANY, ANY]],
        ("utf16", _) => {
            vec![vec![ANY, ANY], vec!["BETWEEN x'd8' AND x'db'", ANY, "BETWEEN x'dc' AND x'df'", ANY]]
        }
        ("utf16le", _) => {
            vec![vec![ANY, ANY], vec![ANY, "BETWEEN x'd8' AND x'db'", ANY, "BETWEEN x'dc' AND x'df'"]]
        }
        ("utf32", _) => vec![vec!["= x'00'", "BETWEEN x'00' AND x'11'", ANY, ANY]],
        ("gb18030", _) => vec![vec![ANY], vec![ANY, ANY], vec![GB[0], GB[1], GB[0], GB[1]]],
        (_, 1) => vec![vec![ANY]],
        (_, 2) => vec![vec![ANY], vec![ANY, ANY]],
        (_, 3) => vec![vec![ANY], vec![ANY, ANY], vec!["BETWEEN x'8e' AND x'8f'", ANY, ANY]],
        other => panic!("a character set that this test does not know: {other:?}"),
    }
}

/// Asks the server for all codes of a shape, in their order.
fn ask(database: &mut Database, charset: &str, shape: &[&str], mut each: impl FnMut(Code)) {
    let names = &["a", "b", "c", "d"][..shape.len()];
    let column = |name: &&str| format!("{name}.b");
    let columns: Vec<String> = names.iter().map(column).collect();
    let conditions: Vec<String> = columns.iter().zip(shape).map(|(column, of)| format!("{column} {of}")).collect();
    let tables: Vec<String> = names.iter().map(|name| format!("b {name}")).collect();
    let sql = format!(
        "SELECT x, CAST(CONVERT(c USING utf8mb4) AS BINARY), CAST(c AS BINARY), CHAR_LENGTH(c) \
         FROM (SELECT x, CONVERT(x USING {charset}) c \
               FROM (SELECT CONCAT({}) x FROM {} WHERE {} ORDER BY {}) codes) converted",
        columns.join(", "),
        tables.join(", "),
        conditions.join(" AND "),
        columns.join(", "),
    );
    let mut asked = 0u32;
    for row in database.conn.query_iter(sql).unwrap() {
        let (bytes, text, taken, letters): Asked = mysql::from_row(row.unwrap());
        let text = text.filter(|_| taken.as_ref() == Some(&bytes)).and_then(|text| String::from_utf8(text).ok());
        let letters = letters.unwrap_or(0);
        // Half a code at the end is left out without a word.
        let text = text.filter(|text| text.chars().count() as u64 == letters);
        let marks = bytes.iter().filter(|byte| **byte == b'?').count();
        let text = text.filter(|text| text.matches('?').count() <= marks);
        asked += 1;
        each(Code { bytes, text, letters });
    }
    assert!(asked >= 256, "{charset}: {asked} codes");
}

#[test]
fn every_code_of_every_character_set_is_the_letter_that_the_server_says() {
    if std::env::var("LETTERS").is_ok_and(|what| what == "write") {
        write_letters();
    }
    for server in SERVERS {
        let mut database = with_bytes(server);
        for (charset, longest) in charsets(&mut database) {
            let (mut letters, mut wrong) = (0, Vec::new());
            for shape in shapes(&charset, longest) {
                ask(&mut database, &charset, &shape, |code| {
                    let ours = decode(&charset, &code.bytes);
                    letters += usize::from(code.text.is_some());
                    if ours.as_ref().ok().map(|text| text.as_deref().unwrap()) != code.text.as_deref() {
                        wrong.push(format!("{:02x?}: {:?} and not {ours:?}", code.bytes, code.text));
                    }
                });
            }
            wrong.truncate(20);
            assert!(wrong.is_empty(), "{server}, {charset}: {wrong:#?}");
            assert!(letters >= 127 || charset.starts_with("utf8"), "{server}, {charset}: {letters} letters");
        }
    }
}

/// Writes the tables in the form that `src/codec/charset/table.rs` describes.
fn write_letters() {
    let mut database = with_bytes("MYSQL_URL");
    let mut file = Vec::new();
    for (charset, longest) in charsets(&mut database) {
        if charset.starts_with("utf") || charset == "ucs2" {
            continue;
        }
        file.push(charset.len() as u8);
        file.extend_from_slice(charset.as_bytes());
        let mut runs: [Vec<[u32; 3]>; 4] = Default::default();
        for shape in shapes(&charset, longest) {
            let runs = &mut runs[shape.len() - 1];
            ask(&mut database, &charset, &shape, |code| {
                let Some(text) = code.text.filter(|_| code.letters == 1) else { return };
                // verify counts question marks by their bytes.
                assert!(code.bytes == b"?" || !code.bytes.contains(&b'?'), "{charset} {:02x?}", code.bytes);
                let letter = text.chars().next().unwrap() as u32;
                let number = match *code.bytes {
                    [a, b, c, d] => {
                        let [a, b, c, d] = [a - 0x81, b - b'0', c - 0x81, d - b'0'].map(u32::from);
                        ((a * 10 + b) * 126 + c) * 10 + d
                    }
                    _ => code.bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)),
                };
                match runs.last_mut() {
                    Some([first, count, of]) if *first + *count == number && *of + *count == letter => *count += 1,
                    _ => runs.push([number, 1, letter]),
                }
            });
        }
        for runs in runs {
            varint(&mut file, runs.len() as u32);
            let (mut next, mut expected) = (0, 0);
            for [first, count, letter] in runs {
                varint(&mut file, first - next);
                varint(&mut file, count);
                let step = letter as i32 - expected;
                varint(&mut file, (step << 1 ^ step >> 31) as u32);
                (next, expected) = (first + count, (letter + count) as i32);
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/codec/charset/letters.bin");
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&file).unwrap();
    std::fs::write(path, packed.finish().unwrap()).unwrap();
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[test]
fn text_in_every_character_set_comes_as_the_server_shows_it() {
    for server in SERVERS {
        let mut database = with_bytes(server);
        let charsets = charsets(&mut database);
        let columns: Vec<String> =
            charsets.iter().map(|(name, _)| format!("{name} mediumtext CHARACTER SET {name}")).collect();
        database.run(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", ")));
        let mut texts = Vec::new();
        for (charset, longest) in &charsets {
            let mut bytes = Vec::new();
            for shape in shapes(charset, *longest).iter().filter(|shape| shape.len() < 4) {
                ask(&mut database, charset, shape, |code| {
                    if code.text.is_some() && code.letters == 1 {
                        bytes.extend_from_slice(&code.bytes);
                    }
                });
            }
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            texts.push(match hex.is_empty() {
                true => "'née 日本 😀'".replace(if charset == "utf8mb3" { " 😀" } else { "-" }, ""),
                false => format!("_{charset} x'{hex}'"),
            });
        }
        let start = database.end();
        database.run(&format!("INSERT INTO t VALUES (1, {})", texts.join(", ")));
        let seen = database.changes(&start);
        let [(_, _, row)] = rows(&seen)[..] else { panic!("{server}: one row") };
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        for (charset, _) in charsets {
            let sql = format!("SELECT CAST(CONVERT({charset} USING utf8mb4) AS BINARY) FROM t");
            let shown: Vec<u8> = database.conn.query_first(sql).unwrap().unwrap();
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.chars().count() >= 6 && row[&charset] == *shown, "{server}, {charset}");
        }
    }
}

#[test]
fn every_collation_is_known() {
    for server in SERVERS {
        let mut database = Database::new(server, "collations");
        let start = database.end();
        let collations: Vec<String> = database
            .conn
            .query("SELECT FULL_COLLATION_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY")
            .or_else(|_| database.conn.query("SELECT COLLATION_NAME FROM information_schema.COLLATIONS"))
            .unwrap();
        assert!(collations.len() > 250, "{server}: {}", collations.len());
        for (number, collations) in collations.chunks(200).enumerate() {
            let column = |(n, collation): (usize, &String)| match &collation[..] {
                "binary" => format!("c{n} varchar(3)"),
                collation => format!("c{n} varchar(3) COLLATE {collation}, e{n} enum('abc') COLLATE {collation}"),
            };
            let columns: Vec<String> = collations.iter().enumerate().map(column).collect();
            database.run(&format!("CREATE TABLE t{number} (id int PRIMARY KEY, {})", columns.join(", ")));
            let columns: Vec<String> = database
                .conn
                .query(format!("SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_NAME = 't{number}' AND TABLE_SCHEMA = DATABASE() AND COLUMN_NAME <> 'id'"))
                .unwrap();
            database.run(&format!(
                "INSERT INTO t{number} (id, {}) VALUES (1{})",
                columns.join(", "),
                ", 'abc'".repeat(columns.len())
            ));
        }
        let seen = database.changes(&start);
        for (_, _, row) in rows(&seen) {
            let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row).unwrap();
            assert!(
                row.len() > 20 && row.iter().all(|(name, value)| name == "id" || value == "abc"),
                "{server}: {row:?}"
            );
        }
    }
}

#[test]
fn what_has_no_letter_is_refused_by_table_key_and_column() {
    for server in SERVERS {
        let mut database = Database::new(server, "no_letter");
        database.run("CREATE TABLE t (v varchar(9) CHARACTER SET sjis, id int PRIMARY KEY)");
        let start = database.end();
        database.run("INSERT INTO t VALUES (_sjis x'418540', 77)");
        let error = database.error(&start);
        for word in [&format!("table {}.t", database.name), "key 77, column v", "sjis", "byte 1", "0x8540", "mend"] {
            assert!(error.contains(word), "{server}: '{word}' is not in: {error}");
        }
        // The other rows of the event are none the worse for it.
        let start = database.end();
        database.run("INSERT INTO t VALUES ('a', 1), (_sjis x'418540', 2), ('c', 3)");
        let (raws, _) = read_to_end(&mut database.reader(&start)).unwrap();
        let (mut changes, mut decoder) = (Changes::default(), BinlogDecoder::new(false));
        let raw = raws.raws().next().unwrap();
        let Err(SourceError::Rows(unusable)) = decoder.decode(&raw, &mut changes) else { panic!("{server}") };
        let keys: Vec<&[u8]> = changes.changes().filter(|change| change.op() == Op::Insert).map(|c| c.key()).collect();
        assert_eq!(keys, [b"1", b"3"], "{server}");
        assert_eq!((unusable.len(), unusable[0].key.as_deref()), (1, Some("2")), "{server}");
        assert_eq!(unusable[0].value.as_deref(), Some(r#"{"v":null,"id":2}"#), "{server}");
    }
}
