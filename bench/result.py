"""What was measured."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Line:
    """One thing measured on ours and on what it is compared with, in pairs taken right after each other."""

    name: str
    unit: str
    """Of the measurements, such as `s` or `MiB`."""
    pairs: list[tuple[float, float]]
    """Ours, and the other."""
    better: Literal["at least", "at most"]
    """On which side of the goal the ratio is to be."""
    goal: float
    against: str
    """What the other is, in a few words."""

    @property
    def ours(self) -> float:
        """The median of ours."""
        return median(ours for ours, _ in self.pairs)

    @property
    def other(self) -> float:
        """The median of the other."""
        return median(other for _, other in self.pairs)

    @property
    def ratios(self) -> list[float]:
        """Ours over the other, pair by pair."""
        return [ours / other for ours, other in self.pairs]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios, so that what slows both does not count."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the ratio is on the goal's side."""
        return self.ratio >= self.goal if self.better == "at least" else self.ratio <= self.goal

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "against": self.against,
            "unit": self.unit,
            "ours": round(self.ours, 3),
            "other": round(self.other, 3),
            "ratio": round(self.ratio, 3),
            "ratios": [round(ratio, 3) for ratio in self.ratios],
            "goal": f"{self.better} {self.goal}",
            "met": self.met,
        }


@dataclass(frozen=True)
class Steps:
    """How long each step of a command took. Steps may overlap, so that their sum is more than the whole."""

    name: str
    seconds: float | None
    """Of the whole command; none where only the steps are known."""
    steps: list[tuple[str, float]]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "seconds": self.seconds, "steps": dict(self.steps)}


@dataclass
class Results:
    """All of a run."""

    machine: dict[str, str]
    lines: list[Line] = field(default_factory=list[Line])
    steps: list[Steps] = field(default_factory=list[Steps])
    failures: list[str] = field(default_factory=list[str])
    """What could not be measured, and why."""
