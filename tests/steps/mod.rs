//! Steps and schemas for the tests of targets, from keys and JSON.

use std::sync::Arc;
use std::time::Duration;

use tidegate::change::{Changes, Column, NewChange, Op, TableName, TableSchema};
use tidegate::log;
use tidegate::target::{FindSchema, Progress, Step};

/// A change for a step: operation, table, key, row.
pub type Net<'a> = (Op, &'a str, &'a str, &'a str);

/// What a lane has reached with the step that ends epoch `epoch`.
pub fn reached(epoch: u64) -> Progress {
    Progress { step: epoch, epoch, seqs: [epoch * 10].into_iter().collect() }
}

/// The step that ends epoch `epoch` and does these net changes, in the order that a target expects.
pub fn step(epoch: u64, changes: &[Net]) -> Step {
    let progress = reached(epoch);
    let [inserts, updates, deletes] = [Op::Insert, Op::Update, Op::Delete].map(|op| batch(op, epoch, changes));
    Step { progress, inserts, updates, deletes }
}

fn batch(op: Op, epoch: u64, changes: &[Net]) -> Changes {
    let mut unsorted = Changes::default();
    for (_, table, key, row) in changes.iter().filter(|change| change.0 == op) {
        let (database, table) = table.split_once('.').unwrap_or(("shop", table));
        unsorted.push_change(&NewChange {
            op,
            seq: epoch * 10,
            time: epoch,
            database,
            table,
            key: key.as_bytes(),
            position: b"here",
            before: b"",
            row: row.as_bytes(),
        });
    }
    let mut order: Vec<usize> = (0..unsorted.len()).collect();
    order.sort_by(|&a, &b| unsorted.change(a).cmp_by_key(&unsorted.change(b)));
    let mut sorted = Changes::default();
    for index in order {
        let (head, payload) = unsorted.get(index);
        sorted.push(*head, payload);
    }
    sorted
}

/// The schema of a table `table` or `database.table` with columns `(name, type)`.
pub fn schema(table: &str, columns: &[(&str, &str)], key: &[&str]) -> TableSchema {
    let (database, table) = table.split_once('.').unwrap_or(("shop", table));
    let column = |&(name, ty): &(&str, &str)| Column {
        name: name.into(),
        ty: ty.parse().unwrap(),
        nullable: !key.contains(&name),
    };
    TableSchema {
        name: TableName::new(database, table),
        columns: columns.iter().map(column).collect(),
        key: key.iter().map(|name| name.to_string()).collect(),
        since_seq: 0,
        partial: false,
    }
}

/// The schemas that a target is told of, which may change while it runs.
#[derive(Clone, Default)]
pub struct Schemas(Arc<log::Schemas>);

impl Schemas {
    pub fn of(schemas: &[TableSchema]) -> Schemas {
        let known = Schemas::default();
        schemas.iter().for_each(|schema| known.set(schema.clone()));
        known
    }

    /// Replaces the schema of its table.
    pub fn set(&self, schema: TableSchema) {
        self.0.announce(schema);
    }

    pub fn find(&self) -> FindSchema {
        let known = self.0.clone();
        Arc::new(move |name, column| known.find(name, column, Duration::from_millis(700)))
    }
}
