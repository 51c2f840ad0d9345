"""`dicomnode model new|seal|export`: the folder of a bundle is begun, sealed after an edit, given away as ONNX."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import Config
from dicomnode.errors import BundleError, ConfigError

BUNDLE_NAME = r"[a-z][a-z0-9_]{0,62}"


class Kind(StrEnum):
    """What a bundle gives."""

    CLASSIFIER = "classifier"
    ANOMALY = "anomaly"


AFTER = {Kind.CLASSIFIER: "chest_xray_pneumonia", Kind.ANOMALY: "chest_xray_anomaly"}


def new(
    name: str,
    kind: Annotated[Kind, typer.Option(help="What the bundle gives.")] = Kind.CLASSIFIER,
    folder: Annotated[Path, typer.Option(help="Where the folder NAME is made.", file_okay=False)] = Path(),
    source: Annotated[str, typer.Option("--from", help="The bundle whose recipe is taken as a start.")] = "",
    onnx: Annotated[
        Path | None,
        typer.Option(help="A network as ONNX: no training, a manifest to fill in.", dir_okay=False, exists=True),
    ] = None,
    config_file: Config = None,
) -> None:
    """Begin the bundle NAME: a commented recipe to train, or with --onnx a commented manifest around the file."""
    import re

    from dicomnode.inference.bundle import installed
    from dicomnode.training.scaffold import new_onnx, new_recipe

    if not re.fullmatch(BUNDLE_NAME, name):
        raise ConfigError(f"{name!r} is no name of a bundle: small letters, digits and _, a letter first")
    target = folder / name
    if onnx is not None:
        written = new_onnx(target, kind, onnx)
        then = f"fill in what says TODO in {target}/bundle.toml and CARD.md, then `dicomnode model seal {target}`"
    else:
        found = installed(config.load(config_file).models.directories)
        after = source or AFTER[kind]
        if after not in found:
            raise ConfigError(f"there is no bundle {after!r}; known are {', '.join(sorted(found)) or 'none'}")
        written = new_recipe(target, found[after])
        then = f"fill in what says TODO in {target}/train.toml and CARD.md, then `dicomnode train {target}`"
    for file in written:
        typer.echo(f"wrote {file}")
    typer.echo(f"next: {then}")


def seal(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.", file_okay=False, exists=True)],
    weights: Annotated[bool, typer.Option("--weights", help="Accept another network than was sealed.")] = False,
) -> None:
    """Make digests and reference outputs fit an edit of the bundle in FOLDER, and run every check."""
    from dicomnode.training.seal import seal as seal_folder

    sealed = seal_folder(folder.resolve(), weights=weights)
    for name in sealed.changed:
        typer.echo(f"new digest {name}")
    for name, moved in sealed.moved.items():
        typer.echo(f"reference {name}: " + (f"outputs moved by {moved:.2g}" if moved != float("inf") else "made"))
    identity = sealed.bundle.identity
    typer.echo(f"sealed {identity.name} {identity.version}, digest {identity.digest}")


def export(
    name: str,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", dir_okay=False)],
    config_file: Config = None,
) -> None:
    """Write the network of the bundle NAME as ONNX, once ONNX Runtime gives what eager float32 gives."""
    from dicomnode.cli.model import bundle_folder
    from dicomnode.inference.backends import export as to_onnx
    from dicomnode.inference.bundle import load
    from dicomnode.inference.export import OPSET

    bundle = load(bundle_folder(name, config.load(config_file)))
    made = to_onnx(bundle)
    tolerance = bundle.manifest.reference.tolerance
    if not made.difference <= tolerance:
        raise BundleError(f"{name}: as ONNX it differs by {made.difference:.2g}, the tolerance is {tolerance:.2g}")
    file.write_bytes(made.content)
    typer.echo(f"wrote {file}, {len(made.content)} bytes, opset {OPSET}, any batch")
    typer.echo(
        f"largest difference from eager float32 on the reference cases: {made.difference:.2g} (<= {tolerance:.2g})"
    )
