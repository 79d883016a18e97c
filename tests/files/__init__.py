"""Tests of histo.files."""
