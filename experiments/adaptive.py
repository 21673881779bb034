"""Attack defenses with attackers who know more and more of them: `srdef adaptive`."""

from srdef.command import entry

if __name__ == "__main__":
    entry("adaptive")
