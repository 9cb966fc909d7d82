//! verify against a naive oracle: two sets of tables in memory, compared by maps and by the dataflow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tidegate::change::{Column, TableFilter, TableName, TableSchema};
use tidegate::verify::chunks::cut;
use tidegate::verify::{
    Difference, Keys, Kind, MemorySide, Observer, Options, Outcome, Report, Row, RowSink, Session, Side, SourceTable,
    TablePlan, TargetColumn, Value, VerifyError, compare,
};
use tidegate::workers::Workers;

fn schema(table: &str, columns: &[(&str, &str)], key: &[&str]) -> TableSchema {
    TableSchema {
        name: TableName::new("shop", table),
        columns: columns
            .iter()
            .map(|(name, ty)| Column { name: (*name).into(), ty: ty.parse().unwrap(), nullable: true })
            .collect(),
        key: key.iter().map(|name| (*name).into()).collect(),
        since_seq: 0,
        partial: false,
    }
}

/// The three kinds of key: an integer, several columns with an integer first, and a text.
fn schemas() -> [TableSchema; 3] {
    [
        schema("by_number", &[("id", "bigint"), ("name", "varchar"), ("price", "decimal(10,2)")], &["id"]),
        schema("by_both", &[("name", "varchar"), ("shop", "int"), ("n", "double")], &["shop", "name"]),
        schema("by_text", &[("code", "varchar"), ("n", "int")], &["code"]),
    ]
}

#[derive(Clone, Debug)]
enum Cell {
    Null,
    Number(i64),
    Text(String),
}

impl Cell {
    fn value(&self) -> Value<'_> {
        match self {
            Cell::Null => Value::Null,
            Cell::Number(n) => Value::Int(*n),
            Cell::Text(text) => Value::text(text),
        }
    }
}

type Table = BTreeMap<Vec<String>, Vec<Cell>>;

fn number() -> impl Strategy<Value = Cell> {
    prop_oneof![
        4 => (-20i64..60).prop_map(Cell::Number),
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), -1_000_000i64..1_000_000].prop_map(Cell::Number),
    ]
}

fn text() -> impl Strategy<Value = Cell> {
    "[aAb é]{0,3}".prop_map(Cell::Text)
}

fn maybe(cell: impl Strategy<Value = Cell>) -> impl Strategy<Value = Cell> {
    prop_oneof![1 => Just(Cell::Null), 4 => cell]
}

fn rows(row: impl Strategy<Value = Vec<Cell>>, key: &'static [usize]) -> impl Strategy<Value = Table> {
    prop::collection::vec(row, 0..60).prop_map(move |rows| {
        let text = |cell: &Cell| cell.value().show().unwrap();
        rows.into_iter().map(|row| (key.iter().map(|&column| text(&row[column])).collect(), row)).collect()
    })
}

fn tables() -> impl Strategy<Value = [Table; 3]> {
    let price = (0u32..300).prop_map(|cents| Cell::Text(format!("{}.{:02}", cents / 100, cents % 100)));
    (
        rows((number(), maybe(text()), maybe(price)).prop_map(|(a, b, c)| vec![a, b, c]), &[0]),
        rows((text(), (0i64..4).prop_map(Cell::Number), maybe(number())).prop_map(|(a, b, c)| vec![a, b, c]), &[1, 0]),
        rows((text(), maybe(number())).prop_map(|(a, b)| vec![a, b]), &[0]),
    )
        .prop_map(|(a, b, c)| [a, b, c])
}

/// A target that has most rows of the source, some of them altered, and some of its own.
fn damaged() -> impl Strategy<Value = ([Table; 3], [Table; 3])> {
    (tables(), tables(), prop::collection::vec(0u8..10, 200)).prop_map(|(source, other, fates)| {
        let mut fates = fates.into_iter().cycle();
        let mut target = source.clone();
        for (table, others) in target.iter_mut().zip(&other) {
            table.retain(|_, _| fates.next() != Some(0));
            for (key, row) in others {
                match fates.next() {
                    Some(0..=2) => drop(table.insert(key.clone(), row.clone())),
                    _ => continue,
                }
            }
        }
        (source, target)
    })
}

fn side(name: &str, tables: &[Table; 3]) -> MemorySide {
    schemas().into_iter().zip(tables).fold(MemorySide::new(name), |side, (schema, rows)| {
        let row = |cells: &Vec<Cell>| Row::new(&cells.iter().map(Cell::value).collect::<Vec<_>>());
        side.table(schema, rows.values().map(row).collect())
    })
}

/// What differs: for each table and key the kind and the names of the columns.
type Differences = BTreeMap<(String, Vec<String>), (Kind, Vec<String>)>;

fn oracle(source: &[Table; 3], target: &[Table; 3]) -> Differences {
    let mut differences = Differences::new();
    for ((schema, source), target) in schemas().iter().zip(source).zip(target) {
        for key in source.keys().chain(target.keys()) {
            let verdict = match (source.get(key), target.get(key)) {
                (Some(_), None) => (Kind::Missing, Vec::new()),
                (None, _) => (Kind::Extra, Vec::new()),
                (Some(a), Some(b)) => {
                    let differing = |(a, b): (&Cell, &Cell)| a.value().show() != b.value().show();
                    let columns: Vec<String> = (0..a.len())
                        .filter(|&column| differing((&a[column], &b[column])))
                        .map(|column| schema.columns[column].name.clone())
                        .collect();
                    if columns.is_empty() {
                        continue;
                    }
                    (Kind::Changed, columns)
                }
            };
            differences.insert((schema.name.table.clone(), key.clone()), verdict);
        }
    }
    differences
}

fn found(report: &Report) -> Differences {
    let one = |difference: &Difference| {
        let key = difference.key.iter().map(|(_, value)| value.clone()).collect();
        let columns = difference.columns.iter().map(|column| column.name.clone()).collect();
        ((difference.table.table.clone(), key), (difference.kind, columns))
    };
    report.tables.iter().flat_map(|table| &table.differences).map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_report_is_what_a_naive_comparison_finds(
        (source, target) in damaged(),
        workers in 1usize..=3,
        chunk_rows in prop_oneof![Just(1usize), Just(2), Just(7), Just(10_000)],
    ) {
        let options = Options { chunk_rows, list: usize::MAX, ..Options::default() };
        let timely = Workers::threads(workers);
        let report = compare(side("source", &source), side("target", &target), &options, timely, &mut ()).unwrap();
        let expected = oracle(&source, &target);
        prop_assert_eq!(&found(&report), &expected);
        let outcome = if expected.is_empty() { Outcome::Identical } else { Outcome::Different };
        prop_assert_eq!(report.outcome(), outcome);
        for (n, name) in ["by_number", "by_both", "by_text"].iter().enumerate() {
            let table = report.tables.iter().find(|t| t.table.table == *name).unwrap();
            let count = |kind| expected.iter().filter(|((t, _), (k, _))| t == name && *k == kind).count() as u64;
            prop_assert_eq!((table.source_rows, table.target_rows), (source[n].len() as u64, target[n].len() as u64));
            prop_assert_eq!(
                (table.missing, table.extra, table.changed, table.undecided),
                (count(Kind::Missing), count(Kind::Extra), count(Kind::Changed), 0)
            );
        }
    }
}

fn orders() -> TableSchema {
    schema("orders", &[("id", "bigint"), ("note", "text")], &["id"])
}

fn order(id: i64, note: &str) -> Row {
    Row::new(&[Value::Int(id), Value::text(note)])
}

fn run(source: impl Side, target: impl Side, options: &Options) -> Result<Report, VerifyError> {
    compare(source, target, options, Workers::threads(2), &mut ())
}

#[test]
fn planted_damage_is_found_and_nothing_else() {
    let rows: Vec<Row> = (0..50_000).map(|id| order(id * 3, "fine")).collect();
    let source = MemorySide::new("source").table(orders(), rows.clone());
    let mut damaged = rows.clone();
    damaged[777] = order(777 * 3, "broken");
    damaged[40_000] = Row::new(&[Value::Int(40_000 * 3), Value::Null]);
    damaged.remove(12_345);
    damaged.push(order(-5, "before the first"));
    damaged.push(order(1 << 40, "behind the last"));
    damaged.push(order(4, "in a gap"));
    damaged.reverse();
    let report = run(source.clone(), MemorySide::new("target").table(orders(), damaged), &Options::default()).unwrap();
    let seen: Vec<(String, Kind)> = report.tables[0].differences.iter().map(|d| (d.key[0].1.clone(), d.kind)).collect();
    let want = [
        ("-5", Kind::Extra),
        ("4", Kind::Extra),
        ("2331", Kind::Changed),
        ("37035", Kind::Missing),
        ("120000", Kind::Changed),
        ("1099511627776", Kind::Extra),
    ];
    assert_eq!(seen, want.map(|(key, kind)| (key.to_string(), kind)));
    let changed = &report.tables[0].differences[4].columns[0];
    assert_eq!((changed.source.as_deref(), changed.target.as_deref()), (Some("fine"), None));
    let same = run(source.clone(), source, &Options::default()).unwrap();
    assert_eq!((same.outcome(), same.tables[0].source_rows), (Outcome::Identical, 50_000));
}

#[test]
fn all_differences_are_counted_and_as_many_listed_as_wanted() {
    let rows = |note: &str| (0..30_000).map(|id| order(id, note)).collect();
    let options = Options { list: 7, chunk_rows: 1000, ..Options::default() };
    let source = MemorySide::new("source").table(orders(), rows("a"));
    let report = run(source, MemorySide::new("target").table(orders(), rows("b")), &options).unwrap();
    assert_eq!((report.tables[0].changed, report.tables[0].differences.len()), (30_000, 7));
}

#[test]
fn a_table_that_the_target_does_not_have_is_missing_row_by_row() {
    let source = MemorySide::new("source").table(orders(), vec![order(1, "a"), order(2, "b")]);
    let report = run(source.clone(), MemorySide::new("target"), &Options::default()).unwrap();
    let table = &report.tables[0];
    assert_eq!((table.target_exists, table.missing, table.differences.len()), (false, 2, 2));
    let empty = MemorySide::new("source").table(orders(), Vec::new());
    let report = run(empty, MemorySide::new("target"), &Options::default()).unwrap();
    assert_eq!(
        report.outcome(),
        Outcome::Identical,
        "land makes a table with its first row: there is none to be missing"
    );
    assert!(!report.tables[0].target_exists, "and it is said");
}

#[test]
fn a_column_that_only_one_side_has_is_named() {
    let wide = schema("orders", &[("id", "bigint"), ("note", "text"), ("more", "int")], &["id"]);
    let wide_row = Row::new(&[Value::Int(1), Value::text("a"), Value::Int(9)]);
    let narrow = MemorySide::new("narrow").table(orders(), vec![order(1, "a")]);
    let wide = MemorySide::new("wide").table(wide, vec![wide_row]);
    let lacking = run(wide.clone(), narrow.clone(), &Options::default()).unwrap();
    assert_eq!((lacking.outcome(), &lacking.tables[0].missing_columns[..]), (Outcome::Different, &["more".into()][..]));
    assert_eq!(lacking.tables[0].changed, 0, "the columns that both have are equal");
    let more = run(narrow, wide, &Options::default()).unwrap();
    assert_eq!((more.outcome(), &more.tables[0].extra_columns[..]), (Outcome::Identical, &["more".into()][..]));
}

#[test]
fn a_pattern_that_matches_no_table_is_an_error() {
    let source = MemorySide::new("source").table(orders(), vec![order(1, "a")]);
    let wanted = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.to_string()).collect();
        let options = Options { tables: TableFilter::new(&patterns).unwrap(), ..Options::default() };
        run(source.clone(), source.clone(), &options)
    };
    let error = wanted(&["shop.orders", "shop.itmes", "old.*"]).unwrap_err().to_string();
    assert!(error.contains("shop.itmes, old.*") && !error.contains("shop.orders"), "{error}");
    assert!(wanted(&["shop.*", "shop.orders"]).is_ok());
    assert!(run(MemorySide::new("empty"), source.clone(), &Options::default()).is_err());
}

#[test]
fn a_table_without_a_key_is_refused_by_name_before_any_work() {
    let keyless = schema("log", &[("line", "text")], &[]);
    let source = MemorySide::new("source").table(orders(), vec![order(1, "a")]).table(keyless, Vec::new());
    let error = run(source.clone(), source.clone(), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("shop.log") && !error.contains("shop.orders"), "{error}");
    let wanted = TableFilter::new(&["shop.o*".into()]).unwrap();
    run(source.clone(), source, &Options { tables: wanted, ..Options::default() }).unwrap();
}

#[test]
fn several_rows_of_a_key_at_the_target_are_extra_and_shown() {
    let source = MemorySide::new("source").table(orders(), vec![order(1, "a"), order(2, "b")]);
    let rows = vec![order(1, "a"), order(1, "z"), order(2, "b"), order(2, "b")];
    let report = run(source, MemorySide::new("target").table(orders(), rows), &Options::default()).unwrap();
    let table = &report.tables[0];
    assert_eq!((table.extra, table.changed, table.missing), (2, 0, 0));
    assert_eq!((table.differences[0].target_rows, table.differences[0].columns[0].name.as_str()), (2, "note"));
}

#[test]
fn a_large_table_with_text_keys_in_foreign_orders_is_compared_in_steps() {
    let schema = schema("codes", &[("code", "varchar"), ("n", "int")], &["code"]);
    let row = |n: i64| Row::new(&[Value::text(&format!("code-{}", n * 7919 % 100_003)), Value::Int(n)]);
    let source = MemorySide::new("source").table(schema.clone(), (0..100_000).map(row).collect());
    let mut rows: Vec<Row> = (0..100_000).rev().map(row).collect();
    rows[5] = Row::new(&[rows[5].get(0), Value::Int(-1)]);
    rows.swap_remove(9);
    let options = Options { chunk_rows: 500, ..Options::default() };
    let report = run(source, MemorySide::new("target").table(schema, rows), &options).unwrap();
    assert_eq!((report.tables[0].changed, report.tables[0].missing, report.tables[0].extra), (1, 1, 0));
    assert_eq!(report.tables[0].target_rows, 99_999);
}

/// A side whose readings call `reading` first, with the number of the reading.
#[derive(Clone)]
struct Disturbed<F> {
    inner: MemorySide,
    readings: Arc<AtomicUsize>,
    reading: F,
}

struct DisturbedSession<F> {
    inner: Box<dyn Session>,
    side: Disturbed<F>,
}

impl<F: Fn(usize) -> Result<Option<MemorySide>, VerifyError> + Clone + Send + Sync + 'static> Side for Disturbed<F> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        Ok(Box::new(DisturbedSession { inner: self.inner.connect()?, side: self.clone() }))
    }
}

impl<F: Fn(usize) -> Result<Option<MemorySide>, VerifyError> + Send> Session for DisturbedSession<F> {
    fn tables(&mut self, wanted: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        self.inner.tables(wanted)
    }

    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        self.inner.columns(table)
    }

    fn boundary(&mut self, plan: &TablePlan, from: Option<i128>, rows: usize) -> Result<Option<i128>, VerifyError> {
        self.inner.boundary(plan, from, rows)
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        let number = self.side.readings.fetch_add(1, Ordering::SeqCst);
        match (self.side.reading)(number)? {
            Some(mut instead) => instead.read(plan, keys, sink),
            None => self.inner.read(plan, keys, sink),
        }
    }
}

/// A target that has no table when it is asked first, then not its last column, and then all of it.
#[derive(Clone)]
struct Growing {
    inner: MemorySide,
    asked: Arc<AtomicUsize>,
}

struct GrowingSession {
    inner: Box<dyn Session>,
    asked: Arc<AtomicUsize>,
}

impl Side for Growing {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn connect(&self) -> Result<Box<dyn Session>, VerifyError> {
        Ok(Box::new(GrowingSession { inner: self.inner.connect()?, asked: Arc::clone(&self.asked) }))
    }
}

impl Session for GrowingSession {
    fn tables(&mut self, wanted: &TableFilter) -> Result<Vec<SourceTable>, VerifyError> {
        self.inner.tables(wanted)
    }

    fn columns(&mut self, table: &TableName) -> Result<Option<Vec<TargetColumn>>, VerifyError> {
        let mut columns = self.inner.columns(table)?;
        match (self.asked.fetch_add(1, Ordering::SeqCst), &mut columns) {
            (0, _) => columns = None,
            (1, Some(columns)) => drop(columns.pop()),
            _ => {}
        }
        Ok(columns)
    }

    fn boundary(&mut self, plan: &TablePlan, from: Option<i128>, rows: usize) -> Result<Option<i128>, VerifyError> {
        self.inner.boundary(plan, from, rows)
    }

    fn read(&mut self, plan: &TablePlan, keys: &Keys, sink: &mut dyn RowSink) -> Result<(), VerifyError> {
        self.inner.read(plan, keys, sink)
    }
}

#[test]
fn a_table_and_a_column_that_the_target_gets_late_are_waited_for_as_long_as_patience_lasts() {
    let rows = || vec![order(1, "a"), order(2, "b")];
    let report = |asked, patience| {
        let target = MemorySide::new("target").table(orders(), rows());
        let target = Growing { inner: target, asked: Arc::new(AtomicUsize::new(asked)) };
        let options = Options { patience, ..Options::default() };
        run(MemorySide::new("source").table(orders(), rows()), target, &options).unwrap()
    };
    let late = report(0, Duration::from_secs(60));
    assert_eq!((late.outcome(), late.tables[0].target_rows), (Outcome::Identical, 2), "it does not wait for all of it");
    let without = report(0, Duration::ZERO);
    assert_eq!((without.outcome(), without.tables[0].missing), (Outcome::Different, 2));
    let lacking = report(1, Duration::ZERO);
    assert_eq!((lacking.outcome(), lacking.tables[0].missing_columns.len()), (Outcome::Different, 1));
}

/// The report on a target whose row 1 is `note(n)` in its n-th reading, and `new` at the source.
fn report_on_moving(note: fn(usize) -> &'static str) -> Report {
    let source = MemorySide::new("source").table(orders(), vec![order(1, "new"), order(2, "b")]);
    let target = move |n: usize| MemorySide::new("target").table(orders(), vec![order(1, note(n)), order(2, "b")]);
    let reading = move |n: usize| Ok(Some(target(n)));
    run(source, Disturbed { inner: target(0), readings: Arc::default(), reading }, &Options::default()).unwrap()
}

#[test]
fn a_row_that_keeps_moving_is_undecided() {
    let report = report_on_moving(|n| ["one", "two"][n % 2]);
    assert_eq!((report.tables[0].undecided, report.tables[0].changed), (1, 0));
    assert_eq!((report.outcome(), report.tables[0].differences[0].kind), (Outcome::Undecided, Kind::Undecided));
}

#[test]
fn a_row_that_the_target_gets_late_is_equal() {
    let report = report_on_moving(|n| if n < 4 { "old" } else { "new" });
    assert_eq!((report.outcome(), report.tables[0].differences.len()), (Outcome::Identical, 0));
    assert_eq!((report.tables[0].source_rows, report.tables[0].target_rows), (2, 2), "looks are not counted again");
}

#[test]
fn a_row_that_moved_and_then_stood_still_is_different() {
    let report = report_on_moving(|n| if n < 3 { "old" } else { "wrong" });
    assert_eq!((report.outcome(), report.tables[0].changed), (Outcome::Different, 1));
    let late = report_on_moving(|n| if n < 5 { "old" } else { "wrong" });
    assert_eq!((late.outcome(), late.tables[0].undecided), (Outcome::Undecided, 1), "it moved before the last look");
}

#[test]
fn a_side_that_fails_half_way_fails_the_comparison_with_its_words() {
    let rows: Vec<Row> = (0..10_000).map(|id| order(id, "a")).collect();
    let source = MemorySide::new("source").table(orders(), rows);
    let broken = "target memory: table shop.orders: the connection is gone";
    let reading = |n: usize| if n == 3 { Err(VerifyError(broken.into())) } else { Ok(None) };
    let target = Disturbed { inner: source.clone(), readings: Arc::default(), reading };
    let options = Options { chunk_rows: 100, ..Options::default() };
    assert_eq!(run(source, target, &options).unwrap_err().to_string(), broken);
}

#[test]
fn an_observer_that_fails_stops_the_comparison() {
    struct Full;
    impl Observer for Full {
        fn difference(&mut self, _: &Difference) -> Result<(), VerifyError> {
            Err(VerifyError("the disk is full".into()))
        }
    }
    let source = MemorySide::new("source").table(orders(), (0..10_000).map(|id| order(id, "a")).collect());
    let options = Options { chunk_rows: 100, ..Options::default() };
    let target = MemorySide::new("target").table(orders(), Vec::new());
    let result = compare(source, target, &options, Workers::threads(2), &mut Full);
    assert_eq!(result.unwrap_err().to_string(), "the disk is full");
}

/// What a range yields, for the tests of ranges.
#[derive(Default)]
struct Count(usize);

impl RowSink for Count {
    fn value(&mut self, _: Value) {}

    fn end(&mut self) -> Result<(), VerifyError> {
        self.0 += 1;
        Ok(())
    }
}

proptest! {
    #[test]
    fn ranges_cut_a_table_without_gap_or_overlap(
        keys in prop::collection::vec(prop_oneof![-30i64..30, any::<i64>(), Just(i64::MAX)], 0..80),
        chunk_rows in 1usize..20,
    ) {
        // Several rows may share a leading key: they are never parted.
        let rows: Vec<Row> = keys.iter().enumerate().map(|(n, key)| Row::new(&[Value::Int(*key), Value::Int(n as i64)])).collect();
        let schema = schema("t", &[("a", "bigint"), ("b", "bigint")], &["a", "b"]);
        let mut side = MemorySide::new("side").table(schema, rows);
        let source = side.tables(&TableFilter::default()).unwrap().remove(0);
        let columns = side.columns(&source.schema.name).unwrap();
        let plan = TablePlan::new(&source, columns.as_deref());
        let mut chunks = Vec::new();
        cut(&mut side, std::slice::from_ref(&plan), chunk_rows, |chunk| {
            chunks.push(chunk);
            true
        }).unwrap();
        let mut seen = 0;
        for (n, chunk) in chunks.iter().enumerate() {
            prop_assert_eq!(chunk.range.from, if n == 0 { None } else { chunks[n - 1].range.to });
            let mut count = Count::default();
            side.read(&plan, &Keys::Range(chunk.range), &mut count).unwrap();
            prop_assert!(count.0 <= chunk_rows || chunk.many_rows);
            seen += count.0;
        }
        prop_assert_eq!((seen, chunks.last().unwrap().range.to), (keys.len(), None));
    }
}
