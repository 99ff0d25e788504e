"""Write the bundled sample corpus: invented English-Italian pairs from a hand-written grammar.

`python data/make_sample.py` rewrites data/sample/en-it/. The output is deterministic, and so is the
translation: one English sentence has exactly one Italian sentence. Words are in sample_vocabulary.py, phrases
and clauses in sample_grammar.py, the random choices in sample_choices.py, the kinds of sentences in
sample_patterns.py.
"""

import re
from collections import Counter
from pathlib import Path

from sample_choices import DeadEnd, Draw
from sample_grammar import Pair
from sample_patterns import PATTERNS

SEED = 7
DRAWN = 9000
MIN_WORDS, MAX_WORDS = 3, 40
# No alcohol for children, and no time twice.
UNFIT = re.compile(r"\b(child|boy|girl)s?(ren)?\b.*\b(beer|wine)\b|at that moment (when|while)")
MIN_TOKEN_COUNT = 7  # a rarer token might be unknown to a model that saw only a part of the corpus
PARQUET = Path(__file__).parent / "sample" / "en-it" / "train-00000-of-00001.parquet"


def tokens(text: str) -> list[str]:
    """Words and runs of marks, as the Whitespace pre-tokenizer of the tokenizers library finds them."""
    return re.findall(r"\w+|[^\w\s]+", text)


def draw_pairs(seed: int, number: int) -> list[Pair]:
    """Distinct random sentences of an acceptable length."""
    draw, found = Draw(seed), {}
    patterns, weights = list(PATTERNS), list(PATTERNS.values())
    while len(found) < number:
        draw.start()
        try:
            pair = draw.rng.choices(patterns, weights)[0](draw)
        except DeadEnd:
            continue
        if UNFIT.search(pair.en):
            continue
        if all(MIN_WORDS <= len(text.split()) <= MAX_WORDS for text in pair):
            assert found.setdefault(pair.en, pair.it) == pair.it, pair
    return [Pair(en, it) for en, it in found.items()]


def without_rare_tokens(pairs: list[Pair]) -> list[Pair]:
    """Drop the sentences with a rare token until there is none."""
    while True:
        counts = [Counter(token for pair in pairs for token in tokens(pair[side])) for side in (0, 1)]
        kept = [
            pair
            for pair in pairs
            if all(counts[side][token] >= MIN_TOKEN_COUNT for side in (0, 1) for token in tokens(pair[side]))
        ]
        if len(kept) == len(pairs):
            return kept
        pairs = kept


def make_pairs() -> list[Pair]:
    """The pairs of the corpus, in its order."""
    return without_rare_tokens(draw_pairs(SEED, DRAWN))


def main() -> None:
    """Write the Parquet file with the features that the `datasets` library expects."""
    import datasets

    pairs = make_pairs()
    features = datasets.Features(
        {"id": datasets.Value("string"), "translation": datasets.Translation(languages=["en", "it"])}
    )
    rows = {"id": [str(i) for i in range(len(pairs))], "translation": [pair._asdict() for pair in pairs]}
    PARQUET.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(PARQUET))
    print(f"{len(pairs)} pairs, {PARQUET.stat().st_size} bytes: {PARQUET}")


if __name__ == "__main__":
    main()
