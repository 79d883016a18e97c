"""What a temperature fitted on one half of the validation patches does to the other half."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from histo.report.calibration import fit_temperature, reliability
from histo.report.metrics import log_loss
from histo.run.calls import apply_temperature
from histo.run.predictions import Predictions, read_predictions

HALVINGS = 20


def halves(table: Predictions) -> np.ndarray:
    """A row a halving: temperature, log loss before and after, calibration error before and after."""
    split = StratifiedShuffleSplit(HALVINGS, test_size=0.5, random_state=0)
    rows = []
    for fit, judge in split.split(table.labels, table.labels):
        temperature = fit_temperature(table.labels[fit], table.probabilities[fit])
        labels, before = table.labels[judge], table.probabilities[judge]
        both = (before, apply_temperature(before, temperature))
        losses = [log_loss(labels, each) for each in both]
        rows.append([temperature, *losses, *(reliability(labels, each).error for each in both)])
    return np.array(rows)


def main() -> None:
    """Print the medians of each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, with predictions.csv")
    for run in parser.parse_args().runs:
        rows = halves(read_predictions(run / "predictions.csv"))
        temperature, loss, scaled_loss, error, scaled_error = np.median(rows, axis=0)
        better = (rows[:, 2] < rows[:, 1]).sum(), (rows[:, 4] < rows[:, 3]).sum()
        print(
            f"{run}: temperature {temperature:.2f}; log loss {loss:.3f} to {scaled_loss:.3f}, "
            f"lower in {better[0]} of {HALVINGS}; calibration error {error:.3f} to "
            f"{scaled_error:.3f}, lower in {better[1]}"
        )


if __name__ == "__main__":
    main()
