"""From the name of a corpus to clean pairs of sentences, in a training and a held-out part.

A corpus is read in chunks from memory-mapped Arrow, so that no part of it has to fit into memory as text.
"""

import contextlib
import csv
import glob
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import yaml
from huggingface_hub.errors import HfHubHTTPError

from config import HERE, SAMPLE, Config, UserError

NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")  # how `datasets` and Arrow put it
CHUNK = 10_000  # sentences handled at a time
# What the Hub's HTTP library raises, of a connection lost on the way, say. Which library that is depends on the version
# of huggingface_hub; the newer ones' errors are no OSErrors.
HTTP_ERROR = HfHubHTTPError.__mro__[1]
# What else reading can end in, a card that is no YAML among it.
UNREADABLE = (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError, pa.ArrowInvalid, yaml.YAMLError)
VALIDATION_SPLITS = ("validation", "valid", "val", "dev")
FILE_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
READER_OPTIONS = {
    # Without on_mixed_types=None, one number among the sentences turns all of them into quoted JSON.
    "json": {"on_mixed_types": None},
    # Without keep_default_na=False, a sentence such as "NA" or "None" is read as a missing one.
    "csv": {"keep_default_na": False},
}
KINDS_OF_BYTES = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
)  # fmt: skip
TABS = {"sep": "\t", "quoting": csv.QUOTE_NONE}  # a quotation mark is no more than that where tabs part the columns


# --- Sources ------------------------------------------------------------------------------------------------


def names_file(name: str) -> bool:
    """Whether a dataset's name is that of a file of pairs."""
    return Path(name).suffix.lower() in FILE_READERS and not Path(name).is_dir()


def load_corpus(config: Config) -> datasets.DatasetDict:
    """Loads the corpus that config.dataset names, all its splits.

    Raises UserError where it is not there, cannot be reached or cannot be read.
    """
    name = str(HERE / SAMPLE) if config.dataset == SAMPLE else config.dataset
    try:
        if config.dataset == SAMPLE and Path(SAMPLE).exists() and not Path(SAMPLE).samefile(name):
            raise UserError(
                f"{SAMPLE!r} stands for the bundled sample, but this folder has one of that name too. Type the command "
                f"elsewhere, or, for that one, --dataset ./{SAMPLE}."
            )
        if names_file(name):
            return _load_file(Path(name))
        if Path(name).is_file():
            raise UserError(f"The file {name!r} cannot be read; --dataset takes files in {', '.join(FILE_READERS)}.")
        if not Path(name).exists() and (name.count("/") > 1 or name.startswith((".", "~"))):
            raise UserError(f"There is no file or folder {name!r}. Check --dataset; a Hub id has the form owner/name.")
        if Path(name).is_dir() and not any(Path(name).iterdir()):
            raise UserError(f"The folder {name!r} is empty. Give --dataset one with files of sentence pairs.")
        where = str(Path(name).resolve()) if Path(name).is_dir() else name  # `datasets` finds no name in "."
        return _load_folder(where, _pair_config(where, config))
    except (ConnectionError, HTTP_ERROR) as error:
        raise UserError(
            f"The Hub could not be reached for the dataset {name!r} ({_last_line(error)}). Check the network, or "
            "train on the bundled sample with --preset demo, or name a local folder or file with --dataset."
        ) from error
    except UNREADABLE as error:
        cause = error.__cause__ or error.__context__ or error
        if any(words in str(error) + str(cause) for words in NO_ROWS):
            raise UserError(f"The dataset {name!r} has no rows. Give --dataset one with sentence pairs.") from error
        if isinstance(cause, PermissionError):
            raise UserError(
                f"The dataset {name!r} could not be read: {_last_line(cause)}. Ask its owner for the right to it or, "
                "where it is the cache of `datasets`, have the environment variable HF_HOME name a folder to write to."
            ) from error
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
    suffix = path.suffix.lower()
    reader = FILE_READERS[suffix]
    if reader == "json" and _begins_with_null(path):
        raise UserError(f"The first row of {str(path)!r} is null, which is no pair of sentences. Take it out.")
    options = _options(reader, tabs=suffix == ".tsv")
    files = {"train": glob.escape(str(path))}
    return datasets.load_dataset(reader, data_files=files, cache_dir=_cache_of([path]), **options)


def _begins_with_null(path: Path) -> bool:
    with open(path, "rb") as file:  # PyArrow's own check of such a row ends the process
        return file.read(1000).lstrip(b"\xef\xbb\xbf[ \t\r\n").startswith(b"null")


def _options(reader: str, tabs: bool) -> dict:
    return READER_OPTIONS.get(reader, {}) | (TABS if tabs else {})


def _load_folder(where: str, name: str | None) -> datasets.DatasetDict:
    """A folder in the Hub's layout, or one on the Hub, whichever kind of files it holds."""
    try:
        builder = datasets.load_dataset_builder(where, name)
    except ValueError:  # without a network, what an earlier download left is found only by the options it had
        for reader, tabs in (("json", False), ("csv", False), ("csv", True)):
            with contextlib.suppress(ValueError):
                return datasets.load_dataset(where, name, **_options(reader, tabs))
        raise
    options = _options(builder.info.builder_name, tabs=getattr(builder.config, "sep", "") == "\t")
    if Path(where).is_dir():
        files = [Path(file) for files in builder.config.data_files.values() for file in files]
        options["cache_dir"] = _cache_of(files)
    return datasets.load_dataset(where, name, **options)


def _cache_of(files: list[Path]) -> str:
    """Where to cache these files as they are now. `datasets` itself minds a file's name and time of change alone, and
    in a folder whose card names the files not even that: it would give back what it read before.
    """
    there = [file.resolve() for file in files if file.exists()]  # a card may name addresses too
    state = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in there]
    version = hashlib.blake2b(repr(state).encode(), digest_size=8).hexdigest()
    return str(Path(datasets.config.HF_DATASETS_CACHE) / version)


def _pair_config(name: str, config: Config) -> str | None:
    """Name of the dataset's configuration for the pair: it→en uses `en-it` where there is no `it-en`; whatever there
    is, where there is no other.
    """
    source, target = config.source_language, config.target_language
    available = datasets.get_dataset_config_names(name)
    for candidate in (f"{source}-{target}", f"{target}-{source}"):
        if candidate in available:
            return candidate
    if len(available) == 1:  # "default" too stands for the only one that an earlier download left, without a network
        return None if available == ["default"] else available[0]
    raise UserError(
        f"The dataset {name!r} has no pair {source}-{target}; it has: {', '.join(sorted(available)[:40])}. "
        "Choose with --source-language and --target-language, or save the part that you mean as a file and name that."
    )


def pairs(split: datasets.Dataset, source: str, target: str) -> Iterator[tuple[list, list]]:
    """Yields chunks of (source sentences, target sentences); a missing side is None.

    The languages stand in a `translation` column, as on the Hub, or in columns of their own.
    Raises UserError where they do not.
    """
    # pandas takes the first field of such rows for an index, and the names of the columns for those of the next ones.
    if split.info.builder_name == "csv" and "__index_level_0__" in split.column_names:
        raise UserError(
            "The dataset's rows have more fields than its first line names, so that it is not clear which are the "
            "sentences. Name all fields there, or put sentences that hold the separator in quotation marks (.csv)."
        )
    for table in split.with_format("arrow").iter(batch_size=CHUNK):
        flat = {source, target} <= set(table.column_names)
        nested = not flat and "translation" in table.column_names and pa.types.is_struct(table["translation"].type)
        columns = table["translation"].combine_chunks() if nested else table
        names = [f.name for f in columns.type] if nested else table.column_names
        for language in (source, target):
            if language not in names:
                raise UserError(
                    f"The dataset has no column {language!r}, only: {', '.join(names)}. Name the languages' columns "
                    "with --source-language and --target-language."
                )
        sides = [columns.field(side) if nested else table[side] for side in (source, target)]
        yield tuple(_text(side, name).to_pylist() for side, name in zip(sides, (source, target), strict=True))


def _text(column: pa.Array | pa.ChunkedArray, language: str) -> pa.Array | pa.ChunkedArray:
    """The column, with bytes read as UTF-8. Raises UserError where it holds lists or objects instead of text."""
    if pa.types.is_nested(column.type):
        raise UserError(f"The dataset's column {language!r} holds {column.type}, but must hold sentences.")
    return column.cast(pa.large_string()) if any(is_bytes(column.type) for is_bytes in KINDS_OF_BYTES) else column


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
    """Which rows to hold out, as a boolean array: about `share` of them, at least one, chosen by `seed`.

    All rows with the same source sentence go to the same side, so that none is both trained on and tested.
    """
    _, sentence, rows = np.unique(source_digests, return_inverse=True, return_counts=True)
    held = np.zeros(len(rows), dtype=bool)
    left = max(1, round(share * len(source_digests)))
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
    fingerprints: np.ndarray  # of all rows' source sentences: int64
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
    """Reads all rows once: which are usable, and their fingerprints. Raises UserError where text is not UTF-8."""
    languages = (config.source_language, config.target_language)
    report = Report(part, seq_len=config.seq_len)
    usable, digests = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=np.int64)]
    try:
        for source, target in _stripped_pairs(split, languages):
            missing = np.array([s is None or t is None for s, t in zip(source, target, strict=True)])
            empty = np.array([s == "" or t == "" for s, t in zip(source, target, strict=True)]) & ~missing
            report.rows += len(source)
            report.missing += int(missing.sum())
            report.empty += int(empty.sum())
            usable.append(~missing & ~empty)
            digests.append(fingerprints([s or "" for s in source]))
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(f"The dataset {config.dataset!r} is not UTF-8 ({error}). Save it as UTF-8.") from error
    return Corpus(split, languages, np.concatenate(usable), np.concatenate(digests), report)


def hold_out(corpus: Corpus, part: str, share: float, seed: int) -> tuple[Corpus, Corpus]:
    """Parts a corpus in two: what is left to train on, and about `share` of its rows; see held_out_rows."""
    rows = np.flatnonzero(corpus.usable)
    held = np.zeros(len(corpus.usable), dtype=bool)
    held[rows[held_out_rows(corpus.fingerprints[rows], share, seed)]] = True
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
    train = survey("train", corpus["train"], config)
    validation = survey("validation", corpus[own], config) if own else None
    if validation is None:
        train, validation = hold_out(train, "validation", config.held_out, config.seed)
    for part in (train, validation):
        if part.report.kept == 0:
            raise UserError(
                f"Nothing is left of the corpus {config.dataset!r} for its {part.report.part} part ({part.report}). "
                "Give --dataset at least a few dozen pairs with text on both sides."
            )
    return train, validation


def other_split(corpus: datasets.DatasetDict, config: Config, name: str) -> Corpus:
    """A split of the corpus's own that a run neither trains nor validates on, its test split for example.

    Raises UserError where there is none of that name or nothing usable in it.
    """
    if name not in corpus:
        names = ", ".join(dict.fromkeys(["train", "validation", *corpus]))
        raise UserError(
            f"The dataset {config.dataset!r} has no split {name!r}; there are: {names}. A file of pairs ends in "
            f"{', '.join(FILE_READERS)}."
        )
    part = survey(name, corpus[name], config)
    if part.report.kept == 0:
        raise UserError(f"Nothing of the split {name!r} is usable ({part.report}). Choose another.")
    return part
