//! `tidegate verify` on real servers: rows of every type on MySQL and MariaDB against PostgreSQL and SQLite, damage that is
//! planted and must be found, and nothing else, and what it says when it can't compare.

mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql::prelude::Queryable;
use place::types::{BOTH, MARIADB, MYSQL, Sample};
use place::{Kind, Place, Verified, env};
use tidegate::change::ColumnType;

/// The target's type for a column of the source.
fn type_at(kind: Kind, ty: &str, in_key: bool) -> String {
    let text = if ty == "boolean" { "tinyint" } else { ty };
    let ty: ColumnType = text.parse().unwrap();
    match kind {
        Kind::Postgres => ty.postgres(in_key),
        Kind::Sqlite => ty.sqlite().into(),
    }
}

/// A literal of the target.
fn literal(kind: Kind, value: &str) -> String {
    match (kind, value.strip_prefix("\\x")) {
        (Kind::Sqlite, Some(hex)) => format!("X'{hex}'"),
        _ => format!("'{}'", value.replace('\'', "''")),
    }
}

/// A table with a column of each type, rows 1 to the number of types with the samples in every column, and row 0 without
/// any value.
fn every_type(server: &str, kind: Kind, own: &'static [Sample]) {
    let mut place = Place::new(server, kind);
    // MariaDB's JSON is a text.
    let type_of = |sample: &Sample| match (server, sample.ty) {
        ("MARIADB_URL", "json") => "longtext",
        (_, ty) => ty,
    };
    let samples: Vec<&Sample> = BOTH.iter().chain(own).collect();
    let columns = |column: &dyn Fn(&Sample) -> String| {
        let columns = samples.iter().enumerate().map(|(n, sample)| format!("c{n} {}", column(sample)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let create = |columns: String| format!("CREATE TABLE types (id int NOT NULL PRIMARY KEY, {columns})");
    place.at_source(&create(columns(&|sample| sample.ty.to_string())));
    place.at_target(&create(columns(&|sample| type_at(kind, type_of(sample), false))));
    let values = |value: &dyn Fn(&Sample) -> String| samples.iter().map(|s| value(s)).collect::<Vec<_>>().join(", ");
    let at_source = values(&|sample| sample.source.to_string());
    let at_target = values(&|sample| literal(kind, sample.target));
    for id in 1..=samples.len() {
        place.at_source(&format!("INSERT INTO types VALUES ({id}, {at_source})"));
        place.at_target(&format!("INSERT INTO types VALUES ({id}, {at_target})"));
    }
    place.at_source("INSERT INTO types (id) VALUES (0)");
    place.at_target("INSERT INTO types (id) VALUES (0)");
    place.is_identical(samples.len() as u64 + 1);

    // One column of each row, each another one.
    let mut near_misses = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        place.at_target(&format!("UPDATE types SET c{n} = {} WHERE id = {}", literal(kind, sample.near), n + 1));
        near_misses.push(["types", "changed", &format!("id={}", n + 1), &format!("c{n}")].map(String::from));
    }
    place.finds_and_mends(&refer(&near_misses));

    // A value where there is none, and none where there is a value, the empty ones above all.
    let empty = samples.iter().position(|sample| sample.ty == "tinytext").unwrap();
    place.at_target(&format!("UPDATE types SET c{empty} = '' WHERE id = 0"));
    let mut nulls = vec![["types", "changed", "id=0", &format!("c{empty}")].map(String::from)];
    for n in 0..samples.len() {
        place.at_target(&format!("UPDATE types SET c{n} = NULL WHERE id = {}", n + 1));
        nulls.push(["types", "changed", &format!("id={}", n + 1), &format!("c{n}")].map(String::from));
    }
    place.finds_and_mends(&refer(&nulls));
}

fn refer(wanted: &[[String; 4]]) -> Vec<(&str, &str, &str, &str)> {
    wanted.iter().map(|[table, kind, key, columns]| (&table[..], &kind[..], &key[..], &columns[..])).collect()
}

#[test]
fn every_type_of_mysql_is_compared_in_postgres() {
    every_type("MYSQL_URL", Kind::Postgres, MYSQL);
}

#[test]
fn every_type_of_mysql_is_compared_in_sqlite() {
    every_type("MYSQL_URL", Kind::Sqlite, MYSQL);
}

#[test]
fn every_type_of_mariadb_is_compared_in_postgres() {
    every_type("MARIADB_URL", Kind::Postgres, MARIADB);
}

#[test]
fn every_type_of_mariadb_is_compared_in_sqlite() {
    every_type("MARIADB_URL", Kind::Sqlite, MARIADB);
}
