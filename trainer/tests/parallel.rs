//! Several processes that share each batch, as threads of this one: the sums, the steps, resuming. `tests/mpi.rs` has real
//! processes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod tiny_run;

use std::rc::Rc;
use std::sync::{Arc, Barrier, Mutex};

use bonsai_runtime::config::TensorSpec;
use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::communicator::{Communicator, Single};
use bonsai_trainer::config::{OptimizerKind, RunConfig};
use bonsai_trainer::cpu::CpuBackend;
use bonsai_trainer::data::Order;
use bonsai_trainer::formats::{LatentFormat, StateFormat};
use bonsai_trainer::params;
use bonsai_trainer::random::Random;
use bonsai_trainer::train::Trainer;
use tiny_run::{dataset, settings, steps, trainer, weights};

/// A process that is a thread.
struct Thread {
    rank: usize,
    all: Arc<All>,
}

struct All {
    sent: Vec<Mutex<Vec<u32>>>,
    barrier: Barrier,
}

impl Thread {
    /// Piece `piece` of `pieces` of what everybody sends, in the order of their ranks.
    fn exchange(&self, send: &[u32], receive: &mut [u32], (piece, pieces): (usize, usize)) {
        *self.all.sent[self.rank].lock().unwrap() = send.to_vec();
        self.barrier();
        let length = send.len() / pieces;
        for (receive, sent) in receive.chunks_exact_mut(length).zip(&self.all.sent) {
            receive.copy_from_slice(&sent.lock().unwrap()[piece * length..][..length]);
        }
        self.barrier();
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.all.sent.len()
    }

    fn all_to_all(&self, send: &[u32], receive: &mut [u32]) {
        self.exchange(send, receive, (self.rank, self.size()));
    }

    fn all_gather(&self, send: &[u32], receive: &mut [u32]) {
        self.exchange(send, receive, (0, 1));
    }

    fn barrier(&self) {
        self.all.barrier.wait();
    }

    fn abort(&self, code: u8) -> ! {
        panic!("a thread ended with {code}")
    }
}

/// What `size` processes answer.
fn together<R: Send>(size: usize, work: impl Fn(Rc<dyn Communicator>) -> R + Sync) -> Vec<R> {
    let sent = (0..size).map(|_| Mutex::default()).collect();
    let all = Arc::new(All { sent, barrier: Barrier::new(size) });
    let work = &work;
    std::thread::scope(|scope| {
        let start = |rank: usize| {
            let all = Arc::clone(&all);
            scope.spawn(move || work(Rc::new(Thread { rank, all })))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_those_of_the_ranks_in_order() {
    for (size, length) in [(2, 1), (3, 2), (3, 100_000), (2, 600_001)] {
        let ours = |rank: usize| {
            let mut random = Random::new(rank as u64);
            (0..length).map(|_| random.normal() as f32).collect::<Vec<_>>()
        };
        let mut expected = ours(0);
        (1..size).for_each(|rank| expected.iter_mut().zip(ours(rank)).for_each(|(sum, x)| *sum += x));
        for (rank, got) in together(size, |world| {
            let mut values = ours(world.rank());
            world.all_reduce_sum(&mut values);
            let sums = world.sums([0.1 + world.rank() as f64, -1.5]);
            (values, sums)
        })
        .into_iter()
        .enumerate()
        {
            assert!(got.0 == expected, "{length} numbers of {size} processes, as process {rank} sees them");
            let expected = (0..size).fold(0.0, |sum, rank| sum + (0.1 + rank as f64));
            assert_eq!(got.1, [expected, -1.5 * size as f64]);
        }
    }
}

/// A run among processes.
fn among(world: Rc<dyn Communicator>, config: &RunConfig) -> Trainer<CpuBackend> {
    trainer(RunConfig { ranks: world.size(), ..config.clone() }).among(world)
}

/// Sums are taken in another order than one process takes them in, so losses differ in their last digits, and after a few
/// steps where a weight fell to another side of a threshold.
#[test]
fn two_processes_take_the_steps_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    for (optimizer, optimizer_in_backward) in
        [(OptimizerKind::Adamw, false), (OptimizerKind::Adamw, true), (OptimizerKind::Muon, false)]
    {
        let config = RunConfig { optimizer, optimizer_in_backward, ..settings(dir.path()) };
        let run = |mut trainer: Trainer<CpuBackend>| {
            let step = |_| trainer.step(&data.train).unwrap();
            let reports: Vec<_> =
                (0..6).map(step).map(|step| (step.loss, step.grad_norm, step.tokens)).collect();
            (reports, weights(&trainer))
        };
        let alone = run(among(Rc::new(Single), &config));
        let both = together(2, |world| run(among(world, &config)));
        assert!(both[0] == both[1], "the processes went apart");
        for (step, (one, two)) in alone.0.iter().zip(&both[0].0).enumerate() {
            let bound = if step == 0 { 1e-6 } else { 2e-3 };
            let [loss, norm] = [two.0 / one.0 - 1.0, two.1 / one.1 - 1.0].map(f64::abs);
            assert!(loss < bound && norm < 30.0 * bound && one.2 == two.2, "step {step}: {one:?} {two:?}");
        }
        assert!(together(2, |world| run(among(world, &config))) == both, "again, and other bits");
    }
}

#[test]
fn two_processes_resume_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&dir.path().join("data"));
    let small = (StateFormat::Bits8, LatentFormat::Bf16);
    let base = settings(dir.path());
    let config = RunConfig { optimizer_state: small.0, latents: small.1, ..base };
    let run = dir.path().join("run");
    let straight = together(2, |world| {
        let mut trainer = among(world, &config);
        steps(&mut trainer, &data, 3);
        if trainer.world.rank() == 0 {
            checkpoint::save(&run, &trainer).unwrap();
        }
        steps(&mut trainer, &data, 3);
        weights(&trainer)
    });
    let resumed = together(2, |world| {
        let mut saved = Saved::open(&run).unwrap();
        saved.run.ranks = 2;
        let backend = CpuBackend::new(&saved.model.config, saved.run.seq_len);
        let params = saved.params(&backend, true).unwrap();
        let order = Order::Shuffled { seed: 7 };
        let mut trainer = Trainer::new(saved.run, backend, params, saved.state, order).among(world);
        steps(&mut trainer, &data, 3);
        weights(&trainer)
    });
    assert!(straight == resumed);
}

#[test]
fn processes_with_other_weights_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(dir.path());
    let errors = together(2, |world| {
        let config = RunConfig { ranks: 2, ..settings(dir.path()) };
        let (model, rank) = (tiny_run::shape(&config), world.rank() as u64);
        let latent = |index: usize, spec: &TensorSpec| params::scratch(&model, 3 + rank, index, spec);
        let mut trainer = tiny_run::trainer_with(config, latent).among(world);
        (0..3).find_map(|_| trainer.step(&data.train).err()).map(|error| error.to_string())
    });
    assert!(
        errors.iter().all(|error| error.as_ref().is_some_and(|e| e.contains("the same weights"))),
        "{errors:?}"
    );
}

#[test]
fn a_batch_that_cannot_be_shared_is_refused() {
    let config = RunConfig { batch_size: 5, ranks: 2, ..RunConfig::default() };
    assert!(config.check().unwrap_err().to_string().contains("2 processes"));
    let config = RunConfig { batch_size: 8, micro_batch: 3, ranks: 2, ..RunConfig::default() };
    assert!(config.check().unwrap_err().to_string().contains("share of it (4)"));
}
