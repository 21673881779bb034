"""Quick trainings, and their cards read."""

from configs import train_edsr


def rows_of(card):
    """The table of a card: two columns, whatever stands in them."""
    lines = [
        line.strip("|").split("|") for line in card.split("| images")[0].splitlines() if line.startswith("| ")
    ]
    assert all(len(cells) == 2 for cells in lines)
    return {key.strip(): value.strip() for key, value in lines}


def quick(folder, **changes):
    """A training of two steps of a tiny network."""
    config = train_edsr.get_config("compact_4x1_x2")
    config.update({"train_folder": str(folder), "patch": 8, "batch_size": 1, "steps": 2, "warmup_steps": 1})
    config.update({"log_every": 1, **changes})
    return config
