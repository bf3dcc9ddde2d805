"""What sampling needs of a TPU's memory, from the compiler for TPUs, without a TPU."""

import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import DECODING_RULES, MeshConfig, make_mesh
from star_jax.rollout.native.logits import SamplerConfig, SamplingParams
from star_jax.rollout.native.programs import Programs
from star_jax.rollout.native.shapes import shapes_for
from star_jax.rollout.native.slots import Writer

GIB = 2**30
GPTJ_6B = dict(
    vocab_size=50400, d_model=4096, n_heads=16, head_dim=256, d_ff=16384, rotary_dim=64,
    context_length=2048, dtype=jnp.bfloat16, scan_layers=False,
)  # fmt: skip


def needed(monkeypatch, topology, batch_size, n_layers, **chips):
    """GiB a device for decoding and for refilling: prefix 1,280, question 128, 192 new tokens."""
    pytest.importorskip("libtpu", reason="libtpu, the compiler for TPUs, is not installed")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # this machine has no metadata server
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **chips)
    mesh = make_mesh(MeshConfig(data=1, tensor=-1), list(described.devices))
    writer = Writer(DecoderConfig(n_layers=n_layers, **GPTJ_6B), SamplingParams(), 50257, (50256,))
    shapes = shapes_for(100, 128, 1, SamplerConfig(batch_size, 192, 0.125, 512))
    lowered = Programs(writer, mesh, DECODING_RULES).lower(shapes, prefix_tokens=1280)
    found = {}
    for name in ("decode", "refill"):
        memory = lowered[name].compile().memory_analysis()
        found[name] = (
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        ) / GIB
        found[f"{name}, temporary"] = memory.temp_size_in_bytes / GIB
    print(f"\n{topology}, {batch_size} slots: {found}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "most"), [(256, 7.5), (512, 15.48)])
def test_gptj_6b_samples_on_the_papers_eight_cores(monkeypatch, batch_size, most):
    found = needed(monkeypatch, "v3:2x2", batch_size, n_layers=28)
    assert max(found["decode"], found["refill"]) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "chips"),
    [("v4:2x2x1", {"chip_config_name": "megacore"}), ("v5e:2x4", {}), ("v6e:2x4", {})],
)
def test_the_cache_is_updated_in_place_on_newer_chips(monkeypatch, topology, chips):
    found = needed(monkeypatch, topology, 256, n_layers=2, **chips)
    one_copy = 2 * 2 * 256 * (16 / (4 if "v4" in topology else 8)) * 320 * 256 * 2 / GIB
    assert found["decode, temporary"] < one_copy / 3
