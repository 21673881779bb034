"""Time srdef beside the libraries people use, on the same weights and images.

    python -m experiments.benchmark attacks|defenses|models

All take turns in one process, so that whatever else the machine does weighs on all of them;
medians and their ratios are reported, and the first call, with its compilation, apart. The other
libraries come from requirements-parity.txt.
"""

from absl import app

from experiments import cli
from experiments.benchmarks import attacks, defenses, models
from srdef.errors import InputError

BENCHMARKS = {"attacks": attacks.run, "defenses": defenses.run, "models": models.run}


def main(arguments: list[str]) -> None:
    if len(arguments) != 2 or arguments[1] not in BENCHMARKS:
        raise InputError(f"say what to benchmark: {', '.join(BENCHMARKS)}")
    BENCHMARKS[arguments[1]]()


if __name__ == "__main__":
    app.run(cli.guarded(main), flags_parser=cli.parse)
