"""What only a CUDA card can show. Skipped without one; benchmarks/gpu_suite.py runs it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import RandomBatches, prepare
from decoding import Search, translate_ids
from machine import prepare_machine
from train import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
FASTER = [{"graphs": True}, {"compile": True}, {"graphs": True, "compile": True}]


def trainer_on(device, config, precision) -> Trainer:
    prepare_machine(device.type, 0)
    run = Path(config.runs_dir)
    run.mkdir(exist_ok=True)  # for the record
    return Trainer(config, prepare(config), device, precision, run)


def test_batches_made_on_the_card_are_those_of_the_cpu(tiny):
    data = prepare(tiny).train
    there = data.to(CUDA)
    assert there.source.ids.device.type == "cuda"
    for shape in ({}, {"rows": 9, "width": 30}):
        here, other = data.batch(np.arange(7), **shape), there.batch(np.arange(7), **shape)
        for name, tensor in vars(here).items():
            assert torch.equal(tensor, getattr(other, name).cpu())
    plan = RandomBatches(data, 3).plan(0)
    for here, other in zip(plan.batches(data), plan.batches(there), strict=True):
        for name, tensor in vars(here).items():
            assert torch.equal(tensor, getattr(other, name).cpu())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_is_that_of_the_cpu(tiny, precision):
    config = dataclasses.replace(tiny, dropout=0.0)
    one, other = trainer_on(CPU, config, "fp32"), trainer_on(CUDA, config, precision)
    other.model.load_state_dict(one.model.state_dict())
    plan = one.batches.plan(0)
    for k in range(10):
        one.step([plan.batch(k, one.train_part)])
        other.step([plan.batch(k, other.train_part)])
    assert float(other.loss_sums[0]) == pytest.approx(float(one.loss_sums[0]), rel=0.02)


@pytest.mark.parametrize("faster", [{}, *FASTER], ids=str)
def test_an_update_in_bf16_never_waits_for_the_card(tiny, faster):
    config = dataclasses.replace(tiny, **faster, shapes=2, batching="uniform", epochs=9)
    trainer = trainer_on(CUDA, config, "bf16")
    plan = trainer.batches.plan(0)
    for _ in range(3):  # kernels, graphs and optimizer state are made at first
        for batch in plan.batches(trainer.train_part):
            trainer.step([batch])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in plan.batches(trainer.train_part):
            trainer.step([batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(trainer, batches: list[int], monkeypatch) -> dict[str, torch.Tensor]:
    """Those that the optimizer is given in an update with these batches of the first plan, which itself is left out."""
    kept = {}

    def step(optimizer):
        kept.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})

    with monkeypatch.context() as patched:
        patched.setattr(trainer.scaler, "step", step)
        patched.setattr(trainer.scaler, "update", lambda: None)
        plan = trainer.batches.plan(0)
        trainer.step([plan.batch(k, trainer.train_part) for k in batches])
    return kept


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("faster", FASTER, ids=str)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_faster_layers_give_the_gradients_of_eager_ones(tiny, precision, faster, tied, monkeypatch):
    config = dataclasses.replace(tiny, dropout=0.0, shapes=2, batching="uniform", epochs=9, tied_embeddings=tied)
    eager, other = (trainer_on(CUDA, dataclasses.replace(config, **c), precision) for c in ({}, faster))
    plan = other.batches.plan(0)
    for k in range(len(plan)):  # compiled, recorded
        gradients(other, [k], monkeypatch)
    shapes = [tuple(shape) for shape in plan.shapes.tolist()]
    two = [0, next(k for k, shape in enumerate(shapes) if shape != shapes[0])]  # shapes in turn share graphs' memory
    for k in two * 3:
        expected, found = gradients(eager, [k], monkeypatch), gradients(other, [k], monkeypatch)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0.05, atol=2e-3)


def test_graphs_add_up_the_gradients_of_an_updates_batches(tiny, monkeypatch):
    config = dataclasses.replace(tiny, dropout=0.0, shapes=2, batching="uniform", accumulate=2, epochs=9)
    eager, graphs = (trainer_on(CUDA, dataclasses.replace(config, graphs=g), "fp32") for g in (False, True))
    shapes = [tuple(shape) for shape in graphs.batches.plan(0).shapes.tolist()]
    same = [k for k, shape in enumerate(shapes) if shape == shapes[0]][:2]  # the second overwrites the first's
    assert len(same) == 2
    two = [0, next(k for k, shape in enumerate(shapes) if shape != shapes[0])]
    for batches in (same, same, two, two):
        expected, found = gradients(eager, batches, monkeypatch), gradients(graphs, batches, monkeypatch)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_graphs_learn_what_eager_layers_learn(tiny, precision):
    config = dataclasses.replace(tiny, dropout=0.0, shapes=2, batching="uniform", epochs=3)
    losses = []
    for graphs in (False, True):
        trainer = trainer_on(CUDA, dataclasses.replace(config, graphs=graphs), precision)
        for epoch in range(config.epochs):
            trainer.train_epoch(trainer.batches.plan(epoch))
            losses.append(trainer.close_epoch()["train_loss"])
    assert losses[3:] == pytest.approx(losses[:3], rel=0.01)
    assert losses[2] < losses[0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_of_graphs_that_overflows_fp16_is_left_out_and_leaves_no_gradient(tiny, accumulate):
    config = dataclasses.replace(tiny, graphs=True, shapes=2, batching="uniform", accumulate=accumulate, epochs=9)
    trainer = trainer_on(CUDA, config, "fp16")
    plan = trainer.batches.plan(0)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    for scale in (2.0**60, 128.0):
        trainer.scaler = torch.amp.GradScaler("cuda", init_scale=scale)
        trainer.scale = trainer.scaler.get_scale()
        trainer.step([plan.batch(k, trainer.train_part) for k in range(accumulate)])
        assert trainer.sums.skipped == 1
        same = all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
        assert same == (scale > 128)
        assert all(weight.isfinite().all() for weight in trainer.model.parameters())


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_recording_graphs_leaves_the_random_numbers_of_the_run_alone(tiny, compile):
    config = dataclasses.replace(tiny, graphs=True, compile=compile, shapes=2, batching="uniform")
    trainer = trainer_on(CUDA, config, "bf16")
    trainer.model.train()
    batch = trainer.batches.plan(0).batch(0, trainer.train_part)
    before = torch.cuda.get_rng_state()
    trainer.hidden_states.record(batch.source, batch.target)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_each_replay_drops_out_other_values(tiny, compile):
    config = dataclasses.replace(tiny, graphs=True, compile=compile, dropout=0.3, shapes=2, batching="uniform")
    trainer = trainer_on(CUDA, config, "bf16")
    trainer.model.train()
    batch = trainer.batches.plan(0).batch(0, trainer.train_part)

    def states():
        with torch.no_grad(), trainer.autocast():
            return trainer.hidden_states(batch.source, batch.target).clone()

    with trainer.autocast():
        trainer.hidden_states(batch.source, batch.target)  # recorded
    before = torch.cuda.get_rng_state()
    first, second = states(), states()
    assert not torch.equal(first, second)
    torch.cuda.set_rng_state(before)
    assert torch.equal(states(), first)


def test_nothing_is_compiled_again_after_warm_up(tiny):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = trainer_on(CUDA, dataclasses.replace(tiny, compile=True, batching="dynamic"), "fp16")
    trainer.train_epoch(trainer.batches.plan(0))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 3 <= compiled <= 7  # two layers and the loss, and again for sizes that are the same or no multiple of 8
    trainer.batch = 0
    trainer.train_epoch(trainer.batches.plan(1))
    assert compiled == torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("search", [Search(), Search(5, 1.0, 3)], ids=str)
def test_translations_made_on_the_card_are_those_of_the_cpu(tiny, search):
    trainer = trainer_on(CPU, tiny, "fp32")
    source, found = trainer.data.validation.source, []
    for device in (CPU, CUDA):
        model = trainer.model.double().to(device)
        found.append(translate_ids(model, source, search))
    assert [[h.ids for h in best] for best in found[0]] == [[h.ids for h in best] for best in found[1]]
