"""Tests of histo.shards."""
