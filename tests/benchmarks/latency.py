"""From the last accepted image to the report accepted by the PACS, less the quiet period. Goal: a median of 1 s.

python -m tests.benchmarks.latency [--studies 15] [--postgresql URL]
"""

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from dicomnode.demo.pacs import DemoPACS
from tests.hospital import SR, Hospital, chest

QUIET_S = 1.0


def main() -> None:
    """Print the latency of each study and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=15)
    parser.add_argument("--postgresql", default="", help="URL of an empty database; else SQLite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, DemoPACS(Path(folder) / "pacs") as pacs:
        hospital = Hospital(
            Path(folder) / "node", {"pacs": pacs}, quiet_period_s=QUIET_S, database_url=arguments.postgresql
        )
        with hospital.node:
            time.sleep(QUIET_S + 1)
            measured = [_latency(hospital, pacs, number) for number in range(arguments.studies)]
    print("seconds a study:", " ".join(f"{value:.2f}" for value in measured))
    print(
        f"median {statistics.median(measured):.2f} s, longest {max(measured):.2f} s, quiet period {QUIET_S} s taken off"
    )


def _latency(hospital: Hospital, pacs: DemoPACS, number: int) -> float:
    image = chest(study=1000 + number)
    assert hospital.send(image) == [0]
    sent_at = datetime.now(UTC)
    study = str(image.StudyInstanceUID)
    assert pacs.wait_for(
        lambda ledger: any(a.study_instance_uid == study and a.sop_class_uid == SR for a in ledger), 60
    )
    at = next(a.at for a in pacs.accepted if a.study_instance_uid == study and a.sop_class_uid == SR)
    time.sleep(0.137 * (number % 7))  # studies do not come in step with the sweep
    return (at - sent_at).total_seconds() - QUIET_S


if __name__ == "__main__":
    main()
