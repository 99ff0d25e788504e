"""Uniform-length batches: sentences of like length stand together, and hardly a cell is padding.

Each epoch anew: shuffle all pairs, cut them into pools, sort each pool by length, cut it into batches, shuffle
the batches. Sorting once and for all would freeze the batches' composition, and leaving them in order of length
would make the loss rise and fall with the length instead of with learning.
"""

from dataclasses import dataclass

import numpy as np

from dataset import BilingualDataset, Plan


def longer_side(dataset: BilingualDataset) -> np.ndarray:
    """Tokens of each pair's longer side."""
    return np.maximum(dataset.source_lengths, dataset.target_lengths)


@dataclass
class UniformBatches:
    """Plans of pairs of like length.

    batch_by "sentences": batch_size pairs in each batch. "tokens": as many padded tokens a side in each batch as
    batch_size pairs of average length have, so that long batches hold few pairs and short ones many, and the
    number of updates is about the same.
    """

    dataset: BilingualDataset
    batch_size: int
    seed: int = 0
    batch_by: str = "tokens"
    pool_size: int = 16_384

    @property
    def token_budget(self) -> int:
        """Most padded tokens a side in a batch: pairs times the longest side. A pair that is longer goes alone."""
        return int(self.batch_size * longer_side(self.dataset).mean())

    def plan(self, epoch: int) -> Plan:
        """The batches of an epoch, every pair once: a pure function of (seed, epoch)."""
        rng = np.random.default_rng([self.seed, epoch])
        longer = longer_side(self.dataset)
        difference = self.dataset.source_lengths - self.dataset.target_lengths
        budget = self.token_budget
        batches = []
        for pool in _pools(rng.permutation(len(self.dataset)), self.pool_size):
            # Longest first, so that a batch's first pair tells how many fit. Pairs with the same longer side are
            # sorted by the difference of both, which orders the shorter side whichever it is, up and down in turn:
            # a batch that spans two such groups meets like pairs at the seam.
            turn = np.where(longer[pool] % 2, 1, -1)
            pool = pool[np.lexsort((turn * difference[pool], -longer[pool]))]
            batches += self._cut(pool, longer[pool].tolist(), budget)
        shuffled = [batches[k] for k in rng.permutation(len(batches))]
        starts = np.cumsum([0] + [len(b) for b in shuffled])
        return Plan(np.concatenate(shuffled), starts)

    def _cut(self, pool: np.ndarray, longer: list[int], budget: int) -> list[np.ndarray]:
        batches, start = [], 0
        while start < len(pool):
            size = self.batch_size if self.batch_by == "sentences" else max(1, budget // longer[start])
            batches.append(pool[start : start + size])
            start += size
        return batches


def _pools(order: np.ndarray, size: int) -> list[np.ndarray]:
    # Equal pools: a short last one would be padded more than the others. At least two: sorting all there is would
    # bring the same sentences together in every epoch.
    return np.array_split(order, max(2, round(len(order) / size)))
