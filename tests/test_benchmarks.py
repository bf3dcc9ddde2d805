"""The benchmarks run, in small, and take no text that differs from the others'."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import common, quickstart
from tests.benchmarks.common import Comparison, Contender, Pass

ROOT = Path(__file__).parent.parent
KEYS = {"benchmark", "command", "seed", "threads", "cpus", "repeats", "versions", "sizes",
        "contenders", "ratios", "bars"}  # fmt: skip
# Stands in for vLLM where the environment has none; SLIP makes it write one wrong id.
FAKE_VLLM = """
import os
from types import SimpleNamespace
import torch, transformers

class SamplingParams(SimpleNamespace):
    pass

class LLM:
    def __init__(self, model, dtype, enable_prefix_caching, **settings):
        assert enable_prefix_caching and dtype == "float32"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
        self.forgotten = False

    def reset_prefix_cache(self):
        self.forgotten = True

    def generate(self, prompts, params):
        assert self.forgotten and params.temperature == 0
        return [self.answer(prompt["prompt_token_ids"], params) for prompt in prompts]

    def answer(self, ids, params):
        out = self.model.generate(
            torch.tensor([ids]), max_new_tokens=params.max_tokens, do_sample=False,
            eos_token_id=params.stop_token_ids, pad_token_id=0,
        )
        new = out[0, len(ids):].tolist()
        new[-1] += int(os.environ.get("SLIP", 0))
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=new)])
"""


def run(tmp_path, name, *flags, **environment):
    """Runs a benchmark in small; returns the process and what it wrote, None if nothing."""
    (tmp_path / "vllm.py").write_text(FAKE_VLLM)
    out = tmp_path / "out.json"
    script = ROOT / "tests" / "benchmarks" / f"{name}.py"
    process = subprocess.run(
        [sys.executable, script, "--small", "--threads=1", "--repeats=1", f"--json={out}", *flags],
        env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return process, json.loads(out.read_text()) if out.exists() else None


def result(tmp_path, name, *flags):
    process, written = run(tmp_path, name, *flags)
    assert process.returncode == 0, process.stderr[-3000:]
    assert written.keys() >= KEYS
    assert (written["benchmark"], written["repeats"], written["seed"]) == (name, 1, 0)
    assert written["command"].startswith(f"python tests/benchmarks/{name}.py --small")
    assert written["threads"] == {"star_jax": 1, "others": 1} and len(written["cpus"]) == 1
    for ratio, value in written["ratios"].items():
        assert value > 0 and f"{value:.3f}" in process.stdout, ratio
    for contender in written["contenders"].values():
        assert len(contender["seconds"]) == 1 and contender["units"] > 0
    return written


@pytest.mark.slow
def test_sampling_is_set_beside_all_others(tmp_path):
    written = result(tmp_path, "sampling", "--vllm", sys.executable)
    assert written["ratios"].keys() == {
        "transformers generate", "own replicated prefix", "vLLM", "refill beside fixed batches",
    }  # fmt: skip
    assert written["identical_ids"] is True
    assert 0 < written["texts"]["share_cut"] < 1  # some texts end, some do not
    assert written["texts"]["smallest_margin"] > 1e-3
    assert written["refill_decode_steps_ratio"] > 1


@pytest.mark.slow
def test_sampling_fails_where_one_id_differs(tmp_path):
    process, written = run(tmp_path, "sampling", "--only=peers", "--vllm", sys.executable, SLIP="1")
    assert process.returncode == 1
    assert written is None
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ids differ: vLLM, prefix known, text 0, token "), last


@pytest.mark.slow
def test_an_outer_iteration_keeps_the_same_on_both_sides(tmp_path):
    written = result(tmp_path, "iteration")
    assert written["ratios"].keys() == {"a whole outer iteration"}
    n_asked = written["sizes"]["n_questions"]
    assert 0 < written["kept"] < n_asked
    (texts,) = {contender["units"] for contender in written["contenders"].values()}
    assert n_asked < texts < 2 * n_asked  # some were right at once, some were asked again


@pytest.mark.slow
def test_scaling_tells_cost_and_idle_share(tmp_path):
    written = result(tmp_path, "scaling")
    assert written["ratios"].keys() == {
        "dearest / cheapest question", "device idle, share of the stage",
    }  # fmt: skip
    assert written["seconds_per_question"].keys() == written["contenders"].keys()


def contender(name, log):
    def once():
        log.append(name)
        return Pass(float(len(log)), [(1, 2), (3,)])

    return Contender(name, once, 2)


def test_every_second_round_goes_backwards_and_the_median_counts():
    log = []
    first, second = contender("a", log), contender("b", log)
    common.rounds([first, second], 3, [(1, 2), (3,)])
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert (first.seconds, first.median, first.rate) == ([1, 4, 5], 4, 0.5)
    assert second.median == 3


@pytest.mark.parametrize(
    ("got", "told"),
    [
        ([[1, 2]], "wrote 1 texts instead of 2"),
        ([[1, 2], [4]], r"text 1, token 0: \[4\] instead of \[3\]"),
        ([[1], [3]], r"text 0, token 1: \[\] instead of \[2\]"),
        ([[1, 2, 5], [3]], r"text 0, token 2: \[5\] instead of \[\]"),
    ],
)
def test_a_text_that_differs_ends_the_script(got, told):
    common.require_same_ids("x", [[1, 2], (3,)], [(1, 2), [3]])
    with pytest.raises(SystemExit, match=told) as end:
        common.require_same_ids("x", got, [[1, 2], [3]])
    assert end.value.code  # a message: exit code 1
    with pytest.raises(SystemExit, match=told):
        common.rounds([Contender("x", lambda: Pass(1.0, got), 2)], 1, [[1, 2], [3]])


def test_the_best_batch_is_the_last_that_was_not_slower():
    tried = []

    def at(size):
        tried.append(size)
        seconds = {8: 2.0, 16: 1.0, 32: 1.5, 64: 0.1}[size]
        return Contender("x", lambda: Pass(seconds, []), 4)

    assert common.best_batch("x", at, (8, 16, 32, 64)) == 16
    assert tried == [8, 16, 32]


def test_a_bar_is_reached_from_its_own_side():
    assert Comparison("speed", 1.2, 1.2).met and not Comparison("speed", 1.1, 1.2).met
    assert Comparison("cost", 1.1, 1.1, at_most=True).met
    assert not Comparison("cost", 1.2, 1.1, at_most=True).met


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_a_peer_that_dies_is_told_with_its_last_words(tmp_path):
    (tmp_path / "work.json").write_text("{}")
    args = type("Args", (), {"threads": 1, "cpus": [0]})
    with (
        pytest.raises(SystemExit, match=r"(?s)peer.py nothing .* died; it said last:.*KeyError"),
        common.peer("nothing", tmp_path, args, sys.executable),
    ):
        pass


def quickstart_runs(folder, accuracies):
    """Finished runs of the quickstart with these shares at each digit count, with and without."""
    for seed, arms in enumerate(accuracies):
        run = quickstart.Run(folder, seed, "1 thread")
        for arm, shares in zip(quickstart.ARMS, arms, strict=True):
            (run.path / arm).mkdir(parents=True)
            groups = {str(n): share for n, share in enumerate(shares, start=1)}
            line = {"accuracy": sum(shares) / 5, "accuracy_by_group": groups, "n_eval": 500}
            (run.path / arm / "metrics.jsonl").write_text(f"{json.dumps(line)}\n" * 2)
            run.path.joinpath(f"{arm}.seconds").write_text("60\n")


def test_the_quickstarts_table_has_the_worst_run_first(tmp_path, capsys, monkeypatch):
    good, weak = (1.0, 1.0, 0.98, 0.97, 0.95), (0.8, 0.2, 0.0, 0.0, 0.0)
    quickstart_runs(tmp_path, [(good, weak), (weak, good), (good, good)])
    out = tmp_path / "out.json"
    argv = ["quickstart.py", str(tmp_path), "--show", "--orders", "1 thread", f"--json={out}"]
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "0", "1", "2"])
    assert quickstart.main() == 1
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["seed", "order", "base", "with"]
    assert [row.split()[0] for row in rows] == ["1", "0", "2"]
    assert rows[0].endswith(
        "below 85 %, 4 digits below 80 %, not ahead at 2 digits, not ahead at 3 digits"
    )
    assert rows[1].split()[4:8] == ["98.0", "96.4", "to", "98.9"] and rows[1].endswith(" -")
    assert [run["seed"] for run in json.loads(out.read_text())["runs"]] == [0, 1, 2]
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "0"])
    assert quickstart.main() == 0
    monkeypatch.setattr(sys, "argv", [*argv, "--seeds", "0", "3"])
    assert quickstart.main() == 1  # one is not finished
