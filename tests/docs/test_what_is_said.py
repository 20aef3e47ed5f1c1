"""What README and the pages say in words of the paper's experiments is so, by the committed runs.

Tables are held elsewhere (test_docs.py): here are verdicts, differences, counts and costs.
"""

import importlib
import json
import re

import numpy as np
import pytest

from helpers.pages import GUIDE, README, ROOT, rows_of, words

FOLDER = ROOT / "examples" / "paper"


@pytest.fixture
def module(monkeypatch):
    """Import by name from the folder of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def record_of(script):
    return json.loads((FOLDER / f"{script}.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------
# DistPro


@pytest.fixture
def arms(module):
    """Accuracy in percent by arm, one for each seed: of distpro_cifar10, of distpro_transfer."""

    def arms(script):
        record = record_of(script)
        found = module("_distpro").by_arm_of(record["runs"], record["chosen"])
        return {arm: 100 * np.array([run["accuracy"] for run in runs]) for arm, runs in found.items()}

    return arms


@pytest.fixture
def verdict(module):
    """Whether a is ahead of b: "yes" or "no" where the 95 % interval is clear of zero, else "open"."""

    def verdict(a, b):
        found = module("_protocol").paired(a, b)
        return "yes" if found["low"] > 0 else "no" if found["high"] < 0 else "open"

    return verdict


DISTPRO = GUIDE / "reproduces_distpro.rst"


def test_accuracies_of_distpro_in_words(arms):
    here, there = (
        {arm: accuracy.mean() for arm, accuracy in arms(script).items()}
        for script in ("distpro_cifar10", "distpro_transfer")
    )
    readme, page = " ".join(README.split()), words(DISTPRO)
    for said in (
        "reaches {DistPro:.1f} %, equal weights {equal:.1f}, plain distillation {KD:.1f}, no distillation "
        "{none:.1f}; with the teacher's logits added to the pathways it reaches {DistPro, lambda1 and T fixed:.1f} "
        "at lambda1 = 0.5 and T = 4, and {DistPro, lambda1 and T:.1f} if both are learned",
        "ReviewKD, one of the library's terms, reaches {ReviewKD:.1f}",
    ):
        assert said.format(**here) in readme, said
    said = (
        "reused on CIFAR-100, reach {DistPro, searched elsewhere:.1f}, equal weights {equal:.1f}, a process "
        "searched there {DistPro:.1f} ("
    )
    assert said.format(**there) in readme
    assert f"KD has {here['KD']:.2f}" in page and f"({here['reversed']:.2f})" in page
    matched = here["final, DistPro's sum"]
    assert f"against final at DistPro's sum ({matched:.2f})" in page
    assert f"process of its own ({there['DistPro']:.2f})" in page


def test_verdicts_on_distpro_are_those_of_the_intervals(arms, verdict, module):
    here, there, rows = arms("distpro_cifar10"), arms("distpro_transfer"), rows_of(DISTPRO)
    difference = module("_distpro").difference
    mean = {arm: f"{accuracy.mean():.2f}" for arm, accuracy in here.items()}
    for row, a, b in (
        ("feature maps help: equal weights ahead of none", "equal", "none"),
        ("the process is ahead of equal weights", "DistPro", "equal"),
        ("the process is ahead of ReviewKD", "DistPro", "ReviewKD"),
    ):
        _, found, said, _ = rows[row]
        assert (found, said) == (f"{mean[a]}; {mean[b]}", verdict(here[a], here[b])), row
    why = rows["the process is ahead of equal weights"][-1]
    assert f"Not separated ({difference(here['DistPro'] / 100, here['equal'] / 100)})" in why
    _, found, said, _ = rows["a process is ahead of constant weights that were searched as well"]
    assert found == f"{mean['DistPro']}; mean {mean['mean']}, final {mean['final']}"
    against = {arm: verdict(here["DistPro"], here[arm]) for arm in ("mean", "final", "reversed")}
    assert said == "in part" and against == {"mean": "yes", "final": "yes", "reversed": "open"}
    assert verdict(here["DistPro"], here["final, DistPro's sum"]) == "open"
    chosen, smallest = record_of("distpro_cifar10")["chosen"], min(module("_distpro").WEIGHTS)
    assert chosen["mean"] == chosen["reversed"] == smallest
    assert "Mean and reversed were best at the smallest weight that was tried." in words(DISTPRO)
    _, found, said, why = rows["a process serves another data set"]
    elsewhere, equal, own = (there[arm] for arm in ("DistPro, searched elsewhere", "equal", "DistPro"))
    assert found == f"CIFAR-10 to CIFAR-100: {elsewhere.mean():.2f}; equal {equal.mean():.2f}"
    assert said == verdict(elsewhere, equal) and (elsewhere > equal).all() and "in all three seeds" in why
    assert verdict(elsewhere, own) == "open" and "Not separated from a process of its own" in why


def test_differences_of_distpro_in_words(arms, verdict, module):
    here, there, page = arms("distpro_cifar10"), arms("distpro_transfer"), words(DISTPRO)
    difference = module("_distpro").difference

    def minus(a, b):
        return difference(a / 100, b / 100).lstrip("+")

    own = minus(there["DistPro"], there["equal"])
    assert f"is searched on CIFAR-100 is ahead by {own}, which is not separated" in page
    elsewhere = minus(there["DistPro, searched elsewhere"], there["equal"])
    assert f"ahead of equal weights by {elsewhere.partition(' [')[0]}, in all three seeds" in page
    assert f"Its accuracy is {minus(here['DistPro'], here['DistPro, linear'])} below that of" in page
    assert (
        f"better than its own mean over time, by {np.mean(here['DistPro'] - here['mean']):.1f} points" in page
    )
    ahead = here["ReviewKD"].mean() - max(a.mean() for arm, a in here.items() if arm != "ReviewKD")
    assert f"ahead of all others by {ahead:.1f} points or more" in page
    learned = np.mean(here["DistPro, lambda1 and T"] - here["DistPro"])
    assert f"ahead of the process alone by {learned:.1f} points" in page
    beside = difference(here["DistPro, lambda1 and T"] / 100, here["DistPro, lambda1 and T fixed"] / 100)
    assert f"minus the process with lambda1 and T fixed: {beside}" in page
    by_one = [
        verdict(here["DistPro, lambda1 and T"], here["DistPro"]),
        verdict(here["DistPro, lambda1 and T fixed"], here["DistPro"]),
        verdict(here["DistPro, lambda1 and T"], here["DistPro, lambda1 and T fixed"]),
    ]
    assert by_one == ["yes", "open", "open"]  # "three seeds separate the last two alone"
    assert [verdict(here["DistPro"], here[arm]) for arm in ("equal", "KD")] == ["open"] * 2
    assert verdict(there["DistPro"], there["equal"]) == "open"


def test_costs_of_distpro_in_words(module):
    record, page = record_of("distpro_cifar10"), words(DISTPRO)
    runs = module("_distpro").by_arm_of(record["runs"], record["chosen"])
    training = {arm: np.mean([run["cost"]["seconds"] for run in of]) for arm, of in runs.items()}
    search = {
        name: np.mean([
            run["cost"]["seconds"]
            for run in record["runs"]
            if run["setting"] | {"what": "search", "of": name, "weight": record["chosen"][arm]} == run["setting"]
            and run["setting"]["seed"] < 3
        ])
        for name, arm in (("gradient", "DistPro"), ("linear", "DistPro, linear"))
    }  # fmt: skip
    saved = 1 - training["DistPro"] / training["equal"]
    assert f"cheaper than that of equal weights by {100 * saved:.0f} %" in page
    assert f"and {100 * (1 - search['linear'] / search['gradient']):.0f} % less time" in page
    # "about a third of either"
    both = training["DistPro"] + search["gradient"]
    assert all(0.25 < training["KD"] / dear < 0.4 for dear in (training["equal"], both))


# --------------------------------------------------------------------------------------
# Images


@pytest.fixture
def cells(module):
    """(Set, epochs) → method → its runs: of both records in the paper's protocol."""
    runs = [run for name in ("table2_images", "table2_cifar10") for run in record_of(name)["runs"]]
    return module("table2_images").by_cell(runs)


def test_accuracies_on_images_in_words(module, cells):
    honest = module("images_honest")
    number, summary = module("_protocol").number, words(GUIDE / "reproduces.rst")
    for (name, epochs), methods in cells.items():
        none, gradient, linear = (
            number(np.mean([run["accuracy"] for run in methods[method]]))
            for method in ("none", "gradient", "linear")
        )
        assert f"{gradient}, {linear}; {none}" in summary, name
        row = rf"^\| {re.escape(name)}\b[^|]*\|[^|]*\| {none}, {gradient}, {linear} \|$"
        in_readme = (name, epochs) != ("CIFAR-10", 10)  # README has the full length
        assert bool(re.search(row, README, re.MULTILINE)) == in_readme, name
    for name, of in honest.by_set(record_of("images_honest")["runs"]).items():
        arms = ("none", "fixed (.5, 4)", "linear", "linear, paper's settings")
        cells = [name.removeprefix("reduced "), *(number(np.mean(of[arm])) for arm in arms)]
        assert f"| {' | '.join(cells)} |" in README, name


def test_what_is_said_of_linear_and_gradient_on_images_is_so(module, cells):
    """A pair of runs has the same seed on the same set."""
    pairs = [
        pair
        for methods in cells.values()
        for pair in zip(methods["gradient"], methods["linear"], strict=False)  # of linear there are fewer
    ]
    assert all(a["setting"]["run"] == b["setting"]["run"] for a, b in pairs)
    found = module("_protocol").paired(*([run["accuracy"] for run in of] for of in zip(*pairs, strict=True)))
    said = f"{found['better']} of {found['n']} pairs of runs, by {found['mean']:.3f} on average".replace(
        "0.", "."
    )
    pages = [GUIDE / f"{name}.rst" for name in ("reproduces", "reproduces_images")]
    assert all(
        said in text.replace("runs on images", "runs")
        for text in (*map(words, pages), " ".join(README.split()))
    )
    assert found["worse"] == found["n"] - found["better"]
    inner = f"(95 % interval {found['low']:.3f} to {found['high']:.3f})".replace("0.", ".").replace("-", "−")
    assert inner in words(pages[1])
    means = [np.mean([run["accuracy"] for run in of["linear"]]) - np.mean([run["accuracy"] for run in of["gradient"]])
             for of in cells.values()]  # fmt: skip
    assert all(abs(mean) < 0.01 for mean in means)
    assert "within .01 of gradient** on every set" in words(pages[1])
    assert "within .01 of gradient throughout" in " ".join(README.split())


def test_what_is_said_of_cifar10_at_its_full_length_is_so(module, cells):
    methods, page = cells["CIFAR-10", 100], words(GUIDE / "reproduces_images.rst")
    protocol, none = module("_protocol"), [run["accuracy"] for run in methods["none"]]
    for method, said in (
        ("gradient", "Gradient minus none is {} in three runs"),
        ("linear", "linear minus none {} in two, each behind none"),
    ):
        accuracy = [run["accuracy"] for run in methods[method]]
        found = protocol.paired(accuracy, none[: len(accuracy)])
        assert said.format(protocol.interval(found)) in page
        assert found["worse"] == found["n"] == len(accuracy)
    curve = np.mean([[accuracy for _, accuracy in run["curve"]] for run in methods["none"]], axis=0)
    epochs = [epoch for epoch, _ in methods["none"][0]["curve"]]
    lost = protocol.number(curve.max() - curve[-1])
    assert f"its mean ends {lost} below its best, after epoch {epochs[curve.argmax()]}" in page
    assert f"it ends {lost} below its best epoch" in words(GUIDE / "reproduces.rst")
    ends = [
        (run["lambda1"][-1], run["temperature"][-1]) for m in ("gradient", "linear") for run in methods[m]
    ]
    lowest, highest = (pick(lambda1 for lambda1, _ in ends) for pick in (min, max))
    low, high = (f"{lambda1:.2f}".removeprefix("0") for lambda1 in (lowest, highest))
    assert f"at lambda1 from {low} to {high} and T = 0.4" in page
    assert {f"{temperature:.1f}" for _, temperature in ends} == {"0.4"}


def test_what_is_said_of_the_honest_images_is_so(module):
    protocol, page = module("_protocol"), words(GUIDE / "reproduces_images.rst")
    cifar, fashion = module("images_honest").by_set(record_of("images_honest")["runs"]).values()
    for method in ("linear", "gradient"):
        found = [protocol.paired(of[method], of[f"{method}, paper's settings"]) for of in (cifar, fashion)]
        said = [protocol.interval(difference) for difference in found]
        assert f"{method} {said[0]} on" in page or f"{method} {said[0]} and {said[1]}" in page, method
        assert f"and {said[1]}" in page, method
        assert [d["low"] > 0 for d in found] == [method == "linear", False]  # "only the first is separated"
    for of in (cifar, fashion):
        for a, b in (("linear", "gradient"), ("linear, paper's settings", "gradient, paper's settings")):
            found = protocol.paired(of[a], of[b])
            assert found["low"] < 0 < found["high"]  # "not separated"
        for method in ("linear", "gradient"):
            found = protocol.paired(of[method], of["fixed (.5, 4)"])
            assert found["low"] < 0 < found["high"]
    separated = [protocol.paired(of["linear"], of["none"])["low"] > 0 for of in (cifar, fashion)]
    assert separated == [False, True]


# --------------------------------------------------------------------------------------
# Wrong labels, defaults, the synthetic data


def test_what_is_said_of_wrong_labels_is_so(module):
    script, paired = module("wrong_labels_and_teachers"), module("_protocol").paired
    cells = script.by_cell(record_of("wrong_labels_and_teachers")["runs"])
    page = words(GUIDE / "wrong_labels.rst")
    lost = {
        arm: [np.ptp([np.mean(of) for of in cells[what, arm].values()]) for what in script.SHARES]
        for arm in script.ARMS
    }
    steady = {arm for arm, losses in lost.items() if max(losses) < 0.01}
    assert steady == {"gradient", "linear"}
    said = "hyperopt, which trains six times, loses {:.2f} and {:.2f}, and".format(*lost["hyperopt"])
    assert said.replace("0.", ".") in page
    flipped = {
        arm: {
            share: paired(cells["flipped", arm][share], fixed)
            for share, fixed in cells["flipped", script.TOO].items()
        }
        for arm in ("gradient", "linear")
    }
    means = [found["mean"] for of in flipped.values() for found in of.values()]
    said = f"is ahead at every share, up to 60 % flips, by {-max(means):.3f} to {-min(means):.3f};"
    assert said.replace("0.", ".") in page and max(means) < 0
    clear = {arm: [share for share, d in of.items() if d["high"] < 0] for arm, of in flipped.items()}
    assert clear == {"gradient": [0.1], "linear": [0.1, 0.4]}
    assert "the interval of gradient is clear of zero at 10 %, that of linear at 10 % and 40 %" in page
    fixed, linear = cells["flipped", script.FIXED][0.0], cells["flipped", "linear"][0.0]
    with_all = cells["flipped", script.TOO][0.0]
    costs = [paired(linear, other) for other in (fixed, with_all)]
    said = "{:.3f} to fixed (.5, 4) and {:.3f} to fixed (.5, 4) that trains".format(
        *(-d["mean"] for d in costs)
    )
    assert said.replace("0.", ".") in page and all(d["high"] > 0 for d in costs)
    ahead = [paired(cells["wrong", arm][share], cells["wrong", "naive"][share])["low"] > 0
             for arm in ("gradient", "linear") for share in script.SHARES["wrong"]]  # fmt: skip
    assert ahead == [False, True, True, True, True, True] * 2  # "ahead of naive from 20 % on"


def test_what_is_said_of_the_defaults_is_so(module):
    cells = module("defaults").by_candidate(record_of("defaults")["runs"])
    base = cells[module("defaults").BASELINE]
    page = words(GUIDE / "defaults.rst")
    differences = {
        candidate: np.array([np.mean(of[situation]) - np.mean(base[situation]) for situation in base])
        for candidate, of in cells.items()
    }
    own = differences["the defaults"]
    assert max(differences, key=lambda c: differences[c].mean()) == "the defaults"
    better_worst = {c for c, d in differences.items() if d.min() > own.min() and "fixed" not in c}
    assert better_worst == {"T_val auto", "meta_lr 0.3"}
    said = 'worst case is −{:.3f}; T_val "auto" (−{:.3f}) and, in the third digit, meta_lr 0.3 (−{:.3f})'
    worst = (-differences[c].min() for c in ("the defaults", "T_val auto", "meta_lr 0.3"))
    assert said.format(*worst).replace("0.", ".").replace("meta_lr .3", "meta_lr 0.3") in page
    scaled = np.array(
        [differences["s(T) = 1"] - own, differences["T from 4, s(T) = 1"] - differences["T from 4"]]
    )
    ahead = np.argwhere(scaled > 0.001).tolist()
    situations = list(base)
    assert [(start, situations[i]) for start, i in ahead] == [
        (1, "digits, teacher half wrong"),
        (1, "breast cancer"),
    ]
    assert scaled.max() < 0.01
    images = (-scaled[:, -2:]).round(2)
    assert (
        "It is behind by {:.2f} and {:.2f} on the images, and from T = 4 by {:.2f} and {:.2f}".format(
            *images.flat
        ).replace("0.", ".")
        in page
    )
    assert (differences["lr 0.3"] > own).sum() == 5 and "better on five of nine" in page
    assert (differences["T_val auto"] < own).sum() == 6 and "is behind in six of nine" in page


def test_what_the_text_says_of_the_synthetic_runs_is_so():
    table2, honest = map(record_of, ("table2_synthetic", "synthetic_honest"))
    clipped = {(row["features"], row["method"], row["lr"]): row.get("clipped") for row in table2["summary"]}
    final = {
        method: np.mean([
            run["temperature"]
            for run in honest["runs"]
            if run["setting"] | {"features": "sign(x1·x2)", "method": method, "n_valid": 200} == run["setting"]
            and "accuracy" in run
        ])
        for method in ("linear", "grid, s(T) = T²")
    }  # fmt: skip
    chosen = honest["chosen"]
    page = words(GUIDE / "reproduces_synthetic.rst")
    for said in (
        f"{clipped['sign(x1·x2)', 'gradient', 1.0]:.0%} (gradient)".replace("%", " %"),
        f"{clipped['sign(x1·x2)', 'linear', 1.0]:.0%} (linear)".replace("%", " %"),
        f"column alone scores {table2['without_a_student']['sign(x1·x2)']['third column']}".replace(
            "0.", "."
        ),
        f"ends at {final['linear']:.2f} on average, where the grid with T² chose {final['grid, s(T) = T²']:.2f}",
        f"{chosen['text']['lr']} and {chosen['text']['iterations']:,} with the text's features",
        f"{chosen['sign(x1·x2)']['lr']} and {chosen['sign(x1·x2)']['iterations']} with sign(x1·x2)",
    ):
        assert said in page, said


def test_what_is_said_of_the_honest_synthetic_runs_is_so(module):
    protocol, honest = module("_protocol"), record_of("synthetic_honest")
    cells = module("synthetic_honest").by_cell([run for run in honest["runs"] if "accuracy" in run])
    too = {"none, D_val trained on too", "naive, D_val trained on too"}
    for (features, n_valid), of in cells.items():
        means = {method: np.mean(accuracy) for method, accuracy in of.items()}
        assert set(sorted(means, key=means.get)[-2:]) == too  # "the two highest means of every column"
        assert abs(means["linear"] - means["gradient"]) < 0.0015
        assert abs(means["linear, paper's settings"] - means["gradient, paper's settings"]) < 0.015
        against = {
            (method, base): protocol.paired(of[method], of[base])
            for base in ("none", "naive")
            for method in means
            if method != base and method not in too
        }
        clear = {pair for pair, found in against.items() if found["low"] > 0 or found["high"] < 0}
        if features == "text":
            assert not clear, "nothing is gained with the text's features"
            continue
        distilled = {method for method in means if method not in too | {"none"}}
        gains = [means[method] - means["none"] for method in distilled]
        assert min(gains) > 0.015 and max(gains) < 0.055  # "by .02 to .05"
        learned = {"gradient", "linear", "gradient, paper's settings", "linear, paper's settings"}
        assert {(method, "none") for method in learned | {"naive", "fixed (.5, 4)"}} <= clear
        assert not {(method, "naive") for method in learned} & clear
        grids = {(f"grid, s(T) = {scaling}", "naive") for scaling in ("T²", "1")}
        assert (grids <= clear) == (n_valid == 200)


# --------------------------------------------------------------------------------------
# Several processes


def test_what_is_said_of_killed_processes_is_so():
    record = json.loads((ROOT / "examples" / "evidence" / "kill_a_rank.json").read_text(encoding="utf-8"))
    kills = record["kills"]
    assert (
        "one of two processes at 20 random moments" in words(GUIDE / "more_machines.rst") and len(kills) == 20
    )
    assert "within two seconds each time" in words(GUIDE / "more_machines.rst")
    assert max(kill["seconds of the other"] for kill in kills) < 2
    assert all(all(kill["identical"]) and kill["error"].startswith("RankError") for kill in kills)
