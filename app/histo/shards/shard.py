"""One share of the patches, for one of several independent processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Shard:
    """Share `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4` is the second of four; ValueError says what is wrong."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None:
            raise ValueError(f"{text!r} is not I/N, such as 2/4")
        shard = cls(int(match[1]), int(match[2]))
        if not 1 <= shard.number <= shard.of:
            raise ValueError(
                f"{text} is none of 1/{shard.of} to {shard.of}/{shard.of}: count from 1"
            )
        return shard

    def block(self, count: int, batch_size: int) -> slice:
        """Rows of this share out of `count`: whole batches of the undivided list, in order.

        The last digits of a prediction may depend on its batch. As the batches are those of the
        undivided list, the joined parts equal the table of one process, byte for byte.
        """
        batches = -(-count // batch_size)
        first, last = (batches * n // self.of for n in (self.number - 1, self.number))
        return slice(first * batch_size, min(last * batch_size, count))

    def path(self, out: Path) -> Path:
        """The path of its part of the table `out`: `table.2-of-4.csv` for `table.csv`."""
        return out.with_name(f"{out.stem}.{self.number}-of-{self.of}{out.suffix}")

    def paths(self, out: Path) -> list[Path]:
        """The paths of all parts of the table `out`."""
        return [Shard(number + 1, self.of).path(out) for number in range(self.of)]

    def pattern(self, out: Path) -> Path:
        """The shell pattern that matches all parts of the table `out`."""
        return out.with_name(f"{out.stem}.*-of-{self.of}{out.suffix}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def whole_path(part: Path) -> Path:
    """The table that a part belongs to: `table.csv` for `table.2-of-4.csv`."""
    return part.with_name(re.sub(r"\.[0-9]+-of-[0-9]+(\.[^.]*)?$", r"\1", part.name))
