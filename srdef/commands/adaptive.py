"""Attack defenses with attackers who know more and more of them, and check the attacks themselves.

    srdef adaptive adaptive --workdir=workdir/adaptive

Leaves a table for each ε, the curves of accuracy against ε, and the self-checks with a picture of the loss
around an image for each defense. A run that was stopped continues where it was. `--nochecks` leaves out the
checks, `--nothreats` all but them. Many processes share the work by `--coordinator`, `--processes` and
`--process`, or `--distributed`.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from srdef.commands import cli, processes
from srdef.errors import InputError
from srdef.evaluation import adaptive, adaptive_checks, progress, schema
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment, resolve
from srdef.evaluation.batch_sizes import settle
from srdef.evaluation.processes import ALONE, Processes
from srdef.evaluation.programs import of_threats
from srdef.reporting import adaptive_files, adaptive_tables, gray_box_files


def attack(experiment: AdaptiveExperiment, workdir: Path, reporter: progress.Reporter) -> None:
    """Run the threats, write and print their tables and curves."""
    outcome = adaptive.run(experiment, workdir / "store", reporter)
    if not reporter.processes.first:
        return
    adaptive_files.write(workdir, experiment, outcome)
    for epsilon in outcome.epsilons:
        cli.console.print(adaptive_tables.to_rich(outcome, epsilon))


def main(
    config: Any,
    workdir: Path,
    overwrite: bool = False,
    members: Processes = ALONE,
    *,
    threats: bool = True,
    checks: bool = True,
) -> None:
    """Resolve the configuration, run what is missing, write and print the results."""
    if not (checks or threats):
        raise InputError("--nochecks and --nothreats together leave nothing to do")
    plain = cli.plain(config)
    schema.check("adaptive", plain)
    cli.refuse_another(workdir, plain, overwrite)
    cli.console.print("Loading data and networks")
    experiment = resolve(plain)
    if checks:
        adaptive_checks.check_norm(experiment)
    reporter = progress.Reporter(cli.console, processes=members)
    with members.hold(workdir):
        if members.first:
            gray_box_files.write_setting(workdir, plain, experiment.arithmetic)
        count, shape = len(experiment.dataset), experiment.dataset.image_shape
        jobs = partial(of_threats, experiment, shape=shape, everything=True)
        size = settle(plain, count, workdir, reporter, jobs)
        experiment = replace(experiment, batch_size=size)
        if threats:
            attack(experiment, workdir, reporter)
        if checks:
            found = adaptive_checks.run(experiment, workdir / "store", reporter)
            if members.first:
                cli.console.print(adaptive_files.write_checks(workdir, experiment, found), markup=False)
    cli.console.print(f"Tables, curves and checks: {workdir}")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nochecks", dest="checks", action="store_false", help="do not run the self-checks on every defense"
    )
    parser.add_argument("--nothreats", dest="threats", action="store_false", help="run the self-checks only")
    processes.add_options(parser)


def run(options: argparse.Namespace) -> None:
    chosen = {"threats": options.threats, "checks": options.checks}
    with processes.of(options, "adaptive", options.config) as members:
        main(options.config, options.workdir, options.overwrite, members, **chosen)


COMMAND = cli.Command(run, schema="adaptive", workdir=True, options=add_options)
