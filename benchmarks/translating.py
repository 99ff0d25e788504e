"""How fast a trained run translates, beside one-by-one decoding and Hugging Face's `generate`: sentences a second.

    python benchmarks/translating.py runs/demo-… --split validation --threads 1

All translate the same sentences of the split, in one process, in turns; a round's ratios are taken within it. *One by
one* is greedy decoding as tutorials write it: a sentence at a time, the whole prefix computed anew for each word; it
takes only some of the sentences a round. MarianMTModel has the run's dimensions and vocabulary and random weights,
since it cannot hold ours, so that it would never end where it should: it is made to write as many words in each batch
as the longest hypothesis has that this package found there. It searches the same batches of like lengths, or batches
of the same number of sentences in the order of the split. All read ids made beforehand and give back ids.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from command import command
from peers import HUGGING_FACE, marian
from report import shown, spread, table, write

from config import UserError
from dataset import FlatIds
from decoding import TOKENS_A_BATCH, Search, like_lengths, most_words, translate_ids
from machine import wait_for
from tokenizer import EOS, PAD, SOS
from translate import Translator, check_search

ROUNDS, NAIVE = 5, 16  # rounds after one that is not counted; sentences that one-by-one decoding gets a round
BATCHED, NAIVELY = "this package, greedy", "one by one, the prefix computed anew, greedy"


@torch.inference_mode()
def one_by_one(translator: Translator, source: FlatIds, rows: np.ndarray) -> list[list[int]]:
    """Greedy decoding without a cache, a sentence at a time."""
    output, model = [], translator.model
    for row in rows:
        read = torch.from_numpy(source[row])[None].long().to(model.device)
        written = torch.tensor([[SOS]], device=model.device)
        for _ in range(int(most_words(source.lengths[row], model))):
            logits = model(read, written)[0, -1]
            logits[PAD] = logits[SOS] = -torch.inf
            word = logits.argmax()
            if word == EOS:
                break
            written = torch.cat([written, word[None, None]], 1)
        output.append(written[0, 1:].tolist())
    return output


@torch.inference_mode()
def generate(model, source: FlatIds, batches, words: list[int], beam: int, device: torch.device) -> None:
    """Hugging Face's search, made to write so many words in each batch."""
    for rows, count in zip(batches, words, strict=True):
        read = source.rows(torch.from_numpy(rows), int(source.lengths[rows].max())).to(device)
        model.generate(
            input_ids=read, attention_mask=(read != PAD).long(), num_beams=beam, do_sample=False, use_cache=True,
            min_new_tokens=count, max_new_tokens=count, early_stopping=True,
        )  # fmt: skip


def contestants(translator: Translator, source: FlatIds, beam: int) -> dict[str, tuple[Callable, int]]:
    """What is compared: a name, what translates once, and how many sentences that are."""
    count, device = len(source.lengths), translator.model.device

    def ours(search: Search):
        return translate_ids(translator.model, source, search)

    some = np.random.default_rng(0).permutation(count)[:NAIVE]
    found = {
        BATCHED: (lambda: ours(Search()), count),
        f"this package, beam {beam}": (lambda: ours(Search(beam)), count),
        NAIVELY: (lambda: one_by_one(translator, source, some), len(some)),
    }
    greedy = [h[0].ids for h in ours(Search())]
    if one_by_one(translator, source, some) != [greedy[i] for i in some]:
        print("note: one-by-one decoding finds other translations in places, as rounding has it")
    if not HUGGING_FACE:
        print("note: no transformers, so no rows of Marian; pip install -e '.[bench]' brings it")
        return found
    sizes = [tokenizer.get_vocab_size() for tokenizer in translator.tokenizers]
    model = marian(translator.config, *sizes).to(device).eval()
    print(f"parameters: {sum(p.numel() for p in translator.model.parameters()):,} of this package, "
          f"{sum(p.numel() for p in model.parameters()):,} of Marian")  # fmt: skip
    for k in (1, beam):
        lengths = np.array([max(len(h.ids) for h in best) + 1 for best in ours(Search(k, n_best=k))])
        like = list(like_lengths(source.lengths, TOKENS_A_BATCH[device.type] // k))
        size = round(count / len(like))
        plain = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
        for name, batches in (("our batches of like lengths", like), ("batches in the order of the split", plain)):
            words = [int(lengths[rows].max()) for rows in batches]
            kind = "greedy" if k == 1 else f"beam {k}"
            found[f"Marian's generate, {kind}, {name}"] = (
                lambda batches=batches, words=words, k=k: generate(model, source, batches, words, k, device), count,
            )  # fmt: skip
    return found


def measure(found: dict[str, tuple[Callable, int]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Sentences a second of each, round by round, the first of which is not counted."""
    speeds: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, (translate, count) in found.items():
            wait_for(device)
            start = time.perf_counter()
            translate()
            wait_for(device)
            if number:
                speeds[name].append(count / (time.perf_counter() - start))
    return speeds


@command
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("run", type=Path)
    p.add_argument("--split", default="validation")
    p.add_argument("--beam", type=int, default=5)
    p.add_argument("--rounds", type=int, default=ROUNDS)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    p.set_defaults(length_penalty=1.0)
    args = p.parse_args()
    check_search(args)
    if args.rounds < 1:
        raise UserError(f"rounds is {args.rounds}, but must be at least 1.")
    translator = Translator(args.run, device=args.device, threads=args.threads)
    _, pairs, _ = translator.part(args.split)
    found = contestants(translator, pairs.source, args.beam)
    speeds = measure(found, args.rounds, translator.model.device)
    lines, results = [], {}
    for name, own in speeds.items():
        ours = speeds[f"this package, beam {args.beam}" if "beam" in name else BATCHED]
        ratios = spread([a / b for a, b in zip(ours, own, strict=True)])
        results[name] = {"sentences_per_second": spread(own), "ours_is_times_as_fast": ratios}
        lines.append([name, shown(results[name]["sentences_per_second"], ",.1f"), shown(ratios, ".2f")])
    head = ["translator", "sentences/s", "this package, same search, is times as fast"]
    note = f"{len(pairs):,} sentences, {translator.config.d_model} wide, {translator.config.layers} layers"
    write("translating", {"rows": results, "sentences": len(pairs)}, table(head, lines), note)


if __name__ == "__main__":
    sys.exit(main())
