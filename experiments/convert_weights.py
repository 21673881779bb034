"""Put published weights into the cache by hand, for a machine without network; or convert any file.

    python -m experiments.convert_weights --list
    python -m experiments.convert_weights inception_v3 FILE.h5
    python -m experiments.convert_weights resnet50 FILE.h5 --output=FILE.safetensors

Without `--output` the file must be the published one; `weights=VARIANT` (or, but for EDSR,
`pretrained=True`) finds it from then on.
"""

from pathlib import Path

from absl import app, flags

from experiments import cli
from srdef import models
from srdef.errors import InputError
from srdef.weights import catalog, download

OUTPUT = flags.DEFINE_string("output", None, "Write here, whatever the file is, instead of into the cache.")
VARIANT = flags.DEFINE_string("variant", None, "Which of a network's published weights the file is.")
LIST = flags.DEFINE_bool("list", False, "List the published weights and where they are.")


def main(arguments: list[str]) -> None:
    """Convert one file, or list what there is."""
    if LIST.value:
        show()
        return
    if len(arguments) != 2:
        raise InputError("usage: convert_weights NETWORK FILE [--output=FILE.safetensors]")
    name, file = arguments
    if OUTPUT.value is not None:
        output = Path(OUTPUT.value)
        if output.suffix != ".safetensors":
            raise InputError(f"--output must end in .safetensors, not {output.name!r}")
    else:
        published = find(name, VARIANT.value)
        download.verify(Path(file), published.digest)
        output = download.converted_path(published)
        download.make_cache_folder()
    models.convert(name, file, output)
    cli.console.print(f"wrote {output}", highlight=False, soft_wrap=True)


def find(name: str, variant: str | None) -> catalog.Download:
    """The published weights of a network; the first, where no variant is named."""
    variants = catalog.variants(name)
    if not variants:
        names = ", ".join(dict.fromkeys(published.name for published in catalog.DOWNLOADS))
        raise InputError(f"no weights of {name!r} are published; networks that have some: {names}")
    chosen = variant or next(iter(variants))
    if chosen not in variants:
        raise InputError(f"{name} has no weights called {chosen!r}; choose from: {', '.join(variants)}")
    return variants[chosen]


def show() -> None:
    """The published files, two lines each."""
    for entry in catalog.DOWNLOADS:
        print(f"{entry.name}  {entry.variant}  {entry.digest}  {entry.licence}\n    {entry.url}")


if __name__ == "__main__":
    app.run(cli.guarded(lambda arguments: main(arguments[1:])), flags_parser=cli.parse)
