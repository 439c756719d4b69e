"""Password guesses beside a user, run in the tracking server's container with Python's standard library only.

Each caller has its own loopback address, so that nginx tells them apart. Reads its task as JSON from standard input,
including the password; writes one JSON line per pair of measurements.
"""

import base64
import http.client
import json
import sys
import threading
import time
from typing import Any

PATH = "/api/2.0/mlflow/experiments/search?max_results=1"
GUESSER, USER = "127.0.0.2", "127.0.0.3"


def seconds(order: dict[str, Any], source: str, name: str, password: str, wanted: int) -> float:
    """Return the duration of one request on its own connection. The answer must have the expected status."""
    token = base64.b64encode(f"{name}:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", order["port"], timeout=60, source_address=(source, 0))
    started = time.monotonic()
    connection.request("GET", PATH, headers={"Host": order["host"], "Authorization": f"Basic {token}"})
    status = connection.getresponse().status
    took = time.monotonic() - started
    connection.close()
    if status != wanted:
        raise SystemExit(f"{name} from {source}: {status} instead of {wanted}")
    return took


def guess(order: dict[str, Any], stop: threading.Event) -> None:
    """Send one guess after the other."""
    while not stop.is_set():
        seconds(order, GUESSER, order["user"], "a wrong guess", 401)


def main() -> None:
    """Measure pairs of guesses at a known and an unknown name, then of a user's requests with and without guesses."""
    order = json.load(sys.stdin)
    user, password = order["user"], order["password"]
    for _ in range(order["rounds"]):
        known = seconds(order, GUESSER, user, "a wrong guess", 401)
        unknown = seconds(order, GUESSER, "nobody", "a wrong guess", 401)
        print(json.dumps({"what": "names", "ours": known, "other": unknown}), flush=True)
    for _ in range(order["rounds"]):
        stop = threading.Event()
        quiet = [seconds(order, USER, user, password, 200) for _ in range(20)]
        guessers = [threading.Thread(target=guess, args=(order, stop)) for _ in range(order["guessers"])]
        for guesser in guessers:
            guesser.start()
        during = [seconds(order, USER, user, password, 200) for _ in range(20)]
        stop.set()
        for guesser in guessers:
            guesser.join()
        print(json.dumps({"what": "user", "ours": sum(during), "other": sum(quiet)}), flush=True)


if __name__ == "__main__":
    main()
