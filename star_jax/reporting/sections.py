"""All sections of the report, in order; Markdown and the page are both made of them."""

from collections.abc import Sequence

from star_jax.reporting.calculator_steps import calculator_section
from star_jax.reporting.changes import changes_section
from star_jax.reporting.cost import cost_section
from star_jax.reporting.digits import digit_sections
from star_jax.reporting.document import Section
from star_jax.reporting.figures import draw_accuracies, picture
from star_jax.reporting.paper_tables import paper_sections
from star_jax.reporting.right_steps import right_steps_section
from star_jax.reporting.runs import RunReport
from star_jax.reporting.tables import command_note, comparison_table, run_cells, sample, table_of
from star_jax.reporting.training_set import training_set_sections

FIGURE_NAME = "accuracy_by_group.png"
METRICS_NOTE = (
    "Accuracies are in percent of all evaluation questions, with the 95 % Wilson interval "
    "for the overall one. `train %` is the share of the sampled questions that were "
    "trained on, `unparsed` counts completions without an answer, `seconds` is the whole "
    "outer iteration. `base` is the model before any outer iteration."
)


def sections(runs: Sequence[RunReport]) -> list[Section]:
    """The report of at least one run."""
    return [
        _overview(runs),
        *_comparison(runs),
        *paper_sections(runs),
        *digit_sections(runs),
        *calculator_section(runs),
        *training_set_sections(runs),
        *changes_section(runs),
        *right_steps_section(runs),
        cost_section(runs),
        Section("Iteration by iteration", (METRICS_NOTE,)),
        *(_run(run) for run in runs),
    ]


def _overview(runs: Sequence[RunReport]) -> Section:
    title = "Accuracy after each outer iteration"
    return Section(title, pictures=(picture(FIGURE_NAME, title, draw_accuracies(runs)),))


def _comparison(runs: Sequence[RunReport]) -> list[Section]:
    if len(runs) == 1:
        return []
    lines = tuple(f"{run.label}, seed {run.seed}: {run.command}" for run in runs)
    return [Section("Last iteration of each run", lines, (table_of(comparison_table(runs)),))]


def _run(run: RunReport) -> Section:
    text = (f"{sample(run)}; `{run.directory}`", command_note(run))
    return Section(run.label, text, (table_of(run_cells(run)),))
