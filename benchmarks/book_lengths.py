"""Joins the pairs of corpora into longer ones whose lengths are spread like those of opus_books.

    python benchmarks/book_lengths.py joined.parquet ../shared/data/bible ../shared/data/tatoeba --pairs 6000

The corpora at hand have no long tail, and padding is a matter of the tail. Each new pair draws a length, log-normal
with a mean of about 30 tokens and cut at opus_books' longest 309, and takes the next pairs of the first corpus while
they fit, then of the second, and so on: give the corpus with the longest sentences first. Every pair is used once;
the same command writes the same file. Whatever is measured on it is measured on joined sentences.
"""

import argparse
import re
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from command import command
from datasets import Dataset

from config import Config, UserError, check
from corpus import load_corpus, pairs

LONGEST, SHORTEST = 309, 3  # tokens of a source sentence
MEDIAN, SIGMA = 23, 0.75


def tokens(text: str) -> int:
    """Words and runs of punctuation, as the word tokenizer counts them."""
    return len(re.findall(r"\w+|[^\w\s]+", text))


def drawn_lengths(count: int, seed: int = 0) -> np.ndarray:
    lengths = np.random.default_rng(seed).lognormal(np.log(MEDIAN), SIGMA, count)
    return np.clip(np.round(lengths), SHORTEST, LONGEST).astype(int)


def join(corpora: list[list[tuple[str, str]]], lengths: np.ndarray) -> list[tuple[str, str]]:
    """One pair a length, its source side close to so many tokens; fewer where a corpus is used up before."""
    queues = [deque((*pair, tokens(pair[0])) for pair in corpus) for corpus in corpora]
    joined = []
    for length in lengths:
        parts, left = [], int(length)
        for queue in queues:
            while queue and queue[0][2] <= left:
                parts.append(queue.popleft())
                left -= parts[-1][2]
        if not all(queues):
            break
        parts = parts or [queues[-1].popleft()]  # the shortest corpus's next pair may be longer than what was drawn
        joined.append((" ".join(p[0] for p in parts), " ".join(p[1] for p in parts)))
    return joined


def read(dataset: str, config: Config) -> list[tuple[str, str]]:
    split = load_corpus(replace(config, dataset=dataset))["train"]
    chunks = pairs(split, config.source_language, config.target_language)
    rows = [pair for sides in chunks for pair in zip(*sides, strict=True) if None not in pair]
    return [(source.strip(), target.strip()) for source, target in rows]


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the .parquet file to write; train.py takes it as --dataset")
    parser.add_argument("corpora", nargs="+", help="datasets as train.py takes them, the longest sentences first")
    parser.add_argument("--pairs", type=int, default=29_000, help="how many to write at most (default: 29,000)")
    parser.add_argument("--source-language", default="en")
    parser.add_argument("--target-language", default="it")
    args = parser.parse_args()
    config = Config(source_language=args.source_language, target_language=args.target_language)
    check(config)
    if args.pairs < 1:
        raise UserError(f"pairs is {args.pairs}, but must be at least 1.")
    joined = join([read(name, config) for name in args.corpora], drawn_lengths(args.pairs))
    sides = zip(*joined, strict=True)
    columns = dict(zip((args.source_language, args.target_language), map(list, sides), strict=True))
    Dataset.from_dict(columns).to_parquet(args.out)
    for language, texts in columns.items():
        lengths = np.array([tokens(text) for text in texts])
        print(f"{language}: {len(texts):,} sentences, mean {lengths.mean():.1f} tokens, longest {lengths.max()}")


if __name__ == "__main__":
    sys.exit(main())
