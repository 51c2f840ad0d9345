"""`dicomnode model`: which bundles are there, what they say of themselves, and whether they can be trusted."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli import model_files, model_state
from dicomnode.cli.listing import AsJson, Cell, Config, print_json, show_rows
from dicomnode.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from dicomnode.inference.backends import Choice
    from dicomnode.inference.manifest import Manifest

app = typer.Typer(no_args_is_help=True, help="Model bundles: list, show, verify, make, move.")
app.command()(model_files.new)
app.command()(model_files.seal)
app.command()(model_files.export)
app.command()(model_state.shadow)
app.command()(model_state.promote)
app.command()(model_state.retire)
app.command()(model_state.rollback)
app.command()(model_state.agreement)

Row = dict[str, Cell]


@app.command("ls")
def list_bundles(config_file: Config = None, as_json: AsJson = False) -> None:
    """List the bundles that this installation finds and where they stand; a refused one with its reason (exit 1)."""
    from dicomnode.flow.bundles import state_of

    settings = config.load(config_file)
    standings = model_state.standings_of(settings)
    rows = []
    for name, folder in _found(settings).items():
        standing = standings.get(name)
        row = _row(name, folder, standing.digest if standing else "")
        state = state_of(name, standings, settings)
        rows.append(row | {"state": f"{state}, refused" if row["reason"] else str(state)})
        rows[-1]["since"] = standing.since if standing else None
    shown = rows if as_json else [row | {"weights": str(row["weights"])[:12]} for row in rows]
    show_rows(shown, as_json=as_json, title="model bundles")
    if any(row["reason"] for row in rows):
        raise typer.Exit(1)


@app.command()
def show(name: str, config_file: Config = None, as_json: AsJson = False) -> None:
    """Show the manifest of the bundle NAME, where it stands, what runs its network and why, and its model card."""
    from dicomnode.flow.bundles import state_of
    from dicomnode.inference.bundle import read_manifest

    settings = config.load(config_file)
    folder = bundle_folder(name, settings)
    manifest, digest = read_manifest(folder)
    state = state_of(manifest.name, model_state.standings_of(settings), settings)
    choice, refused = _backend(folder, settings)
    if as_json:
        about = {"digest": digest, "state": state, "refused": refused, "backends": _backend_rows(choice)}
        print_json({**about, **manifest.model_dump(mode="json", exclude_none=True)})
        return
    typer.echo("\n".join([*_lines(manifest, digest), f"state {state}", *([f"REFUSED {refused}"] if refused else [])]))
    if choice is not None:
        typer.echo(f"runs on {choice.chosen} (analysis.backend = {settings.analysis.backend!r})\n")
        title = "ms: an image alone and its share of a batch; difference: from eager float32"
        show_rows(_backend_rows(choice), as_json=False, title=title)
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
    settings = config.load(config_file)
    found = {name: bundle_folder(name, settings)} if name else _found(settings)
    rows = [_row(bundle, folder, "") for bundle, folder in found.items()]
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


def bundle_folder(name: str, settings: config.Settings) -> Path:
    """Return the folder of a bundle by its name, or by the folder itself."""
    if Path(name).is_dir():
        return Path(name).resolve()
    found = _found(settings)
    if name not in found:
        raise ConfigError(f"there is no bundle {name!r}; known are {', '.join(sorted(found)) or 'none'}")
    return found[name]


def _found(settings: config.Settings) -> Mapping[str, Path]:
    from dicomnode.inference.bundle import installed

    return installed(settings.models.directories)


def _row(name: str, folder: Path, digest: str) -> Row:
    """Return what a bundle says of itself, or the reason why it is refused: it changed where `digest` is another."""
    from dicomnode.inference.bundle import load

    row: Row = {"name": name, "version": "", "kind": "", "state": "", "since": None, "weights": "", "reason": ""}
    row["folder"] = str(folder)
    try:
        identity = load(folder).identity
    except BundleError as exc:
        return row | {"state": "refused", "reason": str(exc)}
    row |= {
        "name": identity.name,
        "version": identity.version,
        "kind": identity.kind,
        "weights": identity.weights_digest,
    }
    changed = digest not in ("", identity.digest)
    return row | {"reason": f"{name}: bundle.toml: changed since it was moved" if changed else ""}


def _backend(folder: Path, settings: config.Settings) -> "tuple[Choice | None, str]":
    """Return what runs the network and how it was found, or why the bundle is refused."""
    from dicomnode.flow.bundles import choices_folder
    from dicomnode.inference.backends import choose
    from dicomnode.inference.bundle import load

    try:
        bundle = load(folder, threads=settings.analysis.threads)
    except BundleError as exc:
        return None, str(exc)
    return choose(bundle, settings.analysis, choices_folder(settings))[1], ""


def _backend_rows(choice: "Choice | None") -> list[Row]:
    return [
        {
            "backend": measured.name,
            "chosen": "*" if choice is not None and measured.name == choice.chosen else "",
            "ms": None if measured.ms is None else round(measured.ms, 2),
            "difference": None if measured.difference is None else f"{measured.difference:.1e}",
            "reason": measured.reason,
        }
        for measured in (choice.measured if choice else ())
    ]


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
