"""OpenCV, loaded with its limits set: everything that uses it takes it from here or from decode."""

from __future__ import annotations

import os

from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS

# OpenCV reads both once, while it is imported, and would fill stderr with patients' file names.
_for_opencv = {IMAGE_PIXELS.name: str(IMAGE_PIXELS.default), "OPENCV_LOG_LEVEL": "SILENT"}
_for_opencv = {name: value for name, value in _for_opencv.items() if name not in os.environ}
os.environ.update(_for_opencv)
try:
    import cv2 as cv2  # noqa: PLC0414  (others take it from here, its limits set)
except ImportError as error:  # a machine without libGL
    raise HistoError(
        f"OpenCV does not load: {error} (install libgl1 and libglib2.0-0, or opencv-python-headless)"
    ) from None
finally:
    for _name in _for_opencv:
        del os.environ[_name]
