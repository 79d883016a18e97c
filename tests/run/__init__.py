"""Tests of histo.run."""
