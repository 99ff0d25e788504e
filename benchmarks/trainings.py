"""Trains several settings and seeds to the end and sets them side by side: losses, held-out loss, BLEU, time.

    python benchmarks/trainings.py out.jsonl --seeds 0 1 2 --each batching=uniform batching=dynamic -- --preset small

Each argument of --each is one variant, a comma-separated list of settings on top of train.py's flags, which follow
`--`. Batching `frozen` is the original experiment's sampler, see Frozen. A run that is done is a line of the file
and is not made again, so that an interrupted comparison goes on. `--show` prints the table of a file that is there,
`--draw picture.png` draws it too: the mean loss of each epoch against time and by epoch, and dashed the loss of its
last update.
"""

import argparse
import hashlib
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from command import command, settings
from report import table
from tqdm import tqdm

import run_folder
from config import Config, UserError, check, parser
from dataset import Data, Plan, prepare
from machine import choose_precision, prepare_machine
from train import Trainer, make_schedule

# The same in all trainings, which are neither named nor saved, nor read on the way.
FIXED = {"name": "", "begin_with": "", "log_every": 10**9, "checkpoint_minutes": 0.0, "average": 0}


class Frozen:
    """The original experiment's uniform batches, by its rule: pairs sorted once by source length, cut into batches
    that stay the same in every epoch, drawn in random order but for the longest, which always comes last.
    """

    def __init__(self, dataset, batch_size: int, seed: int):
        self.order = np.argsort(dataset.source_lengths, kind="stable")
        self.starts = np.append(np.arange(0, len(dataset), batch_size), len(dataset))
        self.seed = seed

    def plan(self, epoch: int) -> Plan:
        count = len(self.starts) - 1
        drawn = np.append(np.random.default_rng([self.seed, epoch]).permutation(count - 1), count - 1)
        batches = [self.order[self.starts[k] : self.starts[k + 1]] for k in drawn]
        return Plan.of(batches)


def settings_of(variant: str) -> tuple[dict, bool]:
    """The settings that a variant names, read as on the command line, and whether it asks for frozen batches.

    Raises UserError on a name that is no setting, or one that no variant may change.
    """
    parts = (part.partition("=") for part in variant.split(",") if part)
    changes = {name.replace("-", "_"): value for name, _, value in parts}
    types = {f.name: f.type for f in fields(Config)}
    for name in changes:
        if name not in types:
            raise UserError(f"--each names {name!r}, which is no setting; `python train.py --help` lists them.")
    if fixed := changes.keys() & {*FIXED, "seed"}:
        raise UserError(f"--each names {min(fixed)!r}, which no variant may change; seeds are given by --seeds.")
    frozen = changes.get("batching") == "frozen"
    changes |= {"batching": "uniform"} if frozen else {}
    flags = []
    for name, value in changes.items():
        flag = name.replace("_", "-")
        switch = {"true": f"--{flag}", "false": f"--no-{flag}"}.get(value.lower()) if types[name] is bool else None
        flags.append(switch or f"--{flag}={value}")
    return {k: v for k, v in vars(parser().parse_args(flags)).items() if k in changes}, frozen


def epoch_row(trainer: Trainer) -> dict:
    """Trains one epoch; its mean loss, its last update's loss, and the held-out loss."""
    plan = trainer.batches.plan(trainer.epoch)
    before_last = (len(plan) - 1) // trainer.config.accumulate * trainer.config.accumulate  # batches
    if before_last:
        trainer.train_epoch(plan.first(before_last))
    before, tokens = float(trainer.loss_sums[0]), trainer.sums.tokens
    trainer.train_epoch(plan)
    last = (float(trainer.loss_sums[0]) - before) / (trainer.sums.tokens - tokens)
    row = trainer.close_epoch()
    kept = ("epoch", "update", "train_loss", "train_nll", "padding", "seconds")
    return {**{name: row[name] for name in kept}, "last_batch_loss": last, "valid_nll": trainer.held_out_loss()[1]}


def scores(trainer: Trainer) -> dict:
    row = trainer.validate()
    return {name: row[name] for name in ("valid_nll", "bleu", "chrf")}


def train(config, frozen: bool, data) -> dict:
    """One training from start to end, without checkpoints."""
    if config.compile:
        torch._dynamo.reset()  # what earlier runs compiled counts against the limit of this one
    device = prepare_machine(config.device, config.threads)
    precision, _ = choose_precision(config.precision, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, data, device, precision, Path(folder))
        if frozen:
            trainer.batches = Frozen(data.train, config.batch_size, config.seed)
            trainer.total = math.ceil(len(trainer.batches.plan(0)) / config.accumulate) * config.epochs
            trainer.schedule = make_schedule(config, trainer.optimizer, trainer.total)
        epochs, at_target = [], None
        for _ in tqdm(range(config.epochs), desc="epochs", mininterval=60):
            epochs.append(epoch_row(trainer))
            if at_target is None and epochs[-1]["train_loss"] < config.target_loss:
                seconds = sum(row["seconds"] for row in epochs)
                at_target = {"epoch": epochs[-1]["epoch"], "seconds": seconds, **scores(trainer)}
        return {
            "sources": fingerprint(data),
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "floor": trainer.floor,
            "precision": precision,
            "at_target": at_target,
            "at_end": scores(trainer),
            "epochs": epochs,
        }


def rows_of(path: Path) -> list[dict]:
    """The records of a file, none where it is not there. Raises UserError on one that was cut short."""
    rows = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(text))
        except ValueError as error:
            raise UserError(f"Line {number} of {path} was cut short. Take it out; its run is made again.") from error
    return rows


def mean(values: list[float], form: str) -> str:
    """Mean ± standard deviation, the latter where there are several."""
    text = f"{statistics.mean(values):{form}}"
    return text + (f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else "")


def tabulate(rows: list[dict]) -> str:
    """One line a variant, over its seeds."""
    head = ["variant", "seeds", "updates", "last epoch's loss (plain)", "its last update's", "under target in epoch",
            "after seconds", "held-out plain / BLEU then", "held-out plain: best", "at the end",
            "BLEU / chrF at the end", "seconds in all"]  # fmt: skip
    variants = dict.fromkeys(row["variant"] for row in rows)
    return table(head, [line(name, [row for row in rows if row["variant"] == name]) for name in variants])


def line(variant: str, runs: list[dict]) -> list[str]:
    last = [run["epochs"][-1] for run in runs]
    met = [run["at_target"] for run in runs if run["at_target"]]
    return [
        variant or "as given",
        str(len(runs)),
        f"{last[0]['update']:,}",
        f"{mean([r['train_loss'] for r in last], '.3f')} ({mean([r['train_nll'] for r in last], '.3f')})",
        mean([r["last_batch_loss"] for r in last], ".2f"),
        ", ".join([*(str(m["epoch"]) for m in met), *["never"] * (len(runs) - len(met))]),
        mean([m["seconds"] for m in met], ",.0f") if met else "",
        f"{mean([m['valid_nll'] for m in met], '.3f')} / {mean([m['bleu'] for m in met], '.1f')}" if met else "",
        mean([min(e["valid_nll"] for e in run["epochs"]) for run in runs], ".3f"),
        mean([r["valid_nll"] for r in last], ".3f"),
        " / ".join(mean([run["at_end"][score] for run in runs], ".1f") for score in ("bleu", "chrf")),
        mean([sum(e["seconds"] for e in run["epochs"]) for run in runs], ",.0f"),
    ]


def draw(rows: list[dict], path: Path) -> None:
    """Mean loss of each epoch, against the time for all seeds, and by epoch beside the last update's for the first."""
    from matplotlib import pyplot as plt

    figure, (time, epoch) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for k, variant in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        runs = [row["epochs"] for row in rows if row["variant"] == variant]
        color, name = f"C{k}", variant.removeprefix("batching=").replace(",", ", ").replace("_", " ")
        for epochs in runs:
            minutes = np.cumsum([e["seconds"] for e in epochs]) / 60
            time.plot(minutes, [e["train_loss"] for e in epochs], color=color, alpha=0.8,
                      label=name if epochs is runs[0] else None)  # fmt: skip
        numbers = [e["epoch"] for e in runs[0]]
        epoch.plot(numbers, [e["train_loss"] for e in runs[0]], color=color)
        epoch.plot(numbers, [e["last_batch_loss"] for e in runs[0]], "--", color=color, alpha=0.6)
    epoch.plot([], [], color="black", label="mean of the epoch")
    epoch.plot([], [], "--", color="black", alpha=0.6, label="its last update alone")
    for axis in (time, epoch):
        axis.axhline(rows[0]["settings"]["target_loss"], color="grey", linewidth=0.8, label="target")
        axis.legend(fontsize=8)
    time.set(xlabel="minutes of training", ylabel="training loss, nats a target token", title="how fast")
    epoch.set(xlabel="epoch", title="how well; and what an epoch's last update alone would say")
    epoch.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=90)


@command
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("out", type=Path, help="a .jsonl file, a line a finished run")
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--each", nargs="+", default=[""], metavar="SETTING=VALUE,...", help="a variant each")
    p.add_argument("--show", action="store_true", help="print the table of what is there, train nothing")
    p.add_argument("--draw", type=Path, metavar="PICTURE", help="draw the losses of what is there")
    given = [*sys.argv[1:], "--"]
    own, flags = given[: given.index("--")], given[given.index("--") + 1 : -1]
    args = p.parse_args(own)
    if args.draw and args.draw.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"The picture {args.draw} is to end in .png, .pdf or .svg.")
    if not args.show:
        compare(args, flags)
    rows = rows_of(args.out)
    if not rows:
        raise UserError(f"{args.out} holds no finished run. Leave --show out to train.")
    print(tabulate(rows))
    if args.draw:
        draw(rows, args.draw)


def fingerprint(data: Data) -> str:
    """Of a corpus's source sentences, whichever part and order they stand in."""
    return hashlib.blake2b(np.sort(np.concatenate(data.fingerprints)).tobytes(), digest_size=16).hexdigest()


def refuse_others(rows: list[dict], config: Config, path: Path) -> None:
    """Raises UserError where a record differs from these settings in more than what its variant names."""
    for row in rows:
        named = {part.partition("=")[0].replace("-", "_") for part in row["variant"].split(",")}
        # A setting that is newer than the record has its default. The seed is here that of the split, which all share.
        theirs = asdict(Config(**{**row["settings"], "seed": row.get("split_seed", config.seed)}))
        ours = asdict(replace(config, **FIXED))
        if differ := [name for name in ours if ours[name] != theirs[name] and name not in named]:
            what = "seed of the split" if differ[0] == "seed" else differ[0]
            raise UserError(
                f"{path} holds {row['variant']!r}, seed {row['seed']}, with another {what} "
                f"({theirs[differ[0]]!r} instead of {ours[differ[0]]!r}). Name another file."
            )


def compare(args: argparse.Namespace, flags: list[str]) -> None:
    """Makes the runs that are not in the file yet. The split is that of the flags' own seed, whatever --seeds says.

    Raises UserError where the file's runs were made with other settings or of another corpus.
    """
    config, rows = settings(flags), rows_of(args.out)
    refuse_others(rows, config, args.out)
    open(args.out, "a").close()  # now, so that a place where nothing can be written costs no training
    done = {(row["variant"], row["seed"]) for row in rows}
    corpora = {corpus_of(row["settings"]): row["sources"] for row in rows if "sources" in row}  # older ones have none
    for seed in args.seeds:
        for variant in args.each:
            changes, frozen = settings_of(variant)
            one = replace(config, **changes, **FIXED, seed=seed)
            check(one)
            if (variant, seed) in done:
                continue
            data = prepare(replace(config, **changes))
            if corpora.setdefault(corpus_of(asdict(one)), fingerprint(data)) != fingerprint(data):
                raise UserError(f"{args.out} holds runs of another version of {one.dataset}. Name another file.")
            print(f"{variant}, seed {seed}", flush=True)
            try:
                result = train(one, frozen, data)
            except UserError as error:  # a loss that is not finite, say, must not keep the others from their turn
                print(f"error: {error}", file=sys.stderr)
                continue
            row = {"variant": variant, "seed": seed, "split_seed": config.seed, **result, "settings": asdict(one)}
            row |= run_folder.environment()
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def corpus_of(values: dict) -> tuple:
    return tuple(values[name] for name in ("dataset", "source_language", "target_language"))


if __name__ == "__main__":
    sys.exit(main())
