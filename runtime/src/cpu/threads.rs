//! The one door to parallelism. Work is split by rows of the output, and a row never depends on the split,
//! so results are the same for any number of threads.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::{Error, Result};

/// The threads that a session computes on.
#[derive(Clone, Default)]
pub struct Threads {
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl Threads {
    /// `count` threads of its own, or with `None` the pool that the whole process shares: one thread per core.
    pub fn new(count: Option<usize>) -> Result<Self> {
        let Some(count) = count else { return Ok(Self::default()) };
        if count == 0 {
            return Err(Error::Argument("the number of threads must be at least 1".into()));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build();
        let pool = pool.map_err(|e| Error::Memory(format!("cannot start {count} threads: {e}")))?;
        Ok(Self { pool: Some(Arc::new(pool)) })
    }

    /// Runs `work` on these threads: [`for_rows`] and [`for_each`] inside it spread over them.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => rayon::scope(|_| work()), // moves onto the shared pool once, not once per parallel loop
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pool.as_ref().map_or_else(rayon::current_num_threads, |pool| pool.current_num_threads())
    }
}

/// Threads that the current work may spread over.
pub fn current() -> usize {
    rayon::current_num_threads()
}

/// Calls `f(first_row, rows)` for consecutive pieces of `out` (`[n, cols]`), `grain` rows each, in parallel.
pub fn for_rows(out: &mut [f32], cols: usize, grain: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let grain = grain.max(1);
    if out.len() <= grain * cols {
        return f(0, out);
    }
    out.par_chunks_mut(grain * cols).enumerate().for_each(|(piece, rows)| f(piece * grain, rows));
}

/// Calls `f` for each task, in parallel.
pub fn for_each<T: Send>(tasks: Vec<T>, f: impl Fn(T) + Sync + Send) {
    if tasks.len() <= 1 {
        return tasks.into_iter().for_each(f);
    }
    tasks.into_par_iter().with_max_len(1).for_each(f);
}
