//! Tests against real servers, which `tests/run` starts and names in the environment. They are one program, which is built and
//! linked once; the folder that a test lies in says how `tests/run` runs it.

mod binlog;
mod faults;
mod hologres;
mod job;
mod landing;
mod place;
#[path = "../steps/mod.rs"]
mod steps;
mod topic;

/// What lands or verifies: several at a time, and all of it once more through a stand-in that refuses what Hologres refuses.
mod targets {
    mod bounded;
    mod end_to_end;
    mod foreign;
    mod old_faults;
    mod pipeline;
    mod target;
    mod verify;
}

/// What sets nothing that other connections see: several at a time.
mod beside {
    mod alter;
    mod bad_input;
    mod bad_progress;
    mod charsets;
    mod exactly_once;
    mod hologres;
    mod odd;
    mod outage;
    mod postgres_target;
    mod replay;
}

/// What sets what all connections of a server see, or measures: one at a time.
mod alone {
    mod binlog;
    mod binlog_refused;
    mod binlog_types;
    mod memory;
    mod purged;
    mod settings;
}

/// What breaks processes, servers and networks under load. All but `processes` have servers of their own: they run two at a time
/// beside what is alone; and all one at a time in `tests/run faults`, where people look at how long a recovery takes.
mod failing {
    mod cluster;
    mod crash;
    mod disk;
    mod network;
    mod processes;
    mod servers;
}
