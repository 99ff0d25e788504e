"""One update taken apart, and how much of the machine's peak it uses.

    python benchmarks/steps.py --dataset ../shared/data/bible --threads 1 --precision bf16

takes the flags of train.py. Rounds of whole updates alternate with products of large matrices, whose best speed in the
same precision is the peak; the same updates with batches made beforehand show what making them costs, which is less
than the noise on a CPU, where the share of the phase tells. Useful operations are those of real words alone: padding,
and keys that the causal mask hides, do not count. Model FLOP/s utilisation (MFU) is their speed over the peak. In
rounds of their own, the phases of an update are timed one by one, which on a GPU makes them wait for each other.
"""

import contextlib
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from command import command, settings
from report import shown, spread, table, write
from tqdm import tqdm

from config import Config
from dataset import Batch, BilingualDataset, Plan, prepare
from machine import DTYPES, choose_precision, matrix_gflops, prepare_machine, wait_for
from train import Trainer, make_schedule

ROUNDS, UPDATES = 5, {"cpu": 6, "cuda": 64, "mps": 6}
PEAK_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (2048,)}


def training_flops(config: Config, words: int, sources: np.ndarray, targets: np.ndarray) -> float:
    """Operations of forward and backward pass over pairs of the given lengths.

    Two a multiplication with its addition; the backward pass takes twice the forward pass's.
    sources, targets: tokens that encoder and decoder read of each pair; words: target vocabulary.
    """
    d, ff = config.d_model, 2 * 2 * config.d_model * config.d_ff
    encoder = sources * (8 * d * d + ff + 4 * sources * d)  # four D x D products, feed-forward, attention
    decoder = targets * (8 * d * d + 4 * d * (targets + 1) / 2)  # causal: half of the keys
    decoder = decoder + targets * (4 * d * d + 4 * sources * d + ff) + sources * 4 * d * d  # cross-attention
    return 3 * float((config.layers * (encoder + decoder) + 2 * d * words * targets).sum())


class Phases:
    """Seconds spent in some functions, which are wrapped while they are measured."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)

    def timed(self, phase: str, function):
        def wrapped(*arguments, **options):
            wait_for(self.device)
            start = time.perf_counter()
            result = function(*arguments, **options)
            wait_for(self.device)
            self.seconds[phase] += time.perf_counter() - start
            return result

        return wrapped

    @contextlib.contextmanager
    def of(self, trainer: Trainer):
        utils = torch.nn.utils
        with (
            patch.object(trainer, "losses", self.timed("forward and loss", trainer.losses)),
            patch.object(torch.Tensor, "backward", self.timed("backward", torch.Tensor.backward)),
            patch.object(utils, "clip_grad_norm_", self.timed("clipping", utils.clip_grad_norm_)),
            patch.object(trainer.scaler, "step", self.timed("optimizer", trainer.scaler.step)),
        ):
            yield


def endless(plan: Plan, dataset: BilingualDataset, start: int = 0) -> Iterator[Batch]:
    """The plan's batches from `start` on, which begin anew when they end."""
    yield from plan.batches(dataset, start % len(plan))
    while True:
        yield from plan.batches(dataset)


def updates(trainer: Trainer, batches: Iterator[Batch], count: int) -> float:
    """Seconds that so many updates take, the making of their batches included."""
    wait_for(trainer.device)
    start = time.perf_counter()
    for _ in range(count):
        trainer.step(list(islice(batches, trainer.config.accumulate)))
    wait_for(trainer.device)
    return time.perf_counter() - start


def peak_gflops(device: torch.device, precision: str) -> float:
    return max(matrix_gflops(DTYPES[precision], device, size, 0.5) for size in PEAK_SIZES[device.type])


def logging_seconds(trainer: Trainer) -> float:
    """What reading and writing down the loss costs an update."""
    start = time.perf_counter()
    trainer.log(tqdm(disable=True), torch.zeros(()), 0.0)
    return (time.perf_counter() - start) / trainer.config.log_every


def measure(config: Config, data, device: torch.device, precision: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, data, device, precision, Path(folder))
        trainer.model.train()
        trainer.schedule = make_schedule(config, trainer.optimizer, 10**9)  # which more updates than a run's may follow
        plan = trainer.batches.plan(0)
        part, count = trainer.train_part, UPDATES[device.type]
        size = count * config.accumulate  # batches of a round
        if config.graphs:
            warm = [plan.batch(k, part) for k in plan.one_of_each_shape()]
        else:  # a card is to have memory and kernels for all batches at hand; a CPU, in training too, has not
            warm = list(islice(endless(plan, part), size if device.type == "cpu" else ROUNDS * size))
        for _ in range(2):  # recording a CUDA graph gives back all spare memory; the second time fetches it again
            updates(trainer, iter(warm), math.ceil(len(warm) / config.accumulate))
        plain, phases = [], Phases(device)
        for number in tqdm(range(ROUNDS), desc="rounds"):
            first, peak = number * size, peak_gflops(device, precision)
            seconds = updates(trainer, endless(plan, part, first), count)
            ready = updates(trainer, iter(list(islice(endless(plan, part, first), size))), count)
            batches = np.arange(first, first + size) % len(plan)
            plain.append(round_row(trainer, plan, batches, peak, seconds, ready))
            with phases.of(trainer):
                make = phases.timed("data", partial(next, endless(plan, part, first)))
                phases.seconds["whole"] += updates(trainer, iter(make, None), count)
        # The first log starts TensorBoard's writer.
        phases.seconds["logging"] = [logging_seconds(trainer) for _ in range(2)][1] * ROUNDS * count
    return summary(config, trainer, plan, plain, phases, precision)


def round_row(trainer: Trainer, plan: Plan, batches: np.ndarray, peak: float, seconds: float, ready: float) -> dict:
    """ready: seconds that the same updates take when their batches are made beforehand."""
    count = len(batches) // trainer.config.accumulate
    pairs = np.concatenate([plan[k] for k in batches])
    sources, targets = trainer.data.train.source_lengths[pairs], trainer.data.train.target_lengths[pairs] - 1
    gflops = training_flops(trainer.config, trainer.data.vocabulary_sizes[1], sources, targets) / seconds / 1e9
    return {
        "peak_gflops": peak,
        "useful_gflops": gflops,
        "mfu": gflops / peak,
        "tokens_per_second": int(targets.sum()) / seconds,
        "tokens": int(targets.sum()) / count,
        "ms": 1e3 * seconds / count,
        "batches": 1 - ready / seconds,
    }


def summary(config: Config, trainer: Trainer, plan, rounds: list[dict], phases: Phases, precision: str) -> dict:
    whole = phases.seconds.pop("whole") + phases.seconds["logging"]
    shares = {name: seconds / whole for name, seconds in phases.seconds.items()}
    shares["the rest"] = 1 - sum(shares.values())
    how = (", compiled" if config.compile else "") + (", graphs" if config.graphs else "")
    keys = ("mfu", "tokens_per_second", "ms", "batches", "useful_gflops", "peak_gflops", "tokens")
    return {
        "name": f"{config.batching}, {precision}{how}",
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "padding": plan.padding(trainer.data.train),
        **{key: spread([row[key] for row in rounds]) for key in keys},
        "shares": shares,
    }


def tables(rows: list[dict]) -> str:
    head = ["batches", "parameters", "padding", "target words an update", "ms an update", "of them for batches",
            "target words/s", "useful GFLOP/s", "peak GFLOP/s", "MFU"]  # fmt: skip
    lines = [
        [r["name"], f"{r['parameters'] / 1e6:.1f} M", f"{r['padding']:.1%}", f"{r['tokens']['median']:,.0f}",
         shown(r["ms"], ",.1f"), shown(r["batches"], ".1%"), shown(r["tokens_per_second"], ",.0f"),
         shown(r["useful_gflops"], ",.0f"), shown(r["peak_gflops"], ",.0f"), shown(r["mfu"], ".0%")]
        for r in rows
    ]  # fmt: skip
    phases = list(rows[0]["shares"])
    shares = [[r["name"], *(f"{r['shares'][phase]:.1%}" for phase in phases)] for r in rows]
    return table(head, lines) + "\n\n" + table(["share of an update", *phases], shares)


@command
def main() -> None:
    config = settings()
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(config.precision, device)
    rows = [measure(config, prepare(config), device, precision)]
    write("steps", {"rows": rows}, tables(rows), f"{ROUNDS} rounds of {UPDATES[device.type]} updates, median (range)")


if __name__ == "__main__":
    sys.exit(main())
