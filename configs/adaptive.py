"""What each defense is worth against attackers who know more and more of it.

    --config=configs/adaptive.py:images=samples,classifier=lite0,length=usual

or, shorter, `configs/adaptive.py:nips,lite2,short`:

- images: `samples` are the 20 sample images; `nips` the first 200 of the NIPS-2017 folder (SRDEF_NIPS2017 or
  `--config.dataset.path`). Those of docs/results/adaptive.md are the first 200 of every other image of the
  development set, `--config.dataset.stride=2` of the full one.
- classifier: `lite0` is EfficientNet-Lite0 at 160 pixels, `lite2` EfficientNet-Lite2 at 192.
- length: steps and queries are what two CPU cores can do in an hour or so for the 20 images; `short` is what
  they do with the 200 in a few hours: two ε, ten steps, no queries of scores; `long` is for an accelerator: a
  hundred steps, forty of sixteen draws each where the defense is random, and a thousand queries at every ε.

The rows are the defenses of the paper and those it compares itself with; more are there by name
(`--config.rows="('bicubic x2', 'SHIELD')"`), as the attackers are (`--config.columns="('exact', 'EOT')"`).
Quilting takes its patches from the sample images, so that it is a row for other images only.
"""

from ml_collections import ConfigDict

from srdef.configs import common, paper, quickstart

CLASSIFIERS = {"lite0": ("efficientnet_lite0", 160), "lite2": ("efficientnet_lite2", 192)}


def get_config(argument: str = "") -> ConfigDict:
    """Images, classifier and length; `samples_lite2` is `samples,lite2`."""
    chosen = common.parse_arg(
        argument.replace("_", ","),
        images=common.choice("samples", "nips"),
        classifier=common.choice(*CLASSIFIERS),
        length=common.choice("usual", "short", "long"),
    )
    network, size = CLASSIFIERS[chosen.classifier]
    (other,) = (other for other, _ in CLASSIFIERS.values() if other != network)
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 20
    config.classifier = ConfigDict({"name": network, "pretrained": True})
    config.other_classifier = ConfigDict({"name": other, "pretrained": True})
    if chosen.images == "nips":
        config.dataset = ConfigDict(common.nips2017(size, limit=200))
    else:
        config.dataset = ConfigDict({"name": "imagenet_samples", "size": size, "offset": 0, "limit": 20})

    # Levels of 255; 0 is the column "clean".
    config.epsilons = tuple(level / 255 for level in (0.5, 1, 2, 4, 8, 16))
    # A random defense is judged with this many fresh draws, half of them to choose the worst case.
    config.final_draws = 10

    config.threats = ConfigDict(
        {
            "gray box": {"knows": "classifier", "attack": {"name": "mifgsm", "steps": 10}},
            "transfer": {"knows": "other classifier", "attack": {"name": "mifgsm", "steps": 10}},
            # Few queries and one ε: here it is a check of the gradients, not the strongest black box.
            # Each draw of a random defense is a query.
            "Square": {
                "knows": "scores",
                "attack": {"name": "square", "queries": 100},
                "draws": 4,
                "epsilons": (8 / 255,),
            },
            "BPDA": {"knows": "identity", "attack": {"name": "apgd", "steps": 20}},
            "exact": {"knows": "gradient", "attack": {"name": "apgd", "steps": 20}},
            "EOT": {
                "knows": "expectation",
                "attack": {"name": "pgd", "steps": 10, "random_start": False},
                "draws": 4,
            },
        }
    )
    # Which of them, in this order; empty: all. `--config.columns="('exact', 'EOT')"` computes two.
    config.columns = ()

    rows = {
        "no defense": {"name": "identity"},
        **quickstart.defenses(),
        # The JPEG of a file; its attacker rounds with a gradient.
        "JPEG": {
            "defense": {"name": "jpeg", "quality": 80},
            "surrogate": {"name": "jpeg", "quality": 80, "gradient": "straight_through"},
        },
        "resize + pad": {"name": "resize_pad"},
        "TVM": {"name": "total_variation"},
        "pixel deflection": {"name": "pixel_deflection"},
    }
    # Which of the rows, in the order of the tables (a ConfigDict sorts its names); empty: all.
    # `--config.rows="('WD', 'SR')"` computes two, and more of them later.
    config.rows = tuple(rows)
    config.defenses = ConfigDict(
        {
            **rows,
            "bicubic x2": paper.interpolation("bicubic"),
            "as released": {"name": "paper_released", "network": "edsr_small_x2"},
            "SHIELD": {"name": "shield"},
            "quilting + TVM": paper.guo(size),
            "bit depth 3": {"name": "bit_depth", "bits": 3},
            "median 3x3": {"name": "median", "size": 3},
            "non-local means": {"name": "non_local_means"},
        }
    )
    if chosen.length == "long":
        config.threats["Square"].attack.queries, config.threats["Square"].draws = 1000, 10
        del config.threats["Square"].epsilons  # every ε
        config.threats["EOT"].attack.steps, config.threats["EOT"].draws = 40, 16
        for threat in ("BPDA", "exact"):
            config.threats[threat].attack.steps = 100
    if chosen.length == "short":
        config.epsilons = (1 / 255, 4 / 255)
        config.threats["Square"].epsilons = ()
        for threat in ("BPDA", "exact"):
            config.threats[threat].attack.steps = 10
    config.checks = ConfigDict(
        {"epsilon": 4 / 255, "images": 6, "steps": 10, "queries": 100, "draws": 4, "effort": 2}
    )
    return config
