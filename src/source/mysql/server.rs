//! Questions to the server, and the sentences for its answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, DriverError, Opts, OptsBuilder};
use mysql_common::proto::codec::error::PacketCodecError;
use xxhash_rust::xxh3::xxh3_64;

use crate::change::{TableFilter, TableName};
use crate::codec::binlog::{Described, DescribedColumn, Flavor, Kind};
use crate::config::MysqlConfig;
use crate::reach::{Unreached, reach_mysql};
use crate::source::SourceError;

use super::place::{FILE_START, Identity, Place};

/// How long the server may be silent: while it has nothing to send it sends heartbeats, far more often.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// So many of what is wrong are named in one sentence.
const NAMED_MAX: usize = 5;

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How often the server sends a heartbeat while it has nothing else to send.
const HEARTBEAT: Duration = Duration::from_millis(200);

/// What MySQL answers to a replica that asks for what it can't have.
const BINLOG_REFUSED: u16 = 1236;
/// What MariaDB 10.11 answers to the older of two replicas with one number.
const REPLACED: u16 = 4052;
const CONNECTING: &str = "connecting";
const SYNTAX_ERROR: u16 = 1064;
/// What both answer where no event begins.
const NO_EVENT: u16 = 1220;
/// Privileges are missing.
const NOT_ALLOWED: u16 = 1227;

const BASE_TABLES: &str =
    "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'";

/// A server and how to reach it.
pub(super) struct Server {
    options: Opts,
    /// `host:port`.
    pub address: String,
    user: String,
    pub server_id: u32,
    /// Which server it has to be, once that is known: what answers at the address may become another.
    identity: Option<Identity>,
}

/// What kind of error it is to the one who reads.
pub(super) enum Trouble {
    /// It may pass: the connection broke or the server restarts.
    Passing(String),
    /// It stays until somebody does something.
    Lasting(SourceError),
}

impl Server {
    /// Where the configuration says; `job` gives the replica id where the configuration does not.
    ///
    /// # Errors
    /// The URL can't be used.
    pub fn new(config: &MysqlConfig, job: &str) -> Result<Server, SourceError> {
        let options = config.options().map_err(SourceError::Source)?;
        let address = format!("{}:{}", options.get_ip_or_hostname(), options.get_tcp_port());
        let user = options.get_user().unwrap_or_default().to_string();
        let builder = OptsBuilder::from_opts(options)
            // Over its socket a server may say other things: another account, no time-outs.
            .prefer_socket(false)
            .tcp_connect_timeout(Some(CONNECT_MAX))
            .read_timeout(Some(SILENCE_MAX))
            .write_timeout(Some(SILENCE_MAX))
            .max_allowed_packet(Some(1 << 30));
        // Small numbers are what people give their replicas.
        let derived = xxh3_64(job.as_bytes()) as u32 | 1 << 30;
        Ok(Server {
            options: builder.into(),
            address,
            user,
            server_id: config.server_id.unwrap_or(derived),
            identity: None,
        })
    }

    pub fn connect(&self) -> Result<Conn, Trouble> {
        let mut conn = reach_mysql(self.options.clone()).map_err(|unreached| match unreached {
            Unreached::Silent(reason) => Trouble::Passing(format!("{CONNECTING}: {reason}")),
            Unreached::Failed(error) => self.trouble(CONNECTING, &error),
        })?;
        // A limit for everybody would cut a table's columns off.
        conn.query_drop("SET SESSION sql_select_limit = 18446744073709551615")
            .map_err(|error| self.trouble(CONNECTING, &error))?;
        if let Some(known) = &self.identity {
            self.refuse_other(known, &self.identity_of(&mut conn)?)?;
        }
        Ok(conn)
    }

    /// From now on it has to be the server of `conn`, which has to be the one of an earlier run, if that is `known`.
    pub fn identify(&mut self, conn: &mut Conn, known: Option<&Identity>) -> Result<Identity, SourceError> {
        let identity = self.identity_of(conn).map_err(|trouble| self.give_up(trouble))?;
        if let Some(known) = known {
            self.refuse_other(known, &identity).map_err(|trouble| self.give_up(trouble))?;
        }
        Ok(self.identity.insert(identity).clone())
    }

    fn identity_of(&self, conn: &mut Conn) -> Result<Identity, Trouble> {
        let question = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_id')";
        let said: Vec<(String, String)> = conn.query(question).map_err(|error| self.trouble("a question", &error))?;
        let value = |name: &str| said.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone());
        let identity = value("server_uuid").or_else(|| value("server_id").map(|id| format!("server_id {id}")));
        identity.map(Identity).ok_or_else(|| {
            let said =
                format!("the source at {} does not say its server_id: is it a MySQL or MariaDB server?", self.address);
            Trouble::Lasting(SourceError::Source(said))
        })
    }

    fn refuse_other(&self, known: &Identity, found: &Identity) -> Result<(), Trouble> {
        if known == found {
            return Ok(());
        }
        Err(Trouble::Lasting(SourceError::Source(format!(
            "the source at {} is another server ({}) than the one whose binlog has been read ({}), and a place in the one's says \
             nothing about the other's: let the url lead to the old one, or publish to another topic, with [source] start at \
             the place in the new one's binlog up to which the tables are right, or with the tables copied anew",
            self.address, found.0, known.0
        ))))
    }

    /// [`connect`](Server::connect) where nothing is to be waited for.
    pub fn connect_once(&self) -> Result<Conn, SourceError> {
        self.connect().map_err(|trouble| self.give_up(trouble))
    }

    pub fn give_up(&self, trouble: Trouble) -> SourceError {
        match trouble {
            Trouble::Lasting(error) => error,
            Trouble::Passing(reason) => SourceError::Source(format!("the source at {}: {reason}", self.address)),
        }
    }

    /// The replica id of a connection that looks ahead, beside the one that reads.
    pub fn looking_id(&self) -> u32 {
        self.server_id ^ 1 << 29
    }

    /// A connection on which events are asked for next.
    pub fn replica(&self) -> Result<Conn, Trouble> {
        let mut conn = self.connect()?;
        let nanos = HEARTBEAT.as_nanos();
        let settings = [
            format!("SET @master_heartbeat_period={nanos}, @source_heartbeat_period={nanos}"),
            // Without it MariaDB believes in an old replica and leaves out its GTIDs.
            "SET @mariadb_slave_capability=4".to_string(),
            "SET @source_binlog_checksum='CRC32'".to_string(),
        ];
        for setting in settings {
            conn.query_drop(setting).map_err(|error| self.trouble("preparing to read the binlog", &error))?;
        }
        Ok(conn)
    }

    /// Whose server it is.
    pub fn flavor(&self, conn: &mut Conn) -> Result<Flavor, SourceError> {
        let version: Option<String> = conn.query_first("SELECT VERSION()").map_err(|e| self.error("a question", &e))?;
        Ok(match version.is_some_and(|version| version.contains("MariaDB")) {
            true => Flavor::MariaDb,
            false => Flavor::MySql,
        })
    }

    /// Whether it takes table names for lower case.
    pub fn has_lower_case_names(&self, conn: &mut Conn) -> Result<bool, SourceError> {
        let said: Option<u8> =
            conn.query_first("SELECT @@lower_case_table_names").map_err(|e| self.error("a question", &e))?;
        Ok(said.is_some_and(|said| said != 0))
    }

    /// That the server logs what a replica needs.
    pub fn check(&self, conn: &mut Conn) -> Result<(), SourceError> {
        let mut wrong = Vec::new();
        let wanted: [(&str, &[&str]); 6] = [
            ("log_bin", &["1", "ON"]),
            ("binlog_format", &["ROW"]),
            ("binlog_row_image", &["FULL"]),
            ("binlog_row_value_options", &[""]),
            ("log_bin_compress", &["0", "OFF"]),
            ("encrypt_binlog", &["0", "OFF", "1", "ON"]),
        ];
        for (variable, allowed) in wanted {
            let question = format!("SHOW GLOBAL VARIABLES LIKE '{variable}'");
            let said: Option<(String, String)> =
                conn.query_first(question).map_err(|e| self.error("a question", &e))?;
            // MySQL and MariaDB do not have all of the other's variables.
            let Some((_, value)) = said else { continue };
            if !allowed.iter().any(|allowed| value.eq_ignore_ascii_case(allowed)) {
                wrong.push(format!("{variable} is {value} and has to be {}", quoted(allowed[allowed.len() - 1])));
            }
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(SourceError::Source(format!(
                "the source at {} does not log what is needed: {}; set it there with SET GLOBAL or in its configuration file",
                self.address,
                wrong.join(", ")
            ))),
        }
    }

    /// The end of the binlog.
    pub fn end(&self, conn: &mut Conn) -> Result<Place, SourceError> {
        self.try_end(conn).map_err(|trouble| self.give_up(trouble))
    }

    /// The same, where a lost server is waited for.
    pub fn try_end(&self, conn: &mut Conn) -> Result<Place, Trouble> {
        // MySQL 8.4 has only the new words for it, MariaDB 10.5 and MySQL 5.7 only the old.
        let mut said: Result<Option<mysql::Row>, _> = conn.query_first("SHOW BINARY LOG STATUS");
        if matches!(&said, Err(mysql::Error::MySqlError(error)) if error.code == SYNTAX_ERROR) {
            said = conn.query_first("SHOW MASTER STATUS");
        }
        let row = said.map_err(|error| self.trouble("SHOW MASTER STATUS", &error))?;
        let place = row.and_then(|row| Some(Place::new(row.get::<String, _>(0)?, row.get::<u64, _>(1)?)));
        place.ok_or_else(|| {
            let said = format!("the source at {} has no binlog: set log_bin there", self.address);
            Trouble::Lasting(SourceError::Source(said))
        })
    }

    /// The binlog files that the server has kept, oldest first, with their sizes.
    fn files(&self, conn: &mut Conn) -> Result<Vec<(String, u64)>, Trouble> {
        let rows: Vec<mysql::Row> =
            conn.query("SHOW BINARY LOGS").map_err(|error| self.trouble("SHOW BINARY LOGS", &error))?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect())
    }

    /// The beginning of the file behind the one that a place is in; `None`: the server still writes to that.
    pub fn file_behind(&self, place: &Place) -> Result<Option<Place>, Trouble> {
        let files = self.files(&mut self.connect()?)?;
        let behind = files.into_iter().map(|(file, _)| Place::new(file, FILE_START));
        Ok(behind.skip_while(|file| file.file != place.file).nth(1))
    }

    /// All tables that it shows to this user.
    pub fn tables(&self, conn: &mut Conn) -> Result<Vec<TableName>, SourceError> {
        let rows: Vec<(String, String)> =
            conn.query(BASE_TABLES).map_err(|error| self.error("a question about tables", &error))?;
        Ok(rows.into_iter().map(|(database, table)| TableName { database, table }).collect())
    }

    /// That none of the wanted tables is system-versioned (MariaDB).
    pub fn check_versioned(&self, conn: &mut Conn, filter: &TableFilter) -> Result<(), SourceError> {
        let question =
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'SYSTEM VERSIONED'";
        let tables: Vec<(String, String)> =
            conn.query(question).map_err(|error| self.error("a question about tables", &error))?;
        match tables.into_iter().find(|(database, table)| filter.wants(database, table)) {
            None => Ok(()),
            Some((database, table)) => {
                let reason = versioned(&TableName { database, table });
                Err(SourceError::Source(format!("the source at {}: {reason}", self.address)))
            }
        }
    }

    /// Warns of what of the wanted tables will not arrive: rows that foreign keys change of which the binlog says nothing (InnoDB's
    /// own do, the server's in MySQL 9.6 do not), and rows without a key.
    pub fn warn(&self, filter: &TableFilter) {
        // On a connection of its own, which may break: it is only advice.
        let ask = |mut conn: Conn| Ok((self.unlogged_keys(&mut conn, filter)?, self.keyless(&mut conn, filter)?));
        let found =
            self.connect_once().and_then(|conn| ask(conn).map_err(|error| self.error("a question about keys", &error)));
        let address = &self.address;
        let (unlogged, keyless) = match found {
            Ok(found) => found,
            Err(error) => return tracing::warn!("which tables have keys that matter here is not known: {error}"),
        };
        if !unlogged.is_empty() {
            tracing::warn!(
                "the source at {address}: rows that foreign keys change by ON DELETE or ON UPDATE (CASCADE, SET NULL) are not in its \
                 binlog, and stay as they were at the target until `verify --repair`: {}",
                some_of(&unlogged)
            );
        }
        if !keyless.is_empty() {
            tracing::warn!(
                "the source at {address}: these tables have neither a primary key nor a NOT NULL unique key, and land refuses what \
                 is published of them: leave them out in [source] tables, or give them a key: {}",
                some_of(&keyless)
            );
        }
    }

    /// The wanted tables by whose key no row can be found. Two questions and none within the other: MariaDB would open each table's
    /// files once for every table that there is.
    fn keyless(&self, conn: &mut Conn, filter: &TableFilter) -> Result<Vec<String>, mysql::Error> {
        let tables: Vec<(String, String)> = conn.query(BASE_TABLES)?;
        let question = "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, COALESCE(NULLABLE, '') \
                        FROM information_schema.STATISTICS WHERE NON_UNIQUE = 0";
        let parts: Vec<(String, String, String, String)> = conn.query(question)?;
        let mut indexes: BTreeMap<(&str, &str, &str), bool> = BTreeMap::new();
        for (database, table, index, nullable) in &parts {
            *indexes.entry((database, table, index)).or_insert(true) &= nullable != "YES";
        }
        let usable = indexes.into_iter().filter(|(_, usable)| *usable);
        let keyed: BTreeSet<(&str, &str)> = usable.map(|((database, table, _), _)| (database, table)).collect();
        let system = |database: &str| ["mysql", "sys", "performance_schema", "information_schema"].contains(&database);
        let keyless = tables.iter().filter(|(database, table)| {
            !system(database) && filter.wants(database, table) && !keyed.contains(&(database.as_str(), table.as_str()))
        });
        let keyless: BTreeSet<TableName> = keyless.map(|(database, table)| TableName::new(database, table)).collect();
        Ok(keyless.iter().map(TableName::to_string).collect())
    }

    fn unlogged_keys(&self, conn: &mut Conn, filter: &TableFilter) -> Result<Vec<String>, mysql::Error> {
        let native: Option<(String, String)> =
            conn.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'")?;
        if native.is_some_and(|(_, native)| native.eq_ignore_ascii_case("OFF")) {
            return Ok(Vec::new());
        }
        let question = "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS \
                        WHERE UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION') OR DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION') \
                        ORDER BY 1, 2, 3";
        let keys: Vec<(String, String, String)> = conn.query(question)?;
        let wanted = keys.iter().filter(|(database, table, _)| filter.wants(database, table));
        Ok(wanted.map(|(database, table, key)| format!("{} ({key})", TableName::new(database, table))).collect())
    }

    /// A place that the configuration names: that an event begins there.
    pub fn event_at(&self, conn: &mut Conn, place: Place) -> Result<Place, SourceError> {
        let files = self.files(conn).map_err(|trouble| self.give_up(trouble))?;
        let wrong = |why: String| Err(SourceError::Source(format!("[source] start = '{place}': {why}")));
        match files.iter().find(|(file, _)| *file == place.file) {
            Some((_, size)) if place.offset == FILE_START || place.offset == *size => return Ok(place),
            Some((_, size)) if place.offset < *size => {}
            Some((_, size)) => return wrong(format!("that file of the source at {} ends at {size}", self.address)),
            None => {
                let [oldest, newest] = [files.first(), files.last()].map(|file| file.map_or("none", |(file, _)| file));
                return wrong(format!(
                    "the source at {} has no such file: its oldest file is {oldest}, its newest {newest}",
                    self.address
                ));
            }
        }
        let list = format!("take a place of a GTID event that SHOW BINLOG EVENTS IN '{}' lists", place.file);
        let question = format!("SHOW BINLOG EVENTS IN '{}' FROM {} LIMIT 1", place.file, place.offset);
        let event: Option<mysql::Row> = match conn.query_first(question) {
            Err(mysql::Error::MySqlError(said)) if said.code == NO_EVENT => {
                return wrong(format!("no event begins there: {}; {list}", said.message));
            }
            event => event.map_err(|error| self.error("SHOW BINLOG EVENTS", &error))?,
        };
        let said = event.as_ref().and_then(|event| Some((event.get::<u64, _>(1)?, event.get(2)?)));
        let (offset, kind): (u64, String) = said.unwrap_or_default();
        if offset != place.offset {
            return wrong(format!("no event begins there; {list}"));
        }
        let between = [
            "Gtid",
            "Anonymous_Gtid",
            "Format_desc",
            "Previous_gtids",
            "Start_encryption",
            "Binlog_checkpoint",
            "Rotate",
            "Stop",
        ];
        if !between.iter().any(|between| kind.starts_with(between)) {
            return wrong(format!("that is inside of a transaction, or may be ({kind}); {list}"));
        }
        Ok(place)
    }

    /// Where to begin: a place asked for, if the server has it.
    pub fn kept(&self, conn: &mut Conn, place: Place) -> Result<Place, SourceError> {
        let files = self.files(conn).map_err(|trouble| self.give_up(trouble))?;
        match files.iter().find(|(file, _)| *file == place.file) {
            Some((_, size)) if place.offset <= *size => Ok(place),
            Some((_, size)) => Err(SourceError::Source(format!(
                "the source at {} has no {place}: that file ends at {size}; it is another server, or it lost its end in a \
                 crash: copy the tables anew and give the job another topic",
                self.address
            ))),
            None => {
                let oldest = files.first().map_or("none".to_string(), |(file, _)| file.clone());
                Err(SourceError::Source(format!(
                    "the source at {} has no {place} any more, its oldest file is {oldest}: changes are lost; copy the \
                     tables anew and give the job another topic, and keep binlogs longer (binlog_expire_logs_seconds)",
                    self.address
                )))
            }
        }
    }

    pub fn earliest(&self, conn: &mut Conn) -> Result<Place, SourceError> {
        let files = self.files(conn).map_err(|trouble| self.give_up(trouble))?;
        let oldest = files.into_iter().next();
        let (file, _) = oldest.ok_or_else(|| {
            SourceError::Source(format!("the source at {} has no binlog: set log_bin there", self.address))
        })?;
        Ok(Place::new(file, FILE_START))
    }

    /// What the server says about a table now; `None`: it has no such table, or shows none.
    pub fn describe(&self, conn: &mut Conn, table: &TableName) -> Result<Option<Described>, Trouble> {
        let error = |error| self.trouble("a question about a table", &error);
        let columns: Vec<(String, String, Option<String>, String)> = conn
            .exec(
                "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, IS_NULLABLE FROM information_schema.COLUMNS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
                (&table.database, &table.table),
            )
            .map_err(error)?;
        if columns.is_empty() {
            return Ok(None);
        }
        let indexes: Vec<(String, Option<String>)> = conn
            .exec(
                "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0 \
                 ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX",
                (&table.database, &table.table),
            )
            .map_err(error)?;
        let filled = |name: &String| columns.iter().any(|column| column.0 == *name && column.3 == "NO");
        let usable =
            |index: &&[(String, Option<String>)]| index.iter().all(|(_, column)| column.as_ref().is_some_and(filled));
        let key = indexes.chunk_by(|a, b| a.0 == b.0).find(usable).unwrap_or_default();
        let has_primary_key = key.first().is_some_and(|(index, _)| index == "PRIMARY");
        let key = key.iter().filter_map(|(_, column)| column.clone()).collect();
        let kind: Option<String> = conn
            .exec_first(
                "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
                (&table.database, &table.table),
            )
            .map_err(error)?;
        let kind = match kind.as_deref() {
            Some("SYSTEM VERSIONED") => Kind::Versioned,
            Some("SEQUENCE") => Kind::Sequence,
            _ => Kind::Table,
        };
        let described = |(name, column_type, charset, _)| DescribedColumn { name, column_type, charset };
        Ok(Some(Described { columns: columns.into_iter().map(described).collect(), key, has_primary_key, kind }))
    }

    fn error(&self, what: &str, error: &mysql::Error) -> SourceError {
        let trouble = self.trouble(what, error);
        self.give_up(trouble)
    }

    /// The sentence for what went wrong while doing `what`.
    pub fn trouble(&self, what: &str, error: &mysql::Error) -> Trouble {
        let lasting = |text: String| Trouble::Lasting(SourceError::Source(text));
        let said = match error {
            mysql::Error::MySqlError(said) => said,
            // What MySQL also asks of a user that it does not have.
            mysql::Error::DriverError(DriverError::UnknownAuthPlugin(plugin)) => {
                return lasting(format!(
                    "the source at {} refuses user '{}', or has it log in by {plugin}, which this client does not know; check \
                     the user, or let it log in by caching_sha2_password",
                    self.address, self.user
                ));
            }
            mysql::Error::IoError(error) | mysql::Error::CodecError(PacketCodecError::Io(error)) => {
                return Trouble::Passing(format!("{what}: {}", of_connection(error)));
            }
            mysql::Error::DriverError(error) => return Trouble::Passing(format!("{what}: {error}")),
            mysql::Error::CodecError(error) => return Trouble::Passing(format!("{what}: {error}")),
            error => return lasting(format!("the source at {}: {what}: {error}", self.address)),
        };
        let (address, user, message) = (&self.address, &self.user, &said.message);
        match said.code {
            1045 | 1044 | 1698 if what == CONNECTING => {
                lasting(format!("the source at {address} refuses user '{user}': {message}; check user and password"))
            }
            // MySQL 9 says 1045, of a password, to a replica without privileges.
            NOT_ALLOWED | 1142 | 1045 => lasting(format!(
                "user '{user}' may not do {what} at the source at {address}: {message}; GRANT SELECT, REPLICATION SLAVE, \
                 REPLICATION CLIENT ON *.* TO '{user}'"
            )),
            BINLOG_REFUSED | REPLACED if message.contains("same server_") => lasting(format!(
                "another replica with server_id {} reads from the source at {address}: {message}; is the job running twice? \
                 Otherwise give [source] a server_id of its own",
                self.server_id
            )),
            BINLOG_REFUSED if message.contains("GTID_MODE") => lasting(format!(
                "the source at {address} sends nothing that was logged under another gtid_mode: {message}; set gtid_mode to \
                 ON_PERMISSIVE (or OFF_PERMISSIVE) there until the job has caught up"
            )),
            BINLOG_REFUSED => lasting(format!(
                "the source at {address} can't go on sending its binlog: {message}; if the place that the topic \
                 has recorded is gone, copy the tables anew and give the job another topic"
            )),
            // Too many connections; the server shuts down; the connection was killed, or the query was.
            1040 | 1053 | 1927 | 1317 | 1158..=1161 => Trouble::Passing(format!("{what}: {message}")),
            code => lasting(format!("the source at {address}: {what}: {message} (error {code})")),
        }
    }
}

/// What is wrong with a connection. The system has no better word for an answer that does not come in time than "Resource temporarily
/// unavailable".
fn of_connection(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer for {} s", SILENCE_MAX.as_secs()),
        _ => error.to_string(),
    }
}

/// Whether that is said of a file that ends inside of an event.
pub(super) fn is_cut(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(said)
        if said.code == BINLOG_REFUSED && said.message.contains("truncated in the middle of event"))
}

/// The end of a sentence about a table WITH SYSTEM VERSIONING.
pub(super) fn versioned(table: &TableName) -> String {
    format!(
        "table {table} is system-versioned, and rows of its history are logged as if they were new ones of the table: take it \
         out with \"!{table}\" in [source] tables, or drop its system versioning and start behind that"
    )
}

fn quoted(value: &str) -> String {
    if value.is_empty() { "empty".into() } else { value.to_string() }
}

/// Some of many names.
fn some_of(names: &[String]) -> String {
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", names[..names.len().min(NAMED_MAX)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_said_to_give_no_answer() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = format!("url = \"mysql://r:r@{}/\"\ntables = [\"a.b\"]", silent.local_addr().unwrap());
        let server = Server::new(&toml::from_str(&config).unwrap(), "job").unwrap();
        let hasty = OptsBuilder::from_opts(server.options.clone()).read_timeout(Some(Duration::from_millis(10)));
        match server.trouble("a question", &Conn::new(hasty).unwrap_err()) {
            Trouble::Passing(said) => assert_eq!(said, "a question: no answer for 30 s"),
            Trouble::Lasting(said) => panic!("{said}"),
        }
    }
}
