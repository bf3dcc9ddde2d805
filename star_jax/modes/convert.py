"""Run mode `convert`: weights from one format to another."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunMode, default_mesh

if TYPE_CHECKING:
    import seqio

    from star_jax.models.config import DecoderConfig
    from star_jax.parallel.partitioning import MeshConfig


@dataclasses.dataclass(frozen=True)
class ConvertMode(RunMode):
    """Writes the weights at `source` to `target`."""

    help = "weights into Orbax, or out as a Hugging Face directory"

    source: str
    target: str
    format: str  # "huggingface" or "orbax"
    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    mesh: MeshConfig = dataclasses.field(default_factory=default_mesh)

    def __call__(self) -> int:
        """Runs `convert_weights`."""
        from star_jax.parallel.partitioning import make_mesh
        from star_jax.tools.convert import convert_weights

        convert_weights(
            self.source,
            self.target,
            self.format,
            self.model,
            self.vocabulary,
            make_mesh(self.mesh),
            self.mesh.training_rules,
        )
        return 0
