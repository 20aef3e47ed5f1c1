"""Kill one of two processes that train one student together, at random moments; then fit again.

Two processes, started as torchrun starts them but without a supervisor, fit with ``parallel="ddp"`` and a
``checkpoint_dir``. At a random time after both have connected, one of them is killed by SIGKILL. The script
records the seconds until the other ends by itself, its error, and whether the same fit, started again, ends
like the undisturbed one: weights, path and history, to the bit. The student has dropout, which each process
draws by itself.

    python examples/evidence/kill_a_rank.py [--kills 20]

It writes kill_a_rank.json beside this file. It takes about three minutes on two cores and needs ``os.fork``.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from torch import nn

from sklearn_kd import DistilledClassifier

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

# The longest that the other process may go on, in seconds; else the evidence is that it hangs.
LIMIT = 60.0


class Dropout(nn.Sequential):
    def __init__(self, in_features, n_classes):
        body = nn.Linear(in_features, 32), nn.ReLU(), nn.Dropout(0.2)
        super().__init__(*body, nn.Linear(32, n_classes))


def fitted(folder):
    X, y = load_digits(return_X_y=True)
    clf = DistilledClassifier(
        ExtraTreesClassifier(50), Dropout, meta="linear", e1=3, e2=3, max_epochs=5, batch_size=16,
        retrain="average", random_state=0, device="cpu", parallel="ddp",
        checkpoint_dir=folder / "checkpoints",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # none of the checkpoints is refused
        return clf.fit(X / 16, y)


def bits(clf):
    """Hash everything that is compared."""
    found = hashlib.sha256(clf.metaparameter_path_.tobytes())
    for name, value in clf.student_.state_dict().items():
        found.update(name.encode() + value.numpy().tobytes())
    for row in (row for history in (clf.search_history_, clf.history_) for row in history.to_list()):
        found.update(repr({k: v for k, v in row.items() if k != "dur"}).encode())
    return found.hexdigest()


def started(folder):
    """Start both processes; each writes its results into the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):
        pid = os.fork()
        if not pid:
            where = {
                "RANK": rank,
                "WORLD_SIZE": 2,
                "LOCAL_RANK": rank,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in where.items()})
            try:
                dist.init_process_group("gloo")
                (folder / f"{rank}.met").touch()
                found = {"bits": bits(fitted(folder))}
            except BaseException as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            (folder / f"{rank}.part").write_text(json.dumps(found))
            (folder / f"{rank}.part").replace(folder / f"{rank}.json")
            os._exit(0)
        pids.append(pid)
    while len(list(folder.glob("*.met"))) < 2:
        time.sleep(0.001)
    return pids


def ended(folder, pids):
    for pid in pids:
        os.waitpid(pid, 0)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def undisturbed():
    """Return the results of both processes, undisturbed, and the seconds that they take."""
    with tempfile.TemporaryDirectory() as folder:
        pids = started(Path(folder))
        began = time.perf_counter()
        first, second = ended(Path(folder), pids)
        assert first == second, (first, second)
        return first["bits"], time.perf_counter() - began


def one_kill(expected, seconds, rng):
    """Kill one process and fit again; return None if the fit was over before."""
    rank, when = int(rng.integers(2)), float(rng.uniform(0, seconds))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pids = started(folder)
        time.sleep(when)
        os.kill(pids[rank], signal.SIGKILL)
        killed = time.perf_counter()
        os.waitpid(pids[rank], 0)
        while os.waitpid(pids[1 - rank], os.WNOHANG) == (0, 0):
            assert time.perf_counter() - killed < LIMIT, "the other process hangs"
            time.sleep(0.01)
        took = time.perf_counter() - killed
        other = json.loads((folder / f"{1 - rank}.json").read_text())
        if "error" not in other:
            return None
        behind = [path.stem for path in folder.glob("checkpoints/*/*.checkpoint")]
        for path in [*folder.glob("*.json"), *folder.glob("*.met")]:
            path.unlink()
        again = ended(folder, started(folder))
        return {
            "rank": rank, "after": round(when, 2), "seconds of the other": round(took, 2),
            "error": other["error"], "checkpoints": len(behind),
            "identical": [found.get("bits") == expected for found in again],
            "files left": len(list(folder.glob("checkpoints/*"))),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    code, rng, kills = provenance(__file__), np.random.default_rng(0), []
    expected, seconds = undisturbed()
    while len(kills) < args.kills:
        kill = one_kill(expected, seconds, rng)
        if kill is not None:
            kills.append(kill)
            print(kill, flush=True)
    settings = {"kills": args.kills, "seed": 0, "seconds of the undisturbed fit": round(seconds, 2)}
    found = {"settings": settings, **code, "kills": kills}
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    longest = max(kill["seconds of the other"] for kill in kills)
    identical = sum(all(kill["identical"]) for kill in kills)
    print(f"{identical} of {len(kills)} identical; the other process ended within {longest} s")


if __name__ == "__main__":
    main()
