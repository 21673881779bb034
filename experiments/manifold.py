"""Train a detector of adversarial images and ask it about defended ones: `srdef manifold`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("manifold")
