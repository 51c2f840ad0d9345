"""The whole hospital on one machine: a modality, the node, a PACS; what happens between them is watched and judged."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset

from dicomnode.config import ModelSettings
from dicomnode.demo import modality, verdict
from dicomnode.demo.archive import LOOPBACK, Archive, ReservedPort
from dicomnode.demo.examinations import Examination, examinations
from dicomnode.demo.modality import Sent
from dicomnode.demo.node import RunningNode
from dicomnode.demo.orthanc import Orthanc
from dicomnode.demo.pacs import DemoPACS
from dicomnode.demo.show import Show
from dicomnode.demo.watch import ObjectLine, VersionLine, Watch, with_pacs
from dicomnode.domain.lifecycle import DeliveryState
from dicomnode.errors import ConfigError

MODALITY_AE_TITLE = "DEMO_XRAY"
LOOK_EVERY_S, LOOK_SHARE = 0.25, 5  # looking takes at most a sixth of the time, however many studies there are
STALLED_AFTER_S = 120.0  # without any change; a whole demo takes a quarter of it
ATTEMPTS_SHOWN, LONGEST_OUTAGE_S = 2, 15.0

SETTINGS = """\
# Settings of a demo node: everything on this machine, quick to close a study and to try a delivery again.

[node]
data_dir = "data"

[receiver]
host = "{host}"
port = {port}
min_free_bytes = 67108864

[study]
quiet_period_s = {quiet_period_s}
sweep_interval_s = 0.25

[delivery]
first_retry_s = 0.5
max_retry_s = 2.0

[peers.modality]
ae_title = "{modality}"
sends = true

[peers.pacs]
ae_title = "{pacs.ae_title}"
host = "{pacs.host}"
port = {pacs.port}
destination = true
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo does; `images` is a folder of pictures, None for synthetic radiographs."""

    folder: Path
    with_orthanc: bool = False
    images: Path | None = None
    stop_pacs: bool = False
    quiet_period_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Outage:
    """The time without a PACS; `waiting` counts the deliveries that waited, `attempts` what they tried meanwhile."""

    seconds: float
    waiting: int
    attempts: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; `missing` is empty if the demo kept every promise. `first_report_s` counts from `began`."""

    examinations: tuple[Examination, ...]
    versions: tuple[VersionLine, ...]
    first_report_s: float | None
    seconds: float
    outage: Outage | None
    missing: tuple[str, ...]


def run(plan: Plan, show: Show, began: float) -> Outcome:
    """Run the demo; `began` is the moment of the command on the monotonic clock.

    Ends every process that it started, however it ends. Raises `ConfigError`, `NodeDied`, `PeerRefused` and
    `PeerUnavailable` where it cannot go on.
    """
    _claim(plan.folder)
    with ExitStack() as stack:
        pacs = _pacs(plan)
        stack.callback(pacs.close)
        port = ReservedPort()
        stack.callback(port.close)
        text = SETTINGS.format(
            host=LOOPBACK, port=port.number, quiet_period_s=plan.quiet_period_s, modality=MODALITY_AE_TITLE, pacs=pacs
        )
        node = RunningNode(plan.folder / "node", text)
        stack.callback(node.database.close)
        stack.callback(node.stop)
        worker = ThreadPoolExecutor(1, "modality")
        stack.callback(worker.shutdown, cancel_futures=True)
        made = worker.submit(examinations, plan.images, ModelSettings(), datetime.now(UTC))
        pacs.start()
        show.say(f"The PACS {pacs.ae_title} answers on {pacs.host}:{pacs.port}. The node starts ...")
        node.start()
        show.say(f"The node answers on {LOOPBACK}:{port.number} after {time.monotonic() - began:.1f} s.")
        return _Day(plan, show, began, pacs, node, worker, made.result()).watch()


def _claim(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there and not empty; a demo begins in a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)


def _pacs(plan: Plan) -> Archive:
    folder = plan.folder / "pacs"
    return Orthanc(folder) if plan.with_orthanc else DemoPACS(folder)


class _Day:
    """One day of the hospital: what was sent, what was seen, what is still to come."""

    def __init__(
        self,
        plan: Plan,
        show: Show,
        began: float,
        pacs: Archive,
        node: RunningNode,
        worker: ThreadPoolExecutor,
        made: list[Examination],
    ) -> None:
        self._show, self._began = show, began
        self._pacs, self._node, self._worker = pacs, node, worker
        self._examinations = made
        self._watch = Watch(node.database, [examination.study_instance_uid for examination in made])
        self._sending: list[Future[list[Sent]]] = []
        self._late: Examination | None = None
        self._first_report_s: float | None = None
        self._wants_outage = plan.stop_pacs
        self._away_since: float | None = None
        self._outage: Outage | None = None

    def watch(self) -> Outcome:
        """Send everything, look until all rests, and judge."""
        self._show.begin({e.study_instance_uid: e.name for e in self._examinations})
        self._show.say(f"{MODALITY_AE_TITLE} sends {len(self._examinations)} studies by C-STORE.")
        for examination in self._examinations:
            self._send([*examination.images])
        versions: list[VersionLine] = []
        changed_at, pause_s = time.monotonic(), LOOK_EVERY_S
        while not self._is_over(versions) and time.monotonic() - changed_at < STALLED_AFTER_S:
            time.sleep(pause_s)
            started = time.monotonic()
            before, versions = versions, self._look()
            pause_s = max(LOOK_EVERY_S, LOOK_SHARE * (time.monotonic() - started))
            if versions != before:
                changed_at = time.monotonic()
                self._show.update(versions)
            self._note_first_report(versions)
            self._take_pacs_away_and_bring_it_back(versions)
            self._send_late_image(versions)
        return self._outcome(versions)

    def _send(self, images: list[Dataset]) -> None:
        port = self._node.settings.receiver.port
        called = self._node.settings.node.ae_title
        self._sending.append(self._worker.submit(modality.send, images, LOOPBACK, port, MODALITY_AE_TITLE, called))

    def _look(self) -> list[VersionLine]:
        for sent in self._sending:
            if sent.done():
                sent.result()  # raises what went wrong
        return with_pacs(self._watch.look(), self._pacs.accepted)

    def _is_over(self, versions: Sequence[VersionLine]) -> bool:
        """Whether everything was sent and rests."""
        expected = len(self._examinations) + (self._late is not None)
        all_sent = all(sent.done() for sent in self._sending)
        has_outage = self._wants_outage or self._away_since is not None
        return all_sent and not has_outage and len(versions) >= expected and all(v.rests for v in versions)

    def _note_first_report(self, versions: Sequence[VersionLine]) -> None:
        if self._first_report_s is None and any(line.is_settled for v in versions for line in v.reports):
            self._first_report_s = time.monotonic() - self._began
            self._show.say(f"First Structured Report accepted {self._first_report_s:.1f} s after the command.")

    def _send_late_image(self, versions: Sequence[VersionLine]) -> None:
        """Send one more image of the first study whose report the PACS has."""
        if self._late is not None:
            return
        reported = {v.study_instance_uid for v in versions if any(line.is_settled for line in v.reports)}
        for examination in self._examinations:
            if examination.study_instance_uid in reported:
                self._late = examination
                self._show.say(f"A late image of {examination.name} is sent: version 2 will replace version 1.")
                self._send([examination.late_image()])
                return

    def _take_pacs_away_and_bring_it_back(self, versions: Sequence[VersionLine]) -> None:
        if self._wants_outage and versions:
            self._wants_outage = False
            self._away_since = time.monotonic()
            self._pacs.stop()
            self._show.say(f"The PACS is taken away: {len(versions)} studies were received so far.")
        elif self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            if not self._has_shown_waiting(versions, away_s):
                return
            self._outage = _outage(versions, away_s)
            self._away_since = None
            self._pacs.start()
            self._show.say(
                f"The PACS is back after {away_s:.1f} s: {self._outage.waiting} deliveries waited, "
                f"tried {self._outage.attempts} times."
            )

    def _has_shown_waiting(self, versions: Sequence[VersionLine], away_s: float) -> bool:
        """Whether every study waits for the PACS or has ended; after a while one that waits is enough."""
        if away_s > LONGEST_OUTAGE_S and any(_waits(line) for v in versions for line in v.objects):
            return True
        if len(versions) < len(self._examinations):
            return False
        return all(
            v.rests or (v.objects and all(_waits(o) or o.delivery.is_settled for o in v.objects)) for v in versions
        )

    def _outcome(self, versions: Sequence[VersionLine]) -> Outcome:
        accepted = self._pacs.accepted
        found = verdict.missing(self._examinations, versions, accepted, self._late)
        if self._outage is not None and not self._outage.waiting:
            found.append("no delivery waited while the PACS was away")
        found += [f"an image was answered with {answer}" for answer in self._refused()]
        if not self._is_over(versions):
            found.append(f"nothing changed for {STALLED_AFTER_S:g} s; see {self._node.log_file}")
        seconds = time.monotonic() - self._began
        return Outcome(
            tuple(self._examinations), tuple(versions), self._first_report_s, seconds, self._outage, tuple(found)
        )

    def _refused(self) -> list[str]:
        answers = [answer for sent in self._sending if sent.done() for answer in sent.result()]
        return ["nothing" if a.status is None else f"0x{a.status:04X}" for a in answers if a.status != 0]


def _waits(line: ObjectLine) -> bool:
    return not line.delivery.is_settled and line.attempts >= ATTEMPTS_SHOWN


def _outage(versions: Sequence[VersionLine], seconds: float) -> Outage:
    waiting = [line for v in versions for line in v.objects if not line.delivery.is_settled]
    reasons = sorted({line.error for line in waiting if line.error and line.delivery is DeliveryState.WAITING})
    return Outage(seconds, len(waiting), sum(line.attempts for line in waiting), tuple(reasons))
