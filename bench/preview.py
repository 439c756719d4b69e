"""Preview without changes against one of a bare program with as many resources."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.platform import Platform, Stack, run
from bench.result import Line
from mlflow_stack_cli.progress import Progress

GOAL = 1.2
ROUNDS = 5
NAMESPACE = "bench-bare"


def measure(platform: Platform, progress: Progress, short: bool) -> list[Line]:
    """Measure previews in turns, alternating the order from round to round."""
    counts = _resources(platform)
    rounds = 2 if short else ROUNDS
    program = platform.instance.root / "bare"
    shutil.copytree(Path(__file__).with_name("bare"), program, dirs_exist_ok=True)
    config = {f"bare:{key}": value for key, value in {**counts, "namespace": NAMESPACE}.items()}
    pairs: list[tuple[float, float]] = []
    with progress.step("bench: previews without changes", 20 + 10 * rounds) as step:
        platform.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        with Stack(platform, "bare", "bare", program, config) as bare:
            bare.pulumi("up", "--yes", "--skip-preview")

            def ours() -> None:
                run("pulumi", "preview", "--expect-no-changes", "--non-interactive", env=platform.environment)

            def other() -> None:
                bare.pulumi("preview", "--expect-no-changes")

            for number in range(rounds):
                step.done((number + 1) / (rounds + 1))
                order = (ours, other) if number % 2 == 0 else (other, ours)
                took = {way: _seconds(way) for way in order}
                pairs.append((took[ours], took[other]))
        platform.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    against = f"a bare program with as many resources ({sum(counts.values())})"
    return [Line("preview without changes", "s", pairs, "at most", GOAL, against)]


def _resources(platform: Platform) -> dict[str, int]:
    """Count the stack's resources by kind, except its own entry and providers, which every stack has."""
    exported = run("pulumi", "stack", "export", "--non-interactive", env=platform.environment).stdout
    types = Counter(resource["type"].split(":")[0] for resource in json.loads(exported)["deployment"]["resources"])
    return {"components": types["mlflow-stack"], "random": types["random"], "kubernetes": types["kubernetes"]}


def _seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
