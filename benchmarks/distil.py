"""Writes a corpus in which runs' own translations of their training part stand beside the references.

    python benchmarks/distil.py ../own runs/teacher --beam 5 --length-penalty 1.8
    python train.py --dataset ../own …

A model that is trained on it learns from the references and from what a model makes of the same sentences, which is
plainer and more of a piece: sequence-level knowledge distillation (Kim & Rush 2016), with the references kept, as in
data diversification (Nguyen et al. 2020). The training part is that of the runs, as it is, and once more for each run
with its translations for targets; what the runs held out is the validation part, and other splits stay what they are.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets import Dataset
from tqdm import tqdm

from config import UserError
from corpus import load_corpus
from decoding import Search
from translate import LINES_AT_ONCE, Translator


def distilled(translators: list[Translator], split: str = "train") -> tuple[list[str], list[str]]:
    """Sources and targets: the pairs of a split and, for each translator, its sources with its translations."""
    pairs = translators[0].part(split)[0]
    sources, references = (list(side) for side in zip(*pairs, strict=True))
    targets = references
    for translator in translators:
        if translator.part(split)[0] != pairs:
            raise UserError("The runs were not trained on the same sentences; give those of one corpus and one seed.")
        lots = range(0, len(sources), LINES_AT_ONCE)
        targets = targets + [
            text for start in tqdm(lots) for text in translator(sources[start : start + LINES_AT_ONCE])
        ]
    return sources * (1 + len(translators)), targets


def write(folder: Path, split: str, languages: tuple[str, str], sides) -> None:
    rows = [{"translation": dict(zip(languages, pair, strict=True))} for pair in zip(*sides, strict=True)]
    Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    print(f"{split}: {len(rows):,} pairs", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make; train.py takes it as --dataset")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that were trained on the same sentences")
    parser.add_argument("--checkpoint", choices=("best", "last", "average"), default="best")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--length-penalty", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    try:
        if args.out.exists():
            raise UserError(f"{args.out} is there already. Choose another folder, or delete it.")
        search = Search(args.beam, args.length_penalty)
        runs = [Translator(run, args.checkpoint, threads=args.threads, search=search) for run in args.runs]
        config = runs[0].config
        languages = config.source_language, config.target_language
        parts = {"train": distilled(runs)}
        for split in sorted({"validation", *load_corpus(config)} - {"train"}):
            parts[split] = zip(*runs[0].part(split)[0], strict=True)
        folder = args.out / "-".join(languages)
        folder.mkdir(parents=True)
        for split, sides in parts.items():
            write(folder, split, languages, sides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
