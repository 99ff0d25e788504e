"""Fixed, dynamic and uniform batching side by side, at several budgets: padding, speed, memory, waiting for data.

    python benchmarks/batching.py --preset small --dataset ../shared/data/bible --threads 1

takes the flags of train.py. All train the same model on the same corpus in one process, in turns, so that whatever
else the machine does falls on all of them alike; a round's ratio to dynamic is taken within the round. Memory is the
peak of a process of its own that prepares the corpus and trains on the same batches, or on a GPU what is allocated
there. The table is written anew after every round. Making batches is the time the CPU is busy with it: on a GPU that
of giving orders.
"""

import gc
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from command import command, settings
from report import process_peak, shown, spread, table, write
from steps import endless
from tqdm import tqdm

from config import Config, UserError
from dataset import BilingualDataset, Plan, prepare
from machine import FIXED_SHAPES, choose_precision, prepare_machine, wait_for
from smart_batching_dataset import shape_widths
from train import Trainer, make_schedule

ROUNDS, WORDS = 6, {"cpu": 6_000, "cuda": 50_000, "mps": 30_000}  # target tokens of each batching in a round, at least
DYNAMIC = "dynamic"


def variants(config: Config) -> dict[str, Config]:
    """What is compared: how batches are made, and how many sentences they hold on average."""
    graphs, budget = config.graphs, config.batch_size
    config = replace(config, compile=False, graphs=False, shapes=0)
    found = {
        "fixed": replace(config, batching="fixed"),
        DYNAMIC: replace(config, batching="dynamic"),
        "uniform, by sentences": replace(config, batching="uniform", batch_by="sentences"),
        "uniform, by tokens": replace(config, batching="uniform"),
        "uniform, 16 shapes": replace(config, batching="uniform", shapes=16),
    }
    if graphs:
        found["uniform, 16 shapes as graphs"] = replace(config, batching="uniform", graphs=True)
        found["dynamic, 16 shapes as graphs"] = replace(config, batching="dynamic", graphs=True)  # see rounded
    for strata in (2, 4):
        if budget % strata == 0 and config.accumulate == 1:
            parts = {"batch_size": budget // strata, "accumulate": strata, "graphs": graphs}
            name = f"uniform, {strata} strata an update" + (", as graphs" if graphs else "")
            found[name] = replace(config, batching="uniform", **parts)
    for times in (2, 4):
        found[f"dynamic, {times} × the budget"] = replace(config, batching="dynamic", batch_size=times * budget)
        found[f"uniform, {times} × the budget"] = replace(config, batching="uniform", batch_size=times * budget)
    return found


def rounded(plan: Plan, dataset: BilingualDataset, count: int) -> Plan:
    """The same batches, padded to `count` widths, so that random ones can be recorded as graphs too, which train.py
    does not do.
    """
    longest = np.maximum(plan.longest(dataset.source_lengths), plan.longest(dataset.target_lengths))
    widths = shape_widths(longest, count)
    rows = np.full(len(plan), np.diff(plan.starts).max())
    return replace(plan, shapes=np.stack([rows, widths[np.searchsorted(widths, longest)]], axis=1))


class Turn:
    """One way to make batches, with its trainer and what was measured."""

    def __init__(self, config: Config, data, device: torch.device, precision: str):
        self.trainer = Trainer(config, data, device, precision, Path())
        # A small corpus comes round more often than the settings' epochs.
        self.trainer.schedule = make_schedule(config, self.trainer.optimizer, 10**9)
        self.trainer.model.train()
        self.plan = self.trainer.batches.plan(0)
        if config.graphs and config.batching == "dynamic":
            self.plan = rounded(self.plan, data.train, FIXED_SHAPES)
        self.batches = endless(self.plan, self.trainer.train_part)
        self.speeds, self.making, self.seconds = [], [], []  # of each round
        for k in self.plan.one_of_each_shape() if config.graphs else ():  # which are recorded now and not in a round
            self.trainer.step([self.plan.batch(k, self.trainer.train_part)])

    def round(self, words: int) -> None:
        """Trains on the next batches until `words` target tokens are done; notes tokens a second, and time for data."""
        trainer, before, making = self.trainer, self.trainer.sums.tokens, 0.0
        wait_for(trainer.device)
        began = time.perf_counter()
        while trainer.sums.tokens - before < words:
            start = time.perf_counter()
            group = list(islice(self.batches, trainer.config.accumulate))
            making += time.perf_counter() - start
            trainer.step(group)
        wait_for(trainer.device)
        seconds = time.perf_counter() - began
        self.speeds.append((trainer.sums.tokens - before) / seconds)
        self.making.append(making)
        self.seconds.append(seconds)


def peak_memory(config: Config, data, device: torch.device, precision: str) -> float | None:
    """Peak MB of training on as many words as a few rounds have; None where a GPU has too little."""
    if device.type != "cuda":
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(prepare_and_train, config, device, precision).result() / 1e6
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        train_alone(config, data, device, precision)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() / 1e6


def prepare_and_train(config: Config, device: torch.device, precision: str) -> int:
    """The peak of memory, in bytes, of this process when it has prepared the corpus and trained."""
    prepare_machine(config.device, config.threads)
    train_alone(config, prepare(config), device, precision)
    return process_peak()


def train_alone(config: Config, data, device: torch.device, precision: str) -> None:
    """Trains on the batch with the longest sentence and as many words as a few rounds have."""
    turn = Turn(config, data, device, precision)
    longest = int(turn.plan.longest(turn.trainer.data.train.source_lengths).argmax())
    turn.trainer.step([turn.plan.batch(longest, turn.trainer.train_part)])
    turn.round(3 * WORDS[device.type])


def measure(config: Config, data, device: torch.device, precision: str) -> list[dict]:
    """One row a batching, but for memory."""
    turns = {name: Turn(c, data, device, precision) for name, c in variants(config).items()}
    words, rows = int((data.train.target_lengths - 1).sum()), []
    for number in tqdm(range(ROUNDS + 1), desc="rounds"):
        for turn in turns.values():
            turn.round(WORDS[device.type])
        if number:  # the first round warms up and is left out
            rows = [row(name, turn, turns[DYNAMIC].speeds, words) for name, turn in turns.items()]
            write_down(rows, precision, show=False)
    return rows


def row(name: str, turn: Turn, dynamic: list[float], words: int) -> dict:
    speeds = turn.speeds[1:]
    ratios = [s / d for s, d in zip(speeds, dynamic[1:], strict=True)]
    return {
        "batching": name,
        "batch_size": turn.trainer.config.batch_size,
        "rounds": len(speeds),
        "padding": turn.plan.padding(turn.trainer.data.train),
        "updates_an_epoch": math.ceil(len(turn.plan) / turn.trainer.config.accumulate),
        "tokens_per_second": spread(speeds),
        "seconds_an_epoch": words / spread(speeds)["median"],
        "times_dynamic": spread(ratios),
        "share_of_time_for_data": sum(turn.making[1:]) / sum(turn.seconds[1:]),
    }


def megabytes(row: dict) -> str:
    if "peak_mb" not in row:
        return ""
    return "too little" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}"


def tabulate(rows: list[dict]) -> str:
    head = ["batching", "sentences", "padding", "updates an epoch", "real target tokens/s", "seconds an epoch",
            "times dynamic", "making batches", "peak MB"]  # fmt: skip
    lines = [
        [r["batching"], str(r["batch_size"]), f"{r['padding']:.1%}", f"{r['updates_an_epoch']:,}",
         shown(r["tokens_per_second"], ",.0f"), f"{r['seconds_an_epoch']:,.0f}", shown(r["times_dynamic"], ".2f"),
         f"{r['share_of_time_for_data']:.1%}", megabytes(r)]
        for r in rows
    ]  # fmt: skip
    return table(head, lines)


@command
def main() -> None:
    config = settings()
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(config.precision, device)
    data = prepare(config)
    try:
        rows = measure(config, data, device, precision)
    except torch.OutOfMemoryError as error:
        text = str(error).splitlines()[0]
        raise UserError(f"The GPU's memory is full ({text}). Take half the --batch-size.") from error
    for r, c in zip(tqdm(rows, desc="memory"), variants(config).values(), strict=True):
        r["peak_mb"] = peak_memory(c, data, device, precision)
        write_down(rows, precision, show=r is rows[-1])


def write_down(rows: list[dict], precision: str, show: bool) -> None:
    note = f"{precision}, {rows[0]['rounds']} rounds, median (range)"
    write("batching", {"precision": precision, "rows": rows}, tabulate(rows), note, show)


if __name__ == "__main__":
    sys.exit(main())
