"""The experiments on DistPro run, go on where they were stopped, and compare like with like."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sklearn_kd import CIFARResNet
from sklearn_kd.distpro._distances import hcl
from sklearn_kd.layers._hooks import feature_hooks

FOLDER = Path(__file__).parents[2] / "examples" / "paper"
SCRIPTS = ("distpro_cifar10", "distpro_cifar100")


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def noise(n_classes):
    rng = np.random.default_rng(0)
    X, X_test = (rng.random((n, 3, 8, 8), dtype=np.float32) for n in (160, 50))
    return X, np.arange(160) % n_classes, X_test, np.arange(50) % n_classes


@pytest.fixture
def teacher(tmp_path):
    """The file of an untrained network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(CIFARResNet(8).state_dict(), tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


@pytest.fixture
def run(module, monkeypatch, tmp_path, teacher):
    """Run a script on noise, on networks of eight layers and 1×1 pathways; returns its record."""
    shared, small, large = map(module, ("_distpro", *SCRIPTS))
    transfer = module("distpro_transfer")
    monkeypatch.setattr(small, "small_images", lambda data, fetch: noise(10))
    monkeypatch.setattr(large, "images_of", lambda name, data, images: noise(10))
    monkeypatch.setattr(large, "TEACHER_DEPTH", 8)
    monkeypatch.setattr(shared, "TRAINING", shared.TRAINING | {"batch_size": 64})
    monkeypatch.setattr(shared, "WEIGHTS", (1.0,))
    monkeypatch.setattr(shared, "LAMBDA1S", (0.9, 0.5))
    monkeypatch.setattr(transfer, "TEACHER_DEPTH", 8)
    for script in (small, transfer, large):
        monkeypatch.setattr(script, "PLAN", script.PLAN._replace(transforms=("conv1",), pad=1, device="cpu"))
    for script in (small, large):
        monkeypatch.setattr(script, "STUDENT_DEPTH", 8)
        script.task_of.cache_clear()

    def run(name, *options):
        flags = {"distpro_cifar10": "--teacher", "distpro_cifar100": "--cifar10-teacher"}
        given = [flags[name], str(teacher)] if name in flags else []
        command = [f"{name}.py", "--quick", "--out", str(tmp_path), *given, *options]
        monkeypatch.setattr(sys, "argv", command)
        module(name).main()
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def without_times(record):
    runs = sorted(record["runs"], key=lambda run: json.dumps(run["setting"]))
    return [{k: v for k, v in run.items() if k not in ("seconds", "cost")} for run in runs]


@pytest.fixture
def whole_run(run, once, capsys):
    """whole_run(name): the record of a script and what it printed, made once."""

    def whole_run(name):
        return once(name, lambda: (run(name), capsys.readouterr().out))

    return whole_run


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stopped_script_goes_on_to_the_same_records(name, run, whole_run, module, tmp_path):
    whole, printed = whole_run(name)
    transferred = name == "distpro_cifar100"
    arms = {r["setting"]["of"] for r in whole["runs"] if r["setting"]["what"] == "training"}
    shared = module("_distpro")
    assert arms == {*shared.ARMS, *([shared.TRANSFERRED] if transferred else [])}
    assert all(table in printed for table in shared.tables(whole))
    stopped = whole | {"runs": whole["runs"][:-12]}
    (tmp_path / f"{name}.json").write_text(json.dumps(stopped))
    resumed = run(name)
    assert without_times(resumed) == without_times(whole)
    # What was there was not made again: even the seconds are the same.
    assert resumed["runs"][: len(stopped["runs"])] == stopped["runs"]
    searches = [r for r in whole["runs"] if r["setting"]["what"] == "search"]
    assert len(searches) == 2 * (len(shared.SEARCHES) - (0 if transferred else 1))
    n = 2  # steps: 128 of 160 rows, 64 a batch
    assert all(r["cost"]["forward"] == 3 * n and r["cost"]["backward"] == 2 * n for r in searches)
    trainings = [r for r in whole["runs"] if r["setting"]["what"] == "training" and r["setting"]["seed"] < 2]
    assert {(r["cost"]["forward"], r["cost"]["backward"]) for r in trainings} == {(3, 3)}


def test_processes_are_taken_to_other_data(run, whole_run, module, tmp_path, capsys):
    searched, _ = whole_run("distpro_cifar10")
    (tmp_path / "searched.json").write_text(json.dumps(searched))
    record = run("distpro_transfer", "--searched", str(tmp_path / "searched.json"))
    transfer, shared = module("distpro_transfer"), module("_distpro")
    printed = capsys.readouterr().out
    assert all(table in printed for table in transfer.tables(record))
    made = [(r["setting"]["what"], r["setting"]["of"], r["setting"]["seed"]) for r in record["runs"]]
    arms = (*transfer.OF_EACH_ITS_OWN, shared.TRANSFERRED)
    expected = [("training", arm, seed) for arm in arms for seed in range(2)]
    assert sorted(made) == sorted([*expected, *(("search", "gradient", seed) for seed in range(2))])
    assert all("code" not in r for r in record["followed"]) and all(r["code"] == 0 for r in record["runs"])
    given = {r["setting"]["seed"]: r["raw"] for r in searched["runs"] if r["setting"]["of"] == "gradient"}
    assert {r["setting"]["seed"]: r["raw"] for r in record["followed"]} == {
        seed: given[seed] for seed in range(2)
    }


@pytest.fixture
def task(module, teacher):
    return module("_distpro").Task(*noise(10), CIFARResNet.from_file(teacher), 8)


def probabilities(shared, task, arm, weight, found=None, epochs=2, **changes):
    plan = shared.Plan(("conv1",), pad=1, warm_up=1, device="cpu")
    params = shared.common(plan, 0, epochs, shared.Cost()) | changes
    student = shared.student_of(task, plan, arm, weight, params, found)
    return student.fit(task.X, task.y).predict_proba(task.X_test)


@pytest.mark.parametrize(("arm", "weight"), [("ReviewKD", 0.0), ("KD", 1.0), ("equal", 0.0)])
def test_arms_that_are_switched_off_are_the_student_alone(arm, weight, module, task):
    """The same initial weights, batches and augmentation."""
    shared = module("_distpro")
    alone = probabilities(shared, task, "none", 0.0)
    np.testing.assert_allclose(probabilities(shared, task, arm, weight), alone, atol=1e-5)
    other = probabilities(shared, task, arm, 0.5)
    assert np.abs(other - alone).max() > 1e-3


def test_lambda1_and_t_are_fixed_where_the_learned_ones_start(module, task):
    shared = module("_distpro")
    plan = shared.Plan(("conv1",), pad=1, warm_up=1, device="cpu")
    held, learned = (shared.one_search(task, plan, search, 5.0, 0, 2) for search in ("held", "learned"))
    assert held["logit_term"] == [[0.5, 4.0]] * len(held["raw"]) and held["raw"][0] == learned["raw"][0]
    assert learned["logit_term"][0] == [0.5, 4.0] and learned["logit_term"][-1] != [0.5, 4.0]
    assert np.isfinite(probabilities(shared, task, "DistPro, lambda1 and T fixed", 5.0, held)).all()


def test_constant_arms_are_brought_to_the_sum_of_the_process(module, task):
    """The mean of a process of one row is that row; at the same sum so are its last weights."""
    shared = module("_distpro")
    plan = shared.Plan(("conv1",), pad=1, warm_up=1, device="cpu")
    found = shared.one_search(task, plan, "gradient", 5.0, 0, 1)
    assert np.shape(found["raw"]) == (1, 9) and found["logit_term"] is None
    found["raw"] = np.linspace([1.0] * 9, [2.0] + [0.4] * 8, 5).tolist()
    process = shared.process_of(found)
    alpha = np.stack([process.at(t, 1001) for t in range(1001)])
    raw = process.raw_at(np.arange(1001), 1001)
    by_hand = np.where(raw > shared.TAU, alpha, 0).sum(axis=1).mean()
    options = SimpleNamespace(jobs=1, runs=1, images=1, epochs=1, search_epochs=1)
    experiment = shared.Experiment(None, None, options)
    experiment.processes = {shared.key("gradient", 5.0, 0): found}
    equal, final = (experiment.matched(arm, 5.0, 0) for arm in shared.MATCHED)
    assert equal.weight == pytest.approx(5 * by_hand, rel=1e-3) and equal.search is None
    last = alpha[-1, 0]  # the others are pruned
    assert final.weight == pytest.approx(5 * by_hand / last, rel=1e-3)
    assert final.search == ("gradient", 5.0, 0)


def test_weights_are_chosen_by_the_held_out_fifth_alone(module, monkeypatch):
    shared = module("_distpro")
    monkeypatch.setattr(shared, "WEIGHTS", (1.0, 5.0))
    asked = []

    def one_run(what, of, weight, seed, **rest):
        asked.append((what, seed))
        if what == "search":
            return {}
        return {"valid_accuracy": weight if of == "equal" else -weight / 100, "accuracy": -weight}

    options = SimpleNamespace(jobs=1, runs=1, images=1, epochs=1, search_epochs=1)
    runs = module("_protocol").Runs(None, {})
    weights, made = shared.Experiment(runs, one_run, options).tune()
    assert {seed for _, seed in asked} == {shared.TUNING_SEED}
    assert (weights["equal"], weights["DistPro"], weights["KD"]) == (5.0, 1.0, 0.1)
    assert len(made) == 9 * 2 + 3 and asked.count(("search", shared.TUNING_SEED)) == 4 * 2


def test_tuning_divides_the_training_images(module, task):
    shared = module("_distpro")
    task = task._replace(y=np.arange(160))
    (X, y), (X_val, y_val) = shared.rows_of(task, shared.TUNING_SEED)
    assert (len(X), len(X_val)) == (128, 32) and sorted([*y, *y_val]) == list(range(160))
    (X, y), (X_test, _) = shared.rows_of(task, 0)
    assert len(X) == 160 and X_test is task.X_test


def test_crops_and_mirrors(module):
    """Each image is moved and mirrored as a whole, and not all alike."""
    crop_and_flip = module("_distpro").crop_and_flip
    x = torch.rand(40, 3, 6, 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = crop_and_flip(x, 2)
        still = crop_and_flip(x, 0)
    padded, kinds = F.pad(x, [2] * 4, mode="reflect"), set()
    for i, image in enumerate(found):
        crops = {
            (top, left): padded[i, :, top : top + 6, left : left + 6] for top in range(5) for left in range(5)
        }
        views = {(*at, flip): crop.flip(2) if flip else crop for at, crop in crops.items() for flip in (0, 1)}
        matches = [view for view, crop in views.items() if torch.equal(crop, image)]
        assert matches
        kinds.update(matches)
    assert len(kinds) > 15
    same = (still == x).flatten(1).all(dim=1)
    assert torch.equal(still[~same], x[~same].flip(3)) and 5 < int(same.sum()) < 35


# --------------------------------------------------------------------------------------
# ReviewKD


@pytest.fixture
def reviewed(module, task):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        student = module("_reviewkd").ReviewedStudent(
            10, lambda n: CIFARResNet(8, n), task.teacher, ("layer1", "layer2", "layer3"), ((16, 32, 64),) * 2
        )
    return student


def test_fusion_by_hand(reviewed):
    """Two attention maps weigh the stage's map and the deeper ones, brought to its size."""
    block = reviewed.blocks[1].eval()
    own, deeper = torch.rand(2, 32, 4, 4), torch.rand(2, 64, 2, 2)
    fused, compared = block(own, deeper, (4, 4))
    narrowed, up = block.narrow(own), deeper.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    a, b = torch.sigmoid(block.attention(torch.cat([narrowed, up], dim=1))).split(1, dim=1)
    torch.testing.assert_close(fused, a * narrowed + b * up)
    torch.testing.assert_close(compared, block.match(fused))
    assert compared.shape == (2, 32, 4, 4) and block(own, deeper, (8, 8))[1].shape == (2, 32, 8, 8)
    assert reviewed.blocks[2].attention is None and reviewed.blocks[0].narrow[0].out_channels == 64


def test_its_loss_comes_with_the_gradient_of_the_logits(reviewed, task):
    x, y = torch.tensor(task.X[:16]), torch.tensor(task.y[:16])
    reviewed.train().strength = 0.5
    F.cross_entropy(reviewed(x), y).backward()
    found = [w.grad.clone() for w in reviewed.parameters()]
    reviewed.zero_grad()
    with feature_hooks(reviewed.student, reviewed.layers) as ours:
        logits = reviewed.student(x)
    with torch.no_grad(), feature_hooks(task.teacher, reviewed.layers) as theirs:
        task.teacher(x)
    fused, total = None, 0.0
    for stage in (2, 1, 0):
        target = theirs[f"layer{stage + 1}"]
        fused, compared = reviewed.blocks[stage](ours[f"layer{stage + 1}"], fused, target.shape[2:])
        total = total + hcl(compared, target)
    (F.cross_entropy(logits, y) + 0.5 * 5.0 * total).backward()
    for grad, w in zip(found, reviewed.parameters(), strict=True):
        torch.testing.assert_close(grad, w.grad, rtol=1e-4, atol=1e-5)
    assert all(float(w.grad.abs().max()) > 0 for w in reviewed.blocks.parameters() if w.ndim > 1)


def test_the_teacher_is_no_part_of_it_and_prediction_asks_neither(reviewed, task):
    assert not any(w is v for w in reviewed.parameters() for v in task.teacher.parameters())
    x = torch.tensor(task.X[:4])
    reviewed.eval()
    for part in (task.teacher, *reviewed.blocks):
        part.register_forward_pre_hook(lambda *_: pytest.fail("run to predict"))
    torch.testing.assert_close(reviewed(x), reviewed.student(x))


def test_the_weight_is_warmed_up(module):
    net = SimpleNamespace(module_=SimpleNamespace(), history=[])
    warm_up, strengths = module("_reviewkd").WarmUp(4), []
    for _ in range(6):
        net.history.append({})  # skorch begins the row before callbacks hear of the epoch
        warm_up.on_epoch_begin(net)
        strengths.append(net.module_.strength)
    assert strengths == [0.25, 0.5, 0.75, 1, 1, 1]
