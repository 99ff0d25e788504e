"""Checkpoints that outlive a crash, a full disk and file systems of all kinds."""

import json
import os
from pathlib import Path

import pytest
import torch

import run_folder
from config import Config, UserError


def test_a_folder_without_a_checkpoint_is_not_to_be_resumed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match=r"without a checkpoint.*--name"):
        run_folder.refuse_existing(run)
    with pytest.raises(UserError, match="no checkpoint yet"):
        run_folder.checkpoint_path(run, "last")
    run_folder.save_checkpoint(run / "last.pt", {})
    with pytest.raises(UserError, match="--resume"):
        run_folder.refuse_existing(run)
    with pytest.raises(UserError, match=r"no checkpoint average.pt; it has: last.pt.*--average"):
        run_folder.checkpoint_path(run, "average")


@pytest.mark.parametrize("saved", [False, True])
def test_a_full_memory_takes_away_only_a_folder_without_a_checkpoint(tmp_path, saved):
    run = tmp_path / "run"
    run.mkdir()
    if saved:
        run_folder.save_checkpoint(run / "last.pt", {})
    with pytest.raises(MemoryError), run_folder.removed_where_it_cannot_begin(run):
        raise MemoryError
    assert run.exists() == saved


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    run_folder.save_checkpoint(path, {"n": torch.ones(3)})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"No space left.*saved before stands.*--resume"):
        run_folder.save_checkpoint(path, {"n": torch.zeros(3)})
    assert torch.equal(torch.load(path, weights_only=True)["n"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_disk_without_room_for_the_first_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"No space left.*none before it.*begin the run again") as error:
        run_folder.save_checkpoint(tmp_path / "last.pt", {"n": 1})
    assert "--resume" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_text(tmp_path):
    run_folder.rewrite(tmp_path / "config.json", "old")
    (tmp_path / "config.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run_folder.rewrite(tmp_path / "config.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config.json", "old")]


def test_a_description_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "rewrite", full)
    with pytest.raises(UserError, match="No space left"):
        run_folder.create(tmp_path / "run", Config(), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[1]", '{"resumed": 5}', '{"resumed": null}'])
def test_a_damaged_description_is_no_reason_not_to_go_on(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    run_folder.note_resume(tmp_path, Config(), 7)
    resumed = json.loads((tmp_path / "config.json").read_text())["resumed"]
    assert [row["after_update"] for row in resumed] == [7]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_while_writing_is_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    run_folder.save_checkpoint(path, {"n": torch.ones(3)})
    (tmp_path / "last.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"could not be written .*saved before stands"):
        run_folder.save_checkpoint(path, {"n": torch.zeros(300_000)})
    assert torch.equal(torch.load(path, weights_only=True)["n"], torch.ones(3))


def test_where_there_are_no_links_the_best_checkpoint_is_a_copy(tmp_path, monkeypatch):
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    run_folder.save_checkpoint(last, {"n": 1})
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    run_folder.keep_as(last, best)
    run_folder.save_checkpoint(last, {"n": 2})
    assert torch.load(best, weights_only=True)["n"] == 1


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    flush = os.fsync

    def refuse_folders(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    run_folder.save_checkpoint(tmp_path / "last.pt", {"n": 1})
    assert torch.load(tmp_path / "last.pt", weights_only=True)["n"] == 1


def test_a_kept_checkpoint_does_not_change_with_the_next_save(tmp_path):
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for value in range(3):
        run_folder.save_checkpoint(last, {"n": value})
        if value == 1:
            run_folder.keep_as(last, best)
    assert torch.load(last, weights_only=True)["n"] == 2
    assert torch.load(best, weights_only=True)["n"] == 1
