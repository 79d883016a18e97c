"""Tests of histo.distributed."""
