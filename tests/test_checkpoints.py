"""A checkpoint is complete or not there, and says which model it holds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from star_jax.errors import UserError
from star_jax.models import base_weights
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.run import checkpoints
from star_jax.run.checkpoints import TrainingCheckpoint


def tree(scale=1.0):
    return {
        "embedding": jnp.arange(12.0).reshape(4, 3) * scale,
        "layers": {"kernel": jnp.linspace(0, 1, 6, dtype=jnp.float32) * scale},
        "step": jnp.int32(7),
    }


def abstract_of(values):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), values
    )


def assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_what_was_saved_is_loaded(tmp_path):
    checkpoints.save(tmp_path / "checkpoint", tree())
    assert_equal(checkpoints.load(tmp_path / "checkpoint", abstract_of(tree())), tree())


def test_the_directory_above_stands_for_the_checkpoint_in_it(tmp_path):
    checkpoints.save(tmp_path / "base/checkpoint", tree())
    assert_equal(checkpoints.load(tmp_path / "base", abstract_of(tree())), tree())
    assert checkpoints.check(tmp_path / "base", abstract_of(tree())).name == "checkpoint"


@pytest.mark.parametrize("harm", ["other bytes", "cut off", "gone"])
@pytest.mark.parametrize("files", ["arrays", "all"])
def test_damaged_arrays_are_told_of_in_a_line(tmp_path, harm, files):
    whole = {"weights": jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)))}
    checkpoints.save(tmp_path / "c", whole)
    size, biggest = max((path.stat().st_size, path) for path in tmp_path.glob("c/**/d/*"))
    assert size > 200_000  # the weights hardly shrink
    for path in tmp_path.glob("c/**/d/*"):
        if files == "arrays" and path != biggest:
            continue
        data = path.read_bytes()
        path.write_bytes(b"x" * len(data) if harm == "other bytes" else data[: len(data) // 2])
        if harm == "gone":
            path.unlink()
    with pytest.raises(UserError, match=r"checkpoint .*c is damaged: .*; copy it again") as failed:
        checkpoints.load(tmp_path / "c", abstract_of(whole))
    assert "\n" not in failed.value.message


def test_relative_directories_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("here", tree())
    assert_equal(checkpoints.load("here", abstract_of(tree())), tree())


def test_saving_again_replaces(tmp_path):
    checkpoints.save(tmp_path / "c", tree())
    checkpoints.save(tmp_path / "c", tree(scale=2.0))
    assert_equal(checkpoints.load(tmp_path / "c", abstract_of(tree())), tree(scale=2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_missing_directory_is_told(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there"):
        checkpoints.load(tmp_path / "nowhere", abstract_of(tree()))


def test_a_directory_that_is_no_checkpoint_is_told(tmp_path):
    (tmp_path / "file.txt").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"is not a checkpoint .* give the directory"):
        checkpoints.load(tmp_path, abstract_of(tree()))
    with pytest.raises(UserError, match=r"file.txt is not there|file.txt is not a"):
        checkpoints.load(tmp_path / "file.txt", abstract_of(tree()))


def test_another_model_is_told_with_all_that_differs(tmp_path):
    checkpoints.save(tmp_path / "c", tree())
    other = tree()
    del other["layers"]
    other["embedding"] = jnp.zeros((5, 3))
    other["head"] = {"kernel": jnp.zeros(2)}
    with pytest.raises(UserError) as error:
        checkpoints.load(tmp_path / "c", abstract_of(other))
    message = error.value.message
    assert "missing: head/kernel" in message
    assert "left over: layers/kernel" in message
    assert "other shapes: embedding is (4, 3), the model wants (5, 3)" in message
    assert "\n" not in message


def test_checking_finds_what_loading_would(tmp_path):
    checkpoints.save(tmp_path / "c", tree())
    checkpoints.check(tmp_path / "c", abstract_of(tree()))
    without_step = {name: leaf for name, leaf in tree().items() if name != "step"}
    with pytest.raises(UserError, match="left over: step"):
        checkpoints.check(tmp_path / "c", abstract_of(without_step))


def interrupt_commit(monkeypatch):
    """Preemption after the arrays are written and before the checkpoint gets its name."""

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.rename", killed)
    monkeypatch.setattr("pathlib.Path.rename", killed)
    monkeypatch.setattr("os.replace", killed)


def interrupted_save(save, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_commit(patched)
        with pytest.raises(BaseException):  # noqa: B017  Orbax wraps what stopped its thread
            save()


def test_an_interrupted_save_leaves_nothing_that_load_accepts(tmp_path, monkeypatch):
    interrupted_save(lambda: checkpoints.save(tmp_path / "c", tree()), monkeypatch)
    assert list(tmp_path.iterdir()), "the leftover is what this test is about"
    with pytest.raises(UserError):
        checkpoints.load(tmp_path / "c", abstract_of(tree()))
    checkpoints.save(tmp_path / "c", tree())  # and is not in the way
    assert_equal(checkpoints.load(tmp_path / "c", abstract_of(tree())), tree())


def test_training_checkpoint_starts_with_nothing(tmp_path):
    assert TrainingCheckpoint(tmp_path / "training").restore(abstract_of(tree())) is None
    TrainingCheckpoint(tmp_path / "training").clear()


def test_training_checkpoint_keeps_the_newest(tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path)
    for step in (2, 9, 10):  # as text, "9" would come after "10"
        checkpoint.save(step, tree(scale=step))
        assert_equal(checkpoint.restore(abstract_of(tree())), tree(scale=step))
    assert [path.name for path in tmp_path.iterdir()] == ["step_10"]
    checkpoint.clear()
    assert checkpoint.restore(abstract_of(tree())) is None


def test_newest_of_several_counts(tmp_path):
    """Preempted between writing a checkpoint and dropping the older one."""
    checkpoints.save(tmp_path / "step_9", tree(9.0))
    checkpoints.save(tmp_path / "step_10", tree(10.0))
    assert_equal(TrainingCheckpoint(tmp_path).restore(abstract_of(tree())), tree(10.0))


def test_training_checkpoint_ignores_unfinished_leftovers(tmp_path, monkeypatch):
    checkpoint = TrainingCheckpoint(tmp_path)
    checkpoint.save(4, tree(4.0))
    interrupted_save(lambda: checkpoint.save(8, tree(8.0)), monkeypatch)
    assert len(list(tmp_path.iterdir())) > 1
    (tmp_path / "step_12.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "step_x").mkdir()
    assert_equal(checkpoint.restore(abstract_of(tree())), tree(4.0))
    checkpoint.save(9, tree(9.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step_9"], "leftovers fill the disk"


def test_a_half_removed_training_checkpoint_is_not_there(tmp_path, monkeypatch):
    """Preempted in the middle of `clear`."""
    checkpoint = TrainingCheckpoint(tmp_path)
    checkpoint.save(4, tree(4.0))
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        checkpoint.clear()
    assert (tmp_path / "step_4").exists()
    assert checkpoint.restore(abstract_of(tree())) is None


def test_training_checkpoint_of_another_model_is_told(tmp_path):
    TrainingCheckpoint(tmp_path).save(4, tree())
    with pytest.raises(UserError, match="step_4 holds another model"):
        TrainingCheckpoint(tmp_path).restore(abstract_of({"step": jnp.int32(0)}))


def test_steps_that_are_named_are_kept_and_none_with_0(tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path)
    assert [step for step in range(1, 10) if checkpoint.is_due(step, 3)] == [3, 6, 9]
    assert not any(checkpoint.is_due(step, 0) for step in range(1, 1000))


@pytest.mark.parametrize(("save_seconds", "apart"), [(0.5, 160), (72, 1780)])
def test_unless_steps_are_named_a_slow_save_is_rare(tmp_path, monkeypatch, save_seconds, apart):
    """Steps of one second: the first after sqrt(2 * 1 s * 6 h) = 208, then by the save's time."""
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    def slow(directory, state):
        now[0] += save_seconds

    monkeypatch.setattr(checkpoints, "save", slow)
    checkpoint, saved = TrainingCheckpoint(tmp_path), []
    for step in range(1, 5000):
        now[0] += 1.0
        if checkpoint.is_due(step, -1):
            checkpoint.save(step, None)
            saved.append(step)
    assert saved[:3] == [220, 220 + apart, 220 + 2 * apart]


# The base, held on the host.


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_the_base_is_read_once_and_comes_back_as_it_was(sizes):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    places = {
        "split": NamedSharding(mesh, PartitionSpec("fsdp", "tensor")),
        "whole": NamedSharding(mesh, PartitionSpec()),
    }
    reads = []

    def read():
        reads.append(1)
        rng = np.random.default_rng(0)
        return {
            name: jax.device_put(rng.standard_normal((16, 8)).astype(np.float32), place)
            for name, place in places.items()
        }

    base = base_weights.BaseWeights(read)
    first = base()
    again = base()
    assert len(reads) == 1
    for name, place in places.items():
        assert again[name].sharding == place
        np.testing.assert_array_equal(again[name], first[name])
        first[name].delete()  # as a donated argument is
        np.testing.assert_array_equal(base()[name], again[name])


def test_the_base_is_read_again_where_the_host_has_no_room():
    reads = []

    def read():
        reads.append(1)
        return {"w": jnp.ones(1000)}

    base = base_weights.BaseWeights(read, room=lambda: 7999)  # half of it has to stay free
    assert base()["w"].sum() == base()["w"].sum() == 1000
    assert len(reads) == 2
    enough = base_weights.BaseWeights(read, room=lambda: 8000)
    enough(), enough()
    assert len(reads) == 3
