//! From a section of the configuration to a connector.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use tidegate::change::TableFilter;
use tidegate::codec::binlog::BinlogDecoder;
use tidegate::codec::dts::DtsDecoder;
use tidegate::config::{SourceConfig, TargetConfig};
use tidegate::source::dts::DtsReader;
use tidegate::source::file::{DtsFileReader, JsonlDecoder, JsonlReader};
use tidegate::source::mysql::MysqlReader;
use tidegate::source::{Clock, Decoder, Reader, Resume, Start};
use tidegate::target::Target;
use tidegate::target::postgres::PostgresTarget;
use tidegate::target::sqlite::SqliteTarget;

/// Refuses a source that can't be read, or not on from there, as far as that can be told while another process reads it.
pub fn refuse_unreadable(source: &SourceConfig, job: &str, resume: Option<Resume>) -> anyhow::Result<()> {
    match (source, resume) {
        (SourceConfig::Mysql(mysql), resume) => {
            MysqlReader::check(mysql, job, resume.as_ref().map(|resume| resume.position.as_str()))?;
        }
        (source, Some(resume)) => drop(reader(source, job, &Start::Resume { resume, clock: Clock::from(0) }, true)?),
        (source, None) => drop(reader(source, job, &Start::Configured, true)?),
    }
    Ok(())
}

/// The reader of a source.
pub fn reader(source: &SourceConfig, job: &str, start: &Start, until_end: bool) -> anyhow::Result<Box<dyn Reader>> {
    Ok(match source {
        SourceConfig::Mysql(mysql) => {
            let mut reader = MysqlReader::open(mysql, job, start, until_end)?;
            let unmatched = reader.unmatched()?.join(", ");
            match start {
                _ if unmatched.is_empty() => {}
                Start::Configured => bail!(
                    "[source] tables: the source has no table that matches {unmatched}: correct the pattern, create the table, \
                     or grant the user SELECT on it"
                ),
                // It may have been dropped, and its changes are still to be read.
                Start::Resume { .. } => {
                    tracing::warn!("[source] tables: the source has no table that matches {unmatched}")
                }
            }
            Box::new(reader)
        }
        SourceConfig::Dts(dts) => Box::new(DtsReader::open(dts, start, until_end)?),
        SourceConfig::DtsFile(file) => Box::new(DtsFileReader::open(file, start)?),
        SourceConfig::Jsonl(file) => Box::new(JsonlReader::open(file, start)?),
    })
}

/// A decoder for what the source's reader reads.
pub fn decoder(source: &SourceConfig) -> anyhow::Result<Box<dyn Decoder>> {
    let filter = TableFilter::new(source.tables()).map_err(|e| anyhow!(e))?;
    Ok(match source {
        SourceConfig::Mysql(_) => Box::new(BinlogDecoder::new(false)),
        SourceConfig::Dts(_) | SourceConfig::DtsFile(_) => Box::new(DtsDecoder::new(filter, false)),
        SourceConfig::Jsonl(_) => Box::new(JsonlDecoder::new(filter, false)),
    })
}

/// A target.
pub fn target(target: &TargetConfig) -> anyhow::Result<Arc<dyn Target>> {
    Ok(match target {
        TargetConfig::Postgres(postgres) => Arc::new(PostgresTarget::new(postgres)?),
        TargetConfig::Sqlite(sqlite) => Arc::new(SqliteTarget::new(sqlite)),
    })
}
