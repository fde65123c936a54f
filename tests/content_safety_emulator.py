"""Azure AI Content Safety of our own on loopback, over TLS, for the real SDK. It judges by words, so that tests know what it will say.

A text's severity in a category is the digit behind the category's word: `hate6` is 6, `violence3` is 3 on eight levels and 2 on four.
`attack!` is an attack, `lyrics` are protected, `listed` is on every blocklist, `invented` is grounded in nothing.
"""

from __future__ import annotations

import re
from typing import Any

from tls_emulator import Reply, Request, TlsEmulator

WORDS = {"Hate": "hate", "SelfHarm": "harm", "Sexual": "sexual", "Violence": "violence"}
# What the local model finds harmful too, so that one suite can be run on both.
PLAIN = {"Violence": re.compile(r"(?i)\bkill you\b"), "Hate": re.compile(r"(?i)\bvermin\b")}


def severity(text: str, category: str) -> int:
    found = max((int(n) for n in re.findall(rf"\b{WORDS[category]}([0-7])", text)), default=0)
    return max(found, 6 if category in PLAIN and PLAIN[category].search(text) else 0)


class ContentSafetyEmulator(TlsEmulator):
    def __init__(self) -> None:
        super().__init__()
        self.keys = {"planted-key"}
        self.tokens: set[str] = set()
        self.lists = {"codewords", "other"}
        self.retry_after = ""
        self.delay_s = 0.0

    def calls(self, name: str = "") -> list[Request]:
        return [r for r in self.seen if r.path.endswith(name)]

    def reply(self, request: Request) -> Reply | None:
        fault = self.take_fault()
        if self.delay_s:
            self.hold(self.delay_s)
        if fault:
            return self._troubled(fault)
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.headers.get("ocp-apim-subscription-key") not in self.keys and bearer not in self.tokens:
            return refusal(401, "401")
        body = request.json()
        done = {
            "/contentsafety/text:analyze": ("2023-10-01", self._analyze),
            "/contentsafety/text:shieldPrompt": ("2024-09-01", self._shield),
            "/contentsafety/text:detectProtectedMaterial": ("2024-09-01", self._protected),
            "/contentsafety/text:detectGroundedness": ("2024-09-15-preview", self._grounded),
        }.get(request.path)
        if done is None or request.query.get("api-version") != done[0]:
            return refusal(404, "ResourceNotFound")
        return done[1](body)

    def _analyze(self, body: dict[str, Any]) -> Reply:
        text = body["text"]
        if not 0 < len(text) <= 10_000 or set(body.get("blocklistNames", [])) - self.lists:
            return refusal(400, "InvalidRequestBody")
        categories = body.get("categories", list(WORDS))
        eight = body.get("outputType") == "EightSeverityLevels"
        found = [{"category": c, "severity": s if eight else s - s % 2} for c in categories for s in [severity(text, c)]]
        matches = [
            {"blocklistName": name, "blocklistItemId": "1", "blocklistItemText": "listed"}
            for name in body.get("blocklistNames", [])
            if "listed" in text
        ]
        return Reply(200, {"blocklistsMatch": matches, "categoriesAnalysis": found})

    def _shield(self, body: dict[str, Any]) -> Reply:
        documents = body.get("documents", [])
        if len(body.get("userPrompt", "")) > 10_000 or len(documents) > 5 or sum(map(len, documents)) > 10_000:
            return refusal(400, "InvalidRequestBody")
        analyses = [{"attackDetected": "attack!" in text} for text in documents]
        prompt = {"attackDetected": "attack!" in body.get("userPrompt", "")}
        return Reply(200, {"userPromptAnalysis": prompt, "documentsAnalysis": analyses})

    def _protected(self, body: dict[str, Any]) -> Reply:
        if not 110 <= len(body["text"]) <= 1_000:
            return refusal(400, "InvalidRequestBody")
        return Reply(200, {"protectedMaterialAnalysis": {"detected": "lyrics" in body["text"]}})

    def _grounded(self, body: dict[str, Any]) -> Reply:
        if len(body["text"]) > 7_500 or sum(map(len, body["groundingSources"])) > 55_000 or not body["groundingSources"]:
            return refusal(400, "InvalidRequestBody")
        found = "invented" in body["text"]
        return Reply(200, {"ungroundedDetected": found, "ungroundedPercentage": float(found), "ungroundedDetails": []})

    def _troubled(self, fault: str) -> Reply | None:
        if fault == "hang":
            self.hold(30)
            return None
        if fault == "closed":
            return None
        whole = {"blocklistsMatch": [], "categoriesAnalysis": []}
        wrong = [{"category": "Weather", "severity": 6}]
        judged = {"categoriesAnalysis": [{"category": c, "severity": 0} for c in WORDS]}
        return {
            "throttled": Reply(429, error("TooManyRequests"), [("Retry-After", "3")]),
            "busy": Reply(429, error("TooManyRequests")),
            "unavailable": Reply(503, error("ServerBusy")),
            "patient": Reply(503, error("ServerBusy"), [("Retry-After", "1")]),
            "internal": Reply(500, error("InternalError")),
            "refused": Reply(401, error("401"), [("Retry-After", "0")]),
            "garbage": Reply(200, b"<html>planted-garbage</html>"),
            "binary": Reply(200, b"\xff\xfe\x00planted"),
            "list": Reply(200, [1, 2]),
            "empty": Reply(200, {}),
            "nothing": Reply(200, whole),
            "wrong": Reply(200, whole | {"categoriesAnalysis": wrong}),
            "null": Reply(200, whole | {"categoriesAnalysis": [{"category": c, "severity": None} for c in WORDS]}),
            "nine": Reply(200, whole | {"categoriesAnalysis": [{"category": c, "severity": 9} for c in WORDS]}),
            "number for matches": Reply(200, judged | {"blocklistsMatch": 5}),
            "word for matches": Reply(200, judged | {"blocklistsMatch": "none"}),
            "object for matches": Reply(200, judged | {"blocklistsMatch": {}}),
            "truth": Reply(200, {"userPromptAnalysis": {"attackDetected": "no"}, "documentsAnalysis": []}),
            "redirect": Reply(307, {}, [("Location", "https://evil.example/contentsafety/text:analyze")]),
        }[fault]


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "quotes the text", "details": []}}


def refusal(status: int, code: str) -> Reply:
    return Reply(status, error(code))
