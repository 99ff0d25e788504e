"""Corpora from disk: sources, cleaning, split, ids, and batches with dynamic padding."""

import gzip
import os
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import chain

import datasets
import huggingface_hub
import numpy as np
import pytest
from corpora import PAIRS, write_csv, write_hub_folder, write_jsonl, write_parquet, write_tsv
from tokenizers.pre_tokenizers import Whitespace

import corpus
from config import UserError, preset
from corpus import Report, held_out_rows, load_corpus, split_corpus
from dataset import encode, prepare, train_tokenizers
from tokenizer import EOS, MARKS, SOS, UNK, to_text, train_bpe_tokenizer, train_word_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def settings(path, **changes):
    return preset("base", **{"dataset": str(path), "min_frequency": 1, **changes})


def texts(corpus):
    """All usable pairs of a part, in order."""
    return [pair for chunk in corpus.chunks() for pair in zip(*chunk, strict=True)]


def split_texts(config):
    """Training and validation pairs of the corpus that the settings name."""
    return tuple(texts(part) for part in split_corpus(load_corpus(config), config))


def numbers(report):
    """The numbers of a Report's sentence, in order: kept, rows, too long, limit, empty, missing."""
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", report)]


# --- Sources ------------------------------------------------------------------------------------------------

SOURCES = {
    "folder": lambda at, rows: write_hub_folder(at / "corpus", train=rows),
    "folder of three shards": lambda at, rows: write_hub_folder(at / "shards", shards=3, train=rows),
    "parquet": lambda at, rows: write_parquet(at / "c.parquet", rows),
    "parquet with translation": lambda at, rows: write_parquet(at / "t.parquet", rows, nested=True),
    "jsonl": lambda at, rows: write_jsonl(at / "c.jsonl", rows),
    "jsonl with translation": lambda at, rows: write_jsonl(at / "t.jsonl", rows, nested=True),
    "csv": lambda at, rows: write_csv(at / "c.csv", rows),
    "tsv": lambda at, rows: write_tsv(at / "c.tsv", rows),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_source_gives_the_same_corpus(source, tmp_path):
    data = prepare(settings(SOURCES[source](tmp_path, PAIRS)))
    train, validation = split_texts(settings(write_jsonl(tmp_path / "reference.jsonl", PAIRS)))
    assert data.validation.texts == validation
    decoded = [
        tuple(to_text(t, ids[1:-1].tolist(), "en") for t, ids in zip(data.tokenizers, pair, strict=True))
        for pair in (data.train[i] for i in range(len(data.train)))
    ]
    assert decoded == train
    assert sorted(decoded + validation) == sorted(PAIRS)


@pytest.mark.parametrize("source", SOURCES)
def test_either_direction_of_a_pair_works(source, tmp_path):
    path = SOURCES[source](tmp_path, PAIRS)
    back = settings(path, source_language="it", target_language="en")
    train, validation = split_texts(back)
    assert sorted(train + validation) == sorted((it, en) for en, it in PAIRS)
    data = prepare(back)
    assert "gatto" in data.tokenizers[0].get_vocab()
    assert "cat" in data.tokenizers[1].get_vocab()


def test_columns_may_have_any_names(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("id,source,translation\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(PAIRS)))
    train, validation = split_texts(settings(path, source_language="source", target_language="translation"))
    assert sorted(train + validation) == sorted(PAIRS)


@pytest.mark.parametrize("chunk", [1, 7, 60, 61])
def test_reading_in_chunks_changes_nothing(chunk, tmp_path, monkeypatch):
    rows = [*PAIRS[:20], *[("", "")] * 10, *PAIRS[20:]]  # some chunks hold no usable row
    config = settings(write_hub_folder(tmp_path / "corpus", train=rows), seq_len=50)
    whole = prepare(config)
    monkeypatch.setattr(corpus, "CHUNK", chunk)
    chunked = prepare(config)
    assert chunked.train.digest() == whole.train.digest()
    assert chunked.validation.digest() == whole.validation.digest()
    assert chunked.validation.texts == whole.validation.texts
    assert chunked.reports == whole.reports


WORDS_FOR_MISSING = ["NA", "null", "None", "nan", "N/A", "NULL", "-nan", "<NA>", "n/a", "#N/A"]


@pytest.mark.parametrize(("write", "name"), [(write_csv, "c.csv"), (write_tsv, "c.tsv"), (write_jsonl, "c.jsonl")])
def test_sentences_that_look_like_missing_ones_survive(write, name, tmp_path):
    rows = PAIRS + [(word, word) for word in WORDS_FOR_MISSING]
    train, validation = split_texts(settings(write(tmp_path / name, rows)))
    assert sorted(train + validation) == sorted(rows)


def test_sentences_that_look_like_missing_ones_survive_in_a_folder_of_csv(tmp_path):
    (tmp_path / "corpus").mkdir()
    rows = PAIRS + [(word, word) for word in WORDS_FOR_MISSING]
    write_csv(tmp_path / "corpus" / "train.csv", rows)
    train, validation = split_texts(settings(tmp_path / "corpus"))
    assert sorted(train + validation) == sorted(rows)


@pytest.mark.parametrize("beside", ["stats.json", "train.tsv.gz"])
def test_a_quotation_mark_in_a_folder_of_tsv_swallows_nothing_whatever_else_lies_there(beside, tmp_path):
    rows = [*PAIRS[:30], ('"the cat', '"il gatto'), *PAIRS[30:], ("None", "NA"), ('"the dog', '"il cane')]
    folder = tmp_path / "corpus"
    folder.mkdir()
    path = write_tsv(folder / "train.tsv", rows)
    if beside == "stats.json":
        (folder / beside).write_text('{"source": "somewhere"}')
    else:
        (folder / beside).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    train, validation = split_texts(settings(folder))
    assert sorted(train + validation) == sorted(rows)


def test_the_only_configuration_is_taken_whatever_its_name_and_of_several_the_pair(tmp_path):
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS)
    card = (folder / "README.md").read_text()
    assert "config_name: en-it" in card
    (folder / "README.md").write_text(card.replace("config_name: en-it", "config_name: main"))
    train, validation = split_texts(settings(folder))
    assert sorted(train + validation) == sorted(PAIRS)


@pytest.mark.parametrize("write", [write_hub_folder, write_csv, write_tsv, write_jsonl])
def test_what_the_hub_gave_is_there_without_a_network(write, tmp_path, monkeypatch):
    rows = [*PAIRS, ("None", "NA")]
    if write is write_hub_folder:
        write_hub_folder(tmp_path / "corpus", train=rows)
    else:
        (tmp_path / "corpus").mkdir()
        write(tmp_path / "corpus" / f"train.{write.__name__.removeprefix('write_')}", rows)
    there = split_texts(settings(tmp_path / "corpus"))
    cache = tmp_path / "cache"
    (kept,) = cache.glob("*/corpus")
    kept.rename(cache / "some___corpus")  # as if it had come from the Hub
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert split_texts(settings("some/corpus")) == there


@pytest.mark.parametrize("source", ["folder", "folder of three shards", "jsonl", "csv"])
def test_a_corpus_that_has_changed_is_read_anew(source, tmp_path):
    for rows in (PAIRS, [*PAIRS[:-1], ("the dog sleeps", "il cane dorme")]):
        train, validation = split_texts(settings(SOURCES[source](tmp_path, rows)))
        assert sorted(train + validation) == sorted(rows)


@pytest.mark.parametrize("source", ["jsonl", "csv", "folder"])
def test_a_corpus_that_has_changed_without_a_new_time_of_change_is_read_anew(source, tmp_path):
    for rows in (PAIRS[:-1], PAIRS):
        path = SOURCES[source](tmp_path, rows)
        for file in [path, *path.rglob("*")]:
            os.utime(file, (1_700_000_000, 1_700_000_000))
        train, validation = split_texts(settings(path))
        assert sorted(train + validation) == sorted(rows)


def test_a_folder_named_as_the_bundled_sample_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "data" / "sample").mkdir(parents=True)
    write_jsonl(tmp_path / "data" / "sample" / "train.jsonl", PAIRS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="stands for the bundled sample"):
        load_corpus(preset("demo"))
    assert len(load_corpus(preset("demo", dataset="./data/sample"))["train"]) == len(PAIRS)


def test_a_file_may_have_brackets_in_its_name(tmp_path):
    train, validation = split_texts(settings(write_jsonl(tmp_path / "corpus[1]*.jsonl", PAIRS)))
    assert sorted(train + validation) == sorted(PAIRS)


def test_one_number_among_the_sentences_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [*PAIRS, ("seven", 7)])  # or all would be read as quoted JSON
    with pytest.raises(UserError, match="could not be read"):
        split_texts(settings(path))


@pytest.mark.parametrize("row", ['{"en": "alone", "it": null}', '{"en": "alone"}', "{}", "null"])
def test_a_row_without_a_side_is_counted_in_jsonl_with_translation(row, tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", PAIRS, nested=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f'{{"translation": {row}}}\n')
    train, _ = split_corpus(*corpus_and_settings(path))
    assert train.report.missing == 1


def corpus_and_settings(path, **changes):
    config = settings(path, **changes)
    return load_corpus(config), config


def test_quotation_marks_and_commas_survive_in_csv_and_tsv(tmp_path):
    rows = [*PAIRS, ('"Go," he said', '"Va\'", disse'), ('a 5" nail', 'un chiodo da 5"'), ('"', '"')]
    for path in (write_csv(tmp_path / "c.csv", rows), write_tsv(tmp_path / "c.tsv", rows)):
        train, validation = split_texts(settings(path))
        assert sorted(train + validation) == sorted(rows)


# --- Cleaning -----------------------------------------------------------------------------------------------


def words(n, word="word"):
    return " ".join([word] * n)


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_cleaning_counts_every_row_once(tokenizer, tmp_path):
    limit = 12  # ten words beside the start and end mark
    good = [(f"cat {words(k)}", f"gatto {words(k)}") for k in range(1, 10)] * 30  # the longest are at the limit
    empty = [("", "x"), ("x", ""), (" \n\t ", "x"), ("x", "\u00a0"), ("", "")]
    missing = [(None, "x"), ("x", None), (None, None), (None, ""), ("", None), (None, "  ")]
    too_long = [(words(11), "x"), ("x", words(11)), (words(11), words(400)), (words(10_000), words(10_000))]
    rows = good + empty + missing + too_long
    random.Random(0).shuffle(rows)
    folder = write_hub_folder(tmp_path / "corpus", train=rows, validation=good[:9])
    data = prepare(settings(folder, seq_len=limit, tokenizer=tokenizer, vocab_size=400))
    assert len(data.train) == len(good)
    kept, total, longer, stated, without_text, without_side = numbers(data.reports[0])
    assert (kept, total, longer, stated) == (len(good), len(rows), len(too_long), limit)
    assert (without_text, without_side) == (len(empty), len(missing))
    assert data.train.source_lengths.max() == data.train.target_lengths.max() == limit


@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_at_the_limit_stays_and_one_above_goes(side, tmp_path):
    for seq_len, stays in ((12, True), (11, False)):
        pair = ["x", "x"]
        pair[side] = words(10)
        folder = write_hub_folder(tmp_path / f"corpus{seq_len}", train=[*PAIRS, tuple(pair)], validation=PAIRS[:3])
        data = prepare(settings(folder, seq_len=seq_len))
        assert len(data.train) == len(PAIRS) + stays
        assert numbers(data.reports[0])[2] == (not stays)


def test_the_reports_of_both_parts_add_up_to_the_corpus(tmp_path):
    rows = [*PAIRS, *[("", "x")] * 4, *[(None, "x")] * 3, (words(100), "x")]
    data = prepare(settings(write_hub_folder(tmp_path / "corpus", train=rows), seq_len=20))
    kept, total, longer, _, empty, missing = np.sum([numbers(report) for report in data.reports], axis=0)
    assert (kept, total, longer, empty, missing) == (len(PAIRS), len(rows), 1, 4, 3)
    assert [numbers(report)[0] for report in data.reports] == [len(data.train), len(data.validation)]


def test_a_report_is_a_sentence_whose_numbers_agree():
    report = Report("train", rows=32_332, missing=1_001, empty=3, too_long=12, seq_len=350)
    assert report.kept == 32_332 - 1_001 - 3 - 12
    assert numbers(str(report)) == [report.kept, 32_332, 12, 350, 3, 1_001]
    assert str(report).startswith(f"train: kept {report.kept:,} of 32,332 pairs; 12 longer than 350 tokens, 3 empty")


def test_white_space_around_a_sentence_goes_and_within_it_stays(tmp_path):
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS, validation=[("  two  words\n", "\tdue  parole ")])
    assert prepare(settings(folder)).validation.texts == [("two  words", "due  parole")]


# --- Split --------------------------------------------------------------------------------------------------


def duplicated_rows(n=400, sources=90):
    rng = random.Random(1)
    return [(f"source {min(rng.randrange(sources), rng.randrange(sources))}", f"target {i}") for i in range(n)]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_the_corpus_own_validation_split_is_used(name, tmp_path):
    own = [("a dog", "un cane"), ("two dogs", "due cani")]
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS, test=PAIRS[:9], **{name: own})
    for seed, share in ((0, 0.1), (1, 0.5)):
        train, validation = split_texts(settings(folder, seed=seed, held_out=share))
        assert train == PAIRS
        assert validation == own


def test_validation_sentences_that_also_stand_in_the_training_split_are_counted(tmp_path):
    own = [PAIRS[3], (PAIRS[4][0], "altro"), ("a dog", "un cane")]
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS, validation=own)
    assert numbers(prepare(settings(folder)).reports[2]) == [2]
    assert len(prepare(settings(write_jsonl(tmp_path / "c.jsonl", PAIRS + PAIRS))).reports) == 2


@pytest.mark.parametrize("seed", range(5))
def test_no_source_sentence_stands_on_both_sides(seed, tmp_path):
    rows = duplicated_rows()
    rows += [(f"  {source} ", target) for source, target in rows[:50]]  # the same but for white space around
    train, validation = split_texts(settings(write_jsonl(tmp_path / "c.jsonl", rows), seed=seed))
    assert validation
    assert not {source for source, _ in train} & {source for source, _ in validation}
    assert Counter(train + validation) == Counter((source.strip(), target) for source, target in rows)


def test_the_seed_decides_the_split(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", duplicated_rows())
    first, again, other = (split_texts(settings(path, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert set(first[1]) != set(other[1])


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_about_the_share_is_held_out(share, tmp_path):
    rows = duplicated_rows()
    path = write_jsonl(tmp_path / "c.jsonl", rows)
    for seed in range(3):
        _, validation = split_texts(settings(path, held_out=share, seed=seed))
        assert abs(len(validation) / len(rows) - share) < 0.03


def test_a_small_share_of_few_is_one_sentence(tmp_path):
    _, validation = split_texts(settings(write_jsonl(tmp_path / "c.jsonl", PAIRS), held_out=0.001))
    assert len(validation) == 1


def test_about_the_share_is_held_out_where_one_sentence_is_very_common():
    digests = np.concatenate([np.zeros(400, dtype=np.int64), np.arange(1, 601)])
    for seed in range(30):
        held = held_out_rows(digests, 0.1, seed)
        assert 80 <= held.sum() <= 120, f"seed {seed} holds out {held.sum()} of 1,000"


def test_order_of_the_rows_does_not_decide_which_sentences_are_held_out(tmp_path):
    rows = duplicated_rows()
    _, validation = split_texts(settings(write_jsonl(tmp_path / "a.jsonl", rows)))
    _, turned = split_texts(settings(write_jsonl(tmp_path / "b.jsonl", rows[::-1])))
    assert sorted(validation) == sorted(turned)


# --- Vocabulary ---------------------------------------------------------------------------------------------


def test_a_word_of_the_held_out_part_only_is_unknown(tmp_path):
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS, validation=[("the zebra sleeps", "la zebra dorme")])
    data = prepare(settings(folder))
    for ids, tokenizer in zip(data.validation[0], data.tokenizers, strict=True):
        assert ids[2] == UNK
        assert np.count_nonzero(ids == UNK) <= 2  # "la" is new as well
        assert "zebra" not in tokenizer.get_vocab()


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_the_vocabulary_is_that_of_the_training_part_alone(tokenizer, tmp_path):
    rows = [
        (f"the cat {'ab'[i % 2] * (i // 2 + 1)} sleeps", f"il gatto {'cd'[i % 2] * (i // 2 + 1)}") for i in range(60)
    ]
    config = settings(write_jsonl(tmp_path / "c.jsonl", rows), tokenizer=tokenizer, vocab_size=2000)
    train, validation = split_texts(config)
    data = prepare(config)
    sources, targets = ([pair[side] for pair in train] for side in (0, 1))
    if tokenizer == "bpe":
        expected = [train_bpe_tokenizer([sources, targets], 2000, 1)] * 2
    else:
        expected = [train_word_tokenizer([side], 2000, 1) for side in (sources, targets)]
    for found, reference in zip(data.tokenizers, expected, strict=True):
        assert found.get_vocab() == reference.get_vocab()
    everything = settings(write_jsonl(tmp_path / "all.jsonl", rows), tokenizer=tokenizer, vocab_size=2000)
    whole = replace(split_corpus(load_corpus(everything), everything)[0], usable=np.ones(len(rows), dtype=bool))
    assert train_tokenizers(whole, everything)[0].get_vocab() != data.tokenizers[0].get_vocab()
    assert validation


# --- Ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [train_word_tokenizer, train_bpe_tokenizer])
def test_encode_frames_each_sentence_with_the_marks(train):
    sentences = ["the cat sleeps", "", "a zebra?", "the", "[SOS] the [EOS]"]
    tokenizer = train([["the cat sleeps a lot"]], 400, 1)
    encoded = encode(sentences, tokenizer)
    ids, lengths = encoded.ids.numpy(), encoded.lengths
    expected = [[SOS, *tokenizer.encode(s).ids, EOS] for s in sentences]
    assert lengths.tolist() == [len(e) for e in expected]
    assert ids.tolist() == list(chain.from_iterable(expected))
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)


def test_encoding_no_sentence_gives_no_ids():
    none = encode([], train_word_tokenizer([["the cat"]], 10, 1))
    assert len(none.ids) == len(none.lengths) == 0


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_the_name_of_a_mark_in_a_sentence_is_text(tokenizer, tmp_path):
    odd = [(f"say {mark} now", f"{mark}{mark}") for mark in MARKS]
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS + odd, validation=odd)
    data = prepare(settings(folder, tokenizer=tokenizer, vocab_size=1000))
    assert data.validation.texts == odd
    for part, start in ((data.train, len(PAIRS)), (data.validation, 0)):
        for i, pair in enumerate(odd):
            for ids, text, t in zip(part[start + i], pair, data.tokenizers, strict=True):
                assert (ids[0], ids[-1]) == (SOS, EOS)
                assert ids[1:-1].min() >= len(MARKS)
                assert to_text(t, ids[1:-1].tolist(), "en").replace(" ", "") == text.replace(" ", "")


ODD = {
    "one token": ("Yes", "Sì"),
    "one mark": ("!", "?"),
    "emoji": ("I 👍🏽 it 👩‍👩‍👧 🇮🇹", "Mi piace 👍🏽"),
    "right to left": ("שלום עולם", "مرحبا بالعالم"),
    "right-to-left mark": ("\u200fabc\u200e", "\u202eabc\u202c"),
    "NUL": ("a\0b", "\0c d\0"),
    "newline": ("two\nlines", "due\r\nrighe"),
    "line separators": ("two\u2028lines\u0085here", "due\x0brighe\x0c!"),
    "combining marks": ("e\u0301\u0323 n\u0303", "a\u0300"),
    "no spaces": ("我喜欢猫", "ฉันชอบแมว"),
    "one word of 10,000 letters": ("ab" * 5000, "x"),
    "beyond the basic plane": ("\U0001d7d8\U00020000", "\U0010ffff"),
    "zero-width space": ("\u200b", "\u200b"),
}


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
@pytest.mark.parametrize("write", ["folder", "jsonl", "parquet"])
def test_odd_sentences_are_kept_as_they_are(write, tokenizer, tmp_path):
    path = SOURCES[write](tmp_path, [*PAIRS, *ODD.values()])
    config = settings(path, tokenizer=tokenizer, vocab_size=1000, seq_len=20_000)
    parts, data = split_texts(config), prepare(config)
    assert sorted(parts[0] + parts[1]) == sorted([*PAIRS, *ODD.values()])
    for pairs, part in zip(parts, (data.train, data.validation), strict=True):
        assert len(part) == len(pairs)
        for i, pair in enumerate(pairs):
            for ids, text, t in zip(part[i], pair, data.tokenizers, strict=True):
                if tokenizer == "bpe":
                    assert to_text(t, ids[1:-1].tolist(), "en") == text
                else:
                    assert len(ids) - 2 == len(Whitespace().pre_tokenize_str(text))


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_sentences_of_ten_thousand_tokens_are_dropped_and_counted(tokenizer, tmp_path):
    monsters = [(words(10_000, "cat"), "x"), ("x", "🐈 " * 10_000), ("! " * 10_000, "? " * 10_000)]
    folder = write_hub_folder(tmp_path / "corpus", train=PAIRS + monsters, validation=PAIRS[:4] + monsters[:1])
    data = prepare(settings(folder, tokenizer=tokenizer, vocab_size=1000))
    assert [numbers(report)[2] for report in data.reports[:2]] == [3, 1]
    assert (len(data.train), len(data.validation)) == (len(PAIRS), 4)
    assert data.validation.texts == PAIRS[:4]


def test_tokenizers_of_an_earlier_run_are_used_as_they_are(tmp_path):
    config = settings(write_jsonl(tmp_path / "c.jsonl", PAIRS))
    first = prepare(config)
    path = write_jsonl(tmp_path / "d.jsonl", [("a dog", "un cane"), *PAIRS[1:]])
    data = prepare(replace(config, dataset=str(path)), first.tokenizers)
    assert data.tokenizers == first.tokenizers
    assert data.vocabulary_sizes == first.vocabulary_sizes
