//! A client's way into the dataflow: a bounded channel that holds the client back, and the activator that wakes the worker. And
//! its way out of it, where it waits for what comes.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError};
use tidegate::operators::Ingested;
use timely::scheduling::SyncActivator;

/// A client that is woken by what comes may wait so many times longer than one that has to look for it.
pub const WOKEN: u32 = 20;

/// Takes the next of what comes, waiting at most so long for it.
pub fn take<T>(receiver: &Receiver<T>, wait: Duration) -> Result<T, RecvTimeoutError> {
    match receiver.try_recv() {
        Ok(taken) => Ok(taken),
        Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
        // A wait spins before it looks at its deadline, also at one that has passed.
        Err(TryRecvError::Empty) if wait.is_zero() => Err(RecvTimeoutError::Timeout),
        Err(TryRecvError::Empty) => receiver.recv_timeout(wait),
    }
}

/// Hands over what a client has, one at a time.
pub struct Outlet<T, B, N> {
    sender: Sender<Ingested<T, B, N>>,
    waker: SyncActivator,
    waiting: Option<Ingested<T, B, N>>,
    ended: bool,
}

/// What became of what was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// It is handed over: there is room for more.
    Over,
    /// There is no room yet.
    Later,
    /// Nothing is to come any more, or nobody takes it.
    Never,
}

impl<T, B, N> Outlet<T, B, N> {
    /// An outlet into that channel, whose other end that activator wakes.
    pub fn new(sender: Sender<Ingested<T, B, N>>, waker: SyncActivator) -> Self {
        Outlet { sender, waker, waiting: None, ended: false }
    }

    /// Whether the worker is still there.
    pub fn is_heard(&self) -> bool {
        self.waker.activate().is_ok()
    }

    /// Puts something, after what was put before has been handed over.
    pub fn put(&mut self, handed: Ingested<T, B, N>) {
        assert!(self.waiting.is_none(), "one at a time");
        self.waiting = Some(handed);
    }

    /// Hands over what was put, waiting at most so long for room.
    pub fn hand_over(&mut self, wait: Duration) -> Handed {
        let Some(waiting) = self.waiting.take() else { return if self.ended { Handed::Never } else { Handed::Over } };
        self.ended = waiting.frontier.is_none();
        match self.sender.send_timeout(waiting, wait) {
            Ok(()) if self.waker.activate().is_ok() && !self.ended => Handed::Over,
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => Handed::Never,
            Err(SendTimeoutError::Timeout(back)) => {
                self.waiting = Some(back);
                Handed::Later
            }
        }
    }
}
