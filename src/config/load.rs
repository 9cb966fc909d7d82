//! From text to a checked configuration: variables and types first, then what a type can't say, then the secrets in files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use super::document::Document;
use super::{Config, ConfigError, KafkaConfig, MysqlConfig, SourceConfig, TargetConfig, ZeroDates};

/// Less is most likely a number without its unit.
const MEMORY_MIN: usize = 64 << 10;

/// Nobody waits longer for a row, and numbers of epochs stay small.
const EPOCH_MAX: Duration = Duration::from_secs(3600);

/// The longest time between two commits.
const COMMIT_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Kafka takes 249 bytes, and the companion's name is longer by `.meta`.
const TOPIC_MAX: usize = 240;

/// The properties of librdkafka that decide whether a gap is noticed, what is read, and from whom: the end of a follower in the
/// same rack may lie behind the leader's.
const OWN_PROPERTIES: [&str; 8] = [
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "isolation.level",
    "client.rack",
    "bootstrap.servers",
    "metadata.broker.list",
];

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
        let document = Document::parse(text, file, variable)?;
        let mut config: Config = document.read()?;
        config.check(&document)?;
        config.read_secrets(&document)?;
        config.file = file.to_string();
        Ok(config)
    }

    fn check(&self, document: &Document) -> Result<(), ConfigError> {
        let at = |setting: &str, problem: String| Err(document.problem(setting, problem));
        let name_ok = |name: &str, longest: usize| {
            (1..=longest).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !name_ok(&self.job, 60) {
            return at("job", format!("job = '{}': 1 to 60 letters, digits, '-', '_' or '.'", self.job));
        }
        if self.land.lanes == 0 || self.land.lanes > 64 {
            return at("land.lanes", format!("lanes = {}: 1 to 64", self.land.lanes));
        }
        for (setting, memory) in [("land.memory", self.land.memory), ("publish.memory", self.publish.memory)] {
            if memory < MEMORY_MIN {
                return at(setting, format!("memory = {memory} bytes: at least 64KB; write 64KB, 256MB or 1GB"));
            }
        }
        if self.land.epoch > EPOCH_MAX {
            return at("land.epoch", format!("epoch = {:?}: at most an hour", self.land.epoch));
        }
        if self.land.epochs_in_flight == 0 {
            return at("land.epochs_in_flight", "epochs_in_flight = 0: at least 1".into());
        }
        if self.publish.commit_interval > COMMIT_INTERVAL_MAX {
            let problem = format!(
                "commit_interval = \"{} s\": at most {} s, since Kafka ends a transaction that is open for longer than a minute",
                self.publish.commit_interval.as_secs(),
                COMMIT_INTERVAL_MAX.as_secs()
            );
            return at("publish.commit_interval", problem);
        }
        if let Some(TargetConfig::Postgres(postgres)) = &self.target {
            if postgres.schema.is_empty() {
                return at("target.schema", "schema is empty: name one, or leave the setting out for public".into());
            }
            if postgres.zero_dates == ZeroDates::DeadLetter && self.land.dead_letter.is_none() {
                let problem = "zero_dates = \"dead-letter\" needs a file: set dead_letter in [land]";
                return at("target.zero_dates", problem.into());
            }
        }
        if self.verify.chunk_rows == 0 {
            return at("verify.chunk_rows", "chunk_rows = 0: at least 1".into());
        }
        if let Some(kafka) = &self.kafka {
            if kafka.partitions == 0 || kafka.partitions > 10_000 {
                return at("kafka.partitions", format!("partitions = {}: 1 to 10000", kafka.partitions));
            }
            if !name_ok(&kafka.topic, TOPIC_MAX) {
                let allowed = format!("1 to {TOPIC_MAX} letters (a to z, A to Z), digits, '-', '_' and '.'");
                return at("kafka.topic", format!("topic = '{}': {allowed}", kafka.topic));
            }
        }
        self.check_properties(document)?;
        let patterns = [
            ("land.tables", Some(&self.land.tables[..])),
            ("source.tables", self.source.as_ref().map(SourceConfig::tables)),
            ("verify.source.tables", self.verify.source.as_ref().map(|source| &source.tables[..])),
            ("verify.tables", Some(&self.verify.tables[..])),
        ];
        for (setting, tables) in patterns {
            if let Err(problem) = crate::change::TableFilter::new(tables.unwrap_or_default()) {
                return at(setting, problem);
            }
        }
        let source = match &self.source {
            Some(SourceConfig::Mysql(mysql)) => Some(mysql),
            _ => None,
        };
        for (setting, mysql) in [("source.url", source), ("verify.source.url", self.verify.source.as_ref())] {
            if let Some(Err(problem)) = mysql.map(MysqlConfig::options) {
                return at(setting, problem);
            }
        }
        if let Some(TargetConfig::Postgres(postgres)) = &self.target
            && let Err(problem) = postgres.options()
        {
            return at("target.url", problem);
        }
        Ok(())
    }

    /// That librdkafka knows the properties that it is to have, each by itself, and that none is tidegate's own.
    fn check_properties(&self, document: &Document) -> Result<(), ConfigError> {
        let subscription = match &self.source {
            Some(SourceConfig::Dts(dts)) => Some(&dts.properties),
            _ => None,
        };
        let topic = self.kafka.as_ref().map(|kafka| &kafka.properties);
        for (section, properties) in [("kafka", topic), ("source", subscription)] {
            for (name, value) in properties.into_iter().flatten() {
                // librdkafka takes those of topics under this name, too.
                if OWN_PROPERTIES.contains(&name.strip_prefix("topic.").unwrap_or(name)) {
                    let problem = format!("\"{name}\" is set by tidegate, whose guarantees depend on it: leave it out");
                    return Err(document.problem_of([section, "properties", name], problem));
                }
                let alone: ClientConfig = [(name.clone(), value.clone())].into_iter().collect();
                if let Err(KafkaError::ClientConfig(_, problem, ..)) = alone.create_native_config() {
                    return Err(document.problem_of([section, "properties", name], format!("librdkafka: {problem}")));
                }
            }
        }
        Ok(())
    }

    /// Puts the passwords that are in files where clients look for them; this is the only place that reads them.
    fn read_secrets(&mut self, document: &Document) -> Result<(), ConfigError> {
        let read = |section: &str, path: &Option<PathBuf>| -> Result<Option<String>, ConfigError> {
            let Some(path) = path else { return Ok(None) };
            let text = std::fs::read_to_string(path).map_err(|error| {
                let problem = format!("password_file {} can't be read: {error}", path.display());
                document.problem(&format!("{section}.password_file"), problem)
            })?;
            Ok(Some(text.trim_end_matches(['\n', '\r']).to_string()))
        };
        if let Some(SourceConfig::Dts(dts)) = &mut self.source
            && let Some(password) = read("source", &dts.password_file)?
        {
            dts.password = Some(password);
        }
        let mut urls = Vec::new();
        if let Some(SourceConfig::Mysql(mysql)) = &mut self.source {
            urls.push(("source", &mut mysql.url, &mysql.password_file));
        }
        if let Some(mysql) = &mut self.verify.source {
            urls.push(("verify.source", &mut mysql.url, &mysql.password_file));
        }
        if let Some(TargetConfig::Postgres(postgres)) = &mut self.target {
            urls.push(("target", &mut postgres.url, &postgres.password_file));
        }
        for (section, url, file) in urls {
            let Some(password) = read(section, file)? else { continue };
            *url = with_password(url, &password).ok_or_else(|| {
                let problem = "the url names no user, whose password password_file has: write scheme://user@host/";
                document.problem(&format!("{section}.url"), problem)
            })?;
        }
        Ok(())
    }

    fn missing(&self, section: &str) -> ConfigError {
        ConfigError(format!("{}: there is no [{section}] section, which this command needs", self.file))
    }

    /// The Kafka section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn kafka(&self) -> Result<&KafkaConfig, ConfigError> {
        self.kafka.as_ref().ok_or_else(|| self.missing("kafka"))
    }

    /// The source section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn source(&self) -> Result<&SourceConfig, ConfigError> {
        self.source.as_ref().ok_or_else(|| self.missing("source"))
    }

    /// The target section, for a command that needs it.
    ///
    /// # Errors
    /// [`ConfigError`] that says that it is missing.
    pub fn target(&self) -> Result<&TargetConfig, ConfigError> {
        self.target.as_ref().ok_or_else(|| self.missing("target"))
    }
}

/// Puts a password into a `scheme://user[:password]@host` URL, percent-encoded; `None`: it names no user.
fn with_password(url: &str, password: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@')?;
    let user = user.split(':').next().filter(|user| !user.is_empty())?;
    let encoded: String = password
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    Some(format!("{scheme}://{user}:{encoded}@{host}{path}"))
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
            (
                "job = \"x\"\n[source]\nkind = \"mysql\"\nurl = \"mysql://u@h/\"\nstart = \"lastest\"\n",
                "t.toml:5: 'lastest' is no place in a binlog: write file:offset, such as binlog.000042:4, or one of 'earliest' and 'latest'",
            ),
            (
                "job = \"x\"\n[source]\nkind = \"dts\"\nbrokers = \"b\"\ntopic = \"t\"\nstart = \"noon\"\n",
                "t.toml:6: 'noon' is none of 'earliest', 'latest' and a Unix time in seconds",
            ),
            (
                "job = \"x\"\n[kafka]\nbrokers = \"b\"\ntopic = \"t\"\n[kafka.properties]\n\"client.id\" = \"x\"\n\"linger\" = \"5\"\n",
                "t.toml:7: librdkafka: No such configuration property: \"linger\"",
            ),
            (
                "job = \"x\"\n[source]\nkind = \"dts\"\nbrokers = \"b\"\ntopic = \"t\"\n\n\n\
                 properties = { \"fetch.wait.max.ms\" = \"soon\" }\n",
                "t.toml:8: librdkafka: Invalid value for configuration property \"fetch.wait.max.ms\"",
            ),
            (
                "job = \"x\"\n[kafka]\nbrokers = \"b\"\ntopic = \"t\"\n[kafka.properties]\n\"isolation.level\" = \"read_uncommitted\"\n",
                "t.toml:6: \"isolation.level\" is set by tidegate",
            ),
            (
                "job = \"x\"\n[kafka]\nbrokers = \"b\"\ntopic = \"t\"\n[kafka.properties]\n\"client.rack\" = \"a\"\n",
                "t.toml:6: \"client.rack\" is set by tidegate",
            ),
            (
                "job = \"x\"\n[source]\nkind = \"dts\"\nbrokers = \"b\"\ntopic = \"t\"\n\
                 properties = { \"topic.auto.offset.reset\" = \"latest\" }\n",
                "t.toml:6: \"topic.auto.offset.reset\" is set by tidegate",
            ),
            ("job = x\n", "t.toml:1: "),
            ("job = \"x y\"\n", "t.toml:1: job = 'x y'"),
            ("job = \"x\"\n[kafka]\nbrokers = \"${NOPE}\"\n", "t.toml:3: the environment variable NOPE is not set"),
            ("job = 3\n", "t.toml:1: invalid type"),
            (
                "job = \"x\"\n[land]\nlanes = -4\n",
                "t.toml:3: invalid value: integer `-4`, expected a whole number from 0 to 4294967295",
            ),
            (
                "job = \"x\"\n[land]\nlanes = \"4\"\n",
                "t.toml:3: invalid type: string \"4\", expected a whole number from 0 to 4294967295",
            ),
            ("job = \"x\"\n[kafka]\nbrokers = \"${NOPE\"\n", "t.toml:3: '${' without '}'"),
            ("job = \"x\"\n[land]\nepochs_in_flight = 4\nepoch = \"2h\"\n", "t.toml:4: epoch = 7200s: at most an hour"),
            ("job = \"x\"\nland.epochs_in_flight = 4\nland.epoch = \"2h\"\n", "t.toml:3: epoch = 7200s"),
            ("job = \"x\"\nland = { lanes = 4, epoch = \"2h\" }\n", "t.toml:2: epoch = 7200s"),
            (
                "job = \"x\"\n[source]\nkind = \"jsonl\"\npath = \"f\"\ntables = [\"a.b\"]\n[land]\ntables = [\"a\"]\n",
                "t.toml:7: 'a' is no table pattern",
            ),
            (
                "job = \"x\"\n[source]\nkind = \"jsonl\"\npath = \"f\"\ntabels = []\n",
                "t.toml:5: unknown field `tabels`",
            ),
            ("job = \"x\"\n[source]\nkind = \"jsonl\"\npath = 7\n", "t.toml:4: invalid type"),
            ("job = \"x\"\n[source]\nkind = \"json\"\n", "t.toml:3: unknown variant `json`"),
            ("job = \"x\"\n\n[source]\nkind = \"jsonl\"\n", "t.toml:3: missing field `path`"),
            ("job = \"x\"\n\n[source]\npath = \"f\"\n", "t.toml:3: missing field `kind`"),
            ("job = \"x\"\n[source]\npath = \"f\"\nkind = 7\n", "t.toml:4: kind has to be a string"),
            ("job = \"x\"\nsource = 7\n", "t.toml:2: source has to be a section"),
            (
                "job = \"x\"\n\n[target]\nkind = \"postgres\"\nurl = \"\"\nzero_dates = \"dead-letter\"\n",
                "t.toml:6: zero_dates",
            ),
            (
                "job = \"x\"\n[source]\nkind = \"mysql\"\nurl = \"mysq://u@h/\"\n",
                "t.toml:4: the source's url can't be used (",
            ),
            ("job = \"x\"\n[verify.source]\nurl = \"h:3306\"\n", "t.toml:3: the source's url can't be used ("),
            (
                "job = \"x\"\n[target]\nkind = \"postgres\"\nurl = \"postgres://u@h:pw/\"\n",
                "t.toml:4: the target's url can't be used (invalid value for option `port`",
            ),
            (
                "job = \"x\"\n[target]\nkind = \"postgres\"\nurl = \"mysql://u@h/\"\n",
                "t.toml:4: the target's url can't be used (it does not begin with postgres://)",
            ),
            (
                "job = \"x\"\n[target]\nkind = \"postgres\"\nurl = \"postgres://u@h/d?sslmode=require\"\n",
                "t.toml:4: the target's url can't be used (sslmode=require, and tidegate does not speak TLS)",
            ),
            (
                "job = \"x\"\n[target]\nkind = \"postgres\"\nurl = \"\"\n",
                "t.toml:4: the target's url can't be used (it names no host)",
            ),
        ] {
            let got = parse(text).unwrap_err().to_string();
            assert!(got.starts_with(want), "{got}");
        }
    }

    #[test]
    fn a_password_is_put_into_the_url_encoded() {
        let put = |url| with_password(url, "p@s s/");
        assert_eq!(put("mysql://root:x@h:1/").as_deref(), Some("mysql://root:p%40s%20s%2F@h:1/"));
        assert_eq!(put("postgres://root@h/db?a=@").as_deref(), Some("postgres://root:p%40s%20s%2F@h/db?a=@"));
        assert_eq!(put("postgres://root@h").as_deref(), Some("postgres://root:p%40s%20s%2F@h"));
        for nobody in ["mysql://h:3306/", "mysql://@h/", "mysql://:old@h/", "mysql://h/db?mail=a@b", "h"] {
            assert_eq!(put(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_password_in_a_file_is_used_or_refused_with_its_line() {
        let file = std::env::temp_dir().join(format!("tidegate-password-{}", std::process::id()));
        std::fs::write(&file, "new\n").unwrap();
        let text = |url: &str, file: &str| {
            format!("job = \"x\"\n[source]\nkind = \"mysql\"\nurl = \"{url}\"\npassword_file = \"{file}\"\n")
        };
        let path = file.to_str().unwrap();
        let Some(SourceConfig::Mysql(mysql)) = parse(&text("mysql://u:old@h/", path)).unwrap().source else { panic!() };
        assert_eq!(mysql.url, "mysql://u:new@h/");
        let error = parse(&text("mysql://h/", path)).unwrap_err().to_string();
        assert!(error.starts_with("t.toml:4: the url names no user"), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = parse(&text("mysql://u@h/", path)).unwrap_err().to_string();
        assert!(error.starts_with("t.toml:5: password_file ") && error.contains("can't be read"), "{error}");
    }

    #[test]
    fn variables_are_values_and_comments_are_none() {
        let text = "job = \"x\" # ${NOPE}\n[land] # '${NOPE}\n[kafka]\n# ${\n\
                    topic = '${PW}-#${PW}' # \"${NOPE}\"\nbrokers = \"\"\"${ODD}\"\"\"\n";
        let odd = "a\"\\\n'b";
        let variable = |name: &str| match name {
            "PW" => Some("s3cret".to_string()),
            "ODD" => Some(odd.to_string()),
            _ => None,
        };
        let error = Config::parse(text, "t.toml", &variable).unwrap_err().to_string();
        assert!(error.starts_with("t.toml:5: topic = 's3cret-#s3cret'"), "{error}");
        let config =
            Config::parse(&text.replace('#', "_").replacen('_', "#", 3).replace("' _", "' #"), "t.toml", &variable);
        let kafka = config.unwrap().kafka.unwrap();
        assert_eq!((&*kafka.topic, &*kafka.brokers), ("s3cret-_s3cret", odd));
    }

    #[test]
    fn a_topic_has_a_name_that_kafka_takes() {
        let topic = |name: &str| parse(&format!("job = \"x\"\n[kafka]\nbrokers = \"b\"\ntopic = \"{name}\"\n"));
        let long = "a".repeat(59);
        for name in [format!("{long}é"), format!("{long}aaaa aaa"), "é".into(), String::new(), "a".repeat(241)] {
            let error = topic(&name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("t.toml:4: topic = '{name}': 1 to 240 letters")), "{error}");
        }
        assert_eq!(topic(&"a".repeat(240)).unwrap().kafka.unwrap().topic.len(), 240);
    }
}
