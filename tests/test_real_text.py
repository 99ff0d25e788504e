"""On real corpora, where they lie beside the repository; skipped elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from conftest import correlation_of_neighbours

from config import preset
from corpus import load_corpus, pairs
from dataset import RandomBatches, prepare
from smart_batching_dataset import UniformBatches, longer_side
from tokenizer import join_words

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the corpora are not here")


@pytest.fixture(scope="module")
def bible():
    return prepare(preset("base", dataset=str(DATA / "bible")))


def test_the_corpus_own_split_is_used_and_every_pair_kept(bible):
    assert len(bible.train) == 27_900
    assert len(bible.validation) == 1_155
    assert (
        bible.reports[0] == "train: kept 27,900 of 27,900 pairs; 0 longer than 350 tokens, 0 empty, 0 without one side"
    )


def test_uniform_batches_of_real_lengths_hold_hardly_any_padding(bible):
    plan = UniformBatches(bible.train, 32).plan(0)
    assert plan.padding(bible.train) < 0.05
    assert RandomBatches(bible.train, 32).plan(0).padding(bible.train) > 0.4
    assert abs(correlation_of_neighbours(plan, longer_side(bible.train))) < 0.2
    assert np.array_equal(np.sort(plan.order), np.arange(27_900))


@pytest.mark.parametrize(("name", "language"), [("tatoeba", "en"), ("tatoeba", "it"), ("bible", "en"), ("bible", "it")])
def test_words_are_put_together_as_they_were_written(name, language):
    from tokenizers.pre_tokenizers import Whitespace

    split = load_corpus(preset("base", dataset=str(DATA / name)))["train"]
    other = {"en": "it", "it": "en"}[language]
    texts = [" ".join(text.split()) for text in next(pairs(split, language, other))[0][:5000]]
    split_words = Whitespace().pre_tokenize_str
    same = sum(join_words([word for word, _ in split_words(text)], language) == text for text in texts)
    assert same / len(texts) > 0.99
