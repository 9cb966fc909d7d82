//! verify: `source ≟ target`. The dataflow is [`tidegate::verify::compare`]; here its two sides are chosen and its report
//! is written.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, bail};
use tidegate::config::{Config, SourceConfig, TargetConfig};
use tidegate::source::TableFilter;
use tidegate::verify::{MysqlSide, Options, Outcome, PostgresSide, Printer, Report, SqliteSide, compare};

/// Compares the tables of the configuration's source with its target's, writes the report to stdout and the SQL that would
/// mend the target to `repair`.
///
/// # Errors
/// The comparison could not be made: exit code 3.
pub fn run(config: &Config, timely: timely::Config, json: bool, repair: Option<PathBuf>) -> anyhow::Result<Outcome> {
    let SourceConfig::Mysql(mysql) = config.source()? else {
        bail!(
            "verify reads the source's rows, so [source] must be kind = \"mysql\": give the database behind the changes"
        );
    };
    let tables = if config.verify.tables.is_empty() { &mysql.tables } else { &config.verify.tables };
    let options = Options {
        tables: TableFilter::new(tables).map_err(anyhow::Error::msg)?,
        chunk_rows: config.verify.chunk_rows,
        list: config.verify.list,
        repair: repair.is_some(),
    };
    let repair: Option<Box<dyn Write>> = match repair {
        None => None,
        Some(path) => {
            let file = File::create(&path).with_context(|| format!("the repair file {}", path.display()))?;
            Some(Box::new(BufWriter::new(file)))
        }
    };
    let source = MysqlSide::new(mysql)?;
    let mut printer = Printer::new(json, BufWriter::new(stdout()), repair);
    let report: Report = match config.target()? {
        TargetConfig::Postgres(target) => compare(source, PostgresSide::new(target)?, &options, timely, &mut printer)?,
        TargetConfig::Sqlite(target) => compare(source, SqliteSide::new(target), &options, timely, &mut printer)?,
    };
    printer.finish(&report)?;
    Ok(report.outcome())
}
