"""Every snippet of the README and the pages is executed: commands are run, programs too, configurations loaded.

A page's snippets share a folder, in which a service has been running for a while, and are run from top to bottom. One
that cannot be run says why in a comment above it, ``<!-- not run: why -->``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from markdown_it import MarkdownIt

from bandmaster import config, hosting
from bandmaster.config import KEYS
from bandmaster.config.simulation import load_simulation
from bandmaster.demo import free_port
from tests.end_to_end.servers import environment, served, stop
from tests.serving.tiny import LABELS, ROWS, project

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' commands are for curl: install it")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MEMBERS = ("linear", "forest", "tree")
FIRST = ("README.md", "docs/tutorial.md")
"""The pages that are run with what the core promises; the others take minutes, and are run with the extras."""

MOST_NOT_RUN = 6
PORT = re.compile(r"(?<=127\.0\.0\.1:)3000|(?<=localhost:)3000")


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, the file that it is (``title="…"``), and why it is not run, if it is not."""

    language: str
    text: str
    file: str | None
    not_run: str | None


def snippets(page: Path) -> list[Snippet]:
    found, above = [], ""
    for token in MarkdownIt().parse(page.read_text()):
        assert token.type != "code_block", f"{page}: {token.content!r} is indented; fence it, and say what it is"
        if token.type == "fence":
            why = re.search(r"<!-- not run: (.+) -->", above)
            file = re.search(r'title="([^"]+)"', token.info)
            language = token.info.split()[0] if token.info else ""
            found.append(Snippet(language, token.content, file and file[1], why and why[1]))
        above = token.content if token.type == "html_block" else ""
    return found


# ---- Where they are run ----------------------------------------------------------------------------------------


def block() -> dict[str, Any]:
    """The members and the contract that the pages talk of."""
    profile = {"energy": "1 mJ", "cost": 0.001, "explainability": 0.5}
    return {
        "service": "service:Iris",
        "method": "classify",
        "contract": {
            "accuracy": {"weight": 0.8},
            "latency": {"weight": 0.2, "range": ["1 ms", "100 ms"], "from": "profile"},
        },
        "members": {
            name: {"onnx": f"{name}.onnx", "profile": profile | {"latency": latency}}
            for name, latency in zip(MEMBERS, ("2 ms", "60 ms", "20 ms"), strict=True)
        },
        "probes": {"share": 0.5, "adapt": False},
        "guard": {"mode": "shadow", "baseline": "linear"},
        "journal": "sqlite:///orchestration.db",
    }


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service has answered a hundred requests, whose labels came; and logs of other traffic."""
    folder = project(tmp_path_factory.mktemp("lived-in"))
    shutil.copyfile(folder / "bayes.onnx", folder / "forest.onnx")
    bentofile = {"service": "bandmaster.auto:svc", "include": ["*.py", "*.onnx"], "args": {"orchestration": block()}}
    (folder / "bentofile.yaml").write_text(yaml.safe_dump(bentofile, sort_keys=False))
    shutil.copyfile(folder / "bentofile.yaml", folder / "new.yaml")
    shutil.copytree(ROOT / "configs", folder / "configs")
    classes = ("setosa", "versicolor", "virginica")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(ROWS))
    inputs = pl.DataFrame(ROWS[order], schema=["x0", "x1", "x2", "x3"])
    names = np.array(classes)[LABELS[order]]
    inputs.with_columns(label=names).write_parquet(folder / "inputs.parquet")
    recorded(inputs, names, rng).write_parquet(folder / "traffic.parquet")
    shutil.copyfile(folder / "traffic.parquet", folder / "year.parquet")
    pl.concat([inputs.with_columns(y=LABELS[order])] * 2).write_parquet(folder / "stream.parquet")
    with served(".", folder=folder, env=environment(folder / "home")) as server:
        for row, label in zip(ROWS[order[:100]], names[:100], strict=True):
            answer = server.client.post("/classify", json={"input_series": [row.tolist()]})
            told = {"decision_id": answer.headers["x-orchestration-decision"], "label": label}
            server.client.post("/feedback", json=told).raise_for_status()
    shell("bandmaster export decisions.parquet --config bentofile.yaml", folder)
    done = pl.read_parquet(folder / "decisions.parquet")["action"].unique()
    pl.DataFrame({"action": done, "probability": 1.0 / len(done)}).write_csv(folder / "new-policy.csv")
    return folder


def recorded(inputs: pl.DataFrame, labels: np.ndarray[Any, Any], rng: np.random.Generator) -> pl.DataFrame:
    """What the members said to these inputs, the linear one being nearly always right."""
    said: dict[str, Any] = {"label": labels}
    for name, right in zip(MEMBERS, (0.97, 0.5, 0.5), strict=True):
        said[f"{name}__pred"] = np.where(rng.random(len(labels)) < right, labels, rng.permutation(labels))
        said[f"{name}__conf"] = rng.uniform(0.6, 1.0, len(labels))
    return inputs.with_columns(**said)


def shell(script: str, folder: Path) -> None:
    """Run in bash; nothing in it may fail, no reply of a server either."""
    (folder / ".curlrc").write_text("fail-with-body\n")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    extra = {"PATH": path, "CURL_HOME": str(folder), "PYTHONPATH": f"{ROOT / 'plugin'}:{ROOT}"}
    env = environment(folder / "home", **extra)
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


# ---- Running them ----------------------------------------------------------------------------------------------


class Reader:
    """Does what a page says, in a folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.port = folder, stack, free_port()
        self.serves = False
        self.names: dict[str, Any] = {"__name__": "snippet"}

    def localised(self, text: str) -> str:
        return PORT.sub(str(self.port), text)

    def do(self, snippet: Snippet) -> None:
        if snippet.file is not None:
            return  # written before
        {"console": self.console, "python": self.python, "yaml": self.yaml, "json": json.loads}[snippet.language](
            snippet.text
        )

    def python(self, text: str) -> None:
        exec(compile(text, "snippet", "exec"), self.names)

    def console(self, text: str) -> None:
        if PORT.search(text) and not self.serves:
            self.serve()
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("bentoml serve ."):
                self.serve()
            elif line.startswith("bandmaster dashboard"):
                self.look(line)
            else:
                lines.append(line)
        shell(self.localised("\n".join(lines)), self.folder)

    def serve(self) -> None:
        assert not self.serves
        env = environment(self.folder / "home")
        self.stack.enter_context(served(".", folder=self.folder, env=env, port=self.port))
        self.serves = True

    def look(self, line: str) -> None:
        """A dashboard that says where it is, and then shows it."""
        command = [sys.executable, "-m", *line.split(), "--port", "0"]
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        self.stack.callback(stop, process)
        assert process.stdout
        self.stack.callback(process.stdout.close)
        address = process.stdout.readline().split()[0]
        shell(f"curl -s {address} | grep -q Bandmaster", self.folder)

    def yaml(self, text: str) -> None:
        """A whole configuration, or what stands in one."""
        found = yaml.safe_load(text)
        if "simulation" in found:
            (self.folder / "simulated.yaml").write_text(text)
            load_simulation(self.folder / "simulated.yaml")
            return
        file = self.folder / "snippet.yaml"
        if not {"args", "orchestration"} & set(found):
            assert set(found) <= set(KEYS), f"{sorted(found)}: what kind of YAML is that?"
            found = {"orchestration": block() | found}
            text = yaml.safe_dump(found)
        file.write_text(text)
        hosting.require_functions(config.load(file))


@pytest.fixture
def folder(tmp_path: Path, lived_in: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where a page begins: an empty folder, or one in which a service has been running."""
    page: str = request.node.callspec.params["page"].relative_to(ROOT).as_posix()
    folder = tmp_path / "page"
    if page == "docs/tutorial.md":
        folder.mkdir()
    else:
        shutil.copytree(lived_in, folder)
    if page == "docs/how-to/switch-on.md":
        (folder / "bentofile.yaml").write_text('service: "service:Iris"\ninclude: ["*.py", "*.onnx"]\n')
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def pages() -> Iterator[Any]:
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        extra = name not in FIRST
        if snippets(page):
            yield pytest.param(page, id=name, marks=pytest.mark.extras if extra else ())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", list(pages()))
def test_every_snippet_of_a_page_is_executed(page: Path, folder: Path) -> None:
    with ExitStack() as stack:
        reader, found = Reader(folder, stack), snippets(page)
        for snippet in found:
            if snippet.file is not None:
                (folder / snippet.file).write_text(reader.localised(snippet.text))
        for snippet in found:
            if snippet.not_run is None and snippet.language != "text":
                reader.do(snippet)


def test_few_snippets_are_not_run_and_each_says_why() -> None:
    every = [snippet for page in PAGES for snippet in snippets(page)]
    not_run = [snippet.text for snippet in every if snippet.not_run]
    assert len(not_run) <= MOST_NOT_RUN <= len(every) / 10, not_run


def test_every_snippet_says_what_it_is_and_what_is_no_code_is_output() -> None:
    for page in PAGES:
        for snippet in snippets(page):
            assert snippet.language in ("console", "python", "yaml", "json", "text"), (page, snippet.text)
    shown = [snippet for page in PAGES for snippet in snippets(page) if snippet.language == "text"]
    assert len(shown) == 1  # the demo's table in the README
