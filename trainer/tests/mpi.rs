//! Real processes under `mpirun`: the same run as one process, the same bits again, a process that is killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bonsai_trainer::checkpoint::{self, Saved};
use bonsai_trainer::stories;

const TINY: [&str; 12] = [
    "--preset",
    "1m",
    "--seq-len",
    "32",
    "--batch-size",
    "4",
    "--set",
    "vocab_size=300",
    "--set",
    "sample_every=0",
    "--set",
    "eval_sequences=4",
];

/// A scratch folder with a text.
fn place() -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().unwrap();
    let text = place.path().join("text.txt");
    std::fs::write(&text, stories::corpus(1, 60_000).join("\n<|endoftext|>\n")).unwrap();
    let text = text.to_str().unwrap().to_owned();
    (place, text)
}

/// One test at a time: all jobs of a user have one folder of Open MPI's, and of two that begin at once, one may fail
/// because the other has just made it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner) // after a test that failed
}

/// `train` on `processes` processes of one thread each.
fn train(processes: usize, arguments: &[&str]) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", &processes.to_string()]);
    mpirun.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none"); // containers forbid the other ones, with a warning
    mpirun.env("OMPI_MCA_mpi_yield_when_idle", "1"); // who waits leaves the core to others
    mpirun.args([env!("CARGO_BIN_EXE_bonsai-trainer"), "--quiet", "--threads", "1", "train"]).args(arguments);
    mpirun
}

fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Validation loss of a run that printed one line.
fn loss(printed: &str, step: u64) -> f64 {
    assert_eq!(printed.lines().count(), 1, "one process speaks: {printed}");
    let rest = printed.strip_prefix(&format!("step {step}: valid loss ")).unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

fn assert_same_files(a: &Path, b: &Path) {
    for name in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
        assert!(
            std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(),
            "{name} differs"
        );
    }
}

#[test]
fn two_processes_train_as_one_and_resume_byte_for_byte() {
    let _alone = alone();
    let (place, text) = place();
    let at = |name: &str| place.path().join(name);
    let new = |name: &str, steps: &str| -> Vec<String> {
        let out = at(name).to_str().unwrap().to_owned();
        let given = ["train", "--data", &text, "--out", &out, "--steps", steps, "--set", "warmup=2"];
        given[1..].iter().chain(&TINY).map(|word| word.to_string()).collect()
    };
    let run = |processes: usize, arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        done(train(processes, &arguments))
    };
    let (one, two) = (run(1, &new("one", "6")), run(2, &new("two", "6")));
    assert!((loss(&one, 6) - loss(&two, 6)).abs() < 2e-3, "{one} {two}");
    let metrics = std::fs::read_to_string(at("two").join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|line| line.contains("valid_loss")).count(), 2, "one process writes");
    let steps = |n: &str| ["--set".to_owned(), format!("steps={n}")];
    let mut half = new("half", "6");
    half.extend(["--set".into(), "save_every=3".into(), "--set".into(), "max_bad_steps=7".into()]);
    run(2, &half);
    assert_same_files(&at("two"), &at("half"));
    // The run of six steps once more, from what a shorter one left; the schedule is that of six.
    let mut short = new("short", "6");
    short.extend(["--set".into(), "decay=0.0".into()]);
    let mut long = short.clone();
    long[3] = at("long").to_str().unwrap().to_owned();
    run(2, &long);
    short.extend(steps("3"));
    run(2, &short);
    let resume = ["--resume".to_owned(), at("short").to_str().unwrap().to_owned()];
    run(2, &[&resume[..], &steps("6")].concat());
    assert_same_files(&at("long"), &at("short"));
}

/// Fails with `code` and says each of `parts`.
fn fails(mut command: Command, code: i32, parts: &[&str]) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "one process says it: {stderr}");
    assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
}

#[test]
fn what_is_wrong_is_said_once() {
    let _alone = alone();
    let (place, text) = place();
    let out = place.path().join("out");
    let given = ["--data", &text, "--out", out.to_str().unwrap(), "--steps", "2"];
    fails(
        train(2, &[&given[..], &TINY, &["--set", "batch_size=5"]].concat()),
        2,
        &["batch_size 5", "2 processes"],
    );
    fails(train(2, &["--data", "missing.txt", "--out", out.to_str().unwrap()]), 3, &["missing.txt"]);
    assert!(!checkpoint::exists(&out));
}

/// Process `rank` of a job, by what `mpirun` tells it.
fn process(rank: usize, out: &Path) -> Option<PathBuf> {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let told = format!("OMPI_COMM_WORLD_RANK={rank}");
    all.into_iter().find(|process| {
        let read = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        let has =
            |bytes: &[u8], part: &str| bytes.windows(part.len()).any(|window| window == part.as_bytes());
        has(&read("environ"), &told) && has(&read("cmdline"), out.to_str().unwrap())
    })
}

fn wait(mut job: Child, limit: Duration) -> Output {
    let begin = Instant::now();
    while job.try_wait().unwrap().is_none() {
        if begin.elapsed() > limit {
            let _ = Command::new("kill").arg(job.id().to_string()).status(); // mpirun takes its processes along
            panic!("the job went on without its process");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    job.wait_with_output().unwrap()
}

#[test]
fn a_killed_process_ends_the_job_and_loses_nothing() {
    let _alone = alone();
    let (place, text) = place();
    for rank in [1, 0] {
        let out = place.path().join(format!("killed-{rank}"));
        let name = out.to_str().unwrap();
        let given = [
            "--data",
            &text,
            "--out",
            name,
            "--steps",
            "100000",
            "--set",
            "save_every=3",
            "--set",
            "eval_every=0",
        ];
        let mut job = train(2, &[&given[..], &TINY].concat());
        let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while !checkpoint::exists(&out) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = process(rank, &out).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        let output = wait(job, Duration::from_secs(120));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(137), "{stderr}");
        assert!(stderr.contains(&format!("process rank {rank}")) && stderr.contains("signal 9"), "{stderr}");
        let step = Saved::open(&out).unwrap().state.step;
        assert!(step > 0 && step.is_multiple_of(3), "step {step}");
        let more = format!("steps={}", step + 1);
        let printed = done(train(2, &["--resume", name, "--set", &more]));
        loss(&printed, step + 1);
    }
}
