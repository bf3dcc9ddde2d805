"""Runs on disk with attempts in them, as star_jax writes them, for tests of the report's page."""

import dataclasses

from star_jax.records import GENERATED, RATIONALIZED, Attempt, KeptExample
from star_jax.run.run_dir import RunDir

HOSTILE = (
    "</script><img src=x onerror=\"window.pwned='img'\"><script>window.pwned='script'</script>"
)
A = Attempt(
    question_id="train_1",
    group="1",
    hinted=False,
    prompt="Input:\n1 + 2\nTarget:\n",
    completion="<scratch>\n1 + 2 , C: 0\n</scratch>\n3",
    answer="3",
    correct=True,
    ended=True,
    log_probability=-1.5,
    n_tokens=20,
)


def attempt(question_id, **fields):
    """An attempt that is right unless `fields` say something else."""
    return dataclasses.replace(A, question_id=question_id, **fields)


def wrong(question_id, **fields):
    return attempt(question_id, **{"answer": "7", "correct": False, **fields})


def kept(of, source, **fields):
    return KeptExample(of.question_id, of.prompt, of.completion, source, **fields)


def write_iteration(run, iteration, **stages):
    """Writes stages of `run` (a path) as the loop does, e.g. eval=[...], train=[...]."""
    directory = RunDir(run).iteration(iteration)
    for stage, records in stages.items():
        kind = KeptExample if stage == "train" else Attempt
        directory.records(stage, kind, lambda records=records: records)


def write_small_run(run):
    """Two outer iterations and the base; every filter of the page has something to tell apart."""
    held_out = [(f"validation_{i:02d}", str(1 + i % 2)) for i in range(6)]
    for n in range(3):
        solved = {name for name, _ in held_out[: 2 * n + 1]}
        evaluated = [
            (attempt if name in solved else wrong)(name, group=group) for name, group in held_out
        ]
        if n == 0:
            write_iteration(run, n, eval=evaluated)
            continue
        generated = [
            attempt("train_1"),
            wrong("train_2", group="2", completion="The Answer is (7)."),
            wrong("train_3", answer=None, completion=HOSTILE, prompt=f"Is this {HOSTILE}?"),
            wrong("train_4", answer=None, completion="", left_out=True, ended=False, n_tokens=0),
        ]
        hinted = [
            attempt("train_2", group="2", hinted=True, completion="7 is seven.\nmore"),
            wrong("train_3", hinted=True),
            wrong("train_4", hinted=True),
        ]
        cut = dataclasses.replace(hinted[0], completion="7 is seven.")  # as `trim` does
        write_iteration(
            run,
            n,
            generations=generated,
            rationalizations=hinted,
            resamplings=[attempt("train_3", completion="at last")] if n == 2 else [],
            train=[
                kept(generated[0], GENERATED, steps_right=True),
                kept(cut, RATIONALIZED, steps_right=False),
            ],
            eval=evaluated,
        )
