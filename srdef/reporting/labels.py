"""Labels of the user's own, as tables and figures have to write them to show them as they are."""


def cell(text: str) -> str:
    """In a table in Markdown, where `|` would end the cell."""
    return text.replace("|", "\\|")


def row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(cell, cells))} |"


def drawn(text: str) -> str:
    """In a figure, where two dollars would make a formula, and `_` at the start hides it from a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
