"""Run directories as large as real ones, written without a model: the report's raw material."""

import json
import random
from pathlib import Path

DIGITS = ("1", "2", "3", "4", "5")
CONFIG = """
MODEL/DecoderConfig.vocab_size = 50400
MODEL/DecoderConfig.n_layers = 28
MODEL/DecoderConfig.d_model = 4096
MODEL/DecoderConfig.n_heads = 16
MODEL/DecoderConfig.head_dim = 256
MODEL/DecoderConfig.d_ff = 16384
MODEL/DecoderConfig.rotary_dim = 64
MODEL/DecoderConfig.context_length = 2048
MODEL/DecoderConfig.dtype = %jnp.bfloat16
TrainerConfig.batch_size = 8
TrainerConfig.row_length = 1024
"""
SAMPLING = {
    "prefix_tokens": 1000, "prompt_tokens": 50_000, "new_tokens": 40_000,
    "prefill_seconds": 30.0, "decode_seconds": 60.0,
}  # fmt: skip


def write_run(
    directory: Path,
    iterations: int = 3,
    attempts: int = 20,
    *,
    row: str = "",
    seed: int = 0,
    rationalize: bool = True,
    late: tuple[str, ...] = (),
    late_from: int = 0,
    classes: tuple[str, ...] = DIGITS,
    steps: bool = False,
    device: str = "TPU v3",
) -> Path:
    """A run of `iterations` with `attempts` lines a stage; returns its directory.

    Args:
      directory: made here.
      iterations: outer ones.
      attempts: lines of each stage's file.
      row: of the paper, noted in row.json.
      seed: of everything.
      rationalize: whether there is a second source, whose steps are right less often.
      late: classes that are asked only from iteration `late_from` on.
      late_from: see `late`.
      classes: of the questions; () for a task without.
      steps: whether solutions have steps to count.
      device: that row.json names.
    """
    rng = random.Random(f"{seed} {row}")
    directory.mkdir(parents=True)
    (directory / "config.gin").write_text(CONFIG)
    facts = {"row": row, "command": f"star_jax --gin.SEED={seed}", "device": device, "n_devices": 8}
    (directory / "row.json").write_text(json.dumps(facts))
    lines = []
    for n in range(iterations + 1):
        stage = directory / f"iter_{n:03d}"
        stage.mkdir()
        asked = [c for c in classes if n >= late_from or c not in late] or [""]
        chances = {name: _chance(n, int(name), name in late, late_from, rationalize) for name in
                   classes} or {"": 0.03 + 0.07 * n / max(1, iterations)}  # fmt: skip
        evaluated = _attempts(rng, attempts, chances, list(classes) or [""], "validation", steps)
        _write(stage / "eval.jsonl", evaluated)
        stages = ("generate", "rationalize", "evaluate") if n else ("evaluate",)
        (stage / "sampling.json").write_text(json.dumps(dict.fromkeys(stages, SAMPLING)))
        kept, right = (
            ([], {}) if n == 0 else _train(rng, stage, attempts, chances, asked, rationalize)
        )
        lines.append(_line(n, seed, rationalize, evaluated, kept, right, attempts, classes))
    _write(directory / "metrics.jsonl", lines)
    return directory


def _chance(n, digits, is_late, late_from, rationalize):
    """Accuracy on a digit count: all at once with rationalization, else one after the other."""
    if is_late:
        return min(0.9, max(0.02, 0.25 * (n - late_from + 1) - 0.05 * (digits - 5)))
    start = 0 if rationalize else 2.5 * (digits - 1)
    ceiling = 0.98 - 0.03 * digits
    return min(ceiling, max(0.01, 0.28 * (n - start) - 0.02 * digits))


def _attempts(rng, count, chances, asked, split, steps, hinted=False):
    found = []
    for i in range(count):
        group = asked[i % len(asked)]
        theirs = rng.randint(2, 8)
        ours = max(0, theirs + rng.choice([0, 0, 0, -1, 1]))
        found.append(
            {
                "question_id": f"{split}_{i:06d}",
                "group": group,
                "hinted": hinted,
                "prompt": "Input:\n1 1 0 7 + 4 8 8 6\nTarget:\n",
                "completion": _rationale(rng),
                "answer": "5 9 9 3",
                "correct": rng.random() < min(0.97, chances[group] + 0.3 * hinted),
                "ended": True,
                "log_probability": -0.25,
                "n_tokens": rng.randint(30, 90),
                "left_out": False,
                "n_steps": ours if steps else None,
                "reference_steps": theirs if steps else None,
            }
        )
    return found


def _rationale(rng):
    words = " ".join(rng.choice("0123456789") for _ in range(60))
    return f"<scratch>\n{words}\n</scratch>\n5 9 9 3"


def _train(rng, stage, attempts, chances, asked, rationalize):
    generated = _attempts(rng, attempts, chances, asked, "train", False)
    failed = {a["question_id"] for a in generated if not a["correct"]}
    again = _attempts(rng, attempts, chances, asked, "train", False, hinted=True)
    again = [a for a in again if rationalize and a["question_id"] in failed]
    _write(stage / "generations.jsonl", generated)
    _write(stage / "rationalizations.jsonl", again)
    kept, right = [], {}
    for source, found, sound in (("generated", generated, 0.95), ("rationalized", again, 0.6)):
        for attempt in (a for a in found if a["correct"]):
            is_right = rng.random() < sound
            right.setdefault(source, []).append(is_right)
            kept.append(
                {
                    **{key: attempt[key] for key in ("question_id", "prompt", "completion")},
                    "source": source,
                    "steps_right": is_right,
                }
            )
    _write(stage / "train.jsonl", kept)
    return kept, right


def _line(n, seed, rationalize, evaluated, kept, right, attempts, classes):
    groups = {name: [a["correct"] for a in evaluated if a["group"] == name] for name in classes}
    sources = [example["source"] for example in kept]
    return {
        "iteration": n,
        "rationalize": rationalize,
        "accuracy": sum(a["correct"] for a in evaluated) / len(evaluated),
        "accuracy_by_class": {name: sum(found) / len(found) for name, found in groups.items()},
        "n_eval": len(evaluated),
        "n_eval_by_class": {name: len(found) for name, found in groups.items()},
        "kept_generated": sources.count("generated"),
        "kept_rationalized": sources.count("rationalized"),
        "n_sampled": attempts if n else 0,
        "train_fraction": len(kept) / attempts,
        "unparsable": 0,
        "left_out": 0,
        "hint_leaks": 0,
        "train_steps": round(40 * 1.2 ** (n - 1)) if n else 0,
        "train_loss": 0.5 if n else None,
        "seconds_generate": 100.0 if n else 0.0,
        "seconds_rationalize": 50.0 if n else 0.0,
        "seconds_finetune": 300.0 if n else 0.0,
        "seconds_evaluate": 20.0,
        "seed": seed,
        "packing_efficiency": 0.9 if n else None,
        "right_answers": {source: len(found) for source, found in right.items()},
        "checkable": {source: len(found) for source, found in right.items()},
        "right_steps": {source: sum(found) for source, found in right.items()},
    }


def _write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
