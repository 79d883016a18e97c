"""Tests of histo.training."""
