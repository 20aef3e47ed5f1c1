"""DistilledClassifier with a map of classes for each image: fits, what they keep, and what they refuse."""

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, jaccard_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback, EpochScoring
from torch import nn
from torch.utils.data import Dataset

from helpers.pages import messages
from helpers.pixels import IGNORED, PixelNet, images_with_maps, pixel_teacher
from helpers.refused_maps import refused_maps
from helpers.warned_maps import warned_maps
from sklearn_kd import DistilledClassifier, ResizedStudent
from sklearn_kd.losses import DistillationLoss, Metaparameter
from sklearn_kd.teachers import FunctionTeacher, TeacherEnsemble

X, y = images_with_maps()
SETTINGS = {
    "max_epochs": 2, "lr": 0.02, "optimizer": "SGD", "batch_size": 8, "ignore_index": IGNORED, "random_state": 0, "device": "cpu",
}  # fmt: skip


def fitted(teacher=None, X=X, y=y, student=PixelNet, fit=None, **params):
    """Fit on the images; without a teacher by the labels alone."""
    settings = SETTINGS | ({"meta": "none"} if teacher is None else {}) | params
    return DistilledClassifier(teacher, student, **settings).fit(**({"X": X, "y": y} | (fit or {})))


class Maps(Dataset):
    """Images with their maps."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, place):
        return torch.as_tensor(self.X[place]), torch.as_tensor(self.y[place])


@pytest.fixture(scope="module")
def taught():
    return fitted(pixel_teacher(), meta="linear", max_epochs=10)


def test_predictions_are_maps_in_the_type_of_y(taught):
    predicted = taught.predict(X)
    assert predicted.shape == y.shape
    assert predicted.dtype == y.dtype
    assert set(np.unique(predicted)) <= {0, 1, 2}
    probabilities = taught.predict_proba(X)
    assert probabilities.shape == (len(X), 3, *y.shape[1:])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == predicted).all()
    assert taught.classes_.tolist() == [0, 1, 2]
    assert taught.map_shape_ == y.shape[1:]
    assert isinstance(taught.student_, ResizedStudent)


def test_the_score_is_the_mean_iou_of_the_known_pixels(taught):
    weight = np.linspace(0, 1, len(X))
    predicted, known = taught.predict(X), y != IGNORED
    by_pixel = np.broadcast_to(weight[:, None, None], y.shape)[known]
    expected = jaccard_score(y[known], predicted[known], average="macro")
    weighted = jaccard_score(y[known], predicted[known], average="macro", sample_weight=by_pixel)
    assert taught.score(X, y) == pytest.approx(expected)
    assert taught.score(X, y, sample_weight=weight) == pytest.approx(weighted)
    with pytest.raises(ValueError, match="sample_weight a weight for each image"):
        taught.score(X, y, sample_weight=weight[:2])
    assert taught.score(Maps(X, y)) == pytest.approx(expected)


def test_valid_acc_is_the_accuracy_of_known_pixels():
    clf = fitted(pixel_teacher(), meta="naive", fit={"X_val": X[:9], "y_val": y[:9]})
    known = y[:9] != IGNORED
    right = (clf.predict(X[:9]) == y[:9])[known].mean()
    assert clf.validation_scores_[-1] == pytest.approx(right)


def test_scorers_of_callbacks_see_known_pixels_as_rows():
    given = {"X_val": X[:9], "y_val": y[:9]}
    clf = fitted(callbacks=[EpochScoring("f1_macro", name="f1")], fit=given)
    known = y[:9] != IGNORED
    expected = f1_score(y[:9][known], clf.predict(X[:9])[known], average="macro")
    assert clf.history_[-1]["f1"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="has use_caching=False: it would predict maps"):
        fitted(callbacks=[EpochScoring("f1_macro", use_caching=False)], fit=given)


class OwnLoss(DistillationLoss):
    """The cross-entropy of known pixels, and the distance to the teacher's logits."""

    accepts_unlabeled = True

    def metaparameters(self, n_classes):
        return {"weight": Metaparameter(0.1, bounds=(0.0, 1.0))}

    def loss(self, logits, teacher_logits, labels, *, weight):
        hard = nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
        return hard + weight * (logits - teacher_logits).square().sum(1)


class Unaware(OwnLoss):
    """One that does not say that it leaves unknown pixels out."""

    accepts_unlabeled = False


def test_losses_of_the_users_own_are_given_pixels():
    clf = fitted(pixel_teacher(), meta="gradient", loss=OwnLoss())
    assert clf.metaparameters_["weight"] != 0.1
    with pytest.raises(ValueError, match=r"loss=Unaware does not say .* ignore_index bring"):
        fitted(pixel_teacher(), meta="gradient", loss=Unaware())


def test_labels_of_unknown_pixels_have_no_part():
    signed = np.where(y == IGNORED, -1, y.astype(int))
    one = fitted(pixel_teacher(), meta="linear")
    other = fitted(pixel_teacher(), meta="linear", y=signed, ignore_index=-1)
    assert (one.predict_proba(X) == other.predict_proba(X)).all()
    assert one.score(X, y) == other.score(X, signed)


def test_a_student_learns_what_its_teacher_knows_of_unknown_pixels():
    unknown = y.copy()
    unknown[2:] = IGNORED
    adam = {"optimizer": "Adam", "max_epochs": 20}
    teacher = fitted(student__stride=1, **adam)
    student = fitted(teacher.student_, meta="fixed", lambda1=0.1, y=unknown, student__stride=1, **adam)
    assert (student.predict(X) == teacher.predict(X)).mean() > 0.9


@pytest.mark.parametrize("meta", ["forward", "implicit", "twins", "halving", "shortlist", "hyperopt"])
def test_every_kind_of_strategy_takes_maps(meta):
    clf = fitted(pixel_teacher(), meta=meta)
    assert clf.predict(X).shape == y.shape


def test_larger_images_are_predicted_at_the_same_ratio():
    clf = fitted(y=y[:, ::3, ::3])
    assert clf.predict(np.zeros((2, 3, 24, 36), np.float32)).shape == (2, 8, 12)


@pytest.mark.parametrize("overlap", [None, 0, 3, (4, 2)])
def test_tiles_predict_what_the_whole_image_does(overlap):
    clf = fitted(student=nn.Conv2d(3, 3, 1))  # which looks at nothing but a pixel
    large = np.random.default_rng(0).normal(size=(2, 3, 29, 41)).astype(np.float32)
    assert (clf.predict(large, tile=12, overlap=overlap) == clf.predict(large)).all()


def test_tiles_of_maps_at_a_third_of_the_images_size():
    student = nn.Sequential(nn.AvgPool2d(3), nn.Conv2d(3, 3, 1))
    clf = fitted(student=student, y=y[:, ::3, ::3])
    large = np.random.default_rng(0).normal(size=(2, 3, 30, 42)).astype(np.float32)
    assert clf.predict(large).shape == (2, 10, 14)
    assert (clf.predict(large, tile=(12, 15), overlap=3) == clf.predict(large)).all()


def test_files_pickles_and_graphs_predict_the_same(taught, tmp_path):
    taught.save(tmp_path / "clf.safetensors")
    loaded = DistilledClassifier.load(tmp_path / "clf.safetensors", student=PixelNet)
    assert (loaded.predict_proba(X) == taught.predict_proba(X)).all()
    assert loaded.score(X, y) == taught.score(X, y)
    assert loaded.predict(X).dtype == y.dtype
    again = pickle.loads(pickle.dumps(taught))
    assert (again.predict(X) == taught.predict(X)).all()
    onnxruntime = pytest.importorskip("onnxruntime")
    taught.export_student(tmp_path / "clf.onnx")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "clf.onnx").run(None, {"X": X[:5]})
    np.testing.assert_allclose(logits, taught.decision_function(X[:5]), rtol=1e-4, atol=1e-5)


class Killed(Callback):
    """Ends a fit as a kill would, after some epochs."""

    def __init__(self, after=None):
        self.after = after

    def on_epoch_begin(self, net, **kwargs):
        if self.after is not None and len(net.history) > self.after:
            raise MemoryError("killed")


@pytest.mark.parametrize("stage", ["callbacks", "search_callbacks"])
def test_a_killed_fit_goes_on_to_the_bit(stage, tmp_path):
    params = {"meta": "linear", "max_epochs": 4, "search_epochs": 3, "augment": flipped}
    whole = fitted(pixel_teacher(), **params, **{stage: [Killed()]})
    with pytest.raises(MemoryError):
        fitted(pixel_teacher(), **params, checkpoint_dir=tmp_path, **{stage: [Killed(2)]})
    resumed = fitted(pixel_teacher(), **params, checkpoint_dir=tmp_path, **{stage: [Killed()]})
    assert (resumed.predict_proba(X) == whole.predict_proba(X)).all()


def flipped(images, maps):
    """Flip some batches, images and maps alike."""
    return (images.flip(3), maps.flip(2)) if torch.rand(()) < 0.5 else (images, maps)


def test_datasets_are_trained_on_as_arrays():
    one = fitted(pixel_teacher(), meta="linear")
    other = fitted(pixel_teacher(), meta="linear", X=Maps(X, y), y=None)
    # The teacher is asked in batches of other sizes, which round otherwise.
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(Maps(X, y)), rtol=1e-4)
    assert (one.predict(X) == other.predict(Maps(X, y), tile=12)).all()


def test_augment_is_given_maps_as_in_y_and_may_crop_both():
    seen = set()

    def cropped(images, maps):
        seen.update(maps.unique().tolist())
        assert len(images) == len(maps)
        # The maps of the batch still belong to its images: class 1 is bright in channel 1.
        assert images[:, 1][maps == 1].mean() > images[:, 1][maps == 0].mean() + 0.3
        top = int(torch.randint(0, 4, ()))
        return images[:, :, top : top + 8, 2:10], maps[:, top : top + 8, 2:10].clone().clamp_(max=IGNORED)

    clf = fitted(pixel_teacher(), meta="naive", augment=cropped, student__stride=1)
    assert seen == {0, 1, 2, IGNORED}
    assert clf.predict(X).shape == y.shape


def test_given_logits_with_classes_last_are_refused():
    with pytest.raises(
        ValueError, match=r"n_classes, height, width\) with 3 classes.*Put the classes in front"
    ):
        fitted(meta="naive", fit={"teacher_logits": np.zeros((len(X), 12, 12, 3))})


def test_messages_name_the_user_s_student():
    with pytest.raises(ValueError, match="student PixelNet must give maps"):
        fitted(student=PixelNet(3, 2, stride=2))


def test_images_without_maps_teach_what_the_teacher_says():
    clf = fitted(pixel_teacher(), meta="shortlist", fit={"X_unlabeled": X[:10] + 0.1}, soft_validation=True)
    assert clf.n_unlabeled_ == 10
    assert clf.predict(X).shape == y.shape


TEACHERS = {
    "of half the size": pixel_teacher(stride=2),
    "function of tensors": FunctionTeacher(pixel_teacher(), takes="tensor"),
    "function of arrays": lambda X: pixel_teacher()(torch.as_tensor(X)).detach().numpy(),
    "ensemble": TeacherEnsemble([pixel_teacher(), pixel_teacher(stride=2)]),
}


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_teachers_of_maps(teacher):
    assert fitted(teacher, meta="naive").predict(X).shape == y.shape


def test_a_frozen_classifier_of_maps_teaches_with_its_classes(taught):
    ten = np.where(y == IGNORED, y, 10 * y)
    named = fitted(pixel_teacher(), meta="naive", y=ten, teacher_classes=[0, 10, 20])
    frozen = fitted(FrozenEstimator(named), meta="naive", y=ten, augment=flipped)
    assert frozen.classes_.tolist() == [0, 10, 20]
    with pytest.raises(ValueError, match=r"teacher_classes=\[1, 0, 2\] contradicts"):
        fitted(FrozenEstimator(taught), meta="naive", teacher_classes=[1, 0, 2])
    with pytest.raises(ValueError, match=r"is not fitted on maps by the fit of its student. Give Frozen"):
        fitted(clone(taught), meta="naive")


def test_given_logits_are_those_of_the_network():
    teacher = pixel_teacher(stride=2)
    logits = teacher(torch.as_tensor(X)).detach().numpy()
    given = fitted(meta="naive", fit={"teacher_logits": logits})
    assert (given.predict_proba(X) == fitted(teacher, meta="naive").predict_proba(X)).all()


def test_a_teacher_whose_maps_are_in_another_order_is_warned_of():
    teacher = fitted(student__stride=1, optimizer="Adam", max_epochs=20).student_

    def moved(images):
        return teacher(images).roll(1, dims=1)

    with pytest.warns(UserWarning, match="with its columns shifted by"):
        fitted(FunctionTeacher(moved, takes="tensor"), meta="naive")


def test_hypergradients_of_some_images_of_a_batch():
    clf = fitted(pixel_teacher(), meta="gradient", meta__hypergradient_rows=4)
    assert np.isfinite(clf.metaparameter_path_["val_loss"][clf.metaparameter_path_["search"]]).all()


def test_cross_validation_and_clones():
    scores = cross_val_score(clone(DistilledClassifier(pixel_teacher(), PixelNet, **SETTINGS)), X, y, cv=2)
    assert np.isfinite(scores).all()


def test_a_student_goes_on_by_warm_start(taught):
    again = clone(taught).set_params(warm_start=True, max_epochs=2).fit(X, y)
    before = again.n_iter_
    assert again.fit(X, y).n_iter_ > before
    with pytest.raises(
        ValueError, match=r"with maps of shape \(12, 12\); got .* with maps of shape \(6, 6\)"
    ):
        again.fit(X, y[:, ::2, ::2])


BAD = refused_maps(X, y)


@pytest.mark.parametrize("what", BAD)
def test_refused(what):
    params, given = BAD[what]
    with pytest.raises((ValueError, TypeError), match=messages()[what]):
        fitted(**params, fit={"X": X, "y": y} | given)


@pytest.mark.parametrize(
    ("given", "cure"),
    [(X[0], "X[None]"), (X.transpose(0, 2, 3, 1), "X.transpose(0, 3, 1, 2)"), (list(X[0]), "X[None]")],
)
def test_other_images_to_predict_are_refused_with_what_to_give(taught, given, cure):
    with pytest.raises(ValueError, match=r"\(n_samples, 3, height, width\)\..*give " + re.escape(cure)):
        taught.predict(given)


TILES = {
    "overlap alone": ({"overlap": 2}, "overlap=2 needs tiles"),
    "no size": ({"tile": 0}, "tile=0 must be a number of pixels of at least 1"),
    "too much overlap": ({"tile": 12, "overlap": 9}, "at most half of tile=12"),
    "between pixels of the map": ({"tile": 7}, "multiples of 3"),
}


@pytest.mark.parametrize(("params", "message"), TILES.values(), ids=TILES)
def test_refused_tiles(params, message):
    with pytest.raises(ValueError, match=message):
        fitted(y=y[:, ::3, ::3]).predict(X, **params)


def test_ignore_index_and_tiles_are_for_maps():
    rows = DistilledClassifier(None, nn.Linear(2, 2), meta="none", max_epochs=1, device="cpu")
    data = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    with pytest.raises(ValueError, match=r"tile=4 cuts images into parts, but y had no maps"):
        clone(rows).fit(*data).predict(data[0], tile=4)
    with pytest.raises(
        ValueError, match=r"ignore_index=255 is the label of unknown pixels, but y has shape \(30,\)"
    ):
        rows.set_params(ignore_index=255).fit(*data)


def every_other(images):
    return images[:, :, ::2, ::2]


def test_images_that_preprocessing_makes_smaller_are_predicted_at_any_size():
    clf = fitted(student_preprocessing=FunctionTransformer(every_other))
    larger = np.tile(X[:2], (1, 1, 2, 3))
    assert clf.predict(X).shape == y.shape
    assert clf.predict(larger).shape == clf.predict(larger, tile=6).shape == (2, 24, 36)


WARNED = warned_maps(X, y)


@pytest.mark.parametrize("what", WARNED)
def test_warned_of(what):
    params, given = WARNED[what]
    with pytest.warns(UserWarning, match=messages()[what]):
        fitted(**{"max_epochs": 1} | params, fit={"X": X, "y": y} | given)


@pytest.mark.filterwarnings("ignore:y has the label 255")
@pytest.mark.parametrize("stated", [None, [0, 1, 2]])
def test_a_teacher_that_does_not_know_255_is_told_that_it_may_be_unknown(stated):
    said = "teacher_classes lacks .* set ignore_index=255"
    if stated is None:
        said = messages()["a label that is often unknown, which a teacher does not know"]
    with pytest.raises(ValueError, match=said):
        fitted(pixel_teacher(), ignore_index=-1, teacher_classes=stated)


def test_labels_that_are_not_counted_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(y=np.where(y == IGNORED, 0, y) * 100, ignore_index=None)


def test_maps_of_differing_shapes_in_a_dataset_are_refused():
    class Mixed(Maps):
        def __getitem__(self, place):
            image, labels = super().__getitem__(place)
            return image, labels if place < 8 else labels[:6]

    with pytest.raises(ValueError, match=r"labels of differing shapes, such as \(12, 12\) and \(6, 12\)"):
        fitted(X=Mixed(X, y), y=None)
