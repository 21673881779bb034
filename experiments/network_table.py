"""Print the tables of networks and their weights: `srdef network-table`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("network-table")
