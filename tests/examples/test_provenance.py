"""A result file says which code its numbers come from, and runs of different code do not mix in silence."""

import ast
import importlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folders of the scripts."""
    for folder in (EXAMPLES, EXAMPLES / "paper"):
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


def git(folder, *command):
    who = ["-c", "user.name=Some One", "-c", "user.email=one@example.org"]
    done = subprocess.run(["git", "-C", folder, *who, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(module, monkeypatch, tmp_path):
    """A repository with a package, a script and its own module; ``provenance`` takes them for the library's."""
    files = {
        "package/__init__.py": "__version__ = '1'\n",
        "package/part.py": "A = 1\n",
        "examples/paper/_own.py": "B = 2\n",
        "examples/paper/other.py": "C = 3\n",
        "examples/paper/script.py": "import json\nfrom _own import B\n",
        "docs/page.rst": "words\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "all")
    provenance = module("_provenance")
    monkeypatch.setattr(provenance.sklearn_kd, "__file__", str(tmp_path / "package" / "__init__.py"))
    monkeypatch.setattr(provenance, "HERE", tmp_path / "examples")
    return tmp_path


@pytest.fixture
def code(module, checkout):
    """Which code the script runs, as of now."""
    return lambda: module("_provenance").code_of(checkout / "examples" / "paper" / "script.py")


def test_the_commit_is_that_of_the_checkout(code, checkout):
    assert code()["commit"] == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ("package/part.py", "library"),
        ("package/new.py", "library"),
        ("examples/paper/script.py", "script"),
        ("examples/paper/_own.py", "script"),
    ],
)
def test_changed_code_is_other_code(changed, part, code, checkout):
    before = code()
    (checkout / changed).write_text("from _own import B\n# another\n")
    after = code()
    assert {name for name in before if before[name] != after[name]} == {"commit", part}
    assert after["commit"] == f"{before['commit']}-dirty"
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "another")
    assert code() == after | {"commit": git(checkout, "rev-parse", "HEAD")}


@pytest.mark.parametrize(
    "changed", ["docs/page.rst", "examples/paper/record.json", "examples/paper/other.py"]
)
def test_what_the_script_does_not_run_is_no_other_code(changed, code, checkout):
    """Pages, the records that scripts write beside themselves, and other scripts."""
    before = code()
    (checkout / changed).write_text("{}\n")
    assert code() | {"commit": None} == before | {"commit": None}
    assert code()["commit"].endswith("-dirty") == changed.endswith(".py")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "words")
    assert {name for name, of in code().items() if of != before[name]} == {"commit"}


def test_a_copy_that_git_does_not_know_has_no_commit(code, checkout):
    """Such as one that was installed into an environment within a checkout."""
    before = code()
    git(checkout, "rm", "-r", "-q", "--cached", "package")
    (checkout / ".gitignore").write_text("package/\n")
    assert code() == before | {"commit": None}


@pytest.mark.parametrize("why", ["outside a repository", "without git"])
def test_no_commit_without_git(why, module, monkeypatch, code, checkout):
    before = code()
    if why == "without git":
        monkeypatch.setenv("PATH", "")
    else:
        (checkout / ".git").rename(checkout / "no.git")
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    assert code() == before | {"commit": None}


def test_every_version_is_noted(module):
    found = module("_provenance").provenance(EXAMPLES / "03_noisy_labels.py", json)
    assert set(found) == {"versions", "code"}
    assert {"sklearn_kd", "torch", "skorch", "sklearn", "numpy", "json", "python"} == set(found["versions"])
    assert found["versions"]["torch"] == torch.__version__


def calls_of(tree):
    """Return the names of the functions and methods that are called."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(func, "attr", getattr(func, "id", None)) for func in calls}


def imported_mains(path, tree):
    """Return the trees of the ``main`` that a script takes from a module beside it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "main" in {alias.name for alias in node.names}:
            module = ast.parse((path.parent / f"{node.module}.py").read_text(encoding="utf-8"))
            yield next(of for of in module.body if isinstance(of, ast.FunctionDef) and of.name == "main")


def test_every_script_that_writes_a_record_says_so():
    """By ``provenance``, or by what the scripts of the paper and the benchmarks share, which have it."""
    shared = {"provenance", "of_script", "write", "carry_out"}
    for path in sorted(EXAMPLES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.with_suffix(".json").exists():
            names = calls_of(tree) | {name for main in imported_mains(path, tree) for name in calls_of(main)}
            assert names & shared, f"{path} must write provenance(__file__) into its record"
        assert not ({"__version__"} & {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}) or (
            path.name == "_provenance.py"
        ), f"{path} notes versions by itself"


class TestRuns:
    CODE = {"commit": "abc", "library": "1", "script": "2"}

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "some.json"

    @pytest.fixture
    def made(self, module, path):
        """Make runs of a code; returns the record."""

        def made(numbers, code=self.CODE, **options):
            runs = module("_protocol").Runs(path, {}, code, **options)
            runs.of(lambda i: {"square": i * i}, [{"i": i} for i in numbers])
            return json.loads(path.read_text())

        return made

    def test_each_says_its_code(self, made):
        record = made(range(3))
        assert record["codes"] == [self.CODE]
        assert [run["code"] for run in record["runs"]] == [0, 0, 0]

    def test_other_commits_of_the_same_code_go_on(self, made):
        made(range(2))
        record = made(range(4), self.CODE | {"commit": "def"})
        assert record["codes"] == [self.CODE] and [run["code"] for run in record["runs"]] == [0] * 4

    @pytest.mark.parametrize("part", ["library", "script"])
    def test_other_code_is_refused(self, part, made, path):
        made(range(2))
        before = path.read_text()
        message = (
            rf"some\.json has runs of other code: 2 of commit abc, library 1, script 2; now .*{part} 3.*"
            "check out its commit.*--anew.*--out FOLDER.*--beside WHY"
        )
        with pytest.raises(SystemExit, match=message):
            made(range(3), self.CODE | {part: "3"})
        assert path.read_text() == before
        record = made(range(1), self.CODE | {part: "3"}, anew=True)
        assert len(record["runs"]) == 1 and record["codes"] == [self.CODE | {part: "3"}]

    def test_a_reason_is_kept_with_the_code(self, made):
        made(range(2))
        other = self.CODE | {"script": "3"}
        record = made(range(3), other, beside="an arm was added")
        assert record["codes"] == [self.CODE, other | {"beside": "an arm was added"}]
        assert [run["code"] for run in record["runs"]] == [0, 0, 1]
        # Neither needs another reason, and what is there was not made again.
        assert [run["code"] for run in made(range(4), other)["runs"]] == [0, 0, 1, 1]
        assert [run["code"] for run in made(range(5))["runs"]] == [0, 0, 1, 1, 0]

    def test_runs_of_code_that_was_not_noted_are_not_taken_for_ones_own(self, made, path):
        record = made(range(2))
        old = {name: value for name, value in record.items() if name != "codes"}
        old["runs"] = [{name: run[name] for name in run if name != "code"} for run in record["runs"]]
        path.write_text(json.dumps(old))
        with pytest.raises(SystemExit, match=r"other code: 2 of code that was not noted; now commit abc"):
            made(range(3))
        record = made(range(3), beside="the same function")
        assert ["code" in run for run in record["runs"]] == [False, False, True]
        assert record["codes"] == [self.CODE | {"beside": "the same function"}]
