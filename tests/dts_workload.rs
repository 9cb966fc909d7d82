//! The demo's workload and its model: what is decoded from the one, applied naively, is the other.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;
use serde_json::value::RawValue;
use tidegate::change::{Changes, Op, TableFilter};
use tidegate::codec::dts::{DtsDecoder, Front, Operation};
use tidegate::config::FileConfig;
use tidegate::demo::{Model, Value, Workload};
use tidegate::source::file::DtsFileReader;
use tidegate::source::{Decoder, Mark, Raws, Reader, Start};

type State = BTreeMap<(String, String), Vec<Json>>;

fn decoder() -> DtsDecoder {
    DtsDecoder::new(TableFilter::default(), false)
}

/// The JSON that a value must be, by a rendering of the test's own.
fn json(value: &Value) -> Json {
    let hms = |second: u32| format!("{:02}:{:02}:{:02}", second / 3600, second % 3600 / 60, second % 60);
    let fraction = |micros: u32| if micros == 0 { String::new() } else { format!(".{micros:06}") };
    match value {
        Value::Null => Json::Null,
        Value::Int(value) => Json::from(*value),
        Value::Double(value) => Json::from(format!("{value} exactly")),
        Value::Decimal(text) | Value::Text(text) => Json::from(text.as_str()),
        Value::Json(text) => serde_json::from_str(text).unwrap(),
        Value::Bytes(bytes) => {
            use base64::Engine;
            Json::from(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        Value::Date(y, m, d) => Json::from(format!("{y:04}-{m:02}-{d:02}")),
        Value::DateTime(y, m, d, second, micros) => {
            Json::from(format!("{y:04}-{m:02}-{d:02} {}{}", hms(*second), fraction(*micros)))
        }
        Value::Instant(seconds, micros) => {
            // All of them lie in 2026, or shortly after.
            let days = (seconds - 1_767_225_600) / 86_400;
            let (mut year, mut day) = (2026, days);
            while day >= 365 {
                day -= 365;
                year += 1;
            }
            let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let mut month = 0;
            while day >= lengths[month] {
                day -= lengths[month];
                month += 1;
            }
            let second = (seconds % 86_400) as u32;
            let (month, day) = (month + 1, day + 1);
            Json::from(format!("{year:04}-{month:02}-{day:02}T{}{}Z", hms(second), fraction(*micros)))
        }
    }
}

/// JSON text as a value; a fraction as text, since serde_json reads some numbers one bit off.
fn exact(text: &str) -> Json {
    match text.parse::<f64>() {
        Ok(value) if text.parse::<i64>().is_err() => Json::from(format!("{value} exactly")),
        _ => serde_json::from_str(text).unwrap(),
    }
}

fn expected(model: &Model) -> State {
    let mut state = State::new();
    for table in model.tables() {
        for row in table.rows() {
            let row: Vec<Json> = row.iter().map(json).collect();
            let texts: Vec<String> = table
                .key()
                .iter()
                .map(|&k| row[k].as_str().map_or_else(|| row[k].to_string(), |text| text.to_string()))
                .collect();
            let key = if texts.len() == 1 { texts[0].clone() } else { serde_json::to_string(&texts).unwrap() };
            assert!(state.insert((table.name().into(), key), row).is_none(), "a key twice in {}", table.name());
        }
    }
    state
}

/// Applies changes strictly: an insert finds nothing, an update and a delete find a row.
fn apply(changes: &Changes, state: &mut State, columns: &BTreeMap<String, Vec<String>>) {
    for change in changes.changes().filter(|change| change.op() != Op::Schema) {
        let key = (change.table().to_string(), String::from_utf8(change.key().to_vec()).unwrap());
        let row: BTreeMap<String, &RawValue> = serde_json::from_slice(change.row()).unwrap();
        let row: Vec<Json> = columns[change.table()].iter().map(|column| exact(row[column].get())).collect();
        let old = match change.op() {
            Op::Delete => {
                let old = state.remove(&key);
                assert_eq!(old.as_ref(), Some(&row), "a delete carries the row that is there");
                old
            }
            _ => state.insert(key, row),
        };
        assert_eq!(old.is_none(), change.op() == Op::Insert, "{:?} of {:?}", change.op(), change.key());
    }
}

fn columns(model: &Model) -> BTreeMap<String, Vec<String>> {
    let names = |table: &[&str]| table.iter().map(|name| name.to_string()).collect();
    model.tables().map(|table| (table.name().to_string(), names(&table.columns()))).collect()
}

#[test]
fn the_decoded_changes_lead_to_the_model() {
    for (seed, changes, keys) in [(1, 30_000, 1_500), (2, 3_000, 4), (3, 500, 100_000)] {
        let mut workload = Workload::new(seed, changes, keys);
        let columns = columns(workload.model());
        let (mut decoder, mut state, mut seq, mut seen) = (decoder(), State::new(), 0, 0);
        while let Some(transaction) = workload.next() {
            let mut raws = Raws::default();
            for record in transaction.records() {
                raws.push_raw(seq, 1, "p", b"", record);
                seq += 2;
            }
            let mut changes = Changes::default();
            raws.raws().for_each(|raw| decoder.decode(&raw, &mut changes).unwrap());
            apply(&changes, &mut state, &columns);
            seen += transaction.changes;
            assert!(workload.model().rows() as u64 <= keys + 3, "each table has room for one at least");
        }
        assert_eq!(seen, changes);
        assert_eq!(state.len(), workload.model().rows());
        for (key, row) in expected(workload.model()) {
            assert_eq!(state.get(&key), Some(&row), "seed {seed}, {key:?}");
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_workload_and_another_another() {
    let bytes = |seed| -> Vec<Vec<u8>> {
        Workload::new(seed, 2_000, 100).flat_map(|t| t.records().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
    };
    assert!(bytes(7) == bytes(7));
    assert!(bytes(7) != bytes(8));
}

#[test]
fn the_workload_has_everything_that_goes_wrong_elsewhere() {
    let (mut operations, mut fillers, mut backwards, mut large) = (HashSet::new(), 0, 0, 0);
    let (mut newest, mut ties, mut moved, mut open) = (0, 0, 0, false);
    let mut decoder = decoder();
    for transaction in Workload::new(5, 20_000, 1_000) {
        large += usize::from(transaction.changes >= 100);
        for record in transaction.records() {
            if Front::is_mock(record) {
                fillers += 1;
                continue;
            }
            let front = Front::read(record).unwrap();
            let operation = front.operation.unwrap();
            operations.insert(operation);
            backwards += usize::from(front.source_timestamp < newest);
            ties += usize::from(front.source_timestamp == newest);
            newest = newest.max(front.source_timestamp);
            match operation {
                Operation::Begin => open = !std::mem::replace(&mut open, true),
                Operation::Commit => assert!(std::mem::replace(&mut open, false), "a COMMIT without BEGIN"),
                _ => {}
            }
            let mut raws = Raws::default();
            raws.push_raw(0, 0, "", b"", record);
            let mut changes = Changes::default();
            decoder.decode(&raws.raws().next().unwrap(), &mut changes).unwrap();
            moved += usize::from(changes.changes().filter(|change| change.op() != Op::Schema).count() == 2);
        }
    }
    use Operation::{Begin, Commit, Ddl, Delete, Heartbeat, Insert, Update};
    assert_eq!(operations, HashSet::from([Insert, Update, Delete, Ddl, Begin, Commit, Heartbeat]));
    let counts = [fillers, backwards, ties, moved, large];
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn main_rows_are_of_the_stated_size() {
    let mut decoder = decoder();
    let (mut rows, mut bytes) = (0, 0);
    for transaction in Workload::new(5, 5_000, 1_000) {
        for record in transaction.records() {
            let mut raws = Raws::default();
            raws.push_raw(0, 0, "", b"", record);
            let mut changes = Changes::default();
            decoder.decode(&raws.raws().next().unwrap(), &mut changes).unwrap();
            for change in changes.changes().filter(|c| c.op() != Op::Schema && c.table() == "orders") {
                rows += 1;
                bytes += change.row().len();
            }
        }
    }
    assert!((280..=400).contains(&(bytes / rows)), "{}", bytes / rows);
}

/// All changes of a file, read from `start` on, and the marks.
fn read_file(config: &FileConfig, start: &Start) -> (Vec<(u64, String)>, Vec<Mark>) {
    let mut reader = DtsFileReader::open(config, start).unwrap();
    let (mut decoder, mut rows, mut marks) = (decoder(), Vec::new(), Vec::new());
    loop {
        let mut raws = Raws::default();
        let mark = reader.read(&mut raws).unwrap();
        let mut changes = Changes::default();
        for raw in raws.raws() {
            decoder.decode(&raw, &mut changes).unwrap();
        }
        let changes = changes.changes().filter(|change| change.op() != Op::Schema);
        rows.extend(changes.map(|c| (c.head.seq, String::from_utf8(c.row().to_vec()).unwrap())));
        marks.push(mark);
        if marks[marks.len() - 1].end {
            return (rows, marks);
        }
    }
}

#[test]
fn a_file_of_records_is_read_as_a_topic_is_and_from_every_mark_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = Vec::new();
    let mut workload = Workload::new(9, 5_000, 300);
    for transaction in &mut workload {
        for record in transaction.records() {
            bytes.extend_from_slice(&(record.len() as u32).to_be_bytes());
            bytes.extend_from_slice(record);
        }
    }
    std::fs::write(file.path(), &bytes).unwrap();
    let config = FileConfig { path: file.path().into(), tables: Vec::new() };
    let (rows, marks) = read_file(&config, &Start::Configured);
    assert!(rows.len() > 5_000 && marks.len() > 10);
    assert!(marks.is_sorted_by(|a, b| a.seq <= b.seq && a.time <= b.time));
    for mark in &marks {
        let (again, _) = read_file(
            &config,
            &Start::Resume { resume: mark.resume.clone(), clock: tidegate::source::Clock::from(mark.time) },
        );
        let first = rows.partition_point(|row| row.0 < mark.resume.seq);
        assert!(again == rows[first..], "from {mark:?}");
    }

    std::fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
    let mut reader = DtsFileReader::open(&config, &Start::Configured).unwrap();
    let error = loop {
        if let Err(error) = reader.read(&mut Raws::default()) {
            break error.to_string();
        }
    };
    assert!(error.contains(&*file.path().to_string_lossy()) && error.contains("ends inside a record"), "{error}");
}
