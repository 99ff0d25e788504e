"""What needs a GPU, in one command, most important first, as much of it as fits into some minutes.

    python benchmarks/gpu_suite.py --out DIR --dataset joined.parquet
    python benchmarks/gpu_suite.py --out DIR --only steps-bf16 uniform-compiled …    # some of its stages
    python benchmarks/gpu_suite.py --out DIR --tiny     # the same stages on a CPU, in fp32, within minutes: no results

The stages, each a process of its own: an update taken apart, without and with CUDA graphs; the CUDA tests; 18 epochs
of the base model with uniform batches as graphs, and with compiled layers besides, of 128 and of 192 sentences;
batchings side by side; 18 epochs with dynamic padding, which the time may not be enough for; 18 with updates of two and
of four lengths, and with Lion; fp16. What was left out wants calls of its own, by --only. A stage that runs past its
own limit or past --minutes is ended, said so in suite.md, and what it had written stays. DIR then holds JSON, Markdown
and pictures, and no weights; a run saves checkpoints into it on the way, which a folder in memory (/dev/shm) takes
fastest. The dataset is any that train.py takes; benchmarks/book_lengths.py joins one with lengths like those of
opus_books, with which the card's figures are to be made.
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

import torch
from command import command
from report import table

import run_folder
from config import preset

BASE = ["--preset", "fast", "--no-graphs", "--held-out", "0.01"]  # a later --graphs counts
TINY = ["--preset", "demo", "--d-model", "32", "--heads", "2", "--d-ff", "64", "--layers", "1", "--epochs", "2",
        "--device", "cpu", "--threads", "1"]  # fmt: skip
LION = ["--optimizer", "lion", "--max-lr", "2e-4", "--beta2", "0.99", "--weight-decay", "1"]  # instead of AdamW at 7e-4
OF_192 = ["--batch-size", "192", "--max-lr", "9e-4"]
SHORTEST = 15  # seconds: less time left is not worth starting a stage for


def stages(data: list[str], out: Path, tiny: bool) -> dict[str, tuple[int, list[str]]]:
    """What to run, most important first: name to the most seconds it may take and the arguments of Python."""
    train = ["train.py", *data, "--runs-dir", str(out / "runs"), "--log-every", "100", "--checkpoint-minutes", "0"]
    compiled = ["--graphs", "--compile"]
    tests = ["-m", "pytest", "-v", "-n0", "--durations=0", "tests/test_gpu.py"]
    half = "fp32" if tiny else "bf16"  # which a CPU may only emulate, a hundred times as slowly
    bf16, fp16 = ([*data, "--precision", precision] for precision in (half, "fp16"))

    def strata(count: int) -> list[str]:
        """An update of as many sentences as the others, in batches of so many lengths."""
        return ["--batch-size", str(preset("demo" if tiny else "fast").batch_size // count), "--accumulate", str(count)]

    def run(name: str, batching: str, *more: str) -> list[str]:
        return [*train, "--precision", half, "--name", name, "--batching", batching, *more]

    found = {
        "steps-bf16": (60, ["benchmarks/steps.py", *bf16]),
        "steps-bf16-graphs": (60, ["benchmarks/steps.py", *bf16, "--graphs"]),
        "tests": (60, [*tests, "-k", "not compile"]),
        "uniform": (180, run("uniform", "uniform", "--graphs")),
        "uniform-compiled": (180, run("uniform-compiled", "uniform", *compiled)),
        "steps-bf16-compiled": (90, ["benchmarks/steps.py", *bf16, *compiled]),
        "uniform-192-compiled": (120, run("uniform-192-compiled", "uniform", *compiled, *OF_192)),
        "batching-bf16": (120, ["benchmarks/batching.py", *bf16, "--graphs"]),
        "dynamic": (300, run("dynamic", "dynamic")),
        "uniform-2-strata": (300, run("uniform-2-strata", "uniform", *compiled, *strata(2))),
        "uniform-4-strata": (400, run("uniform-4-strata", "uniform", *compiled, *strata(4))),
        "uniform-lion": (180, run("uniform-lion", "uniform", *compiled, *LION)),
        "tests-compiled": (150, [*tests, "-k", "compile"]),
        "steps-fp16-compiled": (90, ["benchmarks/steps.py", *fp16, *compiled]),
        "batching-fp16": (120, ["benchmarks/batching.py", *fp16, "--graphs"]),
    }
    return {name: stage for name, stage in found.items() if not tiny or "fp16" not in name}


def run_stage(name: str, arguments: list[str], out: Path, seconds: float, more: dict[str, str]) -> dict:
    """Runs a stage for at most so many seconds; its output goes to name.log, a benchmark's results to name/.
    more: environment variables.
    """
    start = time.perf_counter()
    if seconds < SHORTEST:
        return {"stage": name, "outcome": "left out for want of time", "seconds": 0.0}
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=HERE.parent, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "BENCHMARK_RESULTS": str(out / name), "PYTHONUNBUFFERED": "1", **more},
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=seconds)
            outcome = "done" if code == 0 else f"failed with exit code {code}, see {name}.log"
        except subprocess.TimeoutExpired:
            outcome = "ended for want of time"
        finally:
            if process.poll() is None:  # out of time, or Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)  # with its own processes, which would keep the card's memory
                process.wait()
    return {"stage": name, "outcome": outcome, "seconds": time.perf_counter() - start}


def job(run: Path) -> dict:
    """What a training came to, as far as it went."""
    for path in [*run.glob("*.pt"), *run.glob("*.part"), *run.glob("events.*")]:
        path.unlink()  # weights are too large to keep, and TensorBoard's file says nothing new
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    later = rows[1:] or rows  # the first epoch compiles or records
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
        "last_bleu": next((row["bleu"] for row in reversed(rows) if "bleu" in row), None),
    }


def summary(done: list[dict], jobs: dict[str, dict], facts: dict) -> str:
    versions = facts["versions"]
    card = facts["card"] or "no GPU: nothing here is a result"
    text = [f"`{facts['command']}`, {card}, torch {versions['torch']}", ""]
    lines = [[d["stage"], d["outcome"], f"{d['seconds']:,.0f}"] for d in done]
    text.append(table(["stage", "outcome", "seconds"], lines))
    if jobs:
        columns = next(iter(jobs.values())).keys()
        shown = [[n, *(f"{v:,.3f}" if isinstance(v, float) else str(v) for v in j.values())] for n, j in jobs.items()]
        text += ["", table(["training", *(c.replace("_", " ") for c in columns)], shown)]
    return "\n".join(text) + "\n"


@command
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, made if need be")
    parser.add_argument("--dataset", help="what to train on; without it opus_books from the Hub")
    parser.add_argument("--minutes", type=float, default=8.5, help="time for all of it (default: 8.5)")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages and no others")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the bundled sample and the CPU")
    args = parser.parse_args()
    if (args.out / "runs").exists():
        print(f"error: {args.out} holds the results of another suite. Name a new folder.", file=sys.stderr)
        return 2
    known = stages([], args.out, args.tiny)
    if unknown := set(args.only or ()) - known.keys():
        print(f"error: no stage {', '.join(sorted(unknown))}; there are: {', '.join(known)}.", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    data, more = (TINY if args.tiny else BASE), {}
    if args.dataset and Path(args.dataset).exists():
        args.dataset = str(Path(args.dataset).resolve())  # stages start in the repository
        more = {"HF_HUB_OFFLINE": "1"}  # asking the Hub about a local file can take seconds each time
    if args.dataset and not args.tiny:
        data = [*data, "--dataset", args.dataset]
    end = time.perf_counter() + 60 * args.minutes
    done, jobs = [], {}
    for name, (most, arguments) in stages(data, args.out.resolve(), args.tiny).items():
        if args.only and name not in args.only:
            continue
        print(f"{name} …", flush=True)
        done.append(run_stage(name, arguments, args.out.resolve(), min(most, end - time.perf_counter()), more))
        print(f"  {done[-1]['outcome']} after {done[-1]['seconds']:,.0f} s", flush=True)
        # Not a training, or ended before its first epoch, or while it wrote a line.
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            jobs[name] = job(args.out / "runs" / name)
        card = None if args.tiny or not torch.cuda.is_available() else torch.cuda.get_device_name()
        facts = {**run_folder.environment(), "card": card}
        results = json.dumps({**facts, "stages": done, "trainings": jobs}, indent=2)
        (args.out / "suite.json").write_text(results + "\n", encoding="utf-8")
        (args.out / "suite.md").write_text(summary(done, jobs, facts), encoding="utf-8")
    print((args.out / "suite.md").read_text(encoding="utf-8"))
    return 0 if all(d["outcome"] == "done" for d in done) else 1


if __name__ == "__main__":
    sys.exit(main())
