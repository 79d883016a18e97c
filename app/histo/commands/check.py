"""`histo check`: read every label and every patch, and say what is wrong with them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from histo.ahead import map_ahead
from histo.config import DataConfig
from histo.data.labels import PatchIndex, Row, make_vocab, read_labels
from histo.data.patches import SHA1, pixel_sha1, read_patch
from histo.data.store import AHEAD, store_bytes, store_folder
from histo.errors import HistoError
from histo.screen import Screen

FEW = 5


class Findings:
    """What was found, said as it is found; `fatal` counts what training would fail at."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.fatal, self.notes = screen, 0, 0

    def add(self, what: str, items: list[str], fatal: bool) -> None:
        """Say a count and the first few, where there are any."""
        if not items:
            return
        self.fatal += fatal
        self.notes += not fatal
        self.screen.say(f"{'error' if fatal else 'note'}: {len(items):,} {what}")
        for item in items[:FEW]:
            self.screen.say(f"  {item}")
        if len(items) > FEW:
            self.screen.say(f"  … and {len(items) - FEW:,} more")


def check(config: DataConfig, screen: Screen) -> Findings:
    """Check labels against patches and decode every patch; says all that it finds."""
    found = Findings(screen)
    rows = read_labels(config.labels_csv, config.id_column, config.label_column)
    index = PatchIndex(config.images_folder)
    check_rows(rows, found)
    pairs = {row.id: index.find(row.id) for row in rows}
    found.add("labels without a patch", [i for i, path in pairs.items() if path is None], True)
    used = {path for path in pairs.values() if path is not None}
    unused = [path.name for path in index.paths if path not in used]
    found.add("patches without a label", unused, False)
    check_patches(index.paths, used, config, found)
    counts = Counter({row.id: row.label for row in rows}.values())
    screen.table(
        [["label", "patches", "share"]]
        + [
            [name, f"{counts[name]:,}", f"{100 * counts[name] / sum(counts.values()):.1f} %"]
            for name in make_vocab(list(counts))[:40]
        ]
    )
    return found


def check_rows(rows: list[Row], found: Findings) -> None:
    """Ids that come twice, and tables that cannot be split."""
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row.id].append(row)
    twice = {name: same for name, same in by_id.items() if len(same) > 1}

    def shown(agree: bool) -> list[str]:
        return [
            f"{name} (lines {', '.join(str(row.line) for row in same[:3])})"
            for name, same in twice.items()
            if (len({row.label for row in same}) == 1) == agree
        ]

    found.add("ids twice, with different labels", shown(False), True)
    found.add("ids twice, with the same label (train keeps one)", shown(True), False)
    counts = Counter(row.label for row in rows)
    if len(counts) < 2:
        found.add("class only: there is nothing to learn", list(counts), True)
    found.add("classes of one patch", [n for n, c in counts.items() if c == 1], True)


def check_patches(
    paths: Sequence[Path], used: set[Path], config: DataConfig, found: Findings
) -> None:
    """Decode every patch: what cannot be read, what is of another size, whose id is not its SHA-1."""

    def look(path: Path) -> tuple[Path, tuple[int, int] | None, str]:
        try:
            pixels = read_patch(path)
        except (HistoError, OSError) as error:
            return path, None, str(error)
        return path, (pixels.shape[1], pixels.shape[0]), pixel_sha1(pixels)

    sizes: dict[tuple[int, int], list[Path]] = defaultdict(list)
    unreadable: list[tuple[Path, str]] = []
    by_sha1: dict[str, list[Path]] = defaultdict(list)
    seen = map_ahead(look, paths, AHEAD, os.cpu_count() or 1)
    for path, size, said in found.screen.track(seen, "reading patches", len(paths)):
        if size is None:
            unreadable.append((path, said))
            continue
        sizes[size].append(path)
        by_sha1[said].append(path)
    found.add("patches that cannot be read", [s for p, s in unreadable if p in used], True)
    found.add(
        "unlabelled files that cannot be read", [s for p, s in unreadable if p not in used], False
    )
    mixed = Counter({size: sum(p in used for p in files) for size, files in sizes.items()})
    common = mixed.most_common(1)[0][0] if mixed else (0, 0)
    fits = config.size is not None or config.crop is not None
    odd = [f"{p.name}: {w}x{h} px" for (w, h), ps in sizes.items() if (w, h) != common for p in ps]
    what = f"patches not of {common[0]}x{common[1]} px (train with --size {common[0] or 96})"
    found.add(what, odd, not fits)
    if common[0] != common[1] and not fits:
        found.add(
            "size for most that is not square (train with --crop or --size)",
            ["x".join(map(str, common))],
            True,
        )
    double = [", ".join(p.name for p in ps[:3]) for ps in by_sha1.values() if len(ps) > 1]
    found.add("sets of files with the same pixels", double, False)
    named = [(p, s) for s, ps in by_sha1.items() for p in ps if SHA1.fullmatch(p.stem)]
    changed = [p.name for p, s in named if p.stem != s]
    found.add(
        f"of {len(named):,} files named by a SHA-1 that is not of their pixels", changed, False
    )
    if named and not changed:
        found.screen.say(f"all {len(named):,} ids are the SHA-1 of their pixels")
    say_store(config, len(used), config.size or config.crop or common[0], found.screen)


def say_store(config: DataConfig, patches: int, side: int, screen: Screen) -> None:
    """How large the store of decoded patches is, or will be."""
    folder = store_folder(config.data, config.store)
    there = store_bytes(folder, config.images_folder, config.crop, config.size)
    if there:
        screen.say(f"store: {there / 1e6:,.1f} MB in {folder}")
    else:
        will = patches * side * side * 3 / 1e6
        screen.say(f"store: none yet; training will make one of {will:,.1f} MB in {folder}")
