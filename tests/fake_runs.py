"""Run directories of format 2, as large as real ones, written by hand without a model.

`as_former_format` rewrites one as a run of format 1.
"""

import json
import random
from pathlib import Path

from star_jax.reporting import report
from star_jax.reporting.runs import load_runs

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
FILES = {"generated": "generations", "rationalized": "rationalizations"}
STAGES = {"generated": "generate", "rationalized": "rationalize"}
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
    groups: tuple[str, ...] = DIGITS,
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
      late: groups that are sampled only from iteration `late_from` on.
      late_from: see `late`.
      groups: of the questions; () for a task without.
      steps: whether solutions have steps to count.
      device: that row.json names.
    """
    rng = random.Random(f"{seed} {row}")
    directory.mkdir(parents=True)
    (directory / "config.gin").write_text(CONFIG)
    (directory / "format.json").write_text('{"format": 2}')
    facts = {"row": row, "command": f"star_jax --gin.SEED={seed}", "device": device, "n_devices": 8}
    (directory / "row.json").write_text(json.dumps(facts))
    lines = []
    for n in range(iterations + 1):
        stage = directory / f"iter_{n:03d}"
        stage.mkdir()
        sampled = [c for c in groups if n >= late_from or c not in late] or [""]
        chances = {name: _chance(n, int(name), name in late, late_from, rationalize) for name in
                   groups} or {"": 0.03 + 0.07 * n / max(1, iterations)}  # fmt: skip
        evaluated = _attempts(rng, attempts, chances, list(groups) or [""], "evaluated", steps)
        _write(stage / "eval.jsonl", evaluated)
        stages = ("generate", "rationalize", "evaluate") if n else ("evaluate",)
        (stage / "sampling.json").write_text(json.dumps(dict.fromkeys(stages, SAMPLING)))
        found = _train(rng, stage, attempts, chances, sampled, rationalize) if n else {}
        lines.append(_line(n, seed, rationalize, evaluated, found, groups))
    _write(directory / "metrics.jsonl", lines)
    return directory


def write_report(model_dirs, output_dir, command):
    """Loads runs and reports on them; the path of report.md."""
    return report.write_report(load_runs(model_dirs), Path(output_dir), command)[0]


def _chance(n, digits, is_late, late_from, rationalize):
    """Accuracy on a digit count: all at once with rationalization, else one after the other."""
    if is_late:
        return min(0.9, max(0.02, 0.25 * (n - late_from + 1) - 0.05 * (digits - 5)))
    start = 0 if rationalize else 2.5 * (digits - 1)
    ceiling = 0.98 - 0.03 * digits
    return min(ceiling, max(0.01, 0.28 * (n - start) - 0.02 * digits))


def _attempts(rng, count, chances, groups, source, steps=False):
    found = []
    hinted = source == "rationalized"
    split = "validation" if source == "evaluated" else "train"
    for i in range(count):
        group = groups[i % len(groups)]
        theirs = rng.randint(2, 8)
        ours = max(0, theirs + rng.choice([0, 0, 0, -1, 1]))
        correct = rng.random() < min(0.97, chances[group] + 0.3 * hinted)
        completion = _rationale(rng)
        found.append(
            {
                "question_id": f"{split}_{i:06d}",
                "sample": 0,
                "turn": 0,
                "group": group,
                "source": source,
                "hinted": hinted,
                "prompt": "Input:\n1 1 0 7 + 4 8 8 6\nTarget:\n",
                "completion": completion,
                "token_ids": [rng.randrange(256) for _ in range(rng.randint(30, 90))],
                "ended": True,
                "log_probability": -0.25,
                "reading": {
                    "answer": "5 9 9 3",
                    "end": len(completion),
                    "correct": correct,
                    "steps_right": rng.random() < (0.6 if hinted else 0.95),
                    "n_steps": ours if steps else None,
                    "hint_leaked": False,
                },
                "reward": float(correct),
                "dropped": False,
                "reference_steps": theirs if steps else None,
            }
        )
    return found


def _rationale(rng):
    words = " ".join(rng.choice("0123456789") for _ in range(60))
    return f"<scratch>\n{words}\n</scratch>\n5 9 9 3"


def _train(rng, stage, attempts, chances, groups, rationalize):
    """Source -> attempts; writes them and the kept examples."""
    generated = _attempts(rng, attempts, chances, groups, "generated")
    failed = {a["question_id"] for a in generated if not a["reading"]["correct"]}
    again = _attempts(rng, attempts, chances, groups, "rationalized")
    found = {"generated": generated}
    if rationalize:
        found["rationalized"] = [a for a in again if a["question_id"] in failed]
    for source, made in found.items():
        _write(stage / f"{FILES[source]}.jsonl", made)
    kept = [
        kept_of(a, source)
        for source, made in found.items()
        for a in made
        if a["reading"]["correct"]
    ]
    _write(stage / "train.jsonl", kept)
    return found


def kept_of(attempt, source):
    """The kept example of an attempt that was not trimmed."""
    return {
        **{name: attempt[name] for name in ("question_id", "sample", "turn")},
        "source": source,
        "examples": [],
        "prompt": attempt["prompt"],
        "completion": attempt["completion"],
        "token_ids": attempt["token_ids"],
        "weight": 1.0,
        "hint_kept": False,
        "steps_right": attempt["reading"]["steps_right"],
    }


def _line(n, seed, rationalize, evaluated, found, groups):
    readings = [(a["group"], a["reading"]["correct"]) for a in evaluated]
    by_group = {name: [right for group, right in readings if group == name] for name in groups}
    made = {STAGES[source]: [a["reading"] for a in made] for source, made in found.items()}
    right = {stage: [r for r in of if r["correct"]] for stage, of in made.items()}
    return {
        "iteration": n,
        "seed": seed,
        "rationalize": rationalize,
        "accuracy": sum(right for _, right in readings) / len(evaluated),
        "accuracy_by_group": {name: sum(of) / len(of) for name, of in by_group.items()},
        "n_eval": len(evaluated),
        "n_eval_by_group": {name: len(of) for name, of in by_group.items()},
        "unparsable": 0,
        "dropped": 0,
        "chance": None,
        "n_questions": len(found.get("generated", ())),
        "kept": {stage: len(of) for stage, of in right.items()},
        "seconds": {
            **{stage: 100.0 + n for stage in made},
            **({"finetune": 300.0 + 7 * n} if n else {}),
            "evaluate": 20.0 + 3 * n,
        },
        "counts": {
            stage: {
                "attempts": len(of),
                "right": len(right[stage]),
                "checkable": len(right[stage]),
                "right_steps": sum(r["steps_right"] for r in right[stage]),
            }
            for stage, of in made.items()
        },
        "filtered": {
            "right_answer": {stage: len(of) - len(right[stage]) for stage, of in made.items()},
            "no_hint_leak": dict.fromkeys(made, 0),
        }
        if n
        else {},
        "training": {
            "steps": round(40 * 1.2 ** (n - 1)) if n else 0,
            "loss": 0.5 if n else None,
            "packing_efficiency": 0.9 if n else None,
        },
    }


def as_former_format(directory):
    """Rewrites a run of this module as star_jax wrote it before format 2."""
    (directory / "format.json").unlink()
    _rewrite(directory / "metrics.jsonl", _former_line)
    for file in directory.glob("iter_*/*.jsonl"):
        _rewrite(file, _former_example if file.stem == "train" else _former_attempt)


def _former_line(row):
    seconds, training = row["seconds"], row["training"]
    kept = {f"kept_{source}": row["kept"].get(stage, 0) for source, stage in STAGES.items()}
    counts = {
        old: {s: row["counts"][stage][new] for s, stage in STAGES.items() if stage in row["counts"]}
        for old, new in (
            ("right_answers", "right"), ("checkable", "checkable"), ("right_steps", "right_steps")
        )
    }  # fmt: skip
    n_kept = sum(kept.values())
    return {
        **{name: row[name] for name in ("iteration", "rationalize", "accuracy", "n_eval", "seed")},
        **{name: row[name] for name in ("unparsable", "chance")},
        "accuracy_by_class": row["accuracy_by_group"],
        "n_eval_by_class": row["n_eval_by_group"],
        **kept,
        "kept_resampled": 0,
        "n_sampled": row["n_questions"],
        "train_fraction": n_kept / row["n_questions"] if row["n_questions"] else 0.0,
        "left_out": row["dropped"],
        "hint_leaks": sum(row["filtered"].get("no_hint_leak", {}).values()),
        "train_steps": training["steps"],
        "train_loss": training["loss"],
        "packing_efficiency": training["packing_efficiency"],
        **{
            f"seconds_{stage}": seconds.get(stage, 0.0)
            for stage in ("generate", "rationalize", "resample", "finetune", "evaluate")
        },
        **counts,
    }


def _former_attempt(row):
    reading = row["reading"]
    same = ("question_id", "group", "hinted", "prompt", "completion", "ended", "log_probability")
    return {
        **{name: row[name] for name in same},
        **{name: reading[name] for name in ("answer", "correct", "n_steps")},
        "n_tokens": len(row["token_ids"]),
        "left_out": row["dropped"],
        "reference_steps": row["reference_steps"],
    }


def _former_example(row):
    same = ("question_id", "prompt", "completion", "source", "steps_right")
    return {name: row[name] for name in same}


def _rewrite(file, change):
    _write(file, [change(json.loads(line)) for line in file.read_text().splitlines()])


def _write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
