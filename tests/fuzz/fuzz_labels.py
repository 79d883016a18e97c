"""Any bytes are labels, groups, predictions or a HistoError: `just fuzz labels SECONDS`.

The first byte says as which of the three tables the others are read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["histo", "csv"]):
    from histo.data.groups import read_groups
    from histo.data.labels import read_labels
    from histo.errors import HistoError
    from histo.files.limits import is_name
    from histo.run.predictions import read_predictions

CORPUS = Path(__file__).parent / "corpus" / "labels"
FLAGS = ("-max_len=4096", "-rss_limit_mb=1000", "-timeout=20")
FILE = Path(tempfile.mkdtemp()) / "a.csv"
SEEDS = {
    "labels": b"\0id,label,split\na,0,train\nb.png,1,valid\n",
    "excel": b'\0sep=;\r\nid;label\r\na;tumour\r\n"b;c";normal\r\n',
    "utf16": b"\0" + "id\tlabel\na\t0\nb\t1\n".encode("utf-16"),
    "groups": b"\1id,slide\na,s1\nb,s2\n",
    "table": b"\2id,label,p_0,p_1\na,0,0.75,0.25\nb,1,0.5,0.5\n",
}


def read(data: bytes) -> None:
    """One input."""
    kind = data[:1]
    FILE.write_bytes(data[1:])
    try:
        if kind == b"\1":
            read_groups(str(FILE), "id")
        elif kind == b"\2":
            table = read_predictions(FILE)
            assert table.probabilities.shape == (len(table.ids), len(table.vocab))
        else:
            assert all(is_name(row.label) for row in read_labels(FILE, split_column="split"))
    except HistoError:
        return


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        (CORPUS / name).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], read)
    atheris.Fuzz()
