"""How close to an API's limit caching comes, and whether it ever goes over. Writes build/limits.json.

    python -m bench.limits [--seconds 20]

A server on this machine enforces its limits itself: whoever sends more in any window of six seconds than a tenth of
what a minute allows is refused with 429. The teacher is told the limits. The rate is taken from the first request to
the last.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import deque

import numpy as np
import pandas as pd
from embedding_server import Server

from bench.__main__ import machine
from workbench import evaluate
from workbench._util import home, write_json
from workbench.cache import TargetCache
from workbench.data import Role, Text
from workbench.extras.api_teachers import ApiTeacher

WINDOW = 6.0  # seconds
BATCH = 32
LIMITS = (  # requests and tokens a minute (a whole number of requests each), seconds that an answer takes
    (300, None, 0.05),
    (1200, None, 0.3),
    (None, 320_000, 0.05),
    (None, 1_536_000, 0.3),
    (900, 640_000, 0.1),
)


class LimitedServer(Server):
    """Refuses what is over its limits, and takes its time for the rest."""

    def __init__(self, requests: float | None, tokens: float | None, latency: float) -> None:
        self.limits = requests, tokens
        self.latency, self.refused, self.served = latency, 0, deque()
        self._window = threading.Lock()
        super().__init__(lambda texts: np.ones((len(texts), 8), dtype=np.float32), "limited")

    def answer(self, request, body, texts):
        tokens, now = sum(len(text) // 4 for text in texts), time.monotonic()
        with self._window:
            recent = [(1, amount) for when, amount in self.served if now - when < WINDOW]
            used = np.array([*recent, (1, tokens)]).sum(axis=0)
            over = any(
                limit and u > limit * WINDOW / 60 + 1e-9
                for limit, u in zip(self.limits, used, strict=True)
            )
            if not over:
                self.served.append((now, tokens))
        if over:
            self.refused += 1
            return self.send(
                request, 429, {"error": {"message": "slow down"}}, **{"Retry_After": "1"}
            )
        time.sleep(self.latency)
        return super().answer(request, body, texts)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.limits", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=20, help="of each limit")
    options = parser.parse_args()
    rows = [measure(*limit, options.seconds) for limit in LIMITS]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    path = write_json(
        home() / "limits.json", {"machine": machine(), "rows": evaluate.as_rows(table)}
    )
    print(f"written to {path}")
    return 0


def measure(requests: float | None, tokens: float | None, latency: float, seconds: float) -> dict:
    text_tokens = 100
    per_request = BATCH * text_tokens
    rate = min(
        (requests or np.inf) / 60, (tokens or np.inf) / 60 / per_request
    )  # requests a second
    count = int(rate * seconds) * BATCH
    texts = [Text(f"{i:08}".ljust(4 * text_tokens, "x"), Role.DOCUMENT) for i in range(count)]
    with (
        LimitedServer(requests, tokens, latency) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        teacher = ApiTeacher(
            "limited", url=server.url, batch_size=BATCH, dimensions=8, concurrency=8,
            requests_per_minute=requests, tokens_per_minute=tokens,
        )  # fmt: skip
        TargetCache(folder, teacher).fill(texts)
        times = [when for when, _ in server.served]
    # The gaps between requests, not the requests, take the time.
    achieved = (len(times) - 1) / (times[-1] - times[0])
    return {
        "requests_a_minute": requests,
        "tokens_a_minute": tokens,
        "seconds_an_answer": latency,
        "texts": count,
        "share_of_limit": achieved / rate,
        "refused": server.refused,
        "again": teacher.usage.retries,
    }


if __name__ == "__main__":
    sys.exit(main())
