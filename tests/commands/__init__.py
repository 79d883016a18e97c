"""Tests of histo.commands."""
