"""Writes a corpus in which the translations that runs make together stand beside the references.

    python benchmarks/distil.py ../own runs/de-0 runs/de-1 --beam 5 --length-penalty 1.8
    python train.py --preset quality --dataset ../own --begin-with runs/de-0 --max-lr 1e-3 --epochs 8 …

Several runs are one translator: their probabilities of the next word are averaged (an ensemble), and it translates
better than any of them. A model that goes on learning from what it writes, with the references kept, gains from it
at the size and speed of one: sequence-level knowledge distillation (Kim & Rush 2016) from an ensemble (Freitag et
al. 2017). The training part is that of the runs, as it is, and once more with the translations for targets; what the
runs held out is the validation part, and other splits stay what they are.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from command import command
from datasets import Dataset
from torch import Tensor, nn
from tqdm import tqdm

from config import UserError
from corpus import VALIDATION_SPLITS, load_corpus
from decoding import Search
from model import Cache, Transformer
from translate import LINES_AT_ONCE, Translator, check_search


class Ensemble(nn.Module):
    """Several models as one that decoding.beam_search takes. The encoders' outputs stand in a list, keys and values one
    model's layers after another's, hidden states side by side, (B, T, M x D).
    """

    def __init__(self, models: list[Transformer]):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.positions = min(model.positions for model in models)
        ends = list(itertools.accumulate(len(model.decoder) for model in models))
        self.layers = [slice(end - len(model.decoder), end) for model, end in zip(models, ends, strict=True)]
        self.widths = [model.projection.in_features for model in models]

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    def encode(self, source: Tensor) -> tuple[list[Tensor], Tensor]:
        encoded, masks = zip(*(model.encode(source) for model in self.models), strict=True)
        return list(encoded), masks[0]

    def memory(self, encoded: list[Tensor]) -> Cache:
        return [pair for model, x in zip(self.models, encoded, strict=True) for pair in model.memory(x)]

    def decode(self, target: Tensor, memory: Cache, mask: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        hidden, present = [], []
        for model, own in zip(self.models, self.layers, strict=True):
            states, cache = model.decode(target, memory[own], mask, past and past[own])
            hidden.append(states)
            present += cache
        return torch.cat(hidden, dim=-1), present

    def projection(self, hidden: Tensor) -> Tensor:
        """The logarithm of the mean probability, up to a constant that makes no difference to a softmax."""
        each = zip(self.models, hidden.split(self.widths, dim=-1), strict=True)
        return torch.stack([model.projection(x).float().log_softmax(-1) for model, x in each]).logsumexp(0)


def together(translators: list[Translator]) -> Translator:
    """A translator that asks all the models. Raises UserError where they do not know the same words."""
    words = [[tokenizer.to_str() for tokenizer in translator.tokenizers] for translator in translators]
    if words.count(words[0]) < len(words):
        raise UserError("The runs have different vocabularies; give those of one corpus, seed and kind of tokenizer.")
    translators[0].model = Ensemble([translator.model for translator in translators])
    return translators[0]


def distilled(translator: Translator) -> tuple[list[str], list[str]]:
    """Sources and targets: the pairs of the training part, and its sources once more with their translations."""
    sources, references = (list(side) for side in zip(*translator.part("train")[0], strict=True))
    lots = tqdm(range(0, len(sources), LINES_AT_ONCE))
    translations = [text for start in lots for text in translator(sources[start : start + LINES_AT_ONCE])]
    return sources + sources, references + translations


def write(folder: Path, split: str, languages: tuple[str, str], sides) -> None:
    rows = [{"translation": dict(zip(languages, pair, strict=True))} for pair in zip(*sides, strict=True)]
    Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    print(f"{split}: {len(rows):,} pairs", flush=True)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make; train.py takes it as --dataset")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that were trained on the same sentences")
    parser.add_argument("--checkpoint", choices=("best", "last", "average"), default="best")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    check_search(args)
    if args.out.exists():
        raise UserError(f"{args.out} is there already. Choose another folder, or delete it.")
    search = Search(args.beam, args.length_penalty)
    runs = [Translator(run, args.checkpoint, threads=args.threads, search=search) for run in args.runs]
    if len({run.corpus["training"] for run in runs}) > 1:
        raise UserError("The runs were not trained on the same sentences; give those of one corpus and one split.")
    translator = together(runs)
    config = translator.config
    languages = config.source_language, config.target_language
    folder = args.out / "-".join(languages)
    folder.mkdir(parents=True)  # now, so that a place where it cannot be made costs nothing
    parts = {"train": distilled(translator)}
    for split in sorted({"validation", *load_corpus(config)} - {"train", *VALIDATION_SPLITS[1:]}):
        parts[split] = zip(*translator.part(split)[0], strict=True)
    for split, sides in parts.items():
        write(folder, split, languages, sides)
    # By the names of files alone, `datasets` would take a split "test_2017" for one more file of "test".
    files = [{"split": split, "path": f"{folder.name}/{split}-*"} for split in parts]
    card = {"configs": [{"config_name": folder.name, "data_files": files}]}
    (args.out / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
