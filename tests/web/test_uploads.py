"""ZIPs of patches over HTTP, and what a hostile one cannot do."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from tests.web.conftest import client_of


@pytest.fixture
def patch(dataset) -> bytes:
    """A patch that the bundle takes."""
    return next(iter(sorted((dataset / "train").iterdir()))).read_bytes()


def zip_of(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of named files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return file.getvalue()


def asked(client, *uploads: tuple[str, bytes]):
    """The answer to a request with these files."""
    return client.post("/api/predict", files=[("files", upload) for upload in uploads])


def refused(answer) -> str:
    """Why a request is refused."""
    assert answer.status_code in (413, 422), answer.text
    return str(answer.json()["detail"])


def test_the_patches_of_a_zip_are_predicted(client, patch):
    """By their names in it; other files, and what macOS adds, are passed over."""
    names = {"some/a.tif": patch, "notes.txt": b"x", "__MACOSX/some/._a.tif": b"x", "b.TIF": patch}
    found = asked(client, ("p.zip", zip_of(names)), ("c.tif", patch)).json()["predictions"]
    assert [each["id"] for each in found] == ["some/a.tif", "b", "c"]
    assert len({str(each["probabilities"]) for each in found}) == 1


def test_a_zip_of_too_many_patches_is_refused(client, patch):
    """Also where several ZIPs hold too many together, or one lists a million names."""
    many = zip_of({f"{n}.tif": b"" for n in range(1001)}, zipfile.ZIP_STORED)
    assert "more than 1,000 patches" in refused(asked(client, ("p.zip", many)))
    half = [zip_of({f"{k}{n}.tif": b"" for n in range(600)}) for k in "ab"]
    answer = asked(client, ("a.zip", half[0]), ("b.zip", half[1]))
    assert "more than 1,000 patches" in refused(answer)
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    names = (entry + b"a") * 100_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(names), 0, 0)
    assert "more than 1,000 patches" in refused(asked(client, ("p.zip", names + end)))
    far = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1) + end
    assert "not a ZIP" in refused(asked(client, ("p.zip", names + far)))


def test_a_zip_that_unpacks_to_too_much_is_refused(client, monkeypatch):
    """One large member by the bound of an image, several by that of a request, several ZIPs too."""
    zeros = bytes(200_000)
    monkeypatch.setenv("HISTO_MAX_IMAGE_BYTES", "100000")
    assert "HISTO_MAX_IMAGE_BYTES" in refused(asked(client, ("p.zip", zip_of({"a.tif": zeros}))))
    monkeypatch.setenv("HISTO_MAX_IMAGE_BYTES", "300000")
    monkeypatch.setenv("HISTO_MAX_UPLOAD_BYTES", "500000")
    bomb = zip_of({f"{n}.tif": zeros for n in range(3)})
    assert len(bomb) < 5000
    assert "HISTO_MAX_UPLOAD_BYTES" in refused(asked(client, ("p.zip", bomb)))
    two = [(f"{k}.zip", zip_of({f"{k}{n}.tif": zeros for n in range(2)})) for k in "ab"]
    assert "unpacked" in refused(asked(client, *two))


def test_what_a_zip_says_of_its_sizes_is_not_believed(client, monkeypatch):
    """A member that says it is small, and unpacks to much."""
    monkeypatch.setenv("HISTO_MAX_IMAGE_BYTES", "100000")
    data = bytearray(zip_of({"a.tif": bytes(200_000)}))
    for at in (data.index(b"PK\1\2") + 24, data.index(b"PK\3\4") + 22):
        data[at : at + 4] = struct.pack("<I", 10)
    answer = asked(client, ("p.zip", bytes(data)))
    if answer.status_code == 200:
        assert answer.json()["predictions"][0]["error"]
    else:
        refused(answer)


def of_lzma(data: bytearray) -> None:
    """Damage what is packed."""
    at = data.index(b"a.png") + 17
    data[at : at + 20] = b"\xff" * 20


def of_name(data: bytearray) -> None:
    """A name that is said to be UTF-8 and is not."""
    for start, flags in ((data.index(b"PK\3\4"), 6), (data.index(b"PK\1\2"), 8)):
        data[start + flags + 1] |= 8
    data[:] = data.replace(b"a.png", b"\xff.png")


@pytest.mark.parametrize("damage", [of_lzma, of_name])
def test_a_zip_that_is_damaged_within_is_said(client, damage):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("a.png", bytes(1000))
    data = bytearray(file.getvalue())
    damage(data)
    answer = client.post("/api/predict", files={"files": ("x.zip", bytes(data))})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "x.zip is not a ZIP that can be read"


def test_zips_in_zips_are_not_unpacked(client, patch):
    """Nor is one without patches an answer."""
    inner = zip_of({"a.tif": patch})
    assert "holds no patches" in refused(asked(client, ("p.zip", zip_of({"inner.zip": inner}))))
    found = asked(client, ("p.zip", zip_of({"inner.zip": inner, "b.tif": patch}))).json()
    assert [each["id"] for each in found["predictions"]] == ["b"]
    disguised = asked(client, ("p.zip", zip_of({"c.tif": inner}))).json()["predictions"]
    assert disguised[0]["error"]


def test_names_that_lead_away_are_names_and_nothing_is_written(folder, patch):
    """Neither beside the folder nor in it, whatever the names say."""
    before = sorted(folder.parent.rglob("*"))
    names = ["../../up.tif", "/etc/up.tif", "C:\\up.tif", "a/../../../up.tif"]
    with client_of(folder) as client:
        for name in names:
            asked(client, ("p.zip", zip_of({name: patch})))
            asked(client, (name, patch))
        refused(asked(client, ("p.zip", zip_of({"new\nline.tif": patch}))))
        refused(asked(client, ("p.zip", zip_of({"x" * 2000 + ".tif": patch}))))
    assert sorted(folder.parent.rglob("*")) == before
    assert not Path("/etc/up.tif").exists()


@pytest.mark.parametrize("keep", [0, 10, 30, 200])
def test_a_damaged_zip_is_said(client, patch, keep):
    """Cut anywhere, or encrypted, or no ZIP at all."""
    whole = zip_of({"a.tif": patch, "b.tif": patch})
    assert "not a ZIP" in refused(asked(client, ("p.zip", whole[:keep])))
    assert "not a ZIP" in refused(asked(client, ("p.zip", b"PK" + bytes(keep))))
    locked = bytearray(whole)
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        locked[locked.index(mark) + place] |= 1
    assert "not a ZIP" in refused(asked(client, ("p.zip", bytes(locked))))
