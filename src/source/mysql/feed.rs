//! The thread that waits for the server, so that the reader does not have to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mysql::binlog::events::Event;
use mysql::{BinlogRequest, BinlogStream};

use super::place::Place;
use super::server::{Server, Trouble};

/// How many events, and bytes of them, wait to be taken.
const EVENTS_MAX: usize = 4096;
const BYTES_MAX: usize = 32 << 20;

/// A running connection: its events, and in the end why there are no more.
pub(super) struct Feed {
    events: Receiver<Result<Event, mysql::Error>>,
    waiting: Arc<AtomicUsize>,
}

impl Feed {
    /// Connects, and has the server send its binlog from `place` on.
    pub fn start(server: &Server, place: &Place) -> Result<Feed, Trouble> {
        let request = BinlogRequest::new(server.server_id).with_filename(place.file.as_bytes()).with_pos(place.offset);
        let stream = server
            .replica()?
            .get_binlog_stream(request)
            .map_err(|error| server.trouble("read the binlog (REPLICATION SLAVE)", &error))?;
        let (sender, events) = bounded(EVENTS_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&waiting);
        std::thread::spawn(move || feed(stream, &sender, &count));
        Ok(Feed { events, waiting })
    }

    /// The next event, waiting at most so long; `None`: nothing has come. After an error there is nothing more.
    pub fn next(&self, wait: Duration) -> Option<Result<Event, mysql::Error>> {
        let next = if wait.is_zero() { self.events.try_recv().ok() } else { self.events.recv_timeout(wait).ok() };
        if let Some(Ok(event)) = &next {
            self.waiting.fetch_sub(event.data().len(), Ordering::AcqRel);
        }
        next
    }
}

fn feed(stream: BinlogStream, sender: &Sender<Result<Event, mysql::Error>>, waiting: &AtomicUsize) {
    let ended = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server ended the binlog");
    for event in stream.chain(std::iter::once_with(|| Err(ended().into()))) {
        let done = event.is_err();
        if let Ok(event) = &event {
            // One event may be larger than all that may wait: it waits alone.
            while waiting.load(Ordering::Acquire) > BYTES_MAX {
                std::thread::sleep(Duration::from_millis(1));
            }
            waiting.fetch_add(event.data().len(), Ordering::AcqRel);
        }
        if sender.send(event).is_err() || done {
            return;
        }
    }
}
