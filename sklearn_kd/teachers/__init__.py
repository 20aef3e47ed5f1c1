"""Teachers: how each kind of teacher is trained and asked, and how to add a kind.

Every kind of teacher has an adapter, which trains the teacher where it does not come trained and
returns its logits. :func:`register_teacher` adds the adapter of a class. :class:`TeacherEnsemble`,
:class:`FunctionTeacher` and :class:`OnnxTeacher` make teachers of what is none by itself;
:class:`StoredAnswers` stores the answers of one, and :class:`ScatteredTeacher` stands for one that the
workers of a cluster have.
"""

from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._registry import register_teacher
from sklearn_kd.teachers._scattered import ScatteredTeacher
from sklearn_kd.teachers._transformed import ImageTransform

# Their imports register the kinds of this library; objects of any class are told in this order.
from sklearn_kd.teachers import _classifiers, _networks, _trained_objects  # noqa: F401 isort:skip
from sklearn_kd.teachers._onnx import OnnxTeacher  # isort:skip
from sklearn_kd.teachers._ensembles import TeacherEnsemble  # isort:skip
from sklearn_kd.teachers._functions import FunctionTeacher  # isort:skip
from sklearn_kd.teachers._stored_answers import StoredAnswers  # isort:skip
from sklearn_kd.teachers import _regressors  # noqa: F401 isort:skip

__all__ = [
    "BatchTeacherAdapter",
    "FunctionTeacher",
    "ImageTransform",
    "OnnxTeacher",
    "ScatteredTeacher",
    "StoredAnswers",
    "TeacherAdapter",
    "TeacherEnsemble",
    "register_teacher",
]
