"""The walk over public files of many vendors, beside pydicom."""

import csv
import random
from pathlib import Path

import pytest

from dicomnode.errors import UnreadableObject
from dicomnode.network.walk import walk

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
IMPLICIT = "1.2.840.10008.1.2"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / "index.csv").is_file(), reason=f"{DATA} is not there"),
]
REFUSED = {
    "is cut": ["GH1339", "MR_truncated", "rtplan_truncated"],
    "has no Study, Series or SOP UID": [
        "GH220", "GH223", "no-number-rows", "NeurosurgeryPlan", "Issue111", "Issue195-bis", "Issue195.", "Issue196",
        "chrSQEncoding", "fall.dcm", "JPEGLSNearLossless_16", "jls_lossy_line", "UN_sequence", "DICOMDIR-empty",
        "DICOMDIR-implicit", "empty_charset_LEI", "meta_missing_tsyntax", "no_meta_group_length", "HTJ2K_08_RGB",
        "JLSL_16_15_1_1F", "JLSL_RGB_ILV2", "fo-dicom-samples__aaf3ad54__test1",
    ],
    "is ACR-NEMA": ["GH340"],
    "has an item where none can be": ["GH364"],
    "is nested too deeply": ["Deeply-Nested"],
    "is big endian without saying so": ["ExplVR_BigEndNoMeta"],
}  # fmt: skip


def _dataset(path: Path, named_syntax: str) -> tuple[bytes, str]:
    """Return the data set of a file and its transfer syntax; group 0002 is Explicit VR Little Endian (PS3.10 7.1)."""
    raw, syntax = path.read_bytes(), named_syntax or IMPLICIT
    pos = 132 if raw[128:132] == b"DICM" else 0
    while raw[pos : pos + 2] == b"\x02\0":
        is_long = raw[pos + 4 : pos + 6] in (b"OB", b"UN", b"UT", b"SQ", b"OW")
        at, size = (pos + 8, 4) if is_long else (pos + 6, 2)
        end = at + size + int.from_bytes(raw[at : at + size], "little")
        if raw[pos + 2 : pos + 4] == b"\x10\0":
            syntax = raw[at + size : end].rstrip(b"\0 ").decode()
        pos = end
    return raw[pos:], syntax


def _rows() -> list[dict[str, str]]:
    with (DATA / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_whole_file_is_walked_and_every_other_refused_for_its_reason():
    unexpected = []
    known = [name for names in REFUSED.values() for name in names]
    for row in _rows():
        data, syntax = _dataset(DATA / row["file"], row["ts_uid"])
        try:
            header = walk(data, syntax)
            if row["sop_instance_uid"] and header.sop_instance_uid != row["sop_instance_uid"]:
                unexpected.append(f"{row['file']}: another SOP Instance UID")
            if any(name in row["file"] for name in known):
                unexpected.append(f"{row['file']}: walked")
        except UnreadableObject as exc:
            if not any(name in row["file"] for name in known):
                unexpected.append(f"{row['file']}: {exc}")
    assert not unexpected


def test_cut_files_are_refused_unless_cut_between_two_elements():
    rng, accepted, cuts = random.Random(1), 0, 0
    for row in _rows():
        data, syntax = _dataset(DATA / row["file"], row["ts_uid"])
        for _ in range(10):
            cuts += 1
            try:
                walk(data[: rng.randrange(len(data))], syntax)
                accepted += 1
            except UnreadableObject:
                pass
    assert cuts == 10 * len(_rows())
    assert accepted < cuts / 50  # what no walk can see: all that is there is whole
