//! The workers of one process, and its connections to the other processes of a cluster.
//!
//! Timely would make these connections itself, without a limit to how long one may be silent: where a host is gone, or the
//! network loses what is sent, each process would wait for the others for a quarter of an hour if it has something to send
//! them, and else for ever. Here the kernel asks an idle connection for a sign of life, and a connection that has not given
//! one for [`SILENCE_MAX`] breaks. A broken connection ends the process, as timely has it.
//!
//! A process that is alive but held up, by a debugger or a long pause, is waited for.

use std::any::Any;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use timely::WorkerConfig;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks, WorkerGuards};
use timely::execute::execute_from;
use timely::worker::Worker;

/// How long a connection to another process may give no sign of life.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// After how long without one it is asked for, and how often.
const IDLE: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How long one attempt to connect takes at most, and the pause before the next.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long whoever has come may take to say who it is. Who goes to another waits longer for its answer, since that one may
/// be busy with others.
const GREETING_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);

/// How often it is said who is waited for.
const REMIND: Duration = Duration::from_secs(10);

/// What a process says first on a connection, before its numbers.
const GREETING: [u8; 8] = *b"tidegat2";

/// Why the workers can't start.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// The process's own address can't be listened at.
    #[error("process {process} can't listen at {address}, its line of --hosts: {error}")]
    Listen {
        /// The number of the process.
        process: usize,
        /// Its address.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// Another process was started with other numbers.
    #[error(
        "process {} has --processes {} --workers {}, and process {} has --processes {} --workers {}: start all of them with the same",
        theirs.process, theirs.processes, theirs.workers, ours.process, ours.processes, ours.workers
    )]
    Numbers {
        /// This process.
        ours: Numbers,
        /// The other.
        theirs: Numbers,
    },
    /// Another process does something else.
    #[error(
        "process {theirs} runs another command, job or configuration than process {ours}: start all processes of a cluster with the \
         same command and the same configuration file, and give each cluster addresses of its own"
    )]
    Purpose {
        /// This process.
        ours: usize,
        /// The other.
        theirs: usize,
    },
    /// Somebody answers at an address, or comes, whose number can't be.
    #[error(
        "process {process} found process {found} where it looked for {wanted}: is --hosts the same for all of them, and \
         --process another for each?"
    )]
    Misplaced {
        /// This process.
        process: usize,
        /// Who is there.
        found: usize,
        /// Who should be.
        wanted: String,
    },
    /// What else the system refuses.
    #[error("the cluster can't start: {0}")]
    Io(#[from] io::Error),
}

/// The numbers that the processes of a cluster are started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// This process, from 0.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
    /// Workers of each.
    pub workers: usize,
    /// Stands for what they are to do: all have the same.
    pub purpose: u64,
}

impl Numbers {
    fn write(self, mut stream: &TcpStream) -> io::Result<()> {
        let mut bytes = GREETING.to_vec();
        for number in [self.process, self.processes, self.workers] {
            bytes.extend((number as u32).to_be_bytes());
        }
        bytes.extend(self.purpose.to_be_bytes());
        stream.write_all(&bytes)
    }

    fn read(mut stream: &TcpStream) -> io::Result<Numbers> {
        let mut bytes = [0; GREETING.len() + 20];
        stream.read_exact(&mut bytes)?;
        let (greeting, numbers) = bytes.split_at(GREETING.len());
        if greeting != GREETING {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "who answers there is no tidegate"));
        }
        let number = |n: usize| {
            u32::from_be_bytes([numbers[4 * n], numbers[4 * n + 1], numbers[4 * n + 2], numbers[4 * n + 3]]) as usize
        };
        let purpose = (number(3) as u64) << 32 | number(4) as u64;
        Ok(Numbers { process: number(0), processes: number(1), workers: number(2), purpose })
    }
}

/// Workers that are ready to begin.
pub struct Workers {
    builders: Vec<AllocatorBuilder>,
    /// Holds the threads that send and receive.
    others: Box<dyn Any + Send>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} workers", self.builders.len())
    }
}

impl Workers {
    /// So many workers, in this process alone.
    pub fn threads(workers: usize) -> Workers {
        let hooks = Hooks::default();
        let builders = ProcessBuilder::new_typed_vector(workers, hooks.refill, hooks.spill);
        Workers { builders: builders.into_iter().map(AllocatorBuilder::Process).collect(), others: Box::new(()) }
    }

    /// Workers of a process of a cluster: waits until the others, which are found at `addresses`, are there. `None`: while
    /// it waited, `stopped` said that nobody wants it any more.
    ///
    /// # Errors
    /// [`WorkersError`], which says what to do.
    pub fn cluster(
        numbers: Numbers,
        addresses: &[String],
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Workers>, WorkersError> {
        let meeting = Meeting { numbers, addresses, stopped };
        let Some(sockets) = meeting.connect_all()? else { return Ok(None) };
        let hooks = Hooks::default();
        let inside = ProcessBuilder::new_typed_vector(numbers.workers, hooks.refill.clone(), hooks.spill.clone());
        let (builders, guard) =
            initialize_networking_from_sockets(inside, sockets, numbers.process, numbers.workers, hooks)?;
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Some(Workers { builders, others: Box::new(guard) }))
    }

    /// Runs `work` on each, until the dataflows that it has built are complete.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn execute<T: Send + 'static>(
        self,
        work: impl Fn(&mut Worker) -> T + Send + Sync + 'static,
    ) -> Result<WorkerGuards<T>, String> {
        execute_from(self.builders, self.others, WorkerConfig::default(), work)
    }
}

/// How processes find each other: each listens for those with higher numbers, and goes to those with lower.
struct Meeting<'a> {
    numbers: Numbers,
    addresses: &'a [String],
    stopped: &'a dyn Fn() -> bool,
}

impl Meeting<'_> {
    /// A connection to each of the others, in the order of their numbers, and `None` at its own. `None`: stopped.
    fn connect_all(&self) -> Result<Option<Vec<Option<TcpStream>>>, WorkersError> {
        let Numbers { process, processes, .. } = self.numbers;
        let listener = self.listen()?;
        let mut sockets: Vec<Option<TcpStream>> = (0..processes).map(|_| None).collect();
        let mut reminded = Instant::now();
        loop {
            for (number, socket) in sockets[..process].iter_mut().enumerate().filter(|(_, socket)| socket.is_none()) {
                *socket = self.go_to(number)?;
            }
            while let Some((number, stream)) = self.let_in(&listener)? {
                sockets[number] = Some(stream);
            }
            // Who has gone again meanwhile will come again, or has to be gone to.
            for socket in &mut sockets {
                socket.take_if(|stream| !is_open(stream));
            }
            let missing: Vec<String> = (0..processes)
                .filter(|number| *number != process && sockets[*number].is_none())
                .map(|number| format!("{number} ({})", self.addresses[number]))
                .collect();
            if missing.is_empty() {
                return Ok(Some(sockets));
            }
            if (self.stopped)() {
                return Ok(None);
            }
            if reminded.elapsed() >= REMIND {
                reminded = Instant::now();
                tracing::warn!("process {process} waits for process {}", missing.join(", "));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn listen(&self) -> Result<TcpListener, WorkersError> {
        let (process, address) = (self.numbers.process, &self.addresses[self.numbers.process]);
        let listener = TcpListener::bind(address.as_str()).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|error| WorkersError::Listen { process, address: address.clone(), error })
    }

    /// A connection to a process with a lower number, if it is there.
    fn go_to(&self, number: usize) -> Result<Option<TcpStream>, WorkersError> {
        let address = &self.addresses[number];
        // A host that is not up yet may have no name yet.
        let Ok(places) = address.to_socket_addrs() else { return Ok(None) };
        let Some(stream) = places.into_iter().find_map(|place| TcpStream::connect_timeout(&place, CONNECT_MAX).ok())
        else {
            return Ok(None);
        };
        match self.greet(&stream, SILENCE_MAX)? {
            None => Ok(None),
            Some(theirs) if theirs.process == number => Ok(Some(stream)),
            Some(theirs) => Err(self.misplaced(theirs, format!("process {number}, at {address}"))),
        }
    }

    /// A process with a higher number that has come, and its connection.
    fn let_in(&self, listener: &TcpListener) -> Result<Option<(usize, TcpStream)>, WorkersError> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let Some(theirs) = self.greet(&stream, GREETING_MAX)? else { continue };
                    if theirs.process <= self.numbers.process {
                        return Err(self.misplaced(theirs, "a process with a higher number".into()));
                    }
                    return Ok(Some((theirs.process, stream)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn misplaced(&self, found: Numbers, wanted: String) -> WorkersError {
        WorkersError::Misplaced { process: self.numbers.process, found: found.process, wanted }
    }

    /// Tells who this is and hears who that is; `None` where nobody of the cluster answers.
    fn greet(&self, stream: &TcpStream, patience: Duration) -> Result<Option<Numbers>, WorkersError> {
        let exchange = || -> io::Result<Numbers> {
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            watch(stream)?;
            stream.set_read_timeout(Some(patience))?;
            self.numbers.write(stream)?;
            let theirs = Numbers::read(stream)?;
            stream.set_read_timeout(None)?;
            Ok(theirs)
        };
        let Ok(theirs) = exchange() else { return Ok(None) };
        let ours = self.numbers;
        if (theirs.processes, theirs.workers) != (ours.processes, ours.workers) {
            return Err(WorkersError::Numbers { ours, theirs });
        }
        if theirs.purpose != ours.purpose {
            return Err(WorkersError::Purpose { ours: ours.process, theirs: theirs.process });
        }
        Ok(Some(theirs))
    }
}

/// Whether the other end has not closed the connection. It may send already.
fn is_open(stream: &TcpStream) -> bool {
    let peek = || -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    match peek() {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Has the kernel break a connection that gives no sign of life.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let asks = (SILENCE_MAX - IDLE).as_secs() / ASK_EVERY.as_secs();
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE).with_interval(ASK_EVERY).with_retries(asks as u32))?;
    // While something is on its way the kernel does not ask; this is for then.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{JoinHandle, spawn};

    /// Free ports of this machine.
    fn places(count: usize) -> Vec<String> {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
    }

    fn meet(
        (process, processes, workers): (usize, usize, usize),
        addresses: &[String],
    ) -> JoinHandle<Result<Workers, WorkersError>> {
        meet_for(7 << 40, (process, processes, workers), addresses)
    }

    fn meet_for(
        purpose: u64,
        (process, processes, workers): (usize, usize, usize),
        addresses: &[String],
    ) -> JoinHandle<Result<Workers, WorkersError>> {
        let addresses = addresses.to_vec();
        let numbers = Numbers { process, processes, workers, purpose };
        let deadline = Instant::now() + Duration::from_secs(20);
        spawn(move || {
            let met = Workers::cluster(numbers, &addresses, &|| Instant::now() > deadline);
            met.map(|workers| workers.expect("they meet within seconds"))
        })
    }

    #[test]
    fn processes_meet_whoever_else_knocks_and_their_workers_work_together() {
        let addresses = places(3);
        let last = meet((2, 3, 2), &addresses);
        let first = meet((0, 3, 2), &addresses);
        // Who comes and says nothing, says something else, or goes again.
        let strangers: Vec<_> = (0..3)
            .filter_map(|n| {
                std::thread::sleep(Duration::from_millis(150));
                let mut stranger = TcpStream::connect(&addresses[0]).ok()?;
                let said: &[u8] = if n == 1 { b"GET / HTTP/1.1\r\nHost: tidegate\r\n\r\n" } else { b"" };
                stranger.write_all(said).ok()?;
                (n == 0).then_some(stranger)
            })
            .collect();
        let second = meet((1, 3, 2), &addresses);
        let count = std::sync::Arc::new(AtomicUsize::new(0));
        let guards: Vec<_> = [first, second, last]
            .into_iter()
            .map(|process| {
                let count = std::sync::Arc::clone(&count);
                let work = move |worker: &mut Worker| {
                    use timely::dataflow::operators::{Exchange, Inspect, ToStream};
                    let (peers, count) = (worker.peers() as u64, std::sync::Arc::clone(&count));
                    worker.dataflow::<u64, _, _>(|scope| {
                        let sent = (0..peers).to_stream(scope).container::<Vec<_>>();
                        sent.exchange(|n| *n).inspect(move |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                };
                process.join().unwrap().unwrap().execute(work).unwrap()
            })
            .collect();
        drop(guards); // waits for all of them
        assert_eq!(count.load(Ordering::Relaxed), 36, "six workers heard from each of six");
        drop(strangers);
    }

    #[test]
    fn who_is_told_to_stop_waits_no_longer() {
        let numbers = Numbers { process: 1, processes: 2, workers: 1, purpose: 0 };
        let began = Instant::now();
        let stopped = || began.elapsed() > Duration::from_millis(300);
        assert!(Workers::cluster(numbers, &places(2), &stopped).unwrap().is_none());
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn other_numbers_are_refused_on_both_sides() {
        let addresses = places(2);
        for process in [meet((0, 2, 1), &addresses), meet((1, 2, 3), &addresses)] {
            let said = process.join().unwrap().unwrap_err().to_string();
            let one = said.contains("--processes 2 --workers 1") && said.contains("--processes 2 --workers 3");
            assert!(one, "{said}");
        }
    }

    #[test]
    fn another_purpose_is_refused_on_both_sides() {
        let addresses = places(2);
        for process in [meet_for(1 << 40, (0, 2, 1), &addresses), meet_for(3 << 40, (1, 2, 1), &addresses)] {
            let said = process.join().unwrap().unwrap_err().to_string();
            assert!(said.contains("another command, job or configuration than process"), "{said}");
        }
    }

    #[test]
    fn hosts_in_another_order_are_told() {
        let addresses = places(3);
        let mut swapped = addresses.clone();
        swapped.swap(0, 1);
        // It waits for process 0, and is found where the other looks for that.
        let _between = meet((1, 3, 1), &addresses);
        let said = meet((2, 3, 1), &swapped).join().unwrap().unwrap_err().to_string();
        assert!(said.contains("process 2 found process 1") && said.contains("--hosts the same for all"), "{said}");
    }
}
