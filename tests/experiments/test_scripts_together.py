"""All scripts in one process: absl's flags are global, so two scripts cannot define the same name."""

import importlib
import pkgutil

import experiments


def test_all_scripts_can_be_imported_together():
    names = [module.name for module in pkgutil.walk_packages(experiments.__path__, "experiments.")]
    assert "experiments.benchmarks.common" in names
    for name in names:
        importlib.import_module(name)
