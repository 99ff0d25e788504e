"""Text to ids and back: exact with subwords, readable with words, and no surprise on the way."""

import random
from collections import Counter

import pytest
from tokenizers.pre_tokenizers import Whitespace

from tokenizer import (
    EOS,
    MARKS,
    PAD,
    SOS,
    UNK,
    join_words,
    load_tokenizer,
    to_text,
    train_bpe_tokenizer,
    train_word_tokenizer,
)

SENTENCES = [
    "The cat sleeps, and the dog doesn't.",
    "«Il gatto dorme», disse l'uomo; il cane no.",
    "the cat sees the cats' cat",
    "un po' d'acqua e un po' di pane",
]


def pre_tokenise(text):
    return [word for word, _ in Whitespace().pre_tokenize_str(text)]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe_tokenizer([SENTENCES * 3], 400, 2)


@pytest.fixture(scope="module")
def by_word():
    return train_word_tokenizer([SENTENCES], 1000, 1)


# --- Subwords -----------------------------------------------------------------------------------------------

NASTY = [
    "",
    " ",
    "   ",
    " a",
    "a ",
    "  a   b    c  ",
    "\t\ta\n\n b\r\n",
    "a\0b\0",
    "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "👍🏽 👩‍👩‍👧‍👦🇮🇹",
    "שלום, עולם!",
    "مرحبا \u202eabc\u202c \u200f",
    "e\u0301 \u0301 n\u0303\u0323",
    "é e\u0301 ﬁ ½ Å \u212b",  # no normalisation: composed and decomposed stay apart
    "\ufeff\u200b\u00a0\u2028\u2029\u3000",
    "\U0010ffff\U00020000\ufffd\ufffe",
    "我喜欢猫。ฉันชอบแมว हिन्दी",
    "x" * 3000,
    "'s 't 're don't DON'T l'amico",
    "[PAD][UNK] [SOS] [EOS]",
    "Ġ Ċ Ã©",  # the characters that stand for bytes inside the vocabulary
    "<|endoftext|> </s> ##ing ▁x",
    "\\n \\u0041 &amp; %20",
]


@pytest.mark.parametrize("text", NASTY, ids=lambda text: ascii(text)[:30])
def test_subwords_give_back_every_character(text, bpe):
    assert to_text(bpe, bpe.encode(text).ids, "en") == text


def test_subwords_give_back_random_characters(bpe):
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(chr(rng.choice([rng.randrange(0x300), rng.randrange(0xD800)])) for _ in range(30))
        assert to_text(bpe, bpe.encode(text).ids, "it") == text


def test_subwords_know_no_unknown_word(bpe):
    for text in NASTY:
        assert not {PAD, UNK, SOS, EOS} & set(bpe.encode(text).ids)


def test_subwords_were_learnt_from_the_text(bpe):
    assert len(bpe.encode("The cat sleeps").ids) < len("The cat sleeps") / 2


@pytest.mark.parametrize("vocab_size", [300, 320])
def test_subword_vocabulary_is_no_larger_than_allowed(vocab_size):
    tokenizer = train_bpe_tokenizer([SENTENCES * 3], vocab_size, 2)
    assert tokenizer.get_vocab_size() == vocab_size


def test_a_rare_merge_does_not_enter_the_vocabulary():
    texts = ["qqq " * 4 + "zzzz " * 9]
    kept, left_out = (train_bpe_tokenizer([texts], 400, frequency).get_vocab() for frequency in (5, 100))
    assert "zz" in kept
    assert not {word for word in left_out if len(word) > 1 and word not in MARKS}


# --- Words --------------------------------------------------------------------------------------------------

ENGLISH = [
    "The cat sleeps.",
    "don't",
    "I'm sure we've won, they'd say.",
    "She'll come at five o'clock, won't she?",
    "You're right: it isn't here.",
    "DON'T!",
    "the disciples' feet",
    "James' book, and Marco's mother's house",
    "the boys' toys; the girls' dolls.",
    "It’s the king’s.",
    "It cost 3,000 pounds, not 3.5.",
    "1,000,000 men and 2,500.75 miles",
    "3, 4 and 5",
    "In 1850, 300 men came.",
    "At 2:30 he left.",
    "50% of them",
    "a well-known mother-in-law",
    "twenty-one",
    "He stopped—and went on.",
    "(see below)",
    "He (the captain) laughed; she [sic] did not.",
    "[1] See the note {a}.",
    "Wait... what?",
    "Wait… what?!",
    "Oh! Yes!",
    '"Go!" he said.',
    'He said: "Go home."',
    '"Well," said she, "go."',
    '"One." "Two."',
    'He said ("no") and "(a)" is "b".',
    "“Go,” he said. “Now!”",
    "Mr. Smith & Sons",
    "O'Brien",
    "No, no, no...",
]

ITALIAN = [
    "Il gatto dorme.",
    "l'amico",
    "L'ho visto.",
    "un po' di pane",
    "un po' alto",
    "Un po'? Sì, un po'.",
    "C'è un po' d'acqua.",
    "dell'acqua",
    "all'improvviso",
    "quell'altro",
    "Sant'Antonio",
    "nell'anno 1850",
    "un'altra volta, mezz'ora",
    "c'era una volta",
    "Com'è andata?",
    "Dov'è l'uomo?",
    "Non c'è nient'altro, tutt'altro!",
    "l’amica dell’uomo",
    "E' vero.",
    "E' alto.",
    "Va' a casa.",
    "Sta' attento!",
    "Be', andiamo.",
    "a mo' di esempio",
    "«Ciao!» disse.",
    "Disse: «Vieni qui».",
    "«Chi è?», chiese l'uomo.",
    "dell'«Avanti!»",
    "“Ciao”, disse.",
    '"Ciao", disse. "Vieni!"',
    "3.000 persone alle 2:30",
    "lunedì-venerdì",
    "— Sì, — disse lui — vengo.",
    "l'80% di loro, dell'1 maggio",
    "(v. nota)",
    "Ma... no!",
    "perché no? Perché sì.",
    "¿Qué? ¡No!",
]


OTHERS = [
    ("de", "Er sagte: „Hallo“, und ging."),
    ("de", "„Wer?“ „Ich.“"),
    ("cs", "Řekl „ano“ a odešel."),
    ("pl", "Powiedział „tak” i wyszedł."),
    ("hi", "यह घर है।"),
    ("ar", "المكتبة؟ نعم، هناك."),
]


@pytest.mark.parametrize(
    ("language", "text"), OTHERS + [("en", text) for text in ENGLISH] + [("it", text) for text in ITALIAN], ids=str
)
def test_words_are_put_together_as_they_were_written(language, text):
    assert join_words(pre_tokenise(text), language) == text


@pytest.mark.parametrize(("language", "texts"), [("en", ENGLISH), ("it", ITALIAN)])
def test_a_sentence_comes_back_from_its_ids(language, texts):
    tokenizer = train_word_tokenizer([texts], 1000, 1)
    for text in texts:
        assert to_text(tokenizer, tokenizer.encode(text).ids, language) == text


def test_no_words_are_an_empty_text(by_word):
    assert join_words([], "en") == to_text(by_word, [], "it") == ""


def test_joining_moves_spaces_only():
    rng = random.Random(0)
    pieces = [word for text in ENGLISH + ITALIAN for word in pre_tokenise(text)]
    for language in ("en", "it", "xx"):
        for _ in range(200):
            words = rng.choices(pieces, k=12)
            assert join_words(words, language).replace(" ", "") == "".join(words)


def test_an_unknown_word_is_seen_to_be_one(by_word):
    ids = by_word.encode("the zebra sleeps").ids
    assert ids == [by_word.token_to_id("the"), UNK, by_word.token_to_id("sleeps")]
    assert to_text(by_word, ids, "en") == f"the {MARKS[UNK]} sleeps"


def test_every_id_a_model_may_write_has_a_text(by_word, bpe):
    for tokenizer in (by_word, bpe):
        for i in range(tokenizer.get_vocab_size()):
            assert isinstance(to_text(tokenizer, [i, UNK, i], "it"), str)


@pytest.mark.parametrize("min_frequency", [1, 2, 3])
def test_a_rare_word_does_not_enter_the_vocabulary(min_frequency):
    counts = Counter(word for text in SENTENCES for word in pre_tokenise(text))
    tokenizer = train_word_tokenizer([SENTENCES[:2], SENTENCES[2:]], 1000, min_frequency)
    expected = {word for word, count in counts.items() if count >= min_frequency}
    assert set(tokenizer.get_vocab()) == expected | set(MARKS)


@pytest.mark.parametrize("vocab_size", [8, 12, 20])
def test_the_most_frequent_words_fill_a_small_vocabulary(vocab_size):
    counts = Counter(word for text in SENTENCES for word in pre_tokenise(text))
    tokenizer = train_word_tokenizer([SENTENCES], vocab_size, 1)
    assert tokenizer.get_vocab_size() == vocab_size
    taken = sorted((counts[word] for word in tokenizer.get_vocab() if word not in MARKS), reverse=True)
    assert taken == sorted(counts.values(), reverse=True)[: len(taken)]


# --- Both ---------------------------------------------------------------------------------------------------


def test_the_marks_have_the_ids_that_the_model_counts_on(by_word, bpe):
    for tokenizer in (by_word, bpe):
        assert [tokenizer.token_to_id(mark) for mark in MARKS] == [PAD, UNK, SOS, EOS]


@pytest.mark.parametrize("train", [train_word_tokenizer, train_bpe_tokenizer])
@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_in_a_sentence_is_text(mark, train):
    for texts in (SENTENCES, [f"say {mark} now"]):  # whether or not the training part had it
        tokenizer = train([texts], 400, 1)
        ids = tokenizer.encode(f"the {mark}{mark}").ids
        assert tokenizer.token_to_id(mark) not in ids or mark == MARKS[UNK]
        assert len(ids) > 3
        assert not {PAD, SOS, EOS} & set(ids)


@pytest.mark.parametrize("name", ["by_word", "bpe"])
def test_a_stored_tokenizer_behaves_like_the_original(name, request):
    tokenizer = request.getfixturevalue(name)
    again = load_tokenizer(tokenizer.to_str())
    assert again.get_vocab() == tokenizer.get_vocab()
    for text in SENTENCES + NASTY + ENGLISH + ITALIAN:
        ids = tokenizer.encode(text).ids
        assert again.encode(text).ids == ids
        assert to_text(again, ids, "it") == to_text(tokenizer, ids, "it")


@pytest.mark.parametrize("train", [train_word_tokenizer, train_bpe_tokenizer])
def test_the_same_text_gives_the_same_tokenizer(train):
    assert train([SENTENCES], 400, 1).to_str() == train([SENTENCES[:1], SENTENCES[1:]], 400, 1).to_str()
