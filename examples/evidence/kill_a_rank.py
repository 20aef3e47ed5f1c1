"""Kill one of the processes that train one student together, at random moments; then fit again.

A script fits with two processes and a ``checkpoint_dir``: by ``parallel=2``, or started by torchrun with
``parallel="ddp"``. At a random time after both processes have begun, one of them is killed by SIGKILL.
Recorded are the seconds until no process of the fit is left, the error that is raised, and whether the
same script, started again, ends as the undisturbed fit: weights, path and history to the bit.
The student has dropout, which each process draws by itself.

    python examples/evidence/kill_a_rank.py [--kills 20]

writes kill_a_rank.json beside this file. It takes about ten minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from torch import nn

from sklearn_kd import DistilledClassifier

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

# What starts the script, by the value of ``parallel``.
STARTS = {
    "2": [sys.executable],
    "ddp": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
}
# How long any of the processes may be there after the kill, in seconds; else the kill has failed.
LIMIT = 60.0


class Dropout(nn.Sequential):
    def __init__(self, in_features, n_classes):
        body = nn.Linear(in_features, 32), nn.ReLU(), nn.Dropout(0.2)
        super().__init__(*body, nn.Linear(32, n_classes))


def fit(parallel, folder):
    """Fit in two processes; the first writes what is compared."""
    folder = Path(folder)
    if parallel == "ddp":
        (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    X, y = load_digits(return_X_y=True)
    teacher = ExtraTreesClassifier(50)
    clf = DistilledClassifier(
        teacher, Dropout, meta="linear", e1=3, e2=3, max_epochs=12, batch_size=16, retrain="average",
        random_state=0, device="cpu", checkpoint_dir=folder / "checkpoints",
        parallel=parallel if parallel == "ddp" else int(parallel),
    )  # fmt: skip
    clf.fit(X / 16, y)
    if os.environ.get("RANK", "0") == "0":
        (folder / "result").write_text(bits(clf))


def bits(clf):
    """Hash everything that is compared."""
    found = hashlib.sha256(clf.metaparameter_path_.tobytes())
    for name, value in clf.student_.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    for row in (row for history in (clf.search_history_, clf.history_) for row in history.to_list()):
        found.update(repr({k: v for k, v in row.items() if k != "dur"}).encode())
    return found.hexdigest()


def start(parallel, folder):
    command = [*STARTS[parallel], str(Path(__file__).resolve()), "--fit", parallel, "--folder", str(folder)]
    environment = os.environ | {"JOBLIB_TEMP_FOLDER": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def pids_of(folder):
    """The processes of the fit by rank, as soon as both have begun."""
    found = {}
    for path in [*folder.glob("*.pid"), *folder.glob("sklearn-kd-*/*.pid")]:
        text = path.read_text()
        if text:
            found[int(path.stem)] = int(text)
    return found if len(found) == 2 else None


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def undisturbed(parallel):
    """What the fit ends with, and its seconds from when both processes have begun."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        process = start(parallel, folder)
        while pids_of(folder) is None:
            time.sleep(0.01)
        began = time.perf_counter()
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return (folder / "result").read_text(), time.perf_counter() - began


def one_kill(parallel, expected, seconds, rng):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        process = start(parallel, folder)
        while (pids := pids_of(folder)) is None:
            time.sleep(0.01)
        rank, when = int(rng.integers(2)), float(rng.uniform(0, seconds))
        time.sleep(when)
        if not is_running(pids[rank]) or (folder / "result").exists():
            process.communicate()
            return None  # the fit was over
        os.kill(pids[rank], signal.SIGKILL)
        killed = time.perf_counter()
        _, errors = process.communicate(timeout=LIMIT)
        while any(map(is_running, pids.values())):
            assert time.perf_counter() - killed < LIMIT
            time.sleep(0.01)
        ended = time.perf_counter() - killed
        for path in folder.glob("*.pid"):
            path.unlink()
        behind = sorted(path.stem for path in folder.glob("checkpoints/*/*.checkpoint"))
        again = start(parallel, folder)
        _, more = again.communicate()
        assert again.returncode == 0, more
        errors = [line for line in errors.splitlines() if "Error" in line and not line.startswith("  ")]
        return {
            "parallel": parallel, "rank": rank, "after": round(when, 2), "seconds to the end": round(ended, 2),
            "failed": process.returncode != 0, "error": shortened(errors, parallel),
            "checkpoints": behind[-1:], "identical": (folder / "result").read_text() == expected,
            "files left": len(list(folder.glob("checkpoints/*"))),
        }  # fmt: skip


def shortened(lines, parallel):
    """The error that names what has happened."""
    wanted = "one of the processes was killed" if parallel == "2" else "another was killed"
    found = [line for line in lines if wanted in line]
    return (found or lines or [""])[-1].partition("RankError: ")[2][:100] or (found or lines or [""])[-1][
        :100
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--fit", choices=STARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        fit(args.fit, args.folder)
        return
    rng, kills = np.random.default_rng(0), []
    for parallel in STARTS:
        expected, seconds = undisturbed(parallel)
        while len(kills) < args.kills * (1 + list(STARTS).index(parallel)) // len(STARTS):
            kill = one_kill(parallel, expected, seconds, rng)
            if kill is not None:
                kills.append(kill)
                print(kill, flush=True)
    found = {"settings": {"kills": args.kills, "seed": 0}, **provenance(__file__), "kills": kills}
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    longest = max(kill["seconds to the end"] for kill in kills)
    print(f"{sum(k['identical'] for k in kills)} of {len(kills)} identical; all ended within {longest} s")


if __name__ == "__main__":
    main()
