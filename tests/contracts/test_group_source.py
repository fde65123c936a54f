"""What `ports.GroupSource` promises, of the adapter over Microsoft Graph, against a Graph of ours with the gateway's own token."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Iterator

import jwt
import pytest

pytest.importorskip("msal", reason="the azure extra is not installed")

from azure_authority import ALICE, BOB, GATEWAY, OTHER_TENANT, TENANT, AzureAuthority

from gateway.ports import GroupsUnavailable
from gateway.providers.azure.group_membership import MAX_GROUPS, GraphGroups
from gateway.providers.azure.token_keeper import Flights
from gateway.providers.azure.upstream_identity import IdentityConfig, application_credential
from gateway.upstream.client import BackendClient, tls_context

ONE, TWO = "cccccccc-0000-4ccc-8ddd-000000000001", "cccccccc-0000-4ccc-8ddd-000000000002"


@pytest.fixture
def azure() -> Iterator[AzureAuthority]:
    with AzureAuthority() as running:
        running.groups = {ALICE: [ONE, TWO], BOB: []}
        yield running


def source(azure: AzureAuthority, **options: float) -> GraphGroups:
    config = IdentityConfig(
        name="directory",
        kind="client_secret",
        client_id=GATEWAY,
        tenant=TENANT,
        scope="https://graph.microsoft.com/.default",
        authority=azure.url,
        ca_file=azure.ca_file,
        client_secret=lambda: azure.secrets[GATEWAY].encode(),
    )
    tls: ssl.SSLContext = tls_context()
    tls.load_verify_locations(azure.ca_file)
    client = BackendClient(f"{azure.url}/v1.0", tls=tls)
    return GraphGroups(client, application_credential(config, Flights(2), lambda: 0.5), directory=TENANT, **options)


async def groups(
    graph: GraphGroups, oid: str = ALICE, after_s: float = 0.0, directory: str = TENANT, application: bool = False
) -> frozenset[str]:
    return await graph.groups_of(directory, oid, application=application, now_s=time.time() + after_s)


async def test_every_group_is_told_and_none_is_an_answer_too(azure: AzureAuthority) -> None:
    graph = source(azure)
    assert await groups(graph) == {ONE, TWO}
    assert await groups(graph, BOB) == frozenset()
    claims = jwt.decode(azure.graph_tokens[0], options={"verify_signature": False})
    assert (claims["aud"], claims["oid"], claims["idtyp"]) == ("https://graph.microsoft.com", GATEWAY, "app")
    await graph.aclose()


async def test_one_question_for_fifty_and_none_within_minutes(azure: AzureAuthority) -> None:
    graph = source(azure)
    azure.delay_s = 0.05
    got = await asyncio.gather(*(groups(graph) for _ in range(50)))
    assert set(got) == {frozenset({ONE, TWO})}
    assert await groups(graph, after_s=599) == {ONE, TWO}
    assert azure.counts["groups"] == 1
    azure.groups[ALICE] = [ONE]
    assert await groups(graph, after_s=601) == {ONE}
    await graph.aclose()


async def test_two_people_never_share_an_answer(azure: AzureAuthority) -> None:
    graph = source(azure)
    got = await asyncio.gather(*(groups(graph, oid) for oid in (ALICE, BOB) * 20))
    assert got == [frozenset({ONE, TWO}), frozenset()] * 20
    await graph.aclose()


async def test_a_caller_who_leaves_does_not_take_the_others_along(azure: AzureAuthority) -> None:
    graph = source(azure)
    azure.delay_s = 0.1
    first = asyncio.create_task(groups(graph))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(groups(graph))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == {ONE, TWO} and azure.counts["groups"] == 1
    await asyncio.gather(first, return_exceptions=True)
    await graph.aclose()


@pytest.mark.parametrize("fault", ["garbage", "list", "huge", "redirect", "throttled", "unavailable", "invalid_client"])
async def test_no_answer_is_an_error_without_a_word_of_the_directory(
    azure: AzureAuthority, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    graph = source(azure)
    await groups(graph, BOB)
    azure.fault = fault
    with pytest.raises(GroupsUnavailable) as caught:
        await groups(graph)
    for told in (caught.value.why, repr(caught.value), caplog.text):
        assert "planted" not in told and ALICE not in told and azure.graph_tokens[0] not in told
    azure.fault = ""
    assert await groups(graph, after_s=6) == {ONE, TWO}
    await graph.aclose()


async def test_a_failing_directory_is_not_asked_by_everyone(azure: AzureAuthority) -> None:
    graph = source(azure)
    await groups(graph, BOB)
    azure.faults = ["unavailable"] * 50
    for _ in range(20):
        with pytest.raises(GroupsUnavailable):
            await groups(graph)
    assert len(azure.faults) == 49
    await graph.aclose()


@pytest.mark.parametrize("value", [["not-a-guid"], [7], [[ONE]], [ONE] * (MAX_GROUPS + 1), "x", None, {"a": 1}])
async def test_half_an_answer_is_none(azure: AzureAuthority, value: object) -> None:
    graph = source(azure)
    azure.groups[ALICE] = value  # type: ignore[assignment]
    with pytest.raises(GroupsUnavailable, match="directory's answer|could not be asked"):
        await groups(graph)
    await graph.aclose()


def test_a_page_with_more_to_come_is_no_answer(azure: AzureAuthority) -> None:
    body = json.dumps({"value": [ONE], "@odata.nextLink": "https://evil.example"}).encode()
    with pytest.raises(GroupsUnavailable, match="whole list"):
        source(azure)._read(body)


@pytest.mark.parametrize(
    ("directory", "oid"), [(OTHER_TENANT, ALICE), (TENANT, "../me"), (TENANT, ALICE.upper()), (TENANT, ""), (TENANT, f"{ALICE}/x")]
)
async def test_other_directories_and_malformed_ids_are_not_asked_about(azure: AzureAuthority, directory: str, oid: str) -> None:
    graph = source(azure)
    with pytest.raises(GroupsUnavailable):
        await groups(graph, oid, directory=directory)
    assert azure.counts["groups"] == 0
    await graph.aclose()


async def test_somebody_the_directory_does_not_know_is_an_error(azure: AzureAuthority) -> None:
    graph = source(azure)
    with pytest.raises(GroupsUnavailable, match="404"):
        await groups(graph, "dddddddd-bbbb-4ccc-8ddd-eeeeeeeeeeee")
    await graph.aclose()


async def test_a_rejected_token_is_replaced(azure: AzureAuthority) -> None:
    graph = source(azure)
    azure.faults = ["", "invalid_client"]  # the token is given, Graph answers 401
    with pytest.raises(GroupsUnavailable, match="401"):
        await groups(graph)
    assert await groups(graph) == {ONE, TWO}
    assert azure.graph_tokens[-1] == azure.issued[-1] and len(azure.issued) == 2
    await graph.aclose()


async def test_applications_are_asked_about_as_such(azure: AzureAuthority) -> None:
    graph = source(azure)
    assert await groups(graph, application=True) == {ONE, TWO}
    await graph.aclose()
