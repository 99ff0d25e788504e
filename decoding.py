"""From a trained model to words: beam search, of which greedy decoding is the case of one hypothesis.

Letters in the shape comments: B sentences still searched, K hypotheses of each (the beam), V words in the target
vocabulary, T words of a hypothesis so far, with SOS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from dataset import FlatIds
from model import Cache, Transformer
from tokenizer import EOS, PAD, SOS, UNK, join_words, to_text

# Source tokens, padding counted and times the beam, that are translated side by side. A GPU takes about as long over a
# step of a thousand rows as of a hundred: it waits for the few hundred launches of either.
TOKENS_A_BATCH = {"cpu": 2**12, "mps": 2**12, "cuda": 2**15}


class Hypothesis(NamedTuple):
    """One translation that the search has found."""

    ids: list[int]  # without SOS and EOS
    score: float  # log-probability of ids and EOS in nats, over the length penalty


class Search(NamedTuple):
    """How to look for translations."""

    beam: int = 1  # hypotheses kept side by side; 1 is greedy
    length_penalty: float = 1.0  # 0 favours short translations, above 1 long ones
    n_best: int = 1  # translations returned for each sentence, at most `beam`


GREEDY = Search()


def penalty(words: int, alpha: float) -> float:
    """What a hypothesis of so many words, EOS counted, has its log-probability divided by (Wu et al. 2016, eq. 14)."""
    return ((5 + words) / 6) ** alpha


@torch.inference_mode()
def beam_search(
    model: Transformer, source: Tensor, limits: list[int], search: Search = GREEDY
) -> list[list[Hypothesis]]:
    """The best translations of each sentence, best first, all sentences side by side.

    source: (B, S) ids. limits: most words that each translation may have; only EOS can follow then. The search for a
    sentence ends when `beam` hypotheses have ended, each while it was among the best `beam`; it then leaves the batch.
    """
    k, sentences = search.beam, list(range(len(source)))  # those still searched
    found: list[list[Hypothesis]] = [[] for _ in sentences]
    encoded, mask = model.encode(source)
    memory, past = model.memory(encoded), None
    words = torch.full((len(source), k, 1), SOS, device=source.device)  # (B, K, T)
    scores = torch.full((len(source), k), -torch.inf, device=source.device)  # (B, K)
    scores[:, 0] = 0  # the other hypotheses are the same one so far
    while sentences:
        full = [limits[sentence] < words.shape[2] for sentence in sentences]
        hidden, past = model.decode(words[:, :, -1].reshape(-1, 1), memory, mask, past)
        log_p = _log_probabilities(model.projection(hidden[:, -1]).view(len(sentences), k, -1), full)
        # A hypothesis can end in one way only, so that of the best 2 K at least K go on.
        best, index = log_p.add_(scores[:, :, None]).flatten(1).topk(2 * k)  # (B, 2 K), falling
        parent, word = index // log_p.shape[2], index % log_p.shape[2]
        ends = (word == EOS) & (best != -torch.inf)
        length_penalty = penalty(words.shape[2], search.length_penalty)
        for row, hypothesis in _ended(words, best / length_penalty, parent, ends[:, :k]):
            found[sentences[row]].append(hypothesis)
        scores, order = best.masked_fill(word == EOS, -torch.inf).topk(k)
        parent, word = parent.gather(1, order), word.gather(1, order)
        words = torch.cat([words.gather(1, parent[:, :, None].expand_as(words)), word[:, :, None]], dim=2)
        rows = torch.arange(0, len(sentences) * k, k, device=source.device)[:, None] + parent  # (B, K) of the cache
        left = [i for i, s in enumerate(sentences) if not full[i] and len(found[s]) < k]
        shrinks = len(left) < len(sentences)
        if shrinks:
            kept = torch.tensor(left, dtype=torch.int64, device=source.device)
            memory, mask, words, scores, rows = _take(memory, kept), mask[kept], words[kept], scores[kept], rows[kept]
            sentences = [sentences[i] for i in left]
        if k > 1 or shrinks:
            past = _take(past, rows.flatten())
    return [sorted(hypotheses, key=lambda h: -h.score)[: search.n_best] for hypotheses in found]


def _log_probabilities(logits: Tensor, full: list[bool]) -> Tensor:
    """Of the words that may follow: (B, K, V), with only EOS left in sentences that are `full`."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    log_p[:, :, PAD] = log_p[:, :, SOS] = -torch.inf
    if any(full):
        rows = torch.tensor(full, device=logits.device)
        log_p[rows, :, :EOS] = log_p[rows, :, EOS + 1 :] = -torch.inf
    return log_p


def _ended(words: Tensor, scores: Tensor, parent: Tensor, ends: Tensor) -> list[tuple[int, Hypothesis]]:
    """The hypotheses that `ends` (B, K) marks, each with its row."""
    rows, columns = ends.nonzero(as_tuple=True)  # waits for the GPU, once a word
    if not len(rows):
        return []
    ids = words[rows, parent[rows, columns], 1:].tolist()
    found = zip(ids, scores[rows, columns].tolist(), strict=True)
    return [(row, Hypothesis(*one)) for row, one in zip(rows.tolist(), found, strict=True)]


def _take(cache: Cache, rows: Tensor) -> Cache:
    return [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in cache]


def translate_ids(model: Transformer, source: FlatIds, search: Search = GREEDY) -> list[list[Hypothesis]]:
    """The best translations of each sentence in `source`, in its order; like lengths are searched side by side."""
    model.eval()
    lengths = source.lengths
    output: list[list[Hypothesis]] = [[]] * len(lengths)
    for rows in like_lengths(lengths, TOKENS_A_BATCH[model.device.type] // search.beam):
        batch = source.rows(torch.from_numpy(rows), int(lengths[rows].max())).to(model.device)
        limits = most_words(lengths[rows], model).tolist()
        for row, hypotheses in zip(rows, beam_search(model, batch, limits, search), strict=True):
            output[row] = hypotheses
    return output


def most_words(lengths: np.ndarray, model: Transformer) -> np.ndarray:
    """The longest translations looked for, of sources with so many tokens: twice as long and ten words more, or what
    the model can write.
    """
    return np.minimum(2 * lengths + 10, model.positions - 1)


def like_lengths(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yields the rows that are translated side by side, about so many tokens with their padding, the longest first, so
    that a lack of memory shows at once.
    """
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        count = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def alignment(model: Transformer, source: Tensor, target: Tensor) -> Tensor:
    """How much each target position (B, T), whose word it is to predict, looks at each source position (B, S):
    (B, H, T, S), of the decoder layer that aligns best, the last but one (Garg et al. 2019, section 4.2).
    """
    layer = max(0, len(model.decoder) - 2)
    name = f"decoder.{layer}.cross_attention"
    return model.attention_weights(source, target, [name])[name]


@dataclass
class Writer:
    """Readable text of hypotheses. Words have no text for what the vocabulary lacks: [UNK] is there replaced by the
    word of the source that the model looked at most when it wrote it, which is right for names and numbers
    (Luong et al. 2015, "Addressing the Rare Word Problem", section 3.3). Subwords know no unknown word.
    """

    model: Transformer
    tokenizers: tuple[Tokenizer, Tokenizer]  # source, target
    language: str

    def __call__(self, sentences: list[str], source: FlatIds, found: list[list[Hypothesis]]) -> list[list[str]]:
        """The text of each hypothesis. sentences, source: what was translated, as text and ids."""
        texts = [[to_text(self.tokenizers[1], h.ids, self.language) for h in hypotheses] for hypotheses in found]
        if self.tokenizers[1].decoder is not None:  # subwords
            return texts
        unknown = [(i, n) for i, hypotheses in enumerate(found) for n, h in enumerate(hypotheses) if UNK in h.ids]
        tokens = TOKENS_A_BATCH[self.model.device.type]
        for rows in like_lengths(source.lengths[[i for i, _ in unknown]], tokens) if unknown else ():
            for i, n, words in self._copied([unknown[row] for row in rows], sentences, source, found):
                texts[i][n] = join_words(words, self.language)
        return texts

    def _copied(self, some: list[tuple[int, int]], sentences, source: FlatIds, found) -> Iterator:
        """Yields (sentence, hypothesis, its words) with unknown words replaced."""
        rows = torch.tensor([i for i, _ in some])
        read = source.rows(rows, int(source.lengths[rows].max())).to(self.model.device)  # (B, S)
        written = [torch.tensor([SOS, *found[i][n].ids]) for i, n in some]
        target = torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=PAD).to(read.device)
        weights = alignment(self.model, read, target).mean(1)  # (B, T, S)
        marks = (read == PAD) | (read == SOS) | (read == EOS)
        looked_at = weights.masked_fill(marks[:, None], -1).argmax(-1).tolist()  # (B, T)
        for (i, n), positions in zip(some, looked_at, strict=True):
            offsets = self.tokenizers[0].encode(sentences[i]).offsets
            words = [self.tokenizers[1].id_to_token(word) for word in found[i][n].ids]
            for t, word in enumerate(found[i][n].ids):
                if word == UNK:
                    begin, end = offsets[positions[t] - 1]  # SOS is the position before the first word
                    words[t] = sentences[i][begin:end]
            yield i, n, words
