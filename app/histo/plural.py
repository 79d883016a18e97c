"""Counts as a person writes them: 1 patch, 2,000 patches."""

from __future__ import annotations


def plural(word: str, count: int) -> str:
    """The word for a count of things."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith(("ch", "s", "x")) else f"{word}s"


def counted(count: int, word: str) -> str:
    """A count and the word for it."""
    return f"{count:,} {plural(word, count)}"
