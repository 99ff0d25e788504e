"""Hand-written grammar of the sample corpus: phrases in both languages from explicit choices.

Nothing here is random: make_sample.py makes the choices.
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from sample_vocabulary import BE, FREQUENCIES, NAMES, NUMBERS, POSSESSIVES, VERBS, Adjective, Noun, Verb

ESSERE, AVERE = BE, VERBS["have"]


class Pair(NamedTuple):
    """The same phrase in both languages."""

    en: str
    it: str


@dataclass(frozen=True)
class NounPhrase:
    """A noun phrase; the Italian definite article is apart because prepositions merge with it."""

    en: str
    rest: str
    article: str = ""
    feminine: bool = False
    plural: bool = False
    person: int = 3

    @property
    def it(self) -> str:
        return self.article + self.rest

    @property
    def index(self) -> int:
        """Place of the verb form in the tables: io, tu, lui/lei, noi, loro."""
        return {(1, False): 0, (2, False): 1, (3, False): 2, (1, True): 3, (3, True): 4}[self.person, self.plural]

    @property
    def is_pronoun(self) -> bool:
        return self.rest == ""


PRONOUNS = {  # Italian drops them
    "I": NounPhrase("I", "", person=1),
    "you": NounPhrase("you", "", person=2),
    "he": NounPhrase("he", ""),
    "she": NounPhrase("she", "", feminine=True),
    "we": NounPhrase("we", "", plural=True, person=1),
    "they": NounPhrase("they", "", plural=True),
}


def pronoun_of(phrase: NounPhrase) -> NounPhrase:
    """The pronoun for a subject: he, she or they for a noun."""
    if phrase.is_pronoun:
        return phrase
    return PRONOUNS["they" if phrase.plural else "she" if phrase.feminine else "he"]


# ---------------------------------------------------------------------------------------------- words


def join(*parts: str) -> str:
    """Join the parts that are not empty with spaces."""
    return " ".join(part for part in parts if part)


def definite(word: str, feminine: bool, plural: bool) -> str:
    """The definite article before `word`, with its space: il, lo, la, l', i, gli, le."""
    vowel = word[0] in "aeiouè"
    impure = re.match(r"z|gn|ps|x|y|s[^aeiou]", word) is not None
    if feminine:
        return "le " if plural else "l'" if vowel else "la "
    if plural:
        return "gli " if vowel or impure else "i "
    return "l'" if vowel else "lo " if impure else "il "


def indefinite(word: str, feminine: bool) -> str:
    """The indefinite article before `word`, with its space: un, uno, una, un'."""
    if feminine:
        return "un'" if word[0] in "aeiou" else "una "
    return "uno " if definite(word, False, False) == "lo " else "un "


def like_article(stem: str, article: str) -> str:
    """Words inflected like the article: quel/quello/quell'/quei/quegli..., bel/bello/bell'/bei/begli..."""
    endings = {
        "il ": "l ",
        "lo ": "llo ",
        "l'": "ll'",
        "la ": "lla ",
        "i ": "i ",
        "gli ": "gli ",
        "le ": "lle ",
    }
    return stem + endings[article]


def preposed(preposition: str, phrase: NounPhrase) -> str:
    """Italian preposition and noun phrase: nello zaino, all'amico, vicino alla stazione, ad Anna."""
    before, _, last = preposition.rpartition(" ")
    stem = {"di": "de", "a": "a", "da": "da", "in": "ne", "su": "su"}.get(last)
    if stem and phrase.article:
        return join(before, like_article(stem, phrase.article) + phrase.rest)
    if last == "a" and phrase.it[0] in "aA":
        last = "ad"
    return join(before, last, phrase.it)


def inflect(adjective: str, feminine: bool, plural: bool) -> str:
    """Italian adjective or participle in -o (four forms), -e (two forms) or anything else (one form)."""
    stem = adjective[:-1]
    if adjective.endswith("e"):
        return stem + ("i" if plural else "e")
    if not adjective.endswith("o"):
        return adjective
    if not plural:
        return stem + ("a" if feminine else "o")
    if stem.endswith(("c", "g")):
        stem += "h"  # bianchi, lunghe
    if feminine:
        return stem + "e"
    return stem if stem.endswith("i") else stem + "i"  # vecchio: vecchi


def a_or_an(word: str) -> str:
    """English indefinite article."""
    return "an" if word[0] in "aeiouAEIOU" else "a"


# ---------------------------------------------------------------------------------------- noun phrases


def name(who: str) -> NounPhrase:
    """A first name."""
    return NounPhrase(who, who, feminine=NAMES[who])


def noun_phrase(noun: Noun, det: str = "the", adjective: Adjective | None = None, plural: bool = False) -> NounPhrase:
    """Determiner, noun and adjective. `det`: the, a, some, this, that, many, all, a number..."""
    feminine = noun.feminine
    en = join(adjective.en if adjective else "", noun.en_plural if plural else noun.en)
    it = noun.it_plural if plural else noun.it
    if adjective and adjective.it == "bello":
        it = like_article("be", definite(it, feminine, plural)) + it
    elif adjective:
        form = inflect(adjective.it, feminine, plural)
        it = join(form, it) if adjective.before else join(it, form)
    article = definite(it, feminine, plural)

    def phrase(english: str, rest: str, article: str = "") -> NounPhrase:
        return NounPhrase(f"{english} {en}", rest, article, feminine, plural)

    if det == "the":
        return phrase("the", it, article)
    if det == "a":
        return phrase(a_or_an(en), indefinite(it, feminine) + it)
    if det == "some":  # the partitive: del pane, delle mele
        return phrase("some", like_article("de", article) + it)
    if det == "this":
        this = inflect("questo", feminine, plural) + " "
        return phrase("these" if plural else "this", ("quest'" if article == "l'" else this) + it)
    if det == "that":
        return phrase("those" if plural else "that", like_article("que", article) + it)
    if det == "many":
        return phrase("many", join(inflect("molto", feminine, True), it))
    if det == "every":
        return phrase("every", join("ogni", it))
    if det == "all":
        return phrase("all the", join(inflect("tutto", feminine, True), article + it))
    if det in NUMBERS:
        return phrase(det, join(NUMBERS[det], it))
    owner = POSSESSIVES[det][feminine + 2 * plural]
    kin = "kin" in noun.tags and not plural and det != "their" and adjective is None  # mia madre
    return phrase(det, join(owner, it), "" if kin else definite(owner, feminine, plural))


def owned_by(thing: NounPhrase, owner: NounPhrase) -> NounPhrase:
    """Anna's old book: il vecchio libro di Anna. `thing` is a phrase with "the"."""
    en = f"{owner.en}'s {thing.en.removeprefix('the ')}"
    return replace(thing, en=en, rest=join(thing.rest, preposed("di", owner)))


def both(first: NounPhrase, second: NounPhrase) -> NounPhrase:
    """Anna and Marco; the feminine plural only if both are feminine."""
    en, it = f"{first.en} and {second.en}", f"{first.it} e {second.it}"
    return NounPhrase(en, it, feminine=first.feminine and second.feminine, plural=True)


def located(where: str, dove: str, phrase: NounPhrase) -> Pair:
    """A prepositional phrase: in the box, nella scatola."""
    return Pair(f"{where} {phrase.en}", preposed(dove, phrase))


# --------------------------------------------------------------------------------------------- clauses


def english_verb(verb: Verb, tense: str, index: int) -> tuple[str, str]:
    """Auxiliary and main part: ("does", "eat"), ("will", "eat"), ("is", "")."""
    if tense == "future":
        return "will", verb.en
    if tense == "progressive":
        return ("was" if index in (0, 2) else "were"), verb.ing
    if verb.en == "be":
        now = ("am", "are", "is", "are", "are")[index]
        return (now if tense == "present" else "was" if index in (0, 2) else "were"), ""
    if verb.en in ("can", "must"):
        return verb.en, ""
    return ("did" if tense == "past" else "does" if index == 2 else "do"), verb.en


def english_predicate(verb: Verb, tense: str, index: int, negative: bool = False, often: str = "") -> str:
    """eats, does not eat, often eats, cannot."""
    auxiliary, main = english_verb(verb, tense, index)
    if negative:
        return join("cannot" if auxiliary == "can" else f"{auxiliary} not", main)
    if auxiliary in ("do", "does", "did"):
        return join(often, {"do": verb.en, "does": verb.third, "did": verb.past}[auxiliary])
    return join(auxiliary, main)


def italian_predicate(verb: Verb, tense: str, subject: NounPhrase, negative: bool = False, often: str = "") -> str:
    """mangia, non mangia, mangia spesso, non mangia mai, è arrivata."""
    index = subject.index
    if tense == "progressive" or (tense == "past" and "stative" in verb.flags):
        form = verb.imperfect[index]
    elif tense == "past" and "essere" in verb.flags:
        form = f"{ESSERE.present[index]} {inflect(verb.participle, subject.feminine, subject.plural)}"
    elif tense == "past":
        form = f"{AVERE.present[index]} {verb.participle}"
    else:
        form = (verb.future if tense == "future" else verb.present)[index]
    return join("non" if negative or often == "never" else "", form, FREQUENCIES.get(often, ""))


def predicate(
    subject: NounPhrase, verb: Verb, tense: str, *rest: Pair, negative: bool = False, often: str = ""
) -> Pair:
    """The clause without its subject."""
    en = english_predicate(verb, tense, subject.index, negative, often)
    it = italian_predicate(verb, tense, subject, negative, often)
    return Pair(join(en, *(part.en for part in rest)), join(it, *(part.it for part in rest)))


def clause(subject: NounPhrase, verb: Verb, tense: str, *rest: Pair, negative: bool = False, often: str = "") -> Pair:
    """Subject, verb and the rest; tenses: present, past, progressive (imperfetto), future."""
    en, it = predicate(subject, verb, tense, *rest, negative=negative, often=often)
    return Pair(join(subject.en, en), join(subject.it, it))


def question(word: Pair, subject: NounPhrase, verb: Verb, tense: str, *rest: Pair, inverted: bool = False) -> Pair:
    """A question; `word` may be empty (yes or no). `inverted`: the Italian subject stands at the end."""
    auxiliary, main = english_verb(verb, tense, subject.index)
    en = join(word.en, auxiliary, subject.en, main, *(part.en for part in rest))
    it = join(italian_predicate(verb, tense, subject), *(part.it for part in rest))
    it = join(word.it, it, subject.it) if inverted else join(word.it, subject.it, it)
    return Pair(en, re.sub(r"\bdove (è|era)", r"dov'\1", it))


def who_question(verb: Verb, tense: str, *rest: Pair) -> Pair:
    """Who bought the book?"""
    en, it = predicate(NounPhrase("", ""), verb, tense, *rest)
    return Pair(join("who", en), join("chi", it))


def which(phrase: NounPhrase, relative: Pair) -> NounPhrase:
    """Attach a relative clause (a predicate, or a clause without object) to a phrase."""
    return replace(phrase, en=f"{phrase.en} {relative.en}", rest=f"{phrase.rest} che {relative.it}")


def imperative(verb: Verb, *rest: Pair, negative: bool = False) -> Pair:
    """Open the door: apri la porta (tu)."""
    it = verb.present[2 if verb.infinitive.endswith("are") else 1]
    it = "non " + verb.infinitive if negative else it
    en = "do not " + verb.en if negative else verb.en
    return Pair(join(en, *(part.en for part in rest)), join(it, *(part.it for part in rest)))


def there_is(phrase: NounPhrase, where: Pair, past: bool = False, asked: bool = False) -> Pair:
    """There is a book on the table."""
    be = english_verb(BE, "past" if past else "present", phrase.index)[0]
    it = ("c'erano" if phrase.plural else "c'era") if past else ("ci sono" if phrase.plural else "c'è")
    en = f"{be} there" if asked else f"there {be}"
    return Pair(join(en, phrase.en, where.en), join(it, phrase.it, where.it))


def likes(person: str, phrase: NounPhrase, negative: bool = False, asked: bool = False) -> Pair:
    """I like the apples: mi piacciono le mele. `person`: I or you."""
    en = f"do {person} like" if asked else f"{person} {'do not like' if negative else 'like'}"
    it = join("non" if negative else "", "mi" if person == "I" else "ti", "piacciono" if phrase.plural else "piace")
    return Pair(f"{en} {phrase.en}", f"{it} {phrase.it}")


def state(subject: NounPhrase, adjective: Adjective) -> Pair:
    """The complement of "to be", agreeing with the subject."""
    return Pair(adjective.en, inflect(adjective.it, subject.feminine, subject.plural))


def infinitive(verb: Verb, *rest: Pair, en: str = "{en}") -> Pair:
    """An infinitive phrase; `en` is the form in English, with {en} or {ing}."""
    english = en.format(en=verb.en, ing=verb.ing)
    return Pair(join(english, *(part.en for part in rest)), join(verb.infinitive, *(part.it for part in rest)))


def sentence(*parts: Pair | NounPhrase | str, end: str = ".") -> Pair:
    """Glue phrases and marks (the same in both languages) into a sentence with a capital and an end."""
    en = join(*(part if isinstance(part, str) else part.en for part in parts)) + end
    it = join(*(part if isinstance(part, str) else part.it for part in parts)) + end
    en, it = (re.sub(r" ([,:])", r"\1", text) for text in (en, it))
    it = re.sub(r"\be (?=[eèE])", "ed ", it)
    return Pair(en[0].upper() + en[1:], it[0].upper() + it[1:])
