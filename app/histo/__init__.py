"""histo: from a folder of histology patches to a judged, portable classifier."""

__version__ = "0.2.0"
