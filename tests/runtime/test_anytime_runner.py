"""The runner keeps deadlines by a clock of ours, on files that take a known time."""

import concurrent.futures
import dataclasses
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from keras_dyngate.runtime import AnytimeAnswer, AnytimeRunner, LiteRTModel
from keras_dyngate.runtime.litert_model import Signature, TensorSpec
from keras_dyngate.runtime.signature_table import SignatureTable
from tests.backend_utils import BACKEND

IMAGE = TensorSpec((1, 2, 2, 1), np.dtype("float32"))
FEATURE = TensorSpec((1, 1), np.dtype("float32"))
X = np.arange(4, dtype="float32").reshape(2, 2, 1)
TICK = 1000 / 1024  # ms; sums of such times are exact in seconds
STEPS = {1: 2 * TICK, 2: 3 * TICK, 3: 5 * TICK}
ENDS = {1: 2, 2: 5, 3: 10}  # ticks
CLASSES = 12


class File:
    """Stands in for a `LiteRTModel`: notes the calls, each takes the ms it is given."""

    def __init__(self, times, incremental=True, others=()):
        self.now, self.ms, self.calls, self.next = 0.0, dict(times), [], {}
        self.incremental, self.arguments = incremental, None
        self.lock = threading.RLock()
        self.signatures = {name: Signature({"image": IMAGE}, {}) for name in others}
        for k in sorted(times, key=str):  # as files are sorted: 10 before 2
            inputs = {"image": IMAGE}
            if incremental:
                inputs |= {f"x_{j}": FEATURE for j in range(1, k)}
            self.signatures[self.name(k)] = Signature(inputs, {})
        self.table = SignatureTable.read({}, self.signatures)

    def name(self, k):
        if not self.incremental:
            return f"classify_k{k}"
        return f"step_{k}" if k > 1 else "start"

    def __call__(self, path, num_threads):
        self.arguments = (path, num_threads)
        return self

    def run(self, signature, **inputs):
        assert set(inputs) == set(self.signatures[signature].inputs)
        self.calls.append(signature)
        (k,) = (k for k in self.ms if self.name(k) == signature)
        self.now += self.next.pop(signature, self.ms[k]) / 1e3
        seen = float(np.sum(inputs["image"]))
        seen += sum(float(x[0, 0]) for name, x in inputs.items() if name != "image")
        logits = np.zeros((1, CLASSES), "float32")
        logits[0, k] = seen
        answer = {
            "logits": logits,
            "label": np.array([k], "int32"),
            "executed_macs": np.array([7], "int32"),
        }
        if self.incremental and k < max(self.ms):
            answer[f"x_{k}"] = np.array([[100.0 * k]], "float32")
        return answer

    def clock(self):
        return self.now


@pytest.fixture
def make(monkeypatch):
    """A runner over a stand-in, whose calls so far are forgotten."""

    def build(file, **options):
        monkeypatch.setattr("keras_dyngate.runtime.anytime_runner.LiteRTModel", file)
        runner = AnytimeRunner("net.tflite", clock=file.clock, **options)
        file.calls.clear()
        return runner

    return build


def stepwise(times=STEPS):
    return File(times)


def at_once(times):
    return File(times, incremental=False)


class TestSteps:
    @pytest.mark.parametrize("ticks", np.arange(0, 13, 0.5).tolist())
    def test_as_many_as_fit(self, make, ticks):
        """What ends at the deadline is in time."""
        file = stepwise()
        answer = make(file).run(X, deadline_ms=ticks * TICK)
        best = max((k for k, end in ENDS.items() if end <= ticks), default=1)
        assert answer.k == answer.label == best
        assert answer.in_time == (ticks >= 2)
        assert answer.elapsed_ms == ENDS[best] * TICK
        assert answer.late is None
        assert file.calls == [file.name(k) for k in range(1, best + 1)]

    @pytest.mark.parametrize("deadline", [None, float("inf"), 1e6, np.float32(50)])
    def test_without_a_limit(self, make, deadline):
        answer = make(stepwise()).run(X, deadline)
        assert (answer.k, answer.in_time) == (3, True)
        assert answer.elapsed_ms == 10 * TICK

    def test_deadline_of_0(self, make):
        """The first answer, and nothing more; also for -0.0."""
        for deadline in (0, 0.0, -0.0):
            file = stepwise()
            answer = make(file).run(X, deadline_ms=deadline)
            assert (answer.k, answer.in_time, answer.late) == (1, False, None)
            assert file.calls == ["start"]

    def test_a_step_that_is_late(self, make):
        """The answer before it stands; what came too late is there as well."""
        file = stepwise()
        runner = make(file)
        file.next["step_3"] = 20.0
        answer = runner.run(X, deadline_ms=12)
        assert (answer.k, answer.label, answer.in_time) == (2, 2, True)
        assert answer.elapsed_ms == 5 * TICK
        late = answer.late
        assert (late.k, late.label, late.in_time, late.late) == (3, 3, False, None)
        assert late.elapsed_ms == pytest.approx(5 * TICK + 20)
        assert runner.run(X, deadline_ms=12).k < 3, "it is expected to be slow now"

    def test_a_late_step_ends_the_run(self, make):
        file = stepwise()
        runner = make(file)
        file.next["step_2"] = 9.0
        answer = runner.run(X, deadline_ms=10.5)
        assert (answer.k, answer.late.k) == (1, 2)
        assert file.calls == ["start", "step_2"]

    def test_a_late_start(self, make):
        """There is nothing before it: it is the answer."""
        file = stepwise()
        runner = make(file)
        file.next["start"] = 30.0
        answer = runner.run(X, deadline_ms=12)
        assert (answer.k, answer.in_time, answer.late) == (1, False, None)
        assert file.calls == ["start"]

    def test_time_between_the_steps_counts(self, make, monkeypatch):
        """A clock that takes a quarter of a millisecond to look at."""
        file = stepwise()
        runner = make(file)
        plain = file.clock

        def slow():
            file.now += 0.25e-3
            return plain()

        monkeypatch.setattr(runner, "_clock", slow)
        begin = file.now
        answer = runner.run(X)
        passed = 1e3 * (file.now - begin)
        assert answer.elapsed_ms == pytest.approx(passed - 0.25)
        assert passed > 12
        assert runner.run(X, deadline_ms=10.1).k < 3

    def test_steps_past_nine(self, make):
        """In the order of their numbers."""
        file = stepwise(dict.fromkeys(range(1, 12), 1.0))
        runner = make(file)
        assert runner.subnetworks == 11
        assert runner.run(X).k == 11
        assert file.calls == [file.name(k) for k in range(1, 12)]
        assert list(runner.median_ms()) == list(range(1, 12))

    def test_one_step(self, make):
        runner = make(stepwise({1: 2.0}))
        assert runner.subnetworks == 1
        assert runner.run(X, 5).k == runner.run(X).k == 1

    def test_signatures_of_subnetworks_are_left_alone(self, make, monkeypatch):
        file = stepwise()
        file.signatures = {
            "classify": Signature({"image": IMAGE}, {}),
            "classify_k3": Signature({"image": IMAGE}, {}),
            **file.signatures,
        }
        runner = make(file)
        assert (runner.incremental, runner.subnetworks) == (True, 3)
        assert runner.run(X).k == 3
        assert not [name for name in file.calls if name.startswith("classify")]


class TestExpectedTimes:
    def test_first_round_is_not_counted(self, make):
        """It is cold; a round more than `warmup` is run."""
        file = stepwise()
        file.next = {"start": 500.0, "step_2": 500.0, "step_3": 500.0}
        runner = make(file, warmup=2)
        assert runner.median_ms() == pytest.approx(STEPS)
        assert file.now == pytest.approx((1500 + 2 * 10 * TICK) / 1e3)
        assert {k: runner.expected_ms(k) for k in STEPS} == pytest.approx(STEPS)

    @pytest.mark.parametrize("warmup", [1, 2, 5])
    def test_rounds(self, monkeypatch, warmup):
        file = stepwise()
        monkeypatch.setattr("keras_dyngate.runtime.anytime_runner.LiteRTModel", file)
        AnytimeRunner("net.tflite", warmup=warmup, clock=file.clock)
        assert file.calls == (warmup + 1) * ["start", "step_2", "step_3"]

    def test_quantile_and_median_of_the_last_calls(self, make):
        file, rng = stepwise(), np.random.default_rng(0)
        runner = make(file)
        times = rng.uniform(1, 20, 40)
        for ms in times:
            file.next["step_2"] = ms
            runner.refine(runner.start(X))
        last = np.sort(times[-32:])
        rank = 0.9 * 31
        low = int(rank)
        expected = last[low] + (rank - low) * (last[low + 1] - last[low])
        assert runner.expected_ms(2) == pytest.approx(expected)
        assert runner.median_ms()[2] == pytest.approx((last[15] + last[16]) / 2)
        assert runner.expected_ms(1) == pytest.approx(2 * TICK)

    def test_slow_times_are_forgotten(self, make):
        """After eight runs without the step, one by one; then it is tried again."""
        file = stepwise()
        runner = make(file, warmup=3)
        file.next["step_2"] = 100.0
        assert runner.run(X).k == 3
        times = [3 * TICK, 100]
        expected = times[0] + 0.7 * (times[1] - times[0])  # of 3, 3, 3, 100
        assert runner.expected_ms(2) == pytest.approx(expected)
        for _ in range(8):
            assert runner.run(X, deadline_ms=20).k == 1
        assert runner.expected_ms(2) == pytest.approx(3 * TICK)
        assert runner.run(X, deadline_ms=20).k == 3

    def test_the_last_time_is_kept(self, make):
        """A step that never fits is not forgotten altogether."""
        runner = make(stepwise(), warmup=3)
        for _ in range(50):
            assert runner.run(X, deadline_ms=4).k == 1
        assert runner.expected_ms(2) == pytest.approx(3 * TICK)

    @pytest.mark.parametrize("k", [0, 4, -1, "1", None])
    def test_unknown_k(self, make, k):
        with pytest.raises(
            ValueError, match=rf"`k` must be one of \[1, 2, 3\].*k={k!r}"
        ):
            make(stepwise()).expected_ms(k)


class TestStepwise:
    def test_start_and_refine(self, make):
        """Each step gets the image and what all earlier ones have left."""
        file = stepwise()
        runner = make(file)
        answer, seen = runner.start(X), []
        while answer.k < runner.subnetworks:
            seen.append(answer)
            answer = runner.refine(answer)
        seen.append(answer)
        assert file.calls == ["start", "step_2", "step_3"]
        assert [a.k for a in seen] == [a.label for a in seen] == [1, 2, 3]
        assert [a.logits[a.k] for a in seen] == [6.0, 106.0, 306.0]
        assert [a.elapsed_ms for a in seen] == [2 * TICK, 5 * TICK, 10 * TICK]
        assert all(a.in_time and a.late is None for a in seen)
        assert {a.logits.shape for a in seen} == {(CLASSES,)}

    def test_twice_from_one_answer(self, make):
        """An answer is left as it was."""
        runner = make(stepwise())
        first = runner.start(X)
        names = set(first.kept)
        again = [runner.refine(first) for _ in range(2)]
        np.testing.assert_array_equal(again[0].logits, again[1].logits)
        assert set(first.kept) == names
        assert again[0].k == 2

    def test_two_images_in_turn(self, make):
        runner = make(stepwise())
        ours, theirs = runner.start(X), runner.start(10 * X)
        ours, theirs = runner.refine(ours), runner.refine(theirs)
        assert (ours.logits[2], theirs.logits[2]) == (106.0, 160.0)

    def test_goes_on_after_a_deadline(self, make):
        file = stepwise()
        runner = make(file)
        answer = runner.run(X, deadline_ms=3)
        assert answer.k == 1
        later = runner.refine(runner.refine(answer))
        assert (later.k, later.logits[3]) == (3, 306.0)
        assert later.elapsed_ms == 10 * TICK
        assert file.calls == ["start", "step_2", "step_3"]

    def test_late_answers_go_on_too(self, make):
        file = stepwise()
        runner = make(file)
        file.next["step_2"] = 9.0
        late = runner.run(X, deadline_ms=10.5).late
        assert runner.refine(late).logits[3] == 306.0

    def test_last_answer(self, make):
        runner = make(stepwise())
        with pytest.raises(ValueError, match="`answer` .* below 3. Received: k=3"):
            runner.refine(runner.run(X))

    def test_answers_of_others(self, make):
        ours, theirs = make(stepwise()), make(stepwise())
        foreign = theirs.start(X)
        for answer in (foreign, None, {"k": 1}, X):
            with pytest.raises(
                ValueError, match="`answer` must be one that this runne"
            ):
                ours.refine(answer)
        hand_made = AnytimeAnswer(1, 0, np.zeros(CLASSES), 1.0)
        with pytest.raises(ValueError, match="Received: AnytimeAnswer of None"):
            ours.refine(hand_made)

    def test_answers_are_values(self, make):
        answer = make(stepwise()).start(X)
        with pytest.raises(dataclasses.FrozenInstanceError):
            answer.k = 2
        text = repr(answer)
        assert "k=1, label=1" in text and "kept" not in text and "owner" not in text


class TestAtOnce:
    """A file of sub-networks that start anew."""

    TIMES = {1: 2 * TICK, 2: 5 * TICK, 4: 9 * TICK}

    @pytest.mark.parametrize("ticks", np.arange(0, 12, 0.5).tolist())
    def test_the_largest_that_fits(self, make, ticks):
        file = at_once(self.TIMES)
        runner = make(file)
        assert (runner.incremental, runner.subnetworks) == (False, 4)
        answer = runner.run(X, deadline_ms=ticks * TICK)
        fitting = [k for k, t in self.TIMES.items() if t <= ticks * TICK]
        best = max(fitting, default=1)
        assert (answer.k, answer.in_time) == (best, ticks >= 2)
        assert answer.elapsed_ms == self.TIMES[best]
        assert file.calls == [f"classify_k{best}"]

    def test_without_a_limit(self, make):
        file = at_once(self.TIMES)
        assert make(file).run(X).k == 4
        assert file.calls == ["classify_k4"]

    def test_largest_not_fastest(self, make):
        """Whatever times there are, the largest that fits."""
        runner = make(at_once({1: 2.0, 2: 9.0, 4: 5.0}))
        assert runner.run(X, deadline_ms=6).k == 4

    def test_later_than_expected(self, make):
        """There is no answer before it."""
        file = at_once(self.TIMES)
        runner = make(file)
        file.next["classify_k2"] = 30.0
        answer = runner.run(X, deadline_ms=6)
        assert (answer.k, answer.in_time, answer.late) == (2, False, None)
        assert answer.elapsed_ms == pytest.approx(30.0)

    def test_step_by_step(self, make):
        """Of those in the file, from the same image."""
        file = at_once({2: 5.0, 4: 9.0})
        runner = make(file)
        first = runner.start(X)
        second = runner.refine(first)
        assert (first.k, second.k) == (2, 4)
        assert (first.logits[2], second.logits[4]) == (6.0, 6.0)
        assert second.elapsed_ms == pytest.approx(14.0)
        with pytest.raises(ValueError, match="below 4. Received: k=4"):
            runner.refine(second)
        with pytest.raises(ValueError, match=r"`k` must be one of \[2, 4\]"):
            runner.expected_ms(1)


@pytest.mark.parametrize("times", [STEPS, {1: 2.0, 2: 5.0}])
@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("bad", [-1, -1e-9, float("nan"), np.float32("nan"), -np.inf])
def test_bad_deadlines(make, times, incremental, bad):
    file = File(times, incremental)
    runner = make(file)
    with pytest.raises(ValueError, match="`deadline_ms` must be 0 or more. Received: "):
        runner.run(X, deadline_ms=bad)
    assert not file.calls


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None, "3"])
def test_bad_warmup(make, bad):
    with pytest.raises(ValueError, match="`warmup` must be a positive integer"):
        make(stepwise(), warmup=bad)


def test_threads(make):
    file = stepwise()
    make(file, num_threads=2)
    assert file.arguments == ("net.tflite", 2)


@pytest.mark.parametrize(
    "names", [["classify", "explain"], ["stage_1", "classify"], []]
)
def test_other_files(monkeypatch, names):
    file = File({}, others=names)
    monkeypatch.setattr("keras_dyngate.runtime.anytime_runner.LiteRTModel", file)
    with pytest.raises(
        ValueError, match="`path` must be a file of an anytime net"
    ) as e:
        AnytimeRunner("net.tflite")
    assert f"Received: signatures {sorted(names)}" in str(e.value)


# Real files from here on.


def converted(signatures):
    """A file of TensorFlow functions, by name: the function, and what it takes."""
    tf = pytest.importorskip("tensorflow")
    from keras_dyngate.export.conversion import convert
    from keras_dyngate.flatfile import flatbuffer

    file = convert(
        {
            name: tf.function(function, autograph=False).get_concrete_function(
                **{key: tf.TensorSpec(size, name=key) for key, size in specs.items()}
            )
            for name, (function, specs) in signatures.items()
        },
        None,
    )
    return flatbuffer.write(file)


def answer_of(tf, scores, **kept):
    return {"logits": scores, "label": tf.argmax(scores, -1, tf.int32), **kept}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Scores are colour means; every step adds those of another kind."""
    tf = pytest.importorskip("tensorflow")
    image, features = [1, 4, 6, 3], [1, 3]

    def start(image):
        means = tf.reduce_mean(image, [1, 2])
        return answer_of(tf, means, means_1=means)

    def second(image, means_1):
        most = tf.reduce_max(image, [1, 2])
        return answer_of(tf, means_1 + most, most_2=most)

    def third(image, means_1, most_2):
        least = tf.reduce_min(image, [1, 2])
        return answer_of(tf, means_1 + most_2 + 2.0 * least)

    content = converted(
        {
            "start": (start, {"image": image}),
            "step_2": (second, {"image": image, "means_1": features}),
            "step_3": (
                third,
                {"image": image, "means_1": features, "most_2": features},
            ),
        }
    )
    path = tmp_path_factory.mktemp("anytime") / "steps.tflite"
    path.write_bytes(content)
    return path


def by_numpy(image):
    parts = [image.mean((0, 1)), image.max((0, 1)), 2 * image.min((0, 1))]
    return np.cumsum(parts, axis=0)


def test_a_file_agrees_with_numpy(path):
    runner = AnytimeRunner(path, num_threads=2, warmup=1)
    assert isinstance(runner.model, LiteRTModel) and runner.model.num_threads == 2
    rng = np.random.default_rng(0)
    for form in (np.asarray, lambda x: x[None], np.ndarray.tolist):
        image = rng.uniform(0, 255, (4, 6, 3)).astype("float32")
        expected = by_numpy(image)
        answer = runner.start(form(image))
        for k in (1, 2, 3):
            np.testing.assert_allclose(answer.logits, expected[k - 1], rtol=1e-5)
            assert (answer.k, answer.label) == (k, expected[k - 1].argmax())
            answer = runner.refine(answer) if k < 3 else answer
        whole, first = runner.run(form(image)), runner.run(form(image), deadline_ms=0)
        np.testing.assert_array_equal(whole.logits, answer.logits)
        np.testing.assert_allclose(first.logits, expected[0], rtol=1e-5)
        assert (whole.k, whole.in_time, first.k, first.in_time) == (3, True, 1, False)
        assert 0 < first.elapsed_ms < whole.elapsed_ms + 1e3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((6, 4, 3)), r"`image` must have the shape .* shape=\(6, 4, 3\)"),
        (np.zeros((2, 4, 6, 3)), r"`image` must have the shape"),
        ("cat.png", "`image` must have the shape"),
    ],
)
def test_bad_images(path, image, message):
    runner = AnytimeRunner(path, warmup=1)
    for call in (runner.run, runner.start):
        with pytest.raises(ValueError, match=message):
            call(image)


def test_bad_files(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must name a .tflite file"):
        AnytimeRunner(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match="`num_threads` must be a positive integer"):
        AnytimeRunner(path, num_threads=0)
    tf = pytest.importorskip("tensorflow")

    def classify(image):
        return answer_of(tf, tf.reduce_mean(image, [1, 2]))

    content = converted({"classify": (classify, {"image": [1, 4, 6, 3]})})
    (tmp_path / "plain.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"anytime net.*Received: .*\['classify'\]"):
        AnytimeRunner(tmp_path / "plain.tflite")


def test_a_device_needs_neither_keras_nor_tensorflow(path):
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('keras', 'tensorflow', 'jax', 'torch', 'scipy'):\n"
        "            raise ImportError(f'a device has no {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import keras_dyngate as kd\n"
        "import numpy as np\n"
        "from keras_dyngate.runtime import AnytimeRunner\n"
        "assert kd.AnytimeRunner is AnytimeRunner\n"
        "answer = AnytimeRunner(sys.argv[1]).run(np.full((4, 6, 3), 7))\n"
        "print(answer.k, answer.logits)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, os.fspath(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3 [28. 28. 28.]"


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exporting needs TensorFlow")
class TestExported:
    """Exported nets against the same nets in Keras."""

    X = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype("float32")
    BASE = {"blocks": 1, "width": 4, "subnetworks": 2, "input_shape": (8, 8, 3)}

    def test_sliced_net(self, tmp_path, numpy_initializers):
        import keras_dyngate as kd
        from tests.stubs import randomize

        model = randomize(kd.sliced_resnet(**self.BASE, classes=5))
        kd.export_tflite(model, tmp_path / "a.tflite")
        runner = AnytimeRunner(tmp_path / "a.tflite", warmup=1)
        assert (runner.incremental, runner.subnetworks) == (True, 2)
        expected = dict(model.anytime(self.X))
        limit = 1e-5 * max(np.abs(scores).max() for scores in expected.values())
        for index, image in enumerate(self.X):
            first = runner.start(image)
            for answer in (first, runner.refine(first), runner.run(image)):
                scores = expected[answer.k][index]
                np.testing.assert_allclose(answer.logits, scores, rtol=0, atol=limit)
                assert answer.label == scores.argmax()
            assert answer.k == 2
            assert runner.run(image, deadline_ms=0).k == 1

    def test_inclusive_net(self, tmp_path, numpy_initializers):
        import keras_dyngate as kd
        from tests.stubs import randomize

        groups = {"cardinality": 2, "branch_width": 2}
        model = randomize(kd.inclusive_resnext(**self.BASE, **groups, classes=5))
        kd.export_tflite(model, tmp_path / "a.tflite")
        runner = AnytimeRunner(tmp_path / "a.tflite", warmup=1)
        assert (runner.incremental, runner.subnetworks) == (False, 2)
        expected = {k: model.predict_at(k, self.X) for k in (1, 2)}
        for index, image in enumerate(self.X):
            for deadline, k in ((None, 2), (0, 1)):
                answer = runner.run(image, deadline)
                assert answer.k == k
                scores = expected[k][index]
                limit = 1e-5 * np.abs(expected[k]).max()
                np.testing.assert_allclose(answer.logits, scores, rtol=0, atol=limit)


class TestThreads:
    IMAGES = np.random.default_rng(1).uniform(0, 255, (12, 4, 6, 3)).astype("float32")

    def test_a_run_is_whole(self, path):
        """Every answer is of its own image, steps go on from its own."""
        runner = AnytimeRunner(path, warmup=1)
        alone = [runner.run(image).logits for image in self.IMAGES]

        def work(shift):
            found = []
            for turn in range(60):
                index = (turn + 3 * shift) % len(alone)
                if turn % 2:
                    answer = runner.run(self.IMAGES[index], 0 if turn % 3 else None)
                else:
                    answer = runner.start(self.IMAGES[index])
                while answer.k < 3:
                    answer = runner.refine(answer)
                    assert runner.expected_ms(answer.k) > 0
                found.append((index, answer.logits))
            assert set(runner.median_ms()) == {1, 2, 3}
            return found

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for found in pool.map(work, range(4)):
                for index, logits in found:
                    np.testing.assert_array_equal(logits, alone[index])

    def test_waiting_counts_to_the_deadline_but_is_no_time_of_a_step(self, path):
        runner = AnytimeRunner(path, warmup=1)
        waiting, answers = threading.Event(), []

        def work():
            waiting.set()
            answers.append(runner.run(self.IMAGES[0], deadline_ms=100))
            answers.append(runner.start(self.IMAGES[0]))

        thread = threading.Thread(target=work)
        with runner.model.lock:
            thread.start()
            waiting.wait()
            time.sleep(0.2)
        thread.join()
        late, soon = answers
        assert (late.k, late.in_time) == (1, False) and late.elapsed_ms > 150
        assert soon.elapsed_ms < 150 and max(runner.median_ms().values()) < 150
        assert runner.expected_ms(1) < 150
