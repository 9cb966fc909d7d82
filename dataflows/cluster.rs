//! The cluster: how workers start, agree and stop.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use tidegate::workers::{Numbers, Workers};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::worker::Worker;
use xxhash_rust::xxh3::xxh3_64;

use crate::Cluster;

/// Ends the process at once: one sentence, exit code 3. Nothing is half done by it: what is not recorded as durable is
/// done again by the next run. Of threads that fail at the same time one has its say.
pub fn fail(error: &dyn Display) -> ! {
    static FAILED: AtomicBool = AtomicBool::new(false);
    if FAILED.swap(true, Ordering::Relaxed) {
        loop {
            std::thread::park(); // until the process has ended
        }
    }
    eprintln!("tidegate: {error}");
    std::process::exit(3)
}

/// What a client does again and again: one piece of work, waiting at most so long for it. `false`: it has ended.
pub type Client = Box<dyn FnMut(Duration) -> bool + Send>;

/// How long a client waits for work at a time.
const WAIT: Duration = Duration::from_millis(5);

/// The time on a clock that does not go back.
pub fn now() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed()
}

/// Lets time pass.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Runs a client on a thread of its own, where it may block: workers never do.
pub fn spawn(name: &str, mut client: Client) {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(move || while client(WAIT) {}).unwrap_or_else(|e| fail(&format_args!("no thread for {name}: {e}")));
}

/// Has a panic end the process as a failure does. A thread that is gone must not leave others waiting for it; and what
/// timely's communication says when the connection to another process breaks is that it panics.
pub fn fail_on_panics(cluster: &Cluster) {
    let several = cluster.processes > 1;
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or("", |location| location.file());
        if several && place.contains("timely_communication") {
            fail(
                &"another process of the cluster is gone, or the network between them: start all again; they go on where \
                  they were",
            );
        }
        fail(&format_args!("this is a bug in tidegate: {panic}"))
    }));
}

/// Stands for what the processes of a cluster are to do, so that they notice when they do not do the same.
pub fn purpose(parts: &dyn std::fmt::Debug) -> u64 {
    xxh3_64(format!("{parts:?}").as_bytes())
}

/// The workers of this process, once all processes of the cluster are there; `None`: while it waited for them, `stopped`
/// said that nobody wants them any more.
pub fn workers(cluster: &Cluster, purpose: u64, stopped: &dyn Fn() -> bool) -> anyhow::Result<Option<Workers>> {
    let (workers, processes) = (cluster.workers as usize, cluster.processes as usize);
    if cluster.process >= cluster.processes {
        anyhow::bail!("--process {} of --processes {}: they count from 0", cluster.process, cluster.processes);
    }
    if processes == 1 {
        return Ok(Some(Workers::threads(workers)));
    }
    let addresses = match &cluster.hosts {
        None => (0..processes).map(|process| format!("localhost:{}", 2101 + process)).collect(),
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("--hosts {}", file.display()))?;
            hosts(&text, processes).map_err(|problem| anyhow::anyhow!("--hosts {}{problem}", file.display()))?
        }
    };
    let numbers = Numbers { process: cluster.process as usize, processes, workers, purpose };
    Ok(Workers::cluster(numbers, &addresses, stopped)?)
}

/// The addresses of so many processes, one a line.
fn hosts(text: &str, processes: usize) -> Result<Vec<String>, String> {
    let mut hosts: Vec<String> = Vec::new();
    for (number, host) in (1..).zip(text.lines().map(str::trim)).filter(|(_, host)| !host.is_empty()) {
        let port = host.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(1..)) if !hosts.iter().any(|known| known == host) => hosts.push(host.to_string()),
            Some(Ok(1..)) => {
                return Err(format!(":{number}: {host} is there twice: each process listens at an address of its own"));
            }
            _ => return Err(format!(":{number}: '{host}' is no address: write host:port, such as db1.example:2101")),
        }
    }
    match hosts.len() < processes {
        true => Err(format!(": {} hosts for {processes} processes", hosts.len())),
        false => Ok(hosts),
    }
}

/// A flag that SIGTERM and SIGINT set.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let signalled = Arc::new(AtomicBool::new(false)); // `stop` goes up in all processes when one is
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // A second signal ends the process as it would without us.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&signalled))?;
        signal_hook::flag::register(signal, Arc::clone(&signalled))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Lets SIGTERM and SIGINT end the process as a failure does, with that sentence: for a command that changes nothing.
pub fn fail_on_signals(sentence: &'static str) -> anyhow::Result<()> {
    let signals = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
    let mut signals = signal_hook::iterator::Signals::new(signals)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            fail(&sentence);
        }
    })?;
    Ok(())
}

/// What worker 0 says, told to every worker of the cluster.
pub fn tell_all(worker: &mut Worker, said: Option<String>) -> String {
    let heard = Rc::new(RefCell::new(None));
    let hear = Rc::clone(&heard);
    let (mut input, probe) = worker.dataflow::<u64, _, _>(|scope| {
        let (input, stream) = scope.new_input::<Vec<String>>();
        let (probe, _) =
            stream.broadcast().inspect(move |text: &String| *hear.borrow_mut() = Some(text.clone())).probe();
        (input, probe)
    });
    if let Some(said) = said {
        input.send(said);
    }
    input.close();
    worker.step_or_park_while(None, || !probe.done());
    heard.borrow_mut().take().expect("worker 0 said something")
}

/// Holds every worker of the cluster until all of them have come here.
pub struct Barrier {
    input: Option<InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<()>>>>,
    probe: timely::dataflow::operators::probe::Handle<u64>,
}

impl Barrier {
    /// A barrier on every worker.
    pub fn new(worker: &mut Worker) -> Self {
        let (input, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, stream) = scope.new_input::<Vec<()>>();
            let (probe, _) = stream.probe();
            (input, probe)
        });
        Barrier { input: Some(input), probe }
    }

    /// Says that this worker has come.
    pub fn come(&mut self) {
        if let Some(input) = self.input.take() {
            input.close();
        }
    }

    /// Whether all have come.
    pub fn passed(&self) -> bool {
        self.probe.done()
    }
}

/// Waits until every worker of the cluster has come here.
pub fn meet(worker: &mut Worker) {
    let mut barrier = Barrier::new(worker);
    barrier.come();
    worker.step_or_park_while(None, || !barrier.passed());
}

/// Steps until `ready` holds on every worker of the cluster, then drops what is left. A `stop` that is up in one process
/// goes up in all.
pub fn run_until(worker: &mut Worker, stop: &Arc<AtomicBool>, mut ready: impl FnMut() -> bool) {
    let mut barrier = Barrier::new(worker);
    let heard = Arc::clone(stop);
    let mut word = worker.dataflow::<u64, _, _>(|scope| {
        let (input, stream) = scope.new_input::<Vec<()>>();
        stream.broadcast().inspect(move |()| heard.store(true, Ordering::Relaxed));
        Some(input)
    });
    while !barrier.passed() {
        worker.step_or_park(Some(Duration::from_millis(10)));
        if is_up(stop)
            && let Some(mut word) = word.take()
        {
            word.send(());
        }
        if ready() {
            barrier.come();
        }
    }
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}

/// Whether the flag is up.
pub fn is_up(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::hosts;

    #[test]
    fn hosts_that_can_not_be_are_named_by_their_line() {
        assert_eq!(hosts("a:1\n\n [::1]:65535 \n", 2).unwrap(), ["a:1", "[::1]:65535"]);
        for (text, problem) in [
            ("a:1\n", ": 1 hosts for 2 processes"),
            ("a:1\n\na:1\n", ":3: a:1 is there twice"),
            ("a:1\nb", ":2: 'b' is no address"),
            ("a:0\nb:1", ":1: 'a:0' is no address"),
            ("a:1\nb:65536", ":2: 'b:65536' is no address"),
            (":1\nb:2", ":1: ':1' is no address"),
        ] {
            let said = hosts(text, 2).unwrap_err();
            assert!(said.starts_with(problem), "{said}");
        }
    }
}
