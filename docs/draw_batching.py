"""Draws docs/batching.png: what fixed, dynamic and uniform batching feed to the model.

    python docs/draw_batching.py

Target batches of eight sentences, for uniform on average, of the bundled sample under each batching; a coloured cell
holds a word, a grey one is padding that the model computes for nothing.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from config import preset
from dataset import RandomBatches, prepare
from smart_batching_dataset import UniformBatches

ROWS, HEIGHT, WIDTH = 8, 53, 48


def draw(axis, dataset, plan, title: str) -> None:
    """As many batches as fit, from top to bottom, as wide as the model's matrix and as high as they have sentences."""
    picture = np.full((HEIGHT, WIDTH), 2)
    top = k = 0
    while top < HEIGHT:
        lengths = dataset.target_lengths[plan[k]]
        for line, length in zip(picture[top:], lengths, strict=False):
            line[: lengths.max() if plan.shapes is None else plan.shapes[k, 1]] = 1
            line[:length] = 0
        top, k = top + len(lengths) + 1, k + 1
    axis.imshow(picture, aspect="auto", cmap=ListedColormap(["#2a7ab9", "#cfcfcf", "#ffffff"]), interpolation="nearest")
    axis.set_title(f"{title}: {plan.padding(dataset):.0%} padding", fontsize=11)
    axis.set(xticks=[], yticks=[])


def main() -> None:
    data = prepare(preset("demo", seq_len=WIDTH)).train
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), constrained_layout=True)
    draw(axes[0], data, RandomBatches(data, ROWS, width=WIDTH).plan(0), "fixed")
    draw(axes[1], data, RandomBatches(data, ROWS).plan(0), "dynamic")
    draw(axes[2], data, UniformBatches(data, ROWS).plan(0), "uniform")
    figure.supxlabel("position in the sentence; blue holds a word, grey is padding", fontsize=9)
    figure.savefig(HERE / "batching.png", dpi=80)


if __name__ == "__main__":
    main()
