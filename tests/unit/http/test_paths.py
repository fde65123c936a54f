from __future__ import annotations

import pytest

from gateway.evidence import Dialect, Operation
from gateway.http.paths import Match, match
from gateway.refusals import METHOD_NOT_ALLOWED, NOT_FOUND, Refusal

POSTS = {
    "chat/completions": Operation.CHAT,
    "completions": Operation.COMPLETIONS,
    "embeddings": Operation.EMBEDDINGS,
    "moderations": Operation.MODERATIONS,
}


@pytest.mark.parametrize(("rest", "operation"), POSTS.items())
@pytest.mark.parametrize(("prefix", "dialect"), [("/v1", Dialect.OPENAI), ("/openai/v1", Dialect.OPENAI), ("/openai", Dialect.AZURE)])
def test_each_operation_stands_under_each_prefix(prefix: str, dialect: Dialect, rest: str, operation: Operation) -> None:
    assert match("POST", f"{prefix}/{rest}") == Match(operation, dialect)
    with pytest.raises(Refusal) as no:
        match("GET", f"{prefix}/{rest}")
    assert no.value.kind is METHOD_NOT_ALLOWED
    assert no.value.headers == (("allow", "POST"),)


@pytest.mark.parametrize(("rest", "operation"), POSTS.items())
def test_a_deployment_path_names_its_model(rest: str, operation: Operation) -> None:
    assert match("POST", f"/openai/deployments/gpt-4.1_x/{rest}") == Match(operation, Dialect.AZURE, "gpt-4.1_x")


def test_models_are_listed_and_named() -> None:
    assert match("GET", "/v1/models") == Match(Operation.MODELS_LIST, Dialect.OPENAI)
    assert match("GET", "/openai/models") == Match(Operation.MODELS_LIST, Dialect.AZURE)
    assert match("GET", "/v1/models/assistant") == Match(Operation.MODELS_GET, Dialect.OPENAI, "assistant")
    assert match("GET", "/openai/v1/models/assistant") == Match(Operation.MODELS_GET, Dialect.OPENAI, "assistant")
    assert match("GET", "/openai/models/assistant") == Match(Operation.MODELS_GET, Dialect.AZURE, "assistant")
    # AzureOpenAI(azure_deployment=...) puts the deployment before every path.
    assert match("GET", "/openai/deployments/d/models") == Match(Operation.MODELS_LIST, Dialect.AZURE)
    assert match("GET", "/openai/deployments/d/models/m") == Match(Operation.MODELS_GET, Dialect.AZURE, "m")


def test_plain_routes_name_their_model() -> None:
    assert match("POST", "/v2/models/iris/infer") == Match(Operation.INFER, Dialect.PLAIN, "iris")
    assert match("POST", "/models/score/score") == Match(Operation.SCORE, Dialect.PLAIN, "score")


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "/V1/chat/completions", "/v1/Chat/completions", "/v1/models/",
        "/v1/models/a/b", "/v1/models/..", "/v1/models/.", "/v1/models/-a", "/v1/models/a b", "/v1/models/a%20b", "/v1/models/a~b",
        "/v1/models/a\n", "/v1/models/" + "a" * 129, "/openai/deployments", "/openai/deployments/", "/openai/deployments//models",
        "/openai/deployments/d", "/openai/deployments/d/", "/openai/deployments/d/chat", "/openai/deployments/d/x/chat/completions",
        "/openai/deployments/../chat/completions", "/openai/v1/deployments/d/chat/completions", "/v1/deployments/d/chat/completions",
        "/v1/responses", "/v1/images/generations", "/v1/audio/speech", "/v1/feedback", "/v1/files", "/openai/assistants",
        "/v2/models/a", "/v2/models/a/b/infer", "/v2/models/a/infer/", "/models/score", "/models/a/b/score", "/models//score",
        "/healthz", "/metrics", "/admin", "/v1/chat/completions\n", "//v1/models", "/v1//models", "/v1/chat/completions/../models",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_else_is_not_there(method: str, path: str) -> None:
    with pytest.raises(Refusal) as no:
        match(method, path)
    assert no.value.kind is NOT_FOUND
