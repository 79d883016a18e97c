"""Whole slides: reading, tissue, tiles, annotations, and the maps of a model."""
