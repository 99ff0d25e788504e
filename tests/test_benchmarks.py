"""What the benchmarks count and compare with: operations, lengths like opus_books', the original sampler."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import distil
import gpu_suite
import trainings
from batching import rounded
from book_lengths import drawn_lengths, join, tokens
from command import command as benchmark_command
from conftest import Lengths, command, digit_pairs, run_all
from corpora import write_jsonl
from steps import training_flops
from trainings import Frozen, epoch_row, settings_of

from config import UserError, preset
from corpus import load_corpus, split_corpus
from dataset import RandomBatches, prepare
from decoding import Search
from model import MultiHeadAttention, build_model, loss_sums
from train import Trainer
from translate import Translator


def test_operations_equal_those_that_pytorch_counts():
    config = preset("demo", d_model=64, heads=4, d_ff=96, layers=2, dropout=0.0, tied_embeddings=False)
    model = build_model(config, 50, 70, pad=0)
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.keep_weights = (
                True  # takes the formula, whose operations PyTorch counts; its fused one's it does not
            )
    pairs, s, t = 3, 11, 8
    source, target = torch.randint(4, 50, (pairs, s)), torch.randint(4, 70, (pairs, t))
    with FlopCounterMode(display=False) as counter:
        loss_sums(model(source, target).flatten(0, 1), torch.randint(4, 70, (pairs * t,)), 0.1)[0].backward()
    hidden_by_the_causal_mask = 3 * config.layers * pairs * t * 4 * 64 * (t - (t + 1) / 2)
    useful = training_flops(config, 70, np.full(pairs, s), np.full(pairs, t))
    assert counter.get_total_flops() == useful + hidden_by_the_causal_mask


@pytest.mark.parametrize("flag", ["--resume", "--begin-with"])
def test_a_benchmark_refuses_to_go_on_with_a_run(flag, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl"
    monkeypatch.setattr(sys, "argv", ["trainings.py", str(out), "--", flag, "runs/first"])
    assert trainings.main() == 2
    assert f"{flag} names a run" in capsys.readouterr().err
    assert not out.exists()


def test_a_place_where_nothing_can_be_written_costs_no_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(trainings, "train", None)
    monkeypatch.setattr(sys, "argv", ["trainings.py", str(tmp_path / "file" / "out.jsonl"), "--", "--preset", "demo"])
    assert trainings.main() == 2
    assert "Not a directory" in capsys.readouterr().err


def test_a_benchmark_that_is_stopped_says_so_and_ends_its_stage(tmp_path, monkeypatch, capsys):
    started, wait = [], subprocess.Popen.wait

    def interrupted(process, timeout=None):
        started.append(process)
        if len(started) == 1:
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    sleeping = ["-c", "import time; time.sleep(600)"]
    assert benchmark_command(lambda: gpu_suite.run_stage("stage", sleeping, tmp_path, 60, {}))() == 130
    assert "stopped" in capsys.readouterr().err
    assert started[0].poll() == -signal.SIGKILL


def test_joined_sentences_have_the_drawn_lengths_and_lose_no_side():
    long = [(" ".join(f"w{i}" for _ in range(20)), f"lungo {i}") for i in range(200)]
    short = [("a b c", f"corto {i}") for i in range(2000)]
    lengths = drawn_lengths(100)
    joined = join([long, short], lengths)
    assert len(joined) == 100
    assert max(abs(tokens(source) - length) for (source, _), length in zip(joined, lengths, strict=True)) <= 2
    assert " ".join(target for _, target in joined).count("corto 1 ") == 1  # each pair once
    for source, target in joined:
        assert source.count("a b c") == target.count("corto")
        assert len(set(source.split()) - set("abc")) == target.count("lungo")


def test_drawn_lengths_are_those_of_books():
    lengths = drawn_lengths(29_098)
    assert lengths.mean() == pytest.approx(30, abs=2)
    assert (lengths.min(), lengths.max()) == (3, 309)
    assert np.array_equal(lengths, drawn_lengths(29_098))


def test_the_original_sampler_keeps_its_batches_and_puts_the_longest_last():
    lengths = np.random.default_rng(0).integers(3, 90, 330)
    data = Lengths(lengths, lengths)
    plans = [Frozen(data, 32, seed=0).plan(epoch) for epoch in (0, 1)]
    batches = [[frozenset(plan[k].tolist()) for k in range(len(plan))] for plan in plans]
    assert set(batches[0]) == set(batches[1])
    assert batches[0][:-1] != batches[1][:-1]
    for plan in plans:
        assert data.source_lengths[plan[len(plan) - 1]].min() >= np.sort(data.source_lengths)[-10]
        assert len(plan[len(plan) - 1]) == 330 % 32


def test_random_batches_of_few_widths_are_the_same_and_lose_no_word():
    lengths = 2 + np.random.default_rng(0).geometric(0.1, (2, 330))
    data = Lengths(*lengths)
    plan = RandomBatches(data, 32).plan(0)
    found = rounded(plan, data, 4)
    assert np.array_equal(found.order, plan.order)
    assert len(np.unique(found.shapes, axis=0)) == 4
    assert (found.shapes[:, 0] == 32).all()
    assert all((lengths[:, plan[k]] <= found.shapes[k, 1]).all() for k in range(len(plan)))


def test_variants_are_read_as_the_command_line_is():
    assert settings_of("max_lr=1e-3,beta2=0.98") == ({"max_lr": 1e-3, "beta2": 0.98}, False)
    assert settings_of("batching=frozen") == ({"batching": "uniform"}, True)
    assert settings_of("max-lr=1e-3,tied_embeddings=true,compile=False") == (
        {"max_lr": 1e-3, "tied_embeddings": True, "compile": False},
        False,
    )
    assert settings_of("") == ({}, False)
    for wrong in ("max_rl=1e-3", "begin_with=runs/first", "seed=5", "average=3"):
        with pytest.raises(UserError, match=f"names '{wrong.partition('=')[0]}'"):
            settings_of(wrong)


def compare_beside(row: dict, seeds: list[int], tiny, out: Path, monkeypatch) -> None:
    """Compares with a file that holds one record, of seed 0; training anything would be an error."""
    record = {"variant": "", "seed": 0, "settings": asdict(replace(tiny, **trainings.FIXED)), **row}
    out.write_text(json.dumps(record) + "\n")
    monkeypatch.setattr(trainings, "train", None)
    trainings.compare(SimpleNamespace(out=out, seeds=seeds, each=[""]), command(tiny))


def test_a_comparison_goes_on_with_runs_of_the_same_settings_and_corpus_alone(tiny, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    compare_beside({}, [0], tiny, out, monkeypatch)
    other = asdict(replace(tiny, epochs=9, **trainings.FIXED))
    with pytest.raises(UserError, match=r"another epochs \(9 instead of 3\)"):
        compare_beside({"settings": other}, [0], tiny, out, monkeypatch)
    with pytest.raises(UserError, match=r"another seed of the split \(1 instead of 0\)"):
        compare_beside({"split_seed": 1}, [0], tiny, out, monkeypatch)
    with pytest.raises(UserError, match="another version of"):
        compare_beside({"sources": "another corpus"}, [1], tiny, out, monkeypatch)


def test_a_record_that_was_cut_short_is_named(tmp_path):
    (tmp_path / "out.jsonl").write_text('{"variant": ""}\n{"variant": ')
    with pytest.raises(UserError, match="Line 2"):
        trainings.rows_of(tmp_path / "out.jsonl")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_reading_the_last_updates_loss_changes_nothing_else(tiny, tmp_path, accumulate):
    config = replace(tiny, accumulate=accumulate)
    data = prepare(config)
    read = Trainer(config, data, torch.device("cpu"), "fp32", tmp_path)
    row = epoch_row(read)
    plain = Trainer(config, data, torch.device("cpu"), "fp32", tmp_path)
    plan = plain.batches.plan(0)
    plain.train_epoch(plan)
    assert row["update"] == plain.update == -(-len(plan) // accumulate)
    assert row["train_loss"] == float(plain.loss_sums[0]) / plain.sums.tokens
    assert all(torch.equal(a, b) for a, b in zip(read.model.parameters(), plain.model.parameters(), strict=True))
    last = range((plain.update - 1) * accumulate, len(plan))
    words = sum(int((data.train.target_lengths[plan[k]] - 1).sum()) for k in last)
    before = plain.loss_sums[0] - words * row["last_batch_loss"]
    assert 0 < before < plain.loss_sums[0]
    assert row["last_batch_loss"] != pytest.approx(row["train_loss"], rel=1e-3)


def test_an_epoch_of_one_update_ends_with_its_own_loss(tiny, tmp_path):
    config = replace(tiny, batching="dynamic", batch_size=1000)
    row = epoch_row(Trainer(config, prepare(config), torch.device("cpu"), "fp32", tmp_path))
    assert row["update"] == 1
    assert row["last_batch_loss"] == row["train_loss"]


# --- Several runs as one translator ---------------------------------------------------------------------------


@pytest.fixture
def two_runs(tiny) -> list[Path]:
    return [run_all(replace(tiny, name=f"epochs-{epochs}", epochs=epochs)).run for epochs in (1, 3)]


def distil_main(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["distil.py", *map(str, words)])
    return distil.main()


def texts(dataset, config, split) -> list[tuple[str, str]]:
    """Pairs of a split of a corpus, as train.py reads it."""
    parts = split_corpus(load_corpus(replace(config, dataset=str(dataset))), config)
    part = dict(zip(("train", "validation"), parts, strict=True))[split]
    return [pair for sides in part.chunks() for pair in zip(*sides, strict=True)]


def test_an_ensembles_probabilities_are_the_mean_of_its_models(two_runs):
    models = [Translator(run, device="cpu", threads=1).model for run in two_runs]
    ensemble = distil.Ensemble(models)
    source, target = torch.randint(4, 14, (3, 7)), torch.randint(4, 14, (3, 5))
    with torch.no_grad():
        expected = sum(model(source, target).softmax(-1) for model in models) / 2
        encoded, mask = ensemble.encode(source)
        memory, past, found = ensemble.memory(encoded), None, []
        for t in range(5):  # as a search reads them, one word after another
            hidden, past = ensemble.decode(target[:, t : t + 1], memory, mask, past)
            found.append(ensemble.projection(hidden).softmax(-1))
    torch.testing.assert_close(torch.cat(found, dim=1), expected)


def test_a_distilled_corpus_has_the_references_and_the_runs_translations(tiny, two_runs, tmp_path, monkeypatch):
    assert distil_main(monkeypatch, tmp_path / "own", *two_runs, "--beam", 2, "--threads", 1) == 0
    pairs = texts(tiny.dataset, tiny, "train")
    both = distil.together([Translator(run, device="cpu", threads=1, search=Search(beam=2)) for run in two_runs])
    sources = [source for source, _ in pairs]
    added = zip(sources, both(sources), strict=True)
    assert texts(tmp_path / "own", tiny, "train") == pairs + [pair for pair in added if pair[1]]
    assert texts(tmp_path / "own", tiny, "validation") == texts(tiny.dataset, tiny, "validation")


def test_a_distilled_corpus_keeps_the_splits_of_its_source(tiny, tmp_path, monkeypatch):
    sizes = {"train": 60, "dev": 7, "test": 6, "test_2017": 5, "challenge": 4}
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split, size in sizes.items():
        write_jsonl(folder / f"{split}.jsonl", digit_pairs(size, seed=size))
    files = {"configs": [{"config_name": "en-it", "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in sizes]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(files)}\n---\n", encoding="utf-8")
    run = run_all(replace(tiny, dataset=str(folder), epochs=1)).run
    assert distil_main(monkeypatch, tmp_path / "own", run, "--beam", 1, "--threads", 1) == 0
    written = {split: len(rows) for split, rows in load_corpus(replace(tiny, dataset=str(tmp_path / "own"))).items()}
    assert written == {"train": 120, "validation": 7, "test": 6, "test_2017": 5, "challenge": 4}


def test_an_ensemble_of_one_run_twice_translates_as_the_run_does(two_runs):
    sentences = ["one two three", "four five", "nine"]
    once, one, other = (Translator(two_runs[1], device="cpu", threads=1, search=Search(beam=3)) for _ in range(3))
    assert distil.together([one, other])(sentences) == once(sentences)


def test_runs_on_other_sentences_and_a_folder_that_is_there_are_refused(tiny, two_runs, tmp_path, monkeypatch, capsys):
    other = run_all(replace(tiny, name="other", epochs=1, seed=1)).run
    assert distil_main(monkeypatch, tmp_path / "own", two_runs[0], other, "--threads", 1) == 2
    assert "same sentences" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()
    assert distil_main(monkeypatch, tmp_path, two_runs[0]) == 2
    assert "is there already" in capsys.readouterr().err
    assert distil_main(monkeypatch, tmp_path / "own", two_runs[0], "--beam", 0) == 2
    assert "beam is 0" in capsys.readouterr().err
