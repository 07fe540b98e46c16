"""Numbers as people read them."""

from __future__ import annotations

_LEAST = 0.001


def amount(value: float) -> str:
    """Three significant digits at least, and never an exponent: 0.024, 3.5, 12,345."""
    if 0.0 < value < _LEAST:
        return f"under {_LEAST:g}"
    return f"{value:.3g}" if value < 99.95 else f"{value:,.0f}"


def many(count: int, what: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
