"""Beam search against a plain one: a sentence at a time, without a cache, every prefix computed anew."""

import math

import numpy as np
import pytest
import torch

import decoding
from dataset import FlatIds
from decoding import Hypothesis, Search, Writer, beam_search, penalty, translate_ids
from model import Transformer
from tokenizer import EOS, PAD, SOS, UNK, train_bpe_tokenizer, train_word_tokenizer

WORDS = 12


def model_of(seed: int = 0, sharpness: float = 1.0, eos: float = 1.0, **changes) -> Transformer:
    """A random model. sharpness: factor of its logits. eos: what is then added to that of EOS."""
    torch.manual_seed(seed)
    options = {"d_model": 16, "layers": 2, "heads": 2, "d_ff": 32, "dropout": 0.3, "positions": 24, "pad": PAD}
    model = Transformer(WORDS, WORDS, **{**options, **changes}).double().eval()
    with torch.no_grad():
        for layer in (*model.encoder, *model.decoder):  # or the next word would depend on little but the last one
            for weight in layer.parameters():
                weight *= 2
        model.projection.weight *= sharpness
        end = model.projection.weight[EOS]
        model.decoder_norm.bias += eos * end / (end @ end)
    return model


def sentences(count: int, seed: int = 0, longest: int = 9) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(UNK, WORDS, draw.integers(1, longest + 1)).clip(EOS + 1).tolist() for _ in range(count)]


@torch.no_grad()
def naive(model, words: list[int], limit: int, search: Search) -> list[tuple[list[int], float]]:
    """Beam search as it is told in words, for one sentence: (ids, score), best first."""
    source = torch.tensor([[SOS, *words, EOS]])
    beam, found = [([], 0.0)], []
    while len(found) < search.beam and beam:
        candidates = []
        for ids, score in beam:
            log_p = model(source, torch.tensor([[SOS, *ids]]))[0, -1].float().log_softmax(-1).tolist()
            allowed = [EOS] if len(ids) == limit else [w for w in range(WORDS) if w not in (PAD, SOS)]
            candidates += [([*ids, w], score + log_p[w]) for w in allowed]
        candidates = sorted(candidates, key=lambda c: -c[1])
        for ids, score in candidates[: search.beam]:
            if ids[-1] == EOS:
                found.append((ids[:-1], score / ((5 + len(ids)) / 6) ** search.length_penalty))
        beam = [c for c in candidates if c[0][-1] != EOS][: search.beam]
    return sorted(found, key=lambda f: -f[1])[: search.n_best]


SEARCHES = [Search(), Search(2, 0.0, 2), Search(3, 1.0, 3), Search(5, 0.6, 5), Search(5, 2.0, 1), Search(9, 1.0, 4)]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize(("seed", "sharpness", "eos"), [(0, 0.5, 1), (1, 1, 1), (1, 2, 1), (3, 1, 0)])
def test_search_finds_what_the_naive_one_finds(search, seed, sharpness, eos):
    model, sources = model_of(seed, sharpness, eos), sentences(20, seed)
    found = translate_ids(model, FlatIds.from_rows(sources), search)
    for words, hypotheses in zip(sources, found, strict=True):
        # A source of n words has n + 2 tokens, and a translation up to twice as many and ten, if the model can.
        expected = naive(model, words, min(2 * (len(words) + 2) + 10, 23), search)
        assert [h.ids for h in hypotheses] == [ids for ids, _ in expected]
        assert [h.score for h in hypotheses] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_these_searches_meet_what_they_are_to_meet():
    """Sentences that end early and at the limit, and beams whose answers differ from greedy ones."""
    source = FlatIds.from_rows(sentences(20, 1))
    greedy, wide = (translate_ids(model_of(1), source, search) for search in (Search(), Search(5)))
    lengths = [len(h[0].ids) for h in greedy]
    assert min(lengths) < 5
    assert any(n == min(2 * w + 10, 23) for n, w in zip(lengths, source.lengths, strict=True))
    assert sum(a[0].ids != b[0].ids for a, b in zip(greedy, wide, strict=True)) > 3


@pytest.mark.parametrize("search", [Search(), Search(4, 1.0, 4)], ids=str)
def test_company_changes_no_translation(search):
    model, sources = model_of(0), sentences(30, 2)
    together = translate_ids(model, FlatIds.from_rows(sources), search)
    for words, hypotheses in zip(sources, together, strict=True):
        (alone,) = translate_ids(model, FlatIds.from_rows([words]), search)
        assert [h.ids for h in alone] == [h.ids for h in hypotheses]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_translations_come_in_the_order_of_the_input(budget, monkeypatch):
    monkeypatch.setitem(decoding.TOKENS_A_BATCH, "cpu", budget)
    model, sources = model_of(1), sentences(17, 3)
    found = translate_ids(model, FlatIds.from_rows(sources))
    alone = [beam_search(model, torch.tensor([[SOS, *s, EOS]]), [min(2 * len(s) + 14, 23)])[0] for s in sources]
    assert [h[0].ids for h in found] == [h[0].ids for h in alone]


@pytest.mark.parametrize("beam", [1, 3])
def test_no_translation_is_longer_than_its_limit(beam):
    model = model_of(4, eos=-50.0)
    source = torch.tensor([[SOS, 5, 6, EOS], [SOS, 5, EOS, PAD], [SOS, 7, 8, EOS]])
    found = beam_search(model, source, [4, 0, 7], Search(beam, 1.0, beam))
    assert [max(len(h.ids) for h in hypotheses) for hypotheses in found] == [4, 0, 7]


def test_a_score_is_the_log_probability_that_the_model_gives():
    model, words = model_of(0), [5, 6, 7]
    (hypotheses,) = translate_ids(model, FlatIds.from_rows([words]), Search(4, 0.7, 4))
    for ids, score in hypotheses:
        target = torch.tensor([[SOS, *ids, EOS]])
        log_p = model(torch.tensor([[SOS, *words, EOS]]), target[:, :-1]).log_softmax(-1)
        total = log_p.gather(2, target[:, 1:, None]).sum().item()
        assert score == pytest.approx(total / ((5 + len(ids) + 1) / 6) ** 0.7, abs=1e-4)


def test_a_wider_beam_finds_likelier_translations():
    source = FlatIds.from_rows(sentences(40, 6))
    means = [
        np.mean([h[0].score for h in translate_ids(model_of(0), source, Search(beam, 0.0))]) for beam in (1, 4, 12)
    ]
    assert means[0] < means[1] <= means[2]


def test_the_penalty_is_that_of_the_paper():
    assert penalty(1, 0.6) == 1
    assert penalty(7, 1.0) == 2
    assert penalty(30, 0.0) == 1


def test_every_sentence_that_has_ended_leaves_the_batch(monkeypatch):
    model, rows = model_of(1), []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda target, *rest: rows.append(len(target)) or decode(target, *rest))
    source = FlatIds.from_rows(sentences(20, 1))
    found = translate_ids(model, source, Search(1))
    assert sum(rows) == sum(len(h[0].ids) + 1 for h in found)  # a row for each word and each EOS, and no more


# --- Text ---------------------------------------------------------------------------------------------------

PAIRS = [("the cat sees the dog", "il gatto vede il cane"), ("the dog sees Anna", "il cane vede Anna")]


def word_writer() -> Writer:
    sides = list(zip(*PAIRS, strict=True))
    tokenizers = tuple(train_word_tokenizer(iter([list(side)]), 100, 1) for side in sides)
    torch.manual_seed(0)
    sizes = [t.get_vocab_size() for t in tokenizers]
    model = Transformer(*sizes, d_model=16, layers=3, heads=2, d_ff=16, dropout=0.0, positions=20, pad=PAD).eval()
    return Writer(model, tokenizers, "it")


def test_an_unknown_word_is_copied_from_where_the_model_looked(monkeypatch):
    writer = word_writer()
    sentences = ["the cat sees Zarathustra", "Xerxes sees the dog", "the cat"]
    ids = [writer.tokenizers[0].encode(s).ids for s in sentences]
    il, vede = (writer.tokenizers[1].token_to_id(w) for w in ("il", "vede"))
    found = [[Hypothesis([il, vede, UNK], 0.0)], [Hypothesis([UNK, vede], 0.0), Hypothesis([UNK], 0.0)],
             [Hypothesis([il], 0.0)]]  # fmt: skip

    def looks(read, written, names):  # at the unknown word of the source, and most of all at marks, which are no words
        weights = torch.zeros(len(read), 2, written.shape[1], read.shape[1])
        weights[(read == UNK)[:, None, None].expand_as(weights)] = 0.4
        weights[((read == SOS) | (read == EOS) | (read == PAD))[:, None, None].expand_as(weights)] = 0.6
        return {f"decoder.{i}.cross_attention": weights if i == 1 else 1 - weights for i in range(3)}

    monkeypatch.setattr(writer.model, "attention_weights", looks)
    texts = writer(sentences, FlatIds.from_rows(ids), found)
    assert texts == [["il vede Zarathustra"], ["Xerxes vede", "Xerxes"], ["il"]]


def test_every_unknown_word_becomes_a_word_of_the_source():
    writer = word_writer()
    sentences = [f"the {'very ' * (i % 5)}odd-{i} dog sees Anna" for i in range(150)]
    found = [[Hypothesis([UNK] * (1 + i % 4), 0.0)] for i in range(150)]
    texts = writer(sentences, FlatIds.from_rows([writer.tokenizers[0].encode(s).ids for s in sentences]), found)
    for sentence, (text,) in zip(sentences, texts, strict=True):
        assert "UNK" not in text
        words = [sentence[a:b] for a, b in writer.tokenizers[0].encode(sentence).offsets]
        assert set(text.replace("-", " - ").split()) <= set(words)


def test_a_subword_model_that_writes_the_mark_of_unknown_words_gives_text_all_the_same():
    tokenizer = train_bpe_tokenizer(iter([["il gatto vede"] * 5]), 320, 1)
    ids = [*tokenizer.encode("il gatto").ids, UNK, *tokenizer.encode(" vede").ids]
    writer = Writer(model_of(), (tokenizer, tokenizer), "it")
    assert writer(["the cat sees"], FlatIds.from_rows([[5]]), [[Hypothesis(ids, 0.0)]]) == [["il gatto[UNK] vede"]]


def test_subwords_are_written_as_they_are():
    tokenizer = train_bpe_tokenizer(iter([[side for pair in PAIRS for side in pair]]), 320, 1)
    ids = tokenizer.encode(PAIRS[0][1]).ids
    writer = Writer(model_of(), (tokenizer, tokenizer), "it")
    assert writer([PAIRS[0][0]], FlatIds.from_rows([[5]]), [[Hypothesis(ids, -math.pi)]]) == [[PAIRS[0][1]]]
