//! The one configuration file of all commands.
//!
//! Parsed plainly with serde, so that an unknown or ill-typed setting is an error that names its line, then checked once
//! for what a type can't say. `${VAR}` stands for an environment variable, in any text; a `password_file` keeps a secret
//! out of the file altogether.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::wire::Codec;

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
}

/// A source, by its kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
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
    /// A file with the password, instead of the one in the URL.
    pub password_file: Option<PathBuf>,
    /// Wanted tables, `database.table` with `*`; none: every table that is not MySQL's own.
    #[serde(default)]
    pub tables: Vec<String>,
    /// The replica id that this reader shows the server; unique among its replicas. Derived from the job's name if absent.
    pub server_id: Option<u32>,
    /// Where to begin without an earlier run: `latest` (the end now), `earliest` (the oldest binlog kept), or `file:offset`.
    #[serde(default = "latest")]
    pub start: String,
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
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// Wanted tables, `database.table` with `*`.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Where to begin without an earlier run: `earliest`, `latest`, or a Unix time in seconds.
    #[serde(default = "earliest")]
    pub start: String,
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

/// Settings of `publish`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishConfig {
    /// Whether records and the statements about them are committed in Kafka transactions.
    pub delivery: Delivery,
    /// How often what has been written is stated, and with transactions committed.
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

/// A target, by its kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
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
    /// A file with the password, instead of the one in the URL.
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
    /// For how long a key that differs is looked at again before it is called different. Longer than the changes take from
    /// source to target, if they go on meanwhile.
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

fn latest() -> String {
    "latest".into()
}
fn earliest() -> String {
    "earliest".into()
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

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    parse_bytes(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with file and line.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigError(format!("{}: {e}: give the path of a configuration with --config", path.display()))
        })?;
        Config::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok())
    }

    /// Reads and checks a configuration; `file` is its name for messages, `variable` looks up `${VAR}`.
    ///
    /// # Errors
    /// [`ConfigError`] with file and line.
    pub fn parse(text: &str, file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let text = substitute(text, file, variable)?;
        let mut config: Config = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError(format!("{file}:{line}: {}", e.message().replace('\n', " ")))
        })?;
        config.check(&text, file)?;
        config.read_secrets(file)?;
        Ok(config)
    }

    fn check(&self, text: &str, file: &str) -> Result<(), ConfigError> {
        let at = |setting: &str, problem: String| {
            let line = text.lines().position(|l| l.trim_start().starts_with(setting)).map_or(1, |n| n + 1);
            Err(ConfigError(format!("{file}:{line}: {problem}")))
        };
        let name_ok = |name: &str| {
            !name.is_empty()
                && name.len() <= 60
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !name_ok(&self.job) {
            return at("job", format!("job = '{}': 1 to 60 letters, digits, '-', '_' or '.'", self.job));
        }
        if self.land.lanes == 0 || self.land.lanes > 64 {
            return at("lanes", format!("lanes = {}: 1 to 64", self.land.lanes));
        }
        if self.land.epochs_in_flight == 0 {
            return at("epochs_in_flight", "epochs_in_flight = 0: at least 1".into());
        }
        if let Some(TargetConfig::Postgres(postgres)) = &self.target
            && postgres.zero_dates == ZeroDates::DeadLetter
            && self.land.dead_letter.is_none()
        {
            return at("zero_dates", "zero_dates = \"dead-letter\" needs a file: set dead_letter in [land]".into());
        }
        if self.verify.chunk_rows == 0 {
            return at("chunk_rows", "chunk_rows = 0: at least 1".into());
        }
        if let Some(kafka) = &self.kafka {
            if kafka.partitions == 0 || kafka.partitions > 10_000 {
                return at("partitions", format!("partitions = {}: 1 to 10000", kafka.partitions));
            }
            if kafka.topic.len() > 240 || !name_ok(&kafka.topic[..kafka.topic.len().min(60)]) {
                return at("topic", format!("topic = '{}': letters, digits, '-', '_' and '.' only", kafka.topic));
            }
        }
        let patterns = [
            Some(&self.land.tables[..]),
            self.source.as_ref().map(SourceConfig::tables),
            self.verify.source.as_ref().map(|source| &source.tables[..]),
            Some(&self.verify.tables[..]),
        ];
        for tables in patterns.into_iter().flatten() {
            if let Err(problem) = crate::source::TableFilter::new(tables) {
                return at("tables", problem);
            }
        }
        Ok(())
    }

    fn read_secrets(&mut self, file: &str) -> Result<(), ConfigError> {
        let read = |path: &Option<PathBuf>| -> Result<Option<String>, ConfigError> {
            let Some(path) = path else { return Ok(None) };
            let text = std::fs::read_to_string(path)
                .map_err(|e| ConfigError(format!("{file}: password_file {}: {e}", path.display())))?;
            Ok(Some(text.trim_end_matches(['\n', '\r']).to_string()))
        };
        if let Some(SourceConfig::Dts(dts)) = &mut self.source
            && let Some(password) = read(&dts.password_file)?
        {
            dts.password = Some(password);
        }
        let source = match &mut self.source {
            Some(SourceConfig::Mysql(mysql)) => Some(mysql),
            _ => None,
        };
        for mysql in source.into_iter().chain(&mut self.verify.source) {
            if let Some(password) = read(&mysql.password_file)? {
                mysql.url = with_password(&mysql.url, &password);
            }
        }
        if let Some(TargetConfig::Postgres(postgres)) = &mut self.target
            && let Some(password) = read(&postgres.password_file)?
        {
            postgres.url = with_password(&postgres.url, &password);
        }
        Ok(())
    }

    /// The Kafka section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn kafka(&self) -> Result<&KafkaConfig, ConfigError> {
        self.kafka.as_ref().ok_or_else(|| ConfigError("the configuration has no [kafka] section".into()))
    }

    /// The source section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn source(&self) -> Result<&SourceConfig, ConfigError> {
        self.source.as_ref().ok_or_else(|| ConfigError("the configuration has no [source] section".into()))
    }

    /// The target section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn target(&self) -> Result<&TargetConfig, ConfigError> {
        self.target.as_ref().ok_or_else(|| ConfigError("the configuration has no [target] section".into()))
    }
}

/// Puts a password into a `scheme://user[:password]@host` URL, percent-encoded.
fn with_password(url: &str, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_string() };
    let Some((user, host)) = rest.rsplit_once('@') else { return url.to_string() };
    let user = user.split(':').next().unwrap_or_default();
    let encoded: String = password
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    format!("{scheme}://{user}:{encoded}@{host}")
}

/// Replaces every `${VAR}` outside comments.
fn substitute(text: &str, file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let mut rest = line;
        if rest.trim_start().starts_with('#') {
            out.push_str(rest);
            continue;
        }
        while let Some(start) = rest.find("${") {
            let Some(len) = rest[start..].find('}') else { break };
            let name = &rest[start + 2..start + len];
            let value = variable(name).ok_or_else(|| {
                ConfigError(format!("{file}:{}: the environment variable {name} is not set", number + 1))
            })?;
            if value.contains(['"', '\\', '\n']) {
                return Err(ConfigError(format!(
                    "{file}:{}: the environment variable {name} has a quote, backslash or newline: use a *_file setting",
                    number + 1
                )));
            }
            out.push_str(&rest[..start]);
            out.push_str(&value);
            rest = &rest[start + len + 1..];
        }
        out.push_str(rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, "t.toml", &|name| (name == "PW").then(|| "s3cret".to_string()))
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = parse(
            "job = \"shop\"\n[source]\nkind = \"mysql\"\nurl = \"mysql://u:${PW}@h/\"\ntables = [\"shop.*\"]\n\
             [kafka]\nbrokers = \"b:9092\"\ntopic = \"shop\"\n[land]\nepoch = \"500ms\"\nmemory = \"64MB\"\n\
             [target]\nkind = \"postgres\"\nurl = \"postgres://u@h/db\"\n",
        )
        .unwrap();
        let Some(SourceConfig::Mysql(mysql)) = &config.source else { panic!("not mysql") };
        assert_eq!(mysql.url, "mysql://u:s3cret@h/");
        assert_eq!((config.land.epoch, config.land.memory), (Duration::from_millis(500), 64 << 20));
        assert_eq!(config.kafka.unwrap().partitions, 4);
    }

    #[test]
    fn verify_may_have_a_source_of_its_own() {
        let config =
            parse("job = \"x\"\n[verify]\npatience = \"2s\"\n[verify.source]\nurl = \"mysql://u:${PW}@h/\"\n").unwrap();
        assert_eq!(config.verify.source.unwrap().url, "mysql://u:s3cret@h/");
        assert_eq!(config.verify.patience, Duration::from_secs(2));
        let error = parse("job = \"x\"\n[verify]\ntables = [\"orders\"]\n").unwrap_err().to_string();
        assert!(error.starts_with("t.toml:3: 'orders' is no table pattern"), "{error}");
    }

    #[test]
    fn mistakes_name_file_and_line() {
        for (text, want) in [
            ("job = \"x\"\n\n[land]\nepcoh = \"3s\"\n", "t.toml:4: unknown field `epcoh`"),
            ("job = \"x\"\n[land]\nepoch = \"3 parsecs\"\n", "t.toml:3: '3 parsecs' is no duration"),
            ("job = \"x\"\n[land]\nlanes = 0\n", "t.toml:3: lanes = 0"),
            ("job = \"x y\"\n", "t.toml:1: job = 'x y'"),
            ("job = \"x\"\n[kafka]\nbrokers = \"${NOPE}\"\n", "t.toml:3: the environment variable NOPE is not set"),
            ("job = 3\n", "t.toml:1: invalid type"),
        ] {
            let got = parse(text).unwrap_err().to_string();
            assert!(got.starts_with(want), "{got}");
        }
    }

    #[test]
    fn a_password_is_put_into_the_url_encoded() {
        assert_eq!(with_password("mysql://root:x@h:1/", "p@ss/"), "mysql://root:p%40ss%2F@h:1/");
        assert_eq!(with_password("postgres://root@h/db", "a b"), "postgres://root:a%20b@h/db");
    }
}
