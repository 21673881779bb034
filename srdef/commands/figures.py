"""Draw one of the paper's figures, as PDF and PNG, with its numbers as JSON.

    srdef figures figures:figure3 --workdir=workdir/figures

Figures 1 (PCA of the last hidden layer; also as an HTML file that can be turned), 3 (DCT spectra), 4
(feature maps), 5 and 6 (class activation maps), and `spectra` (of the change, averaged over a data set).
"""

import argparse
from pathlib import Path
from typing import Any

from srdef.commands import cli
from srdef.evaluation import schema
from srdef.reporting import figures
from srdef.storage import store


def main(config: Any, workdir: Path) -> None:
    """Compute and write the figure that the configuration names; an older one of that name is replaced."""
    config = cli.plain(config)
    schema.check("figures", config)
    with store.exclusive(workdir):
        for path in figures.make(config, workdir):
            cli.console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def run(options: argparse.Namespace) -> None:
    main(options.config, options.workdir)


COMMAND = cli.Command(run, schema="figures", workdir=True, overwrites=False)
