"""A stand-in for gcloud: records each call, keeps a cloud in a folder, and answers as gcloud does.

Commands for workers are really run, each worker having a home folder of its own. The folder is
$FAKE_GCLOUD_DIR; tests/test_tpu_vm.py fills it:

    scenario.json   workers, and what goes wrong
    preempt, reboot the next call finds the TPU preempted, or its workers' processes gone
    silence-1       how many connections to worker 1 fail from now on
    calls.jsonl     the arguments of each call

Few modules are imported at the top, since the tests call this some hundred times.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("FAKE_GCLOUD_DIR", "."))
STATE = FOLDER / "state.json"

# What gcloud 528 knows, as far as a launcher may want it.
MAKING = {
    *("--accelerator-type", "--spot", "--service-account", "--network", "--labels"),
    *("--metadata", "--metadata-from-file"),
}
FLAGS = {
    "tpu-vm create": MAKING | {"--version", "--async", "--preemptible"},
    "tpu-vm describe": {"--format"},
    "tpu-vm delete": {"--async"},
    "tpu-vm ssh": {"--worker", "--command", "--ssh-flag"},
    "tpu-vm scp": {"--worker", "--recurse", "--compress", "--scp-flag"},
    "queued-resources create": MAKING | {"--runtime-version", "--node-id", "--async"},
    "queued-resources describe": {"--format"},
    "queued-resources delete": {"--force", "--async"},
    "storage cat": set(),
    "storage cp": {"--recursive"},
}
GENERAL = {"--zone", "--project", "--quiet"}

STOCK_OUT = """{
  "code": 8,
  "message": "There is no more capacity in the zone \\"us-central1-a\\"; you can try in another \
zone where Cloud TPU Nodes are offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x1]"
}"""
QUOTA = (
    "RESOURCE_EXHAUSTED: Quota limit 'TPUV3PerProjectPerZoneForTPUAPI' has been exceeded. "
    "Limit: 0 in zone us-central1-a."
)
SLOW = (
    "Operation projects/p/locations/z/operations/o has not finished in 1800 seconds. The "
    "operations may still be underway remotely and may still succeed; use gcloud list and "
    "describe commands or https://console.developers.google.com/ to check resource state."
)
DISABLED = (
    "PERMISSION_DENIED: Cloud TPU API has not been used in project p before or it is disabled. "
    "Enable it by visiting https://console.developers.google.com/ then retry."
)


class Cloud:
    """The cloud as it was left by the last call."""

    def __init__(self):
        self.scenario = json.loads((FOLDER / "scenario.json").read_text())
        blank = {"node": None, "queued": None, "made": 0, "left": dict(self.scenario)}
        self.state = json.loads(STATE.read_text()) if STATE.exists() else blank

    def save(self):
        STATE.write_text(json.dumps(self.state))

    def next_of(self, key, otherwise):
        """Takes the next of a scenario's list of events."""
        events = self.state["left"].get(key) or []
        return events.pop(0) if events else otherwise

    def make(self, options, state="READY"):
        self.state["made"] += 1
        self.state["node"] = {
            "name": "projects/p/locations/z/nodes/n",
            "state": state,
            "acceleratorType": options["--accelerator-type"],
            "schedulingConfig": {"spot": True} if "--spot" in options else {},
            "metadata": metadata(options),
        }
        self.save()  # the workers read their metadata
        for worker in range(self.scenario["workers"]):
            self.home(worker).mkdir(parents=True)
            self.boot(worker)

    def boot(self, worker):
        """Runs the startup script, which has to end soon."""
        import subprocess

        script = self.state["node"]["metadata"].get("startup-script")
        if script:
            path = self.home(worker) / "startup-script"
            path.write_text(script)
            path.chmod(0o755)
            subprocess.run(
                [path], env=worker_environment(self, worker), timeout=60, check=True,
                stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip
            path.unlink()

    def home(self, worker):
        return FOLDER / "nodes" / str(self.state["made"]) / f"w-{worker}"

    def end_processes(self):
        import contextlib
        import signal

        for worker in range(self.scenario["workers"]):
            for pid in ("star_jax/run/pid", "state/pid"):
                with contextlib.suppress(OSError, ValueError):
                    os.killpg(int((self.home(worker) / pid).read_text()), signal.SIGKILL)

    def take_events(self):
        """Lets what was asked for by touching a file happen."""
        for name in ("preempt", "reboot", "deleted"):
            if (FOLDER / name).exists():
                (FOLDER / name).unlink()
                self.end_processes()
                if name == "deleted":
                    self.state["node"] = None
                    if self.state["queued"]:
                        self.state["queued"] = {"state": "SUSPENDED"}
                elif name == "reboot":
                    for worker in range(self.scenario["workers"]):
                        self.boot(worker)
                else:
                    self.state["node"]["state"] = "PREEMPTED"
                    if self.state["queued"]:
                        self.state["queued"] = {"state": "SUSPENDING"}


def fail(name, message, code=1):
    print(f"ERROR: (gcloud.{name}) {message}", file=sys.stderr)
    sys.exit(code)


def parse(argv):
    """Splits into positionals and {flag: values}; an unknown flag is an error as with gcloud."""
    words = [word for word in argv if not word.startswith("--")]
    group = words[:2] if words[0] == "storage" else words[2:4]
    name = ".".join(words[: 2 if words[0] == "storage" else 4])
    options = {}
    for word in argv:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            if flag not in FLAGS[" ".join(group)] | GENERAL:
                fail(name, f"unrecognized arguments: {word}", 2)
            options[flag] = value
    return name, group, words[2 if words[0] == "storage" else 4 :], options


def tpu_vm(cloud, name, verb, words, options):
    node = cloud.state["node"]
    if verb == "create":
        return create(cloud, name, options)
    if node is None:
        fail(name, f"NOT_FOUND: Resource 'projects/p/locations/z/nodes/{words[0]}' was not found")
    if verb == "describe":
        if node["state"] == "CREATING":
            node["state"] = cloud.next_of("creating", "READY")
        endpoints = [{}] * cloud.scenario["workers"] if node["state"] == "READY" else []
        print(json.dumps({**node, "networkEndpoints": endpoints}))
    elif verb == "delete":
        cloud.end_processes()
        cloud.state["node"] = None
    elif node["state"] != "READY":
        fail(name, f'This TPU has terminal state "{node["state"]}", so it cannot be used anymore.')
    else:
        (ssh if verb == "ssh" else scp)(cloud, name, words, options)


def create(cloud, name, options):
    if cloud.state["node"]:
        fail(name, "ALREADY_EXISTS: Resource 'projects/p/locations/z/nodes/n' already exists.")
    event = cloud.next_of("create", "ok")
    messages = {"stock_out": STOCK_OUT, "quota": QUOTA, "slow": SLOW, "disabled": DISABLED}
    if event in ("ok", "slow"):
        cloud.make(options, "READY" if event == "ok" else "CREATING")
    if event != "ok":
        fail(name, messages[event])


def chosen(cloud, options):
    which = options.get("--worker", "0")
    return list(range(cloud.scenario["workers"])) if which == "all" else [int(which)]


def ssh(cloud, name, words, options):
    import subprocess

    statuses = []
    for worker in chosen(cloud, options):
        print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr)
        silence = FOLDER / f"silence-{worker}"
        if silence.exists() and int(silence.read_text()):
            silence.write_text(str(int(silence.read_text()) - 1))
            statuses.append(255)
            print("Retrying: SSH command error: [ssh]", file=sys.stderr)
            continue
        done = subprocess.run(
            ["/bin/sh", "-c", " ".join(options["--command"].split(" "))],
            cwd=cloud.home(worker),
            env=worker_environment(cloud, worker),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        sys.stdout.buffer.write(done.stdout)
        statuses.append(done.returncode)
    sys.stdout.flush()
    bad = next((status for status in statuses if status), 0)
    if bad == 255:
        fail(name, "[/usr/bin/ssh] exited with return code [255].", 255)
    sys.exit(bad)


def worker_environment(cloud, worker):
    return {
        "HOME": str(cloud.home(worker)),
        "PATH": f"{FOLDER / 'worker_bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(FOLDER / "worker_lib"),
        "FAKE_GCLOUD_DIR": str(FOLDER),
        "FAKE_HOSTNAME": f"t1v-n-0a1b2c3d-w-{worker}",
        "FAKE_MADE": str(cloud.state["made"]),
        "STAR_JAX_METADATA": (FOLDER / "apis").read_text(),
        "STAR_JAX_API": (FOLDER / "apis").read_text() + "/{}",
        "STAR_JAX_STATE": str(cloud.home(worker) / "state"),
    }


def metadata(options):
    """Returns the metadata of a TPU VM as its metadata server has them."""
    found = {}
    for flag in ("--metadata", "--metadata-from-file"):
        for item in filter(None, options.get(flag, "").split(",")):
            key, _, value = item.partition("=")
            found[key] = Path(value).read_text() if flag == "--metadata-from-file" else value
    return found


def scp(cloud, name, words, options):
    import shutil

    *sources, target = words
    for worker in chosen(cloud, options):
        for source in sources:
            if target.endswith(":"):
                shutil.copy(source, cloud.home(worker))
            else:
                copy(name, cloud.home(worker) / source.partition(":")[2], Path(target), "scp: ")


def copy(name, source, folder, prefix):
    """Copies a file or a folder into a folder that is there."""
    import shutil

    if source.is_dir():
        shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
    elif source.is_file():
        shutil.copy(source, folder)
    elif prefix:
        print(f"scp: {source}: No such file or directory", file=sys.stderr)
        fail(name, "[/usr/bin/scp] exited with return code [1].", 1)
    else:
        fail(name, f"The following URLs matched no objects or files:\n{source}")


def queued_resources(cloud, name, verb, words, options):
    queued = cloud.state["queued"]
    if verb == "create":
        event = cloud.next_of("enqueue", "ok")
        if event == "quota":
            fail(name, QUOTA)
        cloud.state["queued"] = {"state": "WAITING_FOR_RESOURCES", "options": options}
        return
    if queued is None:
        fail(name, f"NOT_FOUND: Resource 'projects/p/queuedResources/{words[0]}' was not found")
    if verb == "delete":
        if queued["state"] == "SUSPENDING" or (cloud.state["node"] and "--force" not in options):
            fail(name, "FAILED_PRECONDITION: the queued resource has nodes")
        cloud.end_processes()
        cloud.state["queued"] = cloud.state["node"] = None
    else:
        if "options" in queued:
            queued["state"] = cloud.next_of("queue", "ACTIVE")
        if queued["state"] == "ACTIVE" and cloud.state["node"] is None:
            cloud.make(queued.pop("options"))
        answer = {"state": queued["state"]}
        if queued["state"] == "FAILED":
            answer["failedData"] = {"error": {"message": cloud.scenario["reason"]}}
        print(json.dumps({"state": answer}))
        if queued["state"] == "SUSPENDING":
            queued["state"] = "SUSPENDED"


def storage(cloud, name, verb, words, options):
    source = FOLDER / "bucket" / words[0].removeprefix("gs://")
    if verb == "cp":
        copy(name, source, Path(words[1]), "")
    elif found := sorted(source.parent.glob(source.name)):
        print("".join(path.read_text() for path in found), end="")
    else:
        fail(name, f"The following URLs matched no objects or files:\n{words[0]}")


def main():
    with open(FOLDER / "calls.jsonl", "a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    name, (group, verb), words, options = parse(sys.argv[1:])
    cloud = Cloud()
    cloud.take_events()
    handlers = {"tpu-vm": tpu_vm, "queued-resources": queued_resources, "storage": storage}
    try:
        handlers[group](cloud, name, verb, words, options)
    finally:
        cloud.save()


if __name__ == "__main__":
    main()
