"""What can be seen of a run: its curves, and where its model looks. Needs matplotlib."""

import math
from pathlib import Path

from torch import Tensor

from config import Config, UserError
from run_folder import Record


def draw_curves(run: Path, config: Config, record: Record) -> Path | None:
    """Draws loss, learning rate and throughput into run/curves.png; None where matplotlib is not installed."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return None
    epochs, steps = record.epochs, record.steps
    figure, (loss, rate, speed) = plt.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    x = [row["epoch"] for row in epochs]
    loss.plot(x, [row["train_loss"] for row in epochs], "o-", label="training, smoothed")
    loss.plot(x, [row["train_nll"] for row in epochs], "o-", label="training, plain")
    loss.plot(x, [row["valid_nll"] for row in epochs], "s--", label="held out, plain")
    floor = epochs[-1]["label_smoothing_floor"]
    loss.axhline(config.target_loss, color="green", linewidth=1, label=f"target {config.target_loss}")
    loss.axhline(floor, color="grey", linewidth=1, linestyle=":", label=f"floor of the smoothed loss, {floor:.2f}")
    loss.xaxis.get_major_locator().set_params(integer=True)
    loss.set(xlabel="epoch", ylabel="nats a target token", title="loss, mean of the epoch", ylim=(0, None))
    loss.legend(fontsize=8)
    updates = [row["update"] for row in steps]
    rate.plot(updates, [row["lr"] for row in steps])
    rate.set(xlabel="update", title="learning rate")
    speed.plot(updates, [row["tokens_per_second"] for row in steps], linewidth=0.8)
    speed.set(xlabel="update", title="real target tokens a second", ylim=(0, None))
    figure.suptitle(run.name)
    path = run / "curves.png"
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path


def draw_attention(read: list[str], written: list[str], weights: Tensor, path: Path) -> None:
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
        axis.set_xticks(range(len(read)), read, rotation=90, fontsize=8, parse_math=False)
        axis.set_yticks(range(len(written)), written, fontsize=8, parse_math=False)
        axis.set_title(f"head {head + 1}", fontsize=9)
    figure.suptitle("columns: what was read; rows: what was written while looking there", fontsize=9)
    try:
        figure.savefig(path, dpi=90)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"The picture {path} cannot be written: {error}.") from error
    finally:
        plt.close(figure)
