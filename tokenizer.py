"""Text to ids and back: the two kinds of tokenizer, and readable text from a model's words."""

import re
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, UNK, SOS, EOS = range(4)
MARKS = ["[PAD]", "[UNK]", "[SOS]", "[EOS]"]

# --- Text to ids --------------------------------------------------------------------------------------------


def train_word_tokenizer(texts: Iterator[list[str]], vocab_size: int, min_frequency: int) -> Tokenizer:
    """One id a word or mark of punctuation: WordLevel with the Whitespace pre-tokenizer."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=MARKS[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=MARKS, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _plain_marks(tokenizer)


def train_bpe_tokenizer(texts: Iterator[list[str]], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016): no unknown words, and decoding gives back every byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=MARKS, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return _plain_marks(tokenizer)


def _plain_marks(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.encode_special_tokens = True  # "[EOS]" in a sentence is text like any other
    return tokenizer


def load_tokenizer(text: str) -> Tokenizer:
    """A tokenizer from the JSON text that Tokenizer.to_str gave."""
    return _plain_marks(Tokenizer.from_str(text))


# --- Ids to text --------------------------------------------------------------------------------------------

ENGLISH_ENDING = re.compile(r"(s|t|re|ve|ll|d|m)$", re.IGNORECASE)
VOWEL = re.compile(r"[aeiouhàâäáèêëéìîïíòôöóùûüúœæy]", re.IGNORECASE)
# Italian words cut short, which are not joined to the next one: un po' alto, va' a casa
CUT_SHORT = {"po", "mo", "be", "de", "que", "ne", "co", "va", "fa", "da", "sta", "di", "to", "e"}
CLOSING, OPENING, APOSTROPHES = ".,;:?!)]}»”…%।؟،؛", "([{«‘„‚¿¡", "'’"
LOW_QUOTES = ("bg", "cs", "de", "et", "is", "lt", "sk", "sl")  # „so“, where others have “so”


def to_text(tokenizer: Tokenizer, ids: list[int], language: str) -> str:
    """Readable text of ids without SOS and EOS: exact for bpe; for words, with spaces as `language` sets them."""
    if tokenizer.decoder is not None:
        return tokenizer.decode(ids, skip_special_tokens=False)
    return join_words([tokenizer.id_to_token(i) for i in ids], language)


def join_words(words: list[str], language: str) -> str:
    """Puts the words and punctuation marks of the Whitespace pre-tokenizer together again.

    An apostrophe clings to what English or Romance spelling makes of it: don't, l'amico, un po' di. Double
    quotation marks open and close in turn.
    """
    text, quoted = "", False
    for i, word in enumerate(words):
        if i and _space_between(words[i - 2] if i > 1 else "", words[i - 1], word, quoted, language):
            text += " "
        text += word
        quoted ^= word.count('"') % 2 == 1
    return text


def _space_between(earlier: str, before: str, word: str, quoted: bool, language: str) -> bool:
    closes, opens = ("“", "") if language in LOW_QUOTES else ("", "“")
    if word[0] in CLOSING + closes or before[-1] in OPENING + opens:
        return False
    if word[0] == '"' or before[-1] == '"':
        return not quoted  # no space on the inner side of a quotation mark
    dashes = "-—" if language == "en" else "-"  # elsewhere a long dash stands between spaces
    if word[0] in APOSTROPHES or word in dashes or before in dashes:
        return False
    if before[-1] in APOSTROPHES:
        return not _clings(earlier, word, language)
    if before in ",.:" and earlier.isdigit() and word.isdigit():
        return before == "," and (len(word) != 3 or len(earlier) > 3)  # 3,000 and 3.5 and 2:30, but 3, 4
    return True


def _clings(before: str, word: str, language: str) -> bool:
    """Whether `word` follows `before` and an apostrophe without a space."""
    if language in ("en", "de", "nl"):
        return bool(ENGLISH_ENDING.match(word)) or before.lower() == "o"
    if word.isdigit():  # l'80% of it, but un po' 3 volte
        return before.lower().endswith("l")
    return bool(VOWEL.match(word)) and before.lower() not in CUT_SHORT
