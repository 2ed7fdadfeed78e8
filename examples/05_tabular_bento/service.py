"""Loan applications: a tabular service as it was before Bandmaster, one model and one pydantic model of the input.

`python train.py`, then `bentoml serve . --host 127.0.0.1`. Nothing here was changed: `bentofile.yaml` names this
service and two models more. The old model goes on answering; what the policy would gain is at /orchestration/state.

    curl 127.0.0.1:3000/decide --json '{"application": {"income": 41, "debt": 12, "years": 3, "late": 0}}'
"""

import bentoml
import numpy as np
import onnxruntime
import pydantic


class Application(pydantic.BaseModel):
    """Income and debt in thousands a year, years in the present job, payments that came late."""

    income: float
    debt: float
    years: float
    late: float = 0


class Verdict(pydantic.BaseModel):
    label: str
    confidence: float


@bentoml.service(traffic={"timeout": 10})
class Loans:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession("scorecard.onnx")

    @bentoml.api
    def decide(self, application: Application) -> Verdict:
        row = np.float32([list(application.model_dump().values())])
        label, probabilities = self.session.run(None, {"X": row})
        return Verdict(label=("no", "yes")[label[0]], confidence=float(probabilities.max()))
