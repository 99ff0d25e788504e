"""Random choices for the sample corpus: words, phrases and clauses that make sense together.

sample_grammar.py builds the phrases; make_sample.py puts the clauses into sentences.
"""

import random
from collections import Counter

import sample_grammar as g
from sample_grammar import NounPhrase, Pair, clause, located, noun_phrase, predicate
from sample_vocabulary import (
    ADJECTIVES,
    BE,
    BE_WITH_AVERE,
    FIXED_DESTINATIONS,
    FIXED_PLACES,
    HOLDERS,
    NAMES,
    NOUNS,
    NUMBERS,
    PLACES,
    POSSESSIVES,
    STATES,
    TIMES,
    VERBS,
    WEATHER,
    Noun,
    Verb,
)

BUILDINGS = ("museum", "restaurant", "castle", "hotel", "shop", "garden", "forest", "room")
PAIRS_OF_PLACES = [Pair(*row) for row in FIXED_PLACES]
PAIRS_OF_DESTINATIONS = [Pair(*row) for row in FIXED_DESTINATIONS]


class DeadEnd(Exception):
    """The choices so far leave nothing to choose from; the sentence is drawn again."""


class Draw:
    """Random choices that prefer what was used least, so that every word gets its share of the corpus."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.counts: Counter = Counter()
        self.start()

    def start(self) -> None:
        """Begin a sentence."""
        self.used: set[str] = set()  # its nouns: none occurs twice
        self.topic: NounPhrase | None = None  # its first subject, which later pronouns mean

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def any(self, options):
        """A plain choice."""
        return self.rng.choice(list(options))

    def one(self, options, *context):
        """The least used of a few random options; `context` keeps uses apart (a verb's tense, person)."""
        options = list(options)
        if not options:
            raise DeadEnd
        few = self.rng.choices(options, k=4)
        best = min(few, key=lambda option: self.counts[option, context])
        self.counts[best, context] += 1
        return best

    def noun(self, tag: str) -> Noun:
        """A noun with this tag that the sentence does not have yet."""
        options = [noun for noun in NOUNS.values() if tag in noun.tags and noun.en not in self.used]
        noun = self.one(options)
        self.used.add(noun.en)
        return noun

    def name(self) -> NounPhrase:
        """A first name that the sentence does not have yet."""
        who = self.one([who for who in NAMES if who not in self.used])
        self.used.add(who)
        return g.name(who)


# ------------------------------------------------------------------------------------------- phrases


def adjective_for(draw: Draw, noun: Noun, probability: float, only_before: bool = False):
    """An adjective that suits the noun, or None."""
    options = [a for a in ADJECTIVES.values() if set(a.fits) & set(noun.tags) and (a.before or not only_before)]
    return draw.one(options) if options and draw.chance(probability) else None


def thing(draw: Draw, tag: str, dets: str = "", adjective: float = 0.25) -> NounPhrase:
    """A phrase with a noun of this tag, for instance as an object."""
    noun = draw.noun(tag)
    det = draw.any((dets or "the the the the a a a some this that my my my many two").split())
    if noun.en_plural == "-":
        det = draw.any(("the", "some", "some")) if not dets or "some" in dets else "the"
    elif "animal" in noun.tags and "farm" not in noun.tags and det == "my":
        det = "the"
    elif det in ("two", "my"):
        det = draw.one(NUMBERS if det == "two" else POSSESSIVES)
    always = det in ("some", "many") or det in NUMBERS
    plural = noun.en_plural != "-" and (always or (det != "a" and draw.chance(0.25)))
    phrase = noun_phrase(noun, det, adjective_for(draw, noun, adjective), plural)
    if det == "the" and not dets and draw.chance(0.15) and {"portable", "farm"} & set(noun.tags):
        return g.owned_by(phrase, draw.name() if draw.chance(0.5) else noun_phrase(draw.noun("person")))
    return phrase


def person(draw: Draw, adjective: float = 0.2, dets: str = "the the the the a this that two many all") -> NounPhrase:
    """A noun phrase for one or more people: the nurse, those students, my friend."""
    noun = draw.noun("person")
    det = draw.any(dets.split())
    if "own" in noun.tags and draw.chance(0.4):
        det = "my"
    if det in ("two", "my"):
        det = draw.one(NUMBERS if det == "two" else POSSESSIVES)
    plural = det in ("many", "all") or det in NUMBERS or (det not in ("a", "every") and draw.chance(0.3))
    return noun_phrase(noun, det, adjective_for(draw, noun, adjective), plural)


def relative_kin(draw: Draw) -> NounPhrase:
    """My mother, their uncles."""
    noun = draw.noun("kin")
    return noun_phrase(noun, draw.one(POSSESSIVES), plural="several" in noun.tags and draw.chance(0.25))


def someone(draw: Draw, dets: str = "the the the the a this that two many all") -> NounPhrase:
    """A name, a member of the family or another person."""
    kind = draw.any(("name", "name", "kin", "person", "person"))
    return draw.name() if kind == "name" else relative_kin(draw) if kind == "kin" else person(draw, 0.2, dets)


def someone_known(draw: Draw) -> NounPhrase:
    """The same with a definite determiner, for states and questions."""
    return someone(draw, "the the this that")


def pronoun(draw: Draw, which: str = "I you he she we they") -> NounPhrase:
    """A pronoun; inside a longer sentence the one of its first subject, as Italian drops it."""
    if draw.topic is not None:
        return g.pronoun_of(draw.topic)
    return g.PRONOUNS[draw.any(which.split())]


def subject_for(draw: Draw, pronouns: float = 0.25) -> NounPhrase:
    """The subject of a clause."""
    if draw.chance(pronouns):
        return pronoun(draw)
    if draw.chance(0.1):
        return g.both(draw.name(), draw.name() if draw.chance(0.5) else relative_kin(draw))
    return someone(draw, "the the the the a this that every two many all")


def place_phrase(draw: Draw, noun: Noun, free: bool) -> NounPhrase:
    """A place as a noun phrase; `free`: other determiners than "the" sound natural."""
    if noun.en in draw.used:
        raise DeadEnd
    draw.used.add(noun.en)
    det = draw.any(("the", "the", "the", "the", "this", "that", "a")) if free else "the"
    plural = free and det != "a" and draw.chance(0.2)
    return noun_phrase(noun, det, adjective_for(draw, noun, 0.15, only_before=not free), plural)


def static_place(draw: Draw) -> Pair:
    """Where something happens: at the station, in an old castle, at home."""
    if draw.chance(0.25):
        return draw.one(PAIRS_OF_PLACES)
    if draw.chance(0.06):
        return near(draw)
    noun, where, dove, _ = draw.one(PLACES.values())
    return located(where, dove, place_phrase(draw, noun, where != "at"))


def outdoors(draw: Draw) -> Pair:
    """Where one walks and where animals live."""
    noun, where, dove, _ = PLACES[draw.one(("park", "garden", "forest", "village", "island", "beach", "bridge"))]
    return located(where, dove, place_phrase(draw, noun, True))


def trading_place(draw: Draw) -> Pair:
    """Where things are bought and sold."""
    noun, where, dove, _ = PLACES[draw.one(("market", "shop", "station", "airport", "museum"))]
    return located(where, dove, place_phrase(draw, noun, where != "at"))


def destination(draw: Draw) -> Pair:
    """Where somebody goes: to the park, home."""
    if draw.chance(0.3):
        return draw.one(PAIRS_OF_DESTINATIONS)
    noun = draw.one([noun for noun, _, _, to in PLACES.values() if to])
    return located("to", "a", place_phrase(draw, noun, False))


def near(draw: Draw) -> Pair:
    """Near the station, in front of the museum, behind the hotel."""
    words = (
        ("near", "vicino a"),
        ("in front of", "davanti a"),
        ("behind", "dietro"),
        ("far from", "lontano da"),
    )
    places = [PLACES[name][0] for name in ("station", "museum", "hospital", "park", "hotel", "stadium", "airport")]
    return located(*draw.one(words), place_phrase(draw, draw.one(places), False))


def holder(draw: Draw) -> Pair:
    """Where a thing lies: on the table, in these boxes, under the bed."""
    noun, where, dove, _ = draw.one(HOLDERS.values())
    if noun.en in ("table", "bed") and draw.chance(0.4):
        where, dove = "under", "sotto"
    det = draw.any(("the", "the", "the", "this", "that"))
    return located(where, dove, noun_phrase(noun, det, plural=draw.chance(0.45 if noun.en == "shelf" else 0.2)))


def complements(draw: Draw, verb: Verb, full: bool = True, dets: str = "") -> list[Pair]:
    """What follows the verb, according to its frame; `full` allows more than the verb needs."""
    frame, more = verb.frame, full and draw.chance(0.25)
    company = [located("with", "con", someone(draw))] if more and draw.chance(0.4) else []
    if verb.en == "sleep":
        company = []
    if frame == "place":
        return company + ([static_place(draw)] if verb.en == "stay" or draw.chance(0.7) else [])
    if frame == "outdoors":
        return company + ([outdoors(draw)] if draw.chance(0.7) else [])
    if frame == "home":
        return [near(draw) if draw.chance(0.4) else draw.any((PAIRS_OF_PLACES[4], PAIRS_OF_PLACES[5]))]
    if frame == "destination":
        return [destination(draw), *company]
    if frame == "arrival":
        stops = [row for row in PLACES.values() if row[1] == "at"]
        noun, where, dove, _ = draw.one(stops)
        return [located(where, dove, place_phrase(draw, noun, False))] if draw.chance(0.7) else []
    if frame == "inside":
        place = place_phrase(draw, PLACES[draw.one(BUILDINGS)][0], False)
        return [Pair(place.en, g.preposed("in", place))]
    if frame in ("company", "nothing"):
        return [located("with", "con", someone(draw))] if draw.chance(0.5) else []
    if frame == "talk":
        about = thing(draw, "text", "the this that") if draw.chance(0.4) else someone(draw)
        return [located("with", "con", someone(draw)) if draw.chance(0.4) else located("about", "di", about)]
    if frame == "given":
        what, to = thing(draw, "portable"), person(draw, 0.1, "the") if draw.chance(0.5) else someone(draw)
        return [what, located("to", "a", to)]
    if frame == "received":
        return [thing(draw, "portable", "a a two three many"), located("from", "da", someone(draw))]
    if frame == "owned":
        return [thing(draw, draw.any(("farm", "portable", "bulky", "several")), "a a two three four five many", 0.2)]
    if frame == "people":
        return [someone(draw)] + ([static_place(draw)] if more and "stative" not in verb.flags else [])
    if frame == "seen":
        return [someone(draw) if draw.chance(0.5) else thing(draw, "animal")] + ([static_place(draw)] if more else [])
    if frame == "goods":
        return [thing(draw, frame, dets)] + ([trading_place(draw)] if more else [])
    return [thing(draw, frame, dets)] + ([static_place(draw)] if more else [])


# -------------------------------------------------------------------------------------------- clauses


def verb_for(draw: Draw, subject: NounPhrase, tense: str, frames: tuple[str, ...] = ()) -> Verb:
    """A verb that exists in the tense and person; "I read" is left out: it may be present or past."""

    def fits(verb: Verb) -> bool:
        flags = verb.flags
        if "stative" in flags or verb.frame in ("that", "infinitive") or (frames and verb.frame not in frames):
            return False
        # The participle with essere would show a gender that "I" does not tell.
        too_personal = "essere" in flags if tense == "past" else subject.person != 3 and "personal" not in flags
        if subject.is_pronoun and subject.index != 2 and too_personal:
            return False
        if verb.en == "read" and subject.index != 2 and tense in ("present", "past"):
            return False
        return {"present": "event" not in flags, "past": True}.get(tense, tense in flags)

    return draw.one([verb for verb in VERBS.values() if fits(verb)], tense, subject.index)


def deny(draw: Draw, probability: float, subject: NounPhrase, rest: list[Pair]) -> bool:
    """Whether to negate the clause: not with quantifiers, which change under negation (some, any)."""
    words = " ".join([subject.en, *(part.en for part in rest)]).split()
    return draw.chance(probability) and not {"every", "all", "many", "some", *NUMBERS} & set(words)


def tense_for(draw: Draw) -> str:
    return draw.any(("present", "present", "past", "past", "past", "future", "progressive"))


def main_clause(
    draw: Draw,
    tense: str,
    first: bool = False,
    subject: NounPhrase | None = None,
    full: bool = True,
    negation: float = 0.12,
) -> Pair:
    """A clause with a verb of action. `first`: it opens a sentence, where a dropped subject would put a
    capital letter on every form of every verb; a negation or an expression of time stands there instead."""
    subject = subject or subject_for(draw)
    draw.topic = draw.topic or subject
    verb = verb_for(draw, subject, tense)
    rest = complements(draw, verb, full)
    negative = deny(draw, negation, subject, rest)
    if tense == "present" and not negative and draw.chance(0.3):
        often = "never" if deny(draw, 0.6, subject, rest) else draw.any(("always", "often"))
        if not (first and subject.is_pronoun and often != "never"):
            return clause(subject, verb, tense, *rest, often=often)
    words = clause(subject, verb, tense, *rest, negative=negative)
    if not first or (tense == "present" and negative):
        return words
    time = Pair(*draw.one(TIMES[tense]))
    if negative and time.en == "soon":
        raise DeadEnd
    if time.en == "soon" or (subject.is_pronoun and tense != "past" and not negative) or draw.chance(0.25):
        return Pair(f"{time.en} {words.en}", f"{time.it} {words.it}")
    return Pair(f"{words.en} {time.en}", f"{words.it} {time.it}") if draw.chance(0.25) else words


def condition(draw: Draw, tense: str, first: bool = False) -> Pair:
    """A state of things that explains something: it was raining, Anna is hungry, the boys were tired."""
    if draw.chance(0.3):
        return Pair(*draw.one(WEATHER[tense]))
    who = someone_known(draw) if first or draw.chance(0.5) else pronoun(draw)
    draw.topic = draw.topic or who
    if draw.chance(0.55):
        return clause(who, BE_WITH_AVERE, tense, Pair(*draw.one(STATES.items())), negative=draw.chance(0.1))
    words = "happy sad" if who.is_pronoun and who.index != 2 else "happy sad tired sick"
    return clause(who, BE, tense, g.state(who, ADJECTIVES[draw.any(words.split())]), negative=draw.chance(0.1))


def action(draw: Draw, flag: str = "future", full: bool = True, dets: str = "") -> tuple[Verb, list[Pair]]:
    """A verb with this flag and its complements, for an infinitive or an imperative."""
    verb = draw.one([verb for verb in VERBS.values() if flag in verb.flags and verb.en != "arrive"], "infinitive")
    return verb, complements(draw, verb, full, dets)


def with_relative(draw: Draw, tense: str) -> NounPhrase:
    """The man who sings, the girl who bought a book."""
    who = person(draw, 0.1, "the the a that")
    verb = verb_for(draw, who, tense)
    rest = complements(draw, verb, False)
    if not rest:
        raise DeadEnd  # "the man who sleeps wrote ..." is clumsy
    en, it = predicate(who, verb, tense, *rest, negative=deny(draw, 0.08, who, rest))
    return g.which(who, Pair(f"who {en}", it))


def with_object_relative(draw: Draw) -> NounPhrase:
    """The book that Anna bought."""
    noun = draw.noun("portable")
    what = noun_phrase(noun, "the", adjective_for(draw, noun, 0.15), draw.chance(0.25))
    verb = VERBS[
        draw.one(("find", "lose", "hide", "steal", "see", "look for", "buy" if "goods" in noun.tags else "find"))
    ]
    who = pronoun(draw, "I you he she we they") if draw.chance(0.3) and verb.en in ("find", "see") else someone(draw)
    draw.used.add(verb.en)
    en, it = clause(who, verb, "past")
    return g.which(what, Pair(f"that {en}", it))
