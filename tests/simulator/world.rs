//! The world of one history: one seed, one clock, processes that are stepped in an order that the seed decides, and servers
//! that do things on their own.
//!
//! Everything runs on one thread. Workers are timely's own, stepped one at a time; clients are the dataflows' own closures.
//! Whatever they ask of a server goes through [`call`]: there others may run in between, and there a process may die. So a
//! history is a function of its seed, and a crash can come between any two things that the outside could see.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use timely::communication::Allocator;
use timely::worker::Worker;

/// splitmix64.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// So many pauses may be made inside of one step.
const PAUSES_MAX: u64 = 500;

/// What a client does again and again; see `dataflows/cluster.rs`.
pub type Client = Box<dyn FnMut(Duration) -> bool + Send>;

/// What a process consists of.
enum Actor {
    Worker(Box<Worker>),
    Client(Client),
}

/// Which of the two jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Publish,
    Land,
}

/// A process, which may die at any moment.
pub struct Process {
    pub number: usize,
    pub kind: Kind,
    dead: Cell<bool>,
    actors: RefCell<Vec<Option<Actor>>>,
    /// Set to stop in good order.
    pub stop: Arc<AtomicBool>,
    done: RefCell<Option<Box<dyn Fn() -> bool>>>,
}

impl Process {
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    fn end(&self) {
        self.dead.set(true);
        *self.done.borrow_mut() = None;
        // Not while borrowed: what is dropped may speak to others.
        let actors = std::mem::take(&mut *self.actors.borrow_mut());
        drop(actors);
    }
}

/// How a process ends: killed, or with a sentence of its own.
struct Died(Option<String>);

/// How often things go wrong, as one in so many; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub crash: u64,
    pub failure: u64,
    pub others: u64,
}

/// Whether a process may end with a sentence.
type Allowed = Box<dyn Fn(&Process, &str) -> bool>;

/// Something that a server does on its own.
type ServerEvent = Box<dyn Fn()>;

/// One history's world.
pub struct World {
    random: RefCell<Random>,
    /// Milliseconds of the wall clock, which may be set.
    now: Cell<u64>,
    /// Milliseconds since the beginning.
    elapsed: Cell<u64>,
    rates: Cell<Rates>,
    processes: RefCell<Vec<Rc<Process>>>,
    running: RefCell<Vec<Rc<Process>>>,
    servers: RefCell<Vec<ServerEvent>>,
    pub steps: Cell<u64>,
    /// Pauses since nothing was running.
    pauses: Cell<u64>,
    pub crashes: Cell<u64>,
    violation: RefCell<Option<String>>,
    /// What a process may say when it ends.
    allowed: RefCell<Allowed>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of the history that this thread is in.
pub fn world() -> Rc<World> {
    WORLD.with_borrow(|world| Rc::clone(world.as_ref().expect("a history is under way")))
}

/// One in so many.
pub fn chance(one_in: u64) -> bool {
    one_in > 0 && below(one_in) == 0
}

pub fn below(below: u64) -> u64 {
    world().random.borrow_mut().below(below)
}

pub fn now_ms() -> u64 {
    world().now.get()
}

/// Milliseconds since the history began; without one no time passes.
pub fn elapsed_ms() -> u64 {
    WORLD.with_borrow(|world| world.as_ref().map_or(0, |world| world.elapsed.get()))
}

/// Says what happens, where `TRACE` is set: to understand one history that fails.
pub fn trace(what: impl FnOnce() -> String) {
    static TRACE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os("TRACE").is_some());
    if *TRACE {
        let world = world();
        let running = world.running.borrow();
        let who =
            running.last().map_or("server".to_string(), |process| format!("{:?} {}", process.kind, process.number));
        println!("{:>6} {who}: {}", world.steps.get(), what());
    }
}

/// A thing is asked of a server: others may run first, and the process that asks may die.
pub fn call() {
    let world = world();
    world.interleave();
    world.die_if_dead();
    if chance(world.rates.get().crash) {
        world.crash();
    }
}

/// Whether what is asked now goes wrong.
pub fn fails() -> bool {
    chance(world().rates.get().failure)
}

/// Others run while somebody waits. How long that is does not count, since waits may be of a random length.
pub fn pause() {
    let world = world();
    world.step_others(3);
    world.die_if_dead();
    // What is waited for may be what this piece has interrupted, and then it never comes: so the process dies.
    world.pauses.set(world.pauses.get() + 1);
    if world.pauses.get() > PAUSES_MAX {
        world.crash();
    }
}

/// Ends the process that runs, with a sentence.
pub fn fail(sentence: String) -> ! {
    resume_unwind(Box::new(Died(Some(sentence))))
}

/// Adds a client to the process that runs.
pub fn spawn(client: Client) {
    let world = world();
    let process = Rc::clone(world.running.borrow().last().expect("a process is running"));
    process.actors.borrow_mut().push(Some(Actor::Client(client)));
}

impl World {
    /// Runs a history in a world of its own.
    pub fn enter<R>(seed: u64, rates: Rates, history: impl FnOnce(&World) -> R) -> R {
        let world = Rc::new(World {
            random: RefCell::new(Random(seed)),
            now: Cell::new(1_000_000),
            elapsed: Cell::new(0),
            rates: Cell::new(rates),
            processes: RefCell::default(),
            running: RefCell::default(),
            servers: RefCell::default(),
            steps: Cell::new(0),
            pauses: Cell::new(0),
            crashes: Cell::new(0),
            violation: RefCell::new(None),
            allowed: RefCell::new(Box::new(|_, _| false)),
        });
        WORLD.set(Some(Rc::clone(&world)));
        let result = history(&world);
        for process in world.processes.take() {
            process.end();
        }
        world.servers.borrow_mut().clear();
        WORLD.set(None);
        result
    }

    /// Nothing goes wrong any more.
    pub fn calm(&self) {
        self.rates.set(Rates::default());
    }

    /// Whether anything may still go wrong.
    pub fn is_wild(&self) -> bool {
        self.rates.get().others > 0
    }

    /// What processes may say when they end, beside nothing.
    pub fn allow(&self, allowed: impl Fn(&Process, &str) -> bool + 'static) {
        *self.allowed.borrow_mut() = Box::new(allowed);
    }

    /// Adds a server that does something on its own now and then.
    pub fn serve(&self, event: impl Fn() + 'static) {
        self.servers.borrow_mut().push(Box::new(event));
    }

    /// Something is not as it is promised.
    pub fn violated(&self, what: String) {
        self.violation.borrow_mut().get_or_insert(what);
    }

    pub fn violation(&self) -> Option<String> {
        self.violation.borrow().clone()
    }

    pub fn alive(&self, kind: Kind) -> Vec<Rc<Process>> {
        let alive = |process: &&Rc<Process>| process.kind == kind && !process.is_dead();
        self.processes.borrow().iter().filter(alive).cloned().collect()
    }

    /// Starts a process: `build` makes its dataflows, and says when it is done.
    pub fn start(
        &self,
        kind: Kind,
        workers: usize,
        build: impl FnOnce(&mut [Worker], &Process) -> anyhow::Result<Box<dyn Fn() -> bool>>,
    ) {
        let number = self.processes.borrow().len();
        let process = Rc::new(Process {
            number,
            kind,
            dead: Cell::new(false),
            actors: RefCell::default(),
            stop: Arc::default(),
            done: RefCell::new(None),
        });
        self.processes.borrow_mut().push(Rc::clone(&process));
        let built = self.run(&process, || {
            let mut workers = make_workers(workers);
            let done = build(&mut workers, &process).unwrap_or_else(|error| fail(format!("{error:#}")));
            (workers, done)
        });
        if let Some((workers, done)) = built {
            *process.done.borrow_mut() = Some(done);
            process.actors.borrow_mut().extend(workers.into_iter().map(|worker| Some(Actor::Worker(Box::new(worker)))));
        }
    }

    /// Runs a piece of a process; `None`: it has died of it.
    fn run<R>(&self, process: &Rc<Process>, piece: impl FnOnce() -> R) -> Option<R> {
        self.running.borrow_mut().push(Rc::clone(process));
        let result = catch_unwind(AssertUnwindSafe(piece));
        self.running.borrow_mut().pop();
        match result {
            Ok(result) if !process.is_dead() => Some(result),
            Ok(_) => None,
            Err(payload) => {
                self.ended_by(process, payload);
                None
            }
        }
    }

    fn ended_by(&self, process: &Process, payload: Box<dyn Any + Send>) {
        match payload.downcast::<Died>() {
            Ok(died) => {
                trace(|| format!("{:?} {} has ended: {:?}", process.kind, process.number, died.0));
                if let Some(sentence) = died.0
                    && !(self.allowed.borrow())(process, &sentence)
                {
                    self.violated(format!("process {} of {:?} ended: {sentence}", process.number, process.kind));
                }
            }
            Err(payload) => {
                let said = payload.downcast_ref::<String>().cloned();
                let said = said.or_else(|| payload.downcast_ref::<&str>().map(|said| said.to_string()));
                self.violated(format!("panic: {}", said.unwrap_or_default()));
            }
        }
        process.end();
    }

    fn die_if_dead(&self) {
        let dead = self.running.borrow().last().is_some_and(|process| process.is_dead());
        if dead {
            resume_unwind(Box::new(Died(None)));
        }
    }

    /// The process that runs dies now.
    pub fn crash(&self) -> ! {
        self.crashes.set(self.crashes.get() + 1);
        resume_unwind(Box::new(Died(None)))
    }

    /// Kills a process from outside.
    pub fn kill(&self, process: &Process) {
        self.crashes.set(self.crashes.get() + 1);
        process.end();
    }

    fn interleave(&self) {
        if self.running.borrow().len() < 4 && chance(self.rates.get().others) {
            let steps = 1 + below(8);
            self.step_others(steps);
        }
    }

    fn step_others(&self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// One step of something: a process's actor that is not under way already, or a server.
    pub fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        if self.running.borrow().is_empty() {
            self.pauses.set(0);
        }
        self.pass(below(3));
        if chance(6) {
            self.server_event();
            return;
        }
        let processes = self.processes.borrow().clone();
        let alive: Vec<&Rc<Process>> = processes.iter().filter(|process| !process.is_dead()).collect();
        if alive.is_empty() {
            return;
        }
        let process = alive[below(alive.len() as u64) as usize];
        let actor = {
            let mut actors = process.actors.borrow_mut();
            let ready: Vec<usize> = (0..actors.len()).filter(|n| actors[*n].is_some()).collect();
            if ready.is_empty() {
                return;
            }
            let number = ready[below(ready.len() as u64) as usize];
            (number, actors[number].take().expect("it is there"))
        };
        let (number, mut actor) = actor;
        let back = self.run(process, || match &mut actor {
            Actor::Worker(worker) => {
                worker.step();
                true
            }
            Actor::Client(client) => client(Duration::ZERO),
        });
        match back {
            // A client that has ended is dropped with what it holds, as a thread's closure is.
            Some(true) => process.actors.borrow_mut()[number] = Some(actor),
            Some(false) | None => drop(actor),
        }
        let done = process.done.borrow().as_ref().is_some_and(|done| done());
        if done && self.running.borrow().iter().all(|running| !Rc::ptr_eq(running, process)) {
            process.end();
        }
    }

    fn server_event(&self) {
        let count = self.servers.borrow().len() as u64;
        if count > 0 {
            let number = below(count) as usize;
            (self.servers.borrow()[number])();
        }
    }

    /// Everything that servers still do on their own.
    pub fn drain_servers(&self) {
        for _ in 0..64 {
            self.servers.borrow().iter().for_each(|event| event());
        }
    }

    /// So many milliseconds pass.
    pub fn pass(&self, ms: u64) {
        self.now.set(self.now.get() + ms);
        self.elapsed.set(self.elapsed.get() + ms);
    }

    /// The wall clock leaps.
    pub fn leap(&self, to: u64) {
        self.now.set(to);
    }

    /// Asks a process to stop in good order.
    pub fn ask_to_stop(&self, process: &Process) {
        process.stop.store(true, Ordering::Relaxed);
    }
}

/// What is made on another thread and never used there again.
struct Made<T>(T);

// SAFETY: an allocator that was just built holds the only handles to its `Rc`s, so that moving it with all of them to
// another thread leaves nothing behind. Building has to happen on several threads, because each waits for the others.
unsafe impl<T> Send for Made<T> {}

/// Workers that are all stepped by this thread. Without a timer: what would be done after a delay is done at once.
fn make_workers(count: usize) -> Vec<Worker> {
    let worker = |allocator| Worker::new(timely::WorkerConfig::default(), allocator, None);
    if count == 1 {
        return vec![worker(Allocator::Thread(Default::default()))];
    }
    let config = timely::CommunicationConfig::Process(count);
    let (builders, others) = config.try_build().expect("nothing is needed for that");
    let made = timely::communication::initialize_from(builders, others, Made).expect("threads can be started");
    let allocators = made.join().into_iter().map(|made| made.expect("building does not panic").0);
    allocators.map(worker).collect()
}
