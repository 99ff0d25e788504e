"""Translating with a trained model: batched greedy decoding, scores, and the command line."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sacrebleu import corpus_bleu, corpus_chrf
from torchmetrics.functional.text import char_error_rate, word_error_rate

import run_folder
from config import UserError
from dataset import FlatIds, encode
from machine import choose_device
from model import Transformer, build_model
from tokenizer import EOS, PAD, SOS, to_text

TOKENS_A_BATCH = 4096  # source tokens, padding counted, that are translated side by side

# --- Decoding -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def greedy(model: Transformer, source: torch.Tensor, limits: torch.Tensor) -> list[list[int]]:
    """The likeliest next word, again and again, for all rows at once until every row has ended.

    source: (B, S) ids. limits: (B,) most words a row may have. Returns the ids without SOS and EOS.
    """
    encoded, mask = model.encode(source)
    memory, past = model.memory(encoded), None
    words = torch.full((len(source), 1), SOS, device=source.device)
    ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    output = []
    for step in range(int(limits.max())):
        hidden, past = model.decode(words, memory, mask, past)
        logits = model.projection(hidden[:, -1])  # (B, V)
        logits[:, PAD] = logits[:, SOS] = -torch.inf
        words = logits.argmax(-1, keepdim=True)
        ended |= (words[:, 0] == EOS) | (limits <= step)
        if bool(ended.all()):  # waits for the GPU, once a word
            break
        output.append(words.masked_fill(ended[:, None], PAD))
    if not output:
        return [[] for _ in range(len(source))]
    return [[w for w in row if w != PAD] for row in torch.cat(output, dim=1).tolist()]


def translate_ids(model: Transformer, source: FlatIds, positions: int, device: torch.device) -> list[list[int]]:
    """Translates sentences given as ids, like lengths together; returns ids in the order of the input.

    positions: the longest sentence the model can write, in tokens. A translation is at most twice as long as its
    source plus ten.
    """
    model.eval()
    lengths = source.lengths
    order = np.argsort(-lengths, kind="stable")
    output: list[list[int]] = [[]] * len(order)
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, TOKENS_A_BATCH // int(lengths[order[start]]))]
        start += len(rows)
        batch = source.rows(torch.from_numpy(rows), int(lengths[rows].max())).to(device)
        limits = torch.from_numpy(np.minimum(2 * lengths[rows] + 10, positions - 1)).to(device)
        for row, ids in zip(rows, greedy(model, batch, limits), strict=True):
            output[row] = ids
    return output


# --- Scores -------------------------------------------------------------------------------------------------


def score(translations: list[str], references: list[str]) -> dict[str, float]:
    """SacreBLEU (13a tokenisation) and chrF of 0 to 100, and the shares of wrong characters, wrong words and
    exactly right sentences of 0 to 1, over all sentences. The text is to be detokenised, one reference each.
    """
    exact = sum(t == r for t, r in zip(translations, references, strict=True)) / len(references)
    return {
        "bleu": corpus_bleu(translations, [references]).score,
        "chrf": corpus_chrf(translations, [references]).score,
        "cer": float(char_error_rate(translations, references)),
        "wer": float(word_error_rate(translations, references)),
        "exact": exact,
    }


# --- Command line -------------------------------------------------------------------------------------------


class Translator:
    """A trained model with its tokenizers, from a run folder's checkpoint."""

    def __init__(self, run: str, checkpoint: str = "best", device: str = "auto"):
        state = run_folder.load_checkpoint(run_folder.checkpoint_path(Path(run), checkpoint))
        self.config, self.tokenizers = state["config"], state["tokenizers"]
        sizes = [tokenizer.get_vocab_size() for tokenizer in self.tokenizers]
        self.device = choose_device(device)
        self.model = build_model(self.config, *sizes, pad=PAD).to(self.device).eval()
        run_folder.load_weights(self.model, state["model"], run)

    def __call__(self, sentences: list[str]) -> list[str]:
        """Translates sentences; an empty one stays empty, one too long for the model is cut at its limit."""
        for sentence in sentences:
            if any("\ud800" <= c <= "\udfff" for c in sentence):
                raise UserError(
                    f"The sentence {sentence[:40]!r} is not UTF-8 text. Convert it, with iconv for example."
                )
        encoded = FlatIds.from_lengths(*encode([s.strip() for s in sentences], self.tokenizers[0]))
        rows = [i for i in range(len(sentences)) if encoded.lengths[i] > 2]
        kept = [self._fit(encoded[i], sentences[i]) for i in rows]
        if not kept:
            return [""] * len(sentences)
        source = FlatIds.from_lengths(np.concatenate(kept), np.array([len(ids) for ids in kept]))
        output = [""] * len(sentences)
        for i, words in zip(rows, translate_ids(self.model, source, self.config.seq_len, self.device), strict=True):
            output[i] = to_text(self.tokenizers[1], words, self.config.target_language)
        return output

    def _fit(self, ids: np.ndarray, sentence: str) -> np.ndarray:
        limit = self.config.seq_len
        if len(ids) <= limit:
            return ids
        start = f"{sentence[:40]!r}…"
        print(f"warning: {start} has {len(ids):,} tokens and is cut at the model's {limit:,}.", file=sys.stderr)
        return np.append(ids[: limit - 1], np.int32(EOS))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python translate.py", description="Translate with a trained run.")
    parser.add_argument("run", help="folder of the run, as in runs/demo-uniform-20260101-120000")
    parser.add_argument("sentence", nargs="*", help="what to translate; without it, lines are read from standard input")
    parser.add_argument("--checkpoint", choices=("best", "last", "average"), default="best",
                        help="best: of the lowest held-out loss; last: the newest; average: see --average of train.py "
                        "(default: best)")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="(default: auto)")
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        translator = Translator(args.run, args.checkpoint, args.device)
        if args.sentence:
            print("\n".join(translator(args.sentence)))
        else:
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # other bytes are told apart later
            for line in sys.stdin:
                print(translator([line])[0], flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
