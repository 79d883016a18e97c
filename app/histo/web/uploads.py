"""The form of `POST /api/predict`, read within bounds."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile

from histo.data.ids import SUFFIXES
from histo.errors import HistoError
from histo.files.arrays import DAMAGED
from histo.files.limits import IMAGE_BYTES, MB, NAME
from histo.web.guard import UPLOAD_BYTES

FILES = 1000
"""Most files of one request."""
DIRECTORY_BYTES = 4 * MB
"""Of a ZIP's list of members: enough for 1,000 patches, and as many other files, of long names."""
END, END64 = b"PK\5\6", b"PK\6\7"
"""What the end of a ZIP begins with, and what stands before it in a ZIP64."""
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Upload:
    """A file that was sent, and the name it came under."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Asked:
    """A bundle, and the patches to predict with it."""

    bundle: str
    uploads: list[Upload]
    tta: bool
    thumbnails: bool
    looked: bool


async def read_form(request: Request) -> Asked:
    """What a request asks for; the files that it sends are deleted when this ends."""
    try:
        form = await request.form(max_files=FILES, max_fields=10, max_part_size=4096)
    except FormParserError as error:  # which Starlette 1.3 lets through
        raise HTTPException(400, "Invalid multipart data.") from error
    try:
        files = [each for each in form.getlist("files") if isinstance(each, UploadFile)]
        if not files:
            raise HistoError("no files were sent: give them in the field files")
        sent = [await read_upload(file) for file in files]
        packed = any(is_zip(upload.name) for upload in sent)
        uploads = await asyncio.to_thread(unpacked, sent) if packed else unpacked(sent)
        names = {upload.name for upload in uploads}
        if len(names) < len(uploads):
            raise HistoError("two files have one name: send them with their folders, or apart")
        fields = ("bundle", "tta", "thumbnails", "looked")
        bundle, *flags = (str(form.get(name) or "") for name in fields)
        return Asked(bundle, uploads, *(flag.lower() in YES for flag in flags))
    finally:
        await form.close()


async def read_upload(file: UploadFile) -> Upload:
    """One file, whose name is a label and never a path on this machine."""
    name = checked_name(file.filename or "")
    if not is_zip(name):
        IMAGE_BYTES.check(file.size or 0, name)
    return Upload(name, await file.read())


def checked_name(given: str) -> str:
    """A name with plain separators; HistoError where it cannot be shown."""
    name = given.replace("\\", "/")
    if not name or len(name) > 5 * NAME or not name.isprintable():
        raise HistoError("a file has no name, or one that cannot be printed")
    return name


def is_zip(name: str) -> bool:
    """Whether a file is to be unpacked."""
    return name.lower().endswith(".zip")


def unpacked(sent: list[Upload]) -> list[Upload]:
    """The files, those in ZIPs in place of these; HistoError where there are too many, or too large."""
    found: list[Upload] = []
    for upload in sent:
        found += members(upload) if is_zip(upload.name) else [upload]
        if len(found) > FILES:
            raise HistoError(f"more than {FILES:,} patches in one request")
    if sum(len(each.data) for each in found) > UPLOAD_BYTES.value:
        raise HistoError(f"unpacked, the files have more than {UPLOAD_BYTES.value:,} bytes")
    if not found:
        raise HistoError("the ZIP holds no patches")
    return found


def members(upload: Upload) -> Iterator[Upload]:
    """The images in a ZIP; what a ZIP says of their sizes is not believed."""
    total = 0
    check_directory(upload)
    try:
        with zipfile.ZipFile(io.BytesIO(upload.data)) as packed:
            for info in packed.infolist():
                if info.is_dir() or not info.filename.lower().endswith(SUFFIXES):
                    continue
                if info.filename.startswith("__MACOSX/"):  # what macOS adds
                    continue
                name = checked_name(info.filename)
                with packed.open(info) as file:
                    data = file.read(IMAGE_BYTES.value + 1)
                IMAGE_BYTES.check(len(data), name)
                total += len(data)
                UPLOAD_BYTES.check(total, upload.name)
                yield Upload(name, data)
    except DAMAGED:
        raise HistoError(f"{upload.name} is not a ZIP that can be read") from None


def check_directory(upload: Upload) -> None:
    """Refuse a ZIP whose list of members is long: it takes many times its bytes once it is read.

    Of ZIP64, which no file of this size needs, the list would be looked for elsewhere.
    """
    data = upload.data
    plain_end = data[-22:-18] == END and data[-2:] == b"\0\0"
    at = len(data) - 22 if plain_end else data.rfind(END, max(0, len(data) - 22 - 0xFFFF))
    if at < 0 or len(data) < at + 22 or data[at - 20 : at - 16] == END64:
        raise HistoError(f"{upload.name} is not a ZIP that can be read")
    if int.from_bytes(data[at + 12 : at + 16], "little") > DIRECTORY_BYTES:
        raise HistoError(f"{upload.name}: more than {FILES:,} patches in one request")


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
                            "files": {
                                **files,
                                "description": "TIF, PNG, JPEG, BMP, WebP, or ZIPs of these.",
                            },
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
                            "looked": {
                                **flag,
                                "description": "Say where the model looked, of the first 16.",
                            },
                        },
                    }
                }
            },
        }
    }
