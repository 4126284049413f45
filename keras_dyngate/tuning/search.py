"""One call from a space of nets to those that are worth having.

    front = kd.search_gates(hypermodel, max_trials=20, directory="searches")
    print(front)

Killed at any moment and called again, it goes on; nothing that was finished is lost.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_dyngate._checks import boolean, one_of, positive_int, whole_number
from keras_dyngate._files import write_whole
from keras_dyngate.tuning._keras_tuner import check_values, is_chief_oracle
from keras_dyngate.tuning._keras_tuner import keras_tuner as kt
from keras_dyngate.tuning.oracles import ORACLES
from keras_dyngate.tuning.pareto import ParetoFront
from keras_dyngate.tuning.results import results_in
from keras_dyngate.tuning.safe_oracle import was_refused
from keras_dyngate.tuning.tuner import GateTuner

SETTINGS = "search.json"


def search_gates(
    hypermodel: Any,
    *,
    oracle: str = "random",
    max_trials: int | None = None,
    directory: "str | os.PathLike[str]" = "searches",
    project: str = "search",
    start: Sequence[Mapping[str, Any]] = ({},),
    factor: int = 3,
    overwrite: bool = False,
    verbose: Any = "auto",
    seed: int = 0,
) -> ParetoFront:
    """Search how a net is to be gated, for the best accuracy under a budget.

    Trials that cannot keep to the budget are refused before they are trained, and do not
    count. Called again with the same arguments, after whatever ended the process, it goes
    on: trials at their end stay as they are, one that was cut off goes on from its last
    epoch. Several processes share a search as keras-tuner has it: the same script runs as
    chief and as workers, told apart by `KERASTUNER_TUNER_ID` ("chief" and any other),
    `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`, in one shared folder. A worker
    that was killed is started again with its own id, and has its trial back.

    Args:
        hypermodel: A `DynamicHyperModel`, or any `keras_tuner.HyperModel` whose `fit`
            returns `objective`, a number to be as large as possible, or a dict with it.
        oracle: What chooses: "random" (default); "bayesian", a Gaussian process, which
            needs scikit-learn; "hyperband", many short trainings, the better ones anew
            and longer (up to the hypermodel's `epochs`). Not keras-tuner's grid search,
            which cannot go on after a kill.
        max_trials: How many to train at most. None (default): 20; with "hyperband" as
            many as it takes.
        directory, project: The search is kept in `directory/project`.
        start: Values that are tried first, one dict per trial; what they leave out has
            its default. By default one trial of defaults alone.
        factor: Of "hyperband": one of so many trials is trained longer. Default 3.
        overwrite: Whether to begin anew, and delete what is in the folder.
        verbose: "auto" (default) or 1: a line per trial; 0: nothing.
        seed: Of the oracle; Keras is seeded with it before each trial
            (`keras.utils.set_random_seed`).

    Returns:
        A `ParetoFront` of all trials, also of those that workers have run by now.

    Warns:
        UserWarning: Of trials whose files are damaged: they are passed over.

    Raises:
        ImportError: Without keras-tuner: `pip install "keras_dyngate[tuning]"`.
        RuntimeError: If three trials in a row crashed, with the last one's message.
        ValueError: For a budget that cannot be kept, whatever is chosen; if the folder
            holds a search with other settings; for a bad argument.

    References:
        Bergstra, Bengio: Random search for hyper-parameter optimization, JMLR 2012;
        Li et al.: Hyperband, JMLR 2018, arXiv 1603.06560.

    Example:
        ```python
        layers = keras.layers
        convs = [layers.Conv2D(8, 3), layers.ReLU(), layers.Conv2D(8, 3)]
        top = [layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
        net = keras.Sequential([keras.Input((8, 8, 3)), *convs, *top])
        x = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3))
        data = x, np.arange(16) % 2
        hypermodel = kd.DynamicHyperModel(net, data, data, "macs:0.8x", epochs=1)
        print(kd.search_gates(hypermodel, max_trials=2))
        ```
    """
    if not isinstance(hypermodel, kt.HyperModel):
        raise ValueError(
            "`hypermodel` must be a DynamicHyperModel, or another keras_tuner.HyperModel. "
            f"Received: a {type(hypermodel).__name__}"
        )
    one_of("oracle", oracle, tuple(ORACLES))
    one_of("verbose", verbose, ("auto", 0, 1))
    boolean("overwrite", overwrite)
    seed = whole_number("seed", seed)
    if positive_int("factor", factor) < 2:
        raise ValueError(f"`factor` must be 2 or more. Received: factor={factor!r}")
    if max_trials is not None:
        positive_int("max_trials", max_trials)
    elif oracle != "hyperband":
        max_trials = 20
    folder = _folder(directory, project)
    worker = "KERASTUNER_ORACLE_IP" in os.environ and not is_chief_oracle()
    options: dict[str, Any] = {"starts": _starts(start), "seed": 1 + seed}
    if oracle == "hyperband":
        options |= {"max_epochs": _epochs(hypermodel), "factor": factor}
    else:
        options |= {"max_trials": max_trials}
    found = ORACLES[oracle](**options)
    found.max_trials = max_trials
    if not worker:
        settings = {"oracle": oracle, "seed": seed, **_settings_of(hypermodel)}
        if oracle == "hyperband":
            settings["factor"] = factor
        _open(folder, settings, overwrite)
    prepare = getattr(hypermodel, "prepare", None)
    if prepare is not None:
        prepare(folder)
    tuner = GateTuner(
        found,
        hypermodel,
        seed=seed,
        verbose=verbose != 0,
        directory=str(folder.parent),
        project_name=folder.name,
    )
    for values in found.starts:
        check_values("start", found.hyperparameters.space, values)
    tuner.search()
    if found.broken is not None:
        raise RuntimeError(
            f"The search in {folder} ends, as three trials in a row crashed; called "
            f"again, it goes on. The last:\n{found.broken}"
        )
    if verbose != 0 and not worker and max_trials is not None:
        _say_why(found, max_trials)
    return ParetoFront.of_search(folder)


def _say_why(oracle: Any, max_trials: int) -> None:
    """Say that a search ended with fewer trials than it may have."""
    done = [trial for trial in oracle.trials.values() if not was_refused(trial)]
    if len(done) < max_trials:
        print(
            f"The search ends after {len(done)} of {max_trials} trials, "
            f"{len(oracle.trials) - len(done)} more being refused: it found no other "
            "values that it had not tried.",
            flush=True,
        )


def refusals(folder: "str | os.PathLike[str]") -> dict[str, str]:
    """Why trials of a search were refused, by their names."""
    return {r.name: r.refused for r in results_in(folder) if r.refused is not None}


def _folder(directory: Any, project: Any) -> Path:
    if not isinstance(directory, (str, os.PathLike)):
        raise ValueError(
            f"`directory` must be a path. Received: directory={directory!r}"
        )
    plain = isinstance(project, str) and project == Path(project).name and project
    if not plain:
        raise ValueError(
            f"`project` must be the name of a folder. Received: project={project!r}"
        )
    return Path(directory) / project


def _starts(start: Any) -> list[dict[str, Any]]:
    if isinstance(start, (list, tuple)) and all(isinstance(v, Mapping) for v in start):
        return [dict(values) for values in start]
    raise ValueError(
        "`start` must be a list of dicts of values, such as [{'channels': 'none'}]. "
        f"Received: start={start!r}"
    )


def _epochs(hypermodel: Any) -> int:
    epochs = getattr(hypermodel, "epochs", None)
    if not isinstance(epochs, int) or epochs < 2:
        raise ValueError(
            "`oracle='hyperband'` needs a hypermodel of 2 `epochs` or more, which the "
            f"first trials have a part of. Received: epochs={epochs!r}"
        )
    return epochs


def _settings_of(hypermodel: Any) -> dict[str, Any]:
    describe = getattr(hypermodel, "settings", None)
    return json.loads(json.dumps(describe() if callable(describe) else {}))


def _open(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of a search, or see that it is that of the same one."""
    path = folder / SETTINGS
    if overwrite and folder.is_dir():
        if not path.is_file() and any(folder.iterdir()):
            raise ValueError(
                "`overwrite` must be of a folder that holds a search. "
                f"Received: {str(folder)!r}, which holds something else"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        known = json.loads(path.read_bytes())
    except FileNotFoundError:
        known = settings
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r}, which says what the search is of, is damaged: {error}. Begin "
            "anew with `overwrite=True`, or delete that file to go on with the trials "
            "that are there. Received: a search whose settings are not known"
        ) from None
    if known != settings:
        theirs = known if isinstance(known, dict) else {}
        names = {*theirs, *settings}
        other = sorted(n for n in names if theirs.get(n) != settings.get(n))
        raise ValueError(
            f"{str(folder)!r} holds a search with other settings: {other}. Choose "
            "another `project`, or begin anew with `overwrite=True`. Received: "
            f"{[settings.get(n) for n in other]}, there {[theirs.get(n) for n in other]}"
        )
    write_whole(path, json.dumps(settings, indent=1).encode())
