"""Settings: what is read, what is a problem or a warning, and that no value is shown."""

import hashlib
import hmac
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import chat
from serving import ACCOUNT, BLANK, KEY, MODEL, PROVIDER_KEY

from proxy.settings import Settings
from proxy.watchdog import Timeouts

WORKERS_AI = {
    "WORKER_ACCESS_KEY": KEY,
    "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
    "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
}
OPENAI = {
    "WORKER_ACCESS_KEY": KEY,
    "LLAMA_PROVIDER": "openai",
    "LLAMA_PROVIDER_BASE_URL": "https://api.example.org/v1",
    "LLAMA_PROVIDER_MODELS": "gpt",
}
URL = "LLAMA_PROVIDER_BASE_URL"
RUN = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/run"
GATEWAY = "https://gateway.ai.cloudflare.com/v1/acc/gw"
DIGEST = hashlib.sha256(PROVIDER_KEY.encode()).hexdigest()
BASES = {
    "workers-ai": WORKERS_AI,
    "openai": OPENAI,
    "no key": {**WORKERS_AI, "LLAMA_PROVIDER_API_KEY": ""},
    "no master": {**WORKERS_AI, "WORKER_ACCESS_KEY": ""},
    "al": {**WORKERS_AI, "WORKER_ACCESS_KEYS": f"al:{PROVIDER_KEY}"},
    "digest": {**WORKERS_AI, "WORKER_ACCESS_KEYS": f"al:sha256:{DIGEST}"},
    "another host": {**WORKERS_AI, "LLAMA_PROVIDER_BASE_URL": "https://ai.example.org/run"},
    "limited": {**WORKERS_AI, "RATE_LIMIT": "60/minute", "WEB_CONCURRENCY": "1"},
    "two workers": {**WORKERS_AI, "WEB_CONCURRENCY": "2"},
    "shared": {**WORKERS_AI, "WEB_CONCURRENCY": "2", "RATE_LIMIT_STORAGE": "redis://127.0.0.1"},
}


def sent(found: Settings, model: str | None = None) -> tuple[str, str | None]:
    """Where a request goes, and with which Authorization."""
    assert found.problems == ()
    asked = found.provider.models[model or next(iter(found.provider.models))]
    request = found.provider.request(chat(model="m"), asked[0])
    return request.url, request.headers.get("Authorization")


def owner(found: Settings, key: str) -> str | None:
    return found.keys.owner(f"Bearer {key}")


def about(variable: str, text: str) -> str:
    """The line, with the variable that the text is about."""
    return text.replace(": ", f": {variable}: ", 1)


def lines(found: Settings) -> list[str]:
    """All that is wrong, as `check` prints it."""
    problems = [f"problem: {problem}" for problem in found.problems]
    return problems + [f"warning: {warning}" for warning in found.warnings]


# --- what is read -----------------------------------------------------------------------------


def test_three_variables_are_enough() -> None:
    found = Settings(WORKERS_AI)
    assert (found.problems, found.warnings) == ((), ())
    assert found.timeouts == Timeouts(first_byte=130, idle=60, total=600)
    assert (found.port, found.is_public, found.graceful_timeout) == (8000, False, 25)
    assert (found.max_request_bytes, found.log_level) == (10 * 1024 * 1024, "info")
    assert (found.ca_bundle, found.rate_limit) == ("", None)
    assert 1 <= found.workers <= 4
    assert sent(found) == (f"{RUN}/{MODEL}", f"Bearer {PROVIDER_KEY}")
    assert Settings(OPENAI).timeouts == Timeouts(600, 60, 600)  # some models reason for minutes


def test_blank_is_not_set() -> None:
    blank, absent = Settings({**BLANK, **WORKERS_AI}), Settings(WORKERS_AI)
    assert vars(blank) == vars(absent)
    assert Settings(dict.fromkeys(BLANK, " \t")).problems == Settings({}).problems


VALUES = {
    "LLAMA_PROVIDER_TIMEOUT": "0.5",
    "LLAMA_PROVIDER_IDLE_TIMEOUT": " 7 ",
    "LLAMA_PROVIDER_TOTAL_TIMEOUT": "3600",
    "MAX_REQUEST_BYTES": "1",
    "LOG_LEVEL": "DEBUG",
    "PORT": "8001",
    "WEB_CONCURRENCY": "64",
    "GRACEFUL_TIMEOUT": "9",
}


def test_each_value_is_read() -> None:
    found = Settings({**WORKERS_AI, **VALUES})
    assert found.problems == ()
    assert found.timeouts == Timeouts(first_byte=0.5, idle=7, total=3600)
    assert (found.max_request_bytes, found.log_level) == (1, "debug")
    assert (found.port, found.is_public) == (8001, True)
    assert (found.workers, found.graceful_timeout) == (64, 9)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(trustme.CA().cert_pem.bytes(), ""), (None, "FileNotFoundError"), (b"text", "SSLError")],
    ids=["good", "missing", "no certificate"],
)
def test_a_file_of_certificates(tmp_path: Path, content: bytes | None, kind: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    found = Settings({**WORKERS_AI, "LLAMA_PROVIDER_CA_BUNDLE": str(file)})
    text = f"problem: must be a file of certificates in PEM form ({kind})"
    assert lines(found) == ([about("LLAMA_PROVIDER_CA_BUNDLE", text)] if kind else [])
    assert found.ca_bundle == ("" if kind else str(file))


# --- what is missing --------------------------------------------------------------------------

NO_KEY = (
    "problem: is not set, so every request is refused; `python -m proxy keygen NAME` makes a key"
)
NO_PROVIDER_KEY = "problem: is not set; set the provider's API key (tier 2)"
ACCOUNT_ID = "problem: must be your Account ID, as Cloudflare's dashboard shows it"
NO_URL = "problem: is not set; this provider has no default"
NO_MODEL = "problem: is not set; set at least one model"


def test_each_missing_setting_has_a_line() -> None:
    no_key = about("WORKER_ACCESS_KEY", NO_KEY)
    no_account = about("CLOUDFLARE_ACCOUNT_ID", ACCOUNT_ID)
    no_provider_key = about("LLAMA_PROVIDER_API_KEY", NO_PROVIDER_KEY)
    assert lines(Settings({})) == [no_key, no_provider_key, no_account]
    no_url, no_model = about(URL, NO_URL), about("LLAMA_PROVIDER_MODELS", NO_MODEL)
    assert lines(Settings({"LLAMA_PROVIDER": "openai"})) == [no_key, no_url, no_model]
    assert lines(Settings({**OPENAI, URL: "https://h.org/{account}/ai/v1"})) == [no_account]


# --- each kind of value -----------------------------------------------------------------------

# fmt: off
NO_NUMBERS = [
    "0", "-1", "30s", "1e9", "nan", "0x10", "1_000", "٣", "1,5", "0.0000000001", "9" * 400, "99999",
]
URLS = [
    "api.host-7.org/v1", "ftp://host-7.org/v1", "https:///v1-7", "https://:8080/v1-7",
    "https://user:pass@host-7.org/v1", "https://token@host-7.org/v1", "https://host-7.org/v1?key=1",
    "https://host-7.org/v1#part", "https://host-7.org:0/v1", "https://host-7.org:70000/v1",
    "https://[::1/v1-7", "https://host 7.org/v1", "https://höst-7.org/v1", "https://h\\@evil/v1",
    "https://h/v1/../x", "https://<resource>.example.org/v1", RUN.replace(ACCOUNT, "{account_id}"),
    RUN.replace(ACCOUNT, "$CLOUDFLARE_ACCOUNT_ID"),
]
ENDPOINTS = [
    "/v1/chat/completions", "/chat/completions/", "/v1/completions", "/openai/V1/Chat/Completions",
    "/v1/models", "/v1/messages", "/v1/responses", "/v1beta/embeddings", "/v1/chat",
]
KEY_ALONE = "problem: must be the key alone, without Bearer or another name before it"
ASCII = "problem: a key must be printable ASCII without blanks at its ends"
NAMED = "problem: must be name:key or name:sha256:hex, separated by commas"
TWICE = "problem: must not have a name twice, and 'master' is reserved"
WEAK = "warning: a key is short or looks like a placeholder; make a strong one"
QUOTED = "warning: has quotes round its value, which count as a part of it"
BOTH_TIERS = "warning: is also a tier-1 key: callers could use the provider without this proxy"
BAD_URL = "problem: must be http(s)://host/path, without user, query or placeholder"
BEFORE_MODEL = (
    "problem: must end in /ai/run, before the model; OpenAI's form needs LLAMA_PROVIDER=openai"
)
BEFORE_ENDPOINT = (
    "problem: must end before /chat/completions, as in /v1; for /ai/run use workers-ai"
)
UNENCRYPTED = "warning: http sends the key unencrypted; use https"
MODELS = "problem: must be model, alias=model or alias=model|fallback, separated by commas"
MODEL_TWICE = "problem: must not have a public name, or a fallback, twice"
WITHDRAWN = "warning: Cloudflare withdrew {} on 2026-05-30; choose another"
SECONDS = "problem: must be a number of seconds over 0, at most 86400"
INTEGER = "problem: must be an integer over 0, at most {}"
RATE = "problem: must be like 60/minute (second, minute, hour or day)"
STORAGE = "problem: must be redis(s)://:password@host:port/number, other characters percent-encoded"
ALONE = "warning: each of the 2 workers counts alone; RATE_LIMIT_STORAGE makes it one count"
NEAR = "warning: is not a setting of this proxy; did you mean {}?"
GOOD = ""

CASES = {  # the settings besides, the variable, and what is said of each of these values
    ("workers-ai", "WORKER_ACCESS_KEY", KEY_ALONE): [
        "authorization: 7Qm4xV9cT2hLw8", "API_KEY=7Qm4xV9cT2hLw8",
    ],
    ("workers-ai", "WORKER_ACCESS_KEY", ASCII): [
        " key-0123456789abcdef", "key-0123456789abcdef\n", "key-0123456789\0abcdef",
        "key-0123456789abcdef\u00a0", "key-0123456789\ud800abcdef",
    ],
    ("workers-ai", "WORKER_ACCESS_KEY", WEAK): [
        "7Qm4xV9cT2hLw8Z", "tooshort", "your-access-key-goes-here", "ChangeMeChangeMeChangeMe",
    ],
    ("workers-ai", "WORKER_ACCESS_KEY", QUOTED): ['"7Qm4xV9cT2hLw8Z"'],
    ("workers-ai", "WORKER_ACCESS_KEY", GOOD): [
        "a b  c-0123456789ab", "$HOME-${HOME}-0123456", "a=b,c:d;e\"'\\-0123456",
        "~!@#%^&*()_+-=[]{}", "bearer-of-good-news-7Q", "\"it's-7Qm4xV9cT2hLw8",
        "note: 7Qm4xV9cT2hLw8", "mykey=7Qm4xV9cT2hLw8", "7Qm4xV9cT2hLw8Z1",
    ],
    ("workers-ai", "WORKER_ACCESS_KEYS", ASCII): [
        "al:a-kéy-0123456789ab", "al: a-key-0123456789ab", "al:a-key-\n0123456789ab",
    ],
    ("workers-ai", "WORKER_ACCESS_KEYS", NAMED): [
        "just-a-key-0123456789", ":just-a-key-0123456789", "alice:", "al ice:a-key-0123456789ab",
        "älice:a-key-0123456789ab", f"{'a' * 65}:b-key-0123456789", f"al:sha256:{'f' * 65}",
        "al:sha256:" + "g" * 64, "al:sha256:",
    ],
    ("workers-ai", "WORKER_ACCESS_KEYS", TWICE): [
        "master:a-key-0123456789ab", "al:a-key-0123456789ab,al:b-key-0123456789ab",
        "al:a-key-0123456789ab,al:a-key-0123456789ab,al:a-key-0123456789ab",
    ],
    ("workers-ai", "WORKER_ACCESS_KEYS", KEY_ALONE): ["al:Bearer 7Qm4xV9cT2hLw8Z"],
    ("workers-ai", "WORKER_ACCESS_KEYS", WEAK): ["al:tooshort", "al:short,bob:shorter"],
    ("no master", "WORKER_ACCESS_KEYS", TWICE): ["master:a-key-0123456789ab"],
    ("workers-ai", "LLAMA_PROVIDER", "problem: must be one of: workers-ai, openai"): [
        "gpt4all", "workers-ai,openai",
    ],
    ("workers-ai", "LLAMA_PROVIDER", GOOD): ["Workers-AI"],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", ASCII): [
        " cf-t0ken-3456789012", "cf-t0ken-\r\n3456789012",
    ],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", KEY_ALONE): [
        f"BEARER\t{PROVIDER_KEY}", f" Bearer {PROVIDER_KEY}", f"x-api-key:{PROVIDER_KEY}",
        f"export OPENAI_API_KEY={PROVIDER_KEY}",
    ],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", WEAK): ["tooshort"],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", QUOTED): ["'7Qm4xV9cT2hLw8Z'"],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", BOTH_TIERS): [KEY],
    ("al", "LLAMA_PROVIDER_API_KEY", BOTH_TIERS): [PROVIDER_KEY],
    ("digest", "LLAMA_PROVIDER_API_KEY", BOTH_TIERS): [PROVIDER_KEY],
    ("workers-ai", "LLAMA_PROVIDER_API_KEY", GOOD): [
        "bearer_7Qm4xV9cT2hLw8", "QmKEY7Qm4xV9cT2hLw8==",
    ],
    ("no key", "CLOUDFLARE_API_TOKEN", KEY_ALONE): [f"Bearer {PROVIDER_KEY}"],
    ("openai", "CLOUDFLARE_API_TOKEN", GOOD): ["cf-t0ken-3456789012", "Bearer ü"],
    ("workers-ai", "CLOUDFLARE_ACCOUNT_ID", ACCOUNT_ID): [
        "", "a/b", "..", "acc0unt?x", "acc 0unt", "acc0ünt", "{account}", "<account>",
        "ACCOUNT_ID", "YOUR-ACCOUNT", "xxxxxxxxxxxx",
    ],
    ("workers-ai", "CLOUDFLARE_ACCOUNT_ID", GOOD): ["0123456789abcdef" * 2],
    ("another host", "CLOUDFLARE_ACCOUNT_ID", GOOD): ["a/b"],
    ("workers-ai", URL, BAD_URL): URLS,
    ("workers-ai", URL, BEFORE_MODEL): [
        f"{RUN}/{MODEL}", f"{GATEWAY}/workers-ai/{MODEL}", f"{RUN}/llama",
        RUN.replace("/run", "/v1"), RUN.replace("/run", ""), RUN.replace("/ai/run", ""),
        f"{GATEWAY}/compat/chat/completions", f"{GATEWAY}/compat",
        f"https://dash.cloudflare.com/{ACCOUNT}/ai/workers-ai",
    ],
    ("workers-ai", URL, GOOD): [
        f"{GATEWAY}/workers-ai", f"{RUN}/", "https://ai.example.org/v1", "https://h.org/x{account}",
    ],
    ("openai", URL, BAD_URL): URLS[-5:],
    ("openai", URL, BEFORE_ENDPOINT): [
        *(f"https://api.example.org{path}" for path in ENDPOINTS),
        "http://127.0.0.1:11434", "http://ollama:11434/api/chat", RUN, f"{RUN}/{MODEL}",
    ],
    ("openai", URL, UNENCRYPTED): [
        "http://api.example.org/run", "HTTP://api.example.org/run", "http://192.168.1.7:8080/run",
        "http://localhost.example.org/run", "http://127.0.0.1.example.org/run",
    ],
    ("openai", URL, GOOD): [
        "http://127.0.0.1:9/v1", "http://localhost/v1", "http://[::1]:9/v1", "http://127.9.9.9/v1",
        "https://r.services.ai.azure.com/models", "https://chat.example.org/chat/v1",
        "https://h.org/completions/v1", "https://h.co/models/org/m/v1", f"{GATEWAY}/compat",
        RUN.replace("/run", "/v1"), "https://api.deepseek.com",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://w.cloud.databricks.com/serving-endpoints",
    ],
    ("workers-ai", "LLAMA_PROVIDER_MODELS", MODELS): [
        ",=", "small=", "m 7", "klein é=m-7", "../m-7", "@cf/../../m-7", "@cf/./m-7",
        "@cf//m-7", "/m-7", "m-7/", "@cf/%2e%2e/m-7", "m-7?x", "m-7#x", "alias=../m-7",
        "https://evil-7.org/m", "chat=a||b", "chat=|a", "chat=a|", "=a|b", "=a", "x|y=a",
        "chat=a|../b", "a|b",
    ],
    ("workers-ai", "LLAMA_PROVIDER_MODELS", MODEL_TWICE): [
        "m-7,m-7", "small=m-7,small=m-8", "chat=a|b|a",
    ],
    ("workers-ai", "LLAMA_PROVIDER_MODELS", NO_MODEL): [",", " , "],
    ("workers-ai", "LLAMA_PROVIDER_MODELS", WITHDRAWN.format("llama-3-8b-instruct")): [
        "@cf/meta/llama-3-8b-instruct", f"{MODEL},chat=@cf/meta/llama-3-8b-instruct",
    ],
    ("another host", "LLAMA_PROVIDER_MODELS", WITHDRAWN.format("gemma-7b-it")): [
        f"a={MODEL}|@hf/google/gemma-7b-it,b=@hf/google/gemma-7b-it",
    ],
    ("workers-ai", "LLAMA_PROVIDER_MODELS", GOOD): [
        f"@cf/meta/llama-3-8b-instruct={MODEL}", "@cf/meta/llama-3.1-8b-instruct-fp8",
        "@cf/google/gemma-7b-it-lora", "@cf/mistral/mistral-7b-instruct-v0.2-lora",
    ],
    ("openai", "LLAMA_PROVIDER_MODELS", MODELS): ["<your model>", "<model>", "{model}", "gpt 5"],
    ("openai", "LLAMA_PROVIDER_MODELS", GOOD): [
        "org/model:7b?latest", "ft:gpt-5-mini:org::7Qm4", "@cf/meta/llama-3-8b-instruct",
    ],
    ("workers-ai", "LLAMA_PROVIDER_TIMEOUT", SECONDS): NO_NUMBERS,
    ("workers-ai", "LLAMA_PROVIDER_IDLE_TIMEOUT", SECONDS): ["0"],
    ("workers-ai", "LLAMA_PROVIDER_TOTAL_TIMEOUT", SECONDS): ["0"],
    ("workers-ai", "MAX_REQUEST_BYTES", INTEGER.format(1024**3)): ["1.5", "1073741825"],
    ("workers-ai", "PORT", INTEGER.format(65535)): ["http", "70000", "1e3", "0"],
    ("workers-ai", "WEB_CONCURRENCY", INTEGER.format(64)): ["all", "1000"],
    ("workers-ai", "GRACEFUL_TIMEOUT", INTEGER.format(86400)): ["2.5"],
    ("workers-ai", "LOG_LEVEL", "problem: must be one of: debug, info, warning, error, critical"): [
        "loud", "info,debug",
    ],
    ("workers-ai", "RATE_LIMIT", RATE): ["60/fortnight", "many/minute", "0/hour", "60 per minute"],
    ("limited", "RATE_LIMIT", GOOD): ["1/second", "999999999/day"],
    ("two workers", "RATE_LIMIT", ALONE): ["1/second"],
    ("two workers", "RATE_LIMIT", GOOD): [""],
    ("shared", "RATE_LIMIT", GOOD): ["1/second"],
    ("limited", "RATE_LIMIT_STORAGE", STORAGE): [
        "redis://:p/w@127.0.0.1:6379/0", "redis://:p#w@127.0.0.1:6379/0", "redis://host:abc/0",
        "redis://host:0/0", "redis://[::1", "redis://", "redis://host/0?socket_timeout=x",
        "redis://host/zero", "redis+cluster://host", "memory://x", "redis://:p w@host",
        "REDIS://host",
    ],
    ("limited", "RATE_LIMIT_STORAGE", GOOD): [
        "redis://127.0.0.1", "redis://127.0.0.1:6379/0", "redis://user:pw@[::1]:6379", "memory://",
        "rediss://:p%2Fw@redis.example.org:6380/1", "rediss://:pw@h:1/0?ssl_cert_reqs=none",
    ],
    ("workers-ai", "LLAMA_PROVIDER_KEY", NEAR.format("LLAMA_PROVIDER_API_KEY")): ["x"],
    ("workers-ai", "llama_provider_models", NEAR.format("LLAMA_PROVIDER_MODELS")): ["x"],
    ("workers-ai", "WORKER_ACESS_KEY", NEAR.format("WORKER_ACCESS_KEY")): ["x"],
    ("workers-ai", "GRACEFULL_TIMEOUT", NEAR.format("GRACEFUL_TIMEOUT")): ["x"],
    **{("workers-ai", name, GOOD): ["x"] for name in (
        "PATH", "HOME", "EXPORT", "REPORT", "CLOUDFLARE_EMAIL", "PYTHONUNBUFFERED",
    )},
}
# fmt: on


@pytest.mark.parametrize(("base", "variable", "text"), CASES)
def test_what_is_said_of_a_value(base: str, variable: str, text: str) -> None:
    values = CASES[base, variable, text]
    said = {value: lines(Settings({**BASES[base], variable: value})) for value in values}
    assert said == dict.fromkeys(values, [about(variable, text)] if text else [])


def test_quotes_round_a_value_are_a_warning_beside_the_problem() -> None:
    expected = [about("PORT", INTEGER.format(65535)), about("PORT", QUOTED)]
    assert lines(Settings({**WORKERS_AI, "PORT": '"30"'})) == expected


def test_a_bad_key_or_rate_is_not_used() -> None:
    for key in ("Bearer 7Qm4xV9cT2hLw8Z", " key-0123456789abcdef"):
        assert not Settings({**WORKERS_AI, "WORKER_ACCESS_KEY": key}).keys
    found = Settings({**WORKERS_AI, "WORKER_ACCESS_KEYS": f"master:{PROVIDER_KEY}"})
    assert (owner(found, KEY), owner(found, PROVIDER_KEY)) == ("master", None)
    assert Settings({**WORKERS_AI, "RATE_LIMIT": "60/fortnight"}).rate_limit is None


# --- both tiers -------------------------------------------------------------------------------


def test_named_keys_without_a_master_key() -> None:
    digest = hashlib.sha256(b"carols own key, 123").hexdigest()
    keys = f"alice:alice-key-12345678:=x , bob:b0b-key-123456789,carol:sha256:{digest.upper()},"
    found = Settings({**BASES["no master"], "WORKER_ACCESS_KEYS": keys})
    assert found.problems == ()
    assert owner(found, "alice-key-12345678:=x") == "alice"  # a name ends at the first colon
    assert owner(found, "b0b-key-123456789") == "bob"
    assert owner(found, "carols own key, 123") == "carol"
    wrong = ["", "alice", digest, digest.upper(), f"sha256:{digest}", PROVIDER_KEY, KEY]
    assert [key for key in wrong if owner(found, key)] == []


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it takes must not show which key was right, or whether one was."""
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    found = Settings(BASES["al"])
    assert [owner(found, key) for key in (KEY, PROVIDER_KEY, "wrong")] == ["master", "al", None]
    assert len(compared) == 6


TOKEN, OPENAIS = "cf-t0ken-3456789012", "https://api.example.org/v1/chat/completions"
BOTH = {"CLOUDFLARE_API_TOKEN": TOKEN, "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY}
ODD_URL = {URL: " https://h.example.org:8443/x/{account}/y// \n"}
SENT = [  # the provider, more settings, and the URL and the key of a request
    ("workers-ai", BOTH, f"{RUN}/{MODEL}", PROVIDER_KEY),
    ("no key", {"CLOUDFLARE_API_TOKEN": TOKEN}, f"{RUN}/{MODEL}", TOKEN),
    ("openai", {"CLOUDFLARE_API_TOKEN": TOKEN}, OPENAIS, None),
    ("openai", BOTH, OPENAIS, PROVIDER_KEY),
    ("workers-ai", ODD_URL, f"https://h.example.org:8443/x/{ACCOUNT}/y/{MODEL}", PROVIDER_KEY),
]


@pytest.mark.parametrize(("base", "more", "url", "key"), SENT)
def test_where_a_request_goes(base: str, more: dict[str, str], url: str, key: str | None) -> None:
    assert sent(Settings({**BASES[base], **more})) == (url, key and f"Bearer {key}")


def test_the_first_model_is_the_default_and_an_alias_hides_its_model() -> None:
    models = f" small = @cf/a|@cf/b |{MODEL} , @cf/b,big=@cf/a,"
    found = Settings({**WORKERS_AI, "LLAMA_PROVIDER_MODELS": models})
    assert found.problems == ()
    assert found.provider.models == {
        "small": ("@cf/a", "@cf/b", MODEL),  # in the order they are asked
        "@cf/b": ("@cf/b",),
        "big": ("@cf/a",),
    }
    assert sent(found)[0].endswith("/ai/run/@cf/a")
    assert sent(found, "@cf/b")[0].endswith("/ai/run/@cf/b")


# --- secrets, and any input -------------------------------------------------------------------


@pytest.mark.parametrize("base", ["workers-ai", "openai"])
def test_no_repr_shows_a_secret(base: str) -> None:
    secrets = {
        "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY,
        "WORKER_ACCESS_KEYS": "alice:alice-key-123456789",
        "RATE_LIMIT": "1/day",
        "RATE_LIMIT_STORAGE": "redis://:s3cr3t@127.0.0.1:6379/0",
    }
    found = Settings({**BASES[base], **secrets})
    assert found.rate_limit and found.rate_limit.storage == secrets["RATE_LIMIT_STORAGE"]
    shown = f"{found!r} {found} {found.provider!r} {found.keys!r} {vars(found)}"
    for secret in (KEY, PROVIDER_KEY, "alice-key-123456789", "s3cr3t"):
        assert secret not in shown


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=":,=@/.{}[]?#\\%-_|\"' \n\tahtpsx109é\ud800", max_size=30),
    st.from_regex(r"(https?|redis)://[\[\]a-z0-9.:@{}/?#-]{0,20}", fullmatch=True),
    st.from_regex(r"([a-z]{0,3}:(sha256:)?[0-9a-f]{0,3},){0,3}", fullmatch=True),
    st.sampled_from([*WORKERS_AI.values(), "openai", "workers-ai", MODEL, "1", "debug", "1/day"]),
)


@given(st.dictionaries(st.sampled_from(sorted(BLANK)), TEXTS))
@settings(max_examples=40, derandomize=True, deadline=None, database=None)
def test_any_mapping_can_be_read_and_no_line_shows_a_value(env: dict[str, str]) -> None:
    found = Settings(env)
    assert {line.variable for line in found.problems + found.warnings} <= BLANK.keys()
    text = "".join(lines(found))
    assert text.isprintable()
    assert [value for value in env.values() if len(value) > 11 and value in text] == []
