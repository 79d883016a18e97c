"""Tests of histo.slides."""
