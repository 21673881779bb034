"""Put published weights into the cache by hand, for a machine without network; or convert any file.

    srdef convert-weights --list
    srdef convert-weights inception_v3 FILE.h5
    srdef convert-weights resnet50 FILE.h5 --output=FILE.safetensors

Without `--output` the file must be the published one; `weights=VARIANT` (or, but for EDSR,
`pretrained=True`) finds it from then on.
"""

import argparse

from srdef import models
from srdef.commands import cli
from srdef.errors import InputError
from srdef.paths import expanded
from srdef.weights import catalog, download


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs="*", metavar="NETWORK FILE", help="the network, and its weights file"
    )
    parser.add_argument(
        "--output", metavar="FILE.safetensors", help="write here, whatever the file is, not into the cache"
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="which of a network's published weights the file is"
    )
    parser.add_argument("--list", action="store_true", help="list the published weights and where they are")


def run(options: argparse.Namespace) -> None:
    """Convert one file, or list what there is."""
    if options.list:
        for given in (*options.arguments, options.output, options.variant):
            if given is not None:
                raise InputError(f"--list lists all there is, so that {given!r} beside it means nothing")
        show()
        return
    if len(options.arguments) != 2:
        raise InputError("usage: convert-weights NETWORK FILE [--output=FILE.safetensors]")
    name, file = options.arguments
    convert(name, file, options.output, options.variant)


def convert(name: str, file: str, into: str | None = None, variant: str | None = None) -> None:
    """Convert the weights `file` of the network `name`, into the cache or into another file."""
    if into is not None:
        output = expanded(into)
        if output.suffix != ".safetensors":
            raise InputError(f"--output must end in .safetensors, not {output.name!r}")
        if variant is not None:
            raise InputError(
                f"--variant={variant} says which published weights a file for the cache is; beside --output, "
                "which takes any file, it means nothing"
            )
    else:
        published = find(name, variant)
        download.verify(expanded(file), published.digest)
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
    chosen = next(iter(variants)) if variant is None else variant
    if chosen not in variants:
        raise InputError(f"{name} has no weights called {chosen!r}; choose from: {', '.join(variants)}")
    return variants[chosen]


def show() -> None:
    """The published files, two lines each."""
    for entry in catalog.DOWNLOADS:
        print(f"{entry.name}  {entry.variant}  {entry.digest}  {entry.licence}\n    {entry.url}")


COMMAND = cli.Command(run, options=add_options)
