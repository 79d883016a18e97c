"""Figures for Prometheus: of requests and batches, and nothing of what they hold."""

from __future__ import annotations

import threading
import time
from collections import Counter

from histo.web.guard import App, Message, Receive, Scope, Send

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""


class Metrics:
    """Counts, for several threads. Labels are routes as the code has them, never what was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[float] = Counter()
        self._sum, self._count = 0.0, 0
        self._batches = self._patches = 0
        self._began = time.time()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; the seconds of predictions alone go into the histogram."""
        with self._lock:
            self._requests[method, route, status] += 1
            if route == "/api/predict":
                self._sum += seconds
                self._count += 1
                for bound in BUCKETS:
                    self._seconds[bound] += seconds <= bound

    def batch(self, patches: int) -> None:
        """Count a batch."""
        with self._lock:
            self._batches += 1
            self._patches += patches

    def text(self, inside: int, making: bool) -> str:
        """In Prometheus' text format."""
        name = "histo_predict_seconds"
        with self._lock:
            lines = ["# TYPE histo_requests_total counter"]
            for (method, route, status), count in sorted(self._requests.items()):
                labels = f'method="{method}",route="{route}",status="{status}"'
                lines.append(f"histo_requests_total{{{labels}}} {count}")
            lines.append(f"# TYPE {name} histogram")
            lines += [f'{name}_bucket{{le="{b:g}"}} {self._seconds[b]}' for b in BUCKETS]
            lines.append(f'{name}_bucket{{le="+Inf"}} {self._count}')
            lines += [f"{name}_sum {self._sum:.6f}", f"{name}_count {self._count}"]
            counters = {"histo_patches_total": self._patches, "histo_batches_total": self._batches}
            gauges = {
                "histo_requests_waiting": inside,
                "histo_map_under_way": int(making),
                "histo_start_time_seconds": round(self._began),
            }
        for kind, found in (("counter", counters), ("gauge", gauges)):
            for each, value in found.items():
                lines += [f"# TYPE {each} {kind}", f"{each} {value}"]
        return "\n".join(lines) + "\n"


class Measured:
    """ASGI middleware that counts each request when it ends."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
            self.metrics.request(method, route, status, time.monotonic() - began)
