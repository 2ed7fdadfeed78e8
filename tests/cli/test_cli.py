"""The command line: what it prints where, and the exit codes it promises."""

import json
import re
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from bandmaster import __version__
from bandmaster.cli import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

CONFIG = """
orchestration:
  contract:
    accuracy: {weight: 0.8}
    latency:  {weight: 0.2, range: [1 ms, 100 ms], from: profile}
  members:
    cheap: {profile: {latency: 2 ms, energy: 3 mJ}}
    dear:  {profile: {latency: 60 ms}}
  plans: {cascades: 1, include: [cheap>dear@0.8]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a log whose classes are texts."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.yaml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    truth = rng.choice(["cat", "dog"], size=150)
    other = np.where(truth == "cat", "dog", "cat")
    columns: dict[str, object] = {"label": truth, "phase": ["early"] * 75 + ["late"] * 75}
    for name, skill in (("cheap", 0.7), ("dear", 0.9)):
        columns[f"{name}__pred"] = np.where(rng.random(150) < skill, truth, other)
        columns[f"{name}__conf"] = rng.uniform(0.5, 1.0, size=150)
    pl.DataFrame(columns).write_csv(folder / "log.csv")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def replay(folder: Path, *arguments: object) -> Result:
    return call("replay", folder / "log.csv", "--config", folder / "config.yaml", "--jobs", 1, *arguments)


def commands() -> list[str]:
    return main.list_commands(click.Context(main))


def test_the_version_is_the_package_s():
    assert call("--version").output == f"bandmaster, version {__version__}\n"


@pytest.mark.parametrize("command", [(), *((name,) for name in commands())])
def test_every_help_text_has_examples(command):
    shown = call(*command, "--help")
    assert shown.exit_code == 0
    assert re.search(r"Examples:\n +bandmaster \w+", shown.output)


@pytest.mark.parametrize("command", commands())
def test_every_command_refuses_unknown_options_with_exit_code_2(command):
    assert call(command, "--no-such-option").exit_code == 2


@pytest.mark.parametrize("command", [("check",), ("plans",), ("replay", "log.csv", "--config")])
def test_a_config_that_is_not_there_is_bad_input(command, tmp_path):
    refused = call(*command, tmp_path / "none.yaml")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ")
    assert "none.yaml" in refused.stderr
    assert "Traceback" not in refused.output


# ---- check ---------------------------------------------------------------------------------------------------


def test_check_summarises_a_config_whose_members_exist_only_in_logs(folder):
    shown = call("check", folder / "config.yaml", "--no-models")
    assert shown.exit_code == 0
    assert re.search(r"cheap +only in logs +2 ms +3 mJ", shown.stdout)
    assert "reward = 0.8 accuracy + 0.2 latency" in shown.stdout


def test_check_refuses_members_that_cannot_be_served(folder):
    refused = call("check", folder / "config.yaml")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert "members.cheap: has no model, so it can be replayed but not served" in refused.stderr


def test_check_names_every_problem_of_a_config(tmp_path):
    (tmp_path / "bad.yaml").write_text(CONFIG.replace("accuracy:", "acuracy:").replace("[1 ms, 100 ms]", "[9 J, 1 ms]"))
    refused = call("check", tmp_path / "bad.yaml", "--no-models")
    assert refused.exit_code == 2
    assert "acuracy" in refused.stderr
    assert "range" in refused.stderr


def test_check_as_json_says_what_the_table_says(folder):
    found = json.loads(call("check", folder / "config.yaml", "--no-models", "--json").stdout)
    assert found["models_loaded"] is False
    assert found["plans"] == 5
    assert found["contract"]["accuracy"]["weight"] == 0.8
    assert [m["name"] for m in found["members"]] == ["cheap", "dear"]
    assert found["members"][0]["profile"]["latency_s"] == 0.002


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_passes_check_and_lists_its_plans(path):
    assert call("check", path, "--no-models").exit_code == 0
    assert call("plans", path).exit_code == 0


# ---- plans ---------------------------------------------------------------------------------------------------


def test_plans_lists_the_catalogue_with_its_worst_case(folder):
    shown = call("plans", folder / "config.yaml")
    assert shown.exit_code == 0
    assert re.search(r"cheap>dear@0\.8 +2 +uniform +0\.8 +62 ms +–", shown.stdout)
    found = {p["name"]: p for p in json.loads(call("plans", folder / "config.yaml", "--json").stdout)}
    assert list(found) == ["cheap>dear@0.8", "cheap", "dear", "cheap+dear", "cheap+dear~recent"]
    assert found["cheap>dear@0.8"] == {
        "name": "cheap>dear@0.8", "stages": [["cheap"], ["dear"]], "weights": "uniform", "stop_at": [0.8],
        "latency_s": 0.062, "energy_j": None, "cost": None,
    }  # fmt: skip
    assert found["cheap+dear"]["latency_s"] == 0.06
    assert found["cheap"]["energy_j"] == 0.003


# ---- replay --------------------------------------------------------------------------------------------------


def test_replay_prints_a_table_and_a_verdict_and_tells_progress_on_stderr(folder):
    shown = replay(folder, "--seeds", 2, "--order", "shuffled")
    assert shown.exit_code == 0
    for row in ("constant", "random", "scoring", "bandit", "best constant: ", "best constant plan: ", "oracle"):
        assert re.search(rf"^{row}.* [01]\.\d{{4}} ", shown.stdout, re.MULTILINE), row
    assert "earned the most" in shown.stdout
    assert "Against all members at once" in shown.stdout
    lines = shown.stderr.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("10/10 bandit, seed 1, reward 0.")


def test_replay_writes_results_timing_and_trace(folder, tmp_path):
    out, trace = tmp_path / "new" / "results.json", tmp_path / "trace.parquet"
    shown = replay(
        folder, "--seeds", 1, "--policies", "constant:dear,scoring", "--out", out, "--trace", trace, "--json"
    )
    assert shown.exit_code == 0
    written = json.loads(out.read_text())
    assert json.loads(shown.stdout) == written
    assert list(written["policies"]) == ["constant:dear", "scoring"]
    assert written["best_constant"]["plan"] in ("cheap", "dear")
    assert written["policies"]["scoring"]["energy_j"] is None  # one member's energy is unknown
    assert {p.name for p in out.parent.iterdir()} == {"results.json", "timing.json"}
    assert len(pl.read_parquet(trace)) == 300
    assert {p.name for p in tmp_path.iterdir()} == {"new", "trace.parquet"}


def test_replay_twice_writes_the_same_bytes(folder, tmp_path):
    for name in ("a", "b"):
        assert replay(folder, "--seeds", 1, "--out", tmp_path / name / "results.json").exit_code == 0
    assert (tmp_path / "a/results.json").read_bytes() == (tmp_path / "b/results.json").read_bytes()


def test_delay_and_label_share_change_what_a_policy_learns(folder):
    def reward(*arguments: object) -> float:
        shown = replay(folder, "--seeds", 1, "--policies", "scoring", "--json", *arguments)
        return json.loads(shown.stdout)["policies"]["scoring"]["drift_events"], json.loads(shown.stdout)["traffic"]

    assert reward("--delay", 7)[1] == {"order": "kept", "mix": None, "delay": 7, "label_share": 1.0}
    assert reward("--label-share", 0)[0] == 0  # no label arrives, so nothing can ring


def test_a_mix_of_classes_and_the_last_share_are_played_and_written(folder, tmp_path):
    mix = ("--order", "mixed", "--mix-classes", 1, "--mix-every", 40, "--requests", 120)
    shown = replay(folder, "--seeds", 2, "--policies", "random", *mix, "--last", 0.5, "--out", tmp_path / "r.json")
    assert shown.exit_code == 0, shown.output
    assert "Figures are of the last 50% of each run." in shown.stdout
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["traffic"]["mix"] == {"classes": 1, "every": 40, "requests": 120}
    assert written["last"] == 0.5
    phases = written["policies"]["random"]["by_phase"]
    assert [(p["phase"], p["rows"]) for p in phases] == [("mix 2", 20), ("mix 3", 40)]


def test_a_stream_is_told_by_its_columns_and_its_members_trained_once(tmp_path):
    x = np.random.default_rng(0).normal(size=(150, 2))
    stream = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "y": (x[:, 0] > 0).astype(int)})
    stream.write_parquet(tmp_path / "stream.parquet")
    config = next(p for p in CONFIGS if p.name == "streams.yaml")
    options = ("--config", config, "--policies", "constant:tree", "--seeds", 1, "--jobs", 1, "--json")
    first, second = (
        call("replay", tmp_path / "stream.parquet", *options, "--cache", tmp_path / "cache") for _ in range(2)
    )
    assert first.exit_code == second.exit_code == 0, first.output
    assert "12 members learn its first 30 rows" in first.stderr
    assert "learn" not in second.stderr
    assert first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert found["log"]["rows"] == 120
    assert found["policies"]["constant:tree"]["latency_s"] == pytest.approx(75.4e-6)


REFUSED = {
    "a mix without a mixed order": (("--mix-every", 10), "log.csv", "--mix-every: goes with --order mixed"),
    "a mixed order without a mix": (("--order", "mixed"), "log.csv", "needs --mix-classes and --mix-every"),
    "more classes than there are": (
        ("--order", "mixed", "--mix-classes", 3, "--mix-every", 9),
        "log.csv",
        "3 classes cannot be drawn from the 2",
    ),
    "a last share of nothing": (("--last", 0), "log.csv", "--last"),
    "a log that is not there": (("--delay", 0), "none.csv", "no such file"),
    "an unknown policy": (("--policies", "oracle"), "log.csv", "no policy 'oracle'"),
    "no policy at all": (("--policies", ","), "log.csv", "at least one"),
    "a plan that is not in the catalogue": (("--policies", "constant:cheap>dear@0.5"), "log.csv", "plans.include"),
    "a negative delay": (("--delay", -1), "log.csv", "--delay"),
    "a share above 1": (("--label-share", 1.5), "log.csv", "--label-share"),
    "a folder to write to": (("--out", "."), "log.csv", "is a folder"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_replay_refuses_before_it_plays(what, folder):
    options, log, told = REFUSED[what]
    refused = call("replay", folder / log, "--config", folder / "config.yaml", "--jobs", 1, *options)
    assert refused.exit_code == 2
    assert told in refused.stderr
    assert "Traceback" not in refused.output
    assert not re.search(r"^\d+/\d+ ", refused.stderr, re.MULTILINE)


def test_replay_refuses_a_contract_that_the_log_cannot_fill(folder, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG.replace("from: profile", "weight: 0.2").replace("weight: 0.2, ", "", 1)
                                          .replace("latency: 60 ms", "cost: 1"))  # fmt: skip
    refused = call("replay", folder / "log.csv", "--config", tmp_path / "config.yaml")
    assert refused.exit_code == 2
    assert "dear" in refused.stderr


def test_a_bad_row_is_named(folder, tmp_path):
    log = pl.read_csv(folder / "log.csv").with_columns(cheap__conf=pl.lit(1.5))
    log.write_csv(tmp_path / "log.csv")
    refused = call("replay", tmp_path / "log.csv", "--config", folder / "config.yaml")
    assert refused.exit_code == 2
    assert "log.csv: row 0, column 'cheap__conf': 1.5 must be a probability" in refused.stderr
