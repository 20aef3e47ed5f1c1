"""The distillation process: interpolation, ablations, files, and other tasks."""

import json
import pickle

import matplotlib
import numpy as np
import pytest

from helpers.processes import PATHWAYS, RAW, make_process, pathway
from sklearn_kd import DistillationProcess, ProcessDisplay
from sklearn_kd.distpro._pathways import Pathway
from sklearn_kd.distpro._process import WEIGHTS, retraining_weights

matplotlib.use("Agg")


def normalized(raw, g=1.0):
    e = np.exp(raw)
    return e / (e.sum(axis=-1, keepdims=True) + np.exp(g))


def test_as_many_steps_give_the_search_itself():
    process = make_process(softmax_bias=0.5)
    np.testing.assert_allclose([process.at(t, 3) for t in range(3)], normalized(RAW, 0.5), rtol=1e-6)
    np.testing.assert_allclose(process.weights, normalized(RAW, 0.5), rtol=1e-6)


def test_more_steps_are_interpolated_between_the_raw_rows():
    found = [make_process().at(t, 5) for t in range(5)]
    raw = np.stack([RAW[0], (RAW[0] + RAW[1]) / 2, RAW[1], (RAW[1] + RAW[2]) / 2, RAW[2]])
    np.testing.assert_allclose(found, normalized(raw), rtol=1e-6)


def test_fewer_steps_keep_both_ends():
    long = make_process(np.linspace(RAW[0], RAW[2], 101))
    np.testing.assert_allclose([long.at(t, 2) for t in range(2)], normalized(RAW[[0, 2]]), rtol=1e-6)


def test_one_step():
    np.testing.assert_allclose(make_process().at(0, 1), normalized(RAW[0]), rtol=1e-6)
    one = make_process(RAW[1:2])  # searched for a single step
    np.testing.assert_allclose([one.at(t, 7) for t in (0, 3, 6)], normalized(RAW[[1, 1, 1]]), rtol=1e-6)


@pytest.mark.parametrize(("t", "n_steps"), [(-1, 3), (3, 3), (0, 0)])
def test_no_such_step(t, n_steps):
    with pytest.raises(ValueError, match="0 <= t < n_steps"):
        make_process().at(t, n_steps)


def schedule(weights, n_steps=3, tau=0.5):
    return retraining_weights(make_process(), n_steps, weights, tau, 3)


def test_the_process_is_pruned_and_not_renormalised():
    expected = normalized(RAW)
    expected[2, 1] = 0.0  # its raw factor is 0.2
    np.testing.assert_allclose(schedule("process"), expected, rtol=1e-6)
    np.testing.assert_allclose(schedule("process", tau=None), normalized(RAW), rtol=1e-6)
    assert (schedule("process", tau=1.0)[:, 2] == 0).all()  # at most tau
    assert schedule("process").dtype == np.float32


def test_ablations():
    process = schedule("process", 7)
    np.testing.assert_allclose(schedule("equal", 7), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(schedule("final", 7), np.tile(process[-1], (7, 1)), rtol=1e-6)
    np.testing.assert_allclose(schedule("reversed", 7), process[::-1], rtol=1e-6)
    mean = schedule("mean", 7)
    np.testing.assert_allclose(mean, np.tile(process.mean(axis=0), (7, 1)), rtol=1e-5)
    assert mean.sum() == pytest.approx(process.sum(), rel=1e-5)  # of the same strength


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_retraining_of_one_step(weights):
    found = schedule(weights, 1)
    assert found.shape == (1, 3)
    # The one step of the process is its first; its last weights are those of the search all the same.
    expected = {"equal": np.full(3, 1 / 3), "final": [*normalized(RAW[2])[:1], 0, normalized(RAW[2])[2]]}
    np.testing.assert_allclose(found[0], expected.get(weights, normalized(RAW[0])), rtol=1e-6)


def test_saved_and_loaded(tmp_path):
    process = make_process(
        softmax_bias=0.3, settings={"search_epochs": np.int64(3), "lr": 0.1, "distance": "hcl"}
    )
    process.save(tmp_path / "p.npz")
    again = DistillationProcess.load(str(tmp_path / "p.npz"))
    np.testing.assert_array_equal(again.raw, process.raw)
    assert again.pathways == process.pathways and isinstance(again.pathways[0], Pathway)
    assert (again.normalization, again.softmax_bias) == ("biased_softmax", 0.3)
    assert again.settings == {"search_epochs": 3, "lr": 0.1, "distance": "hcl"}
    assert set(again.versions) >= {"sklearn_kd", "torch", "numpy"} and again.versions == process.versions
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:  # nothing in it is a pickle
        assert {name: file[name].dtype.kind for name in file} == {"raw": "f", "about": "U"}


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "p.npz"
    make_process().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        make_process(settings={"teacher": object()}).save(path)
    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        DistillationProcess.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", raw=RAW)
    (tmp_path / "text.npz").write_text("raw")
    (tmp_path / "evil.npz").write_bytes(pickle.dumps({"raw": RAW}))
    np.savez(tmp_path / "later.npz", raw=RAW, about=np.array(json.dumps({"format": 3, "pathways": []})))
    for name in ("other", "text", "evil", "later"):
        with pytest.raises(ValueError, match=r"holds no distillation process.*DistillationProcess\.save"):
            DistillationProcess.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"raw": RAW[:, :2]}, r"shape \(3, 2\); it must be \(n_steps, 3\)"),
        ({"raw": RAW[:0]}, "at least one step"),
        ({"raw": RAW * np.nan}, "finite"),
        ({"normalization": "softmux"}, "not one of"),
        ({"logit_term": [[0.5, 4.0]]}, r"shape \(1, 2\); it must be \(3, 2\)"),
        ({"logit_term": [[0.5, 4.0], [1.1, 4.0], [0.5, 4.0]]}, "0 <= lambda1 <= 1 and T > 0"),
        ({"logit_term": [[0.5, 4.0], [0.5, np.nan], [0.5, 4.0]]}, "finite"),
    ],
)
def test_what_is_no_process(params, match):
    with pytest.raises(ValueError, match=match):
        make_process(**params)


def test_columns_are_matched_to_another_task():
    """By stages and transform, whatever layers and channels are called there."""
    other = [
        pathway(j, k, c, (64, 32), "block") for j, k, c in ((1, 1, "conv2"), (0, 0, "conv1"), (0, 1, "conv1"))
    ]
    found = make_process(softmax_bias=0.5).fitted_to(other)
    np.testing.assert_allclose(found.raw, RAW[:, [2, 0, 1]], rtol=1e-6)
    assert found.pathways == other and found.softmax_bias == 0.5


@pytest.mark.parametrize(
    "other",
    [PATHWAYS[:2], [*PATHWAYS, pathway(1, 0)], [pathway(0, 0), pathway(0, 1), pathway(1, 1, "conv1")]],
)
def test_a_mismatch_shows_both_lists(other):
    with pytest.raises(ValueError) as refused:
        make_process().fitted_to(other)
    for pathways in (PATHWAYS, other):
        assert str([p.key for p in pathways]) in str(refused.value)


# --------------------------------------------------------------------------------------
# The picture


def test_one_panel_for_each_teacher_stage():
    display = ProcessDisplay.from_process(make_process(), alpha=0.5)
    assert [ax.get_title() for ax in display.axes_] == ["teacher: layer0", "teacher: layer1"]
    assert [len(ax.lines) for ax in display.axes_] == [2, 1]
    for line, weight in zip(display.lines_, make_process().weights.T, strict=True):
        np.testing.assert_allclose(line.get_ydata(), weight)
    assert display.lines_[0].get_color() != display.lines_[1].get_color()  # two stages of the student
    assert display.lines_[0].get_linestyle() != display.lines_[2].get_linestyle()  # two transforms
    assert display.lines_[0].get_alpha() == 0.5 and display.figure_ is display.axes_[0].figure
    again = ProcessDisplay.from_process(make_process(), axes=display.axes_)
    assert again.figure_ is display.figure_
    with pytest.raises(ValueError, match="axes has 1 panels; the pathways have 2"):
        ProcessDisplay.from_process(make_process(), axes=[display.axes_[0]])


def test_panels_of_lambda1_and_temperature():
    term = np.linspace([0.5, 1.0], [0.9, 4.0], len(RAW))
    display = ProcessDisplay.from_process(make_process(logit_term=term))
    lambda1, temperature = display.axes_[2:]
    assert (lambda1.get_title(), temperature.get_title()) == ("lambda1", "temperature T")
    for ax, values in zip(display.axes_[2:], term.T, strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values, rtol=1e-6)
        assert ax.get_ylim() != display.axes_[0].get_ylim()
    assert display.axes_[0].get_ylim() == display.axes_[1].get_ylim()
    with pytest.raises(ValueError, match="2 teacher stages, and 2 more are for lambda1 and temperature T"):
        ProcessDisplay.from_process(make_process(logit_term=term), axes=display.axes_[:2])


def test_layers_of_any_name_are_in_the_picture():
    pathways = [Pathway("features.denseblock4.denselayer16.conv2", "_blocks.0", "conv1", 0, 0, 4, 4)]
    ax = ProcessDisplay.from_process(DistillationProcess(np.ones((3, 1)), pathways)).axes_[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [" _blocks.0, conv1"]
    assert ax.get_title() == "teacher: …ock4.denselayer16.conv2"


def test_one_legend_names_the_lines_of_all_panels():
    """Each student layer is connected with another teacher layer."""
    pathways = [Pathway(f"t{stage}", f"s{stage}", "conv1", stage, stage, 4, 4) for stage in range(3)]
    display = ProcessDisplay.from_process(DistillationProcess(np.ones((3, 3)), pathways))
    legend = display.axes_[2].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["s0, conv1", "s1, conv1", "s2, conv1"]
    shown = [line.get_color() for line in legend.get_lines()]
    assert shown == [line.get_color() for line in display.lines_] and len(set(shown)) == 3
    assert display.axes_[0].get_legend() is None
