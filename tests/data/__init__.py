"""Tests of histo.data."""
