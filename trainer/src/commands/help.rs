//! What `--help` says after the options.

pub(super) const PREPARE_HELP: &str = "Text:
  .txt      documents between <|endoftext|> marks, else passages of about 2 kB that end at blank lines
  .jsonl    a document a line: {\"text\": \"...\"}, or a conversation:
            {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, {\"role\": \"assistant\", \"content\": \"...\"}]}
  .parquet  a document a row, in the column `text`, or a conversation in the column `messages`
  .txt.gz, .jsonl.zst and so on are unpacked while they are read. No file is ever whole in memory.
Conversations are written by the tokenizer's chat template (ChatML if it has none but the marks), and only what the
assistant says is learnt. `bonsai-trainer preview` shows it.
Stopped by Ctrl-C, a crash or a full disk? The same command goes on where it was and makes the same files.
A directory that holds the tokens of other text is left as it is, and refused.
Examples:
  bonsai-trainer prepare --data books/ --tokenizer tokenizer.json --out shards
  bonsai-trainer prepare --data train-*.parquet --text-column content --tokenizer Qwen3-0.6B/tokenizer.json --out shards
  bonsai-trainer train --data shards --preset 10m";

pub(super) const ABLATE_HELP: &str = "The file:
  seeds = [0, 1, 2]                      # every row with each; the same seeds see the same data
  [base]                                 # settings of all runs, as in run.toml
  data = [\"corpus.txt\"]
  steps = 300
  out = \"ablations/scale\"              # runs, ablation.md, ablation.json, loss.svg
  [grid]                                 # every combination
  scale_rule = [\"absmean\", \"twn\"]
  [[variant]]                            # single rows beside them
  name = \"full precision\"
  precision = \"fp\"
A finished run is not run again: add rows or seeds to the file and start it once more.";

pub(super) const SETTINGS_HELP: &str = "Examples:
  bonsai-trainer settings                  all
  bonsai-trainer settings teacher          those whose name, heading or explanation holds these letters
  bonsai-trainer settings learning rate
Set one with --set NAME=VALUE, or in the file of --config, or on a resumed run, where it may change.";

pub(super) const TRAIN_HELP: &str = "Examples:
  bonsai-trainer train --data corpus.txt --preset 10m --steps 2000 --out runs/mine
  bonsai-trainer train --data corpus.txt --init Qwen3-0.6B/ --steps 200 --seq-len 512 --batch-size 8 --set micro_batch=1
      (a conversion learns from the checkpoint itself: --set teacher=none for the text alone)
  bonsai-trainer train --data corpus.txt --init SmolLM2-135M-Instruct.Q4_1.gguf --set group=64 --steps 500
      (quantised weights are unpacked; the tokenizer is the file's)
  bonsai-trainer train --data corpus.txt --init SMALL/ --set teacher=LARGE/ --set temperature=2 --set ce_weight=0.1
  bonsai-trainer train --resume runs/mine --steps 4000
  bonsai-trainer train --resume runs/mine --data TOKENS
      (goes on with other text, which `prepare` has tokenized with runs/mine/tokenizer.json)
  bonsai-trainer train --config run.toml --set group=64 --set lr=2e-3
  bonsai-trainer train ... --set optimizer_state=8bit --set latents=bf16 --set optimizer_in_backward=true
      (least memory: `fit` with the same options forecasts it)
  mpirun -n 2 bonsai-trainer train ...
      (processes share each batch; a program built with --features mpi)
Every setting of run.toml (a run writes its own) can be given with --set; `bonsai-trainer settings` explains them.";
