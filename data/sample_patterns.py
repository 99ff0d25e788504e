"""The sentence patterns of the sample corpus, one function each, and how often each is drawn."""

from collections.abc import Callable

import sample_grammar as g
from sample_choices import (
    DeadEnd,
    Draw,
    action,
    adjective_for,
    complements,
    condition,
    deny,
    destination,
    holder,
    main_clause,
    near,
    outdoors,
    person,
    pronoun,
    relative_kin,
    someone,
    someone_known,
    static_place,
    subject_for,
    tense_for,
    thing,
    verb_for,
    with_object_relative,
    with_relative,
)
from sample_grammar import Pair, clause, noun_phrase, question, sentence
from sample_vocabulary import (
    ADJECTIVES,
    BE,
    BE_WITH_AVERE,
    CAN,
    KNOW_THAT,
    MUST,
    NOUNS,
    PLACES,
    POSSESSIVES,
    STATES,
    TIMES,
    VERBS,
)

PASSING = (
    "happy",
    "sad",
    "tired",
    "sick",
    "clean",
    "dirty",
    "hot",
    "cold",
    "fresh",
    "famous",
    "rich",
    "quiet",
)
NOTHING = Pair("", "")


def simple(draw: Draw) -> Pair:
    return sentence(main_clause(draw, tense_for(draw), first=True))


def short(draw: Draw) -> Pair:
    verb = VERBS[draw.one(["sleep", "work", "sing", "dance", "play", "walk", "cry", "leave", "arrive"])]
    subject = draw.name() if draw.chance(0.3) else relative_kin(draw) if draw.chance(0.4) else person(draw, 0.1)
    tense = draw.any(
        [t for t in ("present", "past", "future", "progressive") if t in ("present", "past") or t in verb.flags]
    )
    draw.counts[verb, (tense, subject.index)] += 1
    return sentence(clause(subject, verb, tense, negative=deny(draw, 0.2, subject, [])))


def description(draw: Draw) -> Pair:
    tense = draw.any(("present", "present", "past", "future"))
    kind = draw.any(("person", "person", "pronoun", "animal", "object", "text", "place", "food"))
    if kind == "pronoun":
        subject, noun = pronoun(draw), None
        plain = subject.index != 2
        words = "kind intelligent happy sad English" if plain else "old tall rich tired sick shy famous Italian"
        adjective = ADJECTIVES[draw.any(words.split())]
    else:
        noun = PLACES[draw.one(PLACES)][0] if kind == "place" else draw.noun(kind)
        plural = noun.en_plural != "-" and draw.chance(0.3)
        det = "the" if noun.en_plural == "-" else draw.any(("the", "the", "this", "that"))
        if kind in ("object", "animal") and draw.chance(0.25):
            det = draw.one(POSSESSIVES)
        subject = noun_phrase(noun, det, plural=plural)
        if kind == "person" and draw.chance(0.6):
            subject = draw.name() if draw.chance(0.5) else relative_kin(draw)
            noun = NOUNS["man"]
        adjective = adjective_for(draw, noun, 1.0)
        if adjective is None:
            raise DeadEnd
    if adjective.en not in PASSING and tense == "future":
        tense = "present"
    if draw.chance(0.2):
        return sentence(question(NOTHING, subject, BE, tense, g.state(subject, adjective)), end="?")
    return sentence(clause(subject, BE, tense, g.state(subject, adjective), negative=draw.chance(0.2)))


def feeling(draw: Draw) -> Pair:
    states = list(STATES.items())
    if draw.chance(0.2):
        subject, states = noun_phrase(draw.noun("animal"), plural=draw.chance(0.3)), states[:4]
    else:
        subject = pronoun(draw) if draw.chance(0.35) else someone_known(draw)
    tense, state = draw.any(("present", "present", "past", "future")), Pair(*draw.one(states))
    if draw.chance(0.25):
        return sentence(question(NOTHING, subject, BE_WITH_AVERE, tense, state), end="?")
    return sentence(clause(subject, BE_WITH_AVERE, tense, state, negative=deny(draw, 0.2, subject, [])))


def group(draw: Draw) -> Pair:
    """Several people and a verb with essere, whose participle agrees."""
    if draw.chance(0.3):
        subject = g.both(draw.name(), draw.name())
    else:
        noun = draw.one([noun for noun in NOUNS.values() if {"person", "several"} & set(noun.tags) and noun.feminine])
        det = draw.one(POSSESSIVES) if "kin" in noun.tags else draw.any(("the", "this", "that", "all", "two"))
        subject = noun_phrase(noun, det, plural=True)
    verb = draw.one([verb for verb in VERBS.values() if "essere" in verb.flags], "group")
    draw.topic = subject
    end = condition(draw, "past") if draw.chance(0.3) else None
    words = clause(subject, verb, "past", *complements(draw, verb), negative=deny(draw, 0.15, subject, []))
    return sentence(words, Pair("because", "perché"), end) if end else sentence(words)


def owning(draw: Draw) -> Pair:
    verb, tense = (
        VERBS[draw.one(("have", "know", "love", "live", "live"))],
        draw.any(("present", "present", "past")),
    )
    subject = subject_for(draw, 0.25 if verb.en != "love" else 0)
    rest = complements(draw, verb)
    if draw.chance(0.2):
        return sentence(question(NOTHING, subject, verb, tense, *rest), end="?")
    return sentence(clause(subject, verb, tense, *rest, negative=verb.en != "have" and deny(draw, 0.2, subject, rest)))


def animals(draw: Draw) -> Pair:
    subject = thing(draw, "animal", "the the the the my my this that two", 0.3)
    verb = VERBS[draw.one(("sleep", "play", "stay", "fall", "drink"))]
    tense = draw.any(("past", "progressive" if "progressive" in verb.flags else "past", "present"))
    tense = "past" if "event" in verb.flags else tense
    draw.counts[verb, (tense, subject.index)] += 1
    rest = [noun_phrase(NOUNS[draw.any(("water", "milk"))])] if verb.en == "drink" else [outdoors(draw)]
    return sentence(clause(subject, verb, tense, *rest, negative=draw.chance(0.15)))


def yes_or_no(draw: Draw) -> Pair:
    tense = draw.any(("present", "past", "past", "future", "progressive"))
    subject = someone_known(draw) if tense != "past" or draw.chance(0.5) else pronoun(draw, "you he she they")
    verb = verb_for(draw, subject, tense)
    rest = complements(draw, verb)
    if tense != "present" and draw.chance(0.25):
        rest.append(Pair(*draw.one(TIMES[tense])))
    return sentence(question(NOTHING, subject, verb, tense, *rest), end="?")


def where_or_when(draw: Draw) -> Pair:
    tense = draw.any(("present", "past", "future"))
    subject = (
        draw.name()
        if draw.chance(0.5)
        else someone_known(draw)
        if draw.chance(0.6)
        else pronoun(draw, "you he she they")
    )
    where = draw.chance(0.6)
    verb = verb_for(draw, subject, tense, ("place", "destination") if where else ("nothing", "arrival", "destination"))
    if where and verb.en in ("come", "return"):
        raise DeadEnd
    word = Pair("where", "dove") if where else Pair("when", "quando")
    return sentence(question(word, subject, verb, tense, inverted=True), end="?")


def where_is(draw: Draw) -> Pair:
    subject = draw.any((draw.name, lambda: relative_kin(draw), lambda: thing(draw, "portable", "the the my my", 0.1)))()
    return sentence(question(Pair("where", "dove"), subject, BE, draw.any(("present", "past")), inverted=True), end="?")


def what(draw: Draw) -> Pair:
    frames = ("eaten", "drunk", "goods", "readable", "writable", "portable", "dish")
    tense = draw.any(("past", "past", "present", "future"))
    subject = draw.name() if draw.chance(0.5) else pronoun(draw, "you she he they we")
    verb = verb_for(draw, subject, tense, frames)
    if tense == "past" and draw.chance(0.4):
        noun = draw.noun(verb.frame if verb.frame not in ("drunk", "dish") else "portable")
        verb = verb if noun.en_plural != "-" and verb.frame not in ("drunk", "dish") else VERBS["find"]
        noun = noun if noun.en_plural != "-" else NOUNS["ticket"]
        word = Pair(f"how many {noun.en_plural}", f"quant{'e' if noun.feminine else 'i'} {noun.it_plural}")
        return sentence(question(word, subject, verb, tense, inverted=True), end="?")
    return sentence(question(Pair("what", "che cosa"), subject, verb, tense, inverted=True), end="?")


def who(draw: Draw) -> Pair:
    tense = draw.any(("past", "past", "present", "future"))
    verb = verb_for(draw, g.PRONOUNS["he"], tense)
    return sentence(g.who_question(verb, tense, *complements(draw, verb)), end="?")


def why(draw: Draw) -> Pair:
    tense, word = draw.any(("past", "present", "progressive")), Pair("why", "perché")
    subject = someone_known(draw) if draw.chance(0.6) else pronoun(draw, "you he she they")
    if draw.chance(0.3):
        tense = "past" if tense == "progressive" else tense
        return sentence(
            question(word, subject, BE, tense, g.state(subject, ADJECTIVES[draw.any(("sad", "happy"))])),
            end="?",
        )
    verb = verb_for(draw, subject, tense)
    return sentence(question(word, subject, verb, tense, *complements(draw, verb)), end="?")


def modal(draw: Draw) -> Pair:
    verb, rest = action(draw)
    main = draw.one((CAN, MUST, VERBS["want"]))
    phrase = g.infinitive(verb, *rest, en="to {en}" if main.en == "want" else "{en}")
    if draw.chance(0.3) and main is not MUST:
        subject = g.PRONOUNS["you"] if draw.chance(0.6) else someone(draw)
        return sentence(question(NOTHING, subject, main, "present", phrase), end="?")
    tense = "past" if main.en == "want" and draw.chance(0.3) else "present"
    subject = subject_for(draw, 0.4)
    return sentence(clause(subject, main, tense, phrase, negative=deny(draw, 0.25, subject, [phrase])))


def command(draw: Draw) -> Pair:
    verb, rest = action(draw, "imperative", False, "the the the this that my")
    words = g.imperative(verb, *rest, negative=draw.chance(0.25))
    manner = draw.any(("plain", "name", "please", "both"))
    please = (",", Pair("please", "per favore")) if manner in ("please", "both") else ()
    called = (draw.name(), ",") if manner in ("name", "both") else ()
    return sentence(*called, words, *please, end="!" if draw.chance(0.7) else ".")


def there(draw: Draw) -> Pair:
    past, kind = draw.chance(0.3), draw.any(("thing", "thing", "place", "person", "animal"))
    if kind == "thing":
        return sentence(g.there_is(thing(draw, "portable", "a a two some many"), holder(draw), past))
    if kind == "place":
        noun = PLACES[draw.one(("restaurant", "museum", "park", "market", "hotel", "shop", "hospital"))][0]
        what = noun_phrase(noun, "a", adjective_for(draw, noun, 0.4, only_before=True))
        asked = draw.chance(0.4)
        return sentence(g.there_is(what, near(draw), past, asked), end="?" if asked else ".")
    what = thing(draw, kind, "a a two many", 0.2)
    return sentence(g.there_is(what, outdoors(draw) if kind == "animal" else static_place(draw), past))


def liking(draw: Draw) -> Pair:
    phrase = thing(draw, draw.any(("food", "goods", "animal", "text", "goods")), "the the this that my", 0.3)
    if draw.chance(0.25):
        return sentence(g.likes("you", phrase, asked=True), end="?")
    return sentence(g.likes("I", phrase, negative=draw.chance(0.3)))


def because(draw: Draw) -> Pair:
    tense = draw.any(("past", "past", "present", "future"))
    effect = main_clause(draw, tense, first=True)
    cause = condition(draw, "past" if tense == "past" else "present")
    return sentence(effect, Pair("because", "perché"), cause)


def so(draw: Draw) -> Pair:
    tense = draw.any(("past", "past", "present"))
    return sentence(condition(draw, tense, True), ",", Pair("so", "quindi"), main_clause(draw, tense))


def when(draw: Draw) -> Pair:
    word = Pair("when", "quando")
    if draw.chance(0.4):
        return sentence(word, condition(draw, "present"), ",", main_clause(draw, "present", negation=0.1))
    draw.topic = subject = someone(draw)
    verb = verb_for(draw, subject, "past", ("arrival", "inside", "nothing", "destination", "received", "people"))
    if "progressive" in verb.flags:
        raise DeadEnd  # "when she waited" is no event
    event = clause(subject, verb, "past", *complements(draw, verb, False))
    if draw.chance(0.5):
        return sentence(main_clause(draw, "progressive", subject=someone(draw), negation=0), word, event)
    return sentence(word, event, ",", main_clause(draw, "progressive", subject=someone(draw), negation=0))


def while_(draw: Draw) -> Pair:
    word, tense = Pair("while", "mentre"), draw.any(("past", "progressive"))
    if draw.chance(0.6):
        background = main_clause(draw, "progressive", negation=0)
        return sentence(word, background, ",", main_clause(draw, tense, subject=someone(draw), negation=0))
    main = main_clause(draw, tense, True, negation=0)
    return sentence(main, word, main_clause(draw, "progressive", subject=someone(draw), negation=0))


def if_(draw: Draw) -> Pair:
    cause = condition(draw, "present") if draw.chance(0.6) else main_clause(draw, "present", negation=0.3)
    return sentence(Pair("if", "se"), cause, ",", main_clause(draw, "future"))


def said(draw: Draw) -> Pair:
    """Reported speech; after a past tense only the imperfetto, where both languages agree."""
    verb = draw.one((VERBS["say"], KNOW_THAT, VERBS["remember"], VERBS["hear"], VERBS["say"]))
    tense = "past" if "event" in verb.flags or (verb.en == "say" and draw.chance(0.4)) else "present"
    draw.topic = subject = subject_for(draw, 0.4)
    draw.counts[verb, (tense, subject.index)] += 1
    if verb.en == "remember":
        fact = main_clause(draw, "past", full=False)
    elif tense == "past" or draw.chance(0.3):
        fact = condition(draw, "past" if tense == "past" else "present", first=verb.en == "hear")
    else:
        fact = main_clause(draw, draw.any(("past", "past", "present", "future")), full=False)
    return sentence(clause(subject, verb, tense), Pair("that", "che"), fact)


def quote(draw: Draw) -> Pair:
    speaker, says = someone(draw), VERBS["say"]
    what = draw.any((feeling, command, description, liking, yes_or_no, modal))(draw)
    en, it = clause(speaker, says, draw.any(("past", "present")))
    return sentence(Pair(f'{en}: "{what.en}"', f'{it}: "{what.it}"'), end="")


def relative(draw: Draw) -> Pair:
    tense = draw.any(("past", "past", "present"))
    if draw.chance(0.5):
        subject = with_relative(draw, tense)
        return sentence(main_clause(draw, draw.any(("past", "future")), True, subject, full=False))
    what = with_object_relative(draw)
    choice = draw.rng.random()
    if choice < 0.1:
        return sentence(question(Pair("where", "dove"), what, BE, "present", inverted=True), end="?")
    if choice < 0.35:
        return sentence(clause(what, BE, draw.any(("present", "past")), holder(draw)))
    if choice < 0.5:
        return sentence(g.likes("I", what, negative=draw.chance(0.3)))
    verb, tense = (
        VERBS[draw.one([v for v in ("find", "see", "bring", "look for") if v not in draw.used])],
        draw.any(("past", "future")),
    )
    if "future" not in verb.flags:
        tense = "past"
    return sentence(clause(someone(draw), verb, tense, what))


def purpose(draw: Draw) -> Pair:
    verb, rest = action(draw, full=False)
    subject = someone(draw)
    tense = draw.any(("past", "past", "future", "present"))
    if draw.chance(0.4):
        before = g.infinitive(verb, *rest, en="before {ing}")
        return sentence(
            Pair(before.en, f"prima di {before.it}"),
            ",",
            main_clause(draw, "past", subject=subject, negation=0),
        )
    if "essere" in verb.flags or verb.frame == "place":
        raise DeadEnd
    goal = g.infinitive(verb, *rest, en="to {en}")
    going = verb_for(draw, subject, tense, ("destination",))
    return sentence(clause(subject, going, tense, destination(draw)), Pair(goal.en, f"per {goal.it}"))


def shopping(draw: Draw, tense: str = "past") -> Pair:
    """A clause with a list of things, not yet a sentence."""
    verb = VERBS[draw.one(("buy", "sell", "see", "find", "prepare"), "list")]
    tags = {"buy": "goods", "sell": "goods", "see": "animal", "find": "portable", "prepare": "dish"}
    subject = someone(draw)
    where = [static_place(draw)] if verb.en in ("see", "find") and draw.chance(0.4) else []
    first, second, third = (thing(draw, tags[verb.en], "a a some two", 0.2) for _ in range(3))
    things = Pair(f"{first.en}, {second.en} and {third.en}", f"{first.it}, {second.it} e {third.it}")
    return clause(subject, verb, tense, things, *where)


def listing(draw: Draw) -> Pair:
    return sentence(shopping(draw, draw.any(("past", "future"))))


def contrast(draw: Draw) -> Pair:
    tense = draw.any(("past", "past", "future", "present"))
    first = main_clause(draw, tense, True, negation=0.3)
    joint = draw.any(((",", Pair("but", "ma")), (Pair("and", "e"),), (",", Pair("but", "ma"))))
    return sentence(first, *joint, main_clause(draw, tense, negation=0.3))


def long(draw: Draw) -> Pair:
    """Several clauses with relative clauses, a list and a reason."""

    def part(relatives: float, negation: float = 0.12) -> Pair:
        subject = with_relative(draw, "past") if draw.chance(relatives) else someone(draw)
        return main_clause(draw, "past", subject=subject, negation=negation)

    lead = (Pair(*draw.one(TIMES["past"])),) if draw.chance(0.4) else ()
    first = part(0.5)
    middle = (",", shopping(draw) if draw.chance(0.4) else part(0)) if draw.chance(0.5) else ()
    third = part(0.3)
    tail = draw.any(("because", "while", "but", "while"))
    if tail == "because":
        last = (Pair("because", "perché"), condition(draw, "past", True))
    elif tail == "while":
        last = (Pair("while", "mentre"), main_clause(draw, "progressive", subject=someone(draw), negation=0))
    else:
        last = (",", Pair("but", "ma"), part(0, 0.6))
    return sentence(*lead, first, *middle, Pair("and", "e"), third, *last)


PATTERNS: dict[Callable[[Draw], Pair], int] = {
    simple: 22, short: 3, description: 7, feeling: 4, group: 5, owning: 7, animals: 3, yes_or_no: 6,
    where_or_when: 3, where_is: 2, what: 3, who: 3, why: 4, modal: 10, command: 5, there: 12,
    liking: 5, because: 12, so: 8, when: 9, while_: 9, if_: 9, said: 11, quote: 7, relative: 12,
    purpose: 9, listing: 6, contrast: 12, long: 13,
}  # fmt: skip
