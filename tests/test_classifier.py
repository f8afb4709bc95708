"""The public face: decisions, their fields, options and failures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from anytime_cls import AnytimeClassifier, Failure, ImageError, RaceOptions
from anytime_cls.engine.device import choose_device, choose_dtype
from anytime_cls.scorers.any_order import AnyOrder
from anytime_cls.scorers.randar import RandAR
from anytime_cls.scorers.shapes import RandARConfig


@pytest.fixture(scope="module")
def classifier(tiny_model_dir):
    return AnytimeClassifier.load(str(tiny_model_dir), device="cpu")


def pictures(n):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(n)]


FAST = RaceOptions(max_orders=4)


def test_a_decision_says_what_it_knows_and_what_it_spent(classifier):
    decision = classifier.classify(pictures(1)[0], FAST)
    n_classes = len(classifier.labels)
    assert decision.label == classifier.labels[decision.index] == decision.ranking[0].label
    assert decision.full_passes == 4 * n_classes >= decision.passes > 0
    assert decision.stop in ("decided", "max-orders") and decision.seconds > 0 and decision.prefix is None
    assert sorted(s.index for s in decision.ranking) == list(range(n_classes))
    assert sum(s.probability for s in decision.ranking) == pytest.approx(1)
    assert decision.probability == decision.ranking[0].probability
    assert sum(len(r.values) for r in decision.records) == decision.passes
    still_in = [s for s in decision.ranking if s.alive]
    assert decision.ranking[: len(still_in)] == tuple(still_in)
    row = decision.to_dict(top=2)
    assert len(row["ranking"]) == 2 and "records" not in row


def test_the_answer_depends_on_the_pixels_not_the_file(classifier, tmp_path):
    """Same picture as array, PNG file, bytes, file object and Pillow image: same tokens, orders, decision."""
    array = pictures(1)[0]
    image = Image.fromarray(array)
    path = tmp_path / "a.png"
    image.save(path)
    sources = [array, path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), image]
    decisions = [classifier.classify(source, FAST) for source in sources]
    for decision in decisions[1:]:
        assert [s.mean for s in decision.ranking] == [s.mean for s in decisions[0].ranking]


@pytest.mark.parametrize(
    "rule", ["paired", "strict", "marginal", "fixed", "funnel", "clark-jaini", "halving"]
)
def test_decisions_depend_on_neither_company_nor_order(classifier, rule):
    options = RaceOptions(rule=rule, max_orders=6)
    images = pictures(7)
    alone = [classifier.classify(image, options) for image in images]
    together = list(classifier.classify_many(images, options))
    backwards = list(classifier.classify_many(images[::-1], options))[::-1]
    for a, b, c in zip(alone, together, backwards, strict=True):
        assert (a.label, a.orders, a.passes, a.stop) == (b.label, b.orders, b.passes, b.stop)
        assert (a.label, a.orders, a.passes) == (c.label, c.orders, c.passes)
        means = [sorted((s.index, s.mean) for s in d.ranking) for d in (a, b)]
        assert np.allclose(means[0], means[1], atol=1e-3)


@pytest.mark.parametrize("rule", ["paired", "fixed"])
def test_batches_of_any_size_give_the_same_bits(classifier, rule):
    """Every record and every figure of a decision, for other batch sizes, chunks and neighbours.

    With a model of width 64, since below it a row's place in a tile shows on some CPUs (see engine_jobs).
    """
    torch.manual_seed(0)
    model = RandAR(RandARConfig(64, 1, 2, classifier.scorer.tokenizer.vocab_size, 64, 10)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.1)
    torch.nn.init.normal_(model.cls_embedding.weight, std=1.0)
    options = RaceOptions(rule=rule, max_orders=6, prefixes=[8, 32])
    images = pictures(9)
    seen = []
    for batch_size, chunks in ((8, [9]), (32, [9]), (64, [9]), (32, [4, 1, 4]), (11, [2, 7])):
        many = AnytimeClassifier(classifier.card, AnyOrder(model, classifier.scorer.tokenizer), batch_size)
        assert many.engine.tile(64) == 8
        rest, decisions = iter(images), []
        for size in chunks:
            decisions += many.classify_many([next(rest) for _ in range(size)], options)
        rows = [d.to_dict() | {"seconds": 0} for d in decisions]
        records = [
            [(r.order, r.prefix, r.round, r.classes.tolist(), r.values.tolist()) for r in d.records]
            for d in decisions
        ]
        assert {r[1] for r in records[0]} == {8, 32, 64}
        seen.append((rows, records))
    assert all(other == seen[0] for other in seen[1:])


def test_prefixes_must_be_shorter_than_the_image(classifier):
    with pytest.raises(ValueError, match="64 tokens"):
        classifier.classify(pictures(1)[0], RaceOptions(prefixes=(8, 64)))


def test_the_seed_decides_the_orders(classifier):
    image = pictures(1)[0]
    means = {
        seed: classifier.classify(image, RaceOptions(rule="fixed", max_orders=2, seed=seed)).ranking[0].mean
        for seed in (0, 0, 1)
    }
    again = classifier.classify(image, RaceOptions(rule="fixed", max_orders=2, seed=0)).ranking[0].mean
    assert means[0] == again != means[1]


def test_pictures_that_cannot_be_read_do_not_stop_the_rest(classifier, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff not really")
    good = pictures(2)
    results = list(classifier.classify_many([broken, good[0], tmp_path / "none.png", good[1]], FAST))
    assert [isinstance(r, Failure) for r in results] == [True, False, True, False]
    with pytest.raises(ImageError):
        classifier.classify(broken, FAST)


def test_results_stream_in_order_while_the_input_is_still_coming(classifier):
    """A generator of images is not drained before the first answer."""
    asked = []

    def source():
        for i in range(200):
            asked.append(i)
            yield pictures(1)[0]

    stream = classifier.classify_many(source(), RaceOptions(rule="fixed", max_orders=1))
    next(stream)
    assert len(asked) < 150


def test_pictures_that_cannot_be_read_stream_too(classifier):
    """Thousands of broken files are answered as they come, not collected."""
    asked = []

    def source():
        for i in range(2000):
            asked.append(i)
            yield b"not an image"

    stream = classifier.classify_many(source(), FAST)
    assert isinstance(next(stream), Failure) and len(asked) == 1


def test_a_subset_of_classes_by_name_and_number(classifier):
    first, third = classifier.labels[0], classifier.labels[2]
    decision = classifier.classify(
        pictures(1)[0], RaceOptions(max_orders=2, classes=[third.upper(), 0, first])
    )
    assert {s.index for s in decision.ranking} == {0, 2} and decision.full_passes == 4
    for classes, what in ((["zebra crossing"], "zebra"), ([first], "two classes"), ([9999], "9999")):
        with pytest.raises(ValueError, match=what):
            classifier.classify(pictures(1)[0], RaceOptions(classes=classes))


def test_a_tight_budget_still_answers(classifier):
    decision = classifier.classify(pictures(1)[0], RaceOptions(budget="1passes", screen="none"))
    assert decision.stop == "budget" and decision.prefix and decision.orders == 0
    assert decision.separation == 1.0 and 0 < decision.probability <= 1
    assert all(np.isfinite(s.mean) for s in decision.ranking)


@pytest.mark.parametrize("aggregate", ["mean", "logmeanexp", "softmax"])
def test_aggregations_are_those_of_the_definition(classifier, aggregate):
    options = RaceOptions(rule="fixed", max_orders=5, aggregate=aggregate)
    decision = classifier.classify(pictures(1)[0], options)
    n = len(classifier.labels)
    scores = np.full((5, n), np.nan)
    for record in decision.records:
        scores[record.order, record.classes] = record.values
    shifted = np.exp(scores - scores.max())
    expected = {
        "mean": scores.mean(0),
        "logmeanexp": np.log(shifted.mean(0)),
        "softmax": (np.exp(scores - scores.max(1, keepdims=True))
                    / np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True)).mean(0),
    }[aggregate]  # fmt: skip
    assert decision.index == int(expected.argmax())


@pytest.mark.parametrize("orders", ["uniform", "antithetic", "raster", "constant"])
def test_every_order_sampler_runs(classifier, orders):
    options = RaceOptions(rule="fixed", max_orders=4, orders=orders)
    decision = classifier.classify(pictures(1)[0], options)
    assert decision.orders == (1 if orders in ("raster", "constant") else 4)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"budget": "soon"}, "budget"), ({"max_orders": 0}, "max_orders"),
        ({"max_orders": 1 << 20}, "65535"), ({"aggregate": "median"}, "median"),
        ({"aggregate": "softmax"}, "fixed"),
        ({"orders": "antithetic", "max_orders": 5}, "blocks of 2"),
        ({"orders": "raster"}, "one order only"), ({"prefixes": (8, 4)}, "rise"),
        ({"prefixes": (0, 4)}, "from 1"), ({"prefixes": (4, 4)}, "rise"), ({"prefixes": (2.5,)}, "whole"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_named(fields, what):
    with pytest.raises(ValueError, match=what):
        RaceOptions(**fields)


@pytest.mark.parametrize(
    ("fields", "what"), [({"rule": "guess"}, "guess"), ({"delta": 0}, "delta"), ({"delta": 1.5}, "delta")]
)
def test_rules_that_make_no_sense_are_named(classifier, fields, what):
    with pytest.raises(ValueError, match=what):
        classifier.classify(pictures(1)[0], RaceOptions(**fields))


def test_devices_and_dtypes():
    assert choose_device("cpu").type == "cpu" and choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="quantum"):
        choose_device("quantum")
    assert choose_dtype("bf16") == choose_dtype("bfloat16")
    with pytest.raises(ValueError, match="int3"):
        choose_dtype("int3")


def test_low_precision_runs(tiny_model_dir):
    low = AnytimeClassifier.load(str(tiny_model_dir), device="cpu", dtype="bf16")
    assert low.classify(pictures(1)[0], FAST).label in low.labels
