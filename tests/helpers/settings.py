"""Settings of an estimator that tests share."""

# The paper's: what most tests are about, and not the default.
SINGLE_RUN = {"meta": "linear", "search_epochs": None, "validation_fraction": 0.1}


def single_run(params):
    """SINGLE_RUN; without the strategy where ``params`` has a process, which none may stand beside."""
    return {
        name: value for name, value in SINGLE_RUN.items() if name != "meta" or params.get("process") is None
    }
