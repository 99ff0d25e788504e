"""This package beside what else one would train the same model with: real target tokens a second of a whole step.

    python benchmarks/peers.py --dataset ../shared/data/bible --threads 1

takes the flags of train.py. The peers are the loop of PyTorch's tutorial "Language Translation with nn.Transformer and
torchtext", written anew after it, and Hugging Face's MarianMTModel, in a loop by hand and under Seq2SeqTrainer. All
have the same corpus, ids, dimensions and precision, in one process, in turns, and a round's ratios are taken within
it. What is given the same plan trains on the same batches. Only real target tokens count, whatever the padding.

The peers are given some things: batches of ids made by this package, no tokenising, no clipping of gradients in the
loops by hand, the memory settings of machine.py. For the rest each is left as its authors made it. nn.Transformer is
post-norm, drops out attention weights and inside the feed-forward sublayers too, and the tutorial's Adam is not fused.
Marian is post-norm, without a bias in the projection; its AdamW is fused, as Seq2SeqTrainer has it. This package takes
the optimizer of its settings, Lion by default. Without --compile, --graphs and --accumulate.

Every round trains on the same batches, which all have met in a round that is not counted: whoever is the first to meet
a shape of batch has PyTorch make kernels for it, and others in the process find them made.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from command import command, settings
from report import shown, spread, table, write
from torch import Tensor, nn
from tqdm import tqdm

from config import Config
from dataset import Batch, BilingualDataset, Plan, prepare
from machine import DTYPES, choose_precision, prepare_machine, wait_for
from model import sinusoids
from tokenizer import EOS, PAD, SOS
from train import Trainer

ROUNDS = 5
WORDS = {"cpu": 6_000, "cuda": 300_000, "mps": 30_000}  # real target tokens that a round trains on, at least
OURS, LOOP = "this package, uniform batches", "nn.Transformer loop, dynamic batches"  # what ratios are taken of and to
HUGGING_FACE = all(find_spec(name) for name in ("transformers", "accelerate"))
IGNORED = -100  # Hugging Face's label of positions without a word


@dataclass
class Contestant:
    """Something that trains, the batches it trains on, and what was measured."""

    name: str
    model: nn.Module
    plan: Plan
    seconds: Callable[[list[int]], float]  # trains on these batches of the plan and tells how long it took
    lengths: np.ndarray  # of all target sentences, SOS and EOS counted
    speeds: list[float] = field(default_factory=list)  # real target tokens a second, one a round

    def __post_init__(self):
        # One seed for all: the same plan means the same batches.
        drawn = np.random.default_rng(0).permutation(len(self.plan)).tolist()
        words = np.cumsum([(self.lengths[self.plan[k]] - 1).sum() for k in drawn])  # SOS is never predicted
        enough = int(np.searchsorted(words, WORDS[next(self.model.parameters()).device.type])) + 1
        self.batches, self.words = drawn[:enough], int(words[:enough][-1])

    def round(self) -> float:
        """Trains on the batches; returns real target tokens a second."""
        return self.words / self.seconds(self.batches)


def timed(step: Callable[[int], object], device: torch.device) -> Callable[[list[int]], float]:
    """A function that makes a step with each of some batches and returns the seconds."""

    def seconds(batches: list[int]) -> float:
        wait_for(device)
        began = time.perf_counter()
        for k in batches:
            step(k)
        wait_for(device)
        return time.perf_counter() - began

    return seconds


def padded_labels(batch: Batch, fill: int) -> Tensor:
    """The words to predict, where they stand: (B, T), with `fill` at padding."""
    labels = torch.full_like(batch.target, fill)
    labels.view(-1)[batch.positions] = batch.labels
    return labels


@dataclass
class Loop:
    """The plain loop by hand: loss under autocast, backward, step."""

    loss: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: str

    def __post_init__(self):
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
            loss = self.loss(batch.to(self.device))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def seconds(self, dataset: BilingualDataset, plan: Plan) -> Callable[[list[int]], float]:
        return timed(lambda k: self.step(dataset.batch(plan[k])), self.device)


# --- nn.Transformer -----------------------------------------------------------------------------------------


class TutorialModel(nn.Module):
    """nn.Transformer between embeddings and a projection, sequence first, nothing tied, as the tutorial has it."""

    def __init__(self, config: Config, source_words: int, target_words: int):
        super().__init__()
        self.source_words = nn.Embedding(source_words, config.d_model)
        self.target_words = nn.Embedding(target_words, config.d_model)
        self.register_buffer("positions", sinusoids(config.seq_len, config.d_model)[:, None])  # (positions, 1, D)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            config.d_model, config.heads, config.layers, config.layers, config.d_ff, config.dropout
        )
        self.projection = nn.Linear(config.d_model, target_words)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def embed(self, ids: Tensor, words: nn.Embedding) -> Tensor:
        """(T, B) ids to (T, B, D)."""
        return self.dropout(words(ids) * math.sqrt(words.embedding_dim) + self.positions[: len(ids)])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(S, B) and (T, B) ids to the logits of all positions (T, B, V), with every mask that the tutorial makes."""
        source_mask = torch.zeros(len(source), len(source), dtype=torch.bool, device=source.device)  # hides nothing
        target_mask = nn.Transformer.generate_square_subsequent_mask(len(target), device=target.device)  # 0 and -inf
        source_padding, target_padding = (source == PAD).T, (target == PAD).T  # (B, S), (B, T)
        hidden = self.transformer(
            self.embed(source, self.source_words), self.embed(target, self.target_words), source_mask, target_mask,
            None, source_padding, target_padding, source_padding,
        )  # fmt: skip
        return self.projection(hidden)


def tutorial_loop(model: TutorialModel, config: Config, device: torch.device, precision: str) -> Loop:
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=config.label_smoothing)

    def loss(batch: Batch) -> Tensor:
        logits = model(batch.source.T, batch.target.T)  # (T, B, V)
        return criterion(logits.flatten(0, 1), padded_labels(batch, PAD).T.flatten())

    return Loop(loss, torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9), device, precision)


# --- Hugging Face -------------------------------------------------------------------------------------------


def marian(config: Config, source_words: int, target_words: int) -> nn.Module:
    """MarianMTModel of the settings' dimensions, its matrices tied where ours are."""
    from transformers import MarianConfig, MarianMTModel

    dropouts = {"dropout": config.dropout, "attention_dropout": 0.0, "activation_dropout": 0.0}  # where ours drops out
    return MarianMTModel(
        MarianConfig(
            vocab_size=source_words, decoder_vocab_size=target_words, max_position_embeddings=config.seq_len,
            d_model=config.d_model, encoder_layers=config.layers, decoder_layers=config.layers,
            encoder_attention_heads=config.heads, decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.d_ff, decoder_ffn_dim=config.d_ff, activation_function="relu", scale_embedding=True,
            tie_word_embeddings=config.tied_embeddings,
            share_encoder_decoder_embeddings=config.tied_embeddings and config.tokenizer == "bpe",
            pad_token_id=PAD, bos_token_id=SOS, eos_token_id=EOS, forced_eos_token_id=EOS, decoder_start_token_id=SOS,
            use_cache=False, **dropouts,
        )
    ).train()  # fmt: skip


def marian_inputs(batch: Batch) -> dict[str, Tensor]:
    """A batch as Hugging Face's seq2seq models take it."""
    return {
        "input_ids": batch.source,
        "attention_mask": (batch.source != PAD).long(),
        "decoder_input_ids": batch.target,
        "labels": padded_labels(batch, IGNORED),
    }


def marian_loop(model: nn.Module, config: Config, device: torch.device, precision: str) -> Loop:
    """With the label smoothing and the optimizer that Seq2SeqTrainer has; Marian's own loss cannot smooth."""
    from transformers.trainer_pt_utils import LabelSmoother

    smoother = LabelSmoother(config.label_smoothing, IGNORED)

    def loss(batch: Batch) -> Tensor:
        inputs = marian_inputs(batch)
        labels = inputs.pop("labels")
        return smoother(model(**inputs), labels)

    return Loop(loss, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), device, precision)


def length_groups(dataset: BilingualDataset, batch_size: int) -> Plan:
    """The full batches that Seq2SeqTrainer makes with train_sampling_strategy="group_by_length"."""
    from transformers.trainer_pt_utils import LengthGroupedSampler

    order = np.array(list(LengthGroupedSampler(batch_size, lengths=dataset.source_lengths.tolist())))
    full = len(order) // batch_size * batch_size
    return Plan(order[:full], np.arange(0, full + 1, batch_size))


def seq2seq_trainer_seconds(model: nn.Module, config: Config, part: BilingualDataset, plan: Plan,
                            device: torch.device, precision: str) -> Callable[[list[int]], float]:  # fmt: skip
    """Trains under Seq2SeqTrainer, with its defaults, on batches of `plan`, read in their order.

    The plan's batches are drawn beforehand: group_by_length yields 50 batches at a time from long to short, and a few
    steps of it would see long sentences only. Each call makes one step more, first and not timed, which bears what
    train() sets up.
    """
    from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (1, state.max_steps):
                wait_for(device)
                self.ends.append(time.perf_counter())

    arguments = Seq2SeqTrainingArguments(
        output_dir=tempfile.gettempdir(), per_device_train_batch_size=config.batch_size, num_train_epochs=1,
        train_sampling_strategy="sequential", label_smoothing_factor=config.label_smoothing, learning_rate=1e-4,
        lr_scheduler_type="constant", bf16=precision == "bf16", fp16=precision == "fp16", use_cpu=device.type == "cpu",
        remove_unused_columns=False, dataloader_pin_memory=False, save_strategy="no", logging_strategy="no",
        eval_strategy="no", report_to="none", disable_tqdm=True, seed=config.seed,
    )  # fmt: skip
    clock = Clock()
    trainer = Seq2SeqTrainer(
        model, arguments, lambda pairs: marian_inputs(part.batch(np.array(pairs))), plan[0].tolist(), callbacks=[clock]
    )
    trainer.remove_callback(PrinterCallback)

    def seconds(batches: list[int]) -> float:
        clock.ends = []
        trainer.train_dataset = np.concatenate([plan[k] for k in [batches[0], *batches]]).tolist()
        trainer.train()
        return clock.ends[1] - clock.ends[0]

    return seconds


# --- The comparison -----------------------------------------------------------------------------------------


def contestants(config: Config, data, device: torch.device, precision: str) -> list[Contestant]:
    """All that are compared. Two that share a model share its optimizer too, which changes no speed."""
    words, lengths = data.vocabulary_sizes, data.train.target_lengths
    config = replace(config, compile=False, graphs=False, accumulate=1)
    ours = {b: Trainer(replace(config, batching=b), data, device, precision, Path()) for b in ("uniform", "dynamic")}
    plans = {b: trainer.batches.plan(0) for b, trainer in ours.items()}
    uniform, dynamic = (Plan(plan.order, plan.starts) for plan in plans.values())  # peers know no fixed shapes
    part = ours["uniform"].train_part

    def own(trainer: Trainer, plan: Plan) -> Callable[[list[int]], float]:
        return timed(lambda k: trainer.step([plan.batch(k, trainer.train_part)]), device)

    found = [
        Contestant(f"this package, {b} batches", trainer.model, plans[b], own(trainer, plans[b]), lengths)
        for b, trainer in ours.items()
    ]
    model = TutorialModel(config, *words).to(device)
    loop = tutorial_loop(model, config, device, precision)
    found.append(Contestant(LOOP, model, dynamic, loop.seconds(part, dynamic), lengths))
    name = "nn.Transformer loop, our uniform batches"
    found.append(Contestant(name, model, uniform, loop.seconds(part, uniform), lengths))
    if not HUGGING_FACE:
        print("note: no transformers or no accelerate, so no rows of Marian; pip install -e '.[bench]' brings both")
        return found
    model = marian(config, *words).to(device)
    loop = marian_loop(model, config, device, precision)
    found.append(Contestant("Marian loop, dynamic batches", model, dynamic, loop.seconds(part, dynamic), lengths))
    groups, model_of_its_own = length_groups(data.train, config.batch_size), marian(config, *words)
    seconds = seq2seq_trainer_seconds(model_of_its_own, config, part, groups, device, precision)
    found.append(Contestant("Marian, Seq2SeqTrainer grouping by length", model_of_its_own, groups, seconds, lengths))
    found.append(Contestant("Marian loop, our uniform batches", model, uniform, loop.seconds(part, uniform), lengths))
    return found


def measure(config: Config) -> None:
    """Writes a table with a row a contestant, anew after every round."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # Seq2SeqTrainer would share a batch out among all cards
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(config.precision, device)
    data = prepare(config)
    found = contestants(config, data, device, precision)
    for c in found:
        print(f"{c.name}: {count(c.model):,} parameters")
    for c in tqdm(found, desc="warming up"):
        c.round()
    for number in tqdm(range(1, ROUNDS + 1), desc="rounds"):
        for c in found:
            c.speeds.append(c.round())
        speeds = {c.name: c.speeds for c in found}
        rows = [row(c, speeds[LOOP], speeds[OURS], data.train) for c in found]
        write_down(rows, precision, number, show=number == ROUNDS)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def row(contestant: Contestant, loop: list[float], ours: list[float], dataset: BilingualDataset) -> dict:
    speeds = contestant.speeds
    return {
        "name": contestant.name,
        "parameters": count(contestant.model),
        "padding": contestant.plan.padding(dataset),
        "tokens_per_second": spread(speeds),
        "times_loop": spread([s / d for s, d in zip(speeds, loop, strict=True)]),
        "ours_times_this": spread([o / s for o, s in zip(ours, speeds, strict=True)]),
    }


def tabulate(rows: list[dict]) -> str:
    head = ["trainer", "parameters", "padding", "real target tokens/s", "times nn.Transformer loop, dynamic",
            "this package, uniform, is times as fast"]  # fmt: skip
    lines = [
        [r["name"], f"{r['parameters'] / 1e6:.1f} M", f"{r['padding']:.1%}", shown(r["tokens_per_second"], ",.0f"),
         shown(r["times_loop"], ".2f"), shown(r["ours_times_this"], ".2f")]
        for r in rows
    ]  # fmt: skip
    return table(head, lines)


def write_down(rows: list[dict], precision: str, rounds: int, show: bool) -> None:
    versions = {name: version(name) for name in ("transformers", "accelerate")} if HUGGING_FACE else {}
    note = "".join(f"{name} {number}, " for name, number in versions.items())
    note += f"{precision}, {rounds} rounds, median (range)"
    write("peers", {"precision": precision, "peers": versions, "rows": rows}, tabulate(rows), note, show)


@command
def main() -> None:
    measure(settings())


if __name__ == "__main__":
    sys.exit(main())
