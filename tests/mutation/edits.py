"""All edits, in the order in which they run: from the loop down."""

from tests.mutation import (
    loop_edits,
    model_edits,
    rollout_edits,
    run_edits,
    star_edits,
    task_edits,
    tool_edits,
    training_edits,
)

EDITS = (
    *star_edits.EDITS,
    *loop_edits.EDITS,
    *model_edits.EDITS,
    *run_edits.EDITS,
    *rollout_edits.EDITS,
    *training_edits.EDITS,
    *task_edits.EDITS,
    *tool_edits.EDITS,
)
