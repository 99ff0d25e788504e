"""Fixed, dynamic and uniform batching side by side: padding, real target tokens a second, seconds an epoch.

    python benchmarks/batching.py --preset small --dataset ../shared/data/bible --threads 1

takes the flags of train.py. All three train the same model on the same corpus in one process, in turns, so that
whatever else the machine does falls on all of them alike; a round's ratio to dynamic is taken within the round.
"""

import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

import run_folder
from config import UserError, parse
from dataset import prepare
from machine import choose_precision, prepare_machine
from train import Trainer

BATCHINGS = ("fixed", "dynamic", "uniform")
ROUNDS, WORDS = 8, 8_000  # a round trains on at least so many target tokens of each batching


def timed_round(trainer: Trainer, plan, start: int) -> tuple[int, float]:
    """Trains from batch `start` on; returns the next batch and real target tokens a second."""
    words, began, k = trainer.sums.tokens, time.perf_counter(), start
    while trainer.sums.tokens - words < WORDS:
        trainer.step([plan.batch(k % len(plan), trainer.train_part)])
        k += 1
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return k, (trainer.sums.tokens - words) / (time.perf_counter() - began)


def measure(config) -> list[dict]:
    """One row a batching."""
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(config.precision, device)
    data = prepare(config)
    trainers = {b: Trainer(replace(config, batching=b), data, device, precision, Path()) for b in BATCHINGS}
    plans = {b: t.batches.plan(0) for b, t in trainers.items()}
    position = dict.fromkeys(BATCHINGS, 0)
    speeds = {b: [] for b in BATCHINGS}
    for number in tqdm(range(ROUNDS + 1), desc="rounds"):
        for b, trainer in trainers.items():
            position[b], speed = timed_round(trainer, plans[b], position[b])
            if number:  # the first round warms up
                speeds[b].append(speed)
    words = int(data.train.target_lengths.sum()) - len(data.train)
    return [row(trainers[b], plans[b], speeds[b], speeds["dynamic"], words) for b in BATCHINGS]


def row(trainer: Trainer, plan, speeds: list[float], dynamic: list[float], words: int) -> dict:
    ratios = [s / d for s, d in zip(speeds, dynamic, strict=True)]
    return {
        "batching": trainer.config.batching,
        "padding": plan.padding(trainer.data.train),
        "updates_an_epoch": len(plan),
        "tokens_per_second": statistics.median(speeds),
        "tokens_per_second_range": [min(speeds), max(speeds)],
        "seconds_an_epoch": words / statistics.median(speeds),
        "times_dynamic": statistics.median(ratios),
        "times_dynamic_range": [min(ratios), max(ratios)],
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| batching | padding | updates an epoch | real target tokens/s (range) | seconds an epoch | times dynamic |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        low, high = r["tokens_per_second_range"]
        lines.append(
            f"| {r['batching']} | {r['padding']:.1%} | {r['updates_an_epoch']:,} | {r['tokens_per_second']:,.0f} "
            f"({low:,.0f}–{high:,.0f}) | {r['seconds_an_epoch']:,.0f} | {r['times_dynamic']:.2f} "
            f"({r['times_dynamic_range'][0]:.2f}–{r['times_dynamic_range'][1]:.2f}) |"
        )
    return "\n".join(lines)


def main() -> int:
    try:
        config, _, _ = parse()
        rows = measure(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = Path(__file__).parent / "results"
    out.mkdir(exist_ok=True)
    facts = run_folder.environment()
    (out / "batching.json").write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    text = f"`{facts['command']}`, {facts['machine']['processor']}, torch {facts['versions']['torch']}, "
    text += f"{facts['machine']['threads']} threads, {ROUNDS} rounds, median (range)\n\n{table(rows)}\n"
    (out / "batching.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
