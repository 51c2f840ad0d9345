"""What an explanation costs at 3000 x 2500 pixels, and a search among 100,000 codes.

python -m tests.benchmarks.insight [--codes 100000]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import torch
from sqlalchemy import insert

from dicomnode.db import explanations, migrate
from dicomnode.db.session import Database
from dicomnode.db.tables import Analysis, ImageCodeRow, Study, StudyVersion
from dicomnode.inference import bundle as bundles
from dicomnode.inference.explain import Explainer
from dicomnode.inference.similar import nearest

ROWS, COLUMNS = 3000, 2500
STUDIES = 100
WHEN = datetime(2026, 1, 2, tzinfo=UTC)


def median_ms(work: Callable[[], object], times: int = 7) -> float:
    """Return the median of the processor milliseconds of `work`, after once for warming up."""
    work()
    seconds = []
    for _ in range(times):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 1000 * statistics.median(seconds)


def explain() -> None:
    """Print what a map of each chest bundle costs, and what of it is the forward pass."""
    image = np.random.default_rng(1).random((ROWS, COLUMNS), np.float32)
    for name in ("chest_xray_pneumonia", "chest_xray_anomaly"):
        bundle = bundles.load(bundles.builtin_directory() / name, threads=1)
        tensor, explainer = bundle.prepare(image), Explainer(bundle)
        classifier = bundle.manifest.classifier
        label = "" if classifier is None else classifier.names[0]
        whole = median_ms(lambda e=explainer, t=tensor, text=label: e.explain(image, t, text))  # type: ignore[misc]
        forward = median_ms(lambda b=bundle, t=tensor: b.run(t[None]))  # type: ignore[misc]
        size = len(explainer.explain(image, tensor, label).png)
        print(f"{name}: map of {ROWS} x {COLUMNS} {whole:.0f} ms, {size >> 10} KiB; forward pass {forward:.1f} ms")


def search(count: int) -> None:
    """Print how long the ten nearest of `count` codes take, from the rows to the studies."""
    generator = np.random.default_rng(1)
    codes = generator.normal(size=(count, 64)).astype("<f4")
    with tempfile.TemporaryDirectory() as folder, closing(Database(f"sqlite:///{folder}/rows.sqlite")) as database:
        migrate.upgrade(database)
        with database.write() as session:
            for table, rows in _rows(codes):
                session.execute(insert(table), rows)
        with database.read() as session:
            own = [codes[-1].tobytes()]
            started = time.process_time()
            ids, others = explanations.all_codes(session, "w")
            read = time.process_time()
            best = list(islice(nearest(own, others), 11))
            explanations.earlier_images(session, [ids[position] for position, _ in best], STUDIES)
            ended = time.process_time()
    assert best[0] == (count - 1, 0.0)
    print(f"{count} codes: {ended - started:.2f} s, {read - started:.2f} s of it to read the rows")


def _rows(codes):  # type: ignore[no-untyped-def]
    numbers = range(1, STUDIES + 1)
    yield Study, [{"id": n, "study_instance_uid": f"1.{n}", "first_received_at": WHEN} for n in numbers]
    version = {"number": 1, "state": "DONE", "source_ae_title": "XRAY1", "instance_count": 1, "run": 1, "attempts": 1}
    version |= {"state_changed_at": WHEN, "opened_at": WHEN, "last_instance_at": WHEN}
    yield StudyVersion, [version | {"id": n, "study_id": n, "uid": f"2.{n}"} for n in numbers]
    analysis = {"position": 0, "bundle_name": "b", "bundle_version": "1", "bundle_kind": "anomaly", "bundle_title": ""}
    analysis |= {"bundle_digest": "d", "weights_digest": "w", "parameters": [], "assessed": [], "finished_at": WHEN}
    yield Analysis, [analysis | {"id": n, "version_id": n, "seconds": 0.0} for n in numbers]
    yield (
        ImageCodeRow,
        [
            {
                "analysis_id": 1 + n % STUDIES,
                "sop_instance_uid": f"3.{n}",
                "weights_digest": "w",
                "code": code.tobytes(),
            }
            for n, code in enumerate(codes)
        ],
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=100_000)
    parser.add_argument("--only-search", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.only_search:
        explain()
    search(arguments.codes)


if __name__ == "__main__":
    main()
