"""How good a model is: its loss on held-out pairs, and scores of its translations against references."""

import contextlib
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics import BLEU, CHRF

import run_folder
from config import Config, UserError
from dataset import BilingualDataset
from machine import wide_dtype
from model import Transformer, loss_sums
from smart_batching_dataset import UniformBatches


@torch.no_grad()
def mean_losses(
    model: Transformer, pairs: BilingualDataset, config: Config, autocast: AbstractContextManager
) -> tuple[float, float]:
    """Smoothed and plain loss over all pairs, in nats a target token. autocast: the context of the forward pass."""
    model.eval()
    sums, tokens = torch.zeros(2, dtype=wide_dtype(model.device), device=model.device), 0
    plan = UniformBatches(pairs, 4 * config.batch_size).plan(0)
    for batch in plan.batches(pairs):
        batch = batch.to(model.device)
        with autocast:
            logits = model(batch.source, batch.target, batch.positions)
        sums += torch.stack(loss_sums(logits, batch.labels, config.label_smoothing))
        tokens += len(batch.labels)
    smoothed, nll = (sums / tokens).tolist()
    return smoothed, nll


def bleu(language: str, lowercase: bool = False) -> BLEU:
    """SacreBLEU for text in this language: with its 13a tokenisation where spaces part the words."""
    code = language.lower().replace("_", "-").partition("-")[0]
    tokenize = "zh" if code == "zh" else "char" if code in ("ja", "km", "lo", "my", "th") else "13a"
    return BLEU(tokenize=tokenize, lowercase=lowercase)


def score(translations: list[str], references: list[str], language: str) -> dict[str, float]:
    """SacreBLEU and chrF of 0 to 100, and the shares of wrong characters, wrong words and exactly right sentences of
    0 to 1, over all sentences. The text, in `language`, is to be detokenised, one reference each.
    """
    # It takes as long to import as PyTorch does, and is of no use to who has a sentence translated.
    from torchmetrics.functional.text import word_error_rate

    pairs = list(zip(translations, references, strict=True))
    return {
        "bleu": bleu(language).corpus_score(translations, [references]).score,
        "chrf": CHRF().corpus_score(translations, [references]).score,
        # As torchmetrics defines it, whose own takes 6 ms a sentence: the edits in all over the letters in all.
        "cer": sum(Levenshtein.distance(t, r) for t, r in pairs) / max(1, sum(len(r) for r in references)),
        "wer": float(word_error_rate(translations, references)),
        "exact": sum(t == r for t, r in pairs) / len(pairs),
    }


def lower_case_bleu(translations: list[str], references: list[str], language: str) -> float:
    """SacreBLEU of the text in lower case, as much of the literature reports it."""
    return bleu(language, lowercase=True).corpus_score(translations, [references]).score


def signatures(language: str) -> dict[str, str]:
    """SacreBLEU's own account of how it computes its scores, to be quoted with them (Post 2018)."""
    found = {}
    metrics = {"bleu": bleu(language), "lower_case_bleu": bleu(language, lowercase=True), "chrf": CHRF()}
    for name, metric in metrics.items():
        metric.corpus_score(["a"], [["a"]])  # it knows the number of references only then
        found[name] = str(metric.get_signature())
    return found


def evaluate(translator, split: str, folder: Path) -> dict:
    """Translates a whole split, or a file of pairs, with a translate.Translator, scores it, and writes what came of it
    into `folder`: <split>-<checkpoint>-beam<K>-penalty<P>.json, and hypotheses and references as text, a line each, as
    the sacrebleu command takes them. Returns what the JSON holds, and its files' names. Raises UserError where it
    cannot.

    The loss is over the pairs that fit into the model; longer ones are translated in parts.
    """
    if not os.access(folder, os.W_OK):
        raise UserError(f"The folder {folder} cannot be written to, so the evaluation would be lost.")
    start, language = time.perf_counter(), translator.config.target_language
    texts, pairs, known = translator.part(split)
    sources, references = zip(*texts, strict=True)
    beam, length_penalty, _ = translator.search
    files = folder / f"{Path(split).name}-{translator.checkpoint}-beam{beam}-penalty{length_penalty:g}"
    _write_references(Path(f"{files}.references.txt"), references)  # first of all: if it cannot be, nothing was lost
    translations = translator(sources)
    smoothed, nll = mean_losses(translator.model, pairs, translator.config, contextlib.nullcontext())
    result = {
        "split": split, "pairs": len(texts), "pairs_of_loss": len(pairs), "known_sources": known,
        "checkpoint": translator.checkpoint,
        **translator.search._asdict(), **score(translations, references, language),
        "lower_case_bleu": lower_case_bleu(translations, references, language), "signatures": signatures(language),
        "loss": smoothed, "nll": nll, "perplexity": math.exp(min(nll, 700)), "seconds": time.perf_counter() - start,
        "device": translator.model.device.type, **run_folder.environment(),
    }  # fmt: skip
    _write(Path(f"{files}.hypotheses.txt"), _lines(translations))
    _write(Path(f"{files}.json"), json.dumps(result, indent=2) + "\n")
    return {**result, "files": f"{files}.*"}


def _write_references(path: Path, references: Sequence[str]) -> None:
    """Raises UserError where an evaluation on other sentences has this name already."""
    text = _lines(references)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} is of an evaluation on other sentences. Move it away, or rename the file of pairs.")
    _write(path, text)


def _write(path: Path, text: str) -> None:
    try:
        run_folder.rewrite(path, text)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}). Make room there and evaluate again."
        ) from error


def _lines(texts: Sequence[str]) -> str:
    return "".join(one_line(text) + "\n" for text in texts)


def one_line(text: str) -> str:
    """The text without line breaks, where a line is to stay one."""
    return " ".join(text.splitlines())
