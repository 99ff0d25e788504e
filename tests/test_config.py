"""Settings: one flag a field, checks before anything is loaded, and a command line that catches typos."""

import dataclasses
import math
import re
import sys
import types
from pathlib import Path

import pytest

import config as module
from config import PRESETS, Config, UserError, check, parse, preset

FIELDS = {f.name: f for f in dataclasses.fields(Config)}
SOURCE = Path(module.__file__).read_text(encoding="utf-8")
OTHER_TEXT = {
    "begin_with": "runs/first",
    "dataset": "some/thing",
    "source_language": "de",
    "target_language": "fr",
    "runs_dir": "x",
    "name": "mine",
}


def flag_of(name):
    return "--" + name.replace("_", "-")


def other_value(name):
    """A valid value of a setting that is not its default."""
    f = FIELDS[name]
    if f.type is bool:
        return not f.default
    if f.metadata["choices"]:
        return f.metadata["choices"][-1]
    if f.type is str:
        return OTHER_TEXT[name]
    return f.type(2 * f.default) if f.type is int and f.default else f.type(f.default / 2 or 1)


def arguments(name, value):
    return [flag_of(name)] if value is True else [flag_of(name), str(value)]


@pytest.fixture
def help_text(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit) as exit:
        parse(["--help"])
    assert exit.value.code == 0
    return one_line_a_setting(capsys.readouterr().out)


def one_line_a_setting(help_text):
    return re.sub(r"\n {20,}", "  ", help_text)  # argparse puts the help of a long flag below it


def refuse(argv, capsys):
    """What stands on stderr when the command line is refused."""
    with pytest.raises(SystemExit) as exit:
        parse(argv)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# --- Flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_flag_a_help_text_and_its_default_shown(name, help_text):
    f = FIELDS[name]
    lines = [line for line in help_text.splitlines() if re.match(rf"\s+{flag_of(name)}[\s,]", line)]
    assert len(lines) == 1
    assert len(f.metadata["help"]) > 15
    assert f.metadata["help"] in lines[0]
    default = f.default if f.default != "" else "empty"
    assert lines[0].endswith(f"(default: {default})")
    if f.metadata["choices"]:
        assert "{" + ",".join(f.metadata["choices"]) + "}" in lines[0]


def test_the_help_describes_every_preset(help_text):
    for name in PRESETS:
        assert re.search(rf"^\s+{name}\s+\w", help_text, re.MULTILINE)


def test_every_setting_has_a_type_that_the_command_line_can_read():
    assert {f.type for f in FIELDS.values()} <= {int, float, str, bool}
    for f in FIELDS.values():
        assert type(f.default) is f.type


def test_no_arguments_give_the_base_preset_with_a_name_of_its_own():
    config, resumed, flags = parse([])
    assert dataclasses.replace(config, name="") == Config() == preset("base")
    assert (resumed, flags) == (None, {})
    assert re.fullmatch(r"base-uniform-\d{8}-\d{6}", config.name)


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_a_preset_and_an_edited_field_do_the_same(name, monkeypatch):
    value = other_value(name)
    assert value != FIELDS[name].default
    changes = {"name": "same", name: value}
    by_flag, _, flags = parse(["--name", "same", *arguments(name, value)])
    monkeypatch.setitem(PRESETS, "mine", changes)
    assert by_flag == preset("base", **changes) == dataclasses.replace(Config(), **changes) == preset("mine")
    assert flags == changes


@pytest.mark.parametrize("name", FIELDS)
def test_a_default_edited_in_the_file_does_the_same_as_the_flag(name, monkeypatch, capsys):
    value = other_value(name)
    edited_source, edits = re.subn(
        rf"^(    {name}: \w+ = setting)\([^,]+,", rf"\1({value!r},", SOURCE, count=1, flags=re.MULTILINE
    )
    assert edits == 1
    edited = types.ModuleType("edited_config")
    edited.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, "edited_config", edited)
    exec(compile(edited_source, "edited_config", "exec"), vars(edited))
    rest = [] if name == "name" else ["--name", "same"]
    by_flag = parse([*rest, *arguments(name, value)])[0]
    assert vars(edited.parse(rest)[0]) == vars(by_flag)
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit):
        edited.parse(["--help"])
    assert f"{FIELDS[name].metadata['help']} (default: {value})" in capsys.readouterr().out


def test_a_flag_counts_more_than_a_preset():
    assert parse(["--preset", "demo", "--epochs", "3"])[0].epochs == 3
    assert parse(["--epochs", "3", "--preset", "demo"])[0].epochs == 3


def test_a_switch_can_be_turned_off():
    assert parse(["--no-tied-embeddings"])[2] == {"tied_embeddings": False}


def test_resume_hands_over_the_folder_and_the_flags_given():
    assert parse(["--resume", "runs/x", "--threads", "2"]) == (None, "runs/x", {"threads": 2})


def test_the_settings_of_a_run_cannot_change_while_it_runs():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


# --- Typing errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_a_mistyped_flag_fails_and_the_right_one_is_named(name, capsys):
    typo = flag_of(name) + "x"
    message = refuse([typo, "1"], capsys)
    assert f"there is no setting {typo}" in message
    assert f"did you mean {flag_of(name)}?" in message


@pytest.mark.parametrize("argv", [["--epocs", "3"], ["--epocs=3"], ["--epoch", "3"], ["--eposch", "3"]])
def test_a_typo_is_explained_however_the_value_is_given(argv, capsys):
    assert "did you mean --epochs?" in refuse(argv, capsys)


def test_a_flag_like_no_other_fails_without_a_guess(capsys):
    message = refuse(["--qqqqqqqq"], capsys)
    assert "there is no setting --qqqqqqqq" in message
    assert "did you mean" not in message


def test_a_stray_word_fails(capsys):
    assert "demo" in refuse(["demo"], capsys)


@pytest.mark.parametrize("name", [name for name, f in FIELDS.items() if f.type in (int, float)])
def test_a_value_of_the_wrong_type_fails(name, capsys):
    message = refuse([flag_of(name), "many"], capsys)
    assert flag_of(name) in message
    assert "'many'" in message


def test_half_an_epoch_fails(capsys):
    assert "'2.5'" in refuse(["--epochs", "2.5"], capsys)


@pytest.mark.parametrize("name", [name for name, f in FIELDS.items() if f.metadata["choices"]])
def test_a_word_that_is_no_choice_fails_and_the_choices_are_named(name, capsys):
    message = refuse([flag_of(name), "nonsense"], capsys)
    assert "nonsense" in message
    assert all(choice in message for choice in FIELDS[name].metadata["choices"])


def test_a_preset_that_is_none_fails(capsys):
    message = refuse(["--preset", "huge"], capsys)
    assert all(name in message for name in PRESETS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_without_its_value_fails(name, capsys):
    takes_none = FIELDS[name].type is bool
    message = refuse([flag_of(name), *(["yes"] if takes_none else [])], capsys)
    assert ("yes" if takes_none else flag_of(name)) in message


# --- Values that cannot work --------------------------------------------------------------------------------

AT_LEAST_1 = [
    "batch_size", "pool_size", "accumulate", "d_model", "layers", "heads", "d_ff", "epochs", "log_every",
    "min_frequency", "score_every",
]  # fmt: skip
SHARES = ["dropout", "label_smoothing", "beta1", "beta2"]
OPEN_SHARES = ["held_out", "warmup"]
AT_LEAST_0 = ["weight_decay", "clip_norm", "checkpoint_minutes", "samples", "shapes", "threads", "seed", "average"]
FLOATS = [name for name, f in FIELDS.items() if f.type is float]

# Changes, what the message must say of the value, and what it must say of the limit or the remedy.
REFUSED = [
    *[({name: value}, str(value), "at least 1") for name in AT_LEAST_1 for value in (0, -1)],
    *[({name: value}, str(value), "at least 0 and below 1") for name in SHARES for value in (-0.1, 1.0, 1.5)],
    *[({name: value}, str(value), "between 0 and 1") for name in OPEN_SHARES for value in (0.0, 1.0, -0.1, 2.0)],
    *[({name: -1}, "-1", "at least 0") for name in AT_LEAST_0],
    *[({name: value}, str(value), "finite") for name in FLOATS for value in (math.nan, math.inf, -math.inf)],
    *[
        ({name: "nonsense"}, "'nonsense'", ", ".join(f.metadata["choices"]))
        for name, f in FIELDS.items()
        if f.metadata["choices"]
    ],
    *[({"final_lr": value}, str(value), "above 0 and at most 1") for value in (0.0, -0.1, 1.1)],
    ({"max_lr": 0.0}, "0.0", "above 0"),
    ({"max_lr": -1e-4}, "-0.0001", "above 0"),
    ({"seq_len": 2}, "2", "at least 3"),
    ({"seq_len": 0}, "0", "at least 3"),
    ({"vocab_size": 7}, "7", "at least 8"),
    ({"vocab_size": 299, "tokenizer": "bpe"}, "299", "at least 300"),
    ({"source_language": "it"}, "'it'", "--source-language en --target-language it"),
    ({"d_model": 15, "heads": 3}, "15", "even"),
    ({"d_model": 100, "heads": 8}, "100", "--heads 10"),
    ({"d_model": 100, "heads": 3}, "3 heads", "--heads 2"),
    ({"average": 19}, "19", "18 epochs"),
    ({"shapes": 8, "batching": "dynamic"}, "8", "set it to 0"),
    ({"shapes": 8, "batching": "fixed"}, "8", "set it to 0"),
    ({"graphs": True, "batching": "dynamic"}, "is on", "--no-graphs"),
    ({"dataset": ""}, "''", "--preset demo"),
    ({"seed": 2**64}, str(2**64), "at most"),
    *[({"name": name}, repr(name), "letters, digits") for name in ("a/b", "../x", "..", ".x", "-x", "a b", "a\n", "~")],
]


@pytest.mark.parametrize(("changes", "value", "remedy"), REFUSED, ids=str)
def test_a_value_that_cannot_work_is_refused_with_a_remedy(changes, value, remedy):
    with pytest.raises(UserError) as error:
        check(preset("base", **changes))
    message = str(error.value)
    for name in changes.keys() - {"heads", "tokenizer", "source_language", "batching"}:
        assert name in message
    assert value in message
    assert remedy in message
    assert message.endswith(".")


@pytest.mark.parametrize("changes", [{"d_model": 96, "heads": 7}, {"d_model": 512, "heads": 5}])
def test_the_number_of_heads_that_is_proposed_works(changes):
    with pytest.raises(UserError) as error:
        check(preset("base", **changes))
    heads = int(re.search(r"--heads (\d+)", str(error.value))[1])
    check(preset("base", **{**changes, "heads": heads}))


@pytest.mark.parametrize(
    "changes",
    [
        *[{name: 1} for name in AT_LEAST_1 if name != "d_model"],
        *[{name: 0.0} for name in SHARES],
        *[{name: 0} for name in AT_LEAST_0],
        {"d_model": 2, "heads": 1},
        {"seq_len": 3},
        {"vocab_size": 8},
        {"vocab_size": 300, "tokenizer": "bpe"},
        {"seed": 2**32},
        {"source_language": "it", "target_language": "en"},
        *[{"name": name} for name in ("a", "run-1", "1.5e-4", "a+b_c", "é")],
    ],
    ids=str,
)
def test_a_value_at_its_limit_passes(changes):
    check(preset("base", **changes))


def test_a_refused_value_on_the_command_line_is_a_user_error():
    with pytest.raises(UserError, match="epochs is 0"):
        parse(["--epochs", "0"])


# --- Presets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_settings_that_exist_and_passes_the_checks(name):
    assert set(PRESETS[name]) <= set(FIELDS)
    check(preset(name))
    assert parse(["--preset", name])[0].name.startswith(f"{name}-")
    for setting, value in PRESETS[name].items():
        assert getattr(preset(name), setting) == value
        assert type(value) is FIELDS[setting].type


def test_the_bundled_sample_lies_where_the_demo_looks_for_it():
    assert (Path(preset("demo").dataset) / "README.md").is_file()
