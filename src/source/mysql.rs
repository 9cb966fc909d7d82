//! The binlog of a MySQL or MariaDB server, read as a replica reads it.
//!
//! The serial reader does little: it follows transactions, numbers and times them, and hands on each rows event undecoded,
//! with its table map beside it ([`crate::codec::binlog`] decodes it). A place to read again from is always the beginning
//! of a transaction, because only from there do the same numbers, the same time and all table maps come again. An event of
//! n bytes takes n numbers whether its table is wanted or not, so that numbers depend on nothing but the place where
//! reading began.
//!
//! The time of a transaction is what MySQL's GTID event says in microseconds; MariaDB says whole seconds, which the
//! [`Clock`](crate::source::Clock) refines, and believes neither where they lie in the future. While the server has nothing to send it sends heartbeats, and time moves on.

mod ahead;
mod events;
mod feed;
mod held;
mod outage;
mod packed;
mod place;
mod reader;
mod server;
mod statement;

pub use place::Place;
pub use reader::MysqlReader;
