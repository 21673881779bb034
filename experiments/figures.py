"""Draw one of the paper's figures, as PDF and PNG, with its numbers as JSON.

    python -m experiments.figures --config=configs/figures.py:figure3 --workdir=workdir/figures

Figures 1 (PCA of the last hidden layer; also as an HTML file that can be turned), 3 (DCT spectra), 4
(feature maps), 5 and 6 (class activation maps), and `spectra` (of the change, averaged over a data set).
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments import cli
from srdef.reporting import figures
from srdef.storage import store


def main(config: ConfigDict, workdir: Path) -> None:
    """Compute and write the figure that the configuration names."""
    with store.exclusive(workdir):
        for path in figures.make(cli.plain(config), workdir):
            cli.console.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
