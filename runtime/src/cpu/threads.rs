//! The one door to parallelism. Work is split by rows of the output, and a row never depends on the split,
//! so results are the same for any number of threads.
//!
//! A decoded token is some 140 parallel loops of a few microseconds each, so the threads are a team made for
//! that: workers wait for the next loop awake for a while before they sleep.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cores::fast_cores;
use super::team::Team;
use crate::error::{Error, Result};

/// Most threads that may be asked for: more than the largest machines have.
pub const MOST: usize = 1024;

/// The threads that a session computes on. Clones share them.
#[derive(Clone)]
pub struct Threads {
    /// `None` while another thread computes on it.
    team: Arc<Mutex<Option<Team>>>,
    count: usize,
}

/// What [`Threads::of_the_host`] made.
static HOST: OnceLock<Threads> = OnceLock::new();

thread_local! {
    /// The team that this thread leads, while it is not in a parallel loop.
    static TEAM: RefCell<Option<Team>> = const { RefCell::new(None) };
}

impl Threads {
    /// `count` threads, the caller's included; `None`: one per fast core. WebAssembly cannot start any: whatever is
    /// asked for, there are those of [`Threads::of_the_host`]. A number of threads never changes a result.
    pub fn new(count: Option<usize>) -> Result<Self> {
        let count = count.unwrap_or_else(Self::default_count);
        if !(1..=MOST).contains(&count) {
            return Err(Error::Argument(format!("{count} threads: expected 1 to {MOST}")));
        }
        if cfg!(target_family = "wasm") {
            return Ok(HOST.get_or_init(|| Self::with(Team::without_threads(0))).clone());
        }
        let team =
            Team::new(count - 1).map_err(|e| Error::Memory(format!("cannot start {count} threads: {e}")))?;
        Ok(Self::with(team))
    }

    fn with(team: Team) -> Self {
        let count = team.workers() + 1;
        Self { team: Arc::new(Mutex::new(Some(team))), count }
    }

    /// For WebAssembly, whose host starts the threads: all sessions of this process share `count` of them, the
    /// caller's included. Each of the others calls the function that this returns, which does not come back. `None`
    /// if there are threads already, or a session had to do without.
    pub fn of_the_host(count: usize) -> Option<impl Fn() + Send + Sync + Clone + use<>> {
        let team = Team::without_threads(count.saturating_sub(1));
        let work = team.work();
        HOST.set(Self::with(team)).is_ok().then_some(work)
    }

    /// Runs `work` here, where [`for_rows`] and [`for_each`] spread over these threads. Without them, on this thread
    /// alone, while a clone is at work elsewhere.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        let slot = || self.team.lock().unwrap_or_else(PoisonError::into_inner);
        let team = slot().take();
        let before = TEAM.replace(team);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let team = TEAM.replace(before);
        if team.is_some() {
            *slot() = team;
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// How many [`Threads::new`] starts when it is not told.
    pub fn default_count() -> usize {
        HOST.get().map_or_else(fast_cores, Self::count)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Threads that the current work may spread over.
pub fn current() -> usize {
    TEAM.with_borrow(|team| team.as_ref().map_or(1, |team| team.workers() + 1))
}

/// Tells the threads, this one first, the addresses of what they will probably read first in the loop after the next.
pub(super) fn expect(firsts: &[Range<usize>]) {
    TEAM.with_borrow(|team| team.iter().for_each(|team| team.expect(firsts)));
}

/// Calls `f(first_row, rows)` for consecutive pieces of `out` (`[n, cols]`), `grain` rows each, in parallel.
pub fn for_rows(out: &mut [f32], cols: usize, grain: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let grain = grain.max(1);
    if out.len() <= grain * cols || current() == 1 {
        return f(0, out);
    }
    let pieces = out.chunks_mut(grain * cols).enumerate().collect();
    for_each(pieces, |(piece, rows): (usize, &mut [f32])| f(piece * grain, rows));
}

/// Calls `f` for each task, in parallel.
pub fn for_each<T: Send>(tasks: Vec<T>, f: impl Fn(T) + Sync) {
    // Taken for the time of the loop: a loop inside a task runs on that task's thread.
    let team = if tasks.len() > 1 { TEAM.take() } else { None };
    let Some(team) = team else { return tasks.into_iter().for_each(f) };
    let tasks: Vec<Mutex<Option<T>>> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    let result = team.run(tasks.len(), &|n| {
        let task = tasks[n].lock().unwrap_or_else(PoisonError::into_inner).take();
        task.into_iter().for_each(&f);
    });
    TEAM.set(Some(team));
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once_for_any_number_of_threads() {
        for threads in 1..5 {
            let threads = Threads::new(Some(threads)).unwrap();
            for rows in [1, 2, 7, 100] {
                let mut out = vec![0.0; rows * 3];
                threads.run(|| {
                    for_rows(&mut out, 3, 2, |first, rows| {
                        for (n, row) in rows.chunks_mut(3).enumerate() {
                            row.iter_mut().for_each(|x| *x += (first + n) as f32);
                        }
                    });
                });
                let expected: Vec<f32> = (0..rows * 3).map(|i| (i / 3) as f32).collect();
                assert_eq!(out, expected);
            }
        }
        assert!(Threads::new(Some(0)).is_err() && Threads::new(Some(MOST + 1)).is_err());
    }

    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn threads_that_others_start_take_the_seats_there_are() {
        let team = Team::without_threads(2);
        let work = team.work();
        let threads = Threads::with(team);
        let all = |tasks| {
            let count = std::sync::atomic::AtomicUsize::new(0);
            let add = |n| _ = count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            threads.run(|| for_each(vec![1; tasks], add));
            count.into_inner()
        };
        assert_eq!(all(10), 10); // nobody has come yet
        let others: Vec<_> = (0..3).map(|_| std::thread::spawn(work.clone())).collect();
        (0..1000).for_each(|_| assert_eq!(all(10), 10));
        drop(threads);
        others.into_iter().for_each(|other| other.join().unwrap()); // one of them found no seat
    }

    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn loops_inside_tasks_and_clones_elsewhere_run_on_one_thread() {
        let threads = Threads::new(Some(3)).unwrap();
        let other = threads.clone();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let add = |n| _ = count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        threads.run(|| {
            assert_eq!(current(), 3);
            for_each(vec![1; 10], |_| for_each(vec![1; 10], add));
            std::thread::scope(|scope| {
                scope.spawn(|| other.run(|| assert_eq!(current(), 1)));
            });
        });
        assert_eq!(count.into_inner(), 100);
        assert_eq!(current(), 1);
    }

    #[cfg(not(target_family = "wasm"))] // a panic ends everything there
    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_team_lives_on() {
        let threads = Threads::new(Some(2)).unwrap();
        let result = std::panic::catch_unwind(|| {
            threads.run(|| for_each((0..50).collect(), |n| assert_ne!(n, 31, "on purpose")));
        });
        assert!(result.is_err());
        threads.run(|| assert_eq!(current(), 2));
    }
}
