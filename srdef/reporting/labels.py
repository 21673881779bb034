"""Labels of the user's own, written so that tables and figures show them as they are; and numbers."""

import numpy as np


def cell(text: str) -> str:
    """In a table in Markdown, where `|` would end the cell."""
    return text.replace("|", "\\|")


def row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(cell, cells))} |"


def drawn(text: str) -> str:
    """In a figure, where two dollars would make a formula, and `_` at the start hides it from a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def number(value: float, digits: int) -> str:
    """A number with so many digits, or all before the point if they are more; never with an exponent."""
    if abs(value) >= 10**digits - 0.5:
        return f"{value:.0f}"
    return np.format_float_positional(float(value), precision=digits, fractional=False, trim="-")
