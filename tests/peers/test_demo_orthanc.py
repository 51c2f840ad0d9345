"""`dicomnode demo --pacs orthanc`: a real Orthanc takes the results, goes down and comes back."""

import pytest
from pydicom import dcmread

from tests.demo_runs import demo, processes_of, reports
from tests.needs import require


@pytest.mark.orthanc
def test_orthanc_goes_down_and_gets_each_object_once(tmp_path):
    require("Orthanc")
    code, said, words = demo(tmp_path / "hospital", "--pacs", "orthanc", "--stop-pacs")
    assert (code, said["missing"]) == (0, []), words
    assert said["outage"]["waiting"] >= 2
    assert {line["accepted"] for line in reports(said)} == {1}
    for line in reports(said):
        assert str(dcmread(line["path"]).SOPInstanceUID) == line["sop_instance_uid"]
    assert processes_of(tmp_path) == []
