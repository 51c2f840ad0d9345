"""A C-STORE of bytes as they are, also of those that no library would read or write."""

import io
from pathlib import Path

from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE


def store(
    port, dataset, sop_class_uid, sop_instance_uid, transfer_syntax_uid, *, calling="MODALITY", called="DICOMNODE"
):
    """Send `dataset` (bytes) and return status and error comment; None where the SOP Class was not accepted."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    context = build_context(sop_class_uid, transfer_syntax_uid)
    assoc = ae.associate("127.0.0.1", port, contexts=[context], ae_title=called, max_pdu=131072)
    if assoc.is_aborted:  # pynetdicom aborts an association without an accepted context
        return None, "the SOP Class was not accepted"
    assert assoc.is_established, "the association was not accepted"
    try:
        request = C_STORE()
        request.MessageID = 1
        request.AffectedSOPClassUID = UID(sop_class_uid)
        request.AffectedSOPInstanceUID = UID(sop_instance_uid)
        request.Priority = 2
        request.DataSet = io.BytesIO(dataset)
        assoc._reactor_checkpoint.clear()
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        _, answer = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
        return answer.Status, str(answer.ErrorComment or "")
    finally:
        assoc.release()


def dataset_bytes(path: Path) -> tuple[bytes, str]:
    """Return what stands behind the file meta information, and the transfer syntax that it names."""
    content = path.read_bytes()
    at = 132 if content[128:132] == b"DICM" else 0
    syntax = str(ImplicitVRLittleEndian)
    if at == 0 and content[:2] != b"\x02\x00":
        return content, syntax
    while at + 8 <= len(content) and content[at : at + 2] == b"\x02\x00":
        tag, vr = content[at : at + 4], content[at + 4 : at + 6]
        if vr in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            length, value = int.from_bytes(content[at + 8 : at + 12], "little"), at + 12
        else:
            length, value = int.from_bytes(content[at + 6 : at + 8], "little"), at + 8
        if tag == b"\x02\x00\x10\x00":
            syntax = content[value : value + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = value + length
    return content[at:], syntax
