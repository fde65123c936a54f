"""Which strings are keys and tokens by their very form? Formats published by those who issue them.

Written by us from the issuers' documentation. Each rule names the literal part that must occur (`trigger`), so that ordinary text costs
nothing. Passwords, which have no form, are in `credentials`.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from gateway.providers.local.recognizers.base import MAX_LONG, PROVEN, SECRET_RANK, Check, Found, Reading, Recognizer, Rule, found


def entropy(value: bytes) -> float:
    """Return Shannon's entropy in bits a character."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values()) if size else 0.0


_SEQUENCE = re.compile(rb"(?i)x{6}|\*{3}|0{32}|(?:abc){3}|0?123456[7d]|7654321|abcdef[0-9g]|6543210|fedcba|EXAMPLE[0-9]?$")


def random_enough(bits: float) -> Check:
    """Refuse fillers and repetitions: documentation is full of `sk-xxxxxxxx`."""

    def check(reading: Reading, start: int, end: int) -> bool:
        value = reading.data[start : min(end, start + 96)]
        return entropy(value) >= bits and not _SEQUENCE.search(value)

    return check


_HEX = "[0-9a-f]"
_ALNUM = "[0-9A-Za-z]"
_URLSAFE = "[0-9A-Za-z_-]"
# name, span, trigger, least entropy
_FORMATS: tuple[tuple[str, str, str, float], ...] = (
    ("aws_access_key", "(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[0-9A-Z]{16}|A3T[0-9A-Z]{17}", "A(?:KIA|SIA|BIA|CCA|ROA|IDA|3T)[0-9A-Z]{4}", 2.5),
    ("aws_bedrock", "ABSK[0-9A-Za-z+/]{100,140}={0,2}|bedrock-api-key-[0-9A-Za-z_-]{16,400}", "ABSK|bedrock-api-key-", 3.0),
    ("gcp_key", f"AIza{_URLSAFE}{{35}}", "AIza", 3.0),
    ("gcp_oauth", f"GOCSPX-{_URLSAFE}{{28}}|ya29\\.{_URLSAFE}{{20,400}}", "GOCSPX-|ya29\\.", 3.0),
    (
        "github",
        f"gh[pousr]_{_ALNUM}{{36,255}}|github_pat_[0-9A-Za-z_]{{60,100}}|gh[su]_[0-9]{{6,12}}_eyJ[0-9A-Za-z_.-]{{20,500}}",
        "gh[pousr]_|github_pat_",
        2.0,
    ),
    (
        "gitlab",
        (
            f"(?:glpat|gldt|glft|glsoat|glrt|glcbt|glptt|glagent|gloas|glimt|glwt|glffct)-{_URLSAFE}{{20,"
            f"64}}(?:\\.[0-9a-z]{{2}}\\.[0-9a-z]{{9}})?|GR1348941{_URLSAFE}{{20,64}}"
        ),
        "gl(?:pat|dt|ft|soat|rt|cbt|ptt|agent|oas|imt|wt|ffct)-|GR1348941",
        3.0,
    ),
    ("gitlab_session", f"_gitlab_session={_HEX}{{32}}", "_gitlab_session=", 3.0),
    (
        "slack_token",
        (
            "xox[abeoprs]-(?:[0-9]{1,13}-)?[0-9A-Za-z-]{10,200}|xapp-[0-9]-[0-9A-Z]+-[0-9]+-[0-9a-z]+|"
            "xoxe\\.xox[bp]-[0-9]-[0-9A-Za-z]{100,200}"
        ),
        "xox[abeoprs][.-]|xapp-",
        2.5,
    ),
    ("slack_webhook", "hooks\\.slack\\.com/(?:services|workflows|triggers)/[0-9A-Za-z/+]{20,80}", "hooks\\.slack\\.com", 2.5),
    (
        "stripe",
        f"(?:sk|rk|pk)_(?:test|live|prod)_{_ALNUM}{{10,247}}|whsec_[0-9A-Za-z+/=]{{24,80}}",
        "[srp]k_(?:test|live|prod)_|whsec_",
        2.5,
    ),
    ("openai", f"sk-(?:proj-|svcacct-|admin-|None-|service-)?{_URLSAFE}{{20,220}}", "sk-", 3.3),
    ("anthropic", f"sk-ant-(?:api|admin|sid)[0-9]{{2}}-{_URLSAFE}{{60,130}}", "sk-ant-", 3.0),
    ("groq", f"gsk_{_ALNUM}{{48,60}}", "gsk_", 3.0),
    ("xai", f"xai-{_ALNUM}{{70,90}}", "xai-", 3.0),
    ("perplexity", f"pplx-{_ALNUM}{{40,60}}", "pplx-", 3.0),
    ("tavily", f"tvly-(?:dev-|prod-)?{_ALNUM}{{30,40}}", "tvly-", 3.0),
    ("hugging_face", f"(?:hf|api_org)_{_ALNUM}{{34}}", "(?:hf|api_org)_", 3.3),
    ("replicate", f"r8_{_ALNUM}{{37}}", "r8_", 3.0),
    ("azure_aad_secret", "[0-9A-Za-z_~.]{3}[0-9]Q~[0-9A-Za-z_~.-]{31,34}", "Q~", 3.0),
    (
        "azure_storage_key",
        "\\b[0-9A-Za-z+/]{76}(?:\\+AS?t|JQQJ99)[0-9A-Za-z+/]{0,30}==|\\b[0-9A-Za-z]{52}JQQJ9[0-9]{1}[0-9A-Za-z]{24,30}=?=?",
        "\\+AS?t|JQQJ9",
        3.0,
    ),
    ("age", "AGE-SECRET-KEY-1[0-9A-Z]{58}", "AGE-SECRET-KEY-1", 3.0),
    ("akamai", "akab-[0-9a-z]{16}-[0-9a-z]{16}", "akab-", 3.0),
    ("alibaba", f"LTAI{_ALNUM}{{12,24}}", "LTAI", 3.0),
    ("atlassian", "ATATT3[0-9A-Za-z_=-]{50,250}|ATCTT3[0-9A-Za-z_=-]{50,250}", "AT[AC]TT3", 3.0),
    ("bitbucket", "BBDC-[0-9A-Za-z+/@_-]{40,60}|ATBB[0-9A-Za-z_=.-]{24,60}", "BBDC-|ATBB", 3.0),
    ("brevo", f"xkeysib-{_HEX}{{64}}-{_ALNUM}{{16}}", "xkeysib-", 3.0),
    ("clojars", "CLOJARS_[0-9a-f]{60}", "CLOJARS_", 3.0),
    ("cloudflare", f"cf(?:at|ut|k)_{_ALNUM}{{40,60}}|v1\\.0-{_HEX}{{24}}-{_HEX}{{146}}", "cf(?:at|ut|k)_|v1\\.0-", 3.0),
    ("databricks", f"dapi{_HEX}{{32}}(?:-[0-9])?|dapi[a-h0-9]{{33}}", "dapi", 3.0),
    ("defined_networking", "dnkey-[0-9A-Za-z=_-]{26}-[0-9A-Za-z=_-]{52}", "dnkey-", 3.0),
    ("digital_ocean", f"do[opr]_v1_{_HEX}{{64}}", "do[opr]_v1_", 3.0),
    ("discord", f"\\b[MNO]{_ALNUM}{{23,27}}\\.{_URLSAFE}{{6}}\\.{_URLSAFE}{{27,40}}", f"[MNO]{_ALNUM}{{23}}", 3.5),
    ("docker", f"dckr_(?:pat|oat)_{_URLSAFE}{{24,40}}|SWM(?:TKN|KEY)-1-[0-9A-Za-z-]{{40,90}}", "dckr_|SWM(?:TKN|KEY)-1-", 3.0),
    (
        "doppler",
        f"dp\\.(?:pt|ct|st|sa|scim|audit)\\.(?:[0-9a-z_-]{{2,35}}\\.)?{_ALNUM}{{40,44}}",
        "dp\\.(?:pt|ct|st|sa|scim|audit)\\.",
        3.0,
    ),
    ("dropbox", f"sl\\.(?:u\\.)?{_URLSAFE}{{130,400}}|\\b{_ALNUM}{{11}}AAAAAAAAAA[0-9A-Za-z_=-]{{43}}", "sl\\.|AAAAAAAAAA", 3.0),
    ("dynatrace", "dt0[a-z][0-9]{2}\\.[0-9A-Z]{24}\\.[0-9A-Z]{64}", "dt0[a-z]", 3.0),
    ("facebook", f"EAA[MC]{_ALNUM}{{80,400}}|[0-9]{{15,16}}\\|[0-9A-Za-z_-]{{27,40}}", "EAA[MC]|[0-9]{15}\\|", 3.0),
    ("figma", f"figd_{_URLSAFE}{{38,50}}", "figd_", 3.0),
    (
        "grafana",
        f"glsa_{_ALNUM}{{32}}_[0-9A-Fa-f]{{8}}|glc_[0-9A-Za-z+/]{{32,400}}={{0,2}}|eyJrIjoi[0-9A-Za-z+/]{{70,400}}={{0,2}}",
        "glsa_|glc_|eyJrIjoi",
        2.5,
    ),
    (
        "hashicorp",
        f"hv[sbr]\\.[0-9A-Za-z_.-]{{24,300}}|\\b{_ALNUM}{{14}}\\.atlasv1\\.[0-9A-Za-z_=-]{{60,70}}|\\b[sb]\\.{_ALNUM}{{24}}",
        "hv[sbr]\\.|atlasv1|\\b[sb]\\.[0-9A-Za-z]{24}",
        3.3,
    ),
    ("heroku", f"HRKU-{_URLSAFE}{{36,80}}", "HRKU-", 3.0),
    ("infracost", f"ico-{_ALNUM}{{32}}", "ico-", 3.0),
    ("linear", f"lin_(?:api|oauth)_{_ALNUM}{{40,64}}", "lin_(?:api|oauth)_", 3.0),
    ("mailchimp", f"\\b{_HEX}{{32}}-us[0-9]{{1,2}}", "-us[0-9]", 3.0),
    ("mailgun", f"(?:key|pubkey)-{_HEX}{{32}}", "key-[0-9a-f]{4}", 3.0),
    ("netlify", f"nf[pcoub]_{_ALNUM}{{36,40}}", "nf[pcoub]_", 3.0),
    ("new_relic", "NRAK-[0-9A-Z]{27}|NRJS-[0-9a-f]{19}|NRII-[0-9A-Za-z-]{32}", "NR(?:AK|JS|II)-", 3.0),
    ("notion", f"ntn_[0-9]{{9,11}}{_ALNUM}{{32,36}}|secret_{_ALNUM}{{43}}", "ntn_|secret_", 3.0),
    ("npm", f"npm_{_ALNUM}{{36}}", "npm_", 3.0),
    ("nuget", "\\boy2[0-9a-z]{43}", "oy2", 3.0),
    ("onepassword", "ops_eyJ[0-9A-Za-z+/_-]{200,490}={0,3}|A3-[0-9A-Z]{6}-[0-9A-Z]{11}(?:-[0-9A-Z]{5}){3}", "ops_eyJ|A3-", 3.0),
    ("paypal", "access_token\\$(?:production|sandbox)\\$[0-9a-z]{16}\\$[0-9a-f]{32}", "access_token\\$", 2.5),
    ("planetscale", "pscale_(?:tkn|pw|oauth)_[0-9A-Za-z_.=-]{32,64}", "pscale_", 3.0),
    ("postman", f"PMAK-{_HEX}{{24}}-{_HEX}{{34}}|PMAT-[0-9A-Z]{{26}}", "PMA[KT]-", 3.0),
    ("pypi", "pypi-Ag[0-9A-Za-z_-]{50,480}", "pypi-Ag", 3.0),
    ("rubygems", f"rubygems_{_HEX}{{48}}", "rubygems_", 3.0),
    ("sendgrid", "SG\\.[0-9A-Za-z_-]{16,32}\\.[0-9A-Za-z_-]{16,64}", "SG\\.", 2.5),
    ("sentry", "sntry[su]_[0-9A-Za-z+/=_]{60,300}", "sntry[su]_", 3.0),
    ("shopify", "shp(?:at|ca|pa|ss|tka)_[0-9A-Fa-f]{32}", "shp(?:at|ca|pa|ss|tka)_", 3.0),
    ("sonar", f"sq[uap]_{_HEX}{{40}}", "sq[uap]_", 3.0),
    ("sourcegraph", f"sgp_(?:(?:local|[0-9A-Fa-f]{{16}})_)?[0-9A-Fa-f]{{40}}|slk_{_HEX}{{64}}", "sgp_|slk_", 3.0),
    ("square", f"sq0(?:atp|csp|idp)-{_URLSAFE}{{22,43}}|EAAA{_URLSAFE}{{60}}", "sq0|EAAA", 3.0),
    ("supabase", f"sbp_(?:v0_)?{_HEX}{{40}}|sb_secret_{_URLSAFE}{{31}}", "sbp_|sb_secret_", 3.0),
    ("telegram", f"\\b[0-9]{{8,10}}:A{_URLSAFE}{{34}}", "[0-9]{8}:A", 3.0),
    ("twilio", f"(?:SK|AC){_HEX}{{32}}", "(?:SK|AC)[0-9a-f]{8}", 3.0),
    ("twitter", "\\bAAAAAAAAAAAAAAAAAAAAA[0-9A-Za-z%=+/]{60,160}", "AAAAAAAAAAAAAAAAAAAAA", 2.5),
    ("wechat", f"wx{_HEX}{{16}}", "wx[0-9a-f]{16}", 2.8),
    ("ntlm", "TlRMTVNTUAA[0-9A-Za-z+/]{30,490}={0,2}", "TlRMTVNTUAA", 2.0),
    ("jwk", "W?w?og?I?C?A?g?eyJrdHki[0-9A-Za-z+/_=-]{30,480}", "eyJrdHki", 3.0),
    ("microsoft_teams", "[0-9a-z]{3,40}\\.webhook\\.office\\.com/webhookb2/[0-9a-z@/-]{60,300}", "webhook\\.office\\.com", 3.0),
    ("aws_mws", "amzn\\.mws\\.[0-9a-f-]{36}", "amzn\\.mws\\.", 3.0),
    ("jfrog", "AKCp[0-9A-Za-z]{66,80}|cmVmdGtu[0-9A-Za-z]{56}", "AKCp|cmVmdGtu", 3.0),
    ("okta", "\\b00[0-9A-Za-z_-]{40}", "\\b00[0-9A-Za-z_-]{40}\\b", 4.2),
)


class PrivateKey:
    """A private key block from its BEGIN to its END, or up to `MAX_LONG` characters when no END comes."""

    name = "private_key"
    trigger = "-----BEGIN"
    phrase = ""
    _BEGIN = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
    _END = re.compile(rb"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
    _OPENING = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,70}-{0,5}\Z")

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        out: list[Found] = []
        for begin in self._BEGIN.finditer(data, start):
            end = self._END.search(data, begin.end(), begin.start() + MAX_LONG)
            stop = end.end() if end is not None else min(len(data), begin.start() + MAX_LONG)
            out.append(found(begin.start(), stop, "SECRET", self.name, 1.0, PROVEN))
        return out

    def open_from(self, data: bytes, start: int) -> int:
        """Return where a block that has no END yet begins, or -1."""
        at = data.find(b"-----BEGIN", max(start, len(data) - MAX_LONG))
        while at >= 0:
            begin = self._BEGIN.match(data, at)
            if begin is None:
                if self._OPENING.match(data, at) is not None:
                    return at
            elif self._END.search(data, begin.end(), at + MAX_LONG) is None:
                return at
            at = data.find(b"-----BEGIN", at + 1)
        return -1


_TOKEN_CHARS = re.compile(rb"[0-9A-Za-z_.=-]*")


class SignedToken:
    """A JWT or JWE in compact form. One may be thousands of characters long; each run of token characters is measured once."""

    name = "jwt"
    trigger = "eyJ"
    phrase = ""

    def find(self, reading: Reading, start: int) -> list[Found]:
        data = reading.data
        out: list[Found] = []
        run_end = -1
        at = data.find(b"eyJ", start)
        while at >= 0:
            if at == 0 or not (data[at - 1 : at].isalnum() or data[at - 1] == 95):
                if at >= run_end:
                    run = _TOKEN_CHARS.match(data, at)
                    run_end = run.end() if run is not None else at
                end = min(run_end, at + MAX_LONG)
                dot = data.find(b".", at, end)
                if dot - at >= 12 and end - dot > 8:
                    out.append(found(at, end - (data[end - 1] == 46), "SECRET", self.name, 0.98, PROVEN))
            at = data.find(b"eyJ", at + 1)
        return out

    def open_from(self, data: bytes, start: int) -> int:
        """Return where a token begins that reaches the end of the text, or -1."""
        at = data.find(b"eyJ", max(start, len(data) - MAX_LONG))
        while at >= 0:
            run = _TOKEN_CHARS.match(data, at)
            if run is None or run.end() == len(data):
                return at
            at = data.find(b"eyJ", run.end())
        return -1


def recognizers() -> list[Recognizer]:
    rules: list[Recognizer] = [PrivateKey(), SignedToken()]
    for name, span, trigger, bits in _FORMATS:
        rules.append(Rule(name, "SECRET", span, token=True, trigger=trigger, score=0.97, rank=SECRET_RANK, check=random_enough(bits)))
    return rules
