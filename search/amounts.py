"""Numbers as people read them."""

from __future__ import annotations

_LEAST = 0.001


def amount(value: float) -> str:
    """Three significant digits at least, and never an exponent: 0.024, 3.5, 12,345."""
    if 0.0 < value < _LEAST:
        return f"under {_LEAST:g}"
    return f"{value:.3g}" if value < 99.95 else f"{value:,.0f}"


def lasting(seconds: float) -> str:
    """A time as people say it, in two units at most: 4 s, 3 min 20 s, 1 h 5 min, 2 d 3 h."""
    whole = max(0, round(seconds))
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next((i for i, (_, size) in enumerate(units) if whole >= size), len(units) - 1)
    parts: list[str] = []
    for name, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        parts += [f"{count} {name}"] if count or not parts else []
    return " ".join(parts)


def many(count: int, one: str, more: str | None = None) -> str:
    """`1 trial`, `2 trials`; `more` where the plural has no s."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def worker_order(name: str) -> tuple[str, int, str]:
    """Sorts workers by number, w2 before w10."""
    digits = "".join(char for char in name if char.isdecimal())
    return name.rstrip("0123456789"), int(digits or 0), name
