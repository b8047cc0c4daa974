//! The processes that `mpirun` started (feature `mpi`): the one door to MPI.

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

use crate::communicator::Communicator;

/// All processes of a job. An error of MPI's ends the job, which is MPI's own rule unless it is told another one.
pub struct Mpi {
    world: SimpleCommunicator,
    /// Dropped last: says goodbye to the others.
    _universe: Universe,
}

impl Mpi {
    /// Meets the other processes. Once in a process, whose main thread makes all calls.
    pub fn start() -> Self {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled).expect("MPI is started once");
        Self { world: universe.world(), _universe: universe }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn all_to_all(&self, send: &[u32], receive: &mut [u32]) {
        self.world.all_to_all_into(send, receive);
    }

    fn all_gather(&self, send: &[u32], receive: &mut [u32]) {
        self.world.all_gather_into(send, receive);
    }

    fn barrier(&self) {
        self.world.barrier();
    }

    fn abort(&self, code: u8) -> ! {
        self.world.abort(code.into())
    }
}
