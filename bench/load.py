"""Same requests to two ports, run in the tracking server's container with Python's standard library only.

Reads its task as JSON from standard input, including the password; writes one JSON line per pair of measurements.
"""

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

API = "/api/2.0/mlflow"
Request = tuple[str, dict[str, Any]]


class Client:
    """Persistent connection."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        """`port`: on loopback."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = headers

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request; return the answer, which must be 200."""
        self._connection.request("POST", API + path, json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content[:300]!r}")
        return json.loads(content)


def seconds(port: int, headers: dict[str, str], connections: int, requests: list[Request]) -> float:
    """Return the duration of the requests over a number of concurrent connections."""
    clients = [Client(port, headers) for _ in range(connections)]
    for client in clients:
        client.post("/experiments/search", {"max_results": 1})
    shares = [requests[number::connections] for number in range(connections)]

    def work(client: Client, share: list[Request]) -> None:
        for path, body in share:
            client.post(path, body)

    with ThreadPoolExecutor(connections) as pool:
        started = time.monotonic()
        list(pool.map(work, clients, shares))
        return time.monotonic() - started


def run_with(client: Client, experiment: str, number: int) -> str:
    """Return a run as a training creates it: a few parameters and metrics."""
    run = client.post("/runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
    metrics = [{"key": f"m{key}", "value": number + key, "timestamp": 1, "step": 0} for key in range(5)]
    params = [{"key": f"p{key}", "value": str(number + key)} for key in range(5)]
    client.post("/runs/log-batch", {"run_id": run, "metrics": metrics, "params": params})
    return run


def operations(client: Client) -> dict[str, Callable[[], Request]]:
    """Return the generators of each kind's next request. Every written value is new."""
    experiment = client.post("/experiments/create", {"name": f"bench {time.time()}"})["experiment_id"]
    runs = [run_with(client, experiment, number) for number in range(50)]
    run = runs[0]
    steps: Iterator[int] = count()

    def log_metric() -> Request:
        step = next(steps)
        return "/runs/log-metric", {"run_id": run, "key": "loss", "value": step, "timestamp": step, "step": step}

    def log_batch() -> Request:
        batch = next(steps)
        metrics = [
            {"key": f"k{key}", "value": step, "timestamp": batch, "step": batch * 100 + step}
            for key in range(10)
            for step in range(100)
        ]
        return "/runs/log-batch", {"run_id": run, "metrics": metrics}

    def search_runs() -> Request:
        return "/runs/search", {"experiment_ids": [experiment], "max_results": 50, "order_by": ["metrics.m0 DESC"]}

    return {"log_metric": log_metric, "log_batch": log_batch, "search_runs": search_runs}


def main() -> None:
    """Measure proxied and direct requests in turns, alternating the order from round to round."""
    order = json.load(sys.stdin)
    ways = {name: (way["port"], way["headers"]) for name, way in order["ways"].items()}
    make = operations(Client(*ways["direct"]))
    end = time.monotonic() + order["most_seconds"]
    for round_ in range(-1, order["rounds"]):
        if time.monotonic() > end:
            break
        for name, requests in order["counts"].items():
            took: dict[str, float] = {}
            for way in sorted(ways, reverse=round_ % 2 == 1):
                # The round before the first one warms up, and is short.
                number = requests if round_ >= 0 else order["connections"]
                batch = [make[name]() for _ in range(number)]
                took[way] = number / seconds(*ways[way], order["connections"], batch)
            if round_ >= 0:
                print(json.dumps({"operation": name, **took}), flush=True)


if __name__ == "__main__":
    main()
