"""Kubernetes quantities for display."""

from collections.abc import Callable
from fractions import Fraction
from typing import Final

_BINARY: Final = {"": 1, **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)}}
_DECIMAL: Final = {letter: 1000**power for power, letter in enumerate("kMGTPE", start=1)}


def cores(amount: Fraction, rounding: Callable[[Fraction], int]) -> str:
    """Return an amount of CPU, in whole cores or rounded to thousandths."""
    return str(amount) if amount.denominator == 1 else f"{rounding(amount * 1000)}m"


def exact(count: int) -> str:
    """Return a number of bytes in the unit in which it is shortest."""
    units = {**_BINARY, **_DECIMAL}
    return min((f"{count // factor}{unit}" for unit, factor in units.items() if count % factor == 0), key=len)


def rounded(amount: Fraction, rounding: Callable[[Fraction], int]) -> str:
    """Return a number of bytes in the largest unit of which there is one, rounded to a tenth of it."""
    unit, factor = next((unit for unit in reversed(_BINARY.items()) if unit[1] <= amount), ("", 1))
    return f"{rounding(amount / factor * 10) / 10:g}{unit}"
