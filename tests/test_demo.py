"""The commands that README shows to a newcomer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config
import train
import translate

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(words, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        **options,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)  # where README's commands are typed


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """README's first command without its installation, cut short: two epochs, in a folder of its own."""
    (line,) = re.findall(r"&& \.venv/bin/python (train\.py --preset demo)$", README, re.MULTILINE)
    runs = tmp_path_factory.mktemp("runs")
    return runs / "short", run([*line.split(), "--epochs", "2", "--runs-dir", str(runs), "--name", "short"])


def test_the_demo_trains_on_the_bundled_sample_without_a_network(demo):
    folder, process = demo
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[1]["train_loss"] < rows[0]["train_loss"] < 7
    assert rows[1]["valid_nll"] < rows[0]["valid_nll"]
    assert {"bleu", "chrf", "cer", "wer", "valid_perplexity", "tokens_per_second", "padding"} <= rows[0].keys()
    assert rows[0]["padding"] < 0.1
    assert "translate with: python translate.py" in process.stdout


def test_what_the_demo_leaves_translates_a_line_for_a_line(demo):
    folder, _ = demo
    sentences = "The dog is hungry.\n\nWhere is the red book?\n"
    process = run(["translate.py", str(folder)], input=sentences)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == 3
    assert lines[1] == ""
    assert lines[0]
    assert lines[2]


def test_translations_do_not_depend_on_their_company(demo):
    translator = translate.Translator(str(demo[0]), "last", device="cpu")
    sentences = [s for s, _ in train.prepare(translator.config).validation.texts[:40]]
    together = translator(sentences)
    assert together == [translator([sentence])[0] for sentence in sentences]


@pytest.mark.parametrize(("script", "parser"), [("train", config.parser), ("translate", translate.parser)])
def test_every_flag_that_readme_shows_exists(script, parser):
    shown = set(re.findall(r"--[a-z][a-z-]+", " ".join(re.findall(rf"\b{script}\.py[^\n|#`]*", README))))
    assert len(shown) > 3
    assert shown <= parser()._option_string_actions.keys()


def test_every_file_that_readme_names_is_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(links) > 8
    for link in links:
        file, _, heading = link.partition("#")
        file = file or "README.md"  # a place in the page itself
        assert (ROOT / file).exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link
