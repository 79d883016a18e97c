"""A training run: made, recorded, gone on with, alone or in folds."""
