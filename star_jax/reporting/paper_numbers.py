"""What the paper reports, to set ours beside: Zelikman et al. 2022, arXiv:2203.14465."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper; accuracies are in percent."""

    row: str  # as our runs call it in their row.json; "" if it is another model's
    method: str
    accuracy: float | None = None  # None where the paper gives no number
    train: str = "-"  # percent of the training questions that are trained on
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or what its text says of a task."""

    title: str
    rows: tuple[PaperRow, ...]


COMMONSENSE_QA = PaperTable(
    "Table 1: CommonsenseQA, accuracy on the development set",
    (
        PaperRow("", "GPT-3 direct fine-tuned", 73.0, "100"),
        PaperRow("table1/few_shot_direct", "few-shot direct GPT-J", 20.9, "~0"),
        PaperRow("table1/few_shot_cot", "few-shot CoT GPT-J", 36.6, "~0"),
        PaperRow("", "few-shot CoT LaMDA 137B", 55.6, "~0"),
        PaperRow("table1/direct_finetuned", "GPT-J direct fine-tuned", 60.0, "100"),
        PaperRow(
            "table1/star_without_rationalization", "STaR without rationalization", 68.8, "69.7"
        ),
        PaperRow("table1/star_with_rationalization", "STaR with rationalization", 72.5, "86.7"),
    ),
)
GSM8K = PaperTable(
    "Table 2: GSM8K, accuracy on the test set",
    (
        PaperRow("table2/few_shot_direct", "few-shot direct GPT-J", 3.0, "~0"),
        PaperRow("table2/few_shot_cot", "few-shot CoT GPT-J", 3.1, "~0"),
        PaperRow("table2/direct_finetuned", "GPT-J direct fine-tuned", 5.8, "100"),
        PaperRow(
            "table2/star_without_rationalization", "STaR without rationalization", 10.1, "25.0"
        ),
        PaperRow("table2/star_with_rationalization", "STaR with rationalization", 10.7, "28.7"),
    ),
)
ARITHMETIC = PaperTable(
    "Arithmetic: accuracy over 1-5 digits",
    (
        PaperRow(
            "figure4/with_rationalization",
            "STaR with rationalization",
            89.5,
            remark="after 16 iterations; 2 digits: 32 % after one, few-shot under 1 %",
        ),
        PaperRow(
            "figure4/without_rationalization",
            "STaR without rationalization",
            remark="stage-wise: n digits start to work only after n-1 do",
        ),
        PaperRow(
            "figure4/direct_finetuned",
            "direct answers, fine-tuned",
            76.3,
            remark="5,000 steps on 10,000 examples",
        ),
    ),
)
ABLATIONS = PaperTable(
    "Ablations",
    (
        PaperRow(
            "ablation/no_few_shot_in_training",
            "no few-shot prompts in training, with rationalization",
            69.9,
            remark="CommonsenseQA; 72.5 with the prompts (Table 1)",
        ),
        PaperRow(
            "ablation/no_few_shot_in_training_without_rationalization",
            "no few-shot prompts in training, without rationalization",
            60.9,
            remark="CommonsenseQA; 68.8 with the prompts (Table 1)",
        ),
        PaperRow(
            "ablation/temperature",
            "a higher temperature in place of rationalization",
            remark="worse than rationalization: more rationales are wrong but end right",
        ),
        PaperRow("ablation/few_shot_first_only", "few-shot prompts in the first iteration only"),
        PaperRow(
            "ablation/right_steps", "only rationales whose every step is right", remark="ours"
        ),
        PaperRow("ablation/schedule_linear", "training steps grow linearly", remark="ours"),
        PaperRow("ablation/schedule_epochs", "training steps are epochs", remark="ours"),
    ),
)
TABLES = (COMMONSENSE_QA, GSM8K, ARITHMETIC, ABLATIONS)
FIGURES = ("figure5", "figure6")  # rows that are in no table
KNOWN_ROWS = {row.row for table in TABLES for row in table.rows if row.row} | {*FIGURES}
