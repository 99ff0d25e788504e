"""Small corpora and small settings for tests that train."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import write_jsonl

import train
from config import Config, preset
from dataset import Batch, Plan, prepare
from train import Trainer

torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CIFRE = ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"]


@dataclass
class Lengths:
    """A dataset of which only the lengths are known, which is all that planning needs."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def __len__(self):
        return len(self.source_lengths)


def digit_pairs(count: int, longest: int = 9, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences of number words with their Italian, of 1 to `longest` words."""
    draw = random.Random(seed)
    rows = [[draw.randrange(10) for _ in range(draw.randint(1, longest))] for _ in range(count)]
    return [(" ".join(DIGITS[d] for d in row), " ".join(CIFRE[d] for d in row)) for row in rows]


def correlation_of_neighbours(plan: Plan, lengths: np.ndarray) -> float:
    """Pearson correlation of the longest length of each batch with that of the batch before it."""
    longest = plan.longest(lengths)
    return float(np.corrcoef(longest[:-1], longest[1:])[0, 1])


def trainer_for(config: Config, run="run") -> Trainer:
    """A trainer whose data are ready and whose run has an empty folder."""
    folder = Path(config.runs_dir) / run
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config, prepare(config), torch.device("cpu"), config.precision, folder)


def groups(trainer: Trainer, epoch=0) -> list[list[Batch]]:
    """The batches of each update of an epoch."""
    plan = trainer.batches.plan(epoch)
    step = trainer.config.accumulate
    return [
        [plan.batch(k, trainer.data.train) for k in range(start, min(start + step, len(plan)))]
        for start in range(0, len(plan), step)
    ]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def command(config: Config, *more: str) -> list[str]:
    """The flags that make train.py take these settings."""
    given = {k: v for k, v in vars(config).items() if v != getattr(preset("base"), k)}
    flags = [str(word) for k, v in given.items() for word in ("--" + k.replace("_", "-"), v)]
    return [*flags, *more]


def run_all(config: Config) -> Trainer:
    """A whole run, from its start to its end."""
    trainer = train.start(config)
    assert trainer.train()
    return trainer


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> str:
    """A file of 300 pairs that a tiny model learns in seconds."""
    return str(write_jsonl(tmp_path_factory.mktemp("corpus") / "digits.jsonl", digit_pairs(300)))


@pytest.fixture
def tiny(digits, tmp_path) -> Config:
    """Settings of a run of three epochs that takes a second or two."""
    return Config(
        dataset=digits, d_model=16, layers=1, heads=2, d_ff=32, batch_size=16, epochs=3, seq_len=32, pool_size=64,
        max_lr=3e-3, precision="fp32", device="cpu", runs_dir=str(tmp_path / "runs"), name="run", log_every=5,
        threads=1, samples=2,
    )  # fmt: skip
