"""Hand-written vocabulary of the sample corpus: nouns, adjectives, verbs and fixed phrases, with their forms.

The tables are text with one lemma a line and `|` between the columns, so that a reader can proofread them.
Every lemma has one translation only: the corpus must be a function from English to Italian.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A noun with both numbers in both languages; `tags` say which verbs and adjectives it goes with."""

    en: str
    en_plural: str
    it: str
    it_plural: str
    feminine: bool
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Adjective:
    """An adjective; `before` tells that it stands before the noun in Italian."""

    en: str
    it: str
    before: bool
    fits: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """A verb; the Italian tuples hold the forms of io, tu, lui/lei, noi and loro ("you" is always tu)."""

    en: str
    third: str
    past: str
    ing: str
    infinitive: str
    present: tuple[str, ...]
    imperfect: tuple[str, ...]
    future: tuple[str, ...]
    participle: str
    frame: str
    flags: tuple[str, ...]


def rows(table: str) -> list[list[str]]:
    """Split a text table into its stripped cells."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


# English singular | plural | Italian singular | plural | gender | tags (the first one is the noun's kind).
NOUN_TABLE = """
man | men | uomo | uomini | m | person
woman | women | donna | donne | f | person
boy | boys | ragazzo | ragazzi | m | person
girl | girls | ragazza | ragazze | f | person
child | children | bambino | bambini | m | person
friend | friends | amico | amici | m | person own
neighbour | neighbours | vicino | vicini | m | person own
student | students | studente | studenti | m | person
teacher | teachers | insegnante | insegnanti | m | person own
doctor | doctors | medico | medici | m | person own
nurse | nurses | infermiera | infermiere | f | person
actress | actresses | attrice | attrici | f | person
painter | painters | pittore | pittori | m | person
writer | writers | scrittore | scrittori | m | person
waiter | waiters | cameriere | camerieri | m | person
psychologist | psychologists | psicologo | psicologi | m | person
artist | artists | artista | artisti | m | person
engineer | engineers | ingegnere | ingegneri | m | person
farmer | farmers | contadino | contadini | m | person
foreigner | foreigners | straniero | stranieri | m | person
lady | ladies | signora | signore | f | person
princess | princesses | principessa | principesse | f | person
mother | mothers | madre | madri | f | kin
father | fathers | padre | padri | m | kin
grandmother | grandmothers | nonna | nonne | f | kin
grandfather | grandfathers | nonno | nonni | m | kin
brother | brothers | fratello | fratelli | m | kin several
sister | sisters | sorella | sorelle | f | kin several
uncle | uncles | zio | zii | m | kin several
aunt | aunts | zia | zie | f | kin several
cousin | cousins | cugino | cugini | m | kin several
daughter | daughters | figlia | figlie | f | kin several
dog | dogs | cane | cani | m | animal farm
cat | cats | gatto | gatti | m | animal farm
horse | horses | cavallo | cavalli | m | animal farm
donkey | donkeys | asino | asini | m | animal farm
cow | cows | mucca | mucche | f | animal farm
bird | birds | uccello | uccelli | m | animal
squirrel | squirrels | scoiattolo | scoiattoli | m | animal
monkey | monkeys | scimmia | scimmie | f | animal
eagle | eagles | aquila | aquile | f | animal
elephant | elephants | elefante | elefanti | m | animal
apple | apples | mela | mele | f | food eaten goods sweet fresh
orange | oranges | arancia | arance | f | food eaten goods sweet fresh
pear | pears | pera | pere | f | food eaten goods sweet fresh
cake | cakes | torta | torte | f | food eaten goods dish sweet
biscuit | biscuits | biscotto | biscotti | m | food eaten goods dish sweet fresh
sandwich | sandwiches | panino | panini | m | food eaten goods dish
salad | salads | insalata | insalate | f | food eaten goods dish fresh
bread | - | pane | - | m | food eaten goods fresh
cheese | - | formaggio | - | m | food eaten goods fresh
rice | - | riso | - | m | food eaten goods dish
soup | - | zuppa | - | f | food eaten dish heated
meat | - | carne | - | f | food eaten goods dish fresh
yogurt | - | yogurt | - | m | food eaten goods fresh
sugar | - | zucchero | - | m | food goods
water | - | acqua | - | f | drink drunk goods heated
wine | - | vino | - | m | drink drunk goods
milk | - | latte | - | m | drink drunk goods heated
tea | - | tè | - | m | drink drunk goods dish heated
coffee | - | caffè | - | m | drink drunk goods dish heated
beer | - | birra | - | f | drink drunk goods
orangeade | - | aranciata | - | f | drink drunk goods
book | books | libro | libri | m | text goods portable readable writable
letter | letters | lettera | lettere | f | text portable readable writable
newspaper | newspapers | giornale | giornali | m | text goods portable readable
novel | novels | romanzo | romanzi | m | text goods readable writable
poem | poems | poesia | poesie | f | text readable writable
painting | paintings | quadro | quadri | m | object goods portable
photo | photos | foto | foto | f | object portable
key | keys | chiave | chiavi | f | object portable
umbrella | umbrellas | ombrello | ombrelli | m | object goods portable coloured
backpack | backpacks | zaino | zaini | m | object goods portable shut coloured bulky
mirror | mirrors | specchio | specchi | m | object goods fragile washed bulky
clock | clocks | orologio | orologi | m | object goods portable fragile bulky
guitar | guitars | chitarra | chitarre | f | object goods portable fragile coloured bulky
bicycle | bicycles | bicicletta | biciclette | f | object goods washed fragile coloured bulky
hat | hats | cappello | cappelli | m | object goods portable coloured
scarf | scarves | sciarpa | sciarpe | f | object goods portable coloured
shoe | shoes | scarpa | scarpe | f | object goods washed coloured
chair | chairs | sedia | sedie | f | object goods washed fragile coloured bulky
lamp | lamps | lampada | lampade | f | object goods fragile coloured bulky
cup | cups | tazza | tazze | f | object goods washed fragile coloured
bottle | bottles | bottiglia | bottiglie | f | object goods shut fragile coloured bulky
flower | flowers | fiore | fiori | m | object goods portable coloured
map | maps | mappa | mappe | f | object goods portable
ticket | tickets | biglietto | biglietti | m | object goods portable
coin | coins | moneta | monete | f | object portable
knife | knives | coltello | coltelli | m | object goods washed bulky
ring | rings | anello | anelli | m | object goods portable
gift | gifts | regalo | regali | m | object goods portable
window | windows | finestra | finestre | f | object shut washed fragile
door | doors | porta | porte | f | object shut washed coloured bulky
"""

# English | Italian | position in Italian | kinds of nouns that it fits.
ADJECTIVE_TABLE = """
old | vecchio | before | person object animal text place
young | giovane | before | person animal
new | nuovo | before | object text
small | piccolo | before | object animal place
beautiful | bello | before | object animal text place
tall | alto | after | person
famous | famoso | after | person text place
rich | ricco | after | person
kind | gentile | after | person
intelligent | intelligente | after | person animal
happy | felice | after | person animal
sad | triste | after | person animal text
tired | stanco | after | person animal
sick | malato | after | person animal
shy | timido | after | person
Italian | italiano | after | person text
English | inglese | after | person text
big | grande | after | object animal place
white | bianco | after | coloured farm
black | nero | after | coloured farm
red | rosso | after | coloured
green | verde | after | coloured
blue | blu | after | coloured
heavy | pesante | after | bulky
expensive | costoso | after | bulky coloured
clean | pulito | after | washed place
dirty | sporco | after | washed place
long | lungo | before | writable
interesting | interessante | after | text
strange | strano | after | text place object
quiet | tranquillo | after | place
hot | caldo | after | heated
cold | freddo | after | drink
fresh | fresco | after | fresh
sweet | dolce | after | sweet
"""

# English | plural | Italian | plural | gender | where, in English | in Italian | may one go "to" it?
PLACE_TABLE = """
station | stations | stazione | stazioni | f | at | a | to
market | markets | mercato | mercati | m | at | a | to
museum | museums | museo | musei | m | at | a | to
stadium | stadiums | stadio | stadi | m | at | a | to
zoo | zoos | zoo | zoo | m | at | a | to
airport | airports | aeroporto | aeroporti | m | at | a | to
restaurant | restaurants | ristorante | ristoranti | m | at | a | to
hospital | hospitals | ospedale | ospedali | m | at | a | to
park | parks | parco | parchi | m | in | in | to
castle | castles | castello | castelli | m | in | in | to
hotel | hotels | albergo | alberghi | m | in | in | to
shop | shops | negozio | negozi | m | in | in | to
garden | gardens | giardino | giardini | m | in | in | -
forest | forests | bosco | boschi | m | in | in | -
village | villages | villaggio | villaggi | m | in | in | -
room | rooms | stanza | stanze | f | in | in | -
island | islands | isola | isole | f | on | su | -
beach | beaches | spiaggia | spiagge | f | on | su | -
bridge | bridges | ponte | ponti | m | on | su | -
"""

# Where things lie: the same columns.
HOLDER_TABLE = """
table | tables | tavolo | tavoli | m | on | su | -
shelf | shelves | scaffale | scaffali | m | on | su | -
bed | beds | letto | letti | m | on | su | -
box | boxes | scatola | scatole | f | in | in | -
drawer | drawers | cassetto | cassetti | m | in | in | -
suitcase | suitcases | valigia | valigie | f | in | in | -
bag | bags | borsa | borse | f | in | in | -
"""

# English forms: base, past, -ing | Italian infinitive | frame | flags.
# Frames: what follows the verb (a noun tag, or a name that sample_choices.py knows).
# Flags: personal = also with I, you and we; future, progressive, imperative = has that form; event = never in
# the present; essere = its auxiliary; stative = its past is the imperfetto.
VERB_TABLE = """
eat, ate, eating | mangiare | eaten | personal future progressive imperative
drink, drank, drinking | bere | drunk | progressive
prepare, prepared, preparing | preparare | dish | future progressive
buy, bought, buying | comprare | goods | personal future imperative
sell, sold, selling | vendere | goods | future
read, read, reading | leggere | readable | personal future progressive imperative
write, wrote, writing | scrivere | writable | personal future progressive
see, saw, seeing | vedere | seen | personal
find, found, finding | trovare | portable | personal future event
lose, lost, losing | perdere | portable | event
look for, looked for, looking for | cercare | portable | progressive imperative
hide, hid, hiding | nascondere | portable | event
steal, stole, stealing | rubare | portable | event
break, broke, breaking | rompere | fragile | event
open, opened, opening | aprire | shut | personal future imperative
close, closed, closing | chiudere | shut | imperative
wash, washed, washing | lavare | washed | future progressive imperative
draw, drew, drawing | disegnare | animal | progressive
help, helped, helping | aiutare | people | future
greet, greeted, greeting | salutare | people |
meet, met, meeting | incontrare | people | future
call, called, calling | chiamare | people | personal future imperative
wait for, waited for, waiting for | aspettare | people | personal progressive imperative
listen to, listened to, listening to | ascoltare | people |
know, knew, knowing | conoscere | people | personal stative
love, loved, loving | amare | people | stative
have, had, having | avere | owned | personal stative
give, gave, giving | dare | given | personal future
bring, brought, bringing | portare | given | future
show, showed, showing | mostrare | given | event future
receive, received, receiving | ricevere | received | event
sleep, slept, sleeping | dormire | place | personal future progressive
work, worked, working | lavorare | place | personal future progressive
sing, sang, singing | cantare | place | personal progressive
dance, danced, dancing | ballare | place | progressive
play, played, playing | giocare | place | personal progressive
walk, walked, walking | camminare | outdoors | progressive
cry, cried, crying | piangere | place | progressive
talk, talked, talking | parlare | talk | personal future progressive
live, lived, living | abitare | home | personal stative
go, went, going | andare | destination | personal future essere
come, came, coming | venire | destination | personal future essere
return, returned, returning | tornare | destination | personal future essere
arrive, arrived, arriving | arrivare | arrival | future essere
leave, left, leaving | partire | nothing | personal future essere
enter, entered, entering | entrare | inside | essere event
go out, went out, going out | uscire | company | future essere
stay, stayed, staying | rimanere | place | personal future essere
fall, fell, falling | cadere | outdoors | essere event
say, said, saying | dire | that | personal
hear, heard, hearing | sentire | that | event
remember, remembered, remembering | ricordare | that | personal
want, wanted, wanting | volere | infinitive | personal stative
"""

# Present (io, tu, lui, noi, loro) | stem of the imperfetto | stem of the futuro | participle; "-" = regular.
IRREGULAR_TABLE = """
essere | sono sei è siamo sono | - | sar | stato
avere | ho hai ha abbiamo hanno | - | avr | -
andare | vado vai va andiamo vanno | - | andr | -
cadere | - | - | cadr | -
bere | bevo bevi beve beviamo bevono | beve | berr | bevuto
dare | do dai dà diamo danno | - | dar | -
dire | dico dici dice diciamo dicono | dice | - | detto
dovere | devo devi deve dobbiamo devono | - | dovr | -
potere | posso puoi può possiamo possono | - | potr | -
rimanere | rimango rimani rimane rimaniamo rimangono | - | rimarr | rimasto
sapere | so sai sa sappiamo sanno | - | sapr | -
uscire | esco esci esce usciamo escono | - | - | -
vedere | - | - | vedr | visto
venire | vengo vieni viene veniamo vengono | - | verr | venuto
volere | voglio vuoi vuole vogliamo vogliono | - | vorr | -
aprire | - | - | - | aperto
chiudere | - | - | - | chiuso
conoscere | - | - | - | conosciuto
leggere | - | - | - | letto
nascondere | - | - | - | nascosto
perdere | - | - | - | perso
piangere | - | - | - | pianto
rompere | - | - | - | rotto
scrivere | - | - | - | scritto
"""


def conjugate(infinitive: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str]:
    """Present, imperfetto and futuro (io, tu, lui, noi, loro) and participle of an Italian verb."""
    kind, stem = infinitive[-3], infinitive[:-3]
    hard = stem + "h" if kind == "a" and stem[-1] in "cg" else stem  # cercare: cerchi, cercherò
    soft = stem.removesuffix("i")  # mangiare: mangi, mangerò
    short = hard if hard != stem else soft
    endings = {"a": ("a", "ano"), "e": ("e", "ono"), "i": ("e", "ono")}[kind]
    present = [stem + "o", short + "i", stem + endings[0], short + "iamo", stem + endings[1]]
    imperfect, future = infinitive[:-2], (short + "er" if kind == "a" else infinitive[:-1])
    participle = stem + {"a": "ato", "e": "uto", "i": "ito"}[kind]
    for name, given, past, coming, done in rows(IRREGULAR_TABLE):
        if name == infinitive:
            present = present if given == "-" else given.split()
            imperfect = imperfect if past == "-" else past
            future = future if coming == "-" else coming
            participle = participle if done == "-" else done
    imperfects = [imperfect + ending for ending in ("vo", "vi", "va", "vamo", "vano")]
    if infinitive == "essere":
        imperfects = ["ero", "eri", "era", "eravamo", "erano"]
    futures = [future + ending for ending in ("ò", "ai", "à", "emo", "anno")]
    return tuple(present), tuple(imperfects), tuple(futures), participle


def third_person(base: str) -> str:
    """English third person singular; only the first word changes ("waits for")."""
    first, _, particle = base.partition(" ")
    if first.endswith(("o", "sh", "ch", "ss")):
        first += "es"
    elif first.endswith("y") and first[-2] not in "aeiou":
        first = first[:-1] + "ies"
    else:
        first = {"have": "has", "be": "is", "can": "can", "must": "must"}.get(first, first + "s")
    return f"{first} {particle}".strip()


def make_verb(english: str, infinitive: str, frame: str = "", flags: str = "") -> Verb:
    """A verb from its row of VERB_TABLE."""
    base, past, ing = english.split(", ")
    forms = conjugate(infinitive)
    return Verb(base, third_person(base), past, ing, infinitive, *forms, frame, tuple(flags.split()))


def make_place(row: list[str]) -> tuple[Noun, str, str, bool]:
    """(noun, English preposition, Italian preposition, may one go "to" it) from a row."""
    en, en_plural, it, it_plural, gender, where, dove, to = row
    return Noun(en, en_plural, it, it_plural, gender == "f", ("place",)), where, dove, to == "to"


NOUNS = {row[0]: Noun(*row[:4], row[4] == "f", tuple(row[5].split())) for row in rows(NOUN_TABLE)}
ADJECTIVES = {
    en: Adjective(en, it, where == "before", tuple(fits.split())) for en, it, where, fits in rows(ADJECTIVE_TABLE)
}
PLACES = {row[0]: make_place(row) for row in rows(PLACE_TABLE)}
HOLDERS = {row[0]: make_place(row) for row in rows(HOLDER_TABLE)}
VERBS = {row[0].split(",")[0]: make_verb(*row) for row in rows(VERB_TABLE)}

BE = make_verb("be, was, being", "essere", flags="stative")
BE_WITH_AVERE = make_verb("be, was, being", "avere", flags="stative")  # "is hungry": ha fame
CAN = make_verb("can, can, can", "potere", flags="stative")
MUST = make_verb("must, must, must", "dovere", flags="stative")
KNOW_THAT = make_verb("know, knew, knowing", "sapere", flags="stative")  # "know Anna" is conoscere

NAMES = {"Anna": True, "Giulia": True, "Sara": True, "Elena": True}  # name: feminine?
NAMES |= {"Marco": False, "Paolo": False, "Luca": False, "Pietro": False}

POSSESSIVES = {  # Italian masculine and feminine singular, masculine and feminine plural
    "my": ("mio", "mia", "miei", "mie"),
    "your": ("tuo", "tua", "tuoi", "tue"),
    "his": ("suo", "sua", "suoi", "sue"),
    "her": ("suo", "sua", "suoi", "sue"),
    "our": ("nostro", "nostra", "nostri", "nostre"),
    "their": ("loro", "loro", "loro", "loro"),
}
NUMBERS = {"two": "due", "three": "tre", "four": "quattro", "five": "cinque", "six": "sei", "ten": "dieci"}
STATES = {  # "to be" + ...: avere + ...
    "hungry": "fame",
    "thirsty": "sete",
    "sleepy": "sonno",
    "cold": "freddo",
    "right": "ragione",
    "in a hurry": "fretta",
}
FREQUENCIES = {"always": "sempre", "often": "spesso", "never": "mai"}
TIMES = {
    "present": [
        ("today", "oggi"),
        ("now", "adesso"),
        ("every day", "ogni giorno"),
        ("every morning", "ogni mattina"),
        ("on Sundays", "la domenica"),
    ],
    "past": [
        ("yesterday", "ieri"),
        ("this morning", "stamattina"),
        ("last week", "la settimana scorsa"),
        ("two days ago", "due giorni fa"),
    ],
    "future": [
        ("tomorrow", "domani"),
        ("tonight", "stasera"),
        ("next week", "la settimana prossima"),
        ("soon", "presto"),
    ],
    "progressive": [
        ("yesterday", "ieri"),
        ("this morning", "stamattina"),
        ("at that moment", "in quel momento"),
    ],
}
WEATHER = {
    "present": [
        ("it rains", "piove"),
        ("it snows", "nevica"),
        ("it is cold", "fa freddo"),
        ("it is hot", "fa caldo"),
    ],
    "past": [
        ("it was raining", "pioveva"),
        ("it was snowing", "nevicava"),
        ("it was cold", "faceva freddo"),
        ("it was hot", "faceva caldo"),
    ],
    "future": [
        ("it will rain", "pioverà"),
        ("it will snow", "nevicherà"),
        ("it will be cold", "farà freddo"),
        ("it will be hot", "farà caldo"),
    ],
}
FIXED_PLACES = [
    ("at home", "a casa"),
    ("at school", "a scuola"),
    ("in the kitchen", "in cucina"),
    ("in the office", "in ufficio"),
    ("in the city", "in città"),
    ("in the mountains", "in montagna"),
]
FIXED_DESTINATIONS = [("home", "a casa"), ("to school", "a scuola"), ("to the office", "in ufficio")]
