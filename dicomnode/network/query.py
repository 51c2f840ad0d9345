"""Asking a peer what it holds: how many instances a study has there.

Standard: PS3.4 C.4.1 (C-FIND SCU), C.6.2.1 (Study Root), C.3.4 (Number of Study Related Instances, optional).
"""

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.network.scu import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, associate

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING = frozenset({0xFF00, 0xFF01})
_SUCCESS = 0x0000


def related_instances(
    peer: PeerSettings, calling_ae_title: str, study_instance_uid: str, settings: DeliverySettings
) -> int | None:
    """Return how many instances of a study the peer says it holds, `None` where it knows no study or no number.

    Raises `PeerUnavailable` if it does not answer, `PeerRefused` if it takes no C-FIND or refuses this one.
    """
    syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
    assoc = associate(peer, calling_ae_title, settings, [build_context(STUDY_ROOT_FIND, syntaxes)])
    try:
        found: int | None = None
        for response, identifier in assoc.send_c_find(_identifier(study_instance_uid), STUDY_ROOT_FIND):
            if "Status" not in response:
                raise PeerUnavailable(f"{peer.ae_title} did not answer C-FIND")
            if response.Status in _PENDING and identifier is not None:
                found = _count(identifier, study_instance_uid, found)
            elif response.Status != _SUCCESS:
                raise PeerRefused(f"{peer.ae_title} answered C-FIND with 0x{response.Status:04X}")
        return found
    finally:
        assoc.release()


def _identifier(study_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.NumberOfStudyRelatedInstances = None
    return identifier


def _count(identifier: Dataset, study_instance_uid: str, before: int | None) -> int | None:
    """Return the number that an answer gives, the earlier one where it tells of another study or gives none."""
    if identifier.get("StudyInstanceUID") != study_instance_uid:
        return before
    try:
        return int(identifier.get("NumberOfStudyRelatedInstances") or 0) or before
    except (TypeError, ValueError):
        return before
