"""Attack defenses with attackers who know more and more of them, and check the attacks themselves.

    python -m experiments.adaptive --config=configs/adaptive.py --workdir=workdir/adaptive

Leaves a table for each ε, the curves of accuracy against ε, and the self-checks with a picture of the loss
around an image for each defense. A run that was
stopped continues where it was. `--nochecks` leaves the checks out, `--nothreats` all but them.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from experiments import cli
from srdef.errors import InputError
from srdef.evaluation import adaptive, adaptive_checks, progress
from srdef.reporting import adaptive_tables, gray_box_files
from srdef.storage import files, store

CHECKS = flags.DEFINE_bool("checks", True, "Whether to run the self-checks on every defense.")
THREATS = flags.DEFINE_bool("threats", True, "Whether to attack every defense under every threat.")


def attack(experiment: adaptive.AdaptiveExperiment, workdir: Path, reporter: progress.Reporter) -> None:
    """Run the threats, write and print their tables and curves."""
    outcome = adaptive.run(experiment, workdir / "store", reporter)
    files.write_atomically(workdir / "adaptive.md", adaptive_tables.to_markdown(outcome))
    files.write_atomically(workdir / "adaptive.json", adaptive_tables.to_json(outcome))
    subtitle = f"{experiment.config['classifier']['name']}, {outcome.images} images"
    for ending in ("png", "pdf"):
        adaptive_tables.save_curves(workdir / f"curves.{ending}", outcome, subtitle=subtitle)
    for epsilon in outcome.epsilons:
        cli.console.print(adaptive_tables.to_rich(outcome, epsilon))


def main(config: ConfigDict, workdir: Path) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    if not (CHECKS.value or THREATS.value):
        raise InputError("--nochecks and --nothreats together leave nothing to do")
    cli.console.print("Loading data and networks")
    plain = cli.plain(config)
    experiment = adaptive.resolve(plain)
    reporter = progress.Reporter(cli.console)
    with store.exclusive(workdir):
        files.write_atomically(workdir / "config.json", files.canonical_json(plain) + "\n")
        files.write_atomically(
            workdir / "environment.json", files.canonical_json(gray_box_files.environment()) + "\n"
        )
        if THREATS.value:
            attack(experiment, workdir, reporter)
        if CHECKS.value:
            text = adaptive_checks.run(experiment, workdir / "store", reporter, workdir)
            files.write_atomically(workdir / "checks.md", text)
            cli.console.print(text, markup=False)
    cli.console.print(f"Tables, curves and checks: {workdir}")


if __name__ == "__main__":
    cli.run(main)
