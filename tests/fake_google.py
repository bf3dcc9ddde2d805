"""A stand-in for the metadata server and the APIs that a worker of tests/fake_gcloud.py calls."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

ACCOUNT = "star-tpu@my-project.iam.gserviceaccount.com"
TOKEN = "ya29.token"


class FakeGoogle(ThreadingHTTPServer):
    """Serves the metadata of the cloud in a folder; `refused` has the DELETEs to refuse."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.may_delete, self.refused = folder, True, 0
        self.deleted = []  # the path of each DELETE
        (folder / "apis").write_text(f"http://127.0.0.1:{self.server_port}")
        Thread(target=self.serve_forever, daemon=True).start()

    def metadata(self, key):
        node = json.loads((self.folder / "state.json").read_text())["node"]
        if key.startswith("attributes/"):
            return node["metadata"].get(key.removeprefix("attributes/"))
        known = {"email": ACCOUNT, "token": json.dumps({"access_token": TOKEN, "expires_in": 9})}
        return known.get(key.removeprefix("service-accounts/default/"))


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        prefix = "/computeMetadata/v1/instance/"
        is_right = self.path.startswith(prefix) and self.headers["Metadata-Flavor"] == "Google"
        value = self.server.metadata(self.path.removeprefix(prefix)) if is_right else None
        self.answer(value or "no such key", 200 if value else 404)

    def is_authorized(self):
        is_right = self.headers["Authorization"] == f"Bearer {TOKEN}"
        if not is_right:
            self.answer("UNAUTHENTICATED", 401)
        return is_right

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = urlsplit(self.path)
        if not self.is_authorized():
            return
        if url.path == "/cloudresourcemanager/v1/projects/my-project:testIamPermissions":
            asked = json.loads(body)["permissions"]
            self.answer(json.dumps({"permissions": asked} if self.server.may_delete else {}))
        elif url.path == "/storage/upload/storage/v1/b/bucket/o":
            query = parse_qs(url.query)
            assert query["uploadType"] == ["media"]
            target = self.server.folder / "bucket/bucket" / query["name"][0]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
            self.answer("{}")
        else:
            self.answer("no such method", 404)

    def do_DELETE(self):
        if not self.is_authorized():
            return
        self.server.deleted.append(self.path)
        node = "/tpu/v2/projects/my-project/locations/us-central1-a/nodes/star"
        if self.server.refused:
            self.server.refused -= 1
            self.answer('{"error": {"code": 503, "status": "UNAVAILABLE"}}', 503)
        elif self.path != node:
            self.answer("NOT_FOUND", 404)
        else:
            (self.server.folder / "deleted").touch()
            self.answer("{}")
