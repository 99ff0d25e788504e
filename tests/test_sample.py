"""The bundled sample corpus: layout, reproducibility, and the Italian of its grammar."""

import importlib
import re
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
from tokenizers.pre_tokenizers import Whitespace

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
g = importlib.import_module("sample_grammar")
v = importlib.import_module("sample_vocabulary")
make_sample = importlib.import_module("make_sample")
sys.path.remove(str(DATA))

Pair, N, A, V, P = g.Pair, v.NOUNS, v.ADJECTIVES, v.VERBS, g.PRONOUNS
ANNA, MARCO = g.name("Anna"), g.name("Marco")


def np(noun, det="the", adjective=None, plural=False):
    return g.noun_phrase(N[noun], det, A[adjective] if adjective else None, plural)


def place(name, det="the", plural=False):
    noun, where, dove, _ = (v.PLACES | v.HOLDERS)[name]
    return g.located(where, dove, g.noun_phrase(noun, det, None, plural))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return datasets.load_dataset(str(DATA / "sample"), "en-it", split="train", cache_dir=cache)


@pytest.fixture(scope="module")
def pairs(corpus):
    return [Pair(row["en"], row["it"]) for row in corpus["translation"]]


def test_columns(corpus):
    translation = datasets.Translation(languages=["en", "it"])
    assert corpus.features == datasets.Features({"id": datasets.Value("string"), "translation": translation})
    assert list(corpus["id"]) == [str(i) for i in range(len(corpus))]
    assert 4500 <= len(corpus) <= 9000


def test_generator_reproduces_the_committed_rows(pairs):
    assert make_sample.make_pairs() == pairs


def test_lengths(pairs):
    for side in zip(*pairs, strict=True):
        lengths = [len(text.split()) for text in side]
        assert min(lengths) >= 3
        assert max(lengths) <= 40
        assert sum(length >= 25 for length in lengths) >= 150
        assert sum(length <= 6 for length in lengths) >= 1000


def test_english_sentences_are_distinct(pairs):
    assert len({pair.en for pair in pairs}) == len(pairs)


def test_every_token_is_frequent(pairs):
    split = Whitespace().pre_tokenize_str
    for side in zip(*pairs, strict=True):
        counts = Counter(token for text in side for token, _ in split(text))
        assert min(counts.values()) >= 5, counts.most_common()[-5:]


def test_sentences_are_well_formed(pairs):
    for pair in pairs:
        assert pair.en[-1] == pair.it[-1]
        assert pair.en[-1] in '.?!"'
        for text in pair:
            assert text[0].isupper()
            assert "  " not in text
            assert not re.search(r" [,.:?!]|' ", text)


NOUN_PHRASES = {
    # Definite and indefinite articles before every kind of sound.
    "the boy": (np("boy"), "il ragazzo"),
    "the student": (np("student"), "lo studente"),
    "the backpack": (np("backpack"), "lo zaino"),
    "the psychologists": (np("psychologist", plural=True), "gli psicologi"),
    "the friends": (np("friend", plural=True), "gli amici"),
    "the friend": (np("friend"), "l'amico"),
    "the books": (np("book", plural=True), "i libri"),
    "the oranges": (np("orange", plural=True), "le arance"),
    "a mirror": (np("mirror", "a"), "uno specchio"),
    "an orange": (np("orange", "a"), "un'arancia"),
    "a friend": (np("friend", "a"), "un amico"),
    "an old student": (np("student", "a", "old"), "un vecchio studente"),
    "the young actress": (np("actress", "the", "young"), "la giovane attrice"),
    # Agreement and position of adjectives.
    "the white shoes": (np("shoe", "the", "white", True), "le scarpe bianche"),
    "the tired doctors": (np("doctor", "the", "tired", True), "i medici stanchi"),
    "two kind women": (np("woman", "two", "kind", True), "due donne gentili"),
    "these beautiful backpacks": (np("backpack", "this", "beautiful", True), "questi begli zaini"),
    "a beautiful clock": (np("clock", "a", "beautiful"), "un bell'orologio"),
    "the long letters": (np("letter", "the", "long", True), "le lunghe lettere"),
    # Demonstratives, partitives, quantities.
    "that man": (np("man", "that"), "quell'uomo"),
    "those students": (np("student", "that", plural=True), "quegli studenti"),
    "that dog": (np("dog", "that"), "quel cane"),
    "this actress": (np("actress", "this"), "quest'attrice"),
    "some sugar": (np("sugar", "some"), "dello zucchero"),
    "some water": (np("water", "some"), "dell'acqua"),
    "some apples": (np("apple", "some", plural=True), "delle mele"),
    "many keys": (np("key", "many", plural=True), "molte chiavi"),
    "all the students": (np("student", "all", plural=True), "tutti gli studenti"),
    "every child": (np("child", "every"), "ogni bambino"),
    # Possessives: no article with one relative, but with loro and in the plural.
    "my book": (np("book", "my"), "il mio libro"),
    "my mother": (np("mother", "my"), "mia madre"),
    "her brothers": (np("brother", "her", plural=True), "i suoi fratelli"),
    "their uncle": (np("uncle", "their"), "il loro zio"),
    "Anna's old book": (g.owned_by(np("book", "the", "old"), ANNA), "il vecchio libro di Anna"),
    "the student's key": (g.owned_by(np("key"), np("student")), "la chiave dello studente"),
}


@pytest.mark.parametrize("english", NOUN_PHRASES)
def test_noun_phrases(english):
    phrase, italian = NOUN_PHRASES[english]
    assert (phrase.en, phrase.it) == (english, italian)


PREPOSITIONS = {
    "in the backpack": (g.located("in", "in", np("backpack")), "nello zaino"),
    "on the shelves": (place("shelf", plural=True), "sugli scaffali"),
    "on the island": (place("island"), "sull'isola"),
    "at the stadium": (place("stadium"), "allo stadio"),
    "in that castle": (place("castle", "that"), "in quel castello"),
    "in the gardens": (place("garden", plural=True), "nei giardini"),
    "from the engineer": (g.located("from", "da", np("engineer")), "dall'ingegnere"),
    "to my brother": (g.located("to", "a", np("brother", "my")), "a mio fratello"),
    "to my friends": (g.located("to", "a", np("friend", "my", plural=True)), "ai miei amici"),
    "to Anna": (g.located("to", "a", ANNA), "ad Anna"),
    "about the ladies": (g.located("about", "di", np("lady", plural=True)), "delle signore"),
    "near the airport": (
        g.located("near", "vicino a", g.noun_phrase(v.PLACES["airport"][0])),
        "vicino all'aeroporto",
    ),
}


@pytest.mark.parametrize("english", PREPOSITIONS)
def test_prepositions(english):
    phrase, italian = PREPOSITIONS[english]
    assert phrase == (english, italian)


HUNGRY, HOME = Pair("hungry", "fame"), Pair("home", "a casa")
WHO_SINGS = g.predicate(np("man"), V["sing"], "present")
FOUND_BY_ANNA = g.clause(ANNA, V["find"], "past")
SENTENCES = {
    # Persons and tenses.
    "I eat the apple.": (g.clause(P["I"], V["eat"], "present", np("apple")), "Mangio la mela."),
    "You look for Marco.": (g.clause(P["you"], V["look for"], "present", MARCO), "Cerchi Marco."),
    "She comes home.": (g.clause(P["she"], V["come"], "present", HOME), "Viene a casa."),
    "We go home.": (g.clause(P["we"], V["go"], "present", HOME), "Andiamo a casa."),
    "They stay.": (g.clause(P["they"], V["stay"], "present"), "Rimangono."),
    "Marco drank the milk.": (g.clause(MARCO, V["drink"], "past", np("milk")), "Marco ha bevuto il latte."),
    "Anna arrived.": (g.clause(ANNA, V["arrive"], "past"), "Anna è arrivata."),
    "He left.": (g.clause(P["he"], V["leave"], "past"), "È partito."),
    "The girls went home.": (
        g.clause(np("girl", plural=True), V["go"], "past", HOME),
        "Le ragazze sono andate a casa.",
    ),
    "Anna and Marco fell.": (g.clause(g.both(ANNA, MARCO), V["fall"], "past"), "Anna e Marco sono caduti."),
    "Marco and Elena sing.": (
        g.clause(g.both(MARCO, g.name("Elena")), V["sing"], "present"),
        "Marco ed Elena cantano.",
    ),
    "I was reading a book.": (
        g.clause(P["I"], V["read"], "progressive", np("book", "a")),
        "Leggevo un libro.",
    ),
    "They were drinking.": (g.clause(P["they"], V["drink"], "progressive"), "Bevevano."),
    "We will see Anna.": (g.clause(P["we"], V["see"], "future", ANNA), "Vedremo Anna."),
    "Marco will eat.": (g.clause(MARCO, V["eat"], "future"), "Marco mangerà."),
    "Anna loved the sea.": (
        g.clause(ANNA, V["love"], "past", Pair("the sea", "il mare")),
        "Anna amava il mare.",
    ),
    # To be: agreement, and the states that Italian has.
    "The nurses are tired.": (
        g.clause(np("nurse", plural=True), v.BE, "present", g.state(np("nurse", plural=True), A["tired"])),
        "Le infermiere sono stanche.",
    ),
    "We are happy.": (g.clause(P["we"], v.BE, "present", g.state(P["we"], A["happy"])), "Siamo felici."),
    "I am hungry.": (g.clause(P["I"], v.BE_WITH_AVERE, "present", HUNGRY), "Ho fame."),
    "There is a book on the table.": (
        g.there_is(np("book", "a"), place("table")),
        "C'è un libro sul tavolo.",
    ),
    # Negation and adverbs.
    "Anna does not sleep.": (g.clause(ANNA, V["sleep"], "present", negative=True), "Anna non dorme."),
    "He did not write.": (g.clause(P["he"], V["write"], "past", negative=True), "Non ha scritto."),
    "Marco never works.": (g.clause(MARCO, V["work"], "present", often="never"), "Marco non lavora mai."),
    "Anna often goes out.": (g.clause(ANNA, V["go out"], "present", often="often"), "Anna esce spesso."),
    "You cannot open the door.": (
        g.clause(P["you"], v.CAN, "present", Pair("open", "aprire"), np("door"), negative=True),
        "Non puoi aprire la porta.",
    ),
    "I like the apples.": (g.likes("I", np("apple", plural=True)), "Mi piacciono le mele."),
    # Relative clauses.
    "The man who sings left.": (
        g.clause(g.which(np("man"), Pair("who " + WHO_SINGS.en, WHO_SINGS.it)), V["leave"], "past"),
        "L'uomo che canta è partito.",
    ),
    "I like the key that Anna found.": (
        g.likes("I", g.which(np("key"), Pair("that " + FOUND_BY_ANNA.en, FOUND_BY_ANNA.it))),
        "Mi piace la chiave che Anna ha trovato.",
    ),
}


@pytest.mark.parametrize("english", SENTENCES)
def test_sentences(english):
    clause, italian = SENTENCES[english]
    assert g.sentence(clause) == (english, italian)


QUESTIONS = {
    "Does Anna sing?": (g.question(Pair("", ""), ANNA, V["sing"], "present"), "Anna canta?"),
    "Where is the key?": (
        g.question(Pair("where", "dove"), np("key"), v.BE, "present", inverted=True),
        "Dov'è la chiave?",
    ),
    "When did Anna arrive?": (
        g.question(Pair("when", "quando"), ANNA, V["arrive"], "past", inverted=True),
        "Quando è arrivata Anna?",
    ),
    "Why are you sad?": (
        g.question(Pair("why", "perché"), P["you"], v.BE, "present", g.state(P["you"], A["sad"])),
        "Perché sei triste?",
    ),
    "What did you buy?": (
        g.question(Pair("what", "che cosa"), P["you"], V["buy"], "past"),
        "Che cosa hai comprato?",
    ),
    "Who broke the cup?": (g.who_question(V["break"], "past", np("cup")), "Chi ha rotto la tazza?"),
}


@pytest.mark.parametrize("english", QUESTIONS)
def test_questions(english):
    question, italian = QUESTIONS[english]
    assert g.sentence(question, end="?") == (english, italian)


def test_imperatives():
    window = np("window")
    assert g.imperative(V["open"], window) == ("open the window", "apri la finestra")
    assert g.imperative(V["eat"], np("bread")) == ("eat the bread", "mangia il pane")
    assert g.imperative(V["close"], window, negative=True) == (
        "do not close the window",
        "non chiudere la finestra",
    )


PHENOMENA = {  # pattern in the Italian side: least number of sentences
    r"\b[Ll]o \w": 100,
    r"\b[Gg]li \w": 100,
    r"\b[Ll]'\w": 200,
    r"\b[Uu]n'\w": 30,
    r"\b[Uu]no \w": 50,
    r"\b([Dd]e|a|da|ne|su)ll['oae]": 300,
    r"\b(degli|agli|dagli|negli|sugli|nei|ai|dei|dai|sui)\b": 100,
    r"\b[Qq]uell'": 50,
    r"\b[Qq]uegli\b": 20,
    r"\bbell'|\bbegli\b|\bbel\b": 10,
    r"\bDov'è\b": 20,
    r"\bC'è\b": 40,
    r"\bmi[ao] (madre|padre|zi[ao]|sorella)": 40,
    r"\bil loro\b|\bla loro\b": 50,
    r"\bed E": 10,
    r"\bad A": 5,
    r"\b(è|sono) \w+(ata|ita|uta|asta)\b": 40,
    r"\b(è|sono) \w+(ate|ite|ute|aste)\b": 10,
    r"\b(ho|hai|ha|abbiamo|hanno) \w+[ts]o\b": 1000,
    r"\w(ò|rà|rai|remo|ranno)\b": 300,
    r"\w[aei]v(o|i|a|amo|ano)\b": 400,
    r"\b[Nn]on\b": 400,
    r"\bmai\b": 40,
    r"\bperché\b": 150,
    r"\bPerché\b": 40,
    r"\b[Qq]uando\b": 100,
    r"\b[Mm]entre\b": 150,
    r"\bSe\b": 50,
    r"\bquindi\b": 50,
    r"\bche\b": 400,
    r"\bma\b": 100,
    r"\bmolt[ie]\b": 100,
    r"\bChi\b": 40,
    r"Che cosa": 40,
    r"\bPrima di\b": 30,
    r"\bpiacciono\b": 20,
    r": \"": 80,
    r"!": 50,
    r"\?": 400,
    r",": 400,
}


@pytest.mark.parametrize("pattern", PHENOMENA)
def test_phenomena_occur(pairs, pattern):
    assert sum(re.search(pattern, pair.it) is not None for pair in pairs) >= PHENOMENA[pattern]
