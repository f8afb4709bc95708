"""The public face: a line of repr, a race in a notebook, a sweep in a call, a page made from docstrings."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import anytime_cls
from anytime_cls import AnytimeClassifier, Decision, RaceOptions
from anytime_cls.traces.schema import TraceError
from anytime_cls_cli.main import main

ROOT = Path(__file__).parents[1]
BIRD = ROOT / "examples/bird.jpg"


@pytest.fixture(scope="module")
def classifier():
    return AnytimeClassifier.load()


@pytest.fixture(scope="module")
def decision(classifier):
    return classifier.classify(BIRD)


def test_a_line_says_what_it_is(classifier, decision):
    assert repr(classifier) == f"AnytimeClassifier('cifar10', {len(classifier.labels)} classes, cpu)"
    said = repr(decision)
    assert said.startswith(
        f"Decision('{decision.label}', {100 * decision.probability:.1f} %, {decision.stop}, "
    )
    assert "\n" not in said and f"{decision.orders} order" in said and len(said) < 110


def test_scores_are_the_records_class_by_class(classifier):
    """Columns are the classes raced, in the order they were given; the means are the ranking's."""
    ids = [7, 3, 5, 0]
    decision = classifier.classify(BIRD, RaceOptions(rule="fixed", max_orders=6, classes=ids))
    scores = decision.scores()
    assert decision.classes == tuple(ids) and scores.shape == (6, 4) and np.isfinite(scores).all()
    for standing in decision.ranking:
        assert scores.mean(axis=0)[ids.index(standing.index)] == pytest.approx(standing.mean)
    assert "classes" not in decision.to_dict() and "records" not in decision.to_dict()


def test_a_notebook_shows_the_race(decision):
    html = decision._repr_html_()
    svg = ElementTree.fromstring(html[html.index("<svg") :])
    lines = [e.attrib["class"] for e in svg.iter("polyline")]
    assert lines.count("answer") == 1 and len(lines) == int((~np.isnan(decision.scores())).any(axis=0).sum())
    assert decision.label in [e.text for e in svg.iter("text")]
    assert re.search(r"<code>Decision\(", html) and "<script" not in html
    bare = Decision("<b>", 0, 0.5, 1.0, "budget", 0, 0, 1, None, 4, 0.1, ())
    assert bare._repr_html_().startswith("<code>Decision(&#x27;&lt;b&gt;")


def test_a_sweep_in_a_call_is_an_open_trace(classifier, tmp_path, monkeypatch):
    for name in ("cat", "frog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "one.jpg").write_bytes((ROOT / f"examples/{name}.jpg").read_bytes())
    trace = classifier.sweep(str(tmp_path / "data"), RaceOptions(classes=None))
    place = trace.path if hasattr(trace, "path") else None
    assert len(trace) == 2 and [trace.labels[i] for i in trace.images["label"]] == ["cat", "frog"]
    alone = classifier.classify(tmp_path / "data/frog/one.jpg", RaceOptions(classes=["cat", "frog"]))
    assert trace.labels[trace.images["prediction"][1]] == alone.label and trace.images["passes"][1] > 0
    with classifier.sweep(str(tmp_path / "data"), out=tmp_path / "kept.h5", limit=1) as kept:
        assert len(kept) == 1
    assert (tmp_path / "kept.h5").exists()
    with pytest.raises(ValueError, match="exists already"):
        classifier.sweep(str(tmp_path / "data"), out=tmp_path / "kept.h5")
    with pytest.raises(ValueError, match="nothing-here"):
        classifier.sweep(str(tmp_path / "nothing-here"))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TraceError, match="pip install pandas"):
        trace.to_pandas()
    trace.close()
    del trace
    assert place is None or not Path(place).exists()  # a temporary trace goes with its object


def test_a_trace_as_a_table(classifier, tmp_path):
    pytest.importorskip("pandas", reason="needs pip install pandas")
    for name in ("cat", "frog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.jpg").write_bytes((ROOT / f"examples/{name}.jpg").read_bytes())
    with classifier.sweep(str(tmp_path)) as trace:
        table = trace.to_pandas()
        assert len(table) == 2 and table["label_name"].tolist() == ["cat", "frog"]
        assert table["probability"].tolist() == trace.images["probability"].tolist()
        assert table["stop"].isin(["decided", "max-orders"]).all()


def test_the_page_is_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/api_page", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_field_and_name_is_described():
    page = (ROOT / "docs/api.md").read_text("utf-8")
    for kind in (RaceOptions, Decision):
        part = page[page.index(f"\n## `{kind.__name__}`") :]
        part = part[: part.index("\n## ", 5)] if "\n## " in part[5:] else part
        for field in fields(kind):
            row = re.search(rf"^\| `{field.name}` \|.*\| ([^|]+) \|$", part, re.M)
            assert row and len(row[1].strip()) > 8, (kind.__name__, field.name)
    for name in anytime_cls.__all__:
        assert name == "__version__" or f"`{name}" in page


def test_the_readme_s_snippet_gives_the_command_s_probability(capsys, monkeypatch):
    """Both as README has them, one beside the other."""
    readme = (ROOT / "README.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S)[1]
    command = re.search(r"^\$ .*?anytime-cls (classify examples/bird\.jpg[^\n&|]*)", readme, re.M)[1]
    monkeypatch.chdir(ROOT)
    *body, last = ast.parse(code).body
    names: dict = {}
    exec(compile(ast.Module(body, []), "README.md", "exec"), names)
    answer = eval(compile(ast.Expression(last.value), "README.md", "eval"), names)
    assert main([*command.split(), "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert names["decision"].label == row["label"] and row["probability"] in answer
    assert names["decision"].probability == row["probability"]
