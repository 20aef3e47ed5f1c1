"""Teachers: how each kind of teacher is trained and asked, and how to add a kind.

Every kind of teacher has an adapter, which trains the teacher where it does not come trained and
returns its logits. :func:`register_teacher` adds the adapter of a class.
"""

from sklearn_kd.teachers._adapter import BatchTeacherAdapter, TeacherAdapter
from sklearn_kd.teachers._registry import register_teacher

# Their imports register the kinds of this library.
from sklearn_kd.teachers import _classifiers, _networks  # noqa: F401 isort:skip

__all__ = ["BatchTeacherAdapter", "TeacherAdapter", "register_teacher"]
