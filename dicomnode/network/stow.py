"""Sending over the web: STOW-RS to a DICOMweb server, one object a request, over one connection.

The bytes go out as they lie in the spool. Nothing that identifies a patient stands in the address.

Standard: PS3.18 10.5 (Store transaction), RFC 9110 (status codes, Retry-After), RFC 6750 (bearer tokens).
"""

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from dicomweb_client.session_utils import add_certs_to_session
from dicomweb_client.web import DICOMwebClient
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from requests.auth import AuthBase

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.network.access import printable
from dicomnode.network.scu import RESULT_SOP_CLASSES, Item, SendResult
from dicomnode.network.status import Outcome, classify, classify_http, describe

for _name in ("retrying", "dicomweb_client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they log each failure with its traceback
MAX_RETRY_AFTER_S = 3600.0
_TEXT_LENGTH = 200


class _Bearer(AuthBase):
    """The token of a file; with an own class `.netrc` is not asked, and no other host gets the token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, rq: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            rq.headers["Authorization"] = f"Bearer {self._token}"
        return rq


class _Session(requests.Session):
    """A session whose certificates of the settings go before `REQUESTS_CA_BUNDLE` of the environment."""

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        """Return the settings of a request."""
        merged = super().merge_environment_settings(*args, **kwargs)
        return merged if self.verify is True else {**merged, "verify": self.verify}


class WebLink:
    """A session of HTTP with a DICOMweb server, for one thread. It takes what it is sent, or says so of each object."""

    takes = tuple(RESULT_SOP_CLASSES)

    def __init__(self, peer: PeerSettings, session: requests.Session, settings: DeliverySettings) -> None:
        self._peer = peer
        self._answer: requests.Response | None = None
        self._client = DICOMwebClient(
            peer.stow_url,
            session=session,
            callback=self._remember,
            chunk_size=1 << 30,
            timeout=(settings.connect_timeout_s, settings.network_timeout_s),
        )
        self._client.set_http_retry_params(retry=False)

    def accepts(self, _sop_class_uid: str) -> bool:
        """Return whether it takes objects of a SOP Class: it is not known before they are sent."""
        return True

    def store(self, item: Item) -> SendResult:
        """Send an object by STOW-RS and return what became of it; never raises."""
        began, self._answer = time.perf_counter(), None
        try:
            self._client.store_instances([_unchanged(item)])
        except requests.RequestException as exc:
            if self._answer is None:
                return item.result(Outcome.UNAVAILABLE, _cause(self._peer, exc))
        except Exception as exc:  # noqa: BLE001  an answer that the client cannot read, or a file
            if self._answer is None:
                return item.result(Outcome.REFUSED, f"unreadable: {type(exc).__name__}: {printable(str(exc), 200)}")
        ms = 1000 * (time.perf_counter() - began)
        return judge(item, self._answer, ms, datetime.now(UTC)) if self._answer is not None else _lost(self._peer, item)

    def _remember(self, answer: requests.Response, *_args: object, **_kwargs: object) -> requests.Response:
        self._answer = answer
        return answer


def _lost(peer: PeerSettings, item: Item) -> SendResult:
    return item.result(Outcome.UNAVAILABLE, f"{peer.stow_url} did not answer")


@contextlib.contextmanager
def connect(peer: PeerSettings, settings: DeliverySettings) -> Iterator[WebLink]:
    """Give a session with a DICOMweb server. Raises `PeerRefused` if its token or its certificates cannot be read."""
    with _session(peer) as session:
        yield WebLink(peer, session, settings)


def probe(peer: PeerSettings, settings: DeliverySettings) -> float:
    """Return the ms that the server takes to answer OPTIONS, whatever it says of it.

    Raises `PeerUnavailable` if it does not answer or is not available, `PeerRefused` if token or certificates lack.
    """
    began = time.perf_counter()
    with _session(peer) as session:
        timeout = (settings.connect_timeout_s, settings.network_timeout_s)
        try:
            answer = session.options(f"{peer.stow_url}/studies", timeout=timeout)
        except requests.RequestException as exc:
            raise PeerUnavailable(_cause(peer, exc)) from exc
    if answer.status_code in (401, 403, 429, 502, 503, 504):
        raise PeerUnavailable(f"{peer.stow_url} answers HTTP {answer.status_code} {printable(answer.reason or '')}")
    return 1000 * (time.perf_counter() - began)


def _session(peer: PeerSettings) -> requests.Session:
    session = _Session()
    session.max_redirects = 0  # results go to the address in the settings, nowhere else
    try:
        token = peer.stow_token_file.read_text(encoding="utf-8").strip() if peer.stow_token_file else ""
        if peer.stow_ca_file:
            add_certs_to_session(session, ca_bundle=str(peer.stow_ca_file))
    except (OSError, UnicodeDecodeError) as exc:
        raise PeerRefused(f"{peer.stow_url}: stow_token_file or stow_ca_file: {exc}") from exc
    if not token.isascii() or not token.isprintable():
        raise PeerRefused(f"{peer.stow_url}: {peer.stow_token_file} holds no bearer token")
    session.auth = _Bearer(token)
    return session


def _unchanged(item: Item) -> Dataset:
    """Return the data set of a file that is written again as the very bytes of the file.

    Raises `ValueError` where it would not be: nothing but the bytes of the spool may be sent.
    """
    content = item.path.read_bytes()
    ds = dcmread(io.BytesIO(content))
    buffer = io.BytesIO()
    dcmwrite(buffer, ds)
    if buffer.getvalue() != content:
        raise ValueError("the file would not be sent byte for byte")
    return ds


def judge(item: Item, answer: requests.Response, ms: float, at: datetime) -> SendResult:
    """Return what an answer means: what its body says of the object, else what its status says."""
    http = answer.status_code
    reason, is_failure = _said_of(item, answer)
    words = f"HTTP {http} {printable(answer.reason or '', _TEXT_LENGTH)}".strip()
    if reason is not None:
        outcome = classify(reason) if is_failure else Outcome.WARNING
        outcome = Outcome.REFUSED if is_failure and outcome.is_accepted else outcome
        comment = f"{words}: {describe(reason)}"
    else:
        outcome = classify_http(http)
        if is_failure and outcome.is_accepted:
            outcome = Outcome.REFUSED
        comment = "" if outcome is Outcome.ACCEPTED else words
    wait_s = _retry_after(answer, at) if http in (429, 503) else 0.0
    result = item.result(outcome, comment, reason, ms)
    return SendResult(
        result.path, result.sop_class_uid, result.sop_instance_uid, reason, outcome, comment, ms, http, wait_s
    )


def _said_of(item: Item, answer: requests.Response) -> tuple[int | None, bool]:
    """Return the Failure or Warning Reason that the body gives for the object, and whether it failed. PS3.18 I.2."""
    body = _body(answer)
    for failed in body.get("FailedSOPSequence") or ():
        if str(failed.get("ReferencedSOPInstanceUID", item.sop_instance_uid)) == item.sop_instance_uid:
            reason = failed.get("FailureReason")
            return (None if reason is None else int(reason)), True
    for stored in body.get("ReferencedSOPSequence") or ():
        if str(stored.get("ReferencedSOPInstanceUID", "")) == item.sop_instance_uid and "WarningReason" in stored:
            return int(stored.WarningReason), False
    return None, False


def _body(answer: requests.Response) -> Dataset:
    try:
        content = answer.json()
        return Dataset.from_json(content[0] if isinstance(content, list) else content)
    except Exception:  # noqa: BLE001  XML, HTML or nothing: then only the status counts
        return Dataset()


def _retry_after(answer: requests.Response, at: datetime) -> float:
    """Return the seconds that the server asks to wait, 0 without a word of it."""
    text = answer.headers.get("Retry-After", "")
    try:
        wait_s = float(text) if text.strip().isdigit() else (parsedate_to_datetime(text) - at).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def _cause(peer: PeerSettings, exc: requests.RequestException) -> str:
    """Return in words why there was no answer."""
    if isinstance(exc, requests.exceptions.SSLError):
        return f"{peer.stow_url}: TLS: {printable(str(exc), _TEXT_LENGTH)}; see stow_ca_file"
    if isinstance(exc, requests.exceptions.TooManyRedirects):
        return f"{peer.stow_url} redirects to another address: set stow_url to that one"
    if isinstance(exc, requests.exceptions.Timeout):
        return f"{peer.stow_url} did not answer in time"
    return f"{peer.stow_url} cannot be reached: is it running, is the address right?"
