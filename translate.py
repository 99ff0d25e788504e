"""Translates with a trained run: sentences, lines of a file or a pipe, a conversation, or a whole test set.

`python translate.py --help` tells how to use it.
"""

import argparse
import contextlib
import itertools
import math
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Encoding

import run_folder
from config import MOST_THREADS, Parser, UserError, check_streams, give_up_output, is_text
from corpus import Corpus, load_corpus, names_file, other_split, split_corpus
from dataset import BilingualDataset, FlatIds, encode_corpus
from decoding import GREEDY, Search, Writer, alignment, translate_ids
from evaluation import evaluate, one_line
from machine import lacks_memory, prepare_machine
from model import build_model
from tokenizer import EOS, MARKS, PAD, SOS, to_text

LINES_AT_ONCE = 2048  # read before the first of them is translated, so that like lengths can be put together
WIDEST = 100  # beam; translations get worse long before
MOST_DRAWN = 100  # tokens of a sentence whose attention is drawn
HISTORY = "~/.translation_transformer_history"


class Translator:
    """A trained model with its tokenizers, from a run folder's checkpoint. Raises UserError where there is none."""

    def __init__(self, run: Path, checkpoint="best", device="auto", threads=0, search: Search = GREEDY):
        state = run_folder.load_checkpoint(run_folder.checkpoint_path(Path(run), checkpoint))
        self.config, self.tokenizers = state["config"], state["tokenizers"]
        self.checkpoint, self.search = checkpoint, search
        self.corpus, self.sources = state["corpus"], state["sources"].numpy()  # digests; what it was trained on
        sizes = [tokenizer.get_vocab_size() for tokenizer in self.tokenizers]
        self.model = build_model(self.config, *sizes, pad=PAD).to(prepare_machine(device, threads)).eval()
        run_folder.load_weights(self.model, state["model"], run)
        self.writer = Writer(self.model, self.tokenizers, self.config.target_language)

    def __call__(self, sentences: list[str]) -> list[str]:
        """The best translation of each sentence; that of an empty one is empty."""
        return [best[0][0] for best in self.n_best(sentences)]

    def n_best(self, sentences: list[str]) -> list[list[tuple[str, float]]]:
        """The search's n_best translations of each sentence with their scores, best first; see decoding.Hypothesis.

        A sentence too long for the model is translated in parts, with a warning; its scores are the parts' sums.
        Raises UserError on text that has no UTF-8 form, TypeError on a single string.
        """
        if isinstance(sentences, str):
            raise TypeError("sentences is one string, but must be a list of them")
        sentences = list(sentences)
        stripped = [_refuse_other_bytes(sentence).strip() for sentence in sentences]
        parts = [
            (i, text, ids)
            for i, encoding in enumerate(self.tokenizers[0].encode_batch(stripped))
            for text, ids in self._parts(stripped[i], encoding)
        ]
        output: list[list] = [[] for _ in sentences]
        if parts:
            owners, texts, rows = zip(*parts, strict=True)
            source = FlatIds.from_rows(rows)
            found = translate_ids(self.model, source, self.search)
            for i, written, hypotheses in zip(owners, self.writer(texts, source, found), found, strict=True):
                output[i].append([(text, h.score) for text, h in zip(written, hypotheses, strict=True)])
        return [_joined(of_parts, self.search.n_best) for of_parts in output]

    def _parts(self, sentence: str, encoding: Encoding) -> list[tuple[str, list[int]]]:
        """Text and ids of the sentence, or of what it is cut into where it is too long; nothing if it has no word."""
        most = self.config.seq_len - 2  # besides SOS and EOS
        if len(encoding.ids) <= most:
            return [(sentence, encoding.ids)] if encoding.ids else []
        parts = list(cut(sentence, encoding, most))
        print(
            f"warning: {sentence[:40]!r}… has {len(encoding.ids):,} tokens and the model takes {most:,} at a time; it "
            f"is translated in {len(parts):,} parts.",
            file=sys.stderr,
        )
        return parts

    def attention(self, sentence: str) -> tuple[list[str], list[str], torch.Tensor]:
        """What was read and what was written, as tokens with their marks, and how much each head looked at what
        while writing: (H, written, read). Raises UserError where the sentence is empty or too long for one go.
        """
        encoding = self.tokenizers[0].encode(_refuse_other_bytes(sentence).strip())
        most = min(MOST_DRAWN, self.config.seq_len - 2)
        if not 0 < len(encoding.ids) <= most:
            raise UserError(f"The sentence has {len(encoding.ids):,} tokens, but only 1 to {most} can be drawn.")
        source = FlatIds.from_rows([encoding.ids])
        best = translate_ids(self.model, source, self.search)[0][0]
        read, written = [SOS, *encoding.ids, EOS], [SOS, *best.ids, EOS]
        ids = (torch.tensor([row], device=self.model.device) for row in (read, written[:-1]))
        words = [
            [MARKS[i] if i in (SOS, EOS) else to_text(tokenizer, [i], "") for i in row]
            for tokenizer, row in zip(self.tokenizers, (read, written[1:]), strict=True)
        ]
        return *words, alignment(self.model, *ids)[0].float().cpu()

    def move_corpus(self, dataset: str) -> None:
        """Has the run's corpus read from where it lies now. Raises UserError where another one lies there."""
        self.config = replace(self.config, dataset=dataset)
        self.part("validation")

    def part(self, split: str) -> tuple[list[tuple[str, str]], BilingualDataset, int]:
        """A part of the corpus that the run was trained on: all its pairs as text, as ids those that fit, and how many
        of the source sentences the run was trained on.

        split: one of the corpus's own, "validation" for what was held out, or a file of pairs that --dataset would
        take. Raises UserError where there is none, or where the corpus has changed and a sentence held out now may have
        been trained on.
        """
        if names_file(split):
            part, pairs = self._own_file(split)
        elif split in ("train", "validation"):
            part, pairs = self._learnt_or_held_out(split)
        else:
            part = other_split(load_corpus(self.config), self.config, split)
            pairs = encode_corpus(part, self.tokenizers, self.config.seq_len)
        known = int(np.isin(part.fingerprints[part.usable], self.sources).sum())
        return [pair for sides in part.chunks() for pair in zip(*sides, strict=True)], pairs, known

    def _learnt_or_held_out(self, split: str) -> tuple[Corpus, BilingualDataset]:
        parts = dict(zip(("train", "validation"), split_corpus(load_corpus(self.config), self.config), strict=True))
        options = (self.tokenizers, self.config.seq_len)
        pairs = {name: encode_corpus(part, *options, keep_texts=name != "train") for name, part in parts.items()}
        for name, digest in (("train", self.corpus["training"]), ("validation", self.corpus["validation"])):
            if pairs[name].digest() != digest:
                raise UserError(
                    f"The {name} part of {self.config.dataset!r} is no longer the one that this run had, so that its "
                    f"{split} part would tell nothing. Put the old corpus back."
                )
        return parts[split], pairs[split]

    def _own_file(self, name: str) -> tuple[Corpus, BilingualDataset]:
        config = replace(self.config, dataset=name)
        try:
            part = other_split(load_corpus(config), config, "train")
            return part, encode_corpus(part, self.tokenizers, config.seq_len)
        except UserError as error:
            cause = str(error).partition(". ")[0].rstrip(".")
            raise UserError(
                f"{name} cannot be evaluated on. {cause}. A file of pairs has columns {config.source_language!r} and "
                f"{config.target_language!r} and is such as train.py takes for its --dataset."
            ) from error


def cut(sentence: str, encoding: Encoding, most: int) -> Iterator[tuple[str, list[int]]]:
    """Text and ids of parts of at most `most` tokens. Each ends, if it can, where a sentence does in its second half,
    or else between words, or else anywhere.
    """
    begins = [begin for begin, _ in encoding.offsets]
    new_word = [b > 0 and (sentence[b - 1].isspace() or sentence[b].isspace()) for b in begins]  # some begin with it
    start = 0
    while start < len(begins):
        end = min(start + most, len(begins))
        if end < len(begins):
            breaks = [t for t in range(start + 1, end + 1) if new_word[t]]
            late = [t for t in breaks if 2 * (t - start) >= most]
            ends = [t for t in late if sentence[begins[t] - 2 : begins[t]].rstrip().endswith((".", "!", "?"))]
            end = max(ends or breaks, default=end)
        text = sentence[begins[start] : begins[end] if end < len(begins) else len(sentence)]
        yield text, encoding.ids[start:end]
        start = end


def _joined(parts: list[list[tuple[str, float]]], count: int) -> list[tuple[str, float]]:
    """`count` translations of a sentence from those of its parts: best with best, second with second. Where there are
    fewer, as of a sentence without a word, empty ones fill up, so that each sentence has as many.
    """
    ranks = zip(*parts, strict=False)  # a part may have found fewer
    found = [(" ".join(text for text, _ in rank), sum(score for _, score in rank)) for rank in ranks]
    return found + [("", 0.0)] * (count - len(found))


def _refuse_other_bytes(text: str) -> str:
    if not is_text(text):
        raise UserError(f"The sentence {text[:40]!r} is not UTF-8 text. Convert it, with iconv for example.")
    return text


# --- Command line -------------------------------------------------------------------------------------------


def lines_at_hand(stream) -> Iterator[list[str]]:
    """Yields the lines of a stream, as many together as can be had without waiting, at most LINES_AT_ONCE: a large
    file comes in large lots, and a program that waits for each answer gets it. Raises UserError where reading fails.
    """
    lines: queue.Queue = queue.Queue(LINES_AT_ONCE)

    def read():
        end = None
        try:
            for line in stream:
                lines.put(line)
        except Exception as error:  # whatever it is, who waits for lines is to learn of it
            end = error
        lines.put(end)

    threading.Thread(target=read, daemon=True).start()
    lot, line = [], lines.get()
    while isinstance(line, str):
        lot.append(line)
        if lines.empty() or len(lot) == LINES_AT_ONCE:
            yield lot
            lot = []
        line = lines.get()
    if lot:
        yield lot
    if line is not None:
        raise UserError(f"The input cannot be read any further: {line!r}.")


def stream(translator: Translator) -> None:
    """A line in, its n_best lines out, in constant memory."""
    # Only "\n" ends a line, as for every tool that counts lines. A mark of byte order is no text. Bytes that are not
    # UTF-8 are told apart later, so that the lines before them are translated.
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    number = 0
    for lot in lines_at_hand(sys.stdin):
        good = list(itertools.takewhile(is_text, lot))
        show(translator, good)
        number += len(good)
        if len(good) < len(lot):
            raise UserError(f"Line {number + 1:,} of the input is not UTF-8 text. Convert it, with iconv for example.")


def converse(translator: Translator) -> None:
    """Translates what is typed, with the lines of earlier conversations within reach of the arrow keys."""
    try:
        import readline
    except ImportError:  # as on Windows; input() works without
        readline = None
    history = os.path.expanduser(HISTORY)
    if readline:
        readline.set_history_length(1000)
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    languages = f"{translator.config.source_language} → {translator.config.target_language}"
    print(f"{languages}; an empty line or Ctrl-D ends.")
    try:
        while line := input(f"{translator.config.source_language}> "):
            try:
                show(translator, [line])
            except UserError as error:  # a slip of the keys ends no conversation
                print(f"error: {error}")
    except EOFError:
        print()
    finally:
        if readline:
            with contextlib.suppress(OSError):
                readline.write_history_file(history)


def show(translator: Translator, sentences: list[str]) -> None:
    """Prints the translations, a line each; with several of a sentence, its score before each."""
    for found in translator.n_best(sentences):
        for text, score in found:
            print(one_line(text) if translator.search.n_best == 1 else f"{score:.3f}\t{one_line(text)}")
    sys.stdout.flush()


def _printable(token: str) -> str:
    """The token with what no SVG has a place for, control characters, replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in token)


def draw_attention(read: list[str], written: list[str], weights: torch.Tensor, path: Path) -> None:
    """Draws how much each head looked at each word read while it wrote each word: weights (H, written, read).

    Raises UserError where there is no matplotlib, or the picture cannot be written.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise UserError("A picture needs matplotlib; `pip install matplotlib` brings it.") from error
    columns = math.ceil(math.sqrt(len(weights)))
    width, height = 1 + 0.35 * len(read), 1 + 0.3 * len(written)
    rows = math.ceil(len(weights) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False,
                                layout="constrained")  # fmt: skip
    for head, axis in enumerate(axes.flat):
        if head >= len(weights):
            axis.axis("off")
            continue
        axis.imshow(weights[head].numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        # Two dollar signs of a text are no formula.
        axis.set_xticks(range(len(read)), map(_printable, read), rotation=90, fontsize=8, parse_math=False)
        axis.set_yticks(range(len(written)), map(_printable, written), fontsize=8, parse_math=False)
        axis.set_title(f"head {head + 1}", fontsize=9)
    figure.suptitle("columns: what was read; rows: what was written while looking there", fontsize=9)
    try:
        figure.savefig(path, dpi=90)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The picture {path} cannot be written: {error}.") from error
    finally:
        plt.close(figure)


def show_evaluation(translator: Translator, run: Path, split: str) -> None:
    result = evaluate(translator, split, run)
    left_out = result["pairs"] - result["pairs_of_loss"]
    where = split if names_file(split) else f"{split} of {translator.config.dataset}"
    if split != "train" and result["known_sources"]:
        print(f"note: {result['known_sources']:,} of these source sentences stand in the run's training part")
    print(
        f"{where}, {result['pairs']:,} pairs, {result['checkpoint']}.pt, "
        f"beam {result['beam']}, length penalty {result['length_penalty']:g}, {result['seconds']:.0f} s\n"
        f"  BLEU {result['bleu']:.2f}  {result['signatures']['bleu']}\n"
        f"  BLEU {result['lower_case_bleu']:.2f}  {result['signatures']['lower_case_bleu']}\n"
        f"  chrF {result['chrf']:.2f}  {result['signatures']['chrf']}\n"
        f"  CER {result['cer']:.3f}, WER {result['wer']:.3f}, exact {result['exact']:.1%}\n"
        f"  loss {result['loss']:.3f} (plain {result['nll']:.3f}, perplexity {result['perplexity']:.1f})"
        + (f", without {left_out:,} pairs that are too long" if left_out else "")
        + f"\n  hypotheses, references and these figures: {result['files']}"
    )


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="python translate.py", description="Translate with a trained run.")
    p.add_argument("run", type=Path, help="folder of the run, as in runs/demo-uniform-20260101-120000")
    p.add_argument(
        "sentence", nargs="*", default=[], help="what to translate; without it, lines are read from standard input"
    )
    p.add_argument("--beam", type=int, default=1, help="hypotheses kept side by side; 1 is greedy (default: 1)")
    p.add_argument("--n-best", type=int, default=1, help="translations shown of each sentence (default: 1)")
    p.add_argument("--length-penalty", type=float, default=GREEDY.length_penalty,
                   help="of beam search; raise it where translations are too short (default: %(default)s)")  # fmt: skip
    p.add_argument("--evaluate", metavar="SPLIT", help="translate and score this split of the run's corpus, or a file "
                   "of pairs, as --dataset of train.py takes it")  # fmt: skip
    p.add_argument("--dataset", help="where the run's corpus lies now, for --evaluate, if it has moved")
    p.add_argument("--attention", type=Path, metavar="PICTURE", help="draw which word of the sentence each word of its "
                   "translation looked at, a map a head")  # fmt: skip
    p.add_argument("--checkpoint", choices=("best", "last", "average"), default="best",
                   help="best: of the lowest held-out loss; last: the newest; average: see --average of train.py "
                   "(default: best)")  # fmt: skip
    p.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="(default: auto)")
    p.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to PyTorch (default: 0)")
    return p


def check_search(args: argparse.Namespace) -> None:
    """Refuses a beam, a length penalty and a number of threads that cannot work. Raises UserError."""
    if not 1 <= args.beam <= WIDEST:
        raise UserError(f"beam is {args.beam}, but must be at least 1 and at most {WIDEST}.")
    if not abs(args.length_penalty) <= 10:
        raise UserError(
            f"length_penalty is {args.length_penalty}, but must be between -10 and 10; 0.6 and 1 are usual."
        )
    if not 0 <= args.threads <= MOST_THREADS:
        raise UserError(f"threads is {args.threads}, but must be at least 0 and at most {MOST_THREADS}.")


def check(args: argparse.Namespace) -> None:
    """Refuses what cannot work. Raises UserError."""
    check_search(args)
    if not 1 <= args.n_best <= args.beam:
        raise UserError(f"n_best is {args.n_best}, but must be at least 1 and at most beam, {args.beam}; raise --beam.")
    if args.dataset is not None and args.evaluate is None:
        raise UserError("--dataset is for --evaluate alone; leave it out.")
    if args.evaluate is not None and (args.sentence or args.attention or args.n_best > 1):
        raise UserError("--evaluate scores the best translation of a split; leave sentence, --attention, --n-best out.")
    if args.attention and args.attention.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"The picture {args.attention} is to end in .png, .pdf or .svg.")
    if args.attention and len(args.sentence) != 1:
        raise UserError(f"--attention draws one sentence, but {len(args.sentence)} are given; put it in quotes.")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)  # lets sentences stand before, between and behind the options
    try:
        check_streams()
        check(args)
        if hasattr(sys.stdout, "reconfigure"):  # a notebook's is no file
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        search = Search(args.beam, args.length_penalty, args.n_best)
        translator = Translator(args.run, args.checkpoint, args.device, args.threads, search)
        if args.evaluate is not None:
            if args.dataset is not None:
                translator.move_corpus(args.dataset)
            show_evaluation(translator, args.run, args.evaluate)
        elif args.attention:
            draw_attention(*translator.attention(args.sentence[0]), args.attention)
            show(translator, args.sentence)
            print(f"picture: {args.attention}")
        elif args.sentence:
            if len(args.sentence) > 1 and not any(" " in sentence.strip() for sentence in args.sentence):
                print("note: each is translated alone; words of one sentence belong in quotes", file=sys.stderr)
            show(translator, args.sentence)
        elif sys.stdin is None:
            raise UserError("Standard input must be open, unless a sentence is given.")
        elif sys.stdin.isatty() and sys.stdout.isatty():
            converse(translator)
        else:
            stream(translator)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        cause = (str(error) or type(error).__name__).splitlines()[0]
        print(f"error: The memory is full ({cause}). Stop what else uses it, or take --device cpu.", file=sys.stderr)
        return 2
    except OSError as error:
        give_up_output()
        if isinstance(error, BrokenPipeError):  # whoever read the output has enough
            return 0
        print(f"error: {error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
