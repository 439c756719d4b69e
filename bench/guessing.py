"""Cost of password guesses to the guesser and to other users, and whether they reveal names."""

import base64
import json
from pathlib import Path

from bench.platform import NAMESPACE, Platform, run
from bench.result import Line
from mlflow_stack_cli.progress import Progress

ROUNDS = 7
GUESSERS = 20


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measures the proxy's internal port, because both ports check passwords in the same way."""
    client = platform.secret("mlflow-client")
    user, password = (base64.b64decode(client[f"MLFLOW_TRACKING_{part}"]).decode() for part in ("USERNAME", "PASSWORD"))
    order = {
        "port": 8081,
        "host": f"mlflow.{NAMESPACE}.svc",
        "user": user,
        "password": password,
        "rounds": 2 if short else ROUNDS,
        "guessers": GUESSERS,
    }
    program = Path(__file__).with_name("guess.py").read_text()
    pod = platform.tracking_pod()["metadata"]["name"]
    argv = ["kubectl", "exec", "--stdin", pod, "--namespace", NAMESPACE, "--container", "mlflow"]
    with progress.step("bench: guesses at passwords", 50):
        done = run(*argv, "--", "python", "-c", program, stdin=json.dumps(order), env=platform.environment)
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    pairs = {
        what: [(measurement["ours"], measurement["other"]) for measurement in measured if measurement["what"] == what]
        for what in ("names", "user")
    }
    quickest = min(second for pair in pairs["names"] for second in pair)
    return [
        Line("a wrong password for a known name", "s", pairs["names"], "at most", 1.05, "for an unknown name"),
        Line("the quickest wrong password", "s", [(quickest, 1.0)], "at least", 1.0, "one second"),
        Line(
            f"20 requests of a user beside {GUESSERS} guessers", "s", pairs["user"], "at most", 1.5, "without guessers"
        ),
    ]
