"""The training loop: its schedule, its steps, and that an interrupted run is the same run."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import digit_pairs, write_jsonl

import run_folder
import train
from config import UserError, preset
from dataset import prepare
from train import Trainer, make_optimizer, make_schedule

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def trainer_for(config, run="run") -> Trainer:
    folder = Path(config.runs_dir) / run
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config, prepare(config), CPU, config.precision, folder)


def groups(trainer, epoch=0):
    plan = trainer.batches.plan(epoch)
    step = trainer.config.accumulate
    return [
        [plan.batch(k, trainer.data.train) for k in range(start, min(start + step, len(plan)))]
        for start in range(0, len(plan), step)
    ]


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- Schedule and optimizer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("updates", "warmup"), [(1, 0.3), (2, 0.3), (9, 0.1), (99, 0.01), (1, 0.5)])
def test_the_shortest_schedules_hold_to_their_end(updates, warmup):
    config = dataclasses.replace(preset("base"), warmup=warmup)
    opt = make_optimizer(config, [torch.nn.Parameter(torch.zeros(3))])
    schedule = make_schedule(config, opt, updates)
    opt.param_groups[0]["params"][0].grad = torch.ones(3)
    for _ in range(updates):
        opt.step()
        schedule.step()
        assert 0 < opt.param_groups[0]["lr"] <= config.max_lr


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
@pytest.mark.parametrize("final_lr", [4e-6, 0.3])
def test_the_schedule_rises_for_its_share_falls_to_the_end_and_touches_no_beta(optimizer, final_lr):
    config = dataclasses.replace(preset("base"), optimizer=optimizer, final_lr=final_lr)
    opt = make_optimizer(config, [torch.nn.Parameter(torch.zeros(3))])
    updates = 100
    schedule = make_schedule(config, opt, updates)
    curve = []
    for _ in range(updates):
        curve.append(opt.param_groups[0]["lr"])
        assert opt.param_groups[0]["betas"] == (config.beta1, config.beta2)
        opt.param_groups[0]["params"][0].grad = torch.ones(3)
        opt.step()
        schedule.step()
    top = 0.3 * (updates + 1) - 1  # the step at which the rise ends
    low, peak, last = config.max_lr / 25, config.max_lr, config.max_lr * final_lr
    ends = [0, top, updates]
    expected = np.interp(np.arange(updates), ends, [low, peak, last])
    np.testing.assert_allclose(curve, expected, rtol=1e-6)
    assert opt.param_groups[0]["lr"] == pytest.approx(last)  # after the last update, still above zero
    assert max(curve) == pytest.approx(peak, rel=0.05)


def test_lions_step_is_the_papers_formula():
    torch.manual_seed(0)
    config = dataclasses.replace(preset("base"), weight_decay=0.1, max_lr=0.01)
    parameter = torch.nn.Parameter(torch.randn(7))
    opt = make_optimizer(config, [parameter])
    expected, momentum = parameter.detach().clone(), torch.zeros(7)
    for _ in range(3):  # Chen et al. 2023, algorithm 2
        gradient = torch.randn(7)
        parameter.grad = gradient.clone()
        opt.step()
        update = (config.beta1 * momentum + (1 - config.beta1) * gradient).sign()
        expected = expected - config.max_lr * (update + config.weight_decay * expected)
        momentum = config.beta2 * momentum + (1 - config.beta2) * gradient
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_schedule_is_as_long_as_all_epochs_together(tiny):
    trainer = trainer_for(dataclasses.replace(tiny, accumulate=2))
    updates = sum(len(groups(trainer, epoch)) for epoch in range(tiny.epochs))
    assert trainer.total == updates
    assert trainer.schedule.total_steps == updates + 1


# --- One step -------------------------------------------------------------------------------------------------


def test_accumulation_equals_one_large_batch(tiny):
    config = dataclasses.replace(tiny, dropout=0.0)
    one, other = trainer_for(config), trainer_for(config)
    for trainer in (one, other):  # Lion's sign would turn rounding into steps
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
        trainer.schedule = make_schedule(config, trainer.optimizer, 10)
    rows = np.arange(48)
    data = one.data.train
    for _ in range(3):
        one.step([data.batch(rows)])
        other.step([data.batch(rows[:5]), data.batch(rows[5:11]), data.batch(rows[11:])])
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(other)[name], weight, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(one.loss_sums, other.loss_sums)
    assert one.sums.tokens == other.sums.tokens


def test_gradients_are_unscaled_before_they_are_clipped(tiny):
    config = dataclasses.replace(tiny, dropout=0.0, clip_norm=0.1, precision="fp16")
    norms = []
    for scale in (2.0, 1024.0):
        trainer = trainer_for(config)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.scale = scale
        norms.append(float(trainer.step(groups(trainer)[0])))
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    exact = trainer_for(dataclasses.replace(config, precision="fp32"))
    assert norms[0] == pytest.approx(float(exact.step(groups(exact)[0])), rel=0.05)


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_the_clipped_gradients_have_the_limits_norm(tiny, monkeypatch):
    trainer = trainer_for(dataclasses.replace(tiny, clip_norm=0.01))
    seen = []

    def look():
        total = sum(float(p.grad.square().sum()) for p in trainer.model.parameters())
        seen.append(math.sqrt(total))

    monkeypatch.setattr(trainer.optimizer, "step", look)
    norm = float(trainer.step(groups(trainer)[0]))
    assert norm > 0.01  # the norm that is reported is the one before clipping
    assert seen[0] == pytest.approx(0.01, rel=1e-3)


def test_an_update_that_the_scaler_skips_moves_neither_weights_nor_schedule(tiny):
    trainer = trainer_for(dataclasses.replace(tiny, precision="fp16"))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows fp16
    trainer.scale = 2.0**40
    before, lr = weights(trainer), trainer.optimizer.param_groups[0]["lr"]
    trainer.step(groups(trainer)[0])
    assert_same_weights(weights(trainer), before)
    assert trainer.sums.skipped == 1
    assert trainer.schedule.last_epoch == 0
    assert trainer.optimizer.param_groups[0]["lr"] == lr
    trainer.scaler.update(128.0)
    trainer.scale = 128.0
    trainer.step(groups(trainer)[1])
    assert trainer.sums.skipped == 1
    assert trainer.schedule.last_epoch == 1
    assert trainer.update == 2


@pytest.mark.parametrize("batching", ["uniform", "dynamic", "fixed"])
def test_the_epochs_loss_is_the_mean_over_its_words_whatever_the_batches(tiny, batching):
    config = dataclasses.replace(tiny, batching=batching, dropout=0.0, max_lr=1e-12, weight_decay=0.0)
    trainer = trainer_for(config)
    for group in groups(trainer):
        trainer.step(group)
    smoothed, plain = (trainer.loss_sums / trainer.sums.tokens).tolist()
    with torch.no_grad():
        everything = trainer.data.train.batch(np.arange(len(trainer.data.train)))
        logits = trainer.model(everything.source, everything.target, everything.positions)
        cross_entropy = torch.nn.functional.cross_entropy
        assert smoothed == pytest.approx(cross_entropy(logits, everything.labels, label_smoothing=0.1).item(), rel=1e-4)
        assert plain == pytest.approx(cross_entropy(logits, everything.labels).item(), rel=1e-4)
    assert trainer.sums.tokens == len(everything.labels)


# --- A run ----------------------------------------------------------------------------------------------------


def command(config, *more) -> list[str]:
    given = {k: v for k, v in vars(config).items() if v != getattr(preset("base"), k)}
    flags = [str(word) for k, v in given.items() for word in ("--" + k.replace("_", "-"), v)]
    return [*flags, *more]


def run_all(config) -> Trainer:
    trainer = train.start(config)
    assert trainer.train()
    return trainer


def test_a_tiny_model_learns_digits_and_reports_it(tmp_path, tiny, capsys):
    corpus = write_jsonl(tmp_path / "many.jsonl", digit_pairs(1500, longest=6, seed=5))
    config = dataclasses.replace(
        tiny, dataset=corpus, d_model=48, heads=4, d_ff=96, dropout=0.0, epochs=10, max_lr=3e-3, optimizer="adamw"
    )
    assert train.main(command(config)) == 0
    run = Path(config.runs_dir) / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    assert rows[-1]["exact"] > 0.9
    assert rows[-1]["train_nll"] < 0.3
    assert rows[-1]["train_nll"] < rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["target_met"]
    assert not rows[0]["target_met"]
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["position"][0] == 1 + min(range(10), key=lambda k: rows[k]["valid_nll"])
    said = capsys.readouterr().out
    assert "target 1.8 met in epoch" in said
    assert "ln V" in said
    description = json.loads((run / "config.json").read_text())
    assert description["settings"]["d_model"] == 48
    assert description["versions"]["torch"] == torch.__version__
    assert (run / "curves.png").stat().st_size > 5_000
    assert list(run.glob("events.out.tfevents.*"))


def test_the_copy_task_is_learnt(tmp_path, tiny):
    pairs = [(en, en) for en, _ in digit_pairs(800, longest=5, seed=9)]
    config = dataclasses.replace(
        tiny, dataset=write_jsonl(tmp_path / "copy.jsonl", pairs), d_model=48, heads=4, d_ff=96, dropout=0.0,
        epochs=10, max_lr=3e-3, optimizer="adamw",
    )  # fmt: skip
    assert run_all(config).record.epochs[-1]["exact"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [1, 7, "end", 22])  # first update, mid-epoch, end of an epoch, next epoch
def test_a_run_stopped_anywhere_and_resumed_is_the_same_run_bit_for_bit(tiny, stop, precision, monkeypatch):
    config = dataclasses.replace(tiny, precision=precision)
    whole = run_all(dataclasses.replace(config, name="whole"))
    if stop == "end":
        stop = len(groups(whole, 0))
    stop_after(monkeypatch, stop)
    stopped = train.start(dataclasses.replace(config, name="cut"))
    assert not stopped.train()
    assert stopped.update == stop
    monkeypatch.undo()
    resumed = train.resume(str(stopped.run), {})
    assert resumed.update == stop
    assert resumed.train()
    assert_same_weights(weights(resumed), weights(whole))
    for one, other in zip(resumed.record.epochs, whole.record.epochs, strict=True):
        for name in ("train_loss", "train_nll", "valid_nll", "bleu", "lr", "update", "padding", "samples"):
            assert one[name] == other[name], name
    lines = (stopped.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    updates = [json.loads(line)["update"] for line in (stopped.run / "steps.jsonl").read_text().splitlines()]
    assert updates == list(range(5, whole.update + 1, 5))


# --- The average of the last epochs ---------------------------------------------------------------------------


def test_the_average_is_the_mean_of_the_last_epochs_weights(tiny, monkeypatch):
    trainer = train.start(dataclasses.replace(tiny, epochs=5, average=3))
    ends, end_epoch = [], trainer.end_epoch
    monkeypatch.setattr(trainer, "end_epoch", lambda: (ends.append(weights(trainer)), end_epoch())[1])
    assert trainer.train()
    average = torch.load(trainer.run / "average.pt", weights_only=True)["model"]
    for name in ends[0]:
        torch.testing.assert_close(average[name], sum(end[name] for end in ends[2:]) / 3)
    assert_same_weights(weights(trainer), ends[-1])  # the run itself goes on with its own
    assert json.loads((trainer.run / "average.json").read_text())["average_of"] == 3


@pytest.mark.parametrize("stop", [3, 22, 45])
def test_a_run_that_was_interrupted_has_the_same_average(tiny, stop, monkeypatch):
    config = dataclasses.replace(tiny, average=2)
    whole = run_all(dataclasses.replace(config, name="whole"))
    stop_after(monkeypatch, stop)
    stopped = train.start(dataclasses.replace(config, name="cut"))
    assert not stopped.train()
    monkeypatch.undo()
    resumed = train.resume(str(stopped.run), {})
    assert resumed.train()
    one, other = (torch.load(t.run / "average.pt", weights_only=True)["model"] for t in (whole, resumed))
    assert_same_weights(one, other)


@pytest.mark.parametrize("better", [True, False])
def test_the_average_becomes_the_best_checkpoint_where_its_loss_is_the_lowest(tiny, better, monkeypatch, capsys):
    trainer = train.start(dataclasses.replace(tiny, average=2))
    validate, losses = trainer.validate, iter([5.0, 4.0, 3.0, 1.0 if better else 9.0])  # three epochs, their average
    monkeypatch.setattr(trainer, "validate", lambda: {**validate(), "valid_nll": next(losses)})
    assert trainer.train()
    best, average, last = ((trainer.run / f"{name}.pt").read_bytes() for name in ("best", "average", "last"))
    assert best == (average if better else last)
    capsys.readouterr()
    run_folder.summarise(trainer.run, trainer.config, trainer.record)
    said = capsys.readouterr().out
    assert ("best.pt, mean of the last 2 epochs" in said) == better
    assert "average.pt, mean of the last 2 epochs" in said


def test_without_it_there_is_no_average(tiny):
    trainer = run_all(tiny)
    assert not list(trainer.run.glob("average*"))
    assert not torch.load(trainer.run / "last.pt", weights_only=True)["mean_weights"]


def stop_after(monkeypatch, updates: int) -> None:
    """Lets a signal come right after so many updates."""
    step = Trainer.step

    def stepped(self, group):
        norm = step(self, group)
        if self.update == updates:
            self.stop_signal = signal.SIGTERM
        return norm

    monkeypatch.setattr(Trainer, "step", stepped)


def test_resume_right_after_an_update_that_the_scaler_skipped_is_exact(tiny, monkeypatch):
    config = dataclasses.replace(tiny, precision="fp16", epochs=2)
    make = torch.amp.GradScaler

    def high(device, enabled):
        return make(device, init_scale=2.0**24, growth_interval=6, enabled=enabled)  # the first updates overflow

    monkeypatch.setattr(torch.amp, "GradScaler", high)
    whole = run_all(dataclasses.replace(config, name="whole"))
    skipped = sum(row["skipped"] for row in whole.record.epochs)
    assert skipped >= 2
    assert whole.schedule.last_epoch == whole.update - skipped
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        stopped = train.start(dataclasses.replace(config, name="cut"))
        assert not stopped.train()
    assert stopped.sums.skipped == 1
    resumed = train.resume(str(stopped.run), {})
    assert resumed.train()
    assert_same_weights(weights(resumed), weights(whole))
    assert [row["skipped"] for row in resumed.record.epochs] == [row["skipped"] for row in whole.record.epochs]


@pytest.mark.parametrize("written", [run_folder.save_checkpoint, run_folder.keep_as])
def test_the_best_checkpoint_is_that_of_the_record_wherever_the_disk_was_full(tiny, written, monkeypatch):
    trainer = train.start(dataclasses.replace(tiny, epochs=4))
    losses = iter([5.0, 4.0, 3.0, 3.0, 4.0])  # epochs 1, 2 and 3, of which the third is done twice, and 4
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda t: {**validate(t), "valid_nll": next(losses)})
    with monkeypatch.context() as patch:

        def full(*arguments):
            if trainer.epoch == 3:
                raise UserError("The disk is full.")
            written(*arguments)

        patch.setattr(run_folder, written.__name__, full)
        with pytest.raises(UserError, match="full"):
            trainer.train()
    resumed = train.resume(str(trainer.run), {})
    assert resumed.train()
    assert [row["valid_nll"] for row in resumed.record.epochs] == [5, 4, 3, 4]
    assert len(run_folder.load_checkpoint(trainer.run / "best.pt")["record"]["epochs"]) == 3


def test_a_norm_that_is_not_finite_stays_out_of_the_record(tiny, monkeypatch):
    make = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: make(device, init_scale=2.0**24))  # overflows
    trainer = train.start(dataclasses.replace(tiny, precision="fp16", epochs=1, log_every=1))
    assert trainer.train()
    norms = [row["norm"] for row in trainer.record.steps]
    assert None in norms
    assert trainer.record.epochs[0]["norm"] == pytest.approx(np.mean([norm for norm in norms if norm is not None]))
    for name in ("steps.jsonl", "metrics.jsonl"):
        text = (trainer.run / name).read_text()
        assert "NaN" not in text
        assert "Infinity" not in text


def test_lines_written_after_the_checkpoint_are_taken_back_on_resume(tiny, monkeypatch):
    stop_after(monkeypatch, 22)
    stopped = train.start(tiny)
    stopped.train()
    monkeypatch.undo()
    with open(stopped.run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "from": "a run that was killed"}\n')
    train.resume(str(stopped.run), {}).train()
    assert "killed" not in (stopped.run / "metrics.jsonl").read_text()


def test_resuming_a_complete_run_changes_nothing(tiny, capsys):
    run = run_all(tiny).run
    before = (run / "metrics.jsonl").read_text()
    checkpoint = (run / "last.pt").read_bytes()
    assert train.main(["--resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text() == before
    assert (run / "last.pt").read_bytes() == checkpoint
    assert "3 epochs" in capsys.readouterr().out


def test_a_corpus_that_has_changed_since_is_refused(tmp_path, tiny, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    config = dataclasses.replace(tiny, dataset=write_jsonl(corpus, digit_pairs(100)))
    stop_after(monkeypatch, 2)
    stopped = train.start(config)
    stopped.train()
    write_jsonl(corpus, digit_pairs(100, seed=3))
    with pytest.raises(UserError, match="no longer the one"):
        train.resume(str(stopped.run), {})


def test_weights_of_another_model_are_refused(tiny):
    run = run_all(dataclasses.replace(tiny, epochs=1)).run
    state = torch.load(run / "last.pt", weights_only=True)
    state["config"]["d_ff"] = 64
    run_folder.save_checkpoint(run / "last.pt", state)
    with pytest.raises(UserError, match="do not fit the model"):
        train.resume(str(run), {})


# --- What can go wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tiny, number):
    config = dataclasses.replace(tiny, epochs=500)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    steps = Path(config.runs_dir) / "run" / "steps.jsonl"
    while not steps.exists() or not steps.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    resume = out.splitlines()[-1].split("go on with: python train.py ")[1].split()
    assert resume == ["--resume", str(Path(config.runs_dir) / "run")]
    trainer = train.resume(resume[1], {})
    assert trainer.update >= 5


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_update(tiny, monkeypatch, capsys):
    losses = Trainer.losses

    def broken(self, batch):
        smoothed, nll = losses(self, batch)
        return (smoothed * math.nan if self.update == 21 and self.model.training else smoothed), nll

    monkeypatch.setattr(Trainer, "losses", broken)
    assert train.main(command(dataclasses.replace(tiny, log_every=50))) == 2
    error = capsys.readouterr().err
    assert "Loss or gradient of update 22 is not finite" in error
    run = Path(tiny.runs_dir) / "run"
    state = run_folder.load_checkpoint(run / "last.pt")
    assert state["position"][0] == 1  # the checkpoint of the epoch before it stands
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(tiny):
    trainer = trainer_for(tiny)
    trainer.step(groups(trainer)[0])
    trainer.save()
    saved = (trainer.run / "last.pt").read_bytes()
    trainer.model.projection.weight.register_hook(lambda gradient: gradient * math.nan)
    trainer.step(groups(trainer)[1])  # its loss is finite
    assert trainer.loss_sums.isfinite().all()
    with pytest.raises(UserError, match="update 2 is not finite"):
        trainer.save()
    assert (trainer.run / "last.pt").read_bytes() == saved


def test_gradients_that_overflow_fp16_for_good_stop_the_run(tiny):
    trainer = trainer_for(dataclasses.replace(tiny, precision="fp16"))
    trainer.model.projection.weight.register_hook(lambda gradient: gradient * math.inf)
    group = groups(trainer)[0]

    def forty_updates():
        for _ in range(40):
            trainer.step(group)

    with pytest.raises(UserError, match="--precision bf16"):
        forty_updates()
    assert trainer.schedule.last_epoch == 0


def test_a_full_gpu_ends_in_a_sentence(tiny, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")

    monkeypatch.setattr(train, "mean_losses", full)  # the first to need it, before the run has a folder
    assert train.main(command(tiny)) == 2
    error = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in error
    assert "half the --batch-size" in error
    assert not (Path(tiny.runs_dir) / "run").exists()
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "step", full)
    assert train.main(command(tiny)) == 2
    assert "half the --batch-size" in capsys.readouterr().err


def test_a_disk_that_is_full_between_checkpoints_ends_in_a_sentence(tiny, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "steps.jsonl")

    monkeypatch.setattr(run_folder, "_append", full)
    assert train.main(command(tiny)) == 2
    _, error = capsys.readouterr().err.split("error: ")  # behind what is left of the progress bar
    assert "No space left on device: 'steps.jsonl'" in error
    assert "--resume" in error


def test_a_signal_at_the_end_of_an_epoch_saves_before_its_validation(tiny, monkeypatch):
    whole = run_all(dataclasses.replace(tiny, name="whole"))
    stop_after(monkeypatch, whole.total)
    stopped = train.start(dataclasses.replace(tiny, name="cut"))
    assert not stopped.train()
    assert len(stopped.record.epochs) == tiny.epochs - 1
    monkeypatch.undo()
    resumed = train.resume(str(stopped.run), {})
    assert resumed.train()
    assert_same_weights(weights(resumed), weights(whole))
    assert len(resumed.record.epochs) == tiny.epochs
    description = json.loads((stopped.run / "config.json").read_text())
    assert [resume["after_update"] for resume in description["resumed"]] == [whole.total]


def test_checkpoints_within_an_epoch_come_after_the_minutes_set(tiny, monkeypatch):
    saves = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, best=False: (saves.append(self.batch), save(self, best)))
    run_all(dataclasses.replace(tiny, epochs=1, checkpoint_minutes=1e-9))
    assert saves[:3] == [1, 2, 3]


# --- Compiled layers --------------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without its slow code generator, and its counters: what is traced, and when, is the same."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic, mode: compile(f, dynamic=dynamic, backend="aot_eager"))
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize("batching", ["uniform", "fixed"])
def test_nothing_is_compiled_again_after_each_shape_has_come_once(tiny, traced, batching):
    shapes = 12 if batching == "uniform" else 0
    config = dataclasses.replace(tiny, compile=True, batching=batching, shapes=shapes, layers=1)
    trainer = trainer_for(config)
    plan = trainer.batches.plan(0)
    trainer.train_epoch(plan)
    compiled = dict(traced["stats"])
    seen = {tuple(shape) for shape in plan.shapes.tolist()}
    assert compiled["unique_graphs"] == len(seen)  # one graph a shape: not a break in it, no fall back to eager
    assert len(seen) > 8 or batching == "fixed"  # PyTorch's own limit is 8
    trainer.end_epoch()  # validation has other shapes, but is not compiled
    trainer.train_epoch(trainer.batches.plan(1))
    assert dict(traced["stats"])["unique_graphs"] == compiled["unique_graphs"]
    assert not traced["graph_break"]


def test_compiled_and_eager_layers_give_the_same_gradients(tiny, traced):
    config = dataclasses.replace(tiny, compile=True, dropout=0.0, layers=1)
    compiled, eager = trainer_for(config, "a"), trainer_for(dataclasses.replace(config, compile=False), "b")
    for k in range(3):
        batch = compiled.batches.plan(0).batch(k, compiled.train_part)
        for trainer in (compiled, eager):
            trainer.optimizer.zero_grad()
            trainer.losses(batch)[0].backward()
        for one, other in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
