"""The run mode `precompile`: each topology in turn, its table on the screen, all of it as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from star_jax.errors import UserError
from star_jax.parallel.topologies import Topology, find_topologies
from star_jax.run.files import check_writable, write_atomically
from star_jax.run.paths import path_of
from star_jax.run.progress import log
from star_jax.tools.precompile.fit import Devices, Settings, precompile, tpu_devices
from star_jax.tools.precompile.search import found_json, found_text, search
from star_jax.tools.precompile.text import fit_json, fit_text


def run(
    settings: Settings,
    names: Sequence[str],
    json_file: str = "",
    searching: bool = False,
    devices: Devices = tpu_devices,
) -> int:
    """Prints what fits; returns 0 if all topologies do and 1 if one does not.

    Raises:
      UserError: a wrong topology, no libtpu, or, with a single topology, settings that its mesh
        cannot split; with several that is only told, and counts as not fitting.
    """
    topologies = find_topologies(names)
    if json_file:
        check_writable(path_of(json_file))
    results = []
    for topology in topologies:
        try:
            result = _one(settings, topology, searching, devices)
        except UserError as error:
            if len(topologies) == 1:
                raise
            log(f"{topology.cloud_name} ({topology.name}): {error.message}")
            result = {"topology": topology.name, "fits": False, "problem": error.message}
        results.append(result)
    if json_file:
        write_atomically(path_of(json_file), (json.dumps(results, indent=1) + "\n").encode())
    return 0 if all(result["fits"] for result in results) else 1


def _one(
    settings: Settings, topology: Topology, searching: bool, devices: Devices
) -> dict[str, Any]:
    if searching:
        found = search(settings, topology, devices)
        print(found_text(found), end="\n\n")
        return found_json(found)
    fit = precompile(settings, topology, devices)
    print(fit_text(fit, settings), end="\n\n", flush=True)
    return fit_json(fit)
