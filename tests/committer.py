"""A PACS that answers storage commitment: on the association that asks, or on one that it opens. PS3.4 annex J."""

import threading

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt

from dicomnode.config import PeerSettings
from tests.hospital import SR

COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
VERIFICATION, EXPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2.1"


class Committer:
    """`failures` maps SOP Instance UIDs to the Failure Reason of the next answer; `back` is (host, port) or None.

    With `back` it reports on an association of its own; without, on the one that asks. `silent` answers are lost.
    """

    def __init__(self, back=None, ae_title="PACS"):
        self.back, self.failures, self.silent = back, {}, 0
        self.received, self.asked, self.reported = [], [], []
        self.action_status = 0x0000
        self.ae = AE(ae_title)
        for sop_class in (VERIFICATION, SR, COMMITMENT):
            self.ae.add_supported_context(sop_class, [EXPLICIT, "1.2.840.10008.1.2"])
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self.server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]
        self.ae_title = ae_title
        self.peer = PeerSettings(ae_title=ae_title, host="127.0.0.1", port=self.port, destination=True, commitment=True)
        self._threads = []

    def _store(self, event):
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    def _action(self, event):
        request = event.action_information
        self.asked.append([str(item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence])
        if self.action_status == 0 and self.silent == 0:
            thread = threading.Thread(target=self._report, args=(event.assoc, self._result(request)))
            self._threads.append(thread)
            thread.start()
        self.silent = max(0, self.silent - 1)
        return self.action_status, None

    def _result(self, request):
        result, kept, failed = Dataset(), [], []
        result.TransactionUID = request.TransactionUID
        for item in request.ReferencedSOPSequence:
            reason = self.failures.pop(str(item.ReferencedSOPInstanceUID), None)
            if reason is None:
                kept.append(item)
            else:
                item.FailureReason = reason
                failed.append(item)
        if kept:
            result.ReferencedSOPSequence = kept
        if failed:
            result.FailedSOPSequence = failed
        return result

    def _report(self, assoc, result):
        event_type = 2 if "FailedSOPSequence" in result else 1
        if self.back is None:
            self.reported.append(self.report(assoc, result, event_type))
            return
        caller = AE(self.ae_title)
        caller.add_requested_context(COMMITMENT)
        opened = caller.associate(*self.back, ext_neg=[build_role(COMMITMENT, scp_role=True)], ae_title="DICOMNODE")
        if opened.is_established:
            self.reported.append(self.report(opened, result, event_type))
            opened.release()
        else:
            self.reported.append("refused")

    @staticmethod
    def report(assoc, result, event_type):
        """Send an N-EVENT-REPORT and return the status of its response."""
        status, _ = assoc.send_n_event_report(result, event_type, COMMITMENT, COMMITMENT_INSTANCE)
        return status.get("Status")

    def close(self):
        for thread in self._threads:
            thread.join(10)
        self.server.shutdown()
        for assoc in self.ae.active_associations:
            assoc.abort()
            assoc.join(30)
