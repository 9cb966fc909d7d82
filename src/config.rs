//! The one configuration file of all commands.
//!
//! Parsed plainly with serde, so that an unknown or ill-typed setting is an error that names its line, then checked once
//! for what a type can't say. `${VAR}` stands for an environment variable, in any string; a `password_file` keeps a secret
//! out of the file altogether.

mod document;
mod load;
mod start;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use postgres::config::{Host, SslMode};
use serde::{Deserialize, Deserializer};

use crate::wire::Codec;

pub use start::{BinlogStart, DtsStart};

/// A configuration that can't be used: one sentence with file and line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the job: its progress at the target, its client ids.
    pub job: String,
    /// Where changes come from.
    pub source: Option<SourceConfig>,
    /// Where they are kept for everyone.
    pub kafka: Option<KafkaConfig>,
    /// Settings of `publish`.
    #[serde(default)]
    pub publish: PublishConfig,
    /// Settings of `land`.
    #[serde(default)]
    pub land: LandConfig,
    /// Where rows are landed.
    pub target: Option<TargetConfig>,
    /// Settings of `verify`.
    #[serde(default)]
    pub verify: VerifyConfig,
    /// Settings of the cluster.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// The name of the file, for messages.
    #[serde(skip)]
    file: String,
}

/// A source, by its `kind`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceConfig {
    /// The binlog of a MySQL or MariaDB server.
    Mysql(MysqlConfig),
    /// Alibaba DTS change tracking: a Kafka topic with one partition of Avro records.
    Dts(DtsConfig),
    /// A file of DTS Avro records, each behind its length (u32, big-endian).
    DtsFile(FileConfig),
    /// A file of JSON lines of our own envelope.
    Jsonl(FileConfig),
}

impl SourceConfig {
    /// The patterns of the wanted tables.
    pub fn tables(&self) -> &[String] {
        match self {
            SourceConfig::Mysql(s) => &s.tables,
            SourceConfig::Dts(s) => &s.tables,
            SourceConfig::DtsFile(s) | SourceConfig::Jsonl(s) => &s.tables,
        }
    }
}

/// A MySQL or MariaDB server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MysqlConfig {
    /// `mysql://user:password@host:port/`.
    pub url: String,
    /// A file with the password, instead of the one in the URL; loading puts it there.
    pub password_file: Option<PathBuf>,
    /// Wanted tables, `database.table` with `*`; none: every table that is not MySQL's own.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The replica id that this reader shows the server; unique among its replicas. Derived from the job's name if absent.
    pub server_id: Option<u32>,
    /// Where to begin without an earlier run: `latest` (the end now), `earliest` (the oldest binlog kept), or `file:offset`.
    #[serde(default, deserialize_with = "parsed")]
    pub start: BinlogStart,
}

impl MysqlConfig {
    /// The server, as the client takes it.
    ///
    /// # Errors
    /// Why the URL can't be used, and what one looks like.
    pub(crate) fn options(&self) -> Result<mysql::Opts, String> {
        mysql::Opts::from_url(&self.url).map_err(|error| {
            format!(
                "the source's url can't be used ({error}): write mysql://user:password@host:3306/, with @ : / ? # % in the password as \
                 %40 %3A %2F %3F %23 %25, or with the password in password_file"
            )
        })
    }
}

/// An Alibaba DTS subscription, or any Kafka topic that holds the same records.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DtsConfig {
    /// Bootstrap servers, `host:port,…`.
    pub brokers: String,
    /// The subscription's topic.
    pub topic: String,
    /// The consumer group's id (sid). With user and password: SASL_PLAINTEXT, mechanism PLAIN, user `<user>-<sid>`.
    pub sid: Option<String>,
    /// The subscription's user, without the sid.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// A file with the password; loading puts it into `password`.
    pub password_file: Option<PathBuf>,
    /// Wanted tables, `database.table` with `*`.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Where to begin without an earlier run: `earliest`, `latest`, or a Unix time in seconds.
    #[serde(default, deserialize_with = "parsed")]
    pub start: DtsStart,
    /// Any setting of librdkafka, on top of all others.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// A file to be read as a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Its path.
    pub path: PathBuf,
    /// Wanted tables, `database.table` with `*`.
    #[serde(default)]
    pub tables: Vec<String>,
}

/// The Kafka topic between `publish` and `land`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port,…`.
    pub brokers: String,
    /// The data topic; its companion is `<topic>.meta`.
    pub topic: String,
    /// How many partitions `publish` gives a topic that it creates.
    #[serde(default = "four")]
    pub partitions: u32,
    /// How many replicas `publish` asks for.
    #[serde(default = "one_i32")]
    pub replication: i32,
    /// Any setting of librdkafka, for producers and consumers.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// How the records of a topic are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvelopeKind {
    /// The row alone, what was done in the headers.
    #[default]
    Tidegate,
    /// Canal's JSON.
    CanalJson,
    /// Debezium's JSON, without schema.
    DebeziumJson,
    /// Maxwell's JSON.
    MaxwellJson,
    /// The row alone, what was done in the headers `binlog.type`, `binlog.database`, `binlog.table` and `timestamp`.
    BinlogHeaders,
}

/// How often a change may be in the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Once, for consumers that read committed records: Kafka transactions.
    #[default]
    ExactlyOnce,
    /// After a crash perhaps twice, with the same seq; `land` drops repeats. For clusters without transactions.
    AtLeastOnce,
}

/// Where `land` begins in a topic that it has not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandStart {
    /// At its beginning, which must still be there.
    #[default]
    Beginning,
    /// At the oldest record that is kept: the tables hold already what was before.
    Earliest,
}

/// Settings of `publish`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishConfig {
    /// Whether records and the statements about them are committed in Kafka transactions.
    pub delivery: Delivery,
    /// How often what has been written is stated, and with transactions committed: those that have an eighth of `memory`,
    /// shared out among the workers, sooner.
    #[serde(deserialize_with = "duration")]
    pub commit_interval: Duration,
    /// How many bytes may be between the source and Kafka's acknowledgement, per worker.
    #[serde(deserialize_with = "bytes")]
    pub memory: usize,
    /// A file for records that can't be used; without it the job stops at the first.
    pub dead_letter: Option<PathBuf>,
}

impl Default for PublishConfig {
    fn default() -> Self {
        PublishConfig {
            delivery: Delivery::ExactlyOnce,
            commit_interval: Duration::from_millis(100),
            memory: 64 << 20,
            dead_letter: None,
        }
    }
}

/// Settings of `land`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LandConfig {
    /// Wanted tables of the topic, `database.table` with `*`; none: every table that is not MySQL's own.
    pub tables: Vec<String>,
    /// From where a job lands that has no progress yet.
    pub start: LandStart,
    /// The length of an epoch.
    #[serde(deserialize_with = "duration")]
    pub epoch: Duration,
    /// How many slices the key space has at the target; fixed for the life of the job.
    pub lanes: u32,
    /// How many bytes may be between Kafka and the target's commit, per worker.
    #[serde(deserialize_with = "bytes")]
    pub memory: usize,
    /// How many epochs may be between Kafka and the target's commit.
    pub epochs_in_flight: usize,
    /// How the topic's values are written; all but `tidegate` have no statements and are settled by time.
    pub envelope: EnvelopeKind,
    /// Foreign topics: how far a record may come behind a newer one of its partition.
    #[serde(deserialize_with = "duration")]
    pub out_of_orderness: Duration,
    /// Foreign topics: a partition without records for so long is left out.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// Foreign topics: a record that comes later than that, beyond the out-of-orderness, is a dead letter.
    #[serde(deserialize_with = "duration")]
    pub lateness: Duration,
    /// A file for records that can't be used and rows that the target refuses; without it the job stops at the first.
    pub dead_letter: Option<PathBuf>,
}

impl Default for LandConfig {
    fn default() -> Self {
        LandConfig {
            tables: Vec::new(),
            start: LandStart::Beginning,
            epoch: Duration::from_secs(3),
            lanes: 4,
            memory: 256 << 20,
            epochs_in_flight: 64,
            envelope: EnvelopeKind::Tidegate,
            out_of_orderness: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            lateness: Duration::from_secs(600),
            dead_letter: None,
        }
    }
}

/// A target, by its `kind`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetConfig {
    /// Hologres or PostgreSQL; which of them, the server says.
    Postgres(PostgresConfig),
    /// A SQLite file.
    Sqlite(SqliteConfig),
}

/// A server that speaks PostgreSQL's protocol.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// A file with the password, instead of the one in the URL; loading puts it there.
    pub password_file: Option<PathBuf>,
    /// The schema for the tables, which may contain `{database}`.
    #[serde(default = "public")]
    pub schema: String,
    /// Whether missing tables are created.
    #[serde(default = "yes")]
    pub create_tables: bool,
    /// Zero dates: `null`, `error` or `dead-letter`.
    #[serde(default)]
    pub zero_dates: ZeroDates,
}

impl PostgresConfig {
    /// The server, as the client takes it, and its `host:port`.
    ///
    /// # Errors
    /// Why the URL can't be used, and what one looks like.
    pub(crate) fn options(&self) -> Result<(postgres::Config, String), String> {
        let unusable = |error: &str| {
            format!(
                "the target's url can't be used ({error}): write postgres://user:password@host:5432/database, with @ : / ? # % in the \
                 password as %40 %3A %2F %3F %23 %25, or with the password in password_file"
            )
        };
        if self.url.split_once("://").is_some_and(|(scheme, _)| !matches!(scheme, "postgres" | "postgresql")) {
            return Err(unusable("it does not begin with postgres://"));
        }
        let options: postgres::Config = self.url.parse().map_err(|error: postgres::Error| {
            unusable(&error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        if options.get_ssl_mode() == SslMode::Require {
            return Err(unusable("sslmode=require, and tidegate does not speak TLS"));
        }
        let host = match options.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            _ => return Err(unusable("it names no host")),
        };
        let port = options.get_ports().first().copied().unwrap_or(5432);
        Ok((options, format!("{host}:{port}")))
    }
}

/// What becomes of a date that only MySQL has (`0000-00-00`, a zero month or day) in a date column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroDates {
    /// The job stops and names table, key and column.
    #[default]
    Error,
    /// The column is null.
    Null,
    /// The row goes to the dead letters.
    DeadLetter,
}

/// A SQLite file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteConfig {
    /// Its path.
    pub path: PathBuf,
}

/// Settings of `verify`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// The database that holds the source's rows, where `[source]` is not it but a stream of its changes.
    pub source: Option<MysqlConfig>,
    /// Tables to compare, `database.table` with `*`; none: the source's.
    pub tables: Vec<String>,
    /// About how many rows a chunk of keys has.
    pub chunk_rows: usize,
    /// How many differing keys are listed per table; all are counted.
    pub list: usize,
    /// For how long a key that differs is looked at again before it is called different, which takes that it has stood still for
    /// the second half of it: more than twice as long as changes take from source to target, if they go on meanwhile.
    #[serde(deserialize_with = "duration")]
    pub patience: Duration,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        VerifyConfig {
            source: None,
            tables: Vec::new(),
            chunk_rows: 10_000,
            list: 100,
            patience: Duration::from_secs(10),
        }
    }
}

/// Settings of the cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// How batches are laid out between processes.
    pub codec: Codec,
}

fn public() -> String {
    "public".into()
}
fn four() -> u32 {
    4
}
fn one_i32() -> i32 {
    1
}
fn yes() -> bool {
    true
}

/// Reads `100ms`, `3s`, `2m`, `1h`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no duration: write 100ms, 3s, 2m or 1h"))?;
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("'{text}' is no duration: write 100ms, 3s, 2m or 1h")),
    };
    match number.checked_mul(factor) {
        None => Err(format!("the duration '{text}' is too long")),
        Some(0) => Err(format!("the duration '{text}' is zero: one millisecond is the least")),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

/// Reads `4096`, `64KB`, `256MB`, `1GB` (powers of 1024).
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let error = || format!("'{text}' is no size: write 64KB, 256MB or 1GB");
    let number: usize = number.parse().map_err(|_| error())?;
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "KB" | "KIB" => 10,
        "MB" | "MIB" => 20,
        "GB" | "GIB" => 30,
        _ => return Err(error()),
    };
    number.checked_mul(1 << shift).filter(|&size| size > 0).ok_or_else(error)
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    parse_bytes(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
