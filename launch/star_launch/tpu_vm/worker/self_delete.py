#!/usr/bin/env python3
"""Deletes this TPU VM when its hours are over, whatever became of the machine that created it.

It is the startup script of every worker (metadata key startup-script), so root runs it at each
boot. It needs the Python of the image and nothing else. The metadata server has its settings and a
token of the TPU VM's account; the TPU API deletes. `supervise.py` uses it at the end of a run.

    https://cloud.google.com/compute/docs/metadata/overview
    https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes/delete
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path

# Metadata keys, which `create` sets.
HOURS = "star-jax-max-hours"
NODE = "star-jax-node"  # projects/PROJECT/locations/ZONE/nodes/NAME

# The variables are for tests.
METADATA = os.environ.get("STAR_JAX_METADATA", "http://metadata.google.internal")
API = os.environ.get("STAR_JAX_API", "https://{}.googleapis.com")
STATE = Path(os.environ.get("STAR_JAX_STATE", "/var/lib/star_jax"))

RETRY_SECONDS = 60  # after a failed request; also between looks at the clock
TIMEOUT_SECONDS = 60  # of a request


class Failed(Exception):
    """A request that failed, in one line."""


def metadata(path: str) -> str:
    """Returns a value of the metadata server."""
    url = f"{METADATA}/computeMetadata/v1/instance/{path}"
    return _request(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})).decode()


def call(method: str, service: str, path: str, body: bytes | None = None) -> bytes:
    """Calls an API of Google with the token of the TPU VM's account.

    Args:
      method: of HTTP.
      service: "tpu" for tpu.googleapis.com.
      path: of the URL.
      body: of the request.

    Raises:
      Failed: the request failed.
    """
    token = json.loads(metadata("service-accounts/default/token"))["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{API.format(service)}/{path}"
    return _request(urllib.request.Request(url, body, headers, method=method))


def _request(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        words = " ".join(error.read().decode(errors="replace").split())[:300]
        reason = f"{error.code} {words}"
    except OSError as error:
        reason = str(error)
    raise Failed(f"{request.get_method()} {request.full_url}: {reason}")


def check() -> None:
    """Raises Failed if the account may not delete the TPU VM."""
    project = metadata(f"attributes/{NODE}").split("/")[1]
    body = json.dumps({"permissions": ["tpu.nodes.delete"]}).encode()
    path = f"v1/projects/{project}:testIamPermissions"
    answer = json.loads(call("POST", "cloudresourcemanager", path, body))
    if "tpu.nodes.delete" not in answer.get("permissions", ()):
        email = metadata("service-accounts/default/email")
        raise Failed(
            f"the account {email} may not delete this TPU VM, so it could not end by itself; run: "
            f"gcloud projects add-iam-policy-binding {project} "
            f"--member=serviceAccount:{email} --role=roles/tpu.admin"
        )


def upload(url: str, data: bytes) -> None:
    """Writes an object gs://BUCKET/NAME.

    Raises:
      Failed: the request failed.
    """
    bucket, _, name = url[len("gs://") :].partition("/")
    query = urllib.parse.urlencode({"uploadType": "media", "name": name})
    call("POST", "storage", f"upload/storage/v1/b/{bucket}/o?{query}", data)


def delete_this_vm(why: str) -> None:
    """Deletes the TPU VM with all its workers; tries until it is gone."""
    while True:
        try:
            print(f"{time.ctime()}: deleting this TPU VM: {why}", flush=True)
            call("DELETE", "tpu", f"v2/{metadata(f'attributes/{NODE}')}")
        except Failed as error:
            print(error, flush=True)
        time.sleep(RETRY_SECONDS)  # the deletion ends this process


def watch() -> None:
    """Waits for the end of the hours, which began at the first boot, and deletes the TPU VM."""
    ends_at = STATE / "ends_at"  # seconds since 1970
    while not ends_at.exists():
        try:
            end = time.time() + 3600 * float(metadata(f"attributes/{HOURS}"))
            part = ends_at.with_suffix(".part")
            part.write_text(f"{end}\n")
            part.replace(ends_at)
        except Failed as error:
            print(error, flush=True)
            time.sleep(RETRY_SECONDS)
    end = float(ends_at.read_text())
    while time.time() < end:
        time.sleep(max(0.0, min(RETRY_SECONDS, end - time.time())))
    delete_this_vm("its --max_hours are over")


def in_background() -> None:
    """Calls `watch` in a process of its own; a startup script has to end."""
    if os.fork():
        return
    os.setsid()
    STATE.mkdir(parents=True, exist_ok=True)
    log = os.open(STATE / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    (STATE / "pid").write_text(str(os.getpid()))
    watch()


def main(argv: Sequence[str]) -> None:
    """Without arguments the startup script; `check` verifies the account's permission."""
    if list(argv) == ["check"]:
        try:
            check()
        except Failed as error:
            sys.exit(str(error))
    else:
        in_background()


if __name__ == "__main__":
    main(sys.argv[1:])
