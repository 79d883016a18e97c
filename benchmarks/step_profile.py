"""Where a training step goes: milliseconds by operator, in fp32 and in bf16."""

from __future__ import annotations

from torch.profiler import profile

import rivals
from common import Bench, Tables, Values
from histo.model.device import keep_memory

STEPS, SMALLEST = 5, 0.01
"""Steps of one measurement; operators with a smaller share of the step make up the rest."""


def step_profile(bench: Bench, arch: str) -> Tables:
    """The bare loop over one batch of 32 patches, by torch.profiler: each operator without those it calls."""
    keep_memory()
    learn = bench.learner(bench.data.first(160), arch, None, batch_size=32)
    batch = learn.dls.train.one_batch()
    timed = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    tables: Tables = {}
    for precision in ("fp32", "bf16"):
        rivals.bare_steps(learn.model, batch, STEPS, precision)  # to warm up
        found: list[dict[str, float]] = []
        for _ in range(bench.rounds):
            with profile() as events:
                rivals.bare_steps(learn.model, batch, STEPS, precision)
            times = {each.key: getattr(each, timed) for each in events.key_averages()}
            found.append({name: time / STEPS / 1000 for name, time in times.items()})
        tables[f"a step of {arch} in {precision}, ms"] = by_operator(found)
    return tables


def by_operator(found: list[dict[str, float]]) -> Values:
    """The whole step and its operators, the longest first, over the rounds."""
    whole = [sum(times.values()) for times in found]
    long = [name for name, time in found[0].items() if time >= SMALLEST * whole[0]]
    long.sort(key=found[0].__getitem__, reverse=True)
    rows = {"the whole step": whole}
    rows |= {name: [times.get(name, 0.0) for times in found] for name in long}
    rest = [
        total - sum(times.get(name, 0.0) for name in long)
        for total, times in zip(whole, found, strict=True)
    ]
    return {**rows, "the rest": rest}
