"""The training loop: its schedule, its steps, the average of its weights, and how it ends when something is wrong."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_same_weights, command, digit_pairs, groups, run_all, trainer_for, weights
from corpora import write_jsonl

import run_folder
import train
from config import UserError, preset
from machine import Graphs
from train import Trainer, make_optimizer, make_schedule

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
@pytest.mark.parametrize("final_lr", [4e-6, 0.3, 1.0])
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


def test_gradients_that_stay_in_their_memory_give_the_same_updates(tiny):
    config = dataclasses.replace(tiny, batching="uniform", shapes=4, accumulate=2, dropout=0.0)
    one, other = trainer_for(config), trainer_for(dataclasses.replace(config, graphs=True))
    memory = [parameter.grad.data_ptr() for parameter in other.model.parameters()]
    for group in groups(one):
        one.step(group)
        other.step(group)
    assert memory == [parameter.grad.data_ptr() for parameter in other.model.parameters()]
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(other)[name], weight, msg=name)


def test_graphs_are_recorded_once_for_each_shape_without_kept_half_weights_and_drawn_numbers(tiny, monkeypatch):
    """On a CPU, with the recording itself left out."""
    recorded = []

    def record(states, batch, allow_unused_input, pool):
        assert allow_unused_input
        assert not torch.is_autocast_cache_enabled()
        recorded.append(tuple(ids.shape for ids in batch))
        states.forward = states.forward  # PyTorch puts the replay there
        torch.rand(1)

    forked = torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forked([]))
    config = dataclasses.replace(tiny, batching="uniform", graphs=True, shapes=3)
    trainer = trainer_for(config)
    trainer.hidden_states = Graphs(trainer.model.states, trainer.model)
    plan = trainer.batches.plan(0)
    batch = plan.batch(0, trainer.train_part)
    before = torch.get_rng_state()
    trainer.hidden_states.record(batch.source, batch.target)
    assert torch.equal(torch.get_rng_state(), before)
    recorded.clear()
    trainer.train_epoch(plan)
    batches = [plan.batch(k, trainer.train_part) for k in range(len(plan))]
    assert sorted(recorded) == sorted({(b.source.shape, b.target.shape) for b in batches})


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


def test_a_tiny_model_learns_digits_and_reports_it(tmp_path, tiny, capsys):
    corpus = str(write_jsonl(tmp_path / "many.jsonl", digit_pairs(1500, longest=6, seed=5)))
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
        tiny, dataset=str(write_jsonl(tmp_path / "copy.jsonl", pairs)), d_model=48, heads=4, d_ff=96, dropout=0.0,
        epochs=10, max_lr=3e-3, optimizer="adamw",
    )  # fmt: skip
    assert run_all(config).record.epochs[-1]["exact"] > 0.9


# --- Scores of some epochs only ---------------------------------------------------------------------------------


def test_translations_are_scored_every_so_many_epochs_and_after_the_last(tiny, capsys):
    trainer = run_all(dataclasses.replace(tiny, epochs=5, score_every=2, average=1))
    rows = [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]
    assert ["bleu" in row for row in rows] == [False, True, False, True, True]
    assert ["samples" in row for row in rows] == [False, True, False, True, True]
    assert all(row["valid_nll"] > 0 and row["valid_seconds"] > 0 for row in rows)
    assert "bleu" in json.loads((trainer.run / "average.json").read_text())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["BLEU" in line for line in lines] == [False, True, False, True, True]


def test_a_best_checkpoint_that_is_damaged_keeps_no_run_from_its_end(tiny, monkeypatch, capsys):
    trainer = train.start(dataclasses.replace(tiny, score_every=3, average=1))
    end_epoch = trainer.end_epoch

    def damaged():
        row = end_epoch()
        trainer.record.epochs[0]["valid_nll"] = 0.0
        (trainer.run / "best.pt").unlink()
        (trainer.run / "best.pt").write_bytes(b"not a checkpoint")
        return row

    monkeypatch.setattr(trainer, "end_epoch", damaged)
    assert trainer.train()
    assert "was not scored" in capsys.readouterr().out
    assert (trainer.run / "average.pt").exists()


def test_a_signal_before_a_validation_is_not_passed_over(tiny):
    trainer = trainer_for(tiny)
    trainer.stop_signal = 2
    with pytest.raises(train.Stopped):
        trainer.validate()


def test_the_best_epoch_is_scored_in_the_end_where_it_was_not_before(tiny, monkeypatch):
    trainer = train.start(dataclasses.replace(tiny, score_every=3))
    validate, losses, real = trainer.validate, iter([5.0, 1.0, 2.0, 1.0]), []  # three epochs, the second once more

    def validate_as_if(scored=True):
        real.append(validate(scored))
        return {**real[-1], "valid_nll": next(losses)}

    monkeypatch.setattr(trainer, "validate", validate_as_if)
    assert trainer.train()
    rows = [json.loads(line) for line in (trainer.run / "metrics.jsonl").read_text().splitlines()]
    assert ["bleu" in row for row in rows] == [False, True, True]
    assert rows == trainer.record.epochs == torch.load(trainer.run / "last.pt", weights_only=True)["record"]["epochs"]
    assert rows[1]["valid_nll"] == 1.0
    assert rows[1]["valid_seconds"] == real[1]["valid_seconds"] + real[3]["valid_seconds"]
    assert rows[1]["samples"] == real[3]["samples"]
    assert real[3]["valid_nll"] == real[1]["valid_nll"] != real[2]["valid_nll"]  # by the weights of that epoch
    assert_same_weights(weights(trainer), torch.load(trainer.run / "last.pt", weights_only=True)["model"])


@pytest.mark.parametrize("ahead", ["best", "last", "average"])
def test_the_checkpoint_that_translates_best_is_the_one_to_translate_with(tiny, ahead, capsys):
    trainer = run_all(dataclasses.replace(tiny, average=2))
    first, _, last = trainer.record.epochs
    for name, row in (("best", first), ("last", last), ("average", trainer.record.averaged)):
        row |= {"valid_nll": 1.0 if name == "best" else 2.0, "bleu": 20.0 if name == ahead else 10.0}
    capsys.readouterr()
    run_folder.summarise(trainer.run, trainer.config, trainer.record)
    flag = "" if ahead == "best" else f" --checkpoint {ahead}"
    assert f'python translate.py {trainer.run}{flag} "…"' in capsys.readouterr().out


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


@pytest.mark.parametrize("better", [True, False])
def test_the_average_becomes_the_best_checkpoint_where_its_loss_is_the_lowest(tiny, better, monkeypatch, capsys):
    trainer = train.start(dataclasses.replace(tiny, average=2))
    validate, losses = trainer.validate, iter([5.0, 4.0, 3.0, 1.0 if better else 9.0])  # three epochs, their average
    monkeypatch.setattr(trainer, "validate", lambda scored=True: {**validate(scored), "valid_nll": next(losses)})
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


# --- What can go wrong ------------------------------------------------------------------------------------------


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


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_update(tiny, monkeypatch, capsys):
    losses = Trainer.losses

    def broken(self, batch):
        smoothed, nll = losses(self, batch)
        return (smoothed * math.nan if self.update == 21 and self.model.training else smoothed), nll

    monkeypatch.setattr(Trainer, "losses", broken)
    assert train.main(command(dataclasses.replace(tiny, log_every=50))) == 2
    error = capsys.readouterr().err
    assert "the last checkpoint before it stands" in error
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
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", full)
        assert train.main(command(tiny)) == 2
    assert "half the --batch-size" in capsys.readouterr().err
    assert train.main(command(tiny)) == 0  # the name is free for a smaller run


def test_a_closed_output_ends_in_a_sentence(tiny, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert train.main(command(tiny)) == 2
    assert "Standard output must be open" in capsys.readouterr().err


def test_a_reader_that_is_gone_leaves_one_sentence_and_no_folder(tiny):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, str(Path(train.__file__)), *command(tiny)]
    process = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: [Errno 32]")
    assert "Exception" not in process.stderr
    assert not (Path(tiny.runs_dir) / "run").exists()


def test_a_closed_standard_error_is_no_hindrance(tiny, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert train.main(command(tiny)) == 0


def test_a_disk_that_is_full_between_checkpoints_ends_in_a_sentence(tiny, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "steps.jsonl")

    monkeypatch.setattr(run_folder, "_append", full)
    assert train.main(command(tiny)) == 2
    _, error = capsys.readouterr().err.split("error: ")  # behind what is left of the progress bar
    assert "No space left on device: 'steps.jsonl'" in error
    assert "--resume" in error


# --- Compiled layers --------------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without its slow code generator, and its counters: what is traced, and when, is the same."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compile(f, dynamic=dynamic, backend="aot_eager"))
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def test_layers_and_loss_are_compiled_once_for_all_layers_and_shapes(tiny, traced):
    trainer = trainer_for(dataclasses.replace(tiny, compile=True, batching="uniform", layers=3))
    plan = trainer.batches.plan(0)
    batches = [plan.batch(k, trainer.train_part) for k in range(len(plan))]
    assert len({(batch.source.shape, batch.target.shape) for batch in batches}) > 8
    trainer.train_epoch(plan)
    compiled = traced["stats"]["unique_graphs"]
    assert 3 <= compiled <= 5  # two layers and the loss, and again where two sizes of the first batch are the same
    trainer.end_epoch()  # validation goes without
    trainer.train_epoch(trainer.batches.plan(1))
    assert traced["stats"]["unique_graphs"] == compiled
    assert not traced["graph_break"]


def test_compiled_and_eager_layers_give_the_same_gradients(tiny, traced):
    config = dataclasses.replace(tiny, compile=True, dropout=0.0, layers=2)
    compiled, eager = trainer_for(config, "a"), trainer_for(dataclasses.replace(config, compile=False), "b")
    for k in range(3):
        batch = compiled.batches.plan(0).batch(k, compiled.train_part)
        for trainer in (compiled, eager):
            trainer.optimizer.zero_grad()
            trainer.losses(batch)[0].backward()
        assert traced["stats"]["unique_graphs"] >= 3
        for one, other in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
