"""From sentences to batches: ids, the bilingual dataset with dynamic padding, and random batches.

Each sentence is tokenised once, into flat integer arrays with offsets: of the training part, no Python object a token
or a sentence stays behind. A batch is cut out of them in a third of a millisecond, which leaves a DataLoader and its
processes nothing to do.
"""

import hashlib
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from config import Config, UserError
from corpus import Corpus, load_corpus, split_corpus
from tokenizer import EOS, PAD, SOS, train_bpe_tokenizer, train_word_tokenizer

RESIDENT = 2**32  # bytes of ids, about 500 M tokens a side, that a GPU has room for
MADE_AT_ONCE = 16  # batches that a GPU puts together with the orders of one


# --- Ids ----------------------------------------------------------------------------------------------------


def train_tokenizers(train: Corpus, config: Config) -> tuple[Tokenizer, Tokenizer]:
    """Source and target tokenizer, trained on the training part only; with bpe they are one."""
    limits = (config.vocab_size, config.min_frequency)
    if config.tokenizer == "bpe":
        joint = train_bpe_tokenizer(chain.from_iterable(train.chunks()), *limits)
        return joint, joint
    return (
        train_word_tokenizer((source for source, _ in train.chunks()), *limits),
        train_word_tokenizer((target for _, target in train.chunks()), *limits),
    )


@dataclass
class FlatIds:
    """Token ids of many sentences, each with SOS and EOS: sentence i is ids[offsets[i]:offsets[i + 1]]."""

    ids: torch.Tensor  # int32
    offsets: torch.Tensor  # int64, one more than there are sentences

    @classmethod
    def from_lengths(cls, ids: np.ndarray, lengths: np.ndarray) -> "FlatIds":
        return cls(torch.from_numpy(ids), torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])))

    @classmethod
    def from_rows(cls, rows: list[list[int]]) -> "FlatIds":
        """Of ids without marks, a list a sentence."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows)) + 2
        ids = np.empty(int(lengths.sum()), dtype=np.int32)
        ends = np.cumsum(lengths)
        inner = np.ones(len(ids), dtype=bool)
        inner[ends - 1] = inner[ends - lengths] = False
        ids[ends - lengths], ids[ends - 1] = SOS, EOS
        ids[inner] = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(inner.sum()))
        return cls.from_lengths(ids, lengths)

    @property
    def lengths(self) -> np.ndarray:
        return self.offsets.diff().numpy()

    def to(self, device: torch.device) -> "FlatIds":
        return FlatIds(self.ids.to(device), self.offsets.to(device))

    def __getitem__(self, i: int) -> np.ndarray:
        return self.ids[self.offsets[i] : self.offsets[i + 1]].numpy()

    def rows(self, indices: torch.Tensor, width: int) -> torch.Tensor:
        """The sentences `indices` as (len(indices), width) of int64, filled up with PAD, without waiting for a GPU."""
        where = self.offsets[indices][:, None] + torch.arange(width, device=self.ids.device)
        inside = where < self.offsets[indices + 1][:, None]
        return self.ids[where.clamp_(max=len(self.ids) - 1)].long().masked_fill_(~inside, PAD)


def encode(texts: list[str], tokenizer: Tokenizer) -> FlatIds:
    """Ids of all sentences, in their order."""
    return FlatIds.from_rows([encoding.ids for encoding in tokenizer.encode_batch_fast(texts)])


def encode_corpus(
    corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer], seq_len: int, keep_texts=False
) -> "BilingualDataset":
    """Tokenises every pair once; pairs without a token on one side or longer than seq_len are counted, not kept."""
    sides = ([], []), ([], [])  # source and target: chunks of ids, chunks of lengths
    kept_texts = []
    for texts in corpus.chunks():
        encoded = [encode(side, tokenizer) for side, tokenizer in zip(texts, tokenizers, strict=True)]
        source_lengths, target_lengths = (side.lengths for side in encoded)
        empty = (source_lengths <= 2) | (target_lengths <= 2)
        too_long = ~empty & ((source_lengths > seq_len) | (target_lengths > seq_len))
        corpus.report.empty += int(empty.sum())
        corpus.report.too_long += int(too_long.sum())
        keep = ~(empty | too_long)
        if keep_texts:
            kept_texts += [(texts[0][i], texts[1][i]) for i in np.flatnonzero(keep)]
        for side, (all_ids, all_lengths) in zip(encoded, sides, strict=True):
            all_ids.append(side.ids.numpy()[np.repeat(keep, side.lengths)])
            all_lengths.append(side.lengths[keep])
    if corpus.report.kept == 0:
        raise UserError(
            f"Nothing is left of the corpus's {corpus.report.part} part ({corpus.report}). Raise --seq-len, or give "
            "--dataset shorter sentences."
        )
    source, target = (FlatIds.from_lengths(np.concatenate(ids), np.concatenate(lengths)) for ids, lengths in sides)
    return BilingualDataset(source, target, kept_texts)


# --- Batches ------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """B sentence pairs as tensors, and the N target positions of them that hold a word.

    Of a target SOS il gatto EOS the decoder reads SOS il gatto and is to predict il gatto EOS: each word from those
    before it, as the reference has them (teacher forcing).
    """

    source: torch.Tensor  # (B, S) ids
    target: torch.Tensor  # (B, T) ids the decoder reads: SOS and the words
    labels: torch.Tensor  # (N,) ids it is to predict: the words and EOS
    positions: torch.Tensor  # (N,) where in the flattened (B, T) they are predicted

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(to_device(t, device) for t in (self.source, self.target, self.labels, self.positions)))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Pinned memory lets the copy run beside the GPU's work instead of waiting for it.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class BilingualDataset(Dataset):
    """Sentence pairs as ids. Batches are as long as their longest sentence: nothing is ever cut off.

    texts: the pairs as text, where they are wanted, as references for translations.
    """

    def __init__(self, source: FlatIds, target: FlatIds, texts: list[tuple[str, str]] | None = None):
        self.source, self.target, self.texts = source, target, texts
        self.source_lengths, self.target_lengths = source.lengths, target.lengths

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source[i], self.target[i]

    def to(self, device: torch.device) -> "BilingualDataset":
        """The same pairs with their ids on the device, where batches are then put together.

        More than RESIDENT bytes of ids stay where they are, and each batch travels.
        """
        size = sum(t.nbytes for side in (self.source, self.target) for t in (side.ids, side.offsets))
        if size > RESIDENT:
            return self
        there = copy(self)  # lengths stay on the host, which plans by them
        there.source, there.target = self.source.to(device), self.target.to(device)
        return there

    def batch(self, indices: np.ndarray, rows: int | None = None, width: int | None = None) -> Batch:
        """The pairs `indices` side by side, on the device of the ids.

        Sentences are padded to the longest of their side, or to `width` tokens. Where there are fewer pairs than
        `rows`, the first ones fill up; the labels are those of the pairs asked for alone.
        """
        return self.batches([indices], [(rows or len(indices), width)])[0]

    def batches(self, groups: list[np.ndarray], shapes: list[tuple[int, int | None]]) -> list[Batch]:
        """A batch of each group's pairs, of so many rows and the width, as `batch` makes one; but with as few orders to
        the device as one takes, all being laid out in rows of one width first.
        """
        heights = [rows for rows, _ in shapes]
        widths = [
            [width or int(lengths[group].max()) for lengths in (self.source_lengths, self.target_lengths)]
            for group, (_, width) in zip(groups, shapes, strict=True)
        ]
        source_width, target_width = (max(side) for side in zip(*widths, strict=True))
        indices, cells, positions, top = [], [], [], 0
        for group, height, (_, columns) in zip(groups, heights, widths, strict=True):
            words = self.target_lengths[group] - 1  # the host knows how many labels there are without asking the GPU
            row = np.repeat(np.arange(len(group)), words)
            column = np.arange(len(row)) - np.repeat(np.cumsum(words) - words, words)
            indices.append(np.resize(group, height))
            cells.append((top + row) * target_width + column + 1)
            positions.append(row * (columns - 1) + column)
            top += height
        counts = [len(where) for where in positions]
        indices, cells, positions = (
            to_device(torch.from_numpy(np.concatenate(a)), self.source.ids.device) for a in (indices, cells, positions)
        )
        source, target = self.source.rows(indices, source_width), self.target.rows(indices, target_width)
        labels = target.flatten().index_select(0, cells)
        parts = source.split(heights), target.split(heights), labels.split(counts), positions.split(counts)
        return [
            Batch(s[:, :width], t[:, : columns - 1], *rest)
            for (width, columns), s, t, *rest in zip(widths, *parts, strict=True)
        ]

    def digest(self) -> str:
        """A fingerprint of all ids and texts: corpora that differ in a word of the vocabulary differ in it."""
        h = hashlib.blake2b(digest_size=16)
        for part in (self.source.ids, self.source.offsets, self.target.ids, self.target.offsets):
            h.update(part.contiguous().numpy().data)
        for text in chain.from_iterable(self.texts or ()):  # words that the vocabulary lacks are told apart here alone
            h.update(text.encode() + b"\0")
        return h.hexdigest()


@dataclass
class Plan:
    """An epoch's batches: batch k holds the sentence pairs order[starts[k]:starts[k + 1]].

    shapes: rows and tokens that each batch is filled up to, where they are fixed beforehand: (batches, 2).
    """

    order: np.ndarray
    starts: np.ndarray  # one more than there are batches
    shapes: np.ndarray | None = None

    @classmethod
    def of(cls, batches: list[np.ndarray], shapes: np.ndarray | None = None) -> "Plan":
        return cls(np.concatenate(batches), np.cumsum([0] + [len(b) for b in batches]), shapes)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        return self.order[self.starts[k] : self.starts[k + 1]]

    def first(self, count: int) -> "Plan":
        """The first `count` batches."""
        shapes = None if self.shapes is None else self.shapes[:count]
        return Plan(self.order[: self.starts[count]], self.starts[: count + 1], shapes)

    def one_of_each_shape(self) -> list[int]:
        """A batch of each shape, where they are fixed beforehand; else none."""
        return [] if self.shapes is None else np.unique(self.shapes, axis=0, return_index=True)[1].tolist()

    def batch(self, k: int, dataset: BilingualDataset) -> Batch:
        """Batch k, made of the dataset's pairs."""
        return self._made(range(k, k + 1), dataset)[0]

    def batches(self, dataset: BilingualDataset, start: int = 0) -> Iterator[Batch]:
        """The batches from `start` on, made of the dataset's pairs: on a GPU several at once, since the CPU is hardly
        faster with its orders for an update than the GPU with the update.
        """
        at_once = 1 if dataset.source.ids.device.type == "cpu" else MADE_AT_ONCE
        for first in range(start, len(self), at_once):
            yield from self._made(range(first, min(first + at_once, len(self))), dataset)

    def _made(self, numbers: range, dataset: BilingualDataset) -> list[Batch]:
        groups = [self[k] for k in numbers]
        if self.shapes is None:
            return dataset.batches(groups, [(len(group), None) for group in groups])
        return dataset.batches(groups, self.shapes[numbers.start : numbers.stop].tolist())

    def longest(self, lengths: np.ndarray) -> np.ndarray:
        """The longest of `lengths` in each batch."""
        return np.maximum.reduceat(lengths[self.order], self.starts[:-1])

    def padding(self, dataset: BilingualDataset) -> float:
        """Share of the batches' cells, source and target together, that hold no word."""
        sides = dataset.source_lengths, dataset.target_lengths
        words = int(sum(lengths[self.order].sum() for lengths in sides))
        if self.shapes is not None:
            return 1 - words / int(2 * self.shapes.prod(1).sum())
        cells = sum(int((np.diff(self.starts) * self.longest(lengths)).sum()) for lengths in sides)
        return 1 - words / cells


@dataclass
class RandomBatches:
    """Plans of `batch_size` random pairs: with dynamic padding, or with fixed padding to `width` tokens."""

    dataset: BilingualDataset
    batch_size: int
    seed: int = 0
    width: int | None = None

    def plan(self, epoch: int) -> Plan:
        """The batches of an epoch, every pair once: a pure function of (seed, epoch)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))
        starts = np.append(np.arange(0, len(order), self.batch_size), len(order))
        shapes = None if self.width is None else np.tile([self.batch_size, self.width], (len(starts) - 1, 1))
        return Plan(order, starts, shapes)


# --- All of it ----------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What a run trains and validates on."""

    train: BilingualDataset
    validation: BilingualDataset
    tokenizers: tuple[Tokenizer, Tokenizer]  # source, target
    drawn: bool  # whether the validation part was drawn from the training split
    fingerprints: tuple[np.ndarray, np.ndarray]  # of the source sentences of the two parts, those too long among them
    reports: list[str] = field(default_factory=list)  # what was done to the corpus, a line each

    @cached_property
    def digests(self) -> dict[str, str]:
        """A fingerprint of each part as a whole."""
        return {"training": self.train.digest(), "validation": self.validation.digest()}

    @property
    def vocabulary_sizes(self) -> tuple[int, int]:
        return self.tokenizers[0].get_vocab_size(), self.tokenizers[1].get_vocab_size()


def prepare(config: Config, tokenizers: tuple[Tokenizer, Tokenizer] | None = None) -> Data:
    """Loads, cleans, splits and tokenises the corpus that the settings name.

    tokenizers: those of a run that goes on; new ones are trained on the training part otherwise.
    """
    train, validation = split_corpus(load_corpus(config), config)
    tokenizers = tokenizers or train_tokenizers(train, config)
    parts = (
        encode_corpus(train, tokenizers, config.seq_len),
        encode_corpus(validation, tokenizers, config.seq_len, keep_texts=True),
    )
    fingerprints = train.fingerprints[train.usable], validation.fingerprints[validation.usable]
    shared = int(np.isin(*fingerprints[::-1]).sum())
    lines = [str(train.report), str(validation.report)]
    if shared:
        lines.append(f"note: {shared:,} validation sentences stand in the training part too, by the corpus's own split")
    return Data(*parts, tokenizers, validation.split is train.split, fingerprints, lines)
