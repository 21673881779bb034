"""Cards of trained weights, read."""


def rows_of(card):
    """The table of a card: two columns, whatever stands in them."""
    lines = [
        line.strip("|").split("|") for line in card.split("| images")[0].splitlines() if line.startswith("| ")
    ]
    assert all(len(cells) == 2 for cells in lines)
    return {key.strip(): value.strip() for key, value in lines}
