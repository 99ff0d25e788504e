"""Small corpora and small settings for tests that train."""

import json
import random

import numpy as np
import pytest
import torch

from config import Config
from dataset import Plan

torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CIFRE = ["zero", "uno", "due", "tre", "quattro", "cinque", "sei", "sette", "otto", "nove"]


def digit_pairs(count: int, longest: int = 9, seed: int = 0) -> list[tuple[str, str]]:
    """Sentences of number words with their Italian, of 1 to `longest` words."""
    draw = random.Random(seed)
    rows = [[draw.randrange(10) for _ in range(draw.randint(1, longest))] for _ in range(count)]
    return [(" ".join(DIGITS[d] for d in row), " ".join(CIFRE[d] for d in row)) for row in rows]


def write_jsonl(path, pairs) -> str:
    path.write_text("".join(json.dumps({"en": en, "it": it}) + "\n" for en, it in pairs), encoding="utf-8")
    return str(path)


def correlation_of_neighbours(plan: Plan, lengths: np.ndarray) -> float:
    """Pearson correlation of the longest length of each batch with that of the batch before it."""
    longest = plan.longest(lengths)
    return float(np.corrcoef(longest[:-1], longest[1:])[0, 1])


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> str:
    """A file of 300 pairs that a tiny model learns in seconds."""
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "digits.jsonl", digit_pairs(300))


@pytest.fixture
def tiny(digits, tmp_path) -> Config:
    """Settings of a run of three epochs that takes a second or two."""
    return Config(
        dataset=digits, d_model=16, layers=1, heads=2, d_ff=32, batch_size=16, epochs=3, seq_len=32, pool_size=64,
        max_lr=3e-3, precision="fp32", device="cpu", runs_dir=str(tmp_path / "runs"), name="run", log_every=5,
        threads=1, samples=2,
    )  # fmt: skip
