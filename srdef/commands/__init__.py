"""The commands: each module is one, `srdef NAME` or `python -m experiments.NAME`."""
