"""A PACS is down while another is up: nothing is lost, nothing comes twice, and the other does not notice."""

from tests.outage import outage


def test_dead_pacs_gets_all_of_it_once_after_its_return_and_the_healthy_one_is_served_meanwhile(tmp_path):
    story = outage(
        tmp_path,
        f"sqlite:///{tmp_path / 'dicomnode.sqlite'}",
        before_s=1,
        outage_s=8,
        every_s=0.5,
        first_retry_s=0.2,
        longest_s=1,
    )
    assert story.during, "nothing was sent while the PACS was down"
    assert story.arrived_once == story.reports
    assert story.arrived_more == 0
    assert story.probes >= 3, "the circuit never opened"
    assert story.attempts < 3 * story.reports, "what waits was tried again and again"
