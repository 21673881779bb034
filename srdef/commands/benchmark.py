"""Time srdef beside the libraries people use, on the same weights and images.

    srdef benchmark attacks|cifar|defenses|models|accelerator

All take turns in one process, so that whatever else the machine does weighs on all of them;
medians and their ratios are reported, and the first call, with its compilation, apart. The other
libraries come from requirements-parity.txt.
"""

import argparse

from srdef.commands import cli
from srdef.commands.benchmarks import accelerator, attacks, cifar, common, defenses, models
from srdef.errors import InputError

BENCHMARKS = {
    "attacks": attacks.run,
    "cifar": cifar.run,
    "defenses": defenses.run,
    "models": models.run,
    "accelerator": accelerator.run,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", metavar="|".join(BENCHMARKS), help="what to time")
    common.add_options(parser)


def run(options: argparse.Namespace) -> None:
    """Run the benchmark that the first argument names."""
    if options.what not in BENCHMARKS:
        raise InputError(f"say what to benchmark: {', '.join(BENCHMARKS)}")
    BENCHMARKS[options.what](common.Settings.of(options))


COMMAND = cli.Command(run, options=add_options, exact=False)
