"""The site knows every public name, and its pages link to pages that exist."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

import sksetsens

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOMS = ("", ".metrics", ".inspection", ".networks", ".datasets", ".exceptions")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_its_place(room):
    listed = re.findall(r"^   (sksetsens\.\S+)$", (DOCS / "api.md").read_text(), re.M)
    assert len(listed) == len(set(listed))
    names = importlib.import_module(f"sksetsens{room}").__all__
    expected = {f"sksetsens{room}.{name}" for name in names} - {"sksetsens.__version__"}
    assert expected <= set(listed)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_pages_link_to_what_exists(page):
    text = page.read_text()
    targets = re.findall(r"\]\((?!https?:)([\w./-]+)(?:#[\w-]+)?\)", text)
    for target in [*targets, *re.findall(r"`([\w-]+\.md)`", text)]:
        assert (DOCS / target).exists() or (ROOT / target).exists(), target
    for path in re.findall(r"(?:benchmarks|examples|docs)/\w+\.\w+", text):
        assert (ROOT / path).exists(), path


def test_citation_has_the_version():
    told = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert told.group(1) == sksetsens.__version__
    assert f"## {sksetsens.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_benchmarks_are_tabled(tmp_path, monkeypatch, capsys):
    script = tmp_path / "bench_one.py"
    script.write_text('print("12.6 x as fast | 3 g")\nprint("a remark")\n')
    (tmp_path / "bench_two.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "run.py").write_text((ROOT / "benchmarks" / "run.py").read_text())
    table = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["run.py", "--all", "--report", str(table)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tmp_path / "run.py"), run_name="__main__")
    assert ended.value.code
    lines = table.read_text().splitlines()
    assert lines[-2].startswith("| one |")
    assert lines[-2].endswith("| 12.6 x as fast \\| 3 g |")
    assert lines[-1].endswith("| FAILED with exit status 3 |")
    assert f"sksetsens {sksetsens.__version__}" in table.read_text()
