"""STOW-RS against a small server on loopback that answers what a test wants."""

import datetime
import http.server
import json
import ssl
import threading
from datetime import UTC

import pytest

from dicomnode.config import DeliverySettings, PeerSettings
from dicomnode.errors import PeerRefused, PeerUnavailable
from dicomnode.evidence import encoded
from dicomnode.network import stow
from dicomnode.network.scu import read_item
from dicomnode.network.status import Outcome
from tests.hospital import SR
from tests.outbox import documents

SETTINGS = DeliverySettings(connect_timeout_s=60, network_timeout_s=60)
UID = "2.25.77"


class WebServer(http.server.ThreadingHTTPServer):
    """Answers each POST with `answer`: status, headers, body; keeps paths, headers and bodies."""

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = (200, {}, b"")
        self.requests = []
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "http" if context is None else "https"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://localhost:{self.server_address[1]}/dicom-web"

    def handle_error(self, *_args):
        """A client that does not trust us is no error of the test."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), body))
        self._reply()

    def do_OPTIONS(self):
        self._reply()

    def _reply(self):
        status, headers, body = self.server.answer
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    server = WebServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    ds = documents()["measurement_report"]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID
    path = tmp_path_factory.mktemp("stow") / "sr.dcm"
    path.write_bytes(encoded(ds))
    return path


def send(server, file, **peer):
    settings = PeerSettings(ae_title="WEB", stow_url=server.url, **peer)
    with stow.connect(settings, SETTINGS) as link:
        return link.store(read_item(file))


def sequence(tag, reason_tag=None, reason=0):
    item = {"00081150": {"vr": "UI", "Value": [SR]}, "00081155": {"vr": "UI", "Value": [UID]}}
    if reason_tag:
        item[reason_tag] = {"vr": "US", "Value": [reason]}
    return json.dumps({tag: {"vr": "SQ", "Value": [item]}}).encode()


STORED, FAILED, WARNING_REASON, FAILURE_REASON = "00081199", "00081198", "00081196", "00081197"
JSON = {"Content-Type": "application/dicom+json"}
ANSWERS = {
    "stored": (200, JSON, sequence(STORED), Outcome.ACCEPTED, None),
    "stored, no body": (200, {}, b"", Outcome.ACCEPTED, None),
    "stored, a body that nobody understands": (200, {"Content-Type": "text/html"}, b"<p>", Outcome.ACCEPTED, None),
    "warning": (202, JSON, sequence(STORED, WARNING_REASON, 0xB000), Outcome.WARNING, 0xB000),
    "202, failed for good": (202, JSON, sequence(FAILED, FAILURE_REASON, 0xA900), Outcome.REFUSED, 0xA900),
    "202, failed for now": (202, JSON, sequence(FAILED, FAILURE_REASON, 0xA700), Outcome.RETRY, 0xA700),
    "200, failed without a reason": (200, JSON, sequence(FAILED), Outcome.REFUSED, None),
    "409, failed for now": (409, JSON, sequence(FAILED, FAILURE_REASON, 0x0110), Outcome.RETRY, 0x0110),
    "409, failed for good": (409, JSON, sequence(FAILED, FAILURE_REASON, 0x0122), Outcome.REFUSED, 0x0122),
    "409, no body": (409, {}, b"", Outcome.REFUSED, None),
    "bad request": (400, {}, b"", Outcome.REFUSED, None),
    "wrong token": (401, {}, b"", Outcome.UNAVAILABLE, None),
    "too large": (413, {}, b"", Outcome.REFUSED, None),
    "too many requests": (429, {}, b"", Outcome.UNAVAILABLE, None),
    "broken": (500, {}, b"", Outcome.RETRY, None),
    "maintenance": (503, {}, b"", Outcome.UNAVAILABLE, None),
    "elsewhere": (307, {"Location": "http://127.0.0.1:1/"}, b"", Outcome.UNAVAILABLE, None),
}


@pytest.mark.parametrize(("status", "headers", "body", "outcome", "reason"), ANSWERS.values(), ids=ANSWERS)
def test_answer_tells_the_sender_what_to_do(server, file, status, headers, body, outcome, reason):
    server.answer = (status, headers, body)
    result = send(server, file)
    assert (result.outcome, result.status) == (outcome, reason), result.comment
    assert (result.comment == "") == (outcome is Outcome.ACCEPTED)
    assert len(server.requests) == 1, "the client tried again by itself"


def test_bytes_go_out_as_they_lie_in_the_spool_and_the_address_names_nobody(server, file):
    result = send(server, file)
    ((path, headers, body),) = server.requests
    assert path == "/dicom-web/studies"
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
    assert file.read_bytes() in body
    assert (result.http_status, result.sop_instance_uid) == (200, UID)
    assert result.ms > 0


def test_token_of_a_file_is_sent_as_bearer(server, file, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    send(server, file, stow_token_file=token)
    assert server.requests[0][1]["Authorization"] == "Bearer s3cret"


def test_missing_token_file_is_named_before_anything_is_sent(server, file, tmp_path):
    with pytest.raises(PeerRefused, match=r"stow_token_file or stow_ca_file: .*no such token"):
        send(server, file, stow_token_file=tmp_path / "no such token")
    assert server.requests == []


IN_A_MINUTE = (datetime.datetime.now(UTC) + datetime.timedelta(minutes=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
WAITS = {
    "seconds": ("120", 120, 120),
    "a moment": (IN_A_MINUTE, 0, 60),
    "nonsense": ("soon", 0, 0),
    "long": ("9999999", 3600, 3600),
}


@pytest.mark.parametrize(("text", "least", "most"), WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("status", [429, 503])
def test_server_that_asks_to_wait_is_heard(server, file, status, text, least, most):
    server.answer = (status, {"Retry-After": text}, b"")
    assert least <= send(server, file).wait_s <= most


def test_server_that_hangs_up_is_unavailable(server, file):
    server.answer = (None, {}, b"")
    result = send(server, file)
    assert (result.outcome, result.http_status) == (Outcome.UNAVAILABLE, None)
    assert "cannot be reached" in result.comment


def test_unreadable_file_is_refused_without_a_request(server, file, tmp_path):
    item = read_item(file)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(file.read_bytes()[:-7])
    with stow.connect(PeerSettings(ae_title="WEB", stow_url=server.url), SETTINGS) as link:
        result = link.store(type(item)(broken, *[getattr(item, name) for name in item.__slots__[1:]]))
    assert result.outcome is Outcome.REFUSED
    assert result.comment.startswith("unreadable: ")
    assert server.requests == []


@pytest.mark.parametrize(("status", "alive"), [(200, True), (405, True), (404, True), (401, False), (503, False)])
def test_probe_is_answered_by_any_server_that_works(server, status, alive):
    server.answer = (status, {}, b"")
    peer = PeerSettings(ae_title="WEB", stow_url=server.url)
    if alive:
        assert stow.probe(peer, SETTINGS) > 0
    else:
        with pytest.raises(PeerUnavailable, match=f"answers HTTP {status}"):
            stow.probe(peer, SETTINGS)


@pytest.fixture
def certificate(tmp_path):
    """A certificate of localhost that nobody trusts, with its key."""
    import subprocess

    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(made, check=True, capture_output=True)
    return pem, key


def test_certificate_is_verified_and_an_own_authority_can_be_named(file, certificate):
    pem, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server = WebServer(context)
    try:
        untrusted = send(server, file)
        trusted = send(server, file, stow_ca_file=pem)
    finally:
        server.shutdown()
        server.server_close()
    assert untrusted.outcome is Outcome.UNAVAILABLE
    assert "TLS" in untrusted.comment
    assert "stow_ca_file" in untrusted.comment
    assert trusted.outcome is Outcome.ACCEPTED
    assert len(server.requests) == 1
