"""The paper's tables with our runs beside them; tiny twins are in tables of their own."""

from collections.abc import Iterator, Sequence

from star_jax.reporting.document import Section, Table
from star_jax.reporting.paper_numbers import KNOWN_ROWS, TABLES, PaperTable
from star_jax.reporting.runs import TINY, Arm, Run, arms
from star_jax.reporting.tables import NOTHING, accuracy_interval, percent

NOT_RUN = "not run"
TWIN = "tiny twin: another task and model"
OURS = ("ours %", "95 % interval", "n", "seed", "iteration", "train %")
NOTE = (
    "Accuracy over all n held-out questions after the last iteration. The interval of one run is "
    "Wilson's; of several runs `ours` is the mean, with their range. `train %` is the share of the "
    "sampled training questions that was trained on."
)
TWIN_NOTE = f"Each is a {TWIN}, not to be set beside the paper's number. {NOTE}"


def paper_sections(runs: Sequence[Run]) -> list[Section]:
    """Tables 1 and 2, arithmetic and ablations; none if no run says which row it is."""
    by_row = {arm.row: arm for arm in arms(runs) if arm.row}
    if not by_row:
        return []
    sections = [_section(table, by_row) for table in TABLES]
    unknown = sorted(row for row in by_row if row.removesuffix(TINY) not in KNOWN_ROWS)
    if unknown:
        known = ", ".join(sorted(KNOWN_ROWS))
        text = f"In none of the tables, since the paper has no such row: {', '.join(unknown)}."
        sections.append(Section("Other rows", (text, f"The rows are {known}, {TINY} behind each.")))
    return sections


def mean_and_range(values: Sequence[float], digits: int = 1) -> tuple[str, str]:
    """Of shares, in percent: ("64.0", "62.0 to 66.0")."""
    mean = sum(values) / len(values)
    low, high = min(values), max(values)
    return percent(mean, digits), f"{percent(low, digits)} to {percent(high, digits)}"


def _section(table: PaperTable, by_row: dict[str, Arm]) -> Section:
    theirs = {paper.row for paper in table.rows}
    shown = [arm for row, arm in by_row.items() if row.removesuffix(TINY) in theirs]
    commands = [f"{arm.row}, seed {run.seed}: {run.command}" for arm in shown for run in arm.runs]
    tables = [_table(table, by_row)]
    if any(arm.row.endswith(TINY) for arm in shown):
        tables.append(_twins(table, by_row))
    return Section(table.title, tuple(commands), tuple(tables))


def _table(table: PaperTable, by_row: dict[str, Arm]) -> Table:
    remarks = any(paper.remark for paper in table.rows)
    header = ("method", "paper %", "paper train %", *OURS, *(["the paper's remark"] * remarks))
    rows = []
    for paper in table.rows:
        accuracy = NOTHING if paper.accuracy is None else f"{paper.accuracy:.1f}"
        lines = _ours(by_row.get(paper.row), missing="another model" if not paper.row else NOT_RUN)
        heads = [(paper.method, accuracy, paper.train), *_seeds(by_row.get(paper.row))]
        tails = [(paper.remark or NOTHING,), *[("",)] * (len(lines) - 1)]
        for head, line, tail in zip(heads, lines, tails, strict=True):
            rows.append((*head, *line, *(tail if remarks else ())))
    return Table("The paper's task and model", header, tuple(rows), NOTE)


def _twins(table: PaperTable, by_row: dict[str, Arm]) -> Table:
    rows = []
    for paper in (paper for paper in table.rows if paper.row):
        arm = by_row.get(paper.row + TINY)
        method = " ".join(paper.method.replace("GPT-J", "").split())  # which it is not
        heads = [(method,), *((head[0],) for head in _seeds(arm))]
        rows += [(*head, *line) for head, line in zip(heads, _ours(arm, NOT_RUN), strict=True)]
    return Table(TWIN.capitalize(), ("method", *OURS), tuple(rows), TWIN_NOTE)


def _seeds(arm: Arm | None) -> Iterator[tuple[str, str, str]]:
    """What begins the line of each of several runs."""
    if arm is not None and len(arm.runs) > 1:
        yield from ((f"… {run.name}", "", "") for run in arm.runs)


def _ours(arm: Arm | None, missing: str) -> list[tuple[str, ...]]:
    """The cells of `OURS`: of the arm, and of each run if there are several."""
    if arm is None:
        return [(missing, *[NOTHING] * (len(OURS) - 1))]
    each = [_of_run(run) for run in arm.runs]
    if len(each) == 1:
        return each
    lasts = [run.rows[-1] for run in arm.runs]
    accuracies = [last["accuracy"] for last in lasts]
    trained = [last["train_fraction"] for last in lasts if last.get("train_fraction") is not None]
    mean, spread = mean_and_range(accuracies)
    sizes = " + ".join(f"{last['n_eval']:,}" for last in lasts)
    seeds = ", ".join(str(run.seed) for run in arm.runs)
    iterations = sorted({last["iteration"] for last in lasts})
    together = (
        f"{mean} (mean)",
        f"{spread} (range)",
        sizes,
        seeds,
        ", ".join(map(str, iterations)),
        percent(sum(trained) / len(trained)) if trained else NOTHING,
    )
    return [together, *each]


def _of_run(run: Run) -> tuple[str, ...]:
    last = run.rows[-1]
    return (
        percent(last["accuracy"]),
        accuracy_interval(last),
        f"{last['n_eval']:,}",
        str(run.seed),
        str(last["iteration"]),
        percent(last.get("train_fraction")),
    )
