"""Tests of histo.report."""
