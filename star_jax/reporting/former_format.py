"""Rows of run directories of format 1 as rows of format 2; nothing else knows format 1.

Format 1 has one attempt per question and stage. A row lacks what format 1 does not record.
"""

from typing import Any, TypeAlias

from star_jax.loop.stages import FINETUNE, SAMPLED

Row: TypeAlias = dict[str, Any]  # a JSON object, one line of a run's file

SAME = ("iteration", "seed", "rationalize", "accuracy", "n_eval", "unparsable", "chance")
METRICS = {  # format 1 -> format 2
    **{name: name for name in SAME},
    "accuracy_by_class": "accuracy_by_group",
    "n_eval_by_class": "n_eval_by_group",
    "left_out": "dropped",
    "n_sampled": "n_questions",
}
COUNTS = {"right_answers": "right", "checkable": "checkable", "right_steps": "right_steps"}
READING = ("answer", "correct", "n_steps")


def metrics_row(row: Row) -> Row:
    """A line of metrics.jsonl in format 2, unchanged if it is; wrong types may raise TypeError."""
    if "accuracy_by_class" not in row:
        return row
    found = {new: row[old] for old, new in METRICS.items() if row.get(old) is not None}
    seconds = {name[8:]: x for name, x in row.items() if name.startswith("seconds_") and x}
    kept, counts = {}, {}
    for stage in SAMPLED:
        if row.get(f"kept_{stage.source}") or stage.name in seconds:
            kept[stage.name] = row.get(f"kept_{stage.source}") or 0
            of_stage = {new: (row.get(old) or {}).get(stage.source) for old, new in COUNTS.items()}
            counts[stage.name] = {name: n for name, n in of_stage.items() if n is not None}
    leaks = {stage: row.get("hint_leaks") or 0 for stage in kept if stage == "rationalize"}
    if not kept and row.get("train_fraction"):  # direct fine-tuning
        kept = {FINETUNE: row["n_sampled"]}
    training = {"steps": row.get("train_steps"), "loss": row.get("train_loss")}
    training["packing_efficiency"] = row.get("packing_efficiency")
    filtered = {"no_hint_leak": leaks} if leaks else {}
    by_stage = {"kept": kept, "seconds": seconds, "counts": counts, "filtered": filtered}
    return {"unparsable": 0, "dropped": 0, **found, **by_stage, "training": training}


def stage_row(row: Row) -> Row:
    """An attempt, a kept example or a line that a user wrote in format 2, unchanged if it is."""
    if "reading" in row:
        return row
    row = {"sample": 0, "turn": 0, **row}
    if "correct" in row or "answer" in row:  # an attempt
        row["reading"] = {name: row.pop(name) for name in READING if name in row}
        row["dropped"] = row.pop("left_out", False)
    return row
