"""A run that was stopped goes on bit for bit; its checkpoints are those of its record; another may begin with them."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import assert_same_weights, command, digit_pairs, groups, run_all, trainer_for, weights
from corpora import write_hub_folder, write_jsonl

import run_folder
import train
from config import UserError
from train import Trainer

ROOT = Path(__file__).parent.parent


def stop_after(monkeypatch, updates: int) -> None:
    """Lets a signal come right after so many updates."""
    step = Trainer.step

    def stepped(self, group):
        norm = step(self, group)
        if self.update == updates:
            self.stop_signal = signal.SIGTERM
        return norm

    monkeypatch.setattr(Trainer, "step", stepped)


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
    monkeypatch.setattr(Trainer, "validate", lambda t, scored: {**validate(t, scored), "valid_nll": next(losses)})
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


def test_lines_written_after_the_checkpoint_are_taken_back_on_resume(tiny, monkeypatch):
    stop_after(monkeypatch, 22)
    stopped = train.start(tiny)
    stopped.train()
    monkeypatch.undo()
    with open(stopped.run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "from": "a run that was killed"}\n')
    train.resume(str(stopped.run), {}).train()
    assert "killed" not in (stopped.run / "metrics.jsonl").read_text()


@pytest.mark.parametrize("text", [None, "", "[]", '{"settings": {'])
def test_a_lost_or_damaged_description_is_no_reason_not_to_go_on(tiny, text):
    run = run_all(dataclasses.replace(tiny, epochs=1)).run
    (run / "config.json").unlink() if text is None else (run / "config.json").write_text(text)
    update = train.resume(str(run), {}).update
    description = json.loads((run / "config.json").read_text())
    assert description["settings"]["d_model"] == tiny.d_model
    assert description["resumed"][0]["after_update"] == update


def test_a_disk_that_is_full_on_resume_leaves_the_description(tiny, monkeypatch):
    run = run_all(dataclasses.replace(tiny, epochs=1)).run
    before = (run / "config.json").read_text()
    (run / "config.part").mkdir()  # so that nothing can be written beside it
    with pytest.raises(OSError, match=r"config\.part"):
        train.resume(str(run), {})
    assert (run / "config.json").read_text() == before


def test_a_checkpoint_holds_what_reading_one_asks_for(tiny):
    assert {"format", *trainer_for(tiny).state()} == run_folder.CONTENTS


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
    config = dataclasses.replace(tiny, dataset=str(write_jsonl(corpus, digit_pairs(100))))
    stop_after(monkeypatch, 2)
    stopped = train.start(config)
    stopped.train()
    write_jsonl(corpus, digit_pairs(100, seed=3))
    with pytest.raises(UserError, match="no longer the one"):
        train.resume(str(stopped.run), {})


def test_a_validation_split_that_has_changed_since_is_refused(tmp_path, tiny, monkeypatch):
    folder = write_hub_folder(tmp_path / "corpus", train=digit_pairs(100), validation=digit_pairs(9, seed=1))
    stop_after(monkeypatch, 2)
    stopped = train.start(dataclasses.replace(tiny, dataset=str(folder)))
    stopped.train()
    write_hub_folder(folder, train=digit_pairs(100), validation=digit_pairs(9, seed=2))
    with pytest.raises(UserError, match="The validation part"):
        train.resume(str(stopped.run), {})


def test_a_corpus_may_have_moved_since(tmp_path, tiny, monkeypatch):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", digit_pairs(100))
    stop_after(monkeypatch, 2)
    stopped = train.start(dataclasses.replace(tiny, dataset=str(corpus)))
    stopped.train()
    there = str(corpus.rename(tmp_path / "elsewhere.jsonl"))
    assert train.resume(str(stopped.run), {"dataset": there}).config.dataset == there
    assert json.loads((stopped.run / "config.json").read_text())["settings"]["dataset"] == there


def test_a_run_that_another_process_trains_is_left_alone(tiny, capsys):
    pytest.importorskip("fcntl")
    run = run_all(dataclasses.replace(tiny, epochs=1)).run
    before = {path: path.read_bytes() for path in run.iterdir()}
    with run_folder.held(run):  # a lock minds who opened the folder, and not which process did
        assert train.main(["--resume", str(run)]) == 2
    assert "trained by another process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert train.main(["--resume", str(run)]) == 0


def test_weights_of_another_model_are_refused(tiny):
    run = run_all(dataclasses.replace(tiny, epochs=1)).run
    state = torch.load(run / "last.pt", weights_only=True)
    state["config"]["d_ff"] = 64
    run_folder.save_checkpoint(run / "last.pt", state)
    with pytest.raises(UserError, match="do not fit the model"):
        train.resume(str(run), {})


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


def test_signals_do_after_a_run_what_they_did_before_it(tiny, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop_after(monkeypatch, 3)
    assert train.main(command(tiny)) == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    monkeypatch.undo()
    assert train.main(["--resume", str(Path(tiny.runs_dir) / "run")]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_prints_into_whatever_stands_for_the_output_and_says_what_keeps_its_picture_from_being_drawn(
    tiny, capsys, monkeypatch
):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert train.main(command(dataclasses.replace(tiny, epochs=1))) == 0
    assert "1 epochs in" in said.getvalue()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "draw_curves", full)
    assert train.main(["--resume", str(Path(tiny.runs_dir) / "run")]) == 2
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("stderr", [subprocess.PIPE, subprocess.STDOUT])
def test_a_signal_saves_where_the_output_is_no_longer_read(tiny, stderr):
    config = dataclasses.replace(tiny, batch_size=2)  # an epoch long enough not to end, and save, by itself
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command(config)],
        stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    steps = Path(config.runs_dir) / "run" / "steps.jsonl"
    while not steps.exists() or not steps.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.stdout.close()  # what `| tee` does at the same Ctrl-C
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    trainer = train.resume(str(Path(config.runs_dir) / "run"), {})
    assert trainer.epoch == 0
    assert trainer.update == trainer.batch >= 5


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


@pytest.mark.parametrize("validation", [1, 3, 4])  # of the first epoch, of the last one, of the average
def test_a_signal_breaks_off_a_validation_which_is_made_anew_when_the_run_goes_on(tiny, validation, monkeypatch):
    config = dataclasses.replace(tiny, average=2)
    whole = run_all(dataclasses.replace(config, name="whole"))
    stopped = train.start(dataclasses.replace(config, name="cut"))
    begun, ended, translate = [], [], train.translate_ids

    def interrupted(*arguments):
        begun.append(stopped.epoch)
        if len(begun) == validation:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)  # Python need not look at the signal before the next call
        ended.append(translate(*arguments))
        return ended[-1]

    handler = signal.signal(signal.SIGTERM, lambda number, _: train.on_signal(stopped, number))
    monkeypatch.setattr(train, "translate_ids", interrupted)
    try:
        assert not stopped.train()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert len(ended) == len(stopped.record.epochs) == validation - 1
    assert not stopped.validating
    monkeypatch.undo()
    resumed = train.resume(str(stopped.run), {})
    assert resumed.train()
    assert_same_weights(weights(resumed), weights(whole))
    for row in (*resumed.record.epochs, *whole.record.epochs, resumed.record.averaged, whole.record.averaged):
        row |= {name: None for name in row if "seconds" in name or name == "tokens_per_second"}
    assert resumed.record.epochs == whole.record.epochs
    assert resumed.record.averaged == whole.record.averaged


def test_checkpoints_within_an_epoch_come_after_the_minutes_set(tiny, monkeypatch):
    saves = []
    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", lambda self, best=False: (saves.append(self.batch), save(self, best)))
    run_all(dataclasses.replace(tiny, epochs=1, checkpoint_minutes=1e-9))
    assert saves[:3] == [1, 2, 3]


# --- Beginning with another run -------------------------------------------------------------------------------


def test_a_run_may_begin_with_the_best_weights_and_the_vocabulary_of_another(tiny, tmp_path):
    first = run_all(dataclasses.replace(tiny, average=2))
    mean = json.loads((first.run / "average.json").read_text())
    lowest = min(mean["valid_nll"], first.record.lowest_nll())
    pairs = zip(digit_pairs(90, seed=7), digit_pairs(90, seed=8), strict=True)  # so long that hardly any is known
    other = write_jsonl(tmp_path / "other.jsonl", [(f"{a} {c}", f"{b} {d}") for (a, b), (c, d) in pairs])
    same, new = (
        train.start(dataclasses.replace(tiny, name=name, dataset=dataset, begin_with=str(first.run)))
        for name, dataset in (("same", tiny.dataset), ("new", str(other)))
    )
    assert same.held_out_loss()[1] == pytest.approx(lowest)
    assert_same_weights(weights(new), weights(same))
    assert [t.to_str() for t in new.data.tokenizers] == [t.to_str() for t in first.data.tokenizers]
    assert new.update == 0
    assert new.optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("own", [False, True])  # whether the corpus has a validation split of its own
def test_a_run_on_a_corpus_that_has_grown_may_not_begin_with_one_that_learnt_what_is_held_out_now(tiny, own, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    pairs = digit_pairs(140)
    write_jsonl(folder / "train.jsonl", pairs[:100])
    if own:
        write_jsonl(folder / "validation.jsonl", digit_pairs(20, seed=9))
    first = run_all(dataclasses.replace(tiny, dataset=str(folder), epochs=1))
    write_jsonl(folder / "train.jsonl", pairs)
    second = dataclasses.replace(tiny, dataset=str(folder), name="second", begin_with=str(first.run))
    if own:
        assert len(train.start(second).data.train) == 140
        return
    with pytest.raises(UserError, match="has learnt"):
        train.start(second)
    assert not (Path(tiny.runs_dir) / "second").exists()


def test_the_corpus_of_the_run_to_begin_with_is_known_by_any_name(tiny, tmp_path):
    first = run_all(dataclasses.replace(tiny, epochs=1))
    copy = Path(shutil.copy(tiny.dataset, tmp_path / "copy.jsonl"))
    config = dataclasses.replace(tiny, name="second", dataset=str(copy), begin_with=str(first.run))
    with pytest.raises(UserError, match="--seed 0"):
        train.start(dataclasses.replace(config, seed=5))
    assert train.start(config).data.digests == first.data.digests


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"d_ff": 64}, "d_ff is 64, but 32"),
        ({"begin_with": "no"}, "run folder no"),
        ({"seed": 5}, "--seed 0 --held-out 0.1"),
        ({"held_out": 0.3}, "--seed 0 --held-out 0.1"),
    ],
)
def test_a_run_cannot_begin_with_another_size_or_split_nor_with_no_run(tiny, change, said, capsys):
    first = run_all(dataclasses.replace(tiny, epochs=1))
    config = dataclasses.replace(tiny, **{"name": "second", "begin_with": str(first.run), **change})
    assert train.main(command(config)) == 2
    assert said in capsys.readouterr().err
    assert not (Path(tiny.runs_dir) / "second").exists()
