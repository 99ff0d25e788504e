"""Every setting of a training run: its name, default and reason, one line each.

`python train.py --help` and the command line are made from this file, so that editing a value here, a default or what a
preset has in its place, and passing the flag of the same name do the same thing.
"""

import argparse
import contextlib
import dataclasses
import difflib
import math
import os
import re
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
SAMPLE = "data/sample"  # beside this file, wherever a command is typed; a record wants no machine's path
MOST_THREADS = 1024  # with many more the threading library ends the process


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, the limit and the remedy."""


def setting(default, help, choices=None):
    return field(default=default, metadata={"help": help, "choices": choices})


# fmt: off
@dataclass(frozen=True)
class Config:
    # Data
    dataset: str = setting("Helsinki-NLP/opus_books", "a Hub id, a folder in the Hub's layout, or one .parquet, .jsonl, .csv or .tsv file")
    source_language: str = setting("en", "code of the language to translate from; a column of the dataset")
    target_language: str = setting("it", "code of the language to translate into; either direction of a pair works")
    held_out: float = setting(0.1, "share of the pairs kept for validation where the corpus has no validation split of its own; all of it is translated after each epoch, or every --score-every epochs, so that 0.001 does for millions")
    seq_len: int = setting(350, "longest sentence in tokens, start and end marks counted; longer pairs are left out")
    tokenizer: str = setting("word", "word: one id a word, as in the original experiment; bpe: joint subwords, no unknown words", ("word", "bpe"))
    vocab_size: int = setting(30_000, "largest vocabulary of a tokenizer; 8,000 to 10,000 suits bpe on 30k pairs")
    min_frequency: int = setting(2, "a word or merge seen less often in the training part does not enter the vocabulary")

    # Batches
    batching: str = setting("uniform", "uniform: like lengths together; dynamic: random, padded to the batch's longest; fixed: all padded to seq_len", ("uniform", "dynamic", "fixed"))
    batch_size: int = setting(32, "sentences in a batch (on average, where batches are cut by tokens); halve it if memory runs out")
    batch_by: str = setting("tokens", "uniform only. tokens: as many padded tokens in every batch; sentences: as many sentences", ("tokens", "sentences"))
    pool_size: int = setting(16_384, "uniform without --shapes only: sentences sorted together; a smaller pool mixes more and pads more")
    shapes: int = setting(0, "uniform only. 0: each batch as long as its longest sentence, or 16 shapes with --graphs; above: so many shapes for all batches")
    accumulate: int = setting(1, "batches whose gradients are summed for one update; those of uniform batches are one of each stratum of length, so that 4 with a quarter of the batch_size learn much like random ones")

    # Model
    d_model: int = setting(512, "width of the embeddings and of every layer's output")
    layers: int = setting(6, "number of encoder layers, and of decoder layers")
    heads: int = setting(8, "attention heads; must divide d_model")
    d_ff: int = setting(2048, "width inside the feed-forward sublayers; four times d_model is usual")
    dropout: float = setting(0.1, "share of activations dropped after each sublayer and after the embeddings (Vaswani et al. 2017, 5.4)")
    norm: str = setting("pre", "pre: LayerNorm before each sublayer, trains without care; post: after it, as in the paper", ("pre", "post"))
    tied_embeddings: bool = setting(False, "one matrix for target embedding and projection, and for the source embedding too with bpe")
    begin_with: str = setting("", "folder of a run of the same sizes, whose best weights and whose tokenizers are taken instead of new ones")

    # Optimisation
    epochs: int = setting(18, "passes over the training part; the schedule spans all of them")
    optimizer: str = setting("lion", "lion (Chen et al. 2023) or adamw", ("lion", "adamw"))
    max_lr: float = setting(1e-4, "peak learning rate of OneCycleLR; AdamW wants 3 to 10 times more than Lion")
    warmup: float = setting(0.3, "share of the updates in which the learning rate rises to max_lr")
    final_lr: float = setting(4e-6, "share of max_lr that is left at the end; 0.3 keeps the last epochs' weights apart, for --average to meet in their middle")
    beta1: float = setting(0.9, "how much momentum stands in the update's direction")
    beta2: float = setting(0.99, "how long momentum (Lion) or squared gradients (AdamW, which likes 0.98) are remembered")
    weight_decay: float = setting(0.01, "pull of the weights towards zero; Lion wants 3 to 10 times more than AdamW")
    label_smoothing: float = setting(0.1, "probability spread evenly over the vocabulary in the training target")
    clip_norm: float = setting(1.0, "gradients of a larger norm are scaled down to this; 0 leaves them")
    average: int = setting(0, "last epochs whose weights are averaged into the checkpoint average.pt (Vaswani et al. 2017, 6.1); 0: none")
    target_loss: float = setting(1.8, "the epoch's mean training loss to get under; only reported, never acted on")

    # Machine
    device: str = setting("auto", "auto takes CUDA, then Apple's MPS, then the CPU", ("auto", "cuda", "mps", "cpu"))
    precision: str = setting("auto", "auto: on CUDA bf16, or fp16 with GradScaler where the card has no bf16; fp32 on MPS; on a CPU bf16 where it is clearly faster", ("auto", "fp32", "bf16", "fp16"))
    graphs: bool = setting(False, "on CUDA, record the layers' kernels for each shape of batch and replay them, so that the card does not wait for the CPU; seconds at first, and gradients of their own for each shape; not for dynamic batches")
    compile: bool = setting(False, "compile layers and loss, once for all shapes of batch: for CUDA, with --graphs or without; half a minute at first")
    threads: int = setting(0, "CPU threads; 0 leaves the choice to PyTorch")
    seed: int = setting(0, "of split, weights, batches and dropout; on a CPU, with the same precision and threads, a run is repeatable")

    # Record
    runs_dir: str = setting("runs", "folder in which the run's own folder is made")
    name: str = setting("", "name of the run's folder; empty: preset, batching and time of day")
    log_every: int = setting(50, "updates between two readings of the loss; each reading waits for the GPU")
    checkpoint_minutes: float = setting(10.0, "minutes between two checkpoints within an epoch; 0: only at the end of an epoch")
    score_every: int = setting(1, "epochs between two translations of the held-out part, for BLEU and the other scores; its loss is taken after each epoch, its scores after the last and with best.pt in any case")
    samples: int = setting(5, "held-out sentences whose translations are printed and kept after each epoch that has scores")


PRESETS = {
    "base": {},  # the original experiment's model and schedule: 75 M parameters on opus_books
    # base's model on a GPU that would wait for the CPU at 32 sentences an update: four times as many. AdamW, because
    # Lion was not tried on a card; at 8 sentences an update it is ahead (benchmarks/README.md). Writing translations,
    # word after word, takes such a card as long as half an epoch of training or more.
    "fast": {
        "batch_size": 128, "optimizer": "adamw", "max_lr": 7e-4, "beta2": 0.98, "graphs": True, "score_every": 9,
    },
    # AdamW, because Lion's authors advise against it below 64 sentences a batch; fp32, because matrices so small do not
    # repay the conversions that bf16 costs.
    "demo": {
        "dataset": SAMPLE, "held_out": 0.06, "seq_len": 64, "batch_size": 32, "d_model": 128, "layers": 2, "heads": 4,
        "d_ff": 512, "tied_embeddings": True, "epochs": 12, "optimizer": "adamw", "max_lr": 2e-3, "beta2": 0.98,
        "precision": "fp32",
    },
    # Without dropout: a model of an eighth of base's size learns the training part by heart in 12 epochs, which is
    # what the target asks for; `best` is then the checkpoint to translate with. AdamW, because so small a model gets there
    # in fewer epochs with it than with Lion (benchmarks/README.md).
    "small": {
        "tokenizer": "bpe", "vocab_size": 8000, "d_model": 256, "layers": 2, "heads": 4, "d_ff": 1024, "dropout": 0.0,
        "epochs": 12, "optimizer": "adamw", "max_lr": 2e-3, "beta2": 0.98,
    },
    # The size of Wu et al. 2021 ("Good for Misconceived Reasons", the best text-only result on Multi30k): few weights,
    # much dropout and many epochs, which is what 30,000 sentences ask for.
    "quality": {
        "tokenizer": "bpe", "vocab_size": 10_000, "d_model": 128, "layers": 4, "heads": 4, "d_ff": 256, "dropout": 0.3,
        "tied_embeddings": True, "batch_size": 128, "epochs": 50, "optimizer": "adamw", "max_lr": 3e-3, "beta2": 0.98,
        "average": 10,
    },
}
# fmt: on

SECTIONS = {  # of --help, by the setting that each begins with
    "dataset": "data",
    "batching": "batches",
    "d_model": "model",
    "epochs": "optimisation",
    "device": "machine",
    "runs_dir": "record",
}

PRESET_HELP = """\
  base     the original experiment: 75 M parameters on opus_books, 18 epochs; wants a GPU
  fast     base's model with AdamW, 128 sentences a batch and CUDA graphs: 68 s of training on an H100
  demo     the bundled sample: no GPU, no network, minutes
  small    a model that reaches the target on a laptop
  quality  for translations instead of the target: few weights, much dropout, 50 epochs, averaged weights"""


def preset(preset_name: str, /, **changes) -> Config:
    """The settings of a preset, with `changes` on top."""
    return Config(**{**PRESETS[preset_name], **changes})


def is_text(value: str) -> bool:
    """Whether a string has a UTF-8 form: bytes that are not UTF-8 are read as surrogates (surrogateescape)."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def check(config: Config) -> None:
    """Refuses what cannot work, before anything is loaded.

    Raises UserError, in a sentence that carries the offending value, the limit and the remedy.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if not isinstance(value, (int, float) if f.type is float else f.type):
            raise UserError(f"{f.name} is {value!r}, but must be of type {f.type.__name__}.")
        if isinstance(value, str) and ("\0" in value or not is_text(value)):
            raise UserError(
                f"{f.name} is {value!r}, but must be UTF-8 text without null characters; rename what it names."
            )
        if f.metadata["choices"] and value not in f.metadata["choices"]:
            raise UserError(f"{f.name} is {value!r}, but must be one of: {', '.join(f.metadata['choices'])}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{f.name} is {value}, but must be a finite number.")
    _check_numbers(config)
    _check_combinations(config)


def _check_numbers(config: Config) -> None:
    for name in ("batch_size", "pool_size", "accumulate", "d_model", "layers", "heads", "d_ff", "epochs", "log_every",
                 "min_frequency", "score_every"):  # fmt: skip
        _require(config, name, getattr(config, name) >= 1, "at least 1")
    for name in ("dropout", "label_smoothing", "beta1", "beta2"):
        _require(config, name, 0 <= getattr(config, name) < 1, "at least 0 and below 1")
    for name in ("held_out", "warmup"):
        _require(config, name, 0 < getattr(config, name) < 1, "between 0 and 1, both excluded")
    for name in ("weight_decay", "clip_norm", "checkpoint_minutes", "samples", "shapes", "threads", "seed", "average"):
        _require(config, name, getattr(config, name) >= 0, "at least 0")
    for f in dataclasses.fields(config):
        if f.type is int and f.name != "seed":
            _require(config, f.name, getattr(config, f.name) < 2**31, "below 2147483648")
    _require(config, "final_lr", 0 < config.final_lr <= 1, "above 0 and at most 1")
    _require(config, "seed", config.seed < 2**63, "at most 9223372036854775807")
    _require(config, "threads", config.threads <= MOST_THREADS, f"at most {MOST_THREADS}")
    _require(config, "max_lr", config.max_lr > 0, "above 0")
    _require(config, "seq_len", config.seq_len >= 3, "at least 3: a start mark, one word and an end mark")


def _require(config: Config, name: str, holds: bool, limit: str) -> None:
    if not holds:
        raise UserError(f"{name} is {getattr(config, name)}, but must be {limit}.")


def _check_combinations(config: Config) -> None:
    if not config.dataset:
        raise UserError("dataset is '', but must name something; --preset demo brings a sample, else give --dataset.")
    if config.source_language == config.target_language:
        raise UserError(
            f"source_language and target_language are both {config.source_language!r}; "
            "name two different columns, as in --source-language en --target-language it."
        )
    if config.shapes and config.batching != "uniform":
        raise UserError(f"shapes is {config.shapes}, but only uniform batches keep to given shapes; set it to 0.")
    if config.graphs and config.batching == "dynamic":
        raise UserError(
            "graphs is on, but dynamic batches have a new length each, and each would be recorded anew; "
            "take --batching uniform, which keeps to a few shapes, or --no-graphs."
        )
    if config.average > config.epochs:
        raise UserError(
            f"average is {config.average}, but there are only {config.epochs} epochs; take at most as many."
        )
    if config.d_model % config.heads:
        fits = [h for h in range(1, config.d_model + 1) if config.d_model % h == 0]
        near = min(fits, key=lambda h: abs(h - config.heads))
        raise UserError(f"d_model {config.d_model} cannot be divided among {config.heads} heads; try --heads {near}.")
    if config.d_model % 2:
        raise UserError(f"d_model is {config.d_model}, but must be even: each position is a pair of sine and cosine.")
    if config.tokenizer == "bpe" and config.vocab_size < 300:
        raise UserError(
            f"vocab_size is {config.vocab_size}, but bpe starts from 256 bytes and 4 marks; take at least 300."
        )
    _require(config, "vocab_size", config.vocab_size >= 8, "at least 8: four marks and a few words")
    if config.name and not re.fullmatch(r"[\w][\w.+-]{0,99}", config.name):
        raise UserError(
            f"name is {config.name!r}, but is to be a folder inside {config.runs_dir}: "
            "at most 100 letters, digits, '.', '+', '-' and '_', beginning with a letter or digit."
        )


def check_streams() -> None:
    """Raises UserError where standard output is closed. Where standard error is, only the exit code is left to tell of an
    error: what is written there vanishes, where it would else end the run or, by print, go to standard output.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115, it stays open to the end
    if sys.stdout is None:
        raise UserError("Standard output must be open; /dev/null takes what is not wanted.")


def give_up_output() -> None:
    """Has what is left for standard output vanish, after writing there has failed: Python writes it once more at the
    end, and would complain of the same again.
    """
    with contextlib.suppress(OSError):  # a notebook's output is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says which flag a mistyped one was probably meant to be."""

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message = f"there is no setting {unknown[1]}" + (f"; did you mean {near[0]}?" if near else ".")
            message += f" `{self.prog} --help` lists them all."
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line of train.py: one flag a field of Config, besides --preset and --resume."""
    p = Parser(
        prog="python train.py",
        usage="python train.py [--preset NAME] [--setting VALUE ...]   or   python train.py --resume RUN",
        description="Train an encoder-decoder Transformer from scratch to translate.",
        epilog=f"presets:\n{PRESET_HELP}\n\nEvery default and preset can also be edited in config.py.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--preset", choices=PRESETS, help="a set of defaults, see below (default: base)")
    p.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, exactly where it stopped; "
                   "its settings are its own, only --device, --threads and, where the same corpus has moved, --dataset "
                   "may be given along")  # fmt: skip
    group = p
    for f in dataclasses.fields(Config):
        if f.name in SECTIONS:
            group = p.add_argument_group(SECTIONS[f.name])
        help = f"{f.metadata['help']} (default: {f.default if f.default != '' else 'empty'})".replace("%", "%%")
        flag = "--" + f.name.replace("_", "-")
        if f.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help)
        else:
            group.add_argument(flag, type=f.type, choices=f.metadata["choices"], default=argparse.SUPPRESS, help=help,
                           metavar=None if f.metadata["choices"] else f.type.__name__.upper())  # fmt: skip
    return p


def parse(argv: list[str] | None = None) -> tuple[Config | None, str | None, dict]:
    """Reads the command line.

    Returns (config, None, flags) for a new run and (None, run folder, flags) for --resume, where flags holds
    the settings given on the command line. Exits with code 2 on a typo or a wrong type; raises UserError on
    values that cannot work.
    """
    flags = vars(parser().parse_args(argv))
    name, resume = flags.pop("preset"), flags.pop("resume")
    if resume is not None:
        if name:
            raise UserError(f"--preset {name} cannot be given with --resume: a run keeps its settings. Leave it out.")
        return None, resume, flags
    name = name or "base"
    config = preset(name, **flags)
    check(config)
    if not config.name:
        config = dataclasses.replace(config, name=_default_name(name, config))
    return config, None, flags


def _default_name(preset_name: str, config: Config) -> str:
    return f"{preset_name}-{config.batching}-{datetime.now():%Y%m%d-%H%M%S}"
