"""A run's folder: checkpoints that survive a crash, the record of what was done, and its picture."""

import contextlib
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from config import Config, UserError, check
from dataset import Data
from machine import cannot_compile, lacks_memory
from tokenizer import load_tokenizer

# Pictures go to files. A notebook names a backend for its own, which this environment may lack.
os.environ["MPLBACKEND"] = "agg"

# Settings without which a run's weights and vocabularies mean nothing.
OF_THE_WEIGHTS = (
    "source_language", "target_language", "tokenizer", "d_model", "layers", "heads", "d_ff", "norm", "tied_embeddings",
)  # fmt: skip
FORMAT = "translation transformer, checkpoint format 3"
CONTENTS = {  # of a checkpoint, as train.Trainer.state makes them
    "format", "config", "precision", "device", "corpus", "tokenizers", "model", "optimizer", "schedule", "scaler",
    "position", "sources", "sums", "loss_sums", "mean_weights", "record", "random", "random_device",
}  # fmt: skip
MOST_KNOWN = 0.25  # share of held-out sentences that chance may have put among those of another corpus
PACKAGES = ("datasets", "tokenizers", "lion-pytorch", "torchmetrics", "sacrebleu", "rapidfuzz", "numpy", "tqdm")
SCORES = {  # how they are printed
    "bleu": "BLEU {:.1f}", "chrf": "chrF {:.1f}", "cer": "CER {:.2f}", "wer": "WER {:.2f}", "exact": "exact {:.1%}",
}  # fmt: skip


def refuse_existing(run: Path) -> None:
    """Raises UserError where there is such a folder already, since a run is never overwritten or mixed with another, or
    where none can be made.
    """
    with held(run):  # or it says that another process trains it
        pass
    if (run / "last.pt").exists():
        raise UserError(f"{run} is there already. Go on with it by --resume {run}, or choose another --name.")
    if run.exists():
        raise UserError(f"{run} is there already, without a checkpoint. Delete it, or choose another --name.")
    there = next(folder for folder in run.parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{run} cannot be made, because {there} is no folder to write to. Choose another --runs-dir.")


def create(run: Path, config: Config, facts: dict) -> None:
    """Makes the folder of a new run, with its config.json: settings, versions, machine and commit, so that the run
    explains itself a year later. Raises UserError where it cannot be made.
    """
    refuse_existing(run)
    description = {"settings": asdict(config), **facts, **environment()}
    try:
        run.mkdir(parents=True)
        try:
            _write_description(run, description)
        except OSError:
            shutil.rmtree(run, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"The folder {run} cannot be made: {error.strerror}. Choose another --runs-dir.") from error


@contextlib.contextmanager
def held(run: Path):
    """Keeps other processes of this machine from training the run in this folder, as far as the system has locks.

    Raises UserError where one does so already. The lock ends with the process, however that ends.
    """
    with contextlib.ExitStack() as until_the_end:
        try:
            import fcntl  # which Windows lacks

            folder = os.open(run, os.O_RDONLY)
            until_the_end.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            until_the_end.callback(fcntl.flock, folder, fcntl.LOCK_UN)
        except BlockingIOError as error:
            raise UserError(
                f"The run {run} is being trained by another process. Wait until it ends, or stop it: Ctrl-C and "
                "SIGTERM have it save."
            ) from error
        except (ImportError, OSError):  # no locks here, or no such folder, which the reader of its checkpoint tells of
            pass
        yield


@contextlib.contextmanager
def removed_where_it_cannot_begin(run: Path):
    """Takes the folder of a new run away again where memory is full or nothing can be compiled before the first
    checkpoint, so that another run may have its name.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (lacks_memory(error) or cannot_compile(error)) and not any(run.glob("*.pt")):
            shutil.rmtree(run, ignore_errors=True)
        raise


# --- Checkpoints --------------------------------------------------------------------------------------------


def checkpoint_path(run: Path, name: str) -> Path:
    """Path of checkpoint `name` in a run folder. Raises UserError where there is none."""
    path = run / f"{name}.pt"
    if not run.is_dir():
        raise UserError(f"There is no run folder {run}. See `ls runs` for those there are.")
    if not path.exists():
        there = ", ".join(sorted(other.name for other in run.glob("*.pt")))
        if not there:
            raise UserError(
                f"The run {run} has no checkpoint yet. Wait for its first one, or, since reference runs are kept "
                "without, train a run by the command in its config.json."
            )
        hint = " average.pt is made where a run was given --average." if name == "average" else ""
        raise UserError(f"The run {run} has no checkpoint {path.name}; it has: {there}.{hint}")
    return path


def save_checkpoint(path: Path, state: dict) -> None:
    """Writes a checkpoint so that at any moment either the old or the new one stands whole under `path`.

    Raises UserError where it cannot be written; the previous one then still stands.
    """
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        part.unlink(missing_ok=True)
        cause, run = str(error).splitlines()[0], path.parent
        if any(run.glob("*.pt")):
            remedy = (
                f"What was saved before stands; make room on the disk and go on with `python train.py --resume {run}`."
            )
        else:
            remedy = f"There is none before it; make room on the disk, delete {run} and begin the run again."
        raise UserError(f"The checkpoint {path} could not be written ({cause}). {remedy}") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened to flush it
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives refuse; the file itself is flushed
            os.fsync(handle)
    finally:
        os.close(handle)


def keep_as(path: Path, other: Path) -> None:
    """Makes `other` the same checkpoint as `path`, without writing it again where the file system has links."""
    part = other.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)  # keeps this version: save_checkpoint replaces `path` and never writes into it
        except OSError:  # some file systems have no links
            shutil.copyfile(path, part)
        os.replace(part, other)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"The checkpoint {other} could not be written ({error}). {path} stands; make room on the disk and go on "
            f"with `python train.py --resume {path.parent}`."
        ) from error


def load_checkpoint(path: Path) -> dict:
    """Reads a checkpoint, with its "config" as a Config and its "tokenizers" as Tokenizers.

    No code from the file is run. Raises UserError where it is damaged or none of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # PyTorch writes checksums and does not look at them
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"The checkpoint {path} may not be read ({error.strerror}). Ask its owner.") from error
    except Exception as error:  # a damaged archive fails in many ways, all of them meaning the same to the user
        if lacks_memory(error):
            raise
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is damaged or something else. "
            "Copy it again from where it came, or put the run's other checkpoint in its place."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a checkpoint of this version of the package; it lacks the mark {FORMAT!r}. Use the version "
            "that its run's config.json names, or train anew."
        )
    try:
        config = Config(**state["config"])
        check(config)
        source, target = (load_tokenizer(text) for text in state["tokenizers"])
        if missing := CONTENTS - state.keys():
            raise KeyError(", ".join(sorted(missing)))
    except Exception as error:  # the tokenizers library raises nothing more special
        raise UserError(
            f"{path} is damaged or of another version of this package ({type(error).__name__}: {error}). Use the "
            "version that its run's config.json names, or train anew."
        ) from error
    return {**state, "config": config, "tokenizers": (source, target)}


def load_first(config: Config) -> dict | None:
    """The best checkpoint of the run that `begin_with` names, or None. Raises UserError where its model is another."""
    if not config.begin_with:
        return None
    state = load_checkpoint(checkpoint_path(Path(config.begin_with), "best"))
    for name in OF_THE_WEIGHTS:
        ours, theirs = getattr(config, name), getattr(state["config"], name)
        if ours != theirs:
            raise UserError(
                f"{name} is {ours!r}, but {theirs!r} in the run {config.begin_with}, which this one is to begin with. "
                f"Set it to {theirs!r}, or begin with another run."
            )
    return state


def refuse_known_sentences(config: Config, first: dict, data: Data) -> None:
    """Raises UserError where much of what is held out now was learnt by the run to begin with, whose checkpoint is
    `first`. A corpus's own validation split is taken as it is.
    """
    known = np.isin(data.fingerprints[1], first["sources"].numpy()).mean() if data.drawn else 0.0
    theirs = first["config"]
    if known > MOST_KNOWN:
        raise UserError(
            f"{config.begin_with} has learnt {known:.0%} of the sentences that are held out of {config.dataset!r} now. "
            f"Give --seed {theirs.seed} --held-out {theirs.held_out:g}, as that run had, if the corpus is still the "
            "same, or else give it a validation split of sentences that are new."
        )
    if known:
        print(f"note: {config.begin_with} has learnt {known:.0%} of the sentences that are held out now")


def load_weights(model: torch.nn.Module, state: dict, source) -> None:
    """Loads a state dict into a model. Raises UserError where the two do not fit together or a weight is no number."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"The weights of {source} do not fit the model its settings describe "
            f"({str(error).splitlines()[-1].strip()}). The file was put together from two runs; take the original."
        ) from error
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise UserError(f"Weights of {source} are not finite. Take the run's other checkpoint, or train anew.")


# --- The record ---------------------------------------------------------------------------------------------


def note_resume(run: Path, config: Config, update: int) -> None:
    """Adds to config.json where, when in the run and with which versions it goes on."""
    description = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # lost or damaged, which is no reason not to go on
        description |= json.loads((run / "config.json").read_text(encoding="utf-8"))
    description["settings"] = asdict(config)  # what the run goes on with, whatever the file may say
    before = description.get("resumed")
    description["resumed"] = [*(before if isinstance(before, list) else []), {"after_update": update, **environment()}]
    _write_description(run, description)


def _write_description(run: Path, description: dict) -> None:
    rewrite(run / "config.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def rewrite(path: Path, text: str) -> None:
    """Writes a file anew so that a full disk leaves the old one."""
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def environment() -> dict:
    """Command, commit, versions and machine: what a figure depends on besides the settings."""
    return {
        "command": shlex.join(["python", _script(), *sys.argv[1:]]),
        "commit": _commit(),
        # PyTorch's own word names its CUDA too, which the version of its package may leave out.
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{p: _version(p) for p in PACKAGES},
        },
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,  # where it has been used
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def _script() -> str:
    path, here = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parent
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _processor() -> str:
    """The CPU's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


class Record:
    """What a run leaves to read: metrics.jsonl (a line an epoch), steps.jsonl and scalars for TensorBoard."""

    def __init__(self, run: Path):
        self.run = run
        self.epochs: list[dict] = []
        self.steps: list[dict] = []
        self.averaged: dict | None = None  # the validation of the last epochs' mean weights
        self._board = None  # TensorBoard's writer, made with the first row

    def restore(self, epochs: list[dict], steps: list[dict]) -> None:
        """Takes the record back to what a checkpoint holds; lines written after it go."""
        self.epochs, self.steps = epochs, steps
        _write_lines(self.run / "metrics.jsonl", epochs)
        _write_lines(self.run / "steps.jsonl", steps)

    def step(self, row: dict) -> None:
        self.steps.append(row)
        _append(self.run / "steps.jsonl", json.dumps(row) + "\n")
        self._scalars("step", row)

    def epoch(self, row: dict) -> None:
        self.epochs.append(row)
        _append(self.run / "metrics.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
        self._scalars("epoch", row)

    def scored(self, row: dict, validation: dict) -> None:
        """Puts the scores of a later validation into the row of an epoch that had none."""
        row |= {name: value for name, value in validation.items() if not name.startswith("valid_")}
        row["valid_seconds"] += validation["valid_seconds"]
        _write_lines(self.run / "metrics.jsonl", self.epochs)

    def average(self, row: dict) -> None:
        """Keeps the validation of the averaged weights, in average.json."""
        self.averaged = row
        (self.run / "average.json").write_text(json.dumps(row, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    def lowest_nll(self) -> float:
        """The lowest held-out loss of all epochs, plain; infinite before the first."""
        return min((row["valid_nll"] for row in self.epochs), default=math.inf)

    def _scalars(self, group: str, row: dict) -> None:
        if self._board is None:
            # It takes a second to import, which translating need not pay.
            from torch.utils.tensorboard import SummaryWriter

            # purge_step hides what an interrupted run wrote after the checkpoint it goes on from.
            self._board = SummaryWriter(self.run, purge_step=row["update"])
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("epoch", "update"):
                self._board.add_scalar(f"{group}/{name}", value, row["update"])
        self._board.flush()


def _write_lines(path: Path, rows: list[dict]) -> None:
    rewrite(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _append(path: Path, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def scores_text(row: dict, *names: str) -> str:
    """The scores of an epoch, each after a comma; of an epoch without translations (--score-every) none."""
    return "".join(", " + SCORES[name].format(row[name]) for name in names if name in row)


def show_epoch(row: dict, epochs: int) -> None:
    """Prints an epoch's row of metrics.jsonl and its sample translations."""
    tqdm.write(
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f} (plain {row['train_nll']:.3f}), "
        f"held out {row['valid_loss']:.3f} (plain {row['valid_nll']:.3f}, perplexity {row['valid_perplexity']:.1f})"
        f"{scores_text(row, *SCORES)}, {clock(row['seconds'])} + {clock(row['valid_seconds'])} validation, "
        f"{row['tokens_per_second']:,.0f} tokens/s"
        + (f", {row['skipped']} updates skipped" if row["skipped"] else "")
        + (", target met" if row["target_met"] else "")
    )
    for sample in row.get("samples", ()):
        tqdm.write(f"    {sample['source']!r}\n    → {sample['translation']!r}\n    = {sample['reference']!r}")


def summarise(run: Path, config: Config, record: Record) -> None:
    """Prints what came of a finished run."""
    last, average = record.epochs[-1], record.averaged
    best = min([*record.epochs, *([average] if average else [])], key=lambda row: row["valid_nll"])
    met = next((f"met in epoch {row['epoch']}" for row in record.epochs if row["target_met"]), "not met")
    seconds, validation = (sum(row[name] for row in record.epochs) for name in ("seconds", "valid_seconds"))
    lines = [
        f"\n{run}: {last['epoch']} epochs in {clock(seconds)}, and {clock(validation)} of validation",
        f"  training loss {last['train_loss']:.3f}, target {config.target_loss} {met}; "
        f"label smoothing allows no less than {last['label_smoothing_floor']:.3f}",
    ]
    checkpoints = {"best": best, "last": last, **({"average": average} if average else {})}
    checkpoints = {name: row for name, row in checkpoints.items() if (run / f"{name}.pt").exists()}  # some may be lost
    for name, row in checkpoints.items():
        when = f"epoch {row['epoch']}" if "epoch" in row else f"mean of the last {row['average_of']} epochs"
        lines.append(
            f"  {name}.pt, {when}: held-out loss {row['valid_loss']:.3f} (plain {row['valid_nll']:.3f})"
            f"{scores_text(row, 'bleu', 'chrf', 'exact')}"
        )
    # The lowest held-out loss need not translate best: a model that has its sentences by heart may well be ahead.
    scored = {name: row["bleu"] for name, row in checkpoints.items() if "bleu" in row}
    choice = max(scored, key=scored.get, default="last")
    flag = "" if choice == "best" else f" --checkpoint {choice}"
    tqdm.write("\n".join([*lines, f'  translate with: python translate.py {run}{flag} "…"']))


def draw_curves(run: Path, config: Config, record: Record) -> Path | None:
    """Draws loss, learning rate and throughput into run/curves.png; None where matplotlib is not installed."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return None
    epochs, steps = record.epochs, record.steps
    figure, (loss, rate, speed) = plt.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    x = [row["epoch"] for row in epochs]
    loss.plot(x, [row["train_loss"] for row in epochs], "o-", label="training, smoothed")
    loss.plot(x, [row["train_nll"] for row in epochs], "o-", label="training, plain")
    loss.plot(x, [row["valid_nll"] for row in epochs], "s--", label="held out, plain")
    floor = epochs[-1]["label_smoothing_floor"]
    loss.axhline(config.target_loss, color="green", linewidth=1, label=f"target {config.target_loss}")
    loss.axhline(floor, color="grey", linewidth=1, linestyle=":", label=f"floor of the smoothed loss, {floor:.2f}")
    loss.xaxis.get_major_locator().set_params(integer=True)
    loss.set(xlabel="epoch", ylabel="nats a target token", title="loss, mean of the epoch", ylim=(0, None))
    loss.legend(fontsize=8)
    updates = [row["update"] for row in steps]
    rate.plot(updates, [row["lr"] for row in steps])
    rate.set(xlabel="update", title="learning rate")
    speed.plot(updates, [row["tokens_per_second"] for row in steps], linewidth=0.8)
    speed.set(xlabel="update", title="real target tokens a second", ylim=(0, None))
    figure.suptitle(run.name)
    path = run / "curves.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path
