//! A team of threads for loops that last microseconds.
//!
//! The leader publishes a loop of `tasks` calls of one function; it and the workers claim task numbers until none
//! is left. A worker that finds no work spins for a while ([`Idle`]) before it sleeps, so that the next loop of the same
//! token finds it awake. The leader waits for claimed tasks only: a worker that the system put aside holds nobody up.

use std::any::Any;
use std::cell::RefCell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};

use super::ahead::Ahead;
use super::idle::Idle;

/// What a loop runs: `f(n)` for each task number.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Workers that wait for loops.
pub(super) struct Team {
    shared: Arc<Shared>,
    /// Of the leader.
    next: Next,
    ahead: RefCell<Ahead>,
    /// Those that were started here.
    threads: Vec<JoinHandle<()>>,
}

/// A seat in the team.
#[derive(Default)]
struct Worker {
    /// Who works here, once it does.
    thread: OnceLock<Thread>,
    /// Sleeps, or is about to.
    asleep: AtomicBool,
    next: Next,
}

/// Addresses of what a thread will probably read next, or none.
#[derive(Default)]
struct Next([AtomicUsize; 2]);

#[derive(Default)]
struct Shared {
    /// Number of the loop in the upper half, tasks that nobody has claimed in the lower. A task is claimed by
    /// lowering it from a value that was read before the function was, so what is claimed belongs to that function.
    ticket: AtomicU64,
    /// Points to the leader's `&Task`, while tasks of the loop are unclaimed or unfinished.
    task: AtomicPtr<()>,
    finished: AtomicUsize,
    workers: Vec<Worker>,
    /// Seats that were taken.
    taken: AtomicUsize,
    closing: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Team {
    /// Starts `workers` threads. Fewer than asked for is an error: nothing is left running.
    pub(super) fn new(workers: usize) -> std::io::Result<Self> {
        let mut team = Self::without_threads(workers);
        for n in 0..workers {
            let work = team.work();
            let name = format!("bonsai-{}", n + 1);
            team.threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(team)
    }

    /// Seats for `workers` threads that the caller starts. Loops do not wait for those that have not come.
    pub(super) fn without_threads(workers: usize) -> Self {
        let workers = (0..workers).map(|_| Worker::default()).collect();
        let shared = Arc::new(Shared { workers, ..Shared::default() });
        Self { shared, next: Next::default(), ahead: RefCell::default(), threads: Vec::new() }
    }

    /// What a thread of the team calls; it returns when the team is no more, or at once when all seats are taken.
    pub(super) fn work(&self) -> impl Fn() + Send + Sync + Clone + use<> {
        let shared = self.shared.clone();
        move || shared.work()
    }

    /// How many threads beside the leader's.
    pub(super) fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// Tells all threads, the leader first, the addresses of what they will probably read first in the loop after the next:
    /// they ask for it when they find no work.
    pub(super) fn expect(&self, firsts: &[Range<usize>]) {
        let workers = self.shared.workers.iter().map(|worker| &worker.next);
        std::iter::once(&self.next).chain(workers).zip(firsts).for_each(|(next, first)| next.set(first));
    }

    /// Calls `f(0)` to `f(tasks - 1)`, each once, here and on the workers, and returns when all have returned. The
    /// error is the panic of one of them.
    pub(super) fn run(&self, tasks: usize, f: &Task<'_>) -> Result<(), Box<dyn Any + Send>> {
        assert!(u32::try_from(tasks).is_ok(), "{tasks} tasks");
        let shared = &*self.shared;
        let first_to_last = |left: usize| f(tasks - left);
        let task: &Task<'_> = &first_to_last; // lives until the end of this function, which waits for all calls of it
        shared.task.store(std::ptr::from_ref(&task).cast_mut().cast(), Ordering::Relaxed);
        shared.finished.store(0, Ordering::Relaxed);
        let number = (shared.ticket.load(Ordering::Relaxed) >> 32) + 1;
        // The order of everything and the workers' look at the ticket after they said that they sleep: either they see
        // this loop, or they are seen asleep below.
        shared.ticket.store(number << 32 | tasks as u64, Ordering::SeqCst);
        let wanted = shared.workers.iter().take(tasks - 1);
        wanted.filter(|worker| worker.asleep.load(Ordering::SeqCst)).for_each(Worker::wake);
        while shared.take_one() {}
        let ahead = &mut *self.ahead.borrow_mut();
        wait(|| shared.finished.load(Ordering::Acquire) == tasks, || ahead.ask_for(self.next.get()));
        match shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(panic) => Err(panic),
            None => Ok(()),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.workers.iter().for_each(Worker::wake);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a worker catches the panics of its tasks
        }
    }
}

impl Next {
    fn set(&self, addresses: &Range<usize>) {
        self.0[0].store(addresses.start, Ordering::Relaxed);
        self.0[1].store(addresses.end, Ordering::Relaxed);
    }

    /// Read while it is written, both ends may be of different loops, and what is asked for is of no use.
    fn get(&self) -> Range<usize> {
        self.0[0].load(Ordering::Relaxed)..self.0[1].load(Ordering::Relaxed)
    }
}

impl Worker {
    fn wake(&self) {
        self.thread.get().into_iter().for_each(Thread::unpark);
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self) {
        let seat = self.workers.get(self.taken.fetch_add(1, Ordering::Relaxed));
        let Some(worker) = seat else { return };
        let _ = worker.thread.set(std::thread::current()); // a seat is taken once
        let (mut idle, mut ahead) = (Idle::default(), Ahead::default());
        while !self.closing.load(Ordering::Relaxed) {
            if self.take_one() {
                while self.take_one() {}
                idle = Idle::default();
            } else if idle.long() {
                self.sleep(worker);
                idle = Idle::default();
            } else if !ahead.ask_for(worker.next.get()) {
                (0..32).for_each(|_| spin_loop());
            }
        }
    }

    fn sleep(&self, worker: &Worker) {
        let seen = self.ticket.load(Ordering::SeqCst);
        worker.asleep.store(true, Ordering::SeqCst);
        while self.ticket.load(Ordering::SeqCst) == seen && !self.closing.load(Ordering::SeqCst) {
            std::thread::park();
        }
        worker.asleep.store(false, Ordering::SeqCst);
    }

    /// Claims and runs one task of the current loop; false when none is left.
    fn take_one(&self) -> bool {
        let ticket = self.ticket.load(Ordering::Acquire);
        let left = (ticket & u64::from(u32::MAX)) as usize;
        if left == 0 {
            return false;
        }
        let task = self.task.load(Ordering::Relaxed);
        let claim = self.ticket.compare_exchange(ticket, ticket - 1, Ordering::AcqRel, Ordering::Acquire);
        if claim.is_ok() {
            // SAFETY: the claim shows that `ticket` was still current, so `task` is of this loop: the leader writes it
            // before it publishes the number, and not again before every task of the loop is finished. As this one is
            // not, the leader is still in `run`, where `f` lives.
            #[expect(unsafe_code, reason = "a borrowed function, called on threads that outlive the borrow")]
            let f = unsafe { *task.cast::<&Task<'_>>() };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| f(left))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.finished.fetch_add(1, Ordering::Release);
        }
        true
    }
}

/// Does what is useful meanwhile, while there is something, and then spins; gives the core away now and then where there are more
/// threads than cores.
fn wait(done: impl Fn() -> bool, mut useful: impl FnMut() -> bool) {
    let mut rounds = 0u32;
    while !done() {
        if useful() {
            continue;
        }
        rounds += 1;
        if rounds.is_multiple_of(1024) {
            std::thread::yield_now();
        }
        spin_loop();
    }
}
