"""Tests of histo.model."""
