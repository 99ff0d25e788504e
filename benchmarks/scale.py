"""What it costs to prepare a corpus and to batch it, in time and memory, from 10^4 to 10^7 pairs.

    python benchmarks/scale.py                        # prepares up to 10^6 pairs and plans up to 10^7
    python benchmarks/scale.py --word 7 --bpe 7       # prepares 10^7 too, in an hour or two and 10 GB of files

needs no corpus: it makes sentences of made-up words, as frequent as words are (Zipf) and as long as those of
opus_books. Each measurement has a process of its own, so that its peak of memory is nobody else's, and an empty cache
of `datasets`. Linux or macOS.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, product
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
from book_lengths import drawn_lengths
from command import command
from pyarrow import parquet
from report import process_peak, table, write

from config import Config
from dataset import BilingualDataset, Plan, RandomBatches, prepare
from smart_batching_dataset import UniformBatches

CHUNK = 10_000  # pairs made at a time
WARM_UP = 500  # pairs prepared before the clock runs, for what is imported or started at first use
SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
TOKENIZERS = {"word": 30_000, "bpe": 8_000}  # and their vocabularies
BATCHINGS = {"uniform": UniformBatches, "random": RandomBatches}
BATCH_SIZE, BATCHES, PLANS = 32, 1_000, 5
ON_PAPER = {"WMT-size": 4_500_000, "very large": 100_000_000}


# --- The text -----------------------------------------------------------------------------------------------


def pair_lengths(chunk: int, count: int) -> np.ndarray:
    """Words of each sentence of a chunk: (2, count), the target side within 20 % of the source side."""
    source = drawn_lengths(count, seed=chunk)
    ratio = np.random.default_rng([chunk, 0]).uniform(0.8, 1.2, count)
    return np.stack([source, np.round(source * ratio).astype(int)])


def made_up_words() -> np.ndarray:
    """518,480 words, the short ones first, because the frequent words of a language are short."""
    rng = np.random.default_rng(0)
    by_length = [["".join(parts) for parts in product(SYLLABLES, repeat=n)] for n in (1, 2, 3)]
    return np.concatenate([rng.permutation(words) for words in by_length]).astype(object)


def write_corpus(path: Path, pairs: int) -> None:
    """A parquet file of `pairs` sentence pairs, the same each time."""
    source = made_up_words()
    words = {"en": source, "it": np.array([word[::-1] for word in source], dtype=object)}
    cumulated = np.cumsum(1 / np.arange(1, len(source) + 1))  # Zipf: the k-th word is k times rarer than the first
    with parquet.ParquetWriter(path, pa.schema([(language, pa.string()) for language in words])) as file:
        for chunk, start in enumerate(range(0, pairs, CHUNK)):
            rng = np.random.default_rng([chunk, 1])
            lengths = pair_lengths(chunk, min(CHUNK, pairs - start))
            columns = {}
            for (language, vocabulary), side in zip(words.items(), lengths, strict=True):
                drawn = vocabulary[np.searchsorted(cumulated, rng.random(side.sum()) * cumulated[-1])].tolist()
                ends = np.cumsum(side)
                columns[language] = [" ".join(drawn[a:b]) for a, b in zip(ends - side, ends, strict=True)]
            file.write_table(pa.table(columns))


# --- Measuring ----------------------------------------------------------------------------------------------


def alone(work: Callable, *arguments):
    """What work(*arguments) returns in a fresh process, its imports done, that finds an empty cache of `datasets`."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(HF_HOME=cache, HF_DATASETS_CACHE=cache, HF_HUB_OFFLINE="1")
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(work, *arguments).result()


def measured(work: Callable, times: int = 1) -> tuple[object, dict]:
    """What work() returns, and what it cost: median seconds, and how far it raised the peak of memory."""
    before, wall, cpu = process_peak(), [], []
    for _ in range(times):
        result = None  # or the peak would hold two of them
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        result = work()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    cost = {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    return result, {**cost, "peak_mb": process_peak() / 1e6, "added_mb": (process_peak() - before) / 1e6}


def prepare_cost(corpus: Path, warm_up: Path, tokenizer: str) -> dict:
    """From the file to ids; then from ids to batches, which is not to depend on how many pairs there are."""
    config = Config(dataset=str(corpus), tokenizer=tokenizer, vocab_size=TOKENIZERS[tokenizer])
    prepare(replace(config, dataset=str(warm_up)))
    data, cost = measured(lambda: prepare(config))
    return {**cost, "reports": data.reports, **assembly_cost(data.train)}


def assembly_cost(data: BilingualDataset) -> dict:
    """Median microseconds to make one of an epoch's first uniform batches, and how large they are."""
    plan, seconds, cells = UniformBatches(data, BATCH_SIZE).plan(0), [], []
    for k in range(min(BATCHES, len(plan))):
        start = time.perf_counter()
        batch = data.batch(plan[k])
        seconds.append(time.perf_counter() - start)
        cells.append(batch.source.numel() + batch.target.numel())
    return {"batch_us": statistics.median(seconds) * 1e6, "batch_cells": statistics.mean(cells)}


@dataclass
class Lengths:
    """A dataset of which only the lengths are known, which is all that planning needs."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.source_lengths)


def plan_cost(batching: str, pairs: int) -> dict:
    lengths = np.empty((2, pairs), dtype=np.int64)  # filled in chunks, so that the peak is the plan's
    for chunk, start in enumerate(range(0, pairs, CHUNK)):
        lengths[:, start : start + CHUNK] = pair_lengths(chunk, min(CHUNK, pairs - start)) + 2  # SOS and EOS
    data = Lengths(*lengths)

    def work() -> Plan:
        return BATCHINGS[batching](data, BATCH_SIZE).plan(0)

    plan, cost = measured(work, PLANS)
    return {**cost, "batches": len(plan), "padding": plan.padding(data)}


def noted(what: str, pairs: int, cost: dict) -> dict:
    """A row of the results, shown at once: the next may take minutes."""
    print(f"{what}, {pairs:,} pairs: {cost['seconds']:.3g} s, {cost['peak_mb']:,.0f} MB", file=sys.stderr)
    return {"what": what, "pairs": pairs, **cost}


def measure_all(prepared: dict[str, list[int]], planned: list[int]) -> list[dict]:
    """One row a measurement; `planned`, and `prepared` for each kind of tokenizer, are the numbers of pairs."""
    rows = []
    for batching in BATCHINGS:
        rows += [noted(f"plan, {batching}", n, alone(plan_cost, batching, n)) for n in planned]
    with tempfile.TemporaryDirectory() as folder:
        corpora = {n: Path(folder) / f"{n}.parquet" for n in {WARM_UP, *chain.from_iterable(prepared.values())}}
        for n, path in corpora.items():
            alone(write_corpus, path, n)
        for tokenizer, sizes in prepared.items():
            for n in sizes:
                cost = alone(prepare_cost, corpora[n], corpora[WARM_UP], tokenizer)
                rows.append(noted(f"prepare, {tokenizer}", n, cost))
    return sorted(rows, key=lambda row: not row["what"].startswith("prepare"))


# --- Fitting ------------------------------------------------------------------------------------------------


def fit(what: str, rows: list[dict]) -> dict:
    """Seconds as a power of the pairs, by least squares of their logarithms; memory by the two largest runs.

    On paper, seconds are given twice: by the fit, and as if every further pair cost what one of the largest run did.
    Costs that do not grow with the corpus flatten the fit, which then says too little; the second tells how much.
    """
    names = ("pairs", "seconds", "cpu_seconds", "peak_mb")
    pairs, seconds, cpu_seconds, memory = (np.array([row[name] for row in rows], dtype=float) for name in names)
    exponent, constant = np.polyfit(np.log(pairs), np.log(seconds), 1)
    cpu_exponent, _ = np.polyfit(np.log(pairs), np.log(cpu_seconds), 1)  # which a busy machine disturbs less
    off = np.abs(np.exp(constant) * pairs**exponent / seconds - 1).max()
    mb_a_pair = (memory[-1] - memory[-2]) / (pairs[-1] - pairs[-2])  # the difference is free of what does not grow
    on_paper = {
        name: {
            "pairs": n,
            "seconds_by_fit": float(np.exp(constant) * n**exponent),
            "seconds_at_largest_rate": float(seconds[-1] / pairs[-1] * n),
            "peak_mb": float(memory[-1] + mb_a_pair * (n - pairs[-1])),
        }
        for name, n in ON_PAPER.items()
    }
    return {
        "what": what,
        "largest": int(pairs[-1]),
        "exponent": float(exponent),
        "off_by_at_most": float(off),
        "cpu_exponent": float(cpu_exponent),
        "bytes_a_pair": float(mb_a_pair * 1e6),
        "extrapolated_on_paper": on_paper,
    }


# --- Showing ------------------------------------------------------------------------------------------------


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def cost_table(rows: list[dict]) -> str:
    lines = []
    for r in rows:
        figures = [r["seconds"], r["cpu_seconds"], r["seconds"] / r["pairs"] * 1e6, r["peak_mb"], r["added_mb"]]
        lines.append([r["what"], f"{r['pairs']:,}", *map(number, figures)])
    return table(["what", "pairs", "seconds", "CPU seconds", "µs a pair", "peak MB", "of it added MB"], lines)


def batch_table(rows: list[dict]) -> str:
    return table(
        ["ids of", "pairs", "µs a batch", "cells in it"],
        [
            [r["what"].removeprefix("prepare, "), f"{r['pairs']:,}", number(r["batch_us"]), number(r["batch_cells"])]
            for r in rows
            if "batch_us" in r
        ],
    )


def fit_table(fits: list[dict]) -> str:
    lines = []
    for f in fits:
        figures = [f"{f['exponent']:.2f}", f"{f['off_by_at_most']:.0%}", f"{f['cpu_exponent']:.2f}"]
        lines.append([f["what"], *figures, f"{f['bytes_a_pair']:,.0f}"])
    return table(["what", "exponent of seconds", "fit off by at most", "of CPU seconds", "bytes a pair"], lines)


def paper_table(fits: list[dict]) -> str:
    head = ["what", "pairs", "times the largest run", "seconds by fit", "seconds at the largest run's rate", "peak GB"]
    lines = []
    for f in fits:
        for name, cost in f["extrapolated_on_paper"].items():
            figures = [cost["pairs"] / f["largest"], cost["seconds_by_fit"], cost["seconds_at_largest_rate"]]
            lines.append([f["what"], f"{name}, {cost['pairs']:,}", *map(number, [*figures, cost["peak_mb"] / 1e3])])
    return table(head, lines)


def report(rows: list[dict], fits: list[dict]) -> str:
    return f"""## Measured

Each row is one process. Preparing is timed once, from a file that the system may still hold in memory, with no cache \
of `datasets`; planning is the median of {PLANS}. The peak counts the imports, and the pages of the corpus that are \
mapped from disk, which the system could take back; planning's counts the lengths.

{cost_table(rows)}

Making one batch, uniform, {BATCH_SIZE} pairs on average, median of the first {BATCHES:,}:

{batch_table(rows)}

Time as a power of the pairs; memory as a straight line through the two largest runs:

{fit_table(fits)}

## Extrapolated on paper, not measured

Where it is less than once the largest run, it lies between runs that were measured.

{paper_table(fits)}"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smallest", type=int, default=4, help="begin with 10 to this power of pairs (default: 4)")
    parser.add_argument("--word", type=int, default=6, help="prepare up to 10 to this power, as words (default: 6)")
    parser.add_argument("--bpe", type=int, default=6, help="the same as subwords, which take longer (default: 6)")
    parser.add_argument("--plan", type=int, default=7, help="plan up to 10 to this power (default: 7)")
    args = parser.parse_args()
    if not 2 <= args.smallest < min(args.word, args.bpe, args.plan):
        parser.error("a fit takes two sizes: --smallest is to be at least 2 and below --word, --bpe and --plan")
    return args


@command
def main() -> None:
    args = arguments()
    sizes = {kind: [10**k for k in range(args.smallest, vars(args)[kind] + 1)] for kind in (*TOKENIZERS, "plan")}
    planned = sizes.pop("plan")
    rows = measure_all(sizes, planned)
    kinds = dict.fromkeys(row["what"] for row in rows)
    fits = [fit(what, [row for row in rows if row["what"] == what]) for what in kinds]
    write("scale", {"rows": rows, "fits": fits}, report(rows, fits), "synthetic text")


if __name__ == "__main__":
    sys.exit(main())
