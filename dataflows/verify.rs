//! verify: `source ≟ target`. The dataflow is [`tidegate::verify::compare`]; here its two sides are chosen and its report
//! is written.

use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use tidegate::change::TableFilter;
use tidegate::config::{Config, MysqlConfig, SourceConfig, TargetConfig};
use tidegate::verify::{MysqlSide, Observer, Options, Outcome, PostgresSide, Printer, Report, SqliteSide, compare};
use tidegate::workers::Workers;

/// Compares the tables of the configuration's source with its target's; the `first` process of a cluster writes the report
/// to stdout and the SQL that would mend the target to `repair`, the others only take part.
///
/// # Errors
/// The comparison could not be made: exit code 3.
pub fn run(
    config: &Config,
    workers: Workers,
    first: bool,
    json: bool,
    repair: Option<&Path>,
) -> anyhow::Result<Outcome> {
    let (mysql, tables) = source(config)?;
    let options = Options {
        tables: TableFilter::new(tables).map_err(anyhow::Error::msg)?,
        chunk_rows: config.verify.chunk_rows,
        list: config.verify.list,
        patience: config.verify.patience,
        repair: repair.is_some(),
    };
    let source = MysqlSide::new(mysql)?;
    let compare = |observer: &mut dyn Observer| match config.target()? {
        TargetConfig::Postgres(target) => {
            Ok::<_, anyhow::Error>(compare(source, PostgresSide::new(target)?, &options, workers, observer)?)
        }
        TargetConfig::Sqlite(target) => Ok(compare(source, SqliteSide::new(target), &options, workers, observer)?),
    };
    if !first {
        return Ok(compare(&mut ())?.outcome());
    }
    let repair = repair.map(Repair::create).transpose()?;
    let file = repair.as_ref().map(Repair::writer).transpose()?;
    let mut printer = Printer::new(json, BufWriter::new(stdout()), file);
    let report: Report = compare(&mut printer)?;
    printer.finish(&report).context("the report can't be written")?;
    repair.map(Repair::keep).transpose()?;
    Ok(report.outcome())
}

/// The database that the changes come from, and the patterns of the tables to compare.
fn source(config: &Config) -> anyhow::Result<(&MysqlConfig, &[String])> {
    let mysql = match (&config.verify.source, &config.source) {
        (Some(mysql), _) | (None, Some(SourceConfig::Mysql(mysql))) => mysql,
        _ => {
            return Err(anyhow!(
                "verify reads the rows of the database behind the changes: give it in [verify.source], url = \"mysql://…\""
            ));
        }
    };
    let of_source = config.source.as_ref().map_or(&[][..], SourceConfig::tables);
    let wanted = [&config.verify.tables, &mysql.tables, of_source].into_iter().find(|tables| !tables.is_empty());
    Ok((mysql, wanted.unwrap_or_default()))
}

/// The repair file while it is being written, under another name: half a statement must never be run.
struct Repair<'a> {
    path: &'a Path,
    partial: PathBuf,
}

impl<'a> Repair<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        if path.exists() {
            bail!("--repair {}: the file exists already: name another", path.display());
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        Ok(Repair { path, partial: partial.into() })
    }

    fn writer(&self) -> anyhow::Result<Box<dyn Write>> {
        let file = File::create(&self.partial).with_context(|| format!("--repair {}", self.path.display()))?;
        Ok(Box::new(BufWriter::new(file)))
    }

    fn keep(self) -> anyhow::Result<()> {
        std::fs::rename(&self.partial, self.path).with_context(|| format!("--repair {}", self.path.display()))
    }
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = std::fs::remove_file(&self.partial);
    }
}
