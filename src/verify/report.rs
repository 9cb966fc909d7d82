//! What a comparison found, for people and for programs.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::look::Counts;
use super::read::RowsRead;
use super::{TablePlan, VerifyError};
use crate::change::TableName;

/// What is wrong with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The source has it, the target not.
    Missing,
    /// The target has it, the source not; or more often than the source.
    Extra,
    /// Both have it, with different rows.
    Changed,
    /// It neither became equal nor stood still while it was compared.
    Undecided,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Changed => "changed",
            Kind::Undecided => "undecided",
        }
    }
}

/// A column of a key's two rows that differs; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDifference {
    /// Its name.
    #[serde(rename = "column")]
    pub name: String,
    /// The source's value.
    pub source: Option<String>,
    /// The target's value.
    pub target: Option<String>,
}

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its table.
    pub table: TableName,
    /// The key's columns and their values.
    pub key: Vec<(String, String)>,
    /// What is wrong with it.
    pub kind: Kind,
    /// If both sides have a row: the columns that differ.
    pub columns: Vec<ColumnDifference>,
    /// Rows that the source has of it.
    pub source_rows: u64,
    /// Rows that the target has of it.
    pub target_rows: u64,
    /// SQL that mends the target, if asked for.
    pub repair: Option<String>,
}

/// What the dataflow tells the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Finding {
    /// What is going to be compared.
    Planned(Vec<TablePlan>),
    /// All tables have been cut into so many chunks.
    Cut(u64),
    /// A chunk has been compared.
    Compared {
        /// The table's place in the list of plans.
        table: usize,
        /// Rows read.
        rows: RowsRead,
        /// Keys that differ and are not looked at again.
        counts: Counts,
    },
    /// The differing keys of a chunk have been looked at.
    Looked {
        /// The table's place in the list of plans.
        table: usize,
        /// What they are.
        counts: Counts,
    },
    /// A key that differs.
    Difference(usize, Box<Difference>),
    /// The comparison can't go on.
    Failed(String),
}

/// The verdict, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was compared and is equal: 0.
    Identical,
    /// Nothing is known to be different, but something moved while it was compared: 2.
    Undecided,
    /// Something is different: 1.
    Different,
}

impl Outcome {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Identical => 0,
            Outcome::Different => 1,
            Outcome::Undecided => 2,
        }
    }
}

/// What was found in one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableReport {
    /// The table.
    #[serde(serialize_with = "as_text")]
    pub table: TableName,
    /// The verdict.
    pub outcome: Outcome,
    /// Rows read at the source.
    pub source_rows: u64,
    /// Rows read at the target.
    pub target_rows: u64,
    /// Keys that only the source has.
    pub missing: u64,
    /// Keys that only the target has.
    pub extra: u64,
    /// Keys whose rows differ.
    pub changed: u64,
    /// Keys that neither became equal nor stood still.
    pub undecided: u64,
    /// Keys, among those above, that were too many to be read a second time: they are neither listed nor mended, and alone
    /// they decide nothing.
    pub not_read_again: u64,
    /// Whether the target has the table.
    pub target_exists: bool,
    /// Why no row was compared, if none was.
    pub not_compared: Option<String>,
    /// Columns of the source that the target does not have: a difference.
    pub missing_columns: Vec<String>,
    /// Columns of the target that the source does not have. They were not compared, and there is nothing to compare
    /// them with, so they do not decide the verdict.
    pub extra_columns: Vec<String>,
    /// The first differences, by key.
    #[serde(skip)]
    pub differences: Vec<Difference>,
}

impl TableReport {
    /// A table of which nothing is known yet.
    pub fn new(plan: &TablePlan) -> Self {
        let mut report = TableReport {
            table: plan.name.clone(),
            outcome: Outcome::Identical,
            source_rows: 0,
            target_rows: 0,
            missing: 0,
            extra: 0,
            changed: 0,
            undecided: 0,
            not_read_again: 0,
            target_exists: plan.target_exists,
            not_compared: (!plan.comparable()).then(|| "the target has not all columns of the key".into()),
            missing_columns: plan.missing_columns.clone(),
            extra_columns: plan.extra_columns.clone(),
            differences: Vec::new(),
        };
        report.decide();
        report
    }

    fn decide(&mut self) {
        // What only the first reading saw may have been on its way.
        let different = self.missing + self.extra + self.changed > self.not_read_again
            || (!self.target_exists && self.source_rows > 0)
            || self.not_compared.is_some()
            || !self.missing_columns.is_empty();
        self.outcome = match (different, self.undecided + self.not_read_again) {
            (true, _) => Outcome::Different,
            (false, 0) => Outcome::Identical,
            _ => Outcome::Undecided,
        };
    }

    fn add(&mut self, rows: RowsRead, counts: Counts) {
        self.source_rows += rows.source;
        self.target_rows += rows.target;
        self.missing += counts.missing;
        self.extra += counts.extra;
        self.changed += counts.changed;
        self.undecided += counts.undecided;
        self.not_read_again += counts.not_read_again;
        self.decide();
    }

    /// Keys that differ or are undecided.
    pub fn differing(&self) -> u64 {
        self.missing + self.extra + self.changed + self.undecided
    }
}

fn as_text<S: serde::Serializer>(name: &TableName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each table, by name. Empty on every process of a cluster but the first, which gives the verdict.
    pub tables: Vec<TableReport>,
}

impl Report {
    /// The verdict on all tables.
    pub fn outcome(&self) -> Outcome {
        self.tables.iter().map(|table| table.outcome).max().unwrap_or(Outcome::Identical)
    }
}

/// Is told what happens while a comparison runs. `()` does not listen.
pub trait Observer {
    /// The comparison begins.
    ///
    /// # Errors
    /// The comparison is to fail with it; likewise below.
    fn planned(&mut self, _plans: &[TablePlan]) -> Result<(), VerifyError> {
        Ok(())
    }

    /// A key differs. Not many more are told than are listed, unless repair is asked for: then all are.
    ///
    /// # Errors
    /// As above.
    fn difference(&mut self, _difference: &Difference) -> Result<(), VerifyError> {
        Ok(())
    }

    /// So many more rows have been compared.
    fn progress(&mut self, _rows: RowsRead) {}
}

impl Observer for () {}

/// Puts findings together.
pub struct Collector<'a> {
    report: Report,
    list: usize,
    observer: &'a mut dyn Observer,
    /// Chunks that there are, once that is known.
    cut: Option<u64>,
    compared: u64,
}

impl<'a> Collector<'a> {
    /// Lists up to `list` differences of each table.
    pub fn new(list: usize, observer: &'a mut dyn Observer) -> Self {
        Collector { report: Report::default(), list, observer, cut: None, compared: 0 }
    }

    /// Takes a finding.
    ///
    /// # Errors
    /// The finding is a failure, or the observer fails.
    pub fn take(&mut self, finding: Finding) -> Result<(), VerifyError> {
        match finding {
            Finding::Planned(plans) => {
                self.report.tables = plans.iter().map(TableReport::new).collect();
                self.observer.planned(&plans)
            }
            Finding::Cut(chunks) => {
                self.cut = Some(chunks);
                Ok(())
            }
            Finding::Looked { table, counts } => {
                self.report.tables[table].add(RowsRead::default(), counts);
                Ok(())
            }
            Finding::Compared { table, rows, counts } => {
                self.compared += 1;
                self.report.tables[table].add(rows, counts);
                self.observer.progress(rows);
                Ok(())
            }
            Finding::Difference(table, difference) => {
                self.observer.difference(&difference)?;
                let listed = &mut self.report.tables[table].differences;
                if listed.len() < self.list {
                    listed.push(*difference);
                }
                Ok(())
            }
            Finding::Failed(reason) => Err(VerifyError(reason)),
        }
    }

    /// The report, differences by key. On the process that plans, `first`, it takes account of every chunk.
    ///
    /// # Errors
    /// A chunk is not accounted for, so that nothing may be called equal.
    pub fn finish(mut self, first: bool) -> Result<Report, VerifyError> {
        if first && self.cut != Some(self.compared) {
            return Err(VerifyError(format!(
                "only {} chunks of {:?} were compared: this is a bug in tidegate",
                self.compared, self.cut
            )));
        }
        for table in &mut self.report.tables {
            table.differences.sort_by(|a, b| compare_keys(&a.key, &b.key));
        }
        Ok(self.report)
    }
}

/// Numbers by value, anything else as text.
fn compare_keys(a: &[(String, String)], b: &[(String, String)]) -> std::cmp::Ordering {
    let part = |text: &String| (text.parse::<i128>().unwrap_or(i128::MAX), text.clone());
    a.iter().map(|(_, text)| part(text)).cmp(b.iter().map(|(_, text)| part(text)))
}

/// Longer values are cut in print; the report has them whole.
const SHOWN_CHARS: usize = 200;

/// A value in print, on one line whatever is in it.
fn shown(value: Option<&str>) -> String {
    let escaped = |text: &str| text.chars().map(plain).collect::<String>();
    match value {
        None => "NULL".into(),
        Some(text) => match text.char_indices().nth(SHOWN_CHARS) {
            None => format!("'{}'", escaped(text)),
            Some((cut, _)) => format!("'{}'… ({} bytes)", escaped(&text[..cut]), text.len()),
        },
    }
}

/// A character, escaped if it would control the terminal or can't be seen.
fn plain(c: char) -> String {
    if matches!(c, '\'' | '"' | '\\') { c.to_string() } else { c.escape_debug().to_string() }
}

/// Writes a report: JSON lines or a table for people on `out`, repair SQL to `repair`, progress on stderr if that is a
/// terminal.
pub struct Printer<'a> {
    json: bool,
    out: Box<dyn Write + 'a>,
    repair: Option<Box<dyn Write + 'a>>,
    bar: indicatif::ProgressBar,
    started: std::time::Instant,
}

impl<'a> Printer<'a> {
    /// A printer.
    pub fn new(json: bool, out: impl Write + 'a, repair: Option<Box<dyn Write + 'a>>) -> Self {
        // indicatif draws nothing where stderr is no terminal.
        let bar = indicatif::ProgressBar::new(0);
        let style = indicatif::ProgressStyle::with_template(
            "{elapsed_precise} {wide_bar} {human_pos} of about {human_len} rows, {rate} rows/s, {eta} left",
        )
        .expect("the template is constant")
        .with_key("rate", |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
            // A rate that does not fit on the terminal is no reason to stop.
            let _ = write!(to, "{}", indicatif::HumanCount(state.per_sec() as u64));
        });
        bar.set_style(style);
        Printer { json, out: Box::new(out), repair, bar, started: std::time::Instant::now() }
    }

    /// Writes the differences by table and key, the tables and the verdict.
    ///
    /// # Errors
    /// The output can't be written.
    pub fn finish(mut self, report: &Report) -> io::Result<()> {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        for difference in report.tables.iter().flat_map(|table| &table.differences) {
            self.print(difference)?;
        }
        if self.json {
            self.finish_json(report, seconds)?;
        } else {
            self.finish_text(report, seconds)?;
        }
        if let Some(repair) = &mut self.repair {
            for table in &report.tables {
                let lacks_table = !table.target_exists && table.source_rows > 0;
                if lacks_table || !table.missing_columns.is_empty() || table.not_read_again > 0 {
                    writeln!(
                        repair,
                        "-- {}: this is not all of it, see the report",
                        comment(&table.table.to_string())
                    )?;
                }
            }
            repair.flush()?;
        }
        self.out.flush()
    }

    fn finish_json(&mut self, report: &Report, seconds: f64) -> io::Result<()> {
        #[derive(Serialize)]
        struct Typed<'a> {
            #[serde(rename = "type")]
            ty: &'static str,
            #[serde(flatten)]
            table: &'a TableReport,
        }
        for table in &report.tables {
            serde_json::to_writer(&mut self.out, &Typed { ty: "table", table })?;
            writeln!(self.out)?;
        }
        let sum = |of: fn(&TableReport) -> u64| report.tables.iter().map(of).sum::<u64>();
        let summary = serde_json::json!({
            "type": "summary",
            "outcome": report.outcome(),
            "tables": report.tables.len(),
            "source_rows": sum(|t| t.source_rows),
            "target_rows": sum(|t| t.target_rows),
            "missing": sum(|t| t.missing),
            "extra": sum(|t| t.extra),
            "changed": sum(|t| t.changed),
            "undecided": sum(|t| t.undecided),
            "seconds": (seconds * 1000.0).round() / 1000.0,
        });
        writeln!(self.out, "{summary}")
    }

    fn finish_text(&mut self, report: &Report, seconds: f64) -> io::Result<()> {
        let width = report.tables.iter().map(|t| t.table.to_string().chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            self.out,
            "{:width$}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>9}",
            "table", "source rows", "target rows", "missing", "extra", "changed", "undecided"
        )?;
        for t in &report.tables {
            writeln!(
                self.out,
                "{:width$}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>9}",
                t.table.to_string(),
                t.source_rows,
                t.target_rows,
                t.missing,
                t.extra,
                t.changed,
                t.undecided
            )?;
        }
        for t in &report.tables {
            for note in notes(t) {
                writeln!(self.out, "{}: {note}", t.table)?;
            }
        }
        let rows: u64 = report.tables.iter().map(|t| t.source_rows + t.target_rows).sum();
        let verdict = match report.outcome() {
            Outcome::Identical => "identical",
            Outcome::Different => "different",
            Outcome::Undecided => "undecided: rows moved while they were compared, run verify again",
        };
        writeln!(
            self.out,
            "{verdict} ({} table{}, {rows} rows in {seconds:.1} s, {:.0} rows/s)",
            report.tables.len(),
            if report.tables.len() == 1 { "" } else { "s" },
            rows as f64 / seconds.max(1e-9)
        )
    }
}

/// What has to be said of a table beside its numbers.
fn notes(table: &TableReport) -> Vec<String> {
    let mut notes = Vec::new();
    if !table.target_exists {
        let all = if table.source_rows > 0 {
            "all its rows are missing"
        } else {
            "it lacks nothing but that: there are no rows"
        };
        notes.push(format!("the target has no such table, so that {all}"));
    }
    if let Some(reason) = &table.not_compared {
        notes.push(format!("not compared: {reason}"));
    }
    if !table.missing_columns.is_empty() {
        notes.push(format!("columns that the target does not have: {}", table.missing_columns.join(", ")));
    }
    if !table.extra_columns.is_empty() {
        notes.push(format!("columns that only the target has, not compared: {}", table.extra_columns.join(", ")));
    }
    if table.not_read_again > 0 {
        notes.push(format!(
            "{} differing keys were counted but, being too many, not read a second time",
            table.not_read_again
        ));
    }
    let hidden = table.differing() - table.differences.len() as u64;
    if hidden > 0 {
        notes.push(format!("{hidden} more differing keys are not listed"));
    }
    notes
}

/// A name in a one-line SQL comment.
fn comment(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

impl Printer<'_> {
    fn print(&mut self, difference: &Difference) -> io::Result<()> {
        if self.json {
            let key: serde_json::Map<String, serde_json::Value> =
                difference.key.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            let line = serde_json::json!({
                "type": "difference",
                "table": difference.table.to_string(),
                "kind": difference.kind,
                "key": key,
                "columns": difference.columns,
                "source_rows": difference.source_rows,
                "target_rows": difference.target_rows,
            });
            return writeln!(self.out, "{line}");
        }
        let key: Vec<String> =
            difference.key.iter().map(|(name, value)| format!("{name}={}", shown(Some(value)))).collect();
        write!(self.out, "{} {} {}", difference.kind.name(), difference.table, key.join(" "))?;
        if difference.target_rows > 1 {
            write!(self.out, ", {} rows at the target", difference.target_rows)?;
        }
        for column in &difference.columns {
            let (source, target) = (shown(column.source.as_deref()), shown(column.target.as_deref()));
            write!(self.out, "\n    {}: source {source}, target {target}", column.name)?;
        }
        writeln!(self.out)
    }
}

impl Observer for Printer<'_> {
    fn planned(&mut self, plans: &[TablePlan]) -> Result<(), VerifyError> {
        self.bar.set_length(plans.iter().map(|plan| plan.rows_estimated).sum());
        Ok(())
    }

    fn difference(&mut self, difference: &Difference) -> Result<(), VerifyError> {
        match (&mut self.repair, &difference.repair) {
            (Some(file), Some(sql)) => writeln!(file, "{sql}")
                .map_err(|error| VerifyError(format!("the repair file can't be written: {error}"))),
            _ => Ok(()),
        }
    }

    fn progress(&mut self, rows: RowsRead) {
        self.bar.inc(rows.source);
    }
}
