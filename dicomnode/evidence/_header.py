"""What all our objects have alike: series, equipment, dates, qualification.

Standard: PS3.3 C.7.3.1 (General Series), C.7.5.2 (Enhanced General Equipment), C.12.1 (SOP Common).
"""

from datetime import datetime, timedelta, timezone
from typing import TypedDict

from pydicom import Dataset

from dicomnode.evidence import Case
from dicomnode.evidence._source import restore, utc_offset


class SeriesArguments(TypedDict):
    """Arguments that every highdicom constructor takes."""

    series_instance_uid: str
    sop_instance_uid: str
    series_number: int
    instance_number: int
    series_description: str
    manufacturer: str
    manufacturer_model_name: str
    device_serial_number: str
    software_versions: str
    content_qualification: str


def series_arguments(case: Case, encoder: str, kind: str, number: int) -> SeriesArguments:
    """Return series, instance and equipment: one object, one series, both UIDs the same every time."""
    return SeriesArguments(
        series_instance_uid=case.uid(encoder, "series"),
        sop_instance_uid=case.uid(encoder, "instance"),
        series_number=number,
        instance_number=1,
        series_description=kind,
        manufacturer=case.node.manufacturer,
        manufacturer_model_name=case.node.model_name,
        device_serial_number=case.node.serial_number,
        software_versions=case.node.software_version,
        content_qualification="RESEARCH",
    )


def complete(ds: Dataset, case: Case) -> None:
    """Give `ds` the true patient and study, our station, and `created_at` wherever highdicom read the clock."""
    restore(ds, case.sources[0])
    at = local_time(case)
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")
    for what in ("InstanceCreation", "Content", "Series"):
        setattr(ds, f"{what}Date", date)
        setattr(ds, f"{what}Time", time)
    ds.InstanceCreatorUID = case.node.device_uid
    ds.StationName = case.node.station_name
    for item in ds.ContributingEquipmentSequence:
        if item.get("ContributionDateTime") and item.ManufacturerModelName == "highdicom":
            item.ContributionDateTime = date + time


def local_time(case: Case) -> datetime:
    """Return `created_at` in the time zone that the source declares, else as it was given.

    Timezone Offset From UTC counts for every time of an object, so ours follows the study's.
    """
    offset = utc_offset(case.sources[0])
    if not offset:
        return case.created_at
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return case.created_at.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))
