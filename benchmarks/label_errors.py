"""How many of some labels flipped on purpose `histo review` finds, against ranking by loss alone."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from histo.report.label_errors import find_label_errors
from histo.run.predictions import read_predictions


def flipped(labels: list[str], share: float, seed: int) -> list[int]:
    """Rows drawn by the seed, `share` per cent of all."""
    count = round(len(labels) * share / 100)
    return sorted(np.random.default_rng(seed).choice(len(labels), count, replace=False).tolist())


def write_flipped(source: Path, out: Path, share: float, seed: int) -> set[str]:
    """Copy a CSV of ids and two labels with some labels flipped; returns the ids of those."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    vocab = sorted({row["label"] for row in rows})
    chosen = flipped([row["label"] for row in rows], share, seed)
    for row in (rows[n] for n in chosen):
        row["label"] = vocab[1 - vocab.index(row["label"])]
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([["id", "label"], *([row["id"], row["label"]] for row in rows)])
    return {rows[n]["id"] for n in chosen}


def found(run: Path, labels: Path) -> list[tuple[str, int, int]]:
    """For each way of suspecting: its name, how many it names, how many of those were flipped.

    `labels` are the labels as they were; those of the run differ from them where they were flipped.
    """
    table = read_predictions(run / "predictions.csv")
    with labels.open(encoding="utf-8", newline="") as file:
        true = {row["id"]: row["label"] for row in csv.DictReader(file)}
    given = (table.vocab[label] for label in table.labels)
    wrong = np.array([label != true[name] for name, label in zip(table.ids, given, strict=True)])
    own = table.probabilities[np.arange(len(table.ids)), table.labels]
    by_loss = np.argsort(own, kind="stable")  # log loss is -log of it: the same order
    by_margin = find_label_errors(table.labels, table.probabilities).rows
    rows = []
    for count in (25, 50, int(wrong.sum()), len(by_margin)):
        rows.append((f"histo review, first {count}", count, int(wrong[by_margin[:count]].sum())))
        rows.append((f"by loss, first {count}", count, int(wrong[by_loss[:count]].sum())))
    called = np.flatnonzero(table.probabilities.argmax(1) != table.labels)
    rows.append(("called otherwise than labelled", len(called), int(wrong[called].sum())))
    return rows


def main() -> None:
    """Write the flipped labels, or judge a run trained on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    flip = verbs.add_parser("flip", help="write a label CSV with some labels flipped")
    flip.add_argument("labels", type=Path)
    flip.add_argument("out", type=Path)
    flip.add_argument("--share", type=float, default=3, help="per cent  [default: 3]")
    flip.add_argument("--seed", type=int, default=0)
    judge = verbs.add_parser("judge", help="how many of the flipped a run's review finds")
    judge.add_argument("run", type=Path, help="of histo train --folds on the flipped labels")
    judge.add_argument("labels", type=Path, help="the labels as they were")
    given = parser.parse_args()
    if given.verb == "flip":
        print(f"{len(write_flipped(given.labels, given.out, given.share, given.seed))} flipped")
        return
    for name, count, right in found(given.run, given.labels):
        print(f"{name:35}{count:6} suspects{right:6} of them flipped ({100 * right / count:.0f} %)")


if __name__ == "__main__":
    main()
