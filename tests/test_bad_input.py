"""What a user can get wrong ends in one sentence and exit code 2, and leaves nothing behind."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpora import PAIRS, write_hub_folder, write_jsonl

import train
import translate
from config import HERE, Config
from corpus import HTTP_ERROR, load_corpus, pairs
from run_folder import FORMAT, held

MAIN = Path(train.__file__).parent
TINY = [
    "--d-model", "16", "--layers", "1", "--heads", "2", "--d-ff", "32", "--epochs", "1", "--batch-size", "8",
    "--seq-len", "20", "--min-frequency", "1", "--device", "cpu", "--precision", "fp32", "--threads", "1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet_and_apart(tmp_path_factory):
    """A cache of their own, no progress bars, and signal handlers and threads as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    """A tiny finished run: its folder and its corpus."""
    folder = tmp_path_factory.mktemp("good")
    corpus = write_jsonl(folder / "corpus.jsonl", PAIRS)
    assert train.main(["--dataset", str(corpus), "--runs-dir", str(folder), "--name", "run", *TINY]) == 0
    return folder / "run", corpus


@pytest.fixture
def run(good_run, tmp_path):
    """A copy of the tiny run that a test may damage."""
    return Path(shutil.copytree(good_run[0], tmp_path / "run"))


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def error_of(main, argv, capsys):
    """The sentence with which a command ends that cannot work."""
    capsys.readouterr()
    code = main([str(argument) for argument in argv])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert captured.err.splitlines()[-1] == errors[0]
    assert "Traceback" not in captured.err
    assert errors[0].endswith(".")
    return errors[0]


def refuse(argv, capsys, *parts):
    """Training with these arguments ends in an error that holds `parts`, and leaves no run folder."""
    message = error_of(train.main, [*argv, *([] if "--resume" in argv else TINY)], capsys)
    for part in parts:
        assert str(part) in message
    assert not Path("runs").exists()
    assert not list(Path().iterdir())
    return message


# --- Corpora that are not there -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["./nowhere", "../nowhere", "/nowhere/at/all", "/nowhere/c.csv", "nowhere.jsonl", "a/b/c", "~/nowhere"]
)
def test_a_path_that_is_not_there(name, capsys):
    refuse(["--dataset", name], capsys, name, "--dataset")


@pytest.mark.parametrize("function", ["get_dataset_config_names", "load_dataset_builder", "load_dataset"])
@pytest.mark.parametrize("error", [ConnectionError, HTTP_ERROR])
def test_the_hub_cannot_be_reached(error, function, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error("Couldn't reach 'some/corpus' on the Hub (ConnectTimeout)")

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["en-it"])
    parquet = SimpleNamespace(info=SimpleNamespace(builder_name="parquet"), config=None)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *names: parquet)
    monkeypatch.setattr(datasets, function, fail)
    refuse(["--dataset", "some/corpus"], capsys, "some/corpus", "ConnectTimeout", "--preset demo")


def test_the_hub_has_no_such_dataset(monkeypatch, capsys):
    def fail(name):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.")

    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    refuse(["--dataset", "some/corpus"], capsys, "some/corpus", "doesn't exist on the Hub")


def test_the_hub_has_no_such_pair(monkeypatch, capsys):
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["de-fr", "en-it"])
    argv = ["--dataset", "some/corpus", "--target-language", "fr"]
    refuse(argv, capsys, "en-fr", "de-fr, en-it", "--source-language and --target-language")


def test_the_real_command_without_a_network_ends_in_one_sentence(tmp_path):
    answer = subprocess.run(
        [sys.executable, MAIN / "train.py", "--dataset", "nobody/nothing", "--runs-dir", tmp_path / "runs", *TINY],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.splitlines()[-1].startswith("error: ")
    assert "nobody/nothing" in answer.stderr.splitlines()[-1]
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_a_corpus(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refuse(["--dataset", tmp_path / "empty"], capsys, tmp_path / "empty", "is empty")


@pytest.mark.parametrize("card", ["---\ntitle: a: b\n---\n", "---\nconfigs: [:::\n---\n"])
def test_a_card_that_is_no_yaml(card, tmp_path, capsys):
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS)
    (folder / "README.md").write_text(card)
    refuse(["--dataset", folder], capsys, folder, "could not be read")


@pytest.mark.parametrize("flag", ["--dataset", "--runs-dir"])
@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.jsonl"), "a\0b.jsonl"])
def test_a_name_that_is_no_text(name, flag, capsys):
    assert "UTF-8" in error_of(train.main, [flag, name, *TINY], capsys)


def test_a_dataset_without_a_name(capsys):
    refuse(["--dataset", ""], capsys, "--dataset")


def test_a_file_of_another_kind(tmp_path, capsys):
    path = tmp_path / "corpus.txt"
    path.write_text("the cat\til gatto\n")
    refuse(["--dataset", path], capsys, path, ".tsv")


# --- Corpora without the languages --------------------------------------------------------------------------


def test_a_folder_without_the_pair(tmp_path, capsys):
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS)
    refuse(["--dataset", folder, "--target-language", "fr"], capsys, "'fr'", "en, it", "--target-language")


def test_a_corpus_without_a_training_split(tmp_path, capsys):
    refuse(["--dataset", write_hub_folder(tmp_path / "corpus", test=PAIRS)], capsys, "'train'", "test")


@pytest.mark.parametrize("flag", ["--source-language", "--target-language"])
def test_a_language_that_is_no_column(flag, tmp_path, capsys):
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), flag, "fr"]
    refuse(argv, capsys, "'fr'", "en, it", "--source-language and --target-language")


def test_a_file_without_the_columns(tmp_path, capsys):
    path = tmp_path / "c.csv"
    path.write_text("id,text\n1,the cat\n2,the dog\n")
    refuse(["--dataset", path], capsys, "'en'", "id, text", "--source-language")


@pytest.mark.parametrize(("name", "separator"), [("c.csv", ","), ("c.tsv", "\t")])
def test_rows_with_more_fields_than_the_header_names(name, separator, tmp_path, capsys):
    rows = [("en", "it"), *((en, it, "CC-BY") for en, it in PAIRS)]
    (tmp_path / name).write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    refuse(["--dataset", tmp_path / name], capsys, "more fields than its first line names")


def pairs_of(corpus):
    return [pair for en, it in pairs(corpus["train"], "en", "it") for pair in zip(en, it, strict=True)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(7)], ids=str)
def test_sentences_as_bytes_are_text(kind, tmp_path):
    rows = [("the cat", "gatto 1"), ("the dog", "cane 22")]
    sides = [pa.array([row[i].encode() for row in rows], kind) for i in range(2)]
    pq.write_table(pa.table(sides, names=["en", "it"]), tmp_path / "c.parquet")
    assert pairs_of(load_corpus(Config(dataset=str(tmp_path / "c.parquet")))) == rows


def test_columns_of_the_languages_beside_one_of_the_translation(tmp_path):
    rows = [{"en": en, "it": it, "translation": {"provider": "me"}} for en, it in PAIRS]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert pairs_of(load_corpus(Config(dataset=str(tmp_path / "c.jsonl")))) == PAIRS


def test_columns_of_lists(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"en": [en], "it": it}) + "\n" for en, it in PAIRS), encoding="utf-8")
    refuse(["--dataset", path], capsys, "'en'", "list", "sentences")


def test_the_folder_one_stands_in_is_a_corpus(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "train.jsonl", PAIRS)
    monkeypatch.chdir(tmp_path)
    assert len(load_corpus(Config(dataset="."))["train"]) == len(PAIRS)


@pytest.mark.parametrize("value", ["il gatto", 7, None, ["the cat", "il gatto"]], ids=str)
def test_a_translation_column_that_holds_no_languages(value, tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"text": "the cat", "translation": value}) + "\n")
    refuse(["--dataset", path], capsys, "'en'", "translation")


def test_the_same_language_twice(capsys):
    refuse(["--target-language", "en"], capsys, "'en'", "--target-language it")


# --- Corpora that cannot be read ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.json"])
def test_bytes_that_are_not_utf_8(name, tmp_path, capsys):
    rows = [("x", "perché"), *PAIRS]
    if name.startswith("c.j"):
        text = "".join(json.dumps({"en": a, "it": b}, ensure_ascii=False) + "\n" for a, b in rows)
    else:
        text = "\n".join((",", "\t")[name == "c.tsv"].join(row) for row in [("en", "it"), *rows])
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    refuse(["--dataset", tmp_path / name], capsys, tmp_path / name, "UTF-8")


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.json", "c.parquet"])
def test_a_file_without_a_byte(name, tmp_path, capsys):
    (tmp_path / name).touch()
    refuse(["--dataset", tmp_path / name], capsys, tmp_path / name, "empty")


@pytest.mark.parametrize("name", ["c.parquet", "c.jsonl", "c.json"])
def test_a_file_that_is_something_else(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    refuse(["--dataset", tmp_path / name], capsys, tmp_path / name)


@pytest.mark.parametrize("text", ["null", '\ufeff null\n{"en": "a"}', '[\n null, {"en": "a"}]'])
def test_a_first_row_of_nothing(text, tmp_path, capsys):
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    refuse(["--dataset", tmp_path / "c.json"], capsys, tmp_path / "c.json", "null")


def test_a_line_of_json_that_breaks_off(tmp_path, capsys):
    path = write_jsonl(tmp_path / "c.jsonl", PAIRS)
    path.write_text(path.read_text()[:-9])
    refuse(["--dataset", path], capsys, path)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
def test_a_table_of_its_header_only(name, tmp_path, capsys):
    (tmp_path / name).write_text("en,it\n" if name == "c.csv" else "en\tit\n")
    message = refuse(["--dataset", tmp_path / name], capsys, tmp_path / name)
    assert "Instruction" not in message  # the library's words for a split without a row


@pytest.mark.parametrize("rows", [[], [("", "")] * 50, [("the cat", None)] * 50, PAIRS[:1]], ids=len)
def test_a_corpus_of_which_nothing_is_left(rows, tmp_path, capsys):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({k: pa.array([r[i] for r in rows], pa.string()) for i, k in enumerate(("en", "it"))}), path)
    refuse(["--dataset", path], capsys, "--dataset")


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_a_corpus_of_sentences_that_are_all_too_long(tokenizer, tmp_path, capsys):
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), "--tokenizer", tokenizer]
    message = error_of(train.main, [*argv, *TINY, "--seq-len", 4], capsys)
    assert "longer than 4 tokens" in message
    assert "--seq-len" in message
    assert not list(Path().iterdir())


# --- Settings -----------------------------------------------------------------------------------------------


def test_a_notebooks_way_of_drawing_is_no_hindrance(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://a_notebooks.backend"}
    program = f"""
import pathlib, torch, translate
translate.draw_attention(["a"], ["b"], torch.ones(1, 1, 1), pathlib.Path({str(tmp_path / "a.png")!r}))
"""
    subprocess.run([sys.executable, "-c", program], cwd=HERE, env=environment, check=True)


def test_a_width_that_cannot_be_divided_among_the_heads(tmp_path, capsys):
    message = error_of(train.main, ["--d-model", 100, "--heads", 8], capsys)
    assert "100" in message
    assert "--heads 10" in message
    assert not list(Path().iterdir())


def test_a_seed_that_no_generator_takes(tmp_path, capsys):
    refuse(["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), "--seed", 2**64], capsys, 2**64)


@pytest.mark.parametrize("flag", ["--accumulate", "--pool-size", "--vocab-size"])
def test_a_number_beyond_all_bounds(flag, capsys):
    refuse([flag, "9" * 20], capsys, "9" * 20, "2147483648")


def test_a_model_that_no_memory_holds(tmp_path, capsys):
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), *TINY, "--d-ff", "2000000000"]
    assert train.main([str(word) for word in argv]) == 2
    assert "memory is full" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled", "ignore:.torch.jit.script_method. is deprecated")
def test_layers_that_cannot_be_compiled_for_want_of_a_compiler(tmp_path, capsys, monkeypatch):
    import torch._inductor.config as inductor  # takes seconds

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), *TINY, "--compile", "--device", "cpu"]
    assert train.main([str(word) for word in argv]) == 2
    message = capsys.readouterr().err
    assert "no-such-compiler" in message
    assert "without --compile" in message
    assert not list(Path().rglob("runs/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_device_that_is_not_there(tmp_path, capsys):
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), *TINY, "--device", "cuda"]
    message = error_of(train.main, argv, capsys)
    assert "'cuda'" in message
    assert "--device auto" in message
    assert not list(Path().iterdir())


def test_the_name_of_a_run_that_is_there(tmp_path, capsys):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "last.pt").write_text("keep me")
    before = contents(tmp_path / "runs")
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), "--runs-dir", tmp_path / "runs", "--name", "mine"]
    refuse(argv, capsys, tmp_path / "runs" / "mine", "--resume", "--name")
    assert contents(tmp_path / "runs") == before


@pytest.mark.skipif(os.name != "posix", reason="elsewhere there are no such locks")
def test_the_name_of_a_run_that_another_process_trains(tmp_path, capsys):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), "--runs-dir", tmp_path / "runs", "--name", "mine"]
    with held(tmp_path / "runs" / "mine"):
        message = refuse(argv, capsys, tmp_path / "runs" / "mine", "another process")
    assert "elete" not in message
    refuse(argv, capsys, tmp_path / "runs" / "mine", "Delete it")


def test_a_folder_of_runs_that_is_a_file(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    argv = ["--dataset", write_jsonl(tmp_path / "c.jsonl", PAIRS), "--runs-dir", tmp_path / "runs", "--name", "mine"]
    refuse(argv, capsys, tmp_path / "runs", "--runs-dir")
    assert (tmp_path / "runs").read_text() == "a file"


# --- Checkpoints --------------------------------------------------------------------------------------------


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    weights = data.find(torch.load(path, weights_only=True)["model"]["projection.weight"].numpy().tobytes())
    assert weights > 0
    data[weights] ^= 1
    path.write_bytes(data)


def change(path, **changes):
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def remove(path, key):
    state = torch.load(path, weights_only=True)
    del state[key]
    torch.save(state, path)


DAMAGE = {
    "truncated": cut_short,
    "one bit of a weight": flip_a_bit,
    "emptied": lambda path: path.write_bytes(b""),
    "random bytes": lambda path: path.write_bytes(bytes(range(7, 256)) * 40),
    "text": lambda path: path.write_text("a checkpoint\n"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a list": lambda path: torch.save([1, 2], path),
    "weights alone": lambda path: torch.save({"model": {"w": torch.zeros(3)}}, path),
    "another format": lambda path: change(path, format=FORMAT + "0"),
    "the mark alone": lambda path: torch.save({"format": FORMAT}, path),
    "settings of another version": lambda path: change(path, config={"beam_width": 4}),
    "without weights": lambda path: remove(path, "model"),
    "without the optimizer": lambda path: remove(path, "optimizer"),
    "one tokenizer": lambda path: change(path, tokenizers=torch.load(path, weights_only=True)["tokenizers"][:1]),
    "weights of another model": lambda path: change(path, model={"w": torch.zeros(3)}),
    "no tokenizers": lambda path: change(path, tokenizers=["nonsense", "nonsense"]),
    "code": lambda path: path.write_bytes(pickle.dumps(Code("ran"), protocol=2)),
    "code in a torch file": lambda path: torch.save({"format": FORMAT, "config": Code("ran")}, path),
}
COMMANDS = {
    "resume": (train.main, lambda run: ["--resume", run]),
    "translate": (translate.main, lambda run: [run, "the cat"]),
    "translate the last": (translate.main, lambda run: [run, "the cat", "--checkpoint", "last"]),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is full"),
    ],
)
def test_a_checkpoint_that_is_whole_is_not_called_damaged(error, said, command, run, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    main, argv = COMMANDS[command]
    message = error_of(main, argv(run), capsys)
    assert said in message
    assert "damaged" not in message


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_that_is_damaged(damage, command, run, capsys):
    for name in ("best.pt", "last.pt"):
        path = run / name
        path.write_bytes(path.read_bytes())  # each a file of its own
        DAMAGE[damage](path)
    before = contents(run)
    main, argv = COMMANDS[command]
    message = error_of(main, argv(run), capsys)
    assert str(run) in message
    assert contents(run) == before
    assert not list(Path().iterdir()), "the checkpoint's code was run"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_that_is_not_there(command, tmp_path, capsys):
    main, argv = COMMANDS[command]
    assert "nowhere" in error_of(main, argv(tmp_path / "nowhere"), capsys)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_without_a_checkpoint(command, run, capsys):
    for path in run.glob("*.pt"):
        path.unlink()
    main, argv = COMMANDS[command]
    message = error_of(main, argv(run), capsys)
    assert str(run) in message
    assert "checkpoint" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoint_named_in_place_of_its_run(command, run, capsys):
    main, argv = COMMANDS[command]
    assert str(run) in error_of(main, argv(run / "last.pt"), capsys)


CHANGED = [
    ("--seed", "seed", 5), ("--epochs", "epochs", 9), ("--max-lr", "max_lr", 0.5), ("--d-model", "d_model", 32),
    ("--batching", "batching", "dynamic"), ("--precision", "precision", "bf16"), ("--name", "name", "other"),
    ("--held-out", "held_out", 0.2),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "name", "value"), CHANGED)
def test_a_setting_that_cannot_change_on_the_way(flag, name, value, run, capsys):
    before = contents(run)
    old = json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"][name]
    refuse(["--resume", run, flag, value], capsys, name, repr(old), repr(value), f"Leave {flag} out")
    assert contents(run) == before


def test_a_preset_that_contradicts_the_run_that_goes_on(run, capsys):
    refuse(["--resume", run, "--preset", "small"], capsys, "preset")


@pytest.mark.parametrize(
    "rows", [PAIRS[1:], [("the dog", PAIRS[0][1]), *PAIRS[1:]]], ids=["a row less", "another word"]
)
def test_a_corpus_that_changed_since_the_run_began(rows, good_run, run, tmp_path, capsys):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    state = torch.load(run / "last.pt", weights_only=True)
    change(run / "last.pt", config={**state["config"], "dataset": str(corpus)})
    before = contents(run)
    refuse(["--resume", run], capsys, corpus, "new run")
    assert contents(run) == before


def test_a_corpus_that_is_gone_since_the_run_began(run, tmp_path, capsys):
    state = torch.load(run / "last.pt", weights_only=True)
    change(run / "last.pt", config={**state["config"], "dataset": str(tmp_path / "gone.csv")})
    refuse(["--resume", run], capsys, tmp_path / "gone.csv")


# --- Sentences ----------------------------------------------------------------------------------------------


def test_odd_sentences_are_translated_a_line_each(run, capsys):
    odd = ["", "  ", "!", "zebra", "🐈", "a\0b", "[EOS]", "\u200f", "cat " * 500]
    assert translate.main([str(run), *odd]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == len(odd)
    assert captured.err.count("warning: ") == 1  # the last is too long


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device here")
def test_a_device_to_translate_on_that_is_not_there(run, capsys):
    assert "'cuda'" in error_of(translate.main, [run, "the cat", "--device", "cuda"], capsys)


def test_a_sentence_that_is_not_utf_8_ends_in_one_sentence(run, capsys):
    assert "UTF-8" in error_of(translate.main, [run, os.fsdecode(b"perch\xe9")], capsys)
