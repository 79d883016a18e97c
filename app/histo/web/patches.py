"""The patches of a review, as pictures: only those of the review, and none outside what is served."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from histo.data.decode import read_patch, thumbnail_jpeg
from histo.data.patch_files import PatchIndex
from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.web.served import RUN, Served

SIDE = 512
"""Most px of a side of a picture."""
MISSING = "the patches are not in the folder that is served"


def real(path: Path) -> Path:
    """A path with its links resolved; one of a loop stays, where `resolve` may raise."""
    return Path(os.path.realpath(path))


class Patches:
    """Finds patches by id. The list of a folder's files is kept: a large folder takes a second."""

    def __init__(self, served: Served, images: Served | None = None) -> None:
        self._served, self._images = served, images
        self._lists: dict[Path, PatchIndex] = {}
        self._lock = threading.Lock()

    def picture(self, review: str, patch: str) -> bytes:
        """A patch as a JPEG; HistoError where it is not found or lies outside."""
        return thumbnail_jpeg(read_patch(self.find(review, patch)), SIDE)

    def find(self, review: str, patch: str) -> Path:
        """The file of a patch; HistoError where it is not found or lies outside."""
        folder = self.folder(review)
        with self._lock:
            if folder not in self._lists:
                self._lists[folder] = PatchIndex(folder)
            found = self._lists[folder].find(patch)
        if found is None or not self.is_served(real(found)):
            raise HistoError(MISSING)
        return found

    def folder(self, review: str) -> Path:
        """Where the patches of a review are: as the user says, or as its run says."""
        if self._images:
            return self._images.root
        run = self._served.inside(review).parent
        if not self.is_served(run) or not (run / RUN).is_file():
            raise HistoError(MISSING)
        said = Path(str(RunFolder(run).settings().get("images") or "/"))
        for place in (said, self._served.root / said):
            found = real(place)
            if found.is_dir() and self.is_served(found):
                return found
        raise HistoError(MISSING)

    def is_served(self, path: Path) -> bool:
        """Whether a path, its links resolved, is in the folder that is served, or that of the patches."""
        known = [self._served, *([self._images] if self._images else [])]
        return any(path.is_relative_to(each.root) for each in known)
