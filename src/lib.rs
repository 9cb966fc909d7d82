//! tidegate keeps warehouse tables identical to MySQL tables, through Kafka, in order and exactly once, and proves it.
#![deny(missing_docs)]

pub mod change;
pub mod codec;
pub mod config;
pub mod demo;
pub mod letter;
mod list_offsets;
pub mod log;
mod lost;
pub mod operators;
mod reach;
pub mod source;
pub mod target;
pub mod verify;
mod wait;
pub mod wire;
pub mod workers;
