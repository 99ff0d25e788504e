"""Everything that needs a GPU, in one command and within minutes, most important first.

    python benchmarks/gpu_suite.py --out DIR --dataset joined.parquet
    python benchmarks/gpu_suite.py --out DIR --tiny         # the same stages on a CPU in a minute or two: no results

The stages, each a process of its own: the CUDA tests; 18 epochs of the base model with uniform batches, compiled, and
with dynamic padding; an update taken apart, eager and compiled, in fp16 and bf16; batchings side by side in both. A
stage that would run past --minutes is ended, said so in suite.md, and what it had written stays. DIR then holds JSON,
Markdown and pictures, and no weights. The dataset is any that train.py takes; benchmarks/book_lengths.py joins one with
lengths like those of opus_books, with which the card's figures are to be made.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from report import table

import run_folder

# Four times the original's budget and AdamW: 32 sentences an update leave a card waiting for its next kernel.
BASE = ["--batch-size", "128", "--optimizer", "adamw", "--max-lr", "7e-4", "--beta2", "0.98", "--held-out", "0.02"]
TINY = ["--preset", "demo", "--d-model", "32", "--heads", "2", "--d-ff", "64", "--layers", "1", "--epochs", "2",
        "--device", "cpu", "--threads", "1"]  # fmt: skip


def stages(data: list[str], out: Path, tiny: bool) -> dict[str, list[str]]:
    """What to run, most important first: name to the arguments of Python."""
    train = ["train.py", *data, "--runs-dir", str(out / "runs"), "--log-every", "100", "--checkpoint-minutes", "0"]
    compiled = ["--compile", "--shapes", "2" if tiny else "8"]  # each shape takes a minute to compile for a CPU
    found = {
        "tests": ["-m", "pytest", "-q", "tests/test_gpu.py"],
        "uniform": [*train, "--name", "uniform", "--batching", "uniform", "--precision", "bf16", *compiled],
        "dynamic": [*train, "--name", "dynamic", "--batching", "dynamic", "--precision", "bf16"],
    }
    for precision in ("bf16",) if tiny else ("bf16", "fp16"):
        common = [*data, "--precision", precision]
        found[f"steps-{precision}"] = ["benchmarks/steps.py", *common]
        found[f"steps-{precision}-compiled"] = ["benchmarks/steps.py", *common, *compiled]
        found[f"batching-{precision}"] = ["benchmarks/batching.py", *common]
    return found


def run_stage(name: str, arguments: list[str], out: Path, seconds: float) -> dict:
    """Runs a stage for at most so many seconds; its output goes to name.log, a benchmark's results to name/"""
    start = time.perf_counter()
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=HERE.parent, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "BENCHMARK_RESULTS": str(out / name)}, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=max(1.0, seconds))
            outcome = "done" if code == 0 else f"failed with exit code {code}, see {name}.log"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its own processes, which would keep the card's memory
            process.wait()
            outcome = "ended for want of time"
    return {"stage": name, "outcome": outcome, "seconds": time.perf_counter() - start}


def job(run: Path) -> dict:
    """What a training came to, as far as it went."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for path in [*run.glob("*.pt"), *run.glob("events.*")]:
        path.unlink()  # weights are too large to keep, and TensorBoard's file says nothing new
    later = rows[1:] or rows  # the first epoch compiles
    best = min(rows, key=lambda row: row["valid_nll"])
    return {
        "epochs": len(rows),
        "train_loss": rows[-1]["train_loss"],
        "under_target_in_epoch": next((row["epoch"] for row in rows if row["target_met"]), None),
        "seconds_of_first_epoch": rows[0]["seconds"],
        "seconds_of_18_epochs_without_compiling": 18 * sum(row["seconds"] for row in later) / len(later),
        "tokens_per_second": later[-1]["tokens_per_second"],
        "gpu_memory_mb": rows[-1]["gpu_memory_mb"],
        "best_held_out_plain": best["valid_nll"],
        "bleu_there": best["bleu"],
    }


def summary(done: list[dict], jobs: dict[str, dict], facts: dict) -> str:
    versions = facts["versions"]
    card = facts["machine"]["gpu"] or "no GPU: nothing here is a result"
    text = [f"`{facts['command']}`, {card}, torch {versions['torch']}", ""]
    lines = [[d["stage"], d["outcome"], f"{d['seconds']:,.0f}"] for d in done]
    text.append(table(["stage", "outcome", "seconds"], lines))
    if jobs:
        columns = next(iter(jobs.values())).keys()
        shown = [[n, *(f"{v:,.3f}" if isinstance(v, float) else str(v) for v in j.values())] for n, j in jobs.items()]
        text += ["", table(["training", *(c.replace("_", " ") for c in columns)], shown)]
    return "\n".join(text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, made if need be")
    parser.add_argument("--dataset", help="what to train on; without it opus_books from the Hub")
    parser.add_argument("--minutes", type=float, default=8.5, help="time for all of it (default: 8.5)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the bundled sample and the CPU")
    args = parser.parse_args()
    if (args.out / "runs").exists():
        print(f"error: {args.out} holds the results of another suite. Name a new folder.", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    data = TINY if args.tiny else BASE + (["--dataset", args.dataset] if args.dataset else [])
    end = time.perf_counter() + 60 * args.minutes
    done, jobs = [], {}
    for name, arguments in stages(data, args.out.resolve(), args.tiny).items():
        print(f"{name} …", flush=True)
        done.append(run_stage(name, arguments, args.out.resolve(), end - time.perf_counter()))
        print(f"  {done[-1]['outcome']} after {done[-1]['seconds']:,.0f} s", flush=True)
        with contextlib.suppress(FileNotFoundError):  # not a training, or ended before its first epoch
            jobs[name] = job(args.out / "runs" / name)
        facts = run_folder.environment()
        results = json.dumps({**facts, "stages": done, "trainings": jobs}, indent=2)
        (args.out / "suite.json").write_text(results + "\n", encoding="utf-8")
        (args.out / "suite.md").write_text(summary(done, jobs, facts), encoding="utf-8")
    print((args.out / "suite.md").read_text(encoding="utf-8"))
    return 0 if all(d["outcome"] == "done" for d in done) else 1


if __name__ == "__main__":
    sys.exit(main())
