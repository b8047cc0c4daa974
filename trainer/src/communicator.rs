//! Processes that train one model together: each takes its share of every batch, and what they found is added up in one
//! order, so that all of them go on with the same bits.

use std::rc::Rc;
use std::time::Duration;

use crate::error::{Error, Result};

/// Numbers that are added at a time, for each process: bounds the memory for what the others send.
const PIECE: usize = 1 << 18;

/// The processes of a run, as one of them sees the others. All must make the same calls in the same order.
pub trait Communicator {
    /// Number of this process, from 0. The first one writes the run's files and speaks.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn size(&self) -> usize;
    /// Cuts `send` into as many pieces as there are processes and gives each its own; what came from process r ends in
    /// piece r of `receive`, which is as long.
    fn all_to_all(&self, send: &[u32], receive: &mut [u32]);
    /// Gives `send` to everybody; what came from process r ends in piece r of `receive`.
    fn all_gather(&self, send: &[u32], receive: &mut [u32]);
    /// Waits for everybody.
    fn barrier(&self);
    /// Ends all processes.
    fn abort(&self, code: u8) -> !;

    /// Replaces `values` by their sums over the processes, added in the order of the ranks whoever is first: each process
    /// adds its piece of them and hands the sums out. Like a ring it sends 2 (n - 1) / n of the bytes.
    fn all_reduce_sum(&self, values: &mut [f32]) {
        let size = self.size();
        if size == 1 {
            return;
        }
        let most = values.len().div_ceil(size).min(PIECE);
        let [mut ours, mut theirs] = [vec![0.0f32; most * size], vec![0.0f32; most * size]];
        for values in values.chunks_mut(most * size) {
            let piece = values.len().div_ceil(size);
            let [ours, theirs] = [&mut ours[..piece * size], &mut theirs[..piece * size]];
            ours[..values.len()].copy_from_slice(values);
            self.all_to_all(bytemuck::cast_slice(ours), bytemuck::cast_slice_mut(theirs));
            let (sums, others) = theirs.split_at_mut(piece);
            for other in others.chunks(piece) {
                sums.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            self.all_gather(bytemuck::cast_slice(sums), bytemuck::cast_slice_mut(ours));
            values.copy_from_slice(&ours[..values.len()]);
        }
    }

    /// Sums of two numbers over the processes, in the order of the ranks.
    fn sums(&self, values: [f64; 2]) -> [f64; 2] {
        let mut all = vec![[0.0; 2]; self.size()];
        self.all_gather(bytemuck::cast_slice(&values), bytemuck::cast_slice_mut(&mut all));
        all.iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d])
    }
}

/// One process on its own.
pub struct Single;

impl Communicator for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_to_all(&self, send: &[u32], receive: &mut [u32]) {
        receive.copy_from_slice(send);
    }

    fn all_gather(&self, send: &[u32], receive: &mut [u32]) {
        receive.copy_from_slice(send);
    }

    fn barrier(&self) {}

    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
}

/// A number that `mpirun` tells each process that it starts: Open MPI's word for it, or MPICH's.
fn told(open_mpi: &str, mpich: &str) -> Option<usize> {
    let word = std::env::var(open_mpi).or_else(|_| std::env::var(mpich)).ok()?;
    word.parse().ok()
}

/// How many processes `mpirun` started, and which of them this is; one where there was no `mpirun`.
pub fn launched() -> (usize, usize) {
    let size = told("OMPI_COMM_WORLD_SIZE", "PMI_SIZE").unwrap_or(1);
    (size, told("OMPI_COMM_WORLD_RANK", "PMI_RANK").unwrap_or(0))
}

/// The processes that this one was started among.
pub fn world() -> Result<Rc<dyn Communicator>> {
    match launched() {
        (1, _) => Ok(Rc::new(Single)),
        (size, _) => many(size),
    }
}

#[cfg(feature = "mpi")]
fn many(_: usize) -> Result<Rc<dyn Communicator>> {
    Ok(Rc::new(crate::mpi::Mpi::start()))
}

#[cfg(not(feature = "mpi"))]
fn many(size: usize) -> Result<Rc<dyn Communicator>> {
    Err(Error::Config(format!(
        "mpirun started {size} processes, but this program was built without MPI: build it with --features mpi"
    )))
}

/// Says what is wrong and ends all processes. Most errors are everybody's: who is not the first lets that one speak, which
/// ends the others, too.
pub fn abandon(world: &dyn Communicator, error: &Error) -> ! {
    match world.rank() {
        0 => eprintln!("error: {error}"),
        rank => {
            std::thread::sleep(Duration::from_secs(2));
            eprintln!("error: process {rank}: {error}");
        }
    }
    world.abort(error.exit_code())
}
