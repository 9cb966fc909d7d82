//! PostgreSQL, and Hologres, which speaks its protocol.
//!
//! One blocking connection a lane, on the lane's own thread; nothing is shared between lanes. Rows go from their JSON into
//! one typed array a column, and from there to the server in statements of some thousand rows (`batch`, `columns`).
//! How a step is made to count once is [`protocol`](super::protocol)'s business; what the job keeps at the target is in `progress`.
//!
//! Stated limits: `timestamptz` on Hologres keeps milliseconds; a DATETIME in a `timestamptz` column counts as UTC; a
//! column that the source adds with a default is null in rows that no change touches; connections are not encrypted.

mod batch;
mod columns;
mod connect;
mod progress;
mod scalars;
mod session;
mod table;

use std::sync::Arc;

use self::connect::Connector;
pub use self::session::Postgres;
use self::table::Policy;
use super::TargetError;
use super::protocol::StoreTarget;
use crate::config::{PostgresConfig, ZeroDates};

/// A PostgreSQL or Hologres database as a target.
pub type PostgresTarget = StoreTarget<Postgres>;

impl PostgresTarget {
    /// A target from its configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(config: &PostgresConfig) -> Result<PostgresTarget, TargetError> {
        let policy = Policy {
            schema: config.schema.clone(),
            create_tables: config.create_tables,
            zero_date_null: config.zero_dates == ZeroDates::Null,
        };
        let store = Postgres { connector: Connector::new(config)?, policy: Arc::new(policy) };
        Ok(PostgresTarget::over(Arc::new(store)))
    }
}
