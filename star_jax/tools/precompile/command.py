"""The run mode `precompile`: a table on the screen for each topology, and everything as JSON."""

import json
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.parallel.topologies import Topology, find_topologies
from star_jax.run.files import check_writable, write_atomically
from star_jax.run.paths import path_of
from star_jax.run.progress import log
from star_jax.tools.precompile.compiler import Devices, tpu_devices
from star_jax.tools.precompile.fit import precompile
from star_jax.tools.precompile.search import found_json, found_text, search
from star_jax.tools.precompile.settings import Settings
from star_jax.tools.precompile.text import fit_json, fit_text


def run(
    settings: Settings,
    names: Sequence[str],
    json_file: str = "",
    searching: bool = False,
    devices: Devices = tpu_devices,
) -> int:
    """Prints whether a run fits; returns 0 if it fits all topologies and 1 if not.

    Args:
      settings: of the run.
      names: of the topologies.
      json_file: gets the results as JSON; "" for none.
      searching: look for a mesh that fits, instead of using the run's own.
      devices: of a topology.

    Raises:
      UserError: unknown topology; no libtpu; or settings that the mesh of the only topology cannot
        split. With several topologies that is only reported, and counts as not fitting.
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
) -> dict[str, object]:
    if searching:
        found = search(settings, topology, devices)
        print(found_text(found), end="\n\n")
        return found_json(found)
    fit = precompile(settings, topology, devices)
    print(fit_text(fit), end="\n\n", flush=True)
    return fit_json(fit)
