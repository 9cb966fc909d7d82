//! What the demo and the tests feed in, and what must come out: a shop's database under load, as DTS would show it.
//!
//! A row is a function of the seed, its table, its key and a version ([`shop`]). So the [`Model`] of the state that must
//! be reached keeps a key and a version for each row and no values, images before a change cost no memory, and any number
//! of changes can be made. The model and the rendering of its values share no code with the pipeline that they judge.

pub mod model;
mod random;
pub mod shop;
pub mod workload;

pub use model::{Model, Stored, Value};
pub use workload::{Transaction, Workload};
