"""One merge for two languages, against a merge for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from merge_core.yaml_io import Where, unknown
from search.errors import ConfigError
from search.experiments.base import Experiment
from search.experiments.chart import chart_of
from search.experiments.file import ExperimentFile, Setting
from search.experiments.lab import Lab
from search.experiments.outcome import Difference, Outcome, Value, bounded, difference, verdict
from search.figures.chart import Axis
from search.file import Strict
from search.results import Result

TOGETHER = "merge of all"


class Language(Strict):
    """One language: its expert, and what tells how well it is served."""

    expert: str = Field(description="model of this language")
    scores: dict[str, str] = Field(
        min_length=1, description="an objective for each score, the same names in all languages"
    )


class TwoLanguagesFile(ExperimentFile):
    """The file of this experiment."""

    experiment: Literal["two-languages"] = "two-languages"
    skill: str = Field(description="the expert in the skill: reasoning")
    languages: dict[str, Language] = Field(min_length=2)
    others: dict[str, str] = Field(
        default_factory=dict, description="models to stand beside, by name"
    )
    judge: str = Field(description="which of the scores settings are chosen by, on dev items")
    settings: list[Setting] = Field(
        min_length=1, description="parameters of experts `language` (each of them) and `skill`"
    )

    @field_validator("languages")
    @classmethod
    def _comparable(cls, given: dict[str, Language]) -> dict[str, Language]:
        first = next(iter(given.values()))
        for name, language in given.items():
            if set(language.scores) != set(first.scores):
                raise ValueError(f"languages: {name} has other scores than the first")
        return given

    @field_validator("judge")
    @classmethod
    def _scored(cls, judge: str, info: ValidationInfo) -> str:
        languages: dict[str, Language] = info.data.get("languages", {})
        for language in languages.values():
            if judge not in language.scores:
                raise ValueError(unknown("score", judge, language.scores))
        return judge

    def models(self) -> dict[Where, str]:
        named: dict[Where, str] = {**super().models(), ("skill",): self.skill}
        for name, language in self.languages.items():
            named["languages", name, "expert"] = language.expert
        return named | {("others", name): model for name, model in self.others.items()}

    def names(self) -> Iterator[tuple[Where, str]]:
        yield (), TOGETHER
        yield ("skill",), "expert: skill"
        for name in self.languages:
            yield ("languages", name), f"merge of {name}"
            yield ("languages", name), f"expert: {name}"
        yield from ((("others", name), name) for name in self.others)

    def judges(self) -> dict[Where, str]:
        return {
            ("languages", name, "scores", score): objective
            for name, language in self.languages.items()
            for score, objective in language.scores.items()
        }

    def recipes(self) -> Iterator[tuple[Where, Callable[[], dict[str, Any]]]]:
        names = [*self.languages]
        for index, given in enumerate(self.settings):
            yield ("settings", index), partial(self._recipe, given, names)

    def _recipe(self, given: Setting, names: list[str]) -> dict[str, Any]:
        return self.setting(given, names).recipe(self, self.roles(names))

    def quick(self) -> dict[str, Any]:
        return {"settings": [self.settings[0].model_dump()], "others": {}}

    def roles(self, names: list[str]) -> dict[str, str]:
        """Models by role of a merge of these languages with the skill."""
        return {**{name: self.languages[name].expert for name in names}, "skill": self.skill}

    def setting(self, given: Setting, names: list[str]) -> Setting:
        """A setting for a merge of these languages: each has what `language` has.

        Raises:
            ConfigError: it names other experts.
        """
        for role in given.experts:
            if role not in ("language", "skill"):
                raise ConfigError(f"settings: experts are language and skill, not {role!r}")
        each = given.experts.get("language", {})
        experts = {**dict.fromkeys(names, each), "skill": given.experts.get("skill", {})}
        return given.model_copy(update={"experts": experts})


class TwoLanguages(Experiment[TwoLanguagesFile]):
    """What a language loses when its merge serves another as well."""

    name: ClassVar[str] = "two-languages"
    summary: ClassVar[str] = "one merge for two languages, against a merge for each"
    question: ClassVar[str] = (
        "Experts in two languages and one in reasoning are merged into one model. Does it serve "
        "each language as well as a merge of that language's expert alone with the reasoning "
        "expert?"
    )
    paper: ClassVar[str] = (
        "A single merge for Mongolian and Uyghur is comparable with the individual models; how "
        "many languages one merge can hold is an open question (arXiv 2407.03994)."
    )
    limits: ClassVar[str] = (
        "Each merge has the setting that was best for it on dev items, out of a short list. "
        "Intervals are over items of one set of models: try other seeds."
    )
    miniature: ClassVar[str] = (
        "The two toy languages share numbers, problems and a word order, and an expert in one "
        "computes in the other once it thinks; real languages share less."
    )
    kind = TwoLanguagesFile

    def run(self, lab: Lab, file: TwoLanguagesFile) -> Outcome:
        """Score the merge of all languages and each language's own, in each language."""
        names = list(file.languages)
        merges = {f"merge of {name}": [name] for name in names} | {TOGETHER: names}
        found: dict[str, tuple[Result, str]] = {}
        for series, served in merges.items():
            found[series] = self._best(lab, file, series, served)
        for name, model in {
            **{f"expert: {name}": one.expert for name, one in file.languages.items()},
            "expert: skill": file.skill,
            **file.others,
        }.items():
            found[name] = (lab.score(name, lab.alone(model)), "")
        values: list[Value] = []
        differences: list[Difference] = []
        scores = list(next(iter(file.languages.values())).scores)
        for score in scores:
            for name, language in file.languages.items():
                o = lab.asked.objective(language.scores[score])
                for series, (result, how) in found.items():
                    values.append(Value(series, name, score, result.estimate(o), how))
                if bounded(o):
                    rival = f"merge of {name}"
                    gain = difference(o, [found[TOGETHER][0]], [found[rival][0]], len(names))
                    differences.append(Difference(TOGETHER, rival, name, score, gain))
        findings = []
        for score in [file.judge, *(score for score in scores if score != file.judge)]:
            subject = f"By {score}, the {TOGETHER} against the merge of one language"
            if own := [one for one in differences if one.score == score]:
                findings.append(verdict(f"{subject}, in that language", own, "languages"))
        for name, language in file.languages.items():
            o = lab.asked.objective(language.scores[file.judge])
            if not bounded(o):
                continue
            rest = {f"merge of {other}": other for other in names if other != name}
            own = [
                Difference(
                    TOGETHER,
                    series,
                    other,
                    file.judge,
                    difference(o, [found[TOGETHER][0]], [found[series][0]], len(rest)),
                )
                for series, other in rest.items()
            ]
            differences += own
            subject = f"By {file.judge} in {name}, the {TOGETHER} against merges without {name}"
            findings.append(verdict(subject, own, "merges"))
        references = [series for series in found if series not in merges]
        chart = chart_of(
            values,
            scores,
            Axis(names=tuple(names)),
            [TOGETHER, *(series for series in merges if series != TOGETHER), *references],
            references=references,
        )
        notes = [f"{series}: {how}." for series, (_, how) in found.items() if how]
        return Outcome(findings, values, differences, chart, notes)

    def _best(
        self, lab: Lab, file: TwoLanguagesFile, series: str, names: list[str]
    ) -> tuple[Result, str]:
        """The best setting for these languages on dev items, by the mean of their scores."""
        settings = [file.setting(given, names) for given in file.settings]
        recipes = [lab.recipe(setting, file.roles(names)) for setting in settings]
        judges = [lab.asked.objective(file.languages[n].scores[file.judge]) for n in names]
        best, most = 0, float("-inf")
        for index, recipe in enumerate(recipes if len(recipes) > 1 else []):
            result = lab.score(f"{series}, dev items: {settings[index]}", recipe, "dev")
            value = sum(o.sign * result.estimate(o).value for o in judges)
            if value > most:
                best, most = index, value
        return lab.score(series, recipes[best]), str(settings[best])
