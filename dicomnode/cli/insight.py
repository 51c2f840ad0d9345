"""`dicomnode study explain` and `dicomnode study similar`: where findings come from, and what looks alike."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode import config
from dicomnode.cli.listing import AsJson, Cell, Config, show_rows
from dicomnode.cli.operator import opened
from dicomnode.cli.studies import StudyArgument, find_versions
from dicomnode.errors import ConfigError, DicomnodeError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dicomnode.db.explanations import SimilarImage, StudyCode
    from dicomnode.db.tables import ExplanationRow

CAPTION = "AI RESULT - NOT FOR DIAGNOSIS\nmodel attention, not a lesion outline\n"


def explain(
    study: StudyArgument,
    out: Annotated[Path, typer.Option(help="Folder for the pictures; it is made.")],
    config_file: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write the maps of where a study's findings come from, over its images, as PNG. Research mode only."""
    from dicomnode.db import explanations, studies

    settings = config.load(config_file)
    if settings.results.mode != "research":
        raise ConfigError('heat maps are shown in research mode only: set results.mode = "research"')
    with opened(config.load(config_file)) as database, database.read() as session:
        versions = find_versions(session, study)
        version = next((v for v in versions if explanations.explanations_of(session, v.id)), versions[0])
        found = explanations.explanations_of(session, version.id)
        paths = {image.sop_instance_uid: image.path for image, _ in studies.members(session, version.id)}
    if not found:
        raise ConfigError(f"study version {version.id} has no explanation; analysis.explanations says what gets one")
    out.mkdir(parents=True, exist_ok=True)
    root = settings.node.data_dir
    shown = [_picture(row, name, root, paths[row.sop_instance_uid], out, settings) for row, name in found]
    show_rows(shown, as_json=as_json, title="explanations")


def _picture(
    row: "ExplanationRow", bundle: str, root: Path, image: str, out: Path, settings: config.Settings
) -> dict[str, Cell]:
    listed: dict[str, Cell] = {
        "bundle": bundle,
        "label": row.label,
        "method": row.method,
        "sop_instance_uid": row.sop_instance_uid,
        "picture": "",
        "reason": row.reason,
    }
    if not row.path:
        return listed
    picture = out / f"{row.id}_{bundle}.png"
    try:
        content = _overlay(root / row.path, root / image, f"{CAPTION}{bundle}: {row.label}", settings)
    except (DicomnodeError, OSError) as exc:
        return listed | {"reason": str(exc)}
    picture.write_bytes(content)
    return listed | {"picture": str(picture)}


def _overlay(heat: Path, image: Path, caption: str, settings: config.Settings) -> bytes:
    import numpy as np
    from PIL import Image

    from dicomnode.inference.decode import decode
    from dicomnode.inference.display import Voi
    from dicomnode.inference.explain import overlay, png

    pixels = decode(image, Voi(), settings.analysis.max_image_pixels)
    with Image.open(heat) as opened:
        grey = np.asarray(opened, dtype=np.uint8)
    return png(overlay(pixels, grey, caption))


def similar(
    study: StudyArgument,
    config_file: Config = None,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many studies.")] = 10,
) -> None:
    """List the earlier studies of this node whose images look most alike, by an autoencoder's code; nearest first."""
    from dicomnode.db import explanations

    with opened(config.load(config_file)) as database, database.read() as session:
        versions = find_versions(session, study)
        version = next((v for v in versions if explanations.codes_of(session, v.id)), versions[0])
        by_bundle: dict[str, list[StudyCode]] = {}
        for code in explanations.codes_of(session, version.id):
            by_bundle.setdefault(code.bundle_name, []).append(code)
        if not by_bundle:
            raise ConfigError(f"no active bundle gave the images of study version {version.id} a code")
        rows = [row for codes in by_bundle.values() for row in _nearest(session, version.id, codes, limit)]
    show_rows(rows, as_json=as_json, title="similar earlier studies")


def _nearest(session: "Session", version_id: int, codes: "list[StudyCode]", limit: int) -> list[dict[str, Cell]]:
    """Return the nearest studies by the codes of one bundle; a study counts by its nearest image."""
    from dicomnode.db import explanations
    from dicomnode.inference.similar import nearest

    ids, others = explanations.all_codes(session, codes[0].weights_digest)
    found: dict[str, tuple[float, SimilarImage]] = {}
    ranked = nearest([code.code for code in codes], others)
    while some := list(islice(ranked, 50)):
        known = explanations.earlier_images(session, [ids[position] for position, _ in some], version_id)
        for position, distance in some:
            image = known.get(ids[position])
            if image is not None:
                found.setdefault(image.study_instance_uid, (distance, image))
            if len(found) == limit:
                return [_row(codes[0].bundle_name, *one) for one in found.values()]
    return [_row(codes[0].bundle_name, *one) for one in found.values()]


def _row(bundle: str, distance: float, image: "SimilarImage") -> dict[str, Cell]:
    return {
        "distance": round(distance, 4),
        "study_instance_uid": image.study_instance_uid,
        "version": image.version_id,
        "source": image.source_ae_title,
        "received_at": image.received_at,
        "priority": image.priority,
        "sop_instance_uid": image.sop_instance_uid,
        "bundle": bundle,
    }
