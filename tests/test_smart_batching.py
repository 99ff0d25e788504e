"""Uniform batches: every pair once, the budget kept, little padding, and no order of length."""

from itertools import combinations

import numpy as np
import pytest
from conftest import Lengths, correlation_of_neighbours

from dataset import Plan, RandomBatches
from smart_batching_dataset import UniformBatches, longer_side, shape_widths


def like_books(n, seed=0):
    """Lengths distributed like those of opus_books en-it, start and end mark counted."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(np.log(23), 0.75, n)
    source = np.clip(np.round(base), 3, 309).astype(np.int64)
    target = np.clip(np.round(base * rng.lognormal(0, 0.2, n)), 3, 274).astype(np.int64)
    return Lengths(source + 2, target + 2)


@pytest.fixture(scope="module")
def books():
    return like_books(29_098)


def batches_of(plan):
    return [plan[k] for k in range(len(plan))]


def sorted_plan(data, size):
    """Batches of like lengths in order of length, as they would be without the shuffle."""
    order = np.argsort(longer_side(data), kind="stable")
    return Plan(order, np.append(np.arange(0, len(order), size), len(order)))


# --- Every pair, within the limits --------------------------------------------------------------------------

SIZES = [1, 2, 31, 32, 33, 500, 1001]


@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
@pytest.mark.parametrize("pool_size", [1, 7, 100, 16_384])
@pytest.mark.parametrize("n", SIZES)
def test_every_pair_stands_in_exactly_one_batch(n, pool_size, batch_by):
    batches = UniformBatches(like_books(n), 32, seed=1, batch_by=batch_by, pool_size=pool_size)
    for epoch in (0, 5):
        planned = batches_of(batches.plan(epoch))
        assert sorted(np.concatenate(planned).tolist()) == list(range(n))
        assert min(map(len, planned)) >= 1


@pytest.mark.parametrize("pool_size", [64, 16_384])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_no_batch_of_tokens_exceeds_the_budget_unless_one_pair_does(batch_size, pool_size):
    data = like_books(2000)
    batches = UniformBatches(data, batch_size, batch_by="tokens", pool_size=pool_size)
    longer = longer_side(data)
    for batch in batches_of(batches.plan(0)):
        assert len(batch) == 1 or len(batch) * longer[batch].max() <= batches.token_budget


@pytest.mark.parametrize("shapes", [0, 8])
@pytest.mark.parametrize("batch_size", [1, 8, 32, 128])
def test_an_epoch_has_as_many_updates_as_one_of_random_batches(books, batch_size, shapes):
    updates = len(UniformBatches(books, batch_size, shapes=shapes).plan(0))
    random = len(RandomBatches(books, batch_size).plan(0))
    ends = 2 + shapes  # each pool's and each shape's last batch may hold fewer pairs
    assert random * 0.99 <= updates <= random * 1.01 + ends


def test_pairs_of_a_fixed_shape_are_shared_out_evenly(books):
    plan = UniformBatches(books, 32, shapes=16).plan(0)
    sizes = np.diff(plan.starts)
    for shape in np.unique(plan.shapes, axis=0):
        alike = sizes[(plan.shapes == shape).all(1)]
        assert alike.max() - alike.min() <= 1
        assert alike.max() <= shape[0]


def test_fixed_batches_have_one_shape_to_be_recorded_for():
    data = like_books(330)
    plan = RandomBatches(data, 32, width=350).plan(0)
    assert plan.shapes.tolist() == [[32, 350]] * 11
    assert plan.padding(data) == 1 - (data.source_lengths.sum() + data.target_lengths.sum()) / (2 * 11 * 32 * 350)


@pytest.mark.parametrize(("n", "pool_size"), [(640, 16_384), (1000, 16_384), (1000, 300), (5, 16_384)])
def test_batches_of_sentences_hold_the_count_and_only_one_a_pool_holds_fewer(n, pool_size):
    plan = UniformBatches(like_books(n), 32, batch_by="sentences", pool_size=pool_size).plan(0)
    sizes = [len(batch) for batch in batches_of(plan)]
    assert max(sizes) <= 32
    assert sum(size < 32 for size in sizes) <= max(2, round(n / pool_size))


def test_pairs_that_are_all_longer_than_the_budget_go_alone():
    data = Lengths(np.array([10, 10, 1000, 1000]), np.array([10, 10, 900, 900]))
    planned = [sorted(batch.tolist()) for batch in batches_of(UniformBatches(data, 1).plan(0))]
    assert [2] in planned
    assert [3] in planned


# --- Chance -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
def test_a_plan_is_a_function_of_seed_and_epoch(batch_by):
    data = like_books(500)

    def plan(seed, epoch, planned_before=()):
        batches = UniformBatches(data, 16, seed, batch_by, pool_size=128)
        for earlier in planned_before:
            batches.plan(earlier)
        p = batches.plan(epoch)
        return tuple(p.order.tolist()), tuple(p.starts.tolist())

    assert plan(0, 3) == plan(0, 3, planned_before=(0, 1, 2, 9))
    assert len({plan(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}) == 6


@pytest.mark.parametrize("n", [4_600, 29_098])
@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
def test_epochs_differ_in_the_composition_of_their_batches(n, batch_by):
    batches = UniformBatches(like_books(n), 32, batch_by=batch_by)
    first, second = ({frozenset(b.tolist()) for b in batches_of(batches.plan(epoch))} for epoch in (0, 1))
    assert len(first & second) < 0.1 * len(first)


@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
def test_the_length_of_one_batch_tells_nothing_of_the_next(books, batch_by):
    longer = longer_side(books)
    for epoch in range(3):
        plan = UniformBatches(books, 32, batch_by=batch_by).plan(epoch)
        assert abs(correlation_of_neighbours(plan, longer)) < 0.2
    assert correlation_of_neighbours(sorted_plan(books, 32), longer) > 0.7


@pytest.mark.parametrize("shapes", [0, 16])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_batches_of_an_update_are_one_of_each_stratum_of_length(books, count, shapes):
    plan = UniformBatches(books, 16, accumulate=count, shapes=shapes).plan(1)
    longest = plan.longest(longer_side(books)) if plan.shapes is None else plan.shapes[:, 1]
    whole = len(plan) // count * count
    updates = longest[:whole].reshape(-1, count)
    assert (updates[:, :-1].max(0) <= updates[:, 1:].min(0)).all()  # no stratum reaches into the next
    for column in updates.T:  # and within a stratum batches come in no order
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.2
    assert sorted(np.concatenate(batches_of(plan))) == list(range(len(books)))


@pytest.mark.parametrize("n", [1, 2, 5, 33, 500])
@pytest.mark.parametrize("count", [2, 7, 2**31 - 1])
def test_every_pair_has_its_batch_however_few_there_are_for_an_update(n, count):
    plan = UniformBatches(like_books(n), 8, accumulate=count).plan(0)
    assert sorted(np.concatenate(batches_of(plan))) == list(range(n))


def test_correlation_of_neighbours_equals_its_definition():
    data = like_books(400)
    plan, longer = RandomBatches(data, 8).plan(0), longer_side(data)
    longest = [max(longer[i] for i in batch) for batch in batches_of(plan)]
    x, y = np.array(longest[:-1], float), np.array(longest[1:], float)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    assert correlation_of_neighbours(plan, longer) == pytest.approx(covariance / (x.std() * y.std()))


# --- Gain ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_by", "most"), [("tokens", 0.05), ("sentences", 0.1)])
def test_little_of_a_batch_is_padding(books, batch_by, most):
    random = RandomBatches(books, 32).plan(0).padding(books)
    for seed in range(2):
        padding = UniformBatches(books, 32, seed, batch_by).plan(0).padding(books)
        assert padding <= most
        assert padding < random / 5


@pytest.mark.parametrize("n", [4_600, 15_000, 24_000, 25_000, 41_000])
def test_little_is_padding_whatever_the_size_of_the_corpus(n):
    data = like_books(n)
    assert UniformBatches(data, 32).plan(0).padding(data) <= 0.1


def test_a_smaller_pool_pads_more(books):
    padding = [UniformBatches(books, 32, pool_size=size).plan(0).padding(books) for size in (16_384, 1024, 64)]
    assert padding == sorted(padding)
    assert padding[0] < padding[-1] < RandomBatches(books, 32).plan(0).padding(books)


@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
@pytest.mark.parametrize("batch_size", [16, 32, 128])
def test_the_number_of_updates_is_about_that_of_random_batches(books, batch_size, batch_by):
    uniform = len(UniformBatches(books, batch_size, batch_by=batch_by).plan(0))
    assert uniform == pytest.approx(len(RandomBatches(books, batch_size).plan(0)), rel=0.1)


def test_a_million_pairs_are_planned_as_arrays():
    data = like_books(1_000_000)
    plan = UniformBatches(data, 32).plan(0)
    for array in (plan.order, plan.starts):
        assert isinstance(array, np.ndarray)
        assert array.ndim == 1
        assert np.issubdtype(array.dtype, np.integer)
    assert plan.starts[0] == 0
    assert plan.starts[-1] == len(plan.order) == len(data)
    assert (np.diff(plan.starts) >= 1).all()
    assert np.array_equal(np.bincount(plan.order, minlength=len(data)), np.ones(len(data)))
    assert plan[3].base is not None  # a view, not a copy
    assert plan.padding(data) <= 0.05


# --- Few fixed shapes -------------------------------------------------------------------------------------------


def padded_cells(lengths, widths):
    return sum(min(w for w in widths if w >= length) for length in lengths)


def test_no_other_widths_pad_less():
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 9):
        lengths = rng.integers(3, 12, 30)
        widths = shape_widths(lengths, count)
        distinct = sorted(set(lengths.tolist()))
        choices = combinations(distinct, min(count, len(distinct)))
        best = min(padded_cells(lengths, c) for c in choices if c[-1] == distinct[-1])
        assert widths.tolist() == sorted(set(widths.tolist()))
        assert len(widths) == min(count, len(distinct))
        assert padded_cells(lengths, widths) == best


@pytest.mark.parametrize("batch_by", ["tokens", "sentences"])
@pytest.mark.parametrize("shapes", [1, 5, 16])
def test_fixed_shapes_are_few_the_same_in_every_epoch_and_hold_every_pair_once(shapes, batch_by):
    data = like_books(3000)
    batches, longer = UniformBatches(data, 32, batch_by=batch_by, shapes=shapes), longer_side(data)
    seen = []
    for epoch in (0, 4):
        plan = batches.plan(epoch)
        assert sorted(np.concatenate(batches_of(plan)).tolist()) == list(range(3000))
        for batch, (rows, width) in zip(batches_of(plan), plan.shapes.tolist(), strict=True):
            assert 1 <= len(batch) <= rows
            assert longer[batch].max() <= width
        seen.append({tuple(shape) for shape in plan.shapes.tolist()})
    assert seen[0] == seen[1]
    assert len(seen[0]) == shapes


def test_batches_in_fixed_shapes_are_drawn_anew_and_in_no_order_of_length(books):
    batches, longer = UniformBatches(books, 32, shapes=16), longer_side(books)
    first, second = ({frozenset(b.tolist()) for b in batches_of(batches.plan(epoch)) if len(b) > 1} for epoch in (0, 1))
    assert len(first & second) < 0.1 * len(first)
    assert abs(correlation_of_neighbours(batches.plan(0), longer)) < 0.2


def test_sixteen_shapes_waste_far_less_than_dynamic_padding(books):
    assert UniformBatches(books, 32, shapes=16).plan(0).padding(books) < 0.2
    assert RandomBatches(books, 32).plan(0).padding(books) > 0.6
