//! Reusable timely operators, one a file. They know timely and batches, and no connector.
//!
//! A dataflow made of them reads as its picture:
//!
//! ```text
//! changes.by(key hash).gate(order).net().split()
//! ```
//!
//! What they ask of a batch is in [`Batch`]; both `Vec<T>` and [`Rows`](crate::change::Rows) are batches, so the
//! operators serve programs that know nothing of tidegate's own changes.

mod batch;
mod deliver;
mod exchange;
mod gate;
mod ingest;
mod latest;
mod net;
mod settle;
mod split;
mod throttle;

pub use batch::{Batch, ByKey, BySeq, Natural, Order, merge_sorted};
pub use deliver::{Acked, Deliver, Delivery, Station};
pub use exchange::{ExchangeBy, RoundRobin};
pub use gate::{Gate, InEpoch};
pub use ingest::{Ingest, Ingested, ingest};
pub use latest::{Latest, Newest, Versioned};
pub use net::{Net, Netted};
pub use settle::Settle;
pub use split::{Split, SplitByOp};
pub use throttle::Throttle;
