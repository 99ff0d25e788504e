"""Trains a translation Transformer: the whole loop, by hand. `python train.py --help` tells how to use it."""

import contextlib
import math
import signal
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from lion_pytorch.foreach import Lion
from tqdm import tqdm

import run_folder
from config import Config, UserError, check, check_streams, give_up_output, parse
from dataset import Data, Plan, RandomBatches, prepare
from decoding import Writer, translate_ids
from evaluation import mean_losses, score
from machine import (
    DTYPES,
    FIXED_SHAPES,
    cannot_compile,
    choose_precision,
    lacks_memory,
    prepare_machine,
    training_states,
    wide_dtype,
)
from model import build_model, label_smoothing_floor, loss_formula, loss_sums
from smart_batching_dataset import UniformBatches
from tokenizer import PAD

SMALLEST_SCALE = 2.0**-10  # of GradScaler's; it starts at 2^16
MAY_CHANGE = ("dataset", "device", "threads")  # where a run goes on; another corpus is refused

# --- What is trained ----------------------------------------------------------------------------------------


def make_batches(config: Config, dataset):
    """The planner of the batching that the settings name."""
    if config.batching == "uniform":
        shapes = config.shapes or (FIXED_SHAPES if config.graphs else 0)
        return UniformBatches(
            dataset, config.batch_size, config.seed, config.batch_by, config.pool_size, shapes, config.accumulate
        )
    width = config.seq_len if config.batching == "fixed" else None
    return RandomBatches(dataset, config.batch_size, config.seed, width)


def make_optimizer(config: Config, parameters) -> torch.optim.Optimizer:
    options = {"lr": config.max_lr, "betas": (config.beta1, config.beta2), "weight_decay": config.weight_decay}
    if config.optimizer == "lion":
        return Lion(parameters, **options)  # the multi-tensor one: one launch a tensor and a few, not six a tensor
    return torch.optim.AdamW(parameters, fused=True, **options)


def make_schedule(config: Config, optimizer: torch.optim.Optimizer, updates: int):
    """OneCycleLR over `updates` updates: up to max_lr, then down to its share final_lr, in straight lines."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.max_lr,
        total_steps=updates + 1,  # it is moved after each update, also the last, which must not leave the curve
        pct_start=max(config.warmup, 2 / (updates + 1)),  # PyTorch divides by zero where the rise takes no step
        div_factor=25,  # the first rate is max_lr / 25,
        final_div_factor=1 / (25 * config.final_lr),  # the last one the first over this: max_lr * final_lr
        anneal_strategy="linear",
        cycle_momentum=False,  # it would take Lion's beta1 for momentum and change it
    )


class Stopped(BaseException):
    """A signal has come, and the run is in a state that can be saved and gone on with."""


@dataclass
class Sums:
    """What an epoch adds up, to be divided once at its end."""

    tokens: int = 0  # real target positions
    skipped: int = 0  # updates that GradScaler refused because of infinite gradients
    seconds: float = 0.0  # of training alone, without validation and checkpoints
    norm: float = 0.0  # gradient norms that were read
    norms: int = 0  # how many


class Trainer:
    """A run in progress: everything that changes while training, and the steps that change it.

    precision: one of DTYPES, never "auto". run: the run's folder.
    """

    def __init__(self, config: Config, data: Data, device: torch.device, precision: str, run: Path):
        torch.manual_seed(config.seed)
        self.config, self.data, self.device, self.precision, self.run = config, data, device, precision, run
        self.accelerator = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)  # its generator draws dropout
        self.model = build_model(config, *data.vocabulary_sizes, pad=PAD).to(device)
        # model.states, compiled or recorded as the settings have it; and the loss as a compiler wants it, or by hand.
        self.hidden_states = training_states(config, self.model, device)
        self.loss = torch.compile(loss_formula, dynamic=True) if config.compile else loss_sums
        self.train_part = data.train.to(device)  # its ids, so that the GPU puts its batches together itself
        self.batches = make_batches(config, data.train)
        self.total = sum(math.ceil(len(self.batches.plan(e)) / config.accumulate) for e in range(config.epochs))
        self.optimizer = make_optimizer(config, self.model.parameters())
        self.schedule = make_schedule(config, self.optimizer, self.total)
        # A graph's gradients lie in its own memory and its next replay overwrites them, so those of several batches are
        # added up in memory that stays.
        self.gradients_stay = config.graphs and config.accumulate > 1
        if self.gradients_stay:
            for parameter in self.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        # Half precision is autocast and a scaler; both do nothing when not enabled, so that the loop has no branch.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.scale = self.scaler.get_scale()
        self.epoch, self.batch, self.update = 0, 0, 0  # epochs done, batches of this epoch done, updates in all
        self.sums, self.padding = Sums(), 0.0  # of this epoch
        # Losses are added up on the device: reading one makes the CPU wait for the GPU.
        self.loss_sums = torch.zeros(2, dtype=wide_dtype(device), device=device)  # smoothed, plain
        self.not_finite = torch.zeros((), dtype=torch.int64, device=device)  # first update with such a loss, or 0
        self.mean_weights: dict[str, torch.Tensor] = {}  # over the ends of the last config.average epochs
        self.floor = label_smoothing_floor(data.vocabulary_sizes[1], config.label_smoothing)
        self.record = run_folder.Record(run)
        self.stop_signal: int | None = None
        self.validating = False

    # state and restore must agree: what is saved is what is put back.

    def state(self) -> dict:
        """All that a run needs to go on, as tensors, numbers, strings, lists and dicts."""
        return {
            "config": dict(vars(self.config)),
            "precision": self.precision,
            "device": self.device.type,
            "corpus": self.data.digests,
            "sources": torch.from_numpy(self.data.fingerprints[0]),
            "tokenizers": [tokenizer.to_str() for tokenizer in self.data.tokenizers],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": [self.epoch, self.batch, self.update],
            "sums": dict(vars(self.sums)),
            "loss_sums": self.loss_sums,
            "mean_weights": self.mean_weights,
            "record": {"epochs": self.record.epochs, "steps": self.record.steps},
            "random": torch.get_rng_state(),
            "random_device": None if self.accelerator is None else self.accelerator.get_rng_state(),
        }

    def restore(self, state: dict) -> None:
        """Takes the run up where `state` left it. Raises UserError where state and corpus or model do not fit."""
        for part, digest in self.data.digests.items():
            if state["corpus"][part] != digest:
                raise UserError(
                    f"The {part} part of {self.config.dataset!r} is no longer the one that {self.run} began with. "
                    "Put the old corpus back, or start a new run."
                )
        run_folder.load_weights(self.model, state["model"], self.run)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.scale = self.scaler.get_scale()
        self.epoch, self.batch, self.update = state["position"]
        self.sums = Sums(**state["sums"])
        self.loss_sums.copy_(state["loss_sums"])
        self.mean_weights = {name: weight.to(self.device) for name, weight in state["mean_weights"].items()}
        self.record.restore(**state["record"])
        torch.set_rng_state(state["random"])
        if self.accelerator is not None and state["device"] == self.device.type:
            self.accelerator.set_rng_state(state["random_device"])  # another kind of device draws other numbers anyway

    def save(self, best: bool = False) -> None:
        """Writes the checkpoint `last`, and the same as `best` if asked. Never one with a broken loss."""
        self.stop_if_not_finite()
        run_folder.save_checkpoint(self.run / ("best.pt" if best else "last.pt"), self.state())
        if best:  # written first: a run that goes on from an older `last` comes by here again
            run_folder.keep_as(self.run / "best.pt", self.run / "last.pt")

    # One update

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def losses(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Smoothed and plain loss of a batch on the device, summed over its words."""
        with self.autocast():
            logits = self.model.logits(self.hidden_states(batch.source, batch.target), batch.positions)
        return self.loss(logits, batch.labels, self.config.label_smoothing)

    def step(self, group: list) -> torch.Tensor:
        """One update from a group of batches, as if they were one. Returns the gradient norm, on the device."""
        tokens = sum(len(batch.labels) for batch in group)
        for batch in group:
            smoothed, nll = self.losses(batch.to(self.device))
            # Divided by the tokens of the whole group: each weighs the same, whatever batch it stands in.
            self.scaler.scale(smoothed / tokens).backward()
            self.loss_sums += torch.stack([smoothed.detach(), nll])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        self.note_if_not_finite(norm)
        self.scaler.step(self.optimizer)  # with fp16 and Lion, waits for the GPU
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=not self.gradients_stay)
        scale_before, self.scale = self.scale, self.scaler.get_scale()  # with fp16, waits for the GPU
        if self.scale >= scale_before:  # it falls only after infinite gradients
            self.schedule.step()
        else:
            self.sums.skipped += 1  # the optimizer did not move, so the schedule must not
        if self.scale < SMALLEST_SCALE:
            raise UserError(
                f"The gradients of update {self.update + 1:,} overflow fp16 even when scaled by {self.scale:g}, so "
                "training stopped. Start a new run with --precision bf16 or fp32."
            )
        self.update += 1
        self.sums.tokens += tokens
        return norm

    def note_if_not_finite(self, norm: torch.Tensor) -> None:
        """Keeps the number of the first update with a broken loss or gradient, on the device, without waiting."""
        # The scaler deals with infinite gradients; without one they would go into the weights.
        finite = self.loss_sums.sum().isfinite() & (norm.isfinite() | self.scaler.is_enabled())
        # Without `if`, which would wait: the update's number is added where it is broken and none was before.
        self.not_finite += (~finite & (self.not_finite == 0)) * (self.update + 1)

    def stop_if_not_finite(self) -> None:
        update = int(self.not_finite)  # waits for the GPU
        if update:
            saved = "the last checkpoint before it stands" if (self.run / "last.pt").exists() else "nothing was saved"
            raise UserError(
                f"Loss or gradient of update {update:,} is not finite, so training stopped; {saved}. "
                f"A --max-lr below {self.config.max_lr:g}, --clip-norm 1 or --precision fp32 may help."
            )

    # One epoch

    def train_epoch(self, plan: Plan) -> None:
        """Goes on with the epoch until its end. Raises Stopped after the update in which a signal came."""
        self.model.train()
        self.padding = plan.padding(self.data.train)
        bar = tqdm(
            total=len(plan), initial=self.batch, desc=f"epoch {self.epoch + 1}/{self.config.epochs}", leave=False,
            mininterval=0.1 if sys.stderr.isatty() else 60,  # a log file wants few lines
        )  # fmt: skip
        batches = plan.batches(self.train_part, self.batch)
        saved, tokens, seconds = time.perf_counter(), self.sums.tokens, self.sums.seconds
        with bar:  # closed, whatever comes, so that an error gets a line of its own
            while self.batch < len(plan) and self.stop_signal is None:
                start = time.perf_counter()
                group = list(islice(batches, self.config.accumulate))
                norm = self.step(group)
                self.batch += len(group)
                bar.update(len(group))
                due = self.update % self.config.log_every == 0
                if due or self.batch == len(plan):
                    self.stop_if_not_finite()
                self.sums.seconds += time.perf_counter() - start
                if due:
                    speed = (self.sums.tokens - tokens) / (self.sums.seconds - seconds)
                    self.log(bar, norm, speed)
                    tokens, seconds = self.sums.tokens, self.sums.seconds
                if self.config.checkpoint_minutes and time.perf_counter() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.perf_counter()
        if self.stop_signal is not None:
            raise Stopped

    def log(self, bar: tqdm, norm: torch.Tensor, speed: float) -> None:
        """Reads loss and gradient norm, which waits for the GPU, shows them and keeps them."""
        row = {
            "update": self.update,
            "loss": float(self.loss_sums[0]) / self.sums.tokens,  # mean of the epoch so far
            "lr": self.optimizer.param_groups[0]["lr"],
            "norm": float(norm) if norm.isfinite() else None,  # of an update that GradScaler skipped
            "tokens_per_second": speed,
        }
        if row["norm"] is not None:
            self.sums.norm, self.sums.norms = self.sums.norm + row["norm"], self.sums.norms + 1
        self.record.step(row)
        elapsed = self.sums.seconds + sum(done["seconds"] for done in self.record.epochs)
        left = elapsed * (self.total - self.update) / self.update
        bar.set_postfix_str(
            f"loss {row['loss']:.3f}, lr {row['lr']:.1e}, {speed:,.0f} tokens/s, padding {self.padding:.1%}, "
            f"{run_folder.clock(left)} left",
            refresh=False,
        )

    def close_epoch(self) -> dict:
        """Divides what the epoch has added up, and makes ready for the next; returns the means, times and sizes."""
        smoothed, nll = (self.loss_sums / self.sums.tokens).tolist()
        row = {
            "epoch": self.epoch + 1,
            "update": self.update,
            "train_loss": smoothed,
            "train_nll": nll,
            "label_smoothing_floor": self.floor,
            "target_met": smoothed < self.config.target_loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "norm": self.sums.norm / self.sums.norms if self.sums.norms else None,
            "skipped": self.sums.skipped,
            "padding": self.padding,
            "seconds": self.sums.seconds,
            "tokens_per_second": self.sums.tokens / self.sums.seconds,
            "gpu_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if self.device.type == "cuda" else None,
        }
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()
        self.loss_sums.zero_()
        return row

    def end_epoch(self) -> dict:
        """Validates, records the epoch and saves; returns the epoch's row of metrics.jsonl.

        Raises Stopped where a signal comes while it validates; nothing has changed then.
        """
        done = self.epoch + 1
        validation = self.validate(scored=done % self.config.score_every == 0 or done == self.config.epochs)
        row = {**self.close_epoch(), **validation}
        best = row["valid_nll"] < self.record.lowest_nll()
        self.record.epoch(row)
        if done > self.config.epochs - self.config.average:
            for name, weight in self.model.state_dict().items():
                self.mean_weights[name] = self.mean_weights.get(name, 0) + weight / self.config.average
        self.save(best)
        return row

    @contextlib.contextmanager
    def other_weights(self, weights: dict[str, torch.Tensor]):
        """The model has these weights within, and afterwards its own again. Raises UserError where they do not fit."""
        own = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        try:
            run_folder.load_weights(self.model, weights, self.run)
            yield
        finally:
            self.model.load_state_dict(own)

    def score_best(self) -> None:
        """Scores the translations of the checkpoint `best` where those of its epoch were not (score_every): its
        held-out loss alone does not tell whether it is the one to translate with.
        """
        row = min(self.record.epochs, key=lambda row: row["valid_nll"])
        path = self.run / "best.pt"
        if "bleu" in row or not path.exists():
            return
        try:
            best = run_folder.load_checkpoint(path)
            if best["position"][0] == row["epoch"]:  # and not the average of a run that was finished before
                with self.other_weights(best["model"]):
                    self.record.scored(row, self.validate())
                self.save()  # with these scores, which are not to be made again
        except UserError as error:  # all else of the run is whole
            tqdm.write(f"note: {path} was not scored. {error}")

    def keep_average(self) -> None:
        """Validates the mean of the last epochs' weights and keeps it as the checkpoint `average`, and as `best` too
        where its held-out loss is the lowest.
        """
        with self.other_weights(self.mean_weights):
            row = self.validate()
            run_folder.save_checkpoint(self.run / "average.pt", self.state())
        if row["valid_nll"] < self.record.lowest_nll():
            run_folder.keep_as(self.run / "average.pt", self.run / "best.pt")
        self.record.average({"average_of": self.config.average, **row})

    def held_out_loss(self) -> tuple[float, float]:
        """Smoothed and plain loss a token over the whole held-out part."""
        return mean_losses(self.model, self.data.validation, self.config, self.autocast())

    def validate(self, scored: bool = True) -> dict:
        """Losses over the whole held-out part and, if scored, the scores of its translations and a few of these.

        Raises Stopped as soon as a signal comes, or where one has come.
        """
        if self.stop_signal is not None:
            raise Stopped
        start, self.validating = time.perf_counter(), True
        try:
            smoothed, nll = self.held_out_loss()
            row = {"valid_loss": smoothed, "valid_nll": nll, "valid_perplexity": math.exp(min(nll, 700))}
            row |= self.translations() if scored else {}
        finally:
            self.validating = False
        return {**row, "valid_seconds": time.perf_counter() - start}

    def translations(self) -> dict:
        """Scores of the held-out part's translations, and `samples` of these."""
        held = self.data.validation
        sources, references = zip(*held.texts, strict=True)
        with self.autocast():
            found = translate_ids(self.model, held.source)
            writer = Writer(self.model, self.data.tokenizers, self.config.target_language)
            translations = [texts[0] for texts in writer(sources, held.source, found)]
        shown = range(0, len(held), max(1, len(held) // max(1, self.config.samples)))[: self.config.samples]
        samples = [{"source": sources[i], "reference": references[i], "translation": translations[i]} for i in shown]
        return {**score(translations, references, self.config.target_language), "samples": samples}

    # All epochs

    def train(self) -> bool:
        """Trains until the last epoch is done (True) or a signal came, at which the run is saved (False)."""
        while self.epoch < self.config.epochs:
            try:
                self.train_epoch(self.batches.plan(self.epoch))
                row = self.end_epoch()
            except BrokenPipeError:  # who read the output is gone, as `| tee` is with the same Ctrl-C
                self.save()
                raise
            except Stopped:
                self.save()
                return False
            run_folder.show_epoch(row, self.config.epochs)
        try:
            self.score_best()
            if self.config.average:
                self.keep_average()
        except Stopped:  # the end of the last epoch, already saved, is all that these need
            return False
        return True


# --- The command --------------------------------------------------------------------------------------------


def start(config: Config) -> Trainer:
    """A trainer at the beginning of a new run, with its folder made and described."""
    device = prepare_machine(config.device, config.threads)
    precision, reason = choose_precision(config.precision, device)
    run = Path(config.runs_dir) / config.name
    run_folder.refuse_existing(run)
    first = run_folder.load_first(config)
    data = prepare(config, first and first["tokenizers"])
    print("\n".join(data.reports), flush=True)
    trainer = Trainer(config, data, device, precision, run)
    if first:
        run_folder.refuse_known_sentences(config, first, data)
        run_folder.load_weights(trainer.model, first["model"], config.begin_with)
    facts = describe(trainer, reason)
    for name in ("device", "precision", "model", "vocabulary", "batches", "loss"):
        print(f"{name}: {facts[name]}")
    print(f"run: {run}\n", flush=True)
    run_folder.create(run, config, facts)
    return trainer


def describe(trainer: Trainer, reason: str) -> dict:
    """What a reader wants to know of a run before its first update, as sentences and numbers."""
    config, device = trainer.config, trainer.device
    source_words, words = trainer.data.vocabulary_sizes
    parameters = sum(p.numel() for p in trainer.model.parameters())
    plan = trainer.batches.plan(0)
    padding = plan.padding(trainer.data.train)
    if config.tokenizer == "bpe":
        vocabulary = f"{words:,} subwords of {config.source_language} and {config.target_language} together"
    else:
        vocabulary = f"{source_words:,} words of {config.source_language}, {words:,} of {config.target_language}"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": f"{trainer.precision} ({reason})",
        "model": f"{parameters / 1e6:.1f} M parameters",
        "vocabulary": vocabulary,
        "batches": f"{config.batching}: {len(plan):,} an epoch, {padding:.1%} padding; {trainer.total:,} updates",
        "loss": f"{trainer.held_out_loss()[0]:.2f} before training (ln V = {math.log(words):.2f}), "
        f"target {config.target_loss}, floor of label smoothing {trainer.floor:.2f}",
        "parameters": parameters,
        "vocabulary_sizes": [source_words, words],
        "updates": trainer.total,
        "label_smoothing_floor": trainer.floor,
        "corpus": trainer.data.reports,
    }


def resume(folder: str, flags: dict) -> Trainer:
    """A trainer that goes on where the run in `folder` stopped. Raises UserError on flags that would change it."""
    run = Path(folder)
    state = run_folder.load_checkpoint(run_folder.checkpoint_path(run, "last"))
    config = state["config"]
    for name, value in flags.items():
        if name not in MAY_CHANGE and value != getattr(config, name):
            raise UserError(
                f"{name} is {getattr(config, name)!r} in the run {run} and cannot become {value!r} on the way. "
                f"Leave --{name.replace('_', '-')} out, or start a new run."
            )
    config = replace(config, **{name: value for name, value in flags.items() if name in MAY_CHANGE})
    check(config)
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(state["precision"], device)
    data = prepare(config, state["tokenizers"])
    trainer = Trainer(config, data, device, precision, run)
    trainer.restore(state)
    run_folder.note_resume(run, config, trainer.update)
    print(f"going on with {run} after update {trainer.update:,} of {trainer.total:,}, on {device.type} in {precision}")
    return trainer


def main(argv: list[str] | None = None) -> int:
    try:
        check_streams()
        if hasattr(sys.stdout, "reconfigure"):  # a notebook's is no file
            sys.stdout.reconfigure(errors="backslashreplace")  # a console that lacks a letter is no reason to stop
        config, folder, flags = parse(argv)
        with contextlib.ExitStack() as until_the_end:
            if folder is not None:  # held before anything of it is read or rewritten
                until_the_end.enter_context(run_folder.held(Path(folder)))
                trainer = resume(folder, flags)
            else:
                trainer = start(config)
                until_the_end.enter_context(run_folder.held(trainer.run))
                until_the_end.enter_context(run_folder.removed_where_it_cannot_begin(trainer.run))
            until_the_end.enter_context(stopped_by_signals(trainer))
            finished = trainer.train()
            conclude(trainer, finished)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        if lacks_memory(error):
            message = (
                f"The memory is full ({cause}). Start a new run with half the --batch-size and twice the "
                "--accumulate, with fewer --shapes or --no-graphs where graphs are on, or with a smaller model."
            )
        elif cannot_compile(error):
            message = (
                f"PyTorch could not compile the layers ({cause}). It needs Triton on CUDA and a C++ compiler on a CPU; "
                "install it, or start a new run without --compile."
            )
        else:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            give_up_output()
        print(f"error: {error}. What was saved before, if anything, stands; --resume goes on from it.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the first update; nothing was saved or changed", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0 if finished else 128 + trainer.stop_signal


def conclude(trainer: Trainer, finished: bool) -> None:
    """Says what came of the run, and draws it, or how to go on."""
    if not finished:
        print(f"stopped and saved; go on with: python train.py --resume {trainer.run}")
        return
    run_folder.summarise(trainer.run, trainer.config, trainer.record)
    picture = run_folder.draw_curves(trainer.run, trainer.config, trainer.record)
    print(f"  picture: {picture}" if picture else "  no picture: install matplotlib to get one")


@contextlib.contextmanager
def stopped_by_signals(trainer: Trainer):
    """Has SIGINT and SIGTERM stop the training within; afterwards they do what they did before."""

    def handle(number, _):
        on_signal(trainer, number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: one that Python knows nothing of


def on_signal(trainer: Trainer, number: int) -> None:
    trainer.stop_signal = number
    signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError, RuntimeError):  # nobody reads any longer, or the signal came amid another write
        tqdm.write("stopping; once more to stop at once, without saving")
    if trainer.validating:  # which may take minutes, more than a cluster grants
        raise Stopped


if __name__ == "__main__":
    sys.exit(main())
