"""A running node sees that what a modality sends has changed: a row, and an event that says so once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import select
from typer.testing import CliRunner

from dicomnode.cli.app import app
from dicomnode.db import drift
from dicomnode.db.tables import AuditEvent, Drift
from dicomnode.domain.lifecycle import State
from dicomnode.inference import bundle as bundles
from dicomnode.inference.preprocess import prepare
from tests.bundles import STEPS, manifest_values, write_bundle
from tests.hospital import Hospital, chest, wait_for

IMAGES = 12
SETTINGS = f"""
[models]
directories = ["MODELS"]
active = ["small_anomaly"]
[drift]
interval_s = 0.3
window_images = {IMAGES}
minimum_images = {IMAGES}
watch_psi = 1.4
alarm_psi = 1.8
"""


def shifted(number: int):
    """The same chest as another machine might send it: black and white exchanged."""
    image = chest(number)
    image.PixelData = (255 - image.pixel_array).astype(np.uint8).tobytes()
    return image


def score(network: torch.nn.Module, image) -> float:
    pixels = (image.pixel_array / 255).astype(np.float32)
    with torch.inference_mode():
        return float(network(prepare(pixels, STEPS)[None])[0, 0])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a small anomaly bundle that calls the scores of forty chests its reference."""
    values = manifest_values("small_anomaly", "anomaly")
    network = bundles.load(write_bundle(tmp_path / "first/small_anomaly", values)).network
    found = sorted(score(network, chest(number)) for number in range(40))
    values["anomaly"]["quantiles"] = [round(float(q), 6) for q in np.quantile(found, np.linspace(0, 1, 101))]
    values["anomaly"]["threshold"] = round(found[-1] + 10 * (found[-1] - found[0]), 6)
    write_bundle(tmp_path / "models/small_anomaly", values)
    return tmp_path / "models"


def test_shift_at_the_modality_becomes_a_row_and_an_event(tmp_path: Path, models: Path) -> None:
    hospital = Hospital(tmp_path / "node", {}, quiet_period_s=0.2, extra=SETTINGS.replace("MODELS", str(models)))
    database = hospital.node.database

    def newest() -> Drift | None:
        with database.read() as session:
            found = session.scalars(select(Drift).where(Drift.period == drift.RECENT).order_by(Drift.id.desc())).first()
        return found if found is not None and found.psi is not None else None

    def send(images) -> None:
        hospital.send(*images)
        for image in images:
            hospital.wait(image, State.DONE)

    with hospital.node:
        send([chest(number) for number in range(IMAGES)])
        row = wait_for(newest, 60, hospital.node.log_tail)
        assert (row.source_ae_title, row.n, row.state) == ("MODALITY", IMAGES, "ok")
        send([shifted(100 + number) for number in range(IMAGES)])
        wait_for(lambda: newest().state == "alarm", 60, hospital.node.log_tail)
        listed = CliRunner().invoke(app, ["drift", "-c", str(hospital.node.file)], catch_exceptions=False)
    assert "alarm" in listed.stdout
    assert "MODALITY" in listed.stdout
    with database.read() as session:
        actions = list(session.scalars(select(AuditEvent.action).where(AuditEvent.action.like("drift%"))))
    assert actions[-1] == "drift alarm"
    assert actions.count("drift alarm") == 1
    assert "drift state changed" in hospital.node.log_file.read_text(encoding="utf-8")
