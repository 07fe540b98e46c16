"""A sandbox on another machine, over HTTP.

Request, by POST as JSON:
`{"version": 1, "programs": [{"code": text, "stdin": text}], "limits": {"seconds": processor
seconds, "memory": bytes, "output": bytes}}`. Two programs are joined: each reads what the other
prints, and the run ends with the second. Answer: `{"outcomes": [{"status": "ok" | "error" | "time"
| "output", "stdout": text, "stderr": text}]}`, one for each program. Any other answer than HTTP 200
means that nothing is known of the program. `python -m objectives.sandbox.serve` is such a service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

from objectives.sandbox.base import Limits, Outcome, Program, Sandbox, SandboxError, Status
from objectives.web import Endpoint, WebError

_SETTINGS = ("url", "key_env", "tries", "backoff")
_START = 90.0  # seconds that the service may take beside the programs' own time


@dataclass(frozen=True)
class Remote(Sandbox):
    """A service that runs programs; what it protects is its own affair."""

    url: str
    key_env: str | None = None
    tries: int = 3
    backoff: float = 1.0

    kind: ClassVar[str] = "http"

    @classmethod
    def of(cls, settings: Any) -> Self:
        """From `URL`, or `{url: URL, key_env: NAME}`.

        Raises:
            SandboxError: no URL, or an unknown setting.
        """
        if isinstance(settings, str):
            settings = {"url": settings}
        if not isinstance(settings, Mapping) or not isinstance(settings.get("url"), str):
            raise SandboxError("sandbox http: needs a URL; write {http: https://host/run}")
        unknown = next((key for key in settings if key not in _SETTINGS), None)
        if unknown is not None:
            raise SandboxError(
                f"sandbox http: unknown setting {unknown!r}; it has {', '.join(_SETTINGS)}"
            )
        made = cls(**settings)
        made._endpoint(1.0)
        return made

    def run(self, program: Program, limits: Limits) -> Outcome:
        return self._outcomes([program], limits)[0]

    def run_joined(
        self, first: Program, second: Program, limits: Limits
    ) -> tuple[Outcome, Outcome]:
        outcomes = self._outcomes([first, second], limits)
        return outcomes[0], outcomes[1]

    def check(self) -> None:
        outcome = self.run(Program("print(6 * 7)"), Limits())
        if outcome.status != "ok" or outcome.stdout.strip() != "42":
            raise SandboxError(f"sandbox http: {self.url} does not run Python; look at its log")

    def _endpoint(self, timeout: float) -> Endpoint:
        try:
            return Endpoint(self.url, self.key_env, timeout, self.tries, self.backoff)
        except WebError as error:
            raise SandboxError(f"sandbox http: {error}") from None

    def _outcomes(self, programs: list[Program], limits: Limits) -> list[Outcome]:
        body = {
            "version": 1,
            "programs": [{"code": p.code, "stdin": p.stdin} for p in programs],
            "limits": {
                "seconds": limits.seconds,
                "memory": limits.memory,
                "output": limits.output,
            },
        }
        try:
            answer = self._endpoint(limits.wall + _START).post(body)
        except WebError as error:
            raise SandboxError(f"sandbox http: {error}") from None
        try:
            outcomes = [
                Outcome(o["status"], o["stdout"][: limits.output], o["stderr"])
                for o in answer["outcomes"]
            ]
            right = len(outcomes) == len(programs)
            right = right and all(o.status in get_args(Status) for o in outcomes)
        except (KeyError, TypeError):
            right = False
        if not right:
            raise SandboxError(f"sandbox http: {self.url} answers in another form; see its docs")
        return outcomes
