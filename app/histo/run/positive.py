"""Which of two classes is the positive one: given, found by its name, or not known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from histo.errors import HistoError, Way

Source = Literal["given", "found", "bundle", "before", "unknown"]
"""By the user; by the names of the classes; by a bundle; as histo took it before it kept this; not."""

NEGATIVE = {
    *("normal", "benign", "healthy", "control", "controls", "background", "negative", "neg"),
    *("adenoma", "unaffected", "wildtype", "noncancerous", "absent", "free"),
}
"""A name that holds one of these words is the negative class, whatever the other is."""
ONLY_NEGATIVE = {"0", "-1", "no", "n", "false", "f", "none", "wt", "mss", "without"}
"""The same, where it is the whole name."""
POSITIVE = {
    *("positive", "pos", "tumor", "tumour", "tumors", "tumours", "tumoral", "tumorous"),
    *("malignant", "malignancy", "cancer", "cancerous", "carcinoma", "adenocarcinoma"),
    *("metastasis", "metastases", "metastatic", "abnormal", "diseased", "present"),
}
"""A name that holds one of these words is the positive class, unless both do."""
DISEASE = re.compile(r"(carcinoma|sarcoma|lymphoma|melanoma|glioma|blastoma)s?")
"""The ends of words that name a disease, and count as positive too."""
NOT = {"non", "not", "no", "without"}
NAMES = {"small", "hodgkin", "hodgkins"}
"""Diseases whose names begin with "non"."""


@dataclass(frozen=True)
class Positive:
    """The positive class of two: its name, its place in the vocab, and how that is known."""

    name: str
    index: int
    source: Source
    vocab: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether a threshold or a submission may depend on it."""
        return self.source != "unknown"

    def __str__(self) -> str:
        """For a person: `'tumor' (found: normal, tumor)`."""
        how = {
            "given": "given",
            "found": f"found: {', '.join(self.vocab)}",
            "bundle": "as the bundle says",
            "before": "the second class, as histo took it before it kept this",
            "unknown": "the second class: which is positive is not known",
        }
        return f"'{self.name}' ({how[self.source]})"

    def as_entry(self) -> dict[str, str | None]:
        """As an entry of config.json, which `recorded_positive` reads."""
        return {"value": self.name if self.known else None, "source": self.source}

    def needed_for(self, what: str) -> None:
        """HistoError where something depends on the positive class and it is not known."""
        if not self.known:
            raise HistoError(
                f"{what} depends on the positive class, which is not known", *self.ways
            )

    @property
    def ways(self) -> tuple[Way, ...]:
        """The way out where it is not known, or may be another; none where it is certain."""
        first, second = (repr(name) for name in self.vocab)
        if self.source == "before":
            return (f"give {{positive}} if it is {first}",)
        return () if self.known else (f"give {{positive}}: {first} or {second}",)


def choose_positive(vocab: Sequence[str], given: str | None = None) -> Positive | None:
    """The positive class as given, else as the names say, else the second; None of many classes.

    HistoError where `given` is no class, or there are not two.
    """
    if len(vocab) != 2:
        if given is not None:
            raise HistoError(
                f"there are {len(vocab)} classes: a positive class is one of two",
                "leave {positive} out",
            )
        return None
    if given is not None and given not in vocab:
        raise HistoError(
            f"the positive class {given!r} is no class: there are {vocab[0]!r} and {vocab[1]!r}",
            "give {positive} one of them",
        )
    if given is not None:
        return _of(vocab, given, "given")
    found = find_positive(*vocab)
    return _of(vocab, vocab[1], "unknown") if found is None else _of(vocab, found, "found")


def recorded_positive(
    vocab: Sequence[str], record: Mapping[str, Any], given: str | None = None
) -> Positive | None:
    """The positive class of a run, by the entries of its config.json; `given` overrules them.

    Runs of histo before 0.2 do not say: there it is the second class, as it was then.
    """
    if given is not None or len(vocab) != 2:
        return choose_positive(vocab, given)
    entry = record.get("positive")
    if not isinstance(entry, dict):
        return _as_before(vocab)
    if entry.get("value") not in vocab:
        return choose_positive(vocab)
    known: dict[str, Source] = {"given": "given", "bundle": "bundle", "before": "before"}
    return _of(vocab, entry["value"], known.get(str(entry.get("source")), "found"))


def bundle_positive(
    vocab: Sequence[str], name: str | None, old: bool, given: str | None = None
) -> Positive | None:
    """The positive class of a bundle that names it, or does not; an `old` one never does.

    HistoError where another than the bundle's is given: its threshold is one for the bundle's.
    """
    if len(vocab) != 2 or (name is None and given is not None):
        return choose_positive(vocab, given)
    if name is None:
        return _as_before(vocab) if old else choose_positive(vocab)
    if given not in (None, name):
        raise HistoError(
            f"the positive class of this bundle is {name!r}, not {given!r}",
            "leave {positive} out",
        )
    return _of(vocab, name, "bundle")


def _as_before(vocab: Sequence[str]) -> Positive:
    """The second class; where its name says the same, it is found."""
    return _of(vocab, vocab[1], "found" if find_positive(*vocab) == vocab[1] else "before")


def find_positive(first: str, second: str) -> str | None:
    """The positive one of two names where that is obvious, in either order and any case; else None."""
    sides = _side(first, second), _side(second, first)
    if sides in ((-1, 0), (-1, 1), (0, 1)):
        return second
    if sides in ((0, -1), (1, -1), (1, 0)):
        return first
    return None


def _of(vocab: Sequence[str], name: str, source: Source) -> Positive:
    return Positive(name, list(vocab).index(name), source, tuple(vocab))


def _side(name: str, other: str) -> int:
    """-1 for the name of a negative class, 1 for that of a positive one, 0 for what is neither."""
    whole = name.casefold().strip()
    if whole in ONLY_NEGATIVE or whole.endswith(("(-)", "-", "\N{MINUS SIGN}")):
        return -1
    if whole.endswith("+") or whole.endswith("(+)"):
        return 1
    words, others = _words(whole), _words(other.casefold())
    denied = False
    if len(words) > 1 and words[0] in NOT and words[1] not in NAMES:
        words, denied = words[1:], True
    elif len(words) == 1 and words[0].startswith("non") and words[0][3:] in {*POSITIVE, *others}:
        words, denied = [words[0][3:]], True
    side = _side_of_words(words)
    if denied:
        return 1 if side == -1 else -1 if side == 1 or words == others else 0
    return side


def _side_of_words(words: list[str]) -> int:
    if not NEGATIVE.isdisjoint(words):
        return -1
    return int(not POSITIVE.isdisjoint(words) or any(DISEASE.search(word) for word in words))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)
