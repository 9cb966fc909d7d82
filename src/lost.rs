//! librdkafka forgets each broker that an answer does not name. The only broker of a cluster names none while it is fenced, as it is
//! where its disk stands still for some seconds; then there is nobody left to ask, and the client asks nobody ever again
//! (confluentinc/librdkafka#5301). So one that knows no broker is told its bootstrap servers again.

use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::bindings::{rd_kafka_brokers_add, rd_kafka_brokers_learned_ids, rd_kafka_mem_free};
use rdkafka::client::{Client, ClientContext};

/// Between two looks: each time that it is told, the client keeps a copy of what it is told. That is a megabyte in a day of a cluster
/// that comes back with no broker.
const PAUSE: Duration = Duration::from_secs(4);

/// What a client that may be lost is told, and when it was looked after.
pub(crate) struct WayBack {
    servers: CString,
    looked: Instant,
}

impl WayBack {
    /// A way back to those servers, as they stand in `bootstrap.servers`.
    pub(crate) fn to(servers: &str) -> WayBack {
        // A client could not be made with a list that has a zero in it.
        WayBack { servers: CString::new(servers).unwrap_or_default(), looked: Instant::now() }
    }

    /// Looks after a client that something is awaited of.
    pub(crate) fn look<C: ClientContext>(&mut self, client: &Client<C>) {
        if self.looked.elapsed() < PAUSE {
            return;
        }
        self.looked = Instant::now();
        let mut known = 0;
        // SAFETY: the pointers are of a client that is there, a list that it gives away, and a text that it copies.
        unsafe {
            let ids = rd_kafka_brokers_learned_ids(client.native_ptr(), &raw mut known);
            rd_kafka_mem_free(client.native_ptr(), ids.cast());
            if known == 0 {
                rd_kafka_brokers_add(client.native_ptr(), self.servers.as_ptr());
            }
        }
    }
}
