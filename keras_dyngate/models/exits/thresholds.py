"""How the thresholds of a net's exits are chosen, and how much each exit's scores count."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dyngate._deprecation import renamed
from keras_dyngate.cost.budget import Budget
from keras_dyngate.cost.cost_table import MACS, CostTable
from keras_dyngate.cost.counter import count_macs
from keras_dyngate.cost.table_file import check_table
from keras_dyngate.models.exits import fitting as exit_fitting
from keras_dyngate.models.exits.prediction import DynamicPrediction
from keras_dyngate.thresholds.mixing import fit_mixing
from keras_dyngate.thresholds.promise import path_rows
from keras_dyngate.thresholds.table import ExitOutcome, ExitTable
from keras_dyngate.thresholds.wish import Wish, sweep


class CalibratedExits(DynamicPrediction):
    """Base of a net with exits that has `thresholds`, `mixing` and `combine`."""

    combine: bool
    mixing: Any

    def exit_table(
        self, x: Any, y: Any = None, batch_size: int | None = None
    ) -> ExitTable:
        """What every exit would say of every sample, for `calibrate` and `curve`.

        A dataset may have weights; here every sample counts once.
        """
        return exit_fitting.exit_scores(self, x, y, batch_size).table(self)

    @renamed(latency="ms")
    def calibrate(
        self,
        x: Any,
        y: Any = None,
        *,
        macs: float | None = None,
        accuracy_drop: float | None = None,
        agreement: float | None = None,
        exit_shares: Sequence[float] | None = None,
        ms: float | None = None,
        path_ms: Sequence[float] | None = None,
        confidence: float | None = None,
        shared: bool | None = None,
        batch_size: int | None = None,
        budget: "str | Budget | None" = None,
        table: CostTable | None = None,
    ) -> ExitOutcome:
        """Choose and set the thresholds, on data that is not the test set.

        Give one of `macs`, `accuracy_drop`, `agreement`, `exit_shares`, `ms` and
        `budget`.

        Args:
            x: Images, an array or a dataset of batches; weights that it may have do not
                count here.
            y: Labels; None with a dataset, and where only `exit_shares` or `agreement`
                is given.
            macs: Highest mean MACs per sample; thresholds of the best accuracy.
            accuracy_drop: Accuracy that may be lost against the head, -1 to 1 (below 0:
                that has to be won); thresholds of the fewest MACs, or of the least time
                where `path_ms` is given. The wish is kept on this data; on other data
                more may be lost, the more so the fewer samples these are: see
                `confidence`.
            agreement: Share of samples, 0 to 1, whose answer is to be the head's; needs
                no labels, else as `accuracy_drop`.
            exit_shares: Share of samples to leave at each gate.
            ms: Highest mean time of a sample; thresholds of the best accuracy.
            path_ms: Measured time of a sample that leaves at each exit, the head last;
                needed with `ms`. `ExportReport.exit_ms` has them for a file.
            confidence: Of a promise: with at least this probability, above 0 and at most
                0.999, the thresholds keep to `accuracy_drop` or `agreement` on fresh
                data. They are tested on four fifths of the data, which takes 287 samples
                for a drop of .01 at .9, and more to save much; `ExitOutcome.promise`
                says how many. Default None: nothing is promised.
            shared: Whether all exits get the same threshold. With one number to choose
                there is less to fit to this data, and what was wished for holds better on
                fresh data: on 1,390 photos a drop of .3 points was .4 on the others, and
                .8 with thresholds of their own. Default None: where exits combine and
                have one kind of confidence, neither `exit_shares` nor `confidence` is
                given, and such a threshold keeps to the wish.
            batch_size: Of the pass over the data.
            budget: A `Budget`, or its text: "latency:8.0ms", "macs:0.5x",
                "accuracy:-1.0"; a share is of what the net costs without exits.
            table: In place of `path_ms`, what the ways to the exits cost, all gates
                open: `measure_latency(model, what="exits")`, or one from elsewhere;
                needed for a budget of time.

        Returns:
            An `ExitOutcome` on this data.

        Raises:
            ValueError: If no thresholds keep to the wish, for too few samples to promise
                it, or for a bad argument.
        """
        if table is not None:
            check_table(table, count_macs(self))
            if path_ms is not None:
                raise ValueError("Give `path_ms` or `table`. Received: both")
            path_ms = None if table.unit == MACS else table.per_exit
        wishes: dict[str, Any] = {
            "macs": macs,
            "accuracy_drop": accuracy_drop,
            "agreement": agreement,
            "exit_shares": exit_shares,
            "ms": ms,
        }
        if budget is None and all(wish is None for wish in wishes.values()):
            raise ValueError(
                f"Give one of {[*wishes]}, or `budget`. Received: none of them"
            )
        if budget is not None:
            given = [name for name, value in wishes.items() if value is not None]
            if given:
                raise ValueError(
                    f"`budget` must be the only wish. Received: budget={str(budget)!r} "
                    f"and {given}"
                )
            wishes = _wished(Budget(budget), count_macs(self), table)
        wish = Wish(
            len(self.gates),
            **wishes,
            path_ms=path_ms,
            confidence=confidence,
            shared=shared,
            alike=self.combine and len({g.confidence for g in self.gates}) == 1,
        )
        found = exit_fitting.exit_scores(self, x, y, batch_size)
        before = self.mixing
        self._fit_mixing(
            found if confidence is None else found.take(path_rows(len(found.scores)))
        )
        try:
            chosen = wish.choose(found.table(self))
        except ValueError:
            self.mixing = before
            raise
        self.thresholds = chosen.thresholds
        if not self.calibrated:  # nobody leaves, and that was chosen
            self.thresholds = np.full(len(self.gates), np.finfo("float32").max)
        return chosen

    def fit_mixing(
        self, x: Any, y: Any = None, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Fit and set how much each exit's scores count, on data that is not the test set.

        With `combine` the weights of all exits up to each; else temperatures alone, and
        these only if a confidence is "probability" or "entropy". `calibrate` does it too;
        where it promises something, on other samples than it tests.

        Args:
            x, y: As in `calibrate`, with labels.
            batch_size: Of the pass over the data.

        Returns:
            The new `mixing`, `[gates + 1, gates + 1]`.

        Raises:
            ValueError: For data without labels.
        """
        found = exit_fitting.exit_scores(self, x, y, batch_size)
        if found.truth is None:
            raise ValueError("`y` must be given with images. Received: y=None")
        self._fit_mixing(found)
        return self.mixing

    def _fit_mixing(self, found: exit_fitting.ExitScores) -> None:
        scaled = any(g.confidence in ("probability", "entropy") for g in self.gates)
        if found.truth is not None and (self.combine or scaled):
            self.mixing = fit_mixing(found.scores, found.truth, combine=self.combine)

    def curve(
        self,
        calibration: Any,
        test: Any,
        *,
        points: int = 39,
        path_ms: Sequence[float] | None = None,
        batch_size: int | None = None,
    ) -> list[ExitOutcome]:
        """Accuracy against MACs, from almost all leaving early to almost none.

        Thresholds come from the confidences on `calibration` alone (its labels are not
        used), and are applied to `test`. The model's own thresholds stay as they are.

        Args:
            calibration: Images, or (images, labels), or an `ExitTable`.
            test: (images, labels), a dataset of such batches, or an `ExitTable`.
            points: Of the sweep over the wished shares; default 39.
            path_ms: As in `calibrate`.
            batch_size: Of the passes over the data.

        Returns:
            An `ExitOutcome` on `test` per point.
        """
        tables = []
        for data in (calibration, test):
            if not isinstance(data, ExitTable):
                x, y = data if isinstance(data, tuple) else (data, None)
                data = self.exit_table(x, y, batch_size)
            tables.append(data)
        return sweep(*tables, points=points, path_ms=path_ms)


def _wished(
    budget: Budget, counted: CostTable, table: CostTable | None
) -> dict[str, float]:
    """A budget as the argument of `Wish` that says the same.

    Args:
        budget: Of accuracy, or a cost.
        counted: The net's table in MACs.
        table: Its table in the budget's unit, where that is another.
    """
    if budget.unit is None:
        return {"accuracy_drop": budget.accuracy_drop}
    if budget.unit == MACS:
        return {"macs": budget.cost(counted if table is None else table)}
    if table is None:
        raise ValueError(
            f"`table` must be given for a budget in {budget.unit}. "
            f"Received: budget={budget.text!r}, table=None"
        )
    return {"ms": budget.cost(table)}
