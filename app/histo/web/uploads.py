"""The form of `POST /api/predict`, read within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from histo.errors import HistoError
from histo.files.limits import IMAGE_BYTES, NAME
from histo.web.predicting import Upload

FILES = 1000
"""Most files of one request."""
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Asked:
    """A bundle, and the patches to predict with it."""

    bundle: str
    uploads: list[Upload]
    tta: bool
    thumbnails: bool


async def read_form(request: Request) -> Asked:
    """What a request asks for; the files that it sends are deleted when this ends."""
    form = await request.form(max_files=FILES, max_fields=10, max_part_size=4096)
    try:
        files = [each for each in form.getlist("files") if isinstance(each, UploadFile)]
        if not files:
            raise HistoError("no files were sent: give them in the field files")
        uploads = [await read_upload(file) for file in files]
        names = {upload.name for upload in uploads}
        if len(names) < len(uploads):
            raise HistoError("two files have one name: send them with their folders, or apart")
        bundle, *flags = (str(form.get(name) or "") for name in ("bundle", "tta", "thumbnails"))
        tta, thumbnails = (flag.lower() in YES for flag in flags)
        return Asked(bundle, uploads, tta, thumbnails)
    finally:
        await form.close()


async def read_upload(file: UploadFile) -> Upload:
    """One file, whose name is a label and never a path on this machine."""
    name = (file.filename or "").replace("\\", "/")
    if not name or len(name) > 5 * NAME or not name.isprintable():
        raise HistoError("a file has no name, or one that cannot be printed")
    IMAGE_BYTES.check(file.size or 0, name)
    return Upload(name, await file.read())


def form_schema() -> dict[str, Any]:
    """The form, as OpenAPI describes it."""
    flag = {"type": "boolean", "default": False}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": FILES}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["files"],
                        "properties": {
                            "files": {**files, "description": "TIF, PNG, JPEG, BMP or WebP."},
                            "bundle": {
                                "type": "string",
                                "description": "A name of /api/bundles; may be left out if there is one.",
                                "examples": ["run/export"],
                            },
                            "tta": {**flag, "description": "Average the eight D4 views."},
                            "thumbnails": {
                                **flag,
                                "description": "Send the patches back as JPEGs.",
                            },
                        },
                    }
                }
            },
        }
    }
