"""histo: from a folder of histology patches to a judged, portable classifier."""

__version__ = "0.1.0"
