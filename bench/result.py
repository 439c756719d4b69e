"""Results of the measurements."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Line:
    """One quantity, measured on ours and on its counterpart, in pairs taken directly after each other."""

    name: str
    unit: str
    """Unit of the measurements, such as `s` or `MiB`."""
    pairs: list[tuple[float, float]]
    """Our value and the other's."""
    better: Literal["at least", "at most"]
    """Side of the goal on which the ratio passes."""
    goal: float
    against: str
    """Short description of the counterpart."""

    @property
    def ours(self) -> float:
        """Median of our values."""
        return median(ours for ours, _ in self.pairs)

    @property
    def other(self) -> float:
        """Median of the other's values."""
        return median(other for _, other in self.pairs)

    @property
    def ratios(self) -> list[float]:
        """Ratios of ours to the other, pair by pair."""
        return [ours / other for ours, other in self.pairs]

    @property
    def ratio(self) -> float:
        """Median of the pairs' ratios, so that load that slows both does not count."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """True if the ratio meets the goal."""
        return self.ratio >= self.goal if self.better == "at least" else self.ratio <= self.goal

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
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
    """Duration of each step of a command. Steps may overlap, so that their sum exceeds the total."""

    name: str
    seconds: float | None
    """Duration of the whole command; None if only the steps are known."""
    steps: list[tuple[str, float]]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": self.name, "seconds": self.seconds, "steps": dict(self.steps)}


@dataclass
class Results:
    """Results of a whole run."""

    machine: dict[str, str]
    lines: list[Line] = field(default_factory=list[Line])
    steps: list[Steps] = field(default_factory=list[Steps])
    failures: list[str] = field(default_factory=list[str])
    """Failed measurements, with the reason."""
