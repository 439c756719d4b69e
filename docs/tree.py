"""Drawing of the resources that `pulumi up` declares for a stack file, as the engine receives them.

    python docs/tree.py [STACK] > docs/resources.svg

The program runs against the recording engine of the tests. It deploys nothing and needs no cluster.
"""

import json
import sys
from html import escape
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests"), str(PROJECT / "components")]

import engine  # noqa: E402
import mlflow_stack  # noqa: E402

STEP, ROW, LEFT, TOP, NOTE, WIDTH = 22, 22, 18, 26, 390, 1190
SHIELD = "protected: `make down` keeps it"


def resources(stack: str) -> dict[str, list[engine.Registration]]:
    """Return the resources of a stack file, by the name and type of their parent."""
    config = yaml.safe_load((PROJECT / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8"))["config"]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    children: dict[str, list[engine.Registration]] = {}
    for resource in engine.run_main(texts).registrations:
        children.setdefault(_identity(resource.parent), []).append(resource)
    return children


def _identity(urn: str) -> str:
    types, _, name = urn.partition("::")[2].partition("::")[2].rpartition("::")
    return f"{types.rsplit('$', 1)[-1]} {name}"


def rows(children: dict[str, list[engine.Registration]], parent: str, depth: int) -> list[tuple[int, str, str, str]]:
    """Return depth, kind, name and note of each resource, parents first."""
    found: list[tuple[int, str, str, str]] = []
    for resource in sorted(
        children.get(parent, []), key=lambda resource: (resource.custom, resource.type, resource.name)
    ):
        kind = resource.type.rsplit(":", 1)[-1]
        component = getattr(mlflow_stack, kind, None)
        note = (component.__doc__ or "").partition("\n")[0].partition(". ")[0].replace("``", "") if component else ""
        found.append((depth, kind, resource.name, SHIELD if resource.protect else note))
        found += rows(children, f"{resource.type} {resource.name}", depth + 1)
    return found


def svg(lines: list[tuple[int, str, str, str]]) -> str:
    """Return the rows as a picture: a line to each child, the kind, the name and the note."""
    height = TOP + ROW * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">',
        "<title>Resources of the stack dev</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fbfbfd"/>',
    ]
    last: dict[int, int] = {}
    for number, (depth, kind, name, note) in enumerate(lines):
        x, y = LEFT + STEP * depth, TOP + ROW * number
        if depth:
            rail = x - STEP + 5
            start = last.get(depth, last[depth - 1] + 6)
            parts.append(f'<path d="M{rail} {start}V{y - 4}H{x - 4}" fill="none" stroke="#b6bac5"/>')
        last[depth], last[depth + 1] = y - 4, y + 6
        colour = "#1f4fa3" if getattr(mlflow_stack, kind, None) else "#20242c"
        parts.append(
            f'<text x="{x}" y="{y}"><tspan fill="{colour}">{escape(kind)}</tspan> '
            f'<tspan fill="#5a6170">{escape(name)}</tspan></text>'
        )
        if note:
            tone = "#a3441f" if note == SHIELD else "#5a6170"
            parts.append(f'<text x="{NOTE}" y="{y}" fill="{tone}" font-size="12">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    recorded = resources(sys.argv[1] if len(sys.argv) > 1 else "dev")
    root = next(parent for parent in recorded if parent.startswith("pulumi:pulumi:Stack "))
    sys.stdout.write(svg(rows(recorded, root, 0)))
