"""Teachers: how each kind is trained and asked, and how to add a kind.

Every kind of teacher has an adapter, which trains the teacher unless it comes trained, and returns its
logits. :func:`register_teacher` adds the adapter of a class. :class:`FunctionTeacher` makes a teacher of a
function, :class:`OnnxTeacher` of an ONNX file, :class:`TeacherEnsemble` of several teachers.
:class:`StoredAnswers` keeps a teacher's answers on disk. :class:`ScatteredTeacher` refers to a teacher that
the workers of a cluster hold.
"""

from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._registry import register_teacher
from sklearn_kd.teachers._scattered import ScatteredTeacher
from sklearn_kd.teachers._transformed import ImageTransform

# These imports register the library's own kinds; objects of other classes are tried in this order.
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
