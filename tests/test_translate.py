"""The command that translates: a line in, a line out, whatever comes in; and the evaluation of a whole split."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from xml.dom import minidom

import pytest
import torch
from conftest import digit_pairs
from corpora import write_jsonl
from sacrebleu.metrics import BLEU
from torchmetrics.functional.text import char_error_rate, word_error_rate

import evaluation
import train
import translate
from config import UserError
from dataset import prepare
from decoding import Search
from tokenizer import train_bpe_tokenizer, train_word_tokenizer
from translate import Translator, cut, draw_attention

MAIN = Path(train.__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that knows number words, and leaves the second half of the rarer ones out of its vocabulary."""
    folder = tmp_path_factory.mktemp("translate")
    flags = {
        "dataset": str(write_jsonl(folder / "digits.jsonl", digit_pairs(400))), "runs-dir": folder, "name": "run",
        "d-model": 32, "layers": 2, "heads": 2, "d-ff": 64, "dropout": 0.0, "batch-size": 16, "epochs": 14,
        "seq-len": 16, "optimizer": "adamw", "max-lr": 1e-2, "device": "cpu", "precision": "fp32", "threads": 1,
        "held-out": 0.2, "average": 2,
    }  # fmt: skip
    threads = torch.get_num_threads()
    assert train.main([f"--{name}={value}" for name, value in flags.items()]) == 0
    torch.set_num_threads(threads)
    return folder / "run"


@pytest.fixture(scope="module")
def translator(run) -> Translator:
    return Translator(run, device="cpu")


def command(run, *words, **options) -> subprocess.CompletedProcess:
    words = [sys.executable, MAIN / "translate.py", run, *words]
    return subprocess.run([str(word) for word in words], capture_output=True, timeout=120, **options)


# --- Sentences ----------------------------------------------------------------------------------------------


def test_it_has_learnt_to_translate(translator):
    assert translator(["one two three", "nine"]) == ["uno due tre", "nove"]


def test_the_best_of_several_translations_is_the_translation(run):
    several = Translator(run, search=Search(4, 1.0, 3))
    one = Translator(run, search=Search(4, 1.0, 1))
    sentences = [source for source, _ in digit_pairs(20, seed=7)]
    for best, found in zip(one(sentences), several.n_best(sentences), strict=True):
        texts, scores = zip(*found, strict=True)
        assert texts[0] == best
        assert len(texts) == len(set(texts)) == 3
        assert list(scores) == sorted(scores, reverse=True)


def test_the_average_is_a_checkpoint_to_translate_with(run):
    assert Translator(run, "average")(["one two three"]) == ["uno due tre"]


def test_one_sentence_for_a_list_of_them_is_refused(translator):
    with pytest.raises(TypeError, match="must be a list"):
        translator("one two three")
    assert translator(word for word in ("one", "two")) == ["uno", "due"]


def test_sentences_without_a_word_stay_empty(translator):
    assert translator(["", "one", " \t ", "\u3000", "two", "\n"]) == ["", "uno", "", "", "due", ""]
    assert translator([]) == []


@pytest.mark.parametrize("search", [Search(), Search(3, 1.0, 2)], ids=str)
def test_a_long_line_is_translated_in_parts_with_one_warning(run, search, capsys):
    translator = Translator(run, search=search)
    long = " ".join(["one two three. four five"] * 1000)
    (found,) = translator.n_best([long])
    assert capsys.readouterr().err.count("warning: ") == 1
    assert len(found) == search.n_best
    assert found[0][0].startswith("uno due tre")
    assert len(found[0][0].split()) > 4000


WORD = train_word_tokenizer(iter([["a b c d e f g . , !"]]), 100, 1)
BPE = train_bpe_tokenizer(iter([["the cat sees the dog"] * 9]), 300, 1)  # of any other word, most letters are tokens
LONG = [
    "a b c. d e f. g a b c d e f g",
    "abcdefg" * 30,
    "a " * 100,
    "è tutto qui! 🐈🐈🐈 no? " * 9,
    ". . . . ! ! ! a b",
    "a.b.c.d.e.f.g",
]


@pytest.mark.parametrize("tokenizer", [WORD, BPE], ids=["word", "bpe"])
@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("most", [1, 2, 5, 12])
def test_parts_of_a_sentence_lose_nothing_and_fit(tokenizer, text, most):
    encoding = tokenizer.encode(text)
    parts = list(cut(text, encoding, most))
    assert [i for _, ids in parts for i in ids] == encoding.ids
    assert max(len(ids) for _, ids in parts) <= most
    if tokenizer is WORD:
        assert "".join(part for part, _ in parts) == text
        assert all(tokenizer.encode(part).ids == ids for part, ids in parts)


def test_a_sentence_is_cut_where_another_begins_or_else_between_words():
    def parts(text, most, tokenizer=WORD):
        return [part.strip() for part, _ in cut(text, tokenizer.encode(text), most)]

    assert parts("a b c d. e f g. a b", 8) == ["a b c d.", "e f g. a b"]
    assert parts("a. b c d e f g", 6) == ["a. b c d e", "f g"]  # the full stop is too near the beginning
    assert parts("the cat quux sees the dog", 4, BPE) == ["the cat", "quux", "sees the dog"]
    assert parts("the cat sees. the dog sees the cat", 6, BPE) == ["the cat sees.", "the dog sees the cat"]


# --- Lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_a_line_comes_out_for_each_that_goes_in(run, ending):
    lines = ["one", "", "two\x0bthree", "\u2028", "four\x85five", "a\0b", "six\rseven", "\ufeffeight", "nine"]
    text = "\n".join(lines).replace("\n", ending or "\n") + ending
    process = command(run, input=text.encode())
    assert process.returncode == 0, process.stderr
    out = process.stdout.decode()
    assert out.endswith("\n")
    assert out.count("\n") == len(out.splitlines()) == len(lines)
    assert out.split("\n")[1] == ""
    assert out.split("\n")[8] == "nove"


def test_each_sentence_has_as_many_lines_as_were_asked_for(run):
    process = command(run, "--beam", "3", "--n-best", "3", input=b"one two\n\n \nthree\n")
    lines = process.stdout.decode().split("\n")
    assert len(lines) == 13
    assert lines[3:9] == ["0.000\t"] * 6
    assert lines[9].endswith("\ttre")


def test_a_mark_of_byte_order_is_no_text(run):
    assert command(run, input=b"\xef\xbb\xbfone\ntwo\n").stdout == b"uno\ndue\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device here")
def test_a_full_disk_ends_in_one_sentence(run):
    with open("/dev/full", "w") as full:
        words = [sys.executable, str(MAIN / "translate.py"), str(run), "one"]
        process = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize("flags", [["--beam", "abc"], ["--foo"], ["--checkpoint", "foo"], []])
def test_a_mistyped_flag_ends_in_one_sentence(flags, run, capsys):
    with pytest.raises(SystemExit) as exit:
        translate.main([str(run), *flags] if flags else [])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_scores_stand_before_each_of_several_translations(run):
    process = command(run, "--beam", "4", "--n-best", "2", "one two", "three")
    rows = [line.split("\t") for line in process.stdout.decode().splitlines()]
    assert [text for _, text in rows][::2] == ["uno due", "tre"]
    assert float(rows[0][0]) > float(rows[1][0])


def test_a_program_that_waits_for_each_answer_gets_it(run):
    words = [sys.executable, str(MAIN / "translate.py"), str(run)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        clock = threading.Timer(120, process.kill)
        clock.start()
        for word, parola in (("one", "uno"), ("two", "due"), ("nine", "nove")):
            process.stdin.write(word + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == parola + "\n"
        process.stdin.close()
        assert process.wait() == 0
        clock.cancel()


def test_no_more_lines_are_read_than_can_be_held(monkeypatch):
    monkeypatch.setattr(translate, "LINES_AT_ONCE", 10)
    read = []

    def source():
        for i in range(1000):
            read.append(i)
            yield f"{i}\n"

    seen = []
    for lot in translate.lines_at_hand(source()):
        assert 1 <= len(lot) <= 10
        seen += lot
        assert len(read) <= len(seen) + 12  # the queue, and the one that waits to enter it
    assert seen == [f"{i}\n" for i in range(1000)]


def test_whoever_has_read_enough_may_leave(run):
    words = f"{sys.executable} {MAIN / 'translate.py'} {run} | head -n 1"
    lines = "one\n" * 5000
    process = subprocess.run(["bash", "-c", words], input=lines, capture_output=True, text=True, timeout=120)
    assert (process.stdout, process.stderr) == ("uno\n", "")


def test_bytes_that_are_no_text_end_in_one_sentence(run):
    process = command(run, input=b"one\n\xff\xfe\x00perch\xe9\n")
    assert process.returncode == 2
    assert process.stdout == b"uno\n"
    assert process.stderr == b"error: Line 2 of the input is not UTF-8 text. Convert it, with iconv for example.\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def reconfigure(self, **options):
        pass


def at_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def test_a_conversation_needs_no_readline(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "readline", None)  # as on Windows
    answers = iter(["one", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    at_a_terminal(monkeypatch)
    assert translate.main([str(run)]) == 0
    assert capsys.readouterr().out.endswith("uno\n")


def test_reading_that_fails_ends_what_waits_for_it():
    def broken():
        yield "one\n"
        raise OSError(5, "Input/output error")

    lots = translate.lines_at_hand(broken())
    assert next(lots) == ["one\n"]
    with pytest.raises(UserError, match="Input/output error"):
        next(lots)


def test_a_conversation_ends_with_an_empty_line_and_is_remembered(run, monkeypatch, capsys, tmp_path):
    readline = pytest.importorskip("readline")
    monkeypatch.setattr(translate, "HISTORY", str(tmp_path / "history"))
    for typed in (["one two", "three", ""], ["four"]):
        answers = iter(typed)

        def answer(prompt, answers=answers):
            line = next(answers, None)
            if line is None:
                raise EOFError
            readline.add_history(line)  # as input() does at a terminal
            return line

        monkeypatch.setattr("builtins.input", answer)
        at_a_terminal(monkeypatch)
        assert translate.main([str(run)]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in ("uno due", "tre", "quattro")] == ["uno due", "tre", "quattro"]
    assert "one two" in (tmp_path / "history").read_text()
    assert "four" in (tmp_path / "history").read_text()


def test_a_slip_of_the_keys_ends_no_conversation(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(translate, "HISTORY", str(tmp_path / "history"))
    typed = iter(["\udcff", "three", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    at_a_terminal(monkeypatch)
    assert translate.main([str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "not UTF-8" in said[-2]
    assert said[-1] == "tre"


def test_a_sentence_needs_no_standard_input(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert translate.main([str(run), "three"]) == 0
    assert capsys.readouterr().out == "tre\n"
    assert translate.main([str(run)]) == 2
    assert "Standard input must be open" in capsys.readouterr().err


def test_only_the_run_is_asked_for(capsys):
    with pytest.raises(SystemExit, match="2"):
        translate.main([])
    assert capsys.readouterr().err == "error: the following arguments are required: run\n"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--beam", "0"], "beam is 0"),
        (["--beam", "2", "--n-best", "3"], "raise --beam"),
        (["--n-best", "0"], "at least 1"),
        (["--length-penalty", "nan"], "length_penalty is nan"),
        (["--threads", "-1"], "threads is -1"),
        (["--evaluate", "validation", "one"], "leave sentence"),
        (["--evaluate", "validation", "--beam", "2", "--n-best", "2"], "--n-best out"),
        (["--evaluate", "test"], "there are: train, validation"),
        (["--attention", "a.png"], "0 are given"),
        (["--attention", "a.png", "one", "two"], "2 are given"),
        (["--attention", "a.png", " "], "0 tokens"),
        (["--attention", "nowhere/a.png", "one"], "cannot be written"),
        (["--attention", "a.docx", "one"], "is to end in .png"),
        (["--attention", ".", "one"], "is to end in .png"),
        (["--beam", "99999999999"], "at most 100"),
        (["--threads", "3000000000"], "at most 1024"),
        (["--length-penalty", "99"], "between -10 and 10"),
        (["--evaluate", ""], "no split ''"),
        (["--evaluate", "../x"], "no split '../x'"),
        (["--attention", "a.png", "one " * 20], "20 tokens"),
    ],
)
def test_what_cannot_work_ends_in_one_sentence(flags, part, run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert translate.main([str(run), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err


def test_attention_is_drawn_for_the_words_of_both_sides(run, tmp_path, capsys):
    translator = Translator(run)
    read, written, weights = translator.attention("one two three")
    assert read == ["[SOS]", "one", "two", "three", "[EOS]"]
    assert written == ["uno", "due", "tre", "[EOS]"]
    assert weights.shape == (2, 4, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))
    flags = ["--beam", "4", "--n-best", "2", "--attention", str(tmp_path / "heads.png")]
    assert translate.main([str(run), *flags, "one two three"]) == 0
    assert "\tuno due tre\n" in capsys.readouterr().out
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


def test_signs_of_a_formula_are_drawn_as_they_stand(tmp_path):
    draw_attention(["$$", "$\\frac$"], ["$", "^_$"], torch.ones(1, 2, 2), tmp_path / "signs.png")
    assert (tmp_path / "signs.png").exists()


@pytest.mark.parametrize("token", ["a\x01b", "\0", "\ufffe"])
def test_signs_that_an_svg_has_no_place_for_are_replaced(token, tmp_path):
    draw_attention([token], [token], torch.ones(1, 1, 1), tmp_path / "signs.svg")
    minidom.parse(str(tmp_path / "signs.svg"))


# --- Evaluation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam", [1, 3])
def test_an_evaluation_has_the_scores_of_the_sacrebleu_command(run, beam):
    process = command(run, "--evaluate", "validation", "--beam", beam, cwd=MAIN)
    assert process.returncode == 0, process.stderr
    files = run / f"validation-best-beam{beam}-penalty1"
    result = json.loads(Path(f"{files}.json").read_text())
    words = f"-m sacrebleu {files}.references.txt -i {files}.hypotheses.txt -m bleu chrf -w 2".split()
    lower = f"-m sacrebleu {files}.references.txt -i {files}.hypotheses.txt -lc -w 2".split()
    both = [subprocess.run([sys.executable, *w], capture_output=True, text=True, check=True) for w in (words, lower)]
    rows = [*json.loads(both[0].stdout), json.loads(both[1].stdout)]
    for name, row in zip(("bleu", "chrf", "lower_case_bleu"), rows, strict=True):
        assert round(result[name], 2) == row["score"]
        assert result["signatures"][name] == row["signature"]
        assert row["signature"] in process.stdout.decode()
    assert result["pairs"] == 80
    assert 50 < result["bleu"] <= 100


def test_an_evaluation_equals_the_validation_of_the_training(run, translator):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows.append(json.loads((run / "average.json").read_text()))
    best = min(rows, key=lambda row: row["valid_nll"])
    result = evaluation.evaluate(translator, "validation", run)
    assert result["nll"] == pytest.approx(best["valid_nll"], abs=1e-5)
    assert result["loss"] == pytest.approx(best["valid_loss"], abs=1e-5)
    for name in ("bleu", "chrf", "cer", "wer", "exact"):
        assert result[name] == pytest.approx(best[name], abs=1e-6)


def test_an_evaluation_that_met_a_full_disk_can_be_made_again(run, monkeypatch, capsys):
    argv = [str(run), "--evaluate", "validation", "--length-penalty", "2"]
    write = Path.write_text

    def fills_up(path, text, **options):
        write(path, text[:10], **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fills_up)
        assert translate.main(argv) == 2
    error = capsys.readouterr().err
    assert "references.txt could not be written (No space left on device)" in error
    assert translate.main(argv) == 0


def test_an_evaluation_translates_pairs_that_are_too_long_for_the_model(run, tmp_path, capsys):
    translator = Translator(run)
    pairs = [("one two", "uno due"), ("one. " * 30, "uno. " * 30), ("three", "tre")]
    object.__setattr__(translator.config, "dataset", str(write_jsonl(tmp_path / "long.jsonl", pairs)))
    translator.corpus = prepare(translator.config, translator.tokenizers).digests
    texts, fitting, _ = translator.part("train")
    assert len(fitting) < len(texts)
    result = evaluation.evaluate(translator, "train", tmp_path)
    assert (result["pairs"], result["pairs_of_loss"]) == (len(texts), len(fitting))
    assert (tmp_path / "train-best-beam1-penalty1.hypotheses.txt").read_text().count("\n") == len(texts)


def test_a_corpus_that_has_changed_since_the_training_is_not_evaluated_on(run, tmp_path):
    translator = Translator(run)
    object.__setattr__(translator.config, "dataset", str(write_jsonl(tmp_path / "fewer.jsonl", digit_pairs(399))))
    for split in ("train", "validation"):
        with pytest.raises(UserError, match="no longer the one"):
            translator.part(split)


def test_a_corpus_that_has_moved_is_found_where_the_flag_says(run, tmp_path, capsys):
    there = tmp_path / "moved.jsonl"
    there.write_bytes(Path(Translator(run, "last", device="cpu").config.dataset).read_bytes())
    evaluate = [str(run), "--evaluate", "validation", "--checkpoint", "last", "--device", "cpu", "--threads", "1"]
    assert translate.main([*evaluate, "--dataset", str(there)]) == 0
    assert translate.main([*evaluate, "--dataset", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert translate.main([str(run), "one two", "--dataset", str(there)]) == 2
    other = write_jsonl(tmp_path / "other.jsonl", digit_pairs(90, seed=4))
    assert translate.main([str(run), "--evaluate", "test", "--dataset", str(other)]) == 2
    assert "no longer the one" in capsys.readouterr().err


def test_a_file_of_pairs_is_evaluated_on(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    learnt = Translator(run, device="cpu").part("train")[0][:3]
    (tmp_path / "mine.tsv").write_text("en\tit\n" + "".join(f"{s}\t{t}\n" for s, t in [*learnt, ("a new one", "uno")]))
    assert translate.main([str(run), "--evaluate", "mine.tsv", "--device", "cpu", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "mine.tsv, 4 pairs" in said
    assert "3 of these source sentences" in said
    files = run / "mine.tsv-best-beam1-penalty1"
    assert json.loads(Path(f"{files}.json").read_text())["known_sources"] == 3
    assert Path(f"{files}.references.txt").read_text().splitlines() == [*(target for _, target in learnt), "uno"]
    assert translate.main([str(run), "--evaluate", "none.tsv"]) == 2
    assert "none.tsv cannot be evaluated on. There is no file" in capsys.readouterr().err
    (tmp_path / "mine.tsv").write_text("en\tit\nanother one\tuno\n")
    assert translate.main([str(run), "--evaluate", "mine.tsv", "--device", "cpu", "--threads", "1"]) == 2
    assert "other sentences" in capsys.readouterr().err
    assert json.loads(Path(f"{files}.json").read_text())["known_sources"] == 3


def test_a_validation_split_that_is_another_is_not_evaluated_on(run):
    translator = Translator(run, device="cpu")
    translator.corpus = {**translator.corpus, "validation": "another"}
    with pytest.raises(UserError, match=r"The validation part .* no longer the one"):
        translator.part("validation")


def test_words_without_quotes_are_said_to_be_translated_alone(run, capsys):
    assert translate.main([str(run), "one", "two", "--device", "cpu", "--threads", "1"]) == 0
    assert "in quotes" in capsys.readouterr().err
    assert translate.main([str(run), "one two", "two", "--device", "cpu", "--threads", "1"]) == 0
    assert "in quotes" not in capsys.readouterr().err


def test_error_rates_are_those_of_torchmetrics():
    draw = digit_pairs(40, seed=3)
    translations, references = [a for a, _ in draw], [b for _, b in draw]
    found = evaluation.score(translations, references, "it")
    assert found["cer"] == pytest.approx(float(char_error_rate(translations, references)))
    assert found["wer"] == pytest.approx(float(word_error_rate(translations, references)))
    assert found["bleu"] == BLEU().corpus_score(translations, [references]).score


def test_perfect_translations_have_perfect_scores():
    text = ["un gatto dorme sul tavolo rosso", "è vero"]
    assert evaluation.score(text, text, "it") == pytest.approx(
        {"bleu": 100, "chrf": 100, "cer": 0, "wer": 0, "exact": 1}
    )
    assert evaluation.lower_case_bleu(["Un Gatto dorme QUI"], ["un gatto dorme qui"], "it") == pytest.approx(100)


@pytest.mark.parametrize("language", ["zh", "zh-CN", "zh_tw", "ja", "th"])
def test_bleu_counts_characters_where_no_spaces_part_the_words(language):
    translations, references = ["我今天很喜歡你的新房子"], ["我今天不喜歡你的新房子"]
    assert evaluation.score(translations, references, language)["bleu"] > 50
    assert evaluation.lower_case_bleu(translations, references, language) > 50
    assert "tok:zh" in evaluation.signatures("zh")["bleu"]
    assert "tok:13a" in evaluation.signatures("it")["lower_case_bleu"]


def test_text_that_is_not_utf_8_is_refused(translator):
    with pytest.raises(UserError, match="UTF-8"):
        translator(["one", os.fsdecode(b"perch\xe9")])
