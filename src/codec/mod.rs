//! Formats: from the bytes of others to rows, and from rows to bytes for others.

pub mod binlog;
pub mod charset;
pub mod dts;
pub mod envelope;
pub mod loose;
pub mod row;
