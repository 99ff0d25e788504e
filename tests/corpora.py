"""Corpora on disk, in every form that train.py reads. Each function returns where it lies."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PAIRS = [(f"the cat number {i} sleeps", f"il gatto numero {i} dorme") for i in range(60)]


def write_jsonl(path, rows, nested=False) -> Path:
    objects = [{"en": en, "it": it} for en, it in rows]
    objects = [{"translation": o} for o in objects] if nested else objects
    path.write_text("".join(json.dumps(o) + "\n" for o in objects), encoding="utf-8")
    return path


def write_csv(path, rows) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("en", "it"), *rows])
    return path


def write_tsv(path, rows) -> Path:
    path.write_text("en\tit\n" + "".join(f"{en}\t{it}\n" for en, it in rows), encoding="utf-8")
    return path


def write_parquet(path, rows, nested=False) -> Path:
    columns = {"en": pa.array([en for en, _ in rows], pa.string()), "it": pa.array([it for _, it in rows], pa.string())}
    if nested:
        columns = {"translation": pa.StructArray.from_arrays(list(columns.values()), names=list(columns))}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def write_hub_folder(folder, shards=1, **splits) -> Path:
    """A folder in the Hub's layout: one configuration, en-it, with the given splits."""
    card = "---\nconfigs:\n- config_name: en-it\n  data_files:\n"
    for split, rows in splits.items():
        card += f"  - split: {split}\n    path: en-it/{split}-*\n"
        for k, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
            path = folder / "en-it" / f"{split}-{k:05}-of-{shards:05}.parquet"
            write_parquet(path, [rows[i] for i in part], nested=True)
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")
    return folder
