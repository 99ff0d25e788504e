"""Uniform-length batches: sentences of like length stand together, and hardly a cell is padding.

Each epoch anew: shuffle all pairs, cut them into pools, sort each pool by length, cut it into batches, shuffle
the batches. Sorting once and for all would freeze the batches' composition, and leaving them in order of length
would make the loss rise and fall with the length instead of with learning.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset import BilingualDataset, Plan


def longer_side(dataset: BilingualDataset) -> np.ndarray:
    """Tokens of each pair's longer side."""
    return np.maximum(dataset.source_lengths, dataset.target_lengths)


def shape_widths(lengths: np.ndarray, count: int) -> np.ndarray:
    """The `count` widths, rising, that pad sentences of these lengths least when each is padded to the next width.

    Of the lengths 3, 4, 5, 20 and 21 the two widths are 5 and 21. Exact, by dynamic programming over the distinct
    lengths: the best k widths for the lengths up to some one are that one, which all lengths after some shorter one are
    padded to, and the best k - 1 widths for the lengths up to the shorter.
    """
    distinct, how_many = np.unique(lengths, return_counts=True)
    sentences = np.concatenate([[0], np.cumsum(how_many)])  # that are among the i shortest lengths
    # cells[i, j]: what the lengths i to j - 1 take when padded to the longest of them
    cells = np.append(0, distinct) * (sentences[None, :] - sentences[:, None]).astype(float)
    cells[np.tril_indices(len(cells))] = np.inf
    best, choices = cells[0], []
    for _ in range(min(count, len(distinct)) - 1):
        total = best[:, None] + cells
        choices.append(total.argmin(0))
        best = total.min(0)
    ends = [len(distinct)]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return distinct[np.array(ends[::-1]) - 1]


@dataclass
class UniformBatches:
    """Plans of pairs of like length.

    batch_by "sentences": batch_size pairs in each batch. "tokens": about as many padded tokens a side in each batch,
    so that long batches hold few pairs and short ones many, and batch_size pairs on average: an epoch has as many
    updates as one of random batches, where pools are many times as large as batches.

    accumulate: batches of an update, which follow one another in a plan. They are one of each stratum of length, from
    short to long, so that every update sees sentences of all lengths, as one of random batches does.

    shapes: 0 makes every batch as long as its longest sentence. Above 0, all batches have one of so many shapes,
    which are the same in every epoch: a CUDA graph is then made once for each.
    """

    dataset: BilingualDataset
    batch_size: int
    seed: int = 0
    batch_by: str = "tokens"
    pool_size: int = 16_384
    shapes: int = 0
    accumulate: int = 1

    @cached_property
    def widths(self) -> np.ndarray:
        """Tokens that each pair's longer side is padded to, where batches are as even as can be."""
        longer = longer_side(self.dataset)
        if not self.shapes:
            return longer
        fixed = shape_widths(longer, self.shapes)
        return fixed[np.searchsorted(fixed, longer)]

    @cached_property
    def token_budget(self) -> int:
        """Most padded tokens a side in a batch, pairs times the longest side: the smallest with which batches hold
        batch_size pairs on average. A pair that is longer goes alone.
        """
        widths = np.sort(self.widths)[::-1]
        most = math.ceil(len(widths) / self.batch_size)  # batches
        # The larger the budget, the fewer batches: a binary search for the first that makes few enough.
        budgets = range(self.batch_size * int(widths[0]))
        return bisect_left(budgets, True, lo=1, key=lambda budget: len(_cut(widths, budget)) <= most)

    def plan(self, epoch: int) -> Plan:
        """The batches of an epoch, every pair once: a pure function of (seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.dataset))
        batches, shapes = self._in_fixed_shapes(order) if self.shapes else (self._in_pools(order), None)
        lengths = longer_side(self.dataset)[[batch[0] for batch in batches]] if shapes is None else shapes[:, 1]
        drawn = _one_of_each_stratum(rng.permutation(len(batches)), lengths, self.accumulate)
        return Plan.of([batches[k] for k in drawn], None if shapes is None else shapes[drawn])

    def _in_pools(self, order: np.ndarray) -> list[np.ndarray]:
        longer = longer_side(self.dataset)
        difference = self.dataset.source_lengths - self.dataset.target_lengths
        batches = []
        # Equal pools: a short last one would be padded more than the others. At least two: sorting all there is would
        # bring the same sentences together in every epoch.
        for pool in np.array_split(order, max(2, round(len(order) / self.pool_size))):
            # Longest first, so that a batch's first pair tells how many fit. Pairs with the same longer side are
            # sorted by the difference of both, which orders the shorter side whichever it is, up and down in turn:
            # a batch that spans two such groups meets like pairs at the seam.
            turn = np.where(longer[pool] % 2, 1, -1)
            pool = pool[np.lexsort((turn * difference[pool], -longer[pool]))]
            if self.batch_by == "sentences":
                starts = np.arange(0, len(pool), self.batch_size)
            else:
                starts = _cut(longer[pool], self.token_budget)
            batches += np.split(pool, starts)[1:]  # the piece before the first start, 0, is empty
        return batches

    def _in_fixed_shapes(self, order: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        batches, shapes = [], []
        for width in np.unique(self.widths).tolist():
            pairs = order[self.widths[order] == width]
            size = self.batch_size if self.batch_by == "sentences" else max(1, self.token_budget // width)
            batches += np.array_split(pairs, math.ceil(len(pairs) / size))  # evenly: none is filled up from one pair
            shapes += [(size, width)] * (len(batches) - len(shapes))  # of the batches just added
        return batches, np.array(shapes)


def _one_of_each_stratum(drawn: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The batches `drawn`, in an order in which every `count` that follow one another have one of each stratum: the
    shortest 1 / count of all batches, the next longer ones, and so on. What is left over comes last.

    drawn: the numbers of all batches, shuffled; lengths: of batch 0, 1, 2 and so on.
    """
    count = min(count, len(drawn))
    rank = lengths.argsort(kind="stable").argsort()  # of each batch among all, by length
    stratum = rank[drawn] * count // len(drawn)
    strata = [drawn[stratum == s] for s in range(count)]
    whole = min(len(s) for s in strata)
    return np.concatenate([np.stack([s[:whole] for s in strata], axis=1).flatten(), *(s[whole:] for s in strata)])


def _cut(lengths: np.ndarray, budget: int) -> list[int]:
    """Where batches begin that hold at most `budget` padded tokens, or one pair; lengths: falling."""
    starts, end = [], 0
    while end < len(lengths):
        starts.append(end)
        end += max(1, budget // int(lengths[end]))
    return starts
