"""Loading: every fault at once and on its line, nothing outside the directory, nothing ignored."""

from __future__ import annotations

import os

import pytest
from policy_sets import CONTENT, INVARIANTS, LIMITS, SEE, STARTER, TESTS, files, small, write

from gateway.policy.cedar_text import split
from gateway.policy.facts import RouteFacts, Zones
from gateway.policy.faults import PolicyFaults, line_of
from gateway.policy.files import MAX_FILE_BYTES, digest, fingerprint, is_known, read_files
from gateway.policy.load import build, inspect_problems, load_policies

NEWLINE = b"\n"
CHAT = '@id("chat") @says("x") @owner("x") permit (principal, action == Gateway::Action::"chat", resource);'


def faults_of(access: str, **changes: bytes) -> list[str]:
    with pytest.raises(PolicyFaults) as refused:
        small(access, **changes)
    return [str(fault) for fault in refused.value.faults]


def read_faults(directory) -> str:
    with pytest.raises(PolicyFaults) as refused:
        read_files(directory)
    return str(refused.value)


def test_every_fault_is_reported_at_once_with_file_and_line():
    access = (
        '// a comment; with a semicolon\n@says("x; y")\npermit (principal, action, resource);\n\n'
        '@id("f")\n@tier("q")\nforbid (principal, action, resource)\nwhen { context.huor > 3 };\n'
    )
    found = faults_of(
        access,
        limits_toml=LIMITS.replace(b"concurrent = 1\n", b"concurrent = 0\n"),
        content_toml=CONTENT.replace(b'secrets = "redact"', b'secrets = "hide"', 1),
    )
    text = "\n".join(found)
    assert "access/a.cedar:3: the policy has no @id" in text  # the `see` policy is line 1, the comment line 2
    assert "access/a.cedar:3: the policy has no @owner" in text
    assert "access/a.cedar:6: @tier is for a permit" in text
    assert "access/a.cedar:6: attribute `huor`" in text
    assert "limits.toml:13: `concurrent` must be from 1" in text
    assert "content.toml:7: `secrets` is `hide`" in text


TENANT = b'[tenants."%b"]\nsays = "x"\nrequests_per_minute = 5\ntokens_per_minute = 7\nconcurrent = 3\n'


def test_limits_of_whole_tenants_are_read():
    limits = small(CHAT, limits_toml=LIMITS + TENANT % b"acme" + (TENANT % b"*").replace(b"= 7", b"= 9")).limits
    acme, other = limits.of_tenant("acme"), limits.of_tenant("else")
    assert acme is not None and (acme.requests_per_minute, acme.burst, acme.tokens_per_minute, acme.daily_tokens) == (5, 5, 7, None)
    assert other is not None and other.tokens_per_minute == 9
    assert small(CHAT).limits.of_tenant("acme") is None


def test_limits_of_a_tenant_that_settings_do_not_have_are_a_fault():
    laid = files(CHAT, limits_toml=LIMITS + TENANT % b"amce" + TENANT % b"*")
    with pytest.raises(PolicyFaults) as refused:
        build(laid, routes=None, zones=Zones(), tenants={"acme"})
    assert [str(fault) for fault in refused.value.faults] == [
        f"limits.toml:{LIMITS.count(NEWLINE) + 1}: settings have no tenant `amce`: this limit would hold for nobody"
    ]
    silent = LIMITS + (TENANT % b"a").replace(b'says = "x"\n', b"")
    assert any("`says` is missing" in fault for fault in faults_of(CHAT, limits_toml=silent))


def test_a_semicolon_in_a_string_or_comment_ends_nothing():
    text = '@says("a; \\" b;") permit (x) // ; no\n;\n\n// c;\n@id("2") forbid ("//;");'
    assert [line for line, _ in split(text)] == [1, 5]
    assert list(split('permit "unfinished;')) == [(1, 'permit "unfinished;')]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("access/extra.cedar.bak", "no file of this name"),
        ("access/deep/a.cedar", "no file of this name"),
        ("acess/a.cedar", "no file of this name"),
        ("tests/bad/x/tests/bad/y/expect.toml", "no file of this name"),
    ],
)
def test_a_file_that_would_be_ignored_is_a_fault(tmp_path, name, message):
    write(tmp_path, files(SEE))
    write(tmp_path, {name: b"x"})
    assert message in read_faults(tmp_path)


def test_hidden_files_are_left_out(tmp_path):
    write(tmp_path, files(SEE))
    before = digest(read_files(tmp_path))
    write(tmp_path, {".a.cedar.swp": b"\xff", ".git/config": b"x"})
    assert digest(read_files(tmp_path)) == before


@pytest.mark.parametrize("target", ["/etc/passwd", "a.cedar", "../roles.toml"])
def test_symbolic_links_are_refused(tmp_path, target):
    write(tmp_path, files(SEE))
    (tmp_path / "access" / "link.cedar").symlink_to(target)
    assert "access/link.cedar: this is a symbolic link" in read_faults(tmp_path)


def test_a_linked_directory_is_refused(tmp_path):
    write(tmp_path / "set", files(SEE))
    write(tmp_path / "elsewhere", {"b.cedar": SEE.encode()})
    (tmp_path / "set" / "schemas").symlink_to(tmp_path / "elsewhere")
    assert "schemas: this is a symbolic link" in read_faults(tmp_path / "set")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    write(tmp_path, files(SEE))
    os.mkfifo(tmp_path / "access" / "pipe.cedar")
    assert "not a plain file" in read_faults(tmp_path)


def test_a_huge_file_is_refused(tmp_path):
    write(tmp_path, files(SEE))
    (tmp_path / "access" / "huge.cedar").write_bytes(b"/" * (MAX_FILE_BYTES + 1))
    assert "access/huge.cedar: the file is over" in read_faults(tmp_path)


def test_too_many_files_are_refused(tmp_path):
    write(tmp_path, {f"access/{number}.cedar": b"" for number in range(600)})
    assert "over 512 files" in read_faults(tmp_path)


def test_a_projected_volume_is_read_through_its_link(tmp_path):
    # What a kubelet makes of a ConfigMap: ..data -> a dated directory, and every name a link through it.
    write(tmp_path / "..2027_01_20", files(SEE))
    (tmp_path / "..data").symlink_to("..2027_01_20")
    for name in ("access", "roles.toml"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert digest(read_files(tmp_path)) == digest(files(SEE))
    mark = fingerprint(tmp_path)
    write(tmp_path / "..2027_01_21", files(SEE + CHAT))
    (tmp_path / "..new").symlink_to("..2027_01_21")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert fingerprint(tmp_path) != mark
    assert digest(read_files(tmp_path)) == digest(files(SEE + CHAT))


def test_the_digest_names_paths_and_contents():
    base = files(SEE)
    assert digest(base) == digest(dict(reversed(base.items())))
    assert digest(base) != digest({**base, "access/a.cedar": base["access/a.cedar"] + b" "})
    moved = {("access/b.cedar" if name == "access/a.cedar" else name): content for name, content in base.items()}
    assert digest(base) != digest(moved)
    assert digest({"a": b"bc"}) != digest({"ab": b"c"})


def test_a_missing_directory_is_a_fault(tmp_path):
    assert "cannot be read" in read_faults(tmp_path / "none")
    assert fingerprint(tmp_path / "none") == ""


@pytest.mark.parametrize("gone", ["gateway.cedarschema", "roles.toml", "content.toml", "limits.toml"])
def test_a_missing_file_is_a_fault(gone):
    left = {name: content for name, content in files(SEE).items() if name != gone}
    with pytest.raises(PolicyFaults, match=f"{gone}: the file is missing"):
        build(left, routes=None, zones=Zones())


def test_a_set_without_tests_is_refused():
    assert "tests: the set has no tests: say in tests/*.toml what it must permit and deny" in faults_of("", tests__t_toml=b"")


def test_models_may_come_from_settings_or_from_tests():
    names_other = '@id("p") @says("x") @owner("x") permit (principal, action == Gateway::Action::"chat", resource == Gateway::Model::"z");'
    assert "declare a model `z`" in "".join(faults_of(names_other))
    assert small(names_other, routes={"z": RouteFacts(name="z")}).routes.keys() == {"z"}


@pytest.mark.parametrize("text", [b"\xff", b"x = ", b"a = [" * 5000])
@pytest.mark.parametrize("name", ["roles_toml", "limits_toml", "content_toml", "tests__t_toml"])
def test_broken_toml_is_one_fault(name, text):
    assert faults_of("", **{name: text})


@pytest.mark.parametrize("text", [b"\xff", b"{", b"[" * 100_000, b"true", b'{"type": 5}'])
def test_a_broken_json_schema_is_a_fault(text):
    assert any("schemas/s.json: not a JSON Schema" in fault for fault in faults_of("", schemas__s_json=text))


def test_a_vocabulary_without_a_circumstance_is_refused():
    schema = (STARTER / "gateway.cedarschema").read_text().replace('    "region": String,\n    // Auth', "    // Auth")
    assert schema != (STARTER / "gateway.cedarschema").read_text()
    broken = {**files(SEE), "gateway.cedarschema": schema.encode()}
    with pytest.raises(PolicyFaults, match="the schema does not fit the gateway's requests"):
        build(broken, routes=None, zones=Zones())


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "object", "properties": {"a": True}, "additionalProperties": False}, "#/properties/a: a schema must be an object"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, "#/properties/a: `type` is missing"),
        ({"type": "array", "items": {"type": "integer"}}, "#: an array must say `maxItems`"),
        ({"type": "array", "maxItems": 2}, "#/items: a schema must be an object"),
        ({"anyOf": [{"type": "string", "maxLength": 5}]}, "#/anyOf/0: a string must say `x-inspect`"),
        ({"type": ["string", "null"], "maxLength": 5}, "#: a string must say `x-inspect`"),
        ({"type": "string", "maxLength": 5, "x-inspect": {"role": "nobody", "use": "content"}}, "`x-inspect.role` must be one of"),
        ({"type": "string", "x-inspect": {"role": "user", "use": "content"}}, "a string must say `maxLength`"),
        ({"$ref": "https://example.com/s.json"}, "`$ref` is not supported here"),
    ],
)
def test_a_schema_that_lets_text_through_is_refused(schema, problem):
    assert any(problem in found for found in inspect_problems(schema))


def test_a_closed_schema_has_no_problem():
    assert inspect_problems({"enum": ["a"]}) == []
    assert inspect_problems({"type": "array", "maxItems": 3, "items": {"type": ["number", "null"]}}) == []


def test_invariants_are_held_against_the_real_models(tmp_path):
    anyone = '@id("p") @says("x") @owner("x") permit (principal, action, resource == Gateway::Model::"real");'
    write(tmp_path, files(SEE + anyone))
    kept = tmp_path.parent / "kept.toml"
    kept.write_text('[[test]]\nname = "nobody sees"\nwho = {}\ndoes = "model:see"\non = "*"\nexpect = "unseen"\n')
    with pytest.raises(PolicyFaults, match=r"kept.toml:1: `nobody sees`: model:see on `real`: expected unseen, got permit"):
        load_policies(tmp_path, invariants=kept, routes={"real": RouteFacts(name="real")})
    with pytest.raises(PolicyFaults, match="cannot be read"):
        load_policies(tmp_path, invariants=tmp_path / "none.toml", routes=None)


def test_the_starter_invariants_refuse_a_set_that_lets_auditors_use_models(tmp_path):
    content = read_files(STARTER)
    content["access/more.cedar"] = (
        b'@id("more") @says("x") @owner("x") permit (principal in Gateway::Role::"auditor", action in Gateway::Action::"use", '
        b'resource is Gateway::Model);\n'
    )
    content["roles.toml"] = content["roles.toml"].replace(b'clearance = "public"', b'clearance = "internal"')
    content["tests/access.toml"] = TESTS[TESTS.index(b"[[test]]") :].replace(b'"m"', b'"assistant"')
    write(tmp_path, content)
    assert load_policies(tmp_path, invariants=None, routes=None)
    with pytest.raises(PolicyFaults, match="whoever reads the audit log uses no model"):
        load_policies(tmp_path, invariants=INVARIANTS, routes=None)


def test_lines_of_keys():
    text = '# c\n[a.b]\nx = 1\n"q r".z = 2\n[[t]]\nn = 1\n[[t]]\nn = 2\nw = { k = 3 }\n'
    assert line_of(text, ("a", "b", "x")) == 3
    assert line_of(text, ("a", "b", "q r", "z")) == 4
    assert line_of(text, ("t", 0, "n")) == 6
    assert line_of(text, ("t", 1, "n")) == 8
    assert line_of(text, ("t", 1, "w", "k")) == 9
    assert line_of(text, ("a", "b", "missing")) == 2
    assert line_of(text, ("none",)) == 0


def test_which_files_mean_something():
    assert is_known("README.md")
    assert is_known("tests/bad/x/access/y.cedar")
    assert not is_known("tests/bad/x/y/access/z.cedar")
    assert not is_known("access/.cedar/x")
