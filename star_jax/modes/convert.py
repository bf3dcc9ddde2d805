"""Run mode `convert`: weights from one format to another."""

from __future__ import annotations

import dataclasses

from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class ConvertMode(mode.RunMode):
    """Writes the weights at `source` to `target`."""

    help = "weights into Orbax, or out as a Hugging Face directory"

    source: str
    target: str
    format: str  # "huggingface" or "orbax"
    model: mode.DecoderConfig
    vocabulary: mode.seqio.Vocabulary
    mesh: mode.MeshConfig = dataclasses.field(default_factory=mode.default_mesh)

    def __call__(self) -> int:
        """Runs `convert_weights`."""
        from star_jax.parallel.partitioning import make_mesh
        from star_jax.tools.convert import convert_weights

        given = self.source, self.target, self.format, self.model, self.vocabulary
        convert_weights(*given, make_mesh(self.mesh), self.mesh.training_rules)
        return 0
