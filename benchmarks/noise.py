"""How noisy is the gradient of an update, for each batching?

    python benchmarks/noise.py --dataset joined.parquet --epochs 4 --threads 1

takes the flags of train.py. A model is trained for --epochs with random batches, so that no batching is at home; then
the gradients of all updates of one more epoch are taken, without making the updates, once for each batching. They have
the same mean, the gradient of the whole training part. The noise is how far they lie from it: their mean squared
distance over its squared length (McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", section 2.2).
Uniform batches add what sentences of like length have in common, which no larger batch averages out.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from command import command, settings
from report import table, write
from torch import Tensor
from tqdm import tqdm

from config import Config
from dataset import prepare
from machine import prepare_machine
from train import Trainer, make_batches


def variants(config: Config) -> dict[str, Config]:
    """What is compared: the name and the settings of each batching."""
    uniform = replace(config, batching="uniform", shapes=0)
    found = {"dynamic": replace(config, batching="dynamic"), "uniform": uniform}
    for parts in (2, 4):
        if config.batch_size % parts == 0:
            smaller = {"batch_size": config.batch_size // parts, "accumulate": parts * config.accumulate}
            found[f"uniform, each update of {parts} smaller batches"] = replace(uniform, **smaller)
    return found


def gradients(trainer: Trainer, config: Config) -> Iterator[tuple[int, Tensor]]:
    """The words of each update of an epoch, and its gradient in one piece: the mean over these words."""
    plan, size = make_batches(config, trainer.data.train).plan(config.epochs), config.accumulate
    parameters = list(trainer.model.parameters())
    for start in tqdm(range(0, len(plan), size), desc=config.batching, leave=False, mininterval=10):
        batches = [plan.batch(k, trainer.train_part) for k in range(start, min(start + size, len(plan)))]
        words = sum(len(batch.labels) for batch in batches)
        trainer.model.zero_grad()
        for batch in batches:
            (trainer.losses(batch.to(trainer.device))[0] / words).backward()
        yield words, torch.cat([p.grad.flatten() for p in parameters])


def noise(found: Iterator[tuple[int, Tensor]]) -> dict[str, float]:
    """Of gradients, each with its weight: their mean squared distance from their mean, over its squared length."""
    weights, total, squares, count = 0, 0.0, 0.0, 0
    for weight, gradient in found:
        weights, count = weights + weight, count + 1
        total, squares = total + weight * gradient, squares + weight * float(gradient.square().sum())
    signal = float((total / weights).square().sum())
    return {"updates": count, "signal": signal, "noise": squares / weights / signal - 1}


def measure(config: Config) -> list[dict]:
    """One row a batching, dynamic first. In fp32, since gradients in fp16 would want a scaler."""
    device = prepare_machine(config.device, config.threads)
    data = prepare(config)
    # No run, no record; and no graphs, which keep gradients too short a time to add up those of several batches.
    quiet = replace(config, batching="dynamic", checkpoint_minutes=0.0, log_every=10**9, compile=False, graphs=False)
    trainer = Trainer(quiet, data, device, "fp32", Path())
    while trainer.epoch < config.epochs:
        trainer.train_epoch(trainer.batches.plan(trainer.epoch))
        trainer.close_epoch()
    trainer.model.eval()  # the noise of dropout is nobody's
    return [{"batching": name, **noise(gradients(trainer, c))} for name, c in variants(config).items()]


def tabulate(rows: list[dict]) -> str:
    head = ["batching", "updates", "noise of an update's gradient", "times dynamic"]
    lines = [
        [r["batching"], str(r["updates"]), f"{r['noise']:,.2f}", f"{r['noise'] / rows[0]['noise']:.2f}"] for r in rows
    ]
    return table(head, lines)


@command
def main() -> None:
    rows = measure(settings())
    write("noise", {"rows": rows}, tabulate(rows), "fp32")


if __name__ == "__main__":
    sys.exit(main())
