"""Ids side by side: rows, batches with dynamic padding, plans of random batches."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dataset
from dataset import BilingualDataset, FlatIds, Plan, RandomBatches
from tokenizer import EOS, PAD, SOS


def random_ids(n=40, longest=9, seed=0):
    rng = np.random.default_rng(seed)
    sentences = [[SOS, *rng.integers(4, 50, rng.integers(1, longest)).tolist(), EOS] for _ in range(n)]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sentences])])
    return FlatIds.from_lengths(np.concatenate(sentences).astype(np.int32), np.diff(offsets)), sentences


def random_dataset(n=40):
    (source, source_sentences), (target, target_sentences) = random_ids(n, 9, 1), random_ids(n, 14, 2)
    return BilingualDataset(source, target), source_sentences, target_sentences


def test_rows_equal_a_naive_loop():
    flat, sentences = random_ids()
    rng = np.random.default_rng(3)
    for width in (1, 3, 10, 25):
        indices = rng.integers(0, len(sentences), 13)
        expected = [(sentences[i] + [PAD] * width)[:width] for i in indices]
        rows = flat.rows(torch.from_numpy(indices), width)
        assert rows.dtype == torch.int64
        assert rows.tolist() == expected
    last = np.array([len(sentences) - 1])  # beyond its end there is no memory left to read
    assert flat.rows(torch.from_numpy(last), 25).tolist() == [(sentences[-1] + [PAD] * 25)[:25]]


def test_lengths_and_items_of_flat_ids_are_those_of_the_sentences():
    flat, sentences = random_ids()
    assert flat.lengths.tolist() == [len(s) for s in sentences]
    assert [flat[i].tolist() for i in range(len(sentences))] == sentences


def check_batch(batch, sources, targets, source_width, target_width):
    """Compares every row of a batch with its sentence."""
    assert batch.source.tolist() == [s + [PAD] * (source_width - len(s)) for s in sources]
    rows = [t + [PAD] * (target_width - len(t)) for t in targets]
    assert batch.target.tolist() == [row[:-1] for row in rows]
    expected = [word for t in targets for word in t[1:]]
    assert batch.labels.tolist() == expected  # each word once, and the EOS of every row, the longest one too
    assert batch.labels.tolist().count(EOS) == len(targets)
    width = target_width - 1
    for label, position in zip(batch.labels.tolist(), batch.positions.tolist(), strict=True):
        row, column = divmod(position, width)
        assert rows[row][column + 1] == label
        assert batch.target[row, column] != PAD


def test_a_batch_holds_its_sentences_padded_at_the_right_and_nothing_else():
    data, sources, targets = random_dataset()
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        indices = rng.permutation(len(data))[:size]
        s, t = [sources[i] for i in indices], [targets[i] for i in indices]
        check_batch(data.batch(indices), s, t, max(map(len, s)), max(map(len, t)))


def test_fixed_padding_fills_every_row_to_the_same_length():
    data, sources, targets = random_dataset()
    indices = np.arange(5, 17)
    check_batch(data.batch(indices, width=30), sources[5:17], targets[5:17], 30, 30)


def test_padding_changes_no_label():
    data, _, _ = random_dataset()
    indices = np.arange(20)
    narrow, wide = data.batch(indices), data.batch(indices, width=40)
    assert narrow.labels.tolist() == wide.labels.tolist()
    read = [b.target.flatten()[b.positions].tolist() for b in (narrow, wide)]
    assert read[0] == read[1]


def test_the_digest_changes_with_one_word():
    data, _, _ = random_dataset()
    same, _, _ = random_dataset()
    assert same.digest() == data.digest()
    for side in ("source", "target"):
        other, _, _ = random_dataset()
        getattr(other, side).ids[5] += 1
        assert other.digest() != data.digest()
    moved, _, _ = random_dataset()
    moved.target.offsets[3] += 1  # the same words, cut differently
    assert moved.digest() != data.digest()


@pytest.mark.parametrize("size", [1, 3, 8, 40, 100])
def test_random_batches_hold_every_pair_once(size):
    data, _, _ = random_dataset()
    plan = RandomBatches(data, size).plan(0)
    assert sorted(np.concatenate([plan[k] for k in range(len(plan))])) == list(range(40))
    sizes = [len(plan[k]) for k in range(len(plan))]
    assert all(s == size for s in sizes[:-1])
    assert 1 <= sizes[-1] <= size


def test_random_batches_are_a_function_of_seed_and_epoch():
    data, _, _ = random_dataset()

    def order(seed, epoch):
        batches = RandomBatches(data, 8, seed)
        batches.plan(epoch + 1)  # what was planned before does not matter
        return batches.plan(epoch).order.tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize("shape", [None, (25, 30)])
def test_padding_equals_a_naive_count(shape):
    data, sources, targets = random_dataset()
    starts = np.array([0, 1, 9, 10, 33, 40])
    plan = Plan(np.random.default_rng(0).permutation(40), starts, None if shape is None else np.tile(shape, (5, 1)))
    cells = filled = 0
    for k in range(len(plan)):
        for sentences in (sources, targets):
            rows = [sentences[i] for i in plan[k]]
            cells += math.prod(shape) if shape else len(rows) * max(map(len, rows))
            filled += sum(map(len, rows))
    assert plan.padding(data) == pytest.approx(1 - filled / cells)
    batches = [plan.batch(k, data) for k in range(len(plan))]
    assert plan.padding(data) == pytest.approx(
        1 - filled / sum(b.source.numel() + b.target.numel() + len(b.target) for b in batches)
    )


@pytest.mark.parametrize("shapes", [None, np.tile((25, 30), (5, 1))])
def test_the_first_batches_of_a_plan_are_a_plan(shapes):
    data, _, _ = random_dataset()
    plan = Plan(np.random.default_rng(0).permutation(40), np.array([0, 1, 9, 10, 33, 40]), shapes)
    first = plan.first(3)
    assert len(first) == 3
    for k in range(3):
        assert torch.equal(first.batch(k, data).source, plan.batch(k, data).source)
    batches = [plan.batch(k, data) for k in range(3)]
    cells = sum(b.source.numel() + b.target.numel() + len(b.target) for b in batches)
    words = data.source_lengths[plan.order[:10]].sum() + data.target_lengths[plan.order[:10]].sum()
    assert first.padding(data) == pytest.approx(1 - words / cells)


def test_rows_that_fill_up_a_batch_hold_pairs_but_no_labels():
    data, _, _ = random_dataset()
    batch, alone = data.batch(np.array([3, 8, 5]), rows=5, width=20), data.batch(np.array([3, 8, 5]), width=20)
    assert batch.source.shape == (5, 20)
    assert batch.target.shape == (5, 19)
    assert (batch.source != PAD).any(1).all()  # a row of padding alone would have nothing to look at
    assert torch.equal(batch.labels, alone.labels)
    assert torch.equal(batch.positions, alone.positions)
    assert torch.equal(batch.source[:3], alone.source)


@pytest.mark.parametrize("shapes", [None, np.array([(25, 30), (9, 20), (9, 40), (25, 30), (8, 16)])])
def test_batches_made_at_once_are_those_made_one_by_one(shapes):
    data, _, _ = random_dataset()
    plan = Plan(np.random.default_rng(0).permutation(40), np.array([0, 1, 9, 10, 33, 40]), shapes)
    sizes = [(len(plan[k]), None) for k in range(5)] if shapes is None else shapes.tolist()
    at_once, iterated = data.batches([plan[k] for k in range(5)], sizes), list(plan.batches(data))
    for k, found in enumerate(zip(at_once, iterated, strict=True)):
        for name, expected in vars(plan.batch(k, data)).items():
            assert all(torch.equal(getattr(batch, name), expected) for batch in found), (k, name)
    assert len(iterated) == 5
    (last,) = plan.batches(data, 4)
    assert torch.equal(last.source, iterated[4].source)


class Orders(TorchDispatchMode):
    """How many operations a device is given; those that only look at memory another way are none."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        made_of_it = [r.alias_info for r in operation._schema.returns if r.alias_info is not None]
        self.count += all(alias.is_write for alias in made_of_it)
        return operation(*arguments, **(options or {}))


def test_a_gpu_takes_as_many_orders_for_several_batches_as_for_one(monkeypatch):
    monkeypatch.setattr(dataset, "MADE_AT_ONCE", 4)
    data, _, _ = random_dataset()
    there = data.to(torch.device("meta"))  # stands for a GPU
    plan = Plan(np.arange(40), np.arange(0, 41, 4))
    with Orders() as one:
        plan.batch(0, there)
    with Orders() as all_of_them:
        made = list(plan.batches(there))
    assert all_of_them.count == 3 * one.count > 30
    for batch, here in zip(made, plan.batches(data), strict=True):
        assert [t.shape for t in vars(batch).values()] == [t.shape for t in vars(here).values()]


def test_a_dataset_on_another_device_makes_its_batches_there():
    data, _, _ = random_dataset()
    there = data.to(torch.device("meta"))  # stands for a GPU: it knows shapes, and raises where data is asked back for
    batch, here = there.batch(np.arange(7)), data.batch(np.arange(7))
    assert {t.device.type for t in vars(batch).values()} == {"meta"}
    assert [t.shape for t in vars(batch).values()] == [t.shape for t in vars(here).values()]
    assert there.source_lengths is data.source_lengths


def test_ids_too_many_for_a_gpu_stay_where_they_are(monkeypatch):
    data, _, _ = random_dataset()
    monkeypatch.setattr(dataset, "RESIDENT", 100)
    assert data.to(torch.device("meta")) is data


def test_longest_is_that_of_each_batch():
    data, sources, _ = random_dataset()
    plan = RandomBatches(data, 7).plan(0)
    expected = [max(len(sources[i]) for i in plan[k]) for k in range(len(plan))]
    assert plan.longest(data.source_lengths).tolist() == expected
