"""`dicomnode model`: which bundles are there, what they say of themselves, and whether they can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Config, print_json, show_rows
from dicomnode.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from dicomnode.inference.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="Model bundles: list, show, verify.")

Row = dict[str, str]


@app.command("ls")
def list_bundles(config_file: Config = None, as_json: AsJson = False) -> None:
    """List the bundles that this installation finds; a refused one with its reason (exit code 1)."""
    active = config.load(config_file).models.active
    rows = [_row(name, folder, active) for name, folder in _found(config_file).items()]
    shown = rows if as_json else [row | {"weights": row["weights"][:12]} for row in rows]
    show_rows(shown, as_json=as_json, title="model bundles")
    if any(row["reason"] for row in rows):
        raise typer.Exit(1)


@app.command()
def show(name: str, config_file: Config = None, as_json: AsJson = False) -> None:
    """Show the manifest and the model card of the bundle NAME."""
    from dicomnode.inference.bundle import read_manifest

    folder = _folder(name, config_file)
    manifest, digest = read_manifest(folder)
    if as_json:
        print_json({"digest": digest, **manifest.model_dump(mode="json", exclude_none=True)})
        return
    typer.echo("\n".join(_lines(manifest, digest)))
    card = folder / "CARD.md"
    if card.is_file():
        typer.echo("\n" + card.read_text(encoding="utf-8"))


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="a bundle's name or folder; all of them without it")] = "",
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load bundles with every check: manifest, digests, weights, reference cases. Exit code 1 if one is refused."""
    found = {name: _folder(name, config_file)} if name else _found(config_file)
    rows = [_row(bundle, folder, ()) for bundle, folder in found.items()]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"REFUSED {row['reason']}" if row["reason"] else f"ok {row['name']} {row['version']}")
    if any(row["reason"] for row in rows):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a bundle's manifest."""
    from dicomnode.inference.manifest import Manifest

    print_json(Manifest.model_json_schema())


def _found(config_file: Path | None) -> dict[str, Path]:
    from dicomnode.inference.bundle import installed

    return installed(config.load(config_file).models.directories)


def _folder(name: str, config_file: Path | None) -> Path:
    if Path(name).is_dir():
        return Path(name).resolve()
    found = _found(config_file)
    if name not in found:
        raise ConfigError(f"there is no bundle {name!r}; known are {', '.join(sorted(found)) or 'none'}")
    return found[name]


def _row(name: str, folder: Path, active: tuple[str, ...]) -> Row:
    from dicomnode.inference.bundle import load

    row = {"name": name, "version": "", "kind": "", "state": "", "weights": "", "reason": "", "folder": str(folder)}
    try:
        identity = load(folder).identity
    except BundleError as exc:
        return row | {"state": "refused", "reason": str(exc)}
    return row | {
        "name": identity.name,
        "version": identity.version,
        "kind": identity.kind,
        "weights": identity.weights_digest,
        "state": "active" if name in active else "installed",
    }


def _lines(manifest: "Manifest", digest: str) -> list[str]:
    lines = [
        f"{manifest.name} {manifest.version} ({manifest.kind}, {manifest.status}): {manifest.title}",
        f"digest {digest}",
        f"network {manifest.network_name}, input {manifest.tensor.rows}x{manifest.tensor.columns}",
        f"intended use: {manifest.intended_use}",
        *(f"not for: {text}" for text in manifest.not_for),
    ]
    if manifest.classifier is not None:
        lines += [
            f"class {known.label} ({known.code.value}, {known.code.scheme}), {known.priority}, "
            f"from {known.operating_point.threshold:.4f}"
            for known in manifest.classifier.classes
        ]
    if manifest.anomaly is not None:
        lines.append(f"{manifest.anomaly.score_name}: unusual above {manifest.anomaly.threshold:.4f}")
    return lines
