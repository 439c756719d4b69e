"""Same predictions to each port, in turns, run in a model's container with Python's standard library only.

Reads its task as JSON from standard input, including the password; writes one JSON line per round: the 99th percentile
of each port, in seconds.
"""

import http.client
import json
import math
import sys
import time

COLUMNS = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
BODY = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [[0.01] * len(COLUMNS)]}})
MALFORMED = [b"{", b"x" * 3_000_000, json.dumps({"dataframe_records": [{"age": "x" * 1_000_000}]}).encode()]


def ask(connection: http.client.HTTPConnection, way: dict, body: str | bytes, wanted: int) -> float:
    """Return the seconds of one request."""
    started = time.perf_counter()
    connection.request("POST", way["path"] + "/invocations", body, way["headers"])
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != wanted:
        raise SystemExit(f"{answer.status} {content[:300]!r}")
    return time.perf_counter() - started


def percentile(values: list[float]) -> float:
    """Return the 99th percentile, by nearest rank."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def main() -> None:
    """Measure both ports in turns, request by request, so that other load affects both; alternate the order from round
    to round."""
    order = json.load(sys.stdin)
    ways = order["ways"]
    connections = {name: http.client.HTTPConnection("127.0.0.1", way["port"], timeout=60) for name, way in ways.items()}
    if "malformed" in order:
        for number in range(order["malformed"]):
            ask(connections["direct"], ways["direct"], MALFORMED[number % len(MALFORMED)], 400)
        print(json.dumps({"malformed": order["malformed"]}), flush=True)
        return
    end = time.monotonic() + order["most_seconds"]
    for round_ in range(-1, order["rounds"]):
        if time.monotonic() > end:
            break
        took: dict[str, list[float]] = {name: [] for name in sorted(ways, reverse=round_ % 2 == 1)}
        for _ in range(order["count"]):
            for name, seconds in took.items():
                seconds.append(ask(connections[name], ways[name], BODY, 200))
        # The round before the first one warms up.
        if round_ >= 0:
            print(json.dumps({name: percentile(seconds) for name, seconds in took.items()}), flush=True)


if __name__ == "__main__":
    main()
