"""Runs on disk with attempts in them, as star_jax writes them, for tests of the report's page."""

import json

from tests.fake_runs import kept_of

HOSTILE = (
    "</script><img src=x onerror=\"window.pwned='img'\"><script>window.pwned='script'</script>"
)
READING = {
    "answer": "3", "end": 0, "correct": True, "steps_right": None, "n_steps": None,
    "hint_leaked": False,
}  # fmt: skip


def attempt(question_id, n_tokens=20, **fields):
    """A row of an attempt that is right unless `fields`, of it or its reading, say otherwise."""
    reading = {name: fields.pop(name, value) for name, value in READING.items()}
    row = {
        "question_id": question_id,
        "sample": 0,
        "turn": 0,
        "group": "1",
        "source": "generated",
        "hinted": False,
        "prompt": "Input:\n1 + 2\nTarget:\n",
        "completion": "<scratch>\n1 + 2 , C: 0\n</scratch>\n3",
        "token_ids": [*range(n_tokens)],
        "ended": True,
        "log_probability": -1.5,
        "reading": reading,
        "reward": 1.0 if reading["correct"] else 0.0,
        "dropped": False,
        "reference_steps": None,
    }
    assert fields.keys() <= {*row, "expected"}, fields  # a later field, which older runs lack
    return {**row, **fields}


def wrong(question_id, n_tokens=20, **fields):
    return attempt(question_id, n_tokens, **{"answer": "7", "correct": False, **fields})


def kept(of, source, **fields):
    return {**kept_of(of, source), **fields}


def write_iteration(run, iteration, **stages):
    """Writes stages of `run` (a path) as the loop does, e.g. eval=[...], train=[...]."""
    directory = run / f"iter_{iteration:03d}"
    directory.mkdir(parents=True, exist_ok=True)
    for stage, rows in stages.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{stage}.jsonl").write_text(lines)


def write_small_run(run):
    """Two outer iterations and the base; every filter of the page has several choices."""
    held_out = [(f"validation_{i:02d}", str(1 + i % 2)) for i in range(6)]
    for n in range(3):
        solved = {name for name, _ in held_out[: 2 * n + 1]}
        evaluated = [
            (attempt if name in solved else wrong)(name, group=group, expected="3")
            for name, group in held_out
        ]
        if n == 0:
            write_iteration(run, n, eval=evaluated)
            continue
        generated = [
            attempt("train_1"),
            attempt("train_1", sample=1, completion="Another way to 3."),
            wrong("train_2", group="2", completion="The Answer is (7)."),
            wrong("train_3", answer=None, completion=HOSTILE, prompt=f"Is this {HOSTILE}?"),
            wrong("train_4", 0, answer=None, completion="", dropped=True, ended=False),
        ]
        hinted = [
            attempt("train_2", group="2", hinted=True, completion="7 is seven.\nmore"),
            wrong("train_3", hinted=True),
            wrong("train_4", hinted=True),
        ]
        again = [
            wrong("train_3", completion="not yet"), attempt("train_3", turn=1, completion="at last")
        ]  # fmt: skip
        write_iteration(
            run,
            n,
            generations=generated,
            rationalizations=hinted,
            resamplings=again if n == 2 else [],
            train=[
                kept(generated[0], "generated", steps_right=True),
                # As trimmed at the end of the answer.
                kept(hinted[0], "rationalized", completion="7 is seven.", steps_right=False),
            ],
            eval=evaluated,
        )
