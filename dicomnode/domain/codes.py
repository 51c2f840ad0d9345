"""Coded concepts that the node writes, each with its source.

Standard: PS3.16 (context groups). `D`: in DICOM's own context groups; SNOMED codes pass the Verhoeff check (unit test).
"""

from dicomnode.domain.findings import BundleResult, Code, Priority

CODING_SCHEME = "99DICOMNODE"

# findings: class codes stand in the bundle's manifest; these are the node's own
ABNORMAL = Code("263654008", "SCT", "Abnormal")  # CID 242
PRESENCE = Code("705057003", "SCT", "Presence")
PRESENT = Code("52101004", "SCT", "Present")  # CID 240
ABSENT = Code("272519000", "SCT", "Absent")  # CID 240
NORMALITY = Code("121402", "DCM", "Normality")
ABNORMALLY_HIGH = Code("371879000", "SCT", "Abnormally High")  # CID 222
NORMAL = Code("17621005", "SCT", "Normal")  # CID 222
PROBABILITY = Code("122157", "DCM", "Probability")
THRESHOLD_VALUE = Code("122411", "DCM", "Threshold Value")
COMMENT = Code("121106", "DCM", "Comment")
ANOMALY_SCORE = Code("ANOMALY_SCORE", CODING_SCHEME, "Anomaly score")
VISUAL_EXPLANATION = Code("130401", "DCM", "Visual explanation")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162

# study level, TID 1500 row 12
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
PRIORITY = Code("260870009", "SCT", "Priority")
PRIORITY_VALUES = {
    Priority.CRITICAL: Code("49499008", "SCT", "Stat"),
    Priority.URGENT: Code("103391001", "SCT", "Urgent"),  # CID 3414
    Priority.ROUTINE: Code("50811001", "SCT", "Routine"),
}
PROCESSING_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
SUCCEEDED_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")  # CID 6047
SUCCEEDED_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")  # CID 6047
PARTLY_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")  # CID 6047
PARTLY_WITHOUT_FINDINGS = Code("111243", "DCM", "Not all algorithms succeeded; without findings")  # CID 6047

# procedure reported, CID 100
CT_PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")
MR_PROCEDURE = Code("25056-3", "LN", "MRI unspecified body region")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")

SCORE_UNIT = Code("{score}", "UCUM", "score")
PERCENT = Code("%", "UCUM", "Percent")

LUNG = Code("39607008", "SCT", "Lung")
CHEST = Code("816094009", "SCT", "Chest")


def processing_summary(results: tuple[BundleResult, ...]) -> Code:
    """Return the run status of a study (CID 6047); not applicable, or withheld by the gate, is no success."""
    suspected = any(finding.is_suspected for result in results for finding in result.findings)
    unusual = any(result.anomaly.is_unusual for result in results if result.anomaly)
    if any(result.not_applicable or result.withheld for result in results):
        return PARTLY_WITH_FINDINGS if suspected or unusual else PARTLY_WITHOUT_FINDINGS
    return SUCCEEDED_WITH_FINDINGS if suspected or unusual else SUCCEEDED_WITHOUT_FINDINGS


def _verhoeff_tables() -> tuple[list[list[int]], list[list[int]]]:
    d = [[(i + j) % 5 if j < 5 else 5 + (i + j) % 5 for j in range(10)] for i in range(5)]
    d += [[5 + (i - j) % 5 if j < 5 else (i - j) % 5 for j in range(10)] for i in range(5, 10)]
    p = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    for _ in range(6):
        p.append([p[-1][p[1][i]] for i in range(10)])
    return d, p


_MULTIPLY, _PERMUTE = _verhoeff_tables()


def is_snomed_identifier(value: str) -> bool:
    """Return whether `value` is a SNOMED CT identifier by its Verhoeff check digit (SNOMED RF2 section 6)."""
    if not value.isascii() or not value.isdigit() or not 6 <= len(value) <= 18:
        return False
    check = 0
    for position, digit in enumerate(reversed(value)):
        check = _MULTIPLY[check][_PERMUTE[position % 8][int(digit)]]
    return check == 0
