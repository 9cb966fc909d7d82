//! Where a source begins without an earlier run.

use std::str::FromStr;

use crate::source::SourceError;
use crate::source::mysql::Place;

/// Where the reading of a binlog begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BinlogStart {
    /// At the end that it has then.
    #[default]
    Latest,
    /// At the beginning of the oldest file that is kept.
    Earliest,
    /// At a place where an event begins, outside of a transaction.
    At(Place),
}

impl FromStr for BinlogStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(BinlogStart::Latest),
            "earliest" => Ok(BinlogStart::Earliest),
            place => place
                .parse()
                .map(BinlogStart::At)
                .map_err(|error: SourceError| format!("{error}, or one of 'earliest' and 'latest'")),
        }
    }
}

/// Where the reading of a DTS subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtsStart {
    /// At the oldest record that is kept.
    #[default]
    Earliest,
    /// At the end that it has then.
    Latest,
    /// At the first row from that second (Unix) on.
    Second(u64),
}

impl FromStr for DtsStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = |_| format!("'{text}' is none of 'earliest', 'latest' and a Unix time in seconds");
        match text {
            "earliest" => Ok(DtsStart::Earliest),
            "latest" => Ok(DtsStart::Latest),
            second => second.parse().map(DtsStart::Second).map_err(problem),
        }
    }
}
