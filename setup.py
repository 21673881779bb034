"""What is installed: `srdef` alone, with the folder `configs` as its subpackage (see srdef/configs.py)."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["srdef", "srdef.*"]), "srdef.configs"],
    package_dir={"srdef.configs": "configs"},
)
