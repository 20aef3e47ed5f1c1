"""Check that trained weights reach their published accuracies.

The script measures the accuracy of CIFAR ResNets on the 10,000 test images of CIFAR-10: ResNet-20 and
ResNet-56 by Idelbayev (2018), published as plain state dicts with 91.73 % and 93.39 %. They were trained on
the whole training split. ::

    python examples/paper/check_teachers.py resnet20-cifar10.pt resnet56-cifar10.pt

It takes half a minute on one core. It writes check_teachers.json beside this file, with the SHA-256 of each
file, the network that fits its weights, and the number of correctly classified images.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from _networks import answers

from sklearn_kd import CIFARResNet
from sklearn_kd.datasets import fetch_cifar10

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

PUBLISHED = {20: 0.9173, 56: 0.9339}  # by depth


def check(path, X, y):
    network = CIFARResNet.from_file(path)
    depth = 6 * len(network.layer1) + 2
    found = int((answers(network, X).argmax(axis=1) == y).sum())
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "depth": depth,
        "parameters": sum(w.numel() for w in network.parameters()),
        "images": len(y),
        "correct": found,
        "accuracy": found / len(y),
        "published": PUBLISHED.get(depth),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="+", type=Path, help="state dicts saved by torch.save")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the data sets; default: scikit-learn's")
    args = parser.parse_args()
    X, y = fetch_cifar10(data_home=args.data, subset="test", return_X_y=True)
    runs = []
    for path in args.weights:
        runs.append(check(path, X, y))
        print("{file}: ResNet-{depth}, accuracy {accuracy}, published {published}".format(**runs[-1]))
    record = {**provenance(__file__), "runs": runs}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
