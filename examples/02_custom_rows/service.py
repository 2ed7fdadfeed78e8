"""A service whose requests are no arrays and whose answers have a form of their own.

`python train.py`, then `bentoml serve . --host 127.0.0.1`. Nothing here imports Bandmaster: `bentofile.yaml` names
this service, and the two methods at the end say how its requests become rows and how an answer becomes its reply.

    curl 127.0.0.1:3000/describe --json '{"text": "sepal 5.1 by 3.5 cm, petal 1.4 by 0.2 cm"}'
"""

import re

import bentoml
import pydantic


class Flower(pydantic.BaseModel):
    species: str
    sure: bool
    others: list[str]


@bentoml.service
class Botanist:
    @bentoml.api
    def describe(self, text: str) -> Flower:
        return Flower(species="some flower", sure=False, others=[])

    def to_rows(self, text: str) -> list[float]:
        """The rows for the members, from the method's own arguments. A ValueError becomes a 400 with its text."""
        sizes = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
        if len(sizes) != 4:
            raise ValueError(f"{len(sizes)} sizes in this text; write four, as in sepal 5.1 by 3.5, petal 1.4 by 0.2")
        return sizes

    def from_answer(self, answer, classes) -> Flower:  # type: ignore[no-untyped-def]
        """The reply. `answer` is a bandmaster.core.Answer: labels, confidence and scores, a row each."""
        best = answer.labels[0]
        return Flower(
            species=classes[best],
            sure=bool(answer.confidence[0] > 0.9),
            others=[name for i, name in enumerate(classes) if i != best and answer.scores[0, i] > 0.05],
        )
