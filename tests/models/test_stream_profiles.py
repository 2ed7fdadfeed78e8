"""The script that freezes what a stream's members cost."""

import numpy as np
import yaml

from bandmaster.config import Source, parse
from bandmaster.streams import KINDS, MEMBERS, REGRESSION_KINDS
from models import stream_profiles
from models.profiling import Profile


class Idle:
    """A model that counts its calls."""

    calls = 0

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        assert rows.shape == (1, 3)
        self.calls += 1
        return np.ones((1, 1))


def test_every_prediction_is_of_one_row_after_a_warm_up():
    model = Idle()
    profile = stream_profiles.measure(model.predict_proba, np.zeros((30, 3)), predictions=50)
    assert model.calls == 70
    assert profile.latency_s > 0.0
    assert profile.energy_j >= 0.0


def test_the_configuration_has_every_member_and_scales_around_them():
    found = {kind: Profile(1.234e-4 * 3**k, 5.678e-3 * 3**k) for k, kind in enumerate(KINDS)}
    block = yaml.safe_load(stream_profiles.configuration(found))["orchestration"]
    assert tuple(block["members"]) == MEMBERS
    assert block["members"]["naive_bayes"] == block["members"]["naive_bayes_late"]
    assert block["members"]["logistic"]["profile"] == {"latency": "370 us", "energy": "17000 uJ"}
    assert block["contract"]["latency"]["range"] == ["100 us", "30000 us"]
    assert block["contract"]["energy"]["range"] == ["5000 uJ", "2000000 uJ"]


def test_the_configuration_of_a_regression_can_be_played():
    found = {kind: Profile(1e-4, 5e-3 * (k + 1)) for k, kind in enumerate(REGRESSION_KINDS)}
    found["mlp"] = Profile(2e-4, 1e-2)
    block = yaml.safe_load(stream_profiles.configuration(found, "regression"))["orchestration"]
    read = parse(block, Source("made"))
    assert read.task == "regression"
    assert [m.name for m in read.members] == [*REGRESSION_KINDS, *(f"{k}_late" for k in REGRESSION_KINDS)]
