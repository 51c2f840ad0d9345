"""A line that is cut in mid C-STORE or before the answer: the PACS gets the same bytes again, never a second object."""

from contextlib import ExitStack

import pytest

from tests.chaos.hospital import open_hospital
from tests.chaos.invariant import unsettled, violations
from tests.chaos.ledger import Ledger, send_until_acknowledged, study_images
from tests.hospital import wait_for


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    with ExitStack() as stack:
        hospital = open_hospital(stack, tmp_path_factory.mktemp("cut"))
        hospital.node.start()
        yield hospital


def cut_in_mid_store(hospital):
    hospital.lines["pacs0"].cut_after(4000)


def cut_before_the_answer(hospital):
    hospital.pacs["pacs0"].cut_after_store(2)


@pytest.mark.parametrize(("cut", "stores"), [(cut_in_mid_store, 1), (cut_before_the_answer, 3)])
def test_report_arrives_once_with_the_bytes_of_the_spool(hospital, tmp_path, cut, stores):
    ledger, (pacs,) = Ledger(tmp_path / "ledger"), hospital.pacs.values()
    known = {a.sop_instance_uid for a in pacs.accepted}
    cut(hospital)
    send_until_acknowledged(study_images("cut", stores, 1), [hospital.port], ledger, lambda: False)
    wait_for(lambda: not unsettled(hospital.node.database, ledger.studies), 240, hospital.node.log_tail)
    (report,) = [a for a in pacs.accepted if a.sop_instance_uid not in known]
    assert (report.count, report.differing) == (stores, 0)
    assert violations(hospital.node.database, hospital.node.settings.node.data_dir, {}, hospital.pacs) == []
