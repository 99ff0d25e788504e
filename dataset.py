"""From a corpus to batches: sources, cleaning, split, ids, and the bilingual dataset with dynamic padding.

A corpus is read in chunks from memory-mapped Arrow, and each sentence is tokenised once, into flat integer
arrays with offsets: of the training part, no Python object a token or a sentence stays behind.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from config import Config, UserError
from tokenizer import EOS, PAD, SOS, train_bpe_tokenizer, train_word_tokenizer

NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")  # how `datasets` and Arrow put it
CHUNK = 10_000  # sentences handled at a time
RESIDENT = 2**32  # bytes of ids, about 500 M tokens a side, that a GPU has room for
VALIDATION_SPLITS = ("validation", "valid", "dev")
FILE_READERS = {
    ".parquet": ("parquet", {}),
    # Without on_mixed_types=None, one number among the sentences turns all of them into quoted JSON.
    ".jsonl": ("json", {"on_mixed_types": None}),
    ".json": ("json", {"on_mixed_types": None}),
    # Without keep_default_na=False, a sentence such as "NA" or "None" is read as a missing one.
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t", "quoting": csv.QUOTE_NONE}),
}


# --- Sources ------------------------------------------------------------------------------------------------


def load_corpus(config: Config) -> datasets.DatasetDict:
    """Loads the corpus that config.dataset names, all its splits.

    Raises UserError where it is not there, cannot be reached or cannot be read.
    """
    name = config.dataset
    try:
        if Path(name).suffix.lower() in FILE_READERS and not Path(name).is_dir():
            return _load_file(Path(name))
        if not Path(name).exists() and (name.count("/") > 1 or name.startswith((".", "~"))):
            raise UserError(f"There is no file or folder {name!r}. Check --dataset; a Hub id has the form owner/name.")
        kinds = {path.suffix for path in Path(name).rglob("*")} & FILE_READERS.keys()
        options = FILE_READERS[kinds.pop()][1] if len(kinds) == 1 else {}
        return datasets.load_dataset(name, _pair_config(name, config), **options)
    except ConnectionError as error:
        raise UserError(
            f"The Hub could not be reached for the dataset {name!r} ({_last_line(error)}). Check the network, or "
            "train on the bundled sample with --preset demo, or name a local folder or file with --dataset."
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, pa.ArrowInvalid) as error:
        cause = error.__cause__ or error.__context__ or error
        if any(words in str(error) + str(cause) for words in NO_ROWS):
            raise UserError(f"The dataset {name!r} has no rows. Give --dataset one with sentence pairs.") from error
        raise UserError(
            f"The dataset {name!r} could not be read: {_last_line(cause)}. It is to be a Hub id, a folder in the Hub's "
            f"layout, or a UTF-8 file ending in {', '.join(FILE_READERS)}."
        ) from error


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().rstrip(".")


def _load_file(path: Path) -> datasets.DatasetDict:
    if not path.exists():
        raise UserError(f"There is no file {str(path)!r}. Check --dataset.")
    if path.stat().st_size == 0:
        raise UserError(f"The file {str(path)!r} is empty. Give --dataset a file with sentence pairs.")
    reader, options = FILE_READERS[path.suffix.lower()]
    return datasets.load_dataset(reader, data_files={"train": str(path)}, **options)


def _pair_config(name: str, config: Config) -> str | None:
    """Name of the dataset's configuration for the pair: it→en uses `en-it` where there is no `it-en`."""
    source, target = config.source_language, config.target_language
    available = datasets.get_dataset_config_names(name)
    for candidate in (f"{source}-{target}", f"{target}-{source}"):
        if candidate in available:
            return candidate
    if available == ["default"]:
        return None
    raise UserError(
        f"The dataset {name!r} has no pair {source}-{target}; it has: {', '.join(sorted(available)[:40])}. "
        "Choose with --source-language and --target-language."
    )


def pairs(split: datasets.Dataset, source: str, target: str) -> Iterator[tuple[list, list]]:
    """Yields chunks of (source sentences, target sentences); a missing side is None.

    The languages stand in a `translation` column, as on the Hub, or in columns of their own.
    Raises UserError where they do not.
    """
    for table in split.with_format("arrow").iter(batch_size=CHUNK):
        nested = "translation" in table.column_names and pa.types.is_struct(table["translation"].type)
        columns = table["translation"].combine_chunks() if nested else table
        names = [f.name for f in columns.type] if nested else table.column_names
        for language in (source, target):
            if language not in names:
                raise UserError(
                    f"The dataset has no column {language!r}, only: {', '.join(names)}. Name the languages' columns "
                    "with --source-language and --target-language."
                )
        sides = [columns.field(side) if nested else table[side] for side in (source, target)]
        yield sides[0].to_pylist(), sides[1].to_pylist()


# --- Cleaning and split -------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was done to one part of a corpus, in sentence pairs."""

    part: str
    rows: int = 0
    missing: int = 0
    empty: int = 0
    too_long: int = 0
    seq_len: int = 0

    @property
    def kept(self) -> int:
        return self.rows - self.missing - self.empty - self.too_long

    def __str__(self) -> str:
        return (
            f"{self.part}: kept {self.kept:,} of {self.rows:,} pairs; {self.too_long:,} longer than {self.seq_len} "
            f"tokens, {self.empty:,} empty, {self.missing:,} without one side"
        )


def fingerprints(texts: list[str]) -> np.ndarray:
    """A 64-bit digest of each sentence, whatever the white space in it, the same on every machine: int64."""
    plain = (" ".join(text.split()).encode("utf-8", "surrogatepass") for text in texts)
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in plain)
    return np.frombuffer(digests, dtype=np.int64)


def held_out_rows(source_digests: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which rows to hold out, as a boolean array: about `share` of them, chosen by `seed`.

    All rows with the same source sentence go to the same side, so that none is both trained on and tested.
    """
    _, sentence, rows = np.unique(source_digests, return_inverse=True, return_counts=True)
    held = np.zeros(len(rows), dtype=bool)
    left = round(share * len(source_digests))
    for k in np.random.default_rng(seed).permutation(len(rows)):
        if rows[k] <= left:  # a sentence too common for what is left is passed over
            held[k] = True
            left -= rows[k]
        if left == 0:
            break
    return held[sentence]


@dataclass
class Corpus:
    """The usable pairs of one part of a dataset, as text that stays on disk and is read in chunks."""

    split: datasets.Dataset
    languages: tuple[str, str]  # source, target
    usable: np.ndarray  # which rows belong to this part and have text on both sides: bool
    digests: np.ndarray  # fingerprints of all rows' source sentences: int64
    report: Report

    def chunks(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yields chunks of (source sentences, target sentences)."""
        start = 0
        for source, target in _stripped_pairs(self.split, self.languages):
            keep = np.flatnonzero(self.usable[start : start + len(source)])
            start += len(source)
            yield [source[i] for i in keep], [target[i] for i in keep]


def _stripped_pairs(split: datasets.Dataset, languages: tuple[str, str]) -> Iterator[tuple[list, list]]:
    for sides in pairs(split, *languages):
        yield tuple([None if text is None else str(text).strip() for text in side] for side in sides)


def survey(part: str, split: datasets.Dataset, config: Config) -> Corpus:
    """Reads all rows once: which are usable, and their fingerprints."""
    languages = (config.source_language, config.target_language)
    report = Report(part, seq_len=config.seq_len)
    usable, digests = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=np.int64)]
    for source, target in _stripped_pairs(split, languages):
        missing = np.array([s is None or t is None for s, t in zip(source, target, strict=True)])
        empty = np.array([s == "" or t == "" for s, t in zip(source, target, strict=True)]) & ~missing
        report.rows += len(source)
        report.missing += int(missing.sum())
        report.empty += int(empty.sum())
        usable.append(~missing & ~empty)
        digests.append(fingerprints([s or "" for s in source]))
    return Corpus(split, languages, np.concatenate(usable), np.concatenate(digests), report)


def hold_out(corpus: Corpus, part: str, share: float, seed: int) -> tuple[Corpus, Corpus]:
    """Parts a corpus in two: what is left to train on, and about `share` of its rows; see held_out_rows."""
    rows = np.flatnonzero(corpus.usable)
    held = np.zeros(len(corpus.usable), dtype=bool)
    held[rows[held_out_rows(corpus.digests[rows], share, seed)]] = True
    count = int(held.sum())
    return (
        replace(corpus, usable=corpus.usable & ~held, report=replace(corpus.report, rows=corpus.report.rows - count)),
        replace(corpus, usable=held, report=Report(part, rows=count, seq_len=corpus.report.seq_len)),
    )


def split_corpus(corpus: datasets.DatasetDict, config: Config) -> tuple[Corpus, Corpus]:
    """Training and validation part: the corpus's own validation split, or else part of its training split.

    Raises UserError where there is no training split or nothing is left of a part.
    """
    if "train" not in corpus:
        raise UserError(f"The dataset {config.dataset!r} has no split 'train', only: {', '.join(corpus)}.")
    own = next((name for name in VALIDATION_SPLITS if name in corpus), None)
    try:
        train = survey("train", corpus["train"], config)
        validation = survey("validation", corpus[own], config) if own else None
    except UnicodeDecodeError as error:
        raise UserError(f"The dataset {config.dataset!r} is not UTF-8 ({error}). Save it as UTF-8.") from error
    if validation is None:
        train, validation = hold_out(train, "validation", config.held_out, config.seed)
    for part in (train, validation):
        if part.report.kept == 0:
            raise UserError(
                f"Nothing is left of the corpus {config.dataset!r} for its {part.report.part} part ({part.report}). "
                "Give --dataset at least a few dozen pairs with text on both sides."
            )
    return train, validation


def load_part(config: Config, name: str) -> Corpus:
    """One part of the corpus: "train" and "validation" as a run has them, or another split of the corpus's own.

    Raises UserError where there is none of that name or nothing usable in it.
    """
    corpus = load_corpus(config)
    parts = {part.report.part: part for part in split_corpus(corpus, config)} if name in ("train", "validation") else {}
    if name not in parts and name not in corpus:
        names = ", ".join(dict.fromkeys(["train", "validation", *corpus]))
        raise UserError(f"The dataset {config.dataset!r} has no split {name!r}; there are: {names}.")
    part = parts.get(name) or survey(name, corpus[name], config)
    if part.report.kept == 0:
        raise UserError(f"Nothing of the split {name!r} is usable ({part.report}). Choose another.")
    return part


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
    def from_rows(cls, rows: Iterable[list[int]]) -> "FlatIds":
        """Of ids without marks, a list a sentence."""
        marked = [np.array([SOS, *row, EOS], dtype=np.int32) for row in rows]
        return cls.from_lengths(np.concatenate(marked), np.array([len(row) for row in marked]))

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


def encode(texts: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all sentences, each with SOS and EOS, one after the other (int32), and their lengths (int64)."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows)) + 2
    ids = np.empty(int(lengths.sum()), dtype=np.int32)
    ends = np.cumsum(lengths)
    inner = np.ones(len(ids), dtype=bool)
    inner[ends - 1] = inner[ends - lengths] = False
    ids[ends - lengths], ids[ends - 1] = SOS, EOS
    ids[inner] = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(inner.sum()))
    return ids, lengths


def encode_corpus(
    corpus: Corpus, tokenizers: tuple[Tokenizer, Tokenizer], seq_len: int, keep_texts=False
) -> "BilingualDataset":
    """Tokenises every pair once; pairs without a token on one side or longer than seq_len are counted, not kept."""
    sides = ([], []), ([], [])  # source and target: chunks of ids, chunks of lengths
    kept_texts = []
    for texts in corpus.chunks():
        encoded = [encode(side, tokenizer) for side, tokenizer in zip(texts, tokenizers, strict=True)]
        empty = (encoded[0][1] <= 2) | (encoded[1][1] <= 2)
        too_long = ~empty & ((encoded[0][1] > seq_len) | (encoded[1][1] > seq_len))
        corpus.report.empty += int(empty.sum())
        corpus.report.too_long += int(too_long.sum())
        keep = ~(empty | too_long)
        if keep_texts:
            kept_texts += [(texts[0][i], texts[1][i]) for i in np.flatnonzero(keep)]
        for (ids, lengths), (all_ids, all_lengths) in zip(encoded, sides, strict=True):
            all_ids.append(ids[np.repeat(keep, lengths)])
            all_lengths.append(lengths[keep])
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
    """B sentence pairs as tensors, and the N target positions of them that hold a word."""

    source: torch.Tensor  # (B, S) ids
    target: torch.Tensor  # (B, T) ids the decoder reads: SOS and the words
    labels: torch.Tensor  # (N,) ids it is to predict: the words and EOS
    positions: torch.Tensor  # (N,) where in the flattened (B, T) they are predicted

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(to_device(t, device) for t in (self.source, self.target, self.labels, self.positions)))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Pinned memory lets the copy run beside the GPU's work instead of waiting for it.
        return tensor.pin_memory().to(device, non_blocking=True)
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
        columns = width or int(self.target_lengths[indices].max())
        words = self.target_lengths[indices] - 1  # labels of each pair; the host knows how many without asking the GPU
        row_starts = np.arange(len(indices)) * (columns - 1) - (np.cumsum(words) - words)
        positions = np.repeat(row_starts, words) + np.arange(words.sum())
        device = self.source.ids.device
        positions, indices_there = (
            to_device(torch.from_numpy(a), device) for a in (positions, np.resize(indices, rows or len(indices)))
        )
        source = self.source.rows(indices_there, width or int(self.source_lengths[indices].max()))
        target = self.target.rows(indices_there, columns)
        labels = target[:, 1:].flatten().index_select(0, positions)
        return Batch(source, target[:, :-1].contiguous(), labels, positions)

    def digest(self) -> str:
        """A fingerprint of all ids: two corpora that differ in a word differ in it."""
        h = hashlib.blake2b(digest_size=16)
        for part in (self.source.ids, self.source.offsets, self.target.ids, self.target.offsets):
            h.update(part.contiguous().numpy().data)
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

    def batch(self, k: int, dataset: BilingualDataset) -> Batch:
        """Batch k, made of the dataset's pairs."""
        if self.shapes is None:
            return dataset.batch(self[k])
        rows, width = self.shapes[k].tolist()
        return dataset.batch(self[k], rows, width)

    def longest(self, lengths: np.ndarray) -> np.ndarray:
        """The longest of `lengths` in each batch."""
        return np.maximum.reduceat(lengths[self.order], self.starts[:-1])

    def padding(self, dataset: BilingualDataset) -> float:
        """Share of the batches' cells, source and target together, that hold no word."""
        sides = dataset.source_lengths, dataset.target_lengths
        words = int(sum(lengths.sum() for lengths in sides))
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
        rows = np.diff(starts)
        shapes = None if self.width is None else np.stack([rows, np.full_like(rows, self.width)], axis=1)
        return Plan(order, starts, shapes)


# --- All of it ----------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What a run trains and validates on."""

    train: BilingualDataset
    validation: BilingualDataset
    tokenizers: tuple[Tokenizer, Tokenizer]  # source, target
    reports: list[str] = field(default_factory=list)  # what was done to the corpus, a line each

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
    shared = int(np.isin(validation.digests[validation.usable], train.digests[train.usable]).sum())
    lines = [str(train.report), str(validation.report)]
    if shared:
        lines.append(f"note: {shared:,} validation sentences stand in the training part too, by the corpus's own split")
    return Data(*parts, tokenizers, lines)
