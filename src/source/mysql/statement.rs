//! What a statement in the binlog means to a reader of rows.

use std::borrow::Cow;

use mysql::binlog::events::{QueryEvent, StatusVarVal};
use mysql_common::binlog::consts::StatusVarKey;
use mysql_common::constants::SqlMode;

use crate::codec::binlog::charset_of;
use crate::codec::charset;

use words::{Escapes, Word, Words};

#[cfg(test)]
mod tests;
mod words;

/// A statement as it is logged.
#[derive(Clone, Debug)]
pub struct Sql<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    escapes: Escapes,
}

impl<'a> Sql<'a> {
    /// The statement of an event, whose text is in the character set that its client spoke.
    pub fn of(event: &'a QueryEvent<'a>) -> Sql<'a> {
        let vars = event.status_vars();
        let client = vars.get_status_var(StatusVarKey::Charset).and_then(|said| match said.get_value() {
            Ok(StatusVarVal::Charset { charset_client, .. }) => charset_of(charset_client.into()).ok(),
            _ => None,
        });
        let text = client.and_then(|client| charset::decode(&client, event.query_raw()).ok().flatten());
        let mode = vars.get_status_var(StatusVarKey::SqlMode).and_then(|said| match said.get_value() {
            Ok(StatusVarVal::SqlMode(mode)) => Some(mode.get()),
            _ => None,
        });
        Sql::in_mode(text.unwrap_or_else(|| event.query()), mode.unwrap_or(SqlMode::empty()))
    }

    /// A statement of a session with that `sql_mode`.
    fn in_mode(text: Cow<'a, str>, mode: SqlMode) -> Sql<'a> {
        let single = !mode.contains(SqlMode::MODE_NO_BACKSLASH_ESCAPES);
        let double = single && !mode.contains(SqlMode::MODE_ANSI_QUOTES);
        Sql { text, escapes: Escapes { single, double } }
    }
}

/// A statement of a session with the default `sql_mode`.
#[cfg(test)]
impl<'a> From<&'a str> for Sql<'a> {
    fn from(text: &'a str) -> Sql<'a> {
        Sql::in_mode(text.into(), SqlMode::empty())
    }
}

/// A statement, as far as the reader cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A transaction begins.
    Begin,
    /// A transaction ends.
    End,
    /// A transaction is rolled back, or a part of it.
    Rollback,
    /// A distributed transaction goes on: it begins, or ends and is prepared then, or is decided about.
    Xa {
        /// What it does.
        step: XaStep,
        /// Which it is, as the server writes that.
        xid: String,
    },
    /// Rows of tables go, or come, without being logged.
    Unlogged {
        /// The statement's own word for it.
        what: &'static str,
        /// The tables.
        tables: Vec<Named>,
    },
    /// Tables are altered, dropped, renamed or made anew: what becomes of their rows is not logged.
    Alter {
        /// The tables.
        tables: Vec<Named>,
        /// Whether their columns may be others afterwards, or have other names, types or character sets.
        reshapes: bool,
    },
    /// All tables of a database go.
    DropDatabase {
        /// The database.
        database: String,
    },
    /// Rows change, or may, without being logged as rows: what is not known to be harmless is this.
    RowsAsText {
        /// The tables; none where that can't be told from the statement's first words.
        tables: Vec<Named>,
    },
    /// A table has another unique index, or lacks one: its key may be another if it is none that is called primary.
    Index {
        /// The table.
        table: Named,
    },
    /// CREATE TABLE … SELECT: rows follow, and an end.
    CreateWithRows,
    /// Anything else: it changes no row.
    Other,
}

/// What a distributed transaction does. Its rows are logged before it is known whether they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XaStep {
    /// Rows follow.
    Start,
    /// No more rows follow.
    End,
    /// They stay.
    Commit,
    /// They do not.
    Rollback,
}

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The database, where the statement names it.
    pub database: Option<String>,
    /// The table.
    pub table: String,
}

/// What `sql` means.
pub fn classify(sql: &Sql) -> Statement {
    meaning(Words(&sql.text, sql.escapes))
}

fn meaning(mut words: Words) -> Statement {
    let Some(first) = words.next().filter(|first| !first.quoted) else { return Statement::Other };
    let doubtful = Statement::RowsAsText { tables: Vec::new() };
    match &*first.text.to_ascii_uppercase() {
        "BEGIN" => Statement::Begin,
        "COMMIT" => Statement::End,
        "ROLLBACK" => Statement::Rollback,
        "XA" => xa(&mut words).unwrap_or(doubtful),
        verb @ ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH") => {
            Statement::RowsAsText { tables: written_to(verb, &mut words).into_iter().collect() }
        }
        "TRUNCATE" => truncate(&mut words).unwrap_or(Statement::Other),
        "ALTER" => partition(&mut words.clone()).or_else(|| alter(&mut words)).unwrap_or(Statement::Other),
        "DROP" => drop_database(&mut words.clone())
            .or_else(|| drop_index(&mut words.clone()))
            .or_else(|| drop_tables(&mut words))
            .unwrap_or(Statement::Other),
        "RENAME" => rename(&mut words).unwrap_or(Statement::Other),
        "CREATE" => create(&mut words).unwrap_or(Statement::Other),
        // MariaDB: SET STATEMENT variables FOR another statement.
        "SET" if words.clone().next().is_some_and(|word| word.is("STATEMENT")) => {
            match words.find(|word| word.is("FOR")) {
                Some(_) => meaning(words),
                None => doubtful,
            }
        }
        // MariaDB's ANALYZE of a statement carries that out.
        "ANALYZE" => match words.find(|word| !word.is_one_of(&["NO_WRITE_TO_BINLOG", "LOCAL"])) {
            Some(word) if word.is_one_of(&["TABLE", "TABLES"]) => Statement::Other,
            _ => doubtful,
        },
        "SAVEPOINT" | "RELEASE" | "GRANT" | "REVOKE" | "FLUSH" | "OPTIMIZE" | "REPAIR" | "CHECK" | "SET"
        | "INSTALL" | "UNINSTALL" | "RESET" | "CHANGE" | "START" | "STOP" => Statement::Other,
        _ => doubtful,
    }
}

/// The one table that a statement writes to, if its first words leave no doubt.
fn written_to(verb: &str, words: &mut Words) -> Option<Named> {
    let modifiers = ["LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "IGNORE", "QUICK"];
    let mut word = words.find(|word| !word.is_one_of(&modifiers))?;
    match verb {
        "INSERT" | "REPLACE" if word.is("INTO") => word = words.next()?,
        "INSERT" | "REPLACE" | "UPDATE" => {}
        "DELETE" if word.is("FROM") => word = words.next()?,
        "LOAD" => {
            words.find(|word| word.is("INTO"))?;
            words.next().filter(|word| word.is("TABLE"))?;
            word = words.next()?;
        }
        _ => return None,
    }
    let table = named(word, words)?;
    // Behind a list or a join of tables the one that is written to may be another.
    let listed = words.0.trim_start().starts_with(',');
    let next = words.next();
    let alone = match verb {
        "UPDATE" => next.is_some_and(|next| next.is("SET")),
        "DELETE" => next.is_none_or(|next| next.is_one_of(&["WHERE", "ORDER", "LIMIT", "RETURNING"])),
        _ => true,
    };
    (alone && !listed).then_some(table)
}

/// DROP DATABASE or DROP SCHEMA.
fn drop_database(words: &mut Words) -> Option<Statement> {
    words.next().filter(|what| what.is_one_of(&["DATABASE", "SCHEMA"]))?;
    Some(Statement::DropDatabase { database: past_if_exists(words)?.text })
}

/// DROP INDEX … ON a table.
fn drop_index(words: &mut Words) -> Option<Statement> {
    let modifiers = ["ONLINE", "OFFLINE"];
    words.find(|word| !word.is_one_of(&modifiers)).filter(|what| what.is("INDEX"))?;
    let index = past_if_exists(words)?;
    words.next().filter(|word| word.is("ON"))?;
    let name = words.next()?;
    let table = named(name, words)?;
    Some(match index.text.eq_ignore_ascii_case("PRIMARY") {
        true => Statement::Alter { tables: vec![table], reshapes: true },
        false => Statement::Index { table },
    })
}

fn xa(words: &mut Words<'_>) -> Option<Statement> {
    let step = match &*words.next()?.text.to_ascii_uppercase() {
        "START" | "BEGIN" => XaStep::Start,
        "END" => XaStep::End,
        "COMMIT" => XaStep::Commit,
        "ROLLBACK" => XaStep::Rollback,
        _ => return None,
    };
    Some(Statement::Xa { step, xid: words.0.trim().to_string() })
}

fn truncate(words: &mut Words) -> Option<Statement> {
    let mut name = words.next()?;
    if name.is("TABLE") {
        name = words.next()?;
    }
    Some(Statement::Unlogged { what: "TRUNCATE TABLE", tables: vec![named(name, words)?] })
}

/// ALTER TABLE … that drops, empties, exchanges or converts partitions, or puts another file in the table's place.
fn partition(words: &mut Words) -> Option<Statement> {
    words.find(|word| word.is("TABLE"))?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    let mut verb = String::new();
    while let Some(word) = words.next() {
        let keyword = if word.quoted { String::new() } else { word.text.to_ascii_uppercase() };
        let pair = (&*verb, &*keyword);
        let what = match pair {
            ("DROP" | "TRUNCATE", "PARTITION") => "ALTER TABLE … DROP or TRUNCATE PARTITION",
            ("DISCARD" | "IMPORT", "PARTITION" | "TABLESPACE") => "ALTER TABLE … DISCARD or IMPORT TABLESPACE",
            ("EXCHANGE", "PARTITION") => "ALTER TABLE … EXCHANGE PARTITION",
            ("CONVERT", "PARTITION" | "TABLE") => "ALTER TABLE … CONVERT PARTITION or TABLE",
            _ => {
                verb = keyword;
                continue;
            }
        };
        // The other table: behind CONVERT TABLE, or behind the partition's name and WITH TABLE or TO TABLE.
        let two = matches!(pair.0, "EXCHANGE" | "CONVERT");
        if two && (pair.1 == "TABLE" || words.skip(1).any(|word| word.is("TABLE"))) {
            let name = words.next()?;
            tables.push(named(name, words)?);
        }
        return Some(Statement::Unlogged { what, tables });
    }
    None
}

/// The next word that does not belong to IF EXISTS.
fn past_if_exists(words: &mut Words) -> Option<Word> {
    let name = words.next()?;
    if !name.is("IF") {
        return Some(name);
    }
    words.find(|word| word.is("EXISTS"))?;
    words.next()
}

/// Moves behind the word TABLE, if the statement is about tables.
fn about_tables(words: &mut Words) -> Option<()> {
    let tables = ["TABLE", "TABLES"];
    let others = ["VIEW", "DATABASE", "INDEX", "USER", "SEQUENCE", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"];
    let what = words.find(|word| word.is_one_of(&tables) || word.is_one_of(&others))?;
    what.is_one_of(&tables).then_some(())
}

/// Whether what stands behind the table's name in ALTER TABLE may give it other columns, or other names, types or character
/// sets of columns. A word in doubt may.
fn reshapes(words: &mut Words) -> bool {
    while let Some(word) = words.next() {
        let clause =
            ["RENAME", "CHANGE", "DROP", "MODIFY", "CONVERT", "CHARACTER", "CHARSET", "COLLATE", "FIRST", "AFTER"];
        if word.is_one_of(&clause) {
            return true;
        }
        let beside_columns = ["INDEX", "KEY", "FULLTEXT", "SPATIAL", "FOREIGN", "PARTITION"];
        if word.is("ADD") && !words.next().is_some_and(|what| what.is_one_of(&beside_columns)) {
            return true;
        }
    }
    false
}

/// DROP TABLE, with all tables.
fn drop_tables(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    while words.0.trim_start().starts_with(',') {
        let name = words.next()?;
        tables.push(named(name, words)?);
    }
    Some(Statement::Alter { tables, reshapes: true })
}

/// ALTER TABLE, with the new name if it has one.
fn alter(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let name = past_if_exists(words)?;
    let mut tables = vec![named(name, words)?];
    let reshapes = reshapes(&mut words.clone());
    while words.find(|word| word.is("RENAME")).is_some() {
        let Some(name) = words.find(|word| !word.is_one_of(&["TO", "AS"])) else { break };
        if !name.is_one_of(&["COLUMN", "INDEX", "KEY"]) {
            tables.push(named(name, words)?);
        }
    }
    Some(Statement::Alter { tables, reshapes })
}

/// RENAME TABLE a TO b, c TO d: all of them.
fn rename(words: &mut Words) -> Option<Statement> {
    about_tables(words)?;
    let mut tables = Vec::new();
    let mut name = past_if_exists(words);
    while let Some(first) = name {
        if first.is("WAIT") {
            words.next(); // and for how long
        } else if !first.is_one_of(&["TO", "NOWAIT"]) {
            tables.push(named(first, words)?);
        }
        name = words.next();
    }
    Some(Statement::Alter { tables, reshapes: true })
}

/// CREATE TABLE with rows in it, or instead of the table that is there (MariaDB's OR REPLACE); CREATE UNIQUE INDEX.
fn create(words: &mut Words) -> Option<Statement> {
    let mut what = words.next()?;
    let replaces = what.is("OR");
    if replaces {
        words.next().filter(|word| word.is("REPLACE"))?;
        what = words.next()?;
    }
    while what.is_one_of(&["ONLINE", "OFFLINE"]) {
        what = words.next()?;
    }
    if what.is("UNIQUE") || (replaces && what.is("INDEX")) {
        words.find(|word| word.is("ON"))?;
        let name = words.next()?;
        return Some(Statement::Index { table: named(name, words)? });
    }
    if !what.is("TABLE") {
        return None; // a TEMPORARY one is another table
    }
    let name = past_if_exists(words)?;
    let tables = vec![named(name, words)?];
    let behind: Vec<Word> = words.collect();
    if let [.., start, transaction] = &behind[..]
        && start.is("START")
        && transaction.is("TRANSACTION")
    {
        return Some(Statement::CreateWithRows);
    }
    // A query: where rows are logged as such, it is left out.
    let partition = |next: Option<&Word>| next.is_some_and(|next| next.is_one_of(&["LESS", "IN"]));
    let queries = |(at, word): (usize, &Word)| {
        word.is_one_of(&["SELECT", "TABLE"]) || (word.is("VALUES") && !partition(behind.get(at + 1)))
    };
    if behind.iter().enumerate().any(queries) {
        return Some(Statement::RowsAsText { tables });
    }
    replaces.then_some(Statement::Alter { tables, reshapes: true })
}

/// The table that begins with `first`: a name, or a database's and behind a dot a table's.
fn named(first: Word, words: &mut Words) -> Option<Named> {
    let mut ahead = words.clone();
    if ahead.next().is_some_and(|word| word.is(".")) {
        let table = ahead.next()?.text;
        words.0 = ahead.0;
        return Some(Named { database: Some(first.text), table });
    }
    Some(Named { database: None, table: first.text })
}
