"""Settings: what is read, what is refused, and that no value is shown."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ACCOUNT, BLANK, KEY, MODEL, PROVIDER_KEY

from proxy.chat_request import ChatRequest
from proxy.settings import Settings, Timeouts

quick = settings(max_examples=300, derandomize=True, deadline=None, database=None)

NEEDED = {
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


def sent(config: Settings, model: str | None = None) -> tuple[str, str | None]:
    """Where a request goes, and with which Authorization."""
    assert config.provider is not None, config.problems
    chat = ChatRequest(
        id="chatcmpl-1",
        created=1,
        model=model or next(iter(config.provider.models)),
        messages=[{"role": "user", "content": "Hi"}],
        stream=False,
        include_usage=False,
        options={},
    )
    request = config.provider.request(chat)
    return request.url, request.headers.get("Authorization")


def owner(config: Settings, key: str) -> str | None:
    return config.keys.owner(f"Bearer {key}")


def variables(config: Settings) -> list[str]:
    return [problem.variable for problem in config.problems]


# --- defaults ---------------------------------------------------------------------------------


def test_the_three_that_are_needed_are_enough() -> None:
    config = Settings(NEEDED)
    assert (config.problems, config.warnings) == ((), ())
    assert config.timeouts == Timeouts(first_byte=130, idle=60, total=600)
    assert config.max_request_bytes == 10 * 1024 * 1024
    assert config.log_level == "info"
    url = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/run/{MODEL}"
    assert sent(config) == (url, f"Bearer {PROVIDER_KEY}")


def test_a_reasoning_model_has_ten_minutes_to_its_first_byte() -> None:
    assert Settings(OPENAI).timeouts == Timeouts(first_byte=600, idle=60, total=600)
    set_to = Settings({**OPENAI, "LLAMA_PROVIDER_TIMEOUT": "130"})
    assert set_to.timeouts.first_byte == 130


def test_blank_is_not_set() -> None:
    blank, absent = Settings({**BLANK, **NEEDED}), Settings(NEEDED)
    assert repr(vars(blank)) == repr(vars(absent))
    assert Settings(dict.fromkeys(BLANK, " \t")).problems == Settings({}).problems


def test_what_is_missing_is_named_a_line_each() -> None:
    missing = ["WORKER_ACCESS_KEY", "LLAMA_PROVIDER_API_KEY", "CLOUDFLARE_ACCOUNT_ID"]
    assert sorted(variables(Settings({}))) == sorted(missing)
    openai = Settings({"WORKER_ACCESS_KEY": KEY, "LLAMA_PROVIDER": "openai"})
    assert sorted(variables(openai)) == ["LLAMA_PROVIDER_BASE_URL", "LLAMA_PROVIDER_MODELS"]


# --- values -----------------------------------------------------------------------------------

GOOD = [
    ("LLAMA_PROVIDER_TIMEOUT", "0.5", lambda config: config.timeouts.first_byte == 0.5),
    ("LLAMA_PROVIDER_IDLE_TIMEOUT", " 7 ", lambda config: config.timeouts.idle == 7),
    ("LLAMA_PROVIDER_TOTAL_TIMEOUT", "3600", lambda config: config.timeouts.total == 3600),
    ("MAX_REQUEST_BYTES", "1", lambda config: config.max_request_bytes == 1),
    ("LOG_LEVEL", "DEBUG", lambda config: config.log_level == "debug"),
    ("LLAMA_PROVIDER", "Workers-AI", lambda config: config.provider is not None),
]


@pytest.mark.parametrize(("name", "value", "is_read"), GOOD, ids=[name for name, *_ in GOOD])
def test_a_value_is_read(name: str, value: str, is_read: Callable[[Settings], bool]) -> None:
    config = Settings({**NEEDED, name: value})
    assert config.problems == ()
    assert is_read(config)


def test_a_file_of_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    config = Settings({**NEEDED, "LLAMA_PROVIDER_CA_BUNDLE": str(file)})
    assert (config.ca_bundle, config.problems) == (str(file), ())


@pytest.mark.parametrize("holds", [None, "", "no certificate"], ids=["missing", "empty", "text"])
def test_a_file_of_no_certificates(tmp_path: Path, holds: str | None) -> None:
    file = tmp_path / "ca.pem"
    if holds is not None:
        file.write_text(holds)
    config = Settings({**NEEDED, "LLAMA_PROVIDER_CA_BUNDLE": str(file)})
    assert [problem.variable for problem in config.problems] == ["LLAMA_PROVIDER_CA_BUNDLE"]
    assert str(file) not in str(config.problems[0])
    assert config.ca_bundle == ""


NUMBERS = [
    "LLAMA_PROVIDER_TIMEOUT",
    "LLAMA_PROVIDER_IDLE_TIMEOUT",
    "LLAMA_PROVIDER_TOTAL_TIMEOUT",
    "MAX_REQUEST_BYTES",
]
NO_NUMBERS = [
    "0",
    "-1",
    "+1",
    "abc",
    "30s",
    "1e9",
    "1e3",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "٣",
    "1,5",
]
NO_NUMBERS += ["0.0000000001", "9" * 400, "1 000", "99999999999"]
BAD = [(name, value) for name in NUMBERS for value in NO_NUMBERS]
BAD += [
    ("MAX_REQUEST_BYTES", "1.5"),
    ("LOG_LEVEL", "loud"),
    ("LOG_LEVEL", "info,debug"),
    ("LLAMA_PROVIDER", "gpt4all"),
    ("LLAMA_PROVIDER", "workers-ai,openai"),
    ("RATE_LIMIT", "60/fortnight"),
    ("RATE_LIMIT", "many/minute"),
    ("RATE_LIMIT", "0/hour"),
    ("RATE_LIMIT", "60 per minute"),
    ("PORT", "http"),
    ("PORT", "70000"),
    ("WEB_CONCURRENCY", "all"),
    ("WEB_CONCURRENCY", "1000"),
    ("GRACEFUL_TIMEOUT", "2.5"),
    ("LLAMA_PROVIDER_API_KEY", "cf-t0ken-é-456789012"),
    ("LLAMA_PROVIDER_API_KEY", " cf-t0ken-3456789012"),
    ("LLAMA_PROVIDER_API_KEY", "cf-t0ken-3456789012\n"),
    ("LLAMA_PROVIDER_API_KEY", "cf-t0ken-\r\n3456789012"),
    ("LLAMA_PROVIDER_API_KEY", "“cf-t0ken-3456789012”"),
    ("LLAMA_PROVIDER_API_KEY", "cf-t0ken-\ud8003456789012"),
    ("CLOUDFLARE_ACCOUNT_ID", "a/b"),
    ("CLOUDFLARE_ACCOUNT_ID", ".."),
    ("CLOUDFLARE_ACCOUNT_ID", "acc0unt?x"),
    ("CLOUDFLARE_ACCOUNT_ID", "acc 0unt"),
    ("CLOUDFLARE_ACCOUNT_ID", "acc0ünt"),
    ("CLOUDFLARE_ACCOUNT_ID", "{account}"),
    ("LLAMA_PROVIDER_BASE_URL", "api.host-7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "ftp://host-7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "file:///etc/passwd-7"),
    ("LLAMA_PROVIDER_BASE_URL", "https://"),
    ("LLAMA_PROVIDER_BASE_URL", "https:///v1-7"),
    ("LLAMA_PROVIDER_BASE_URL", "https://user:pass@host-7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://token@host-7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org/v1?key=1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org/v1#part"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org:0/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org:70000/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org:port/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://[::1/v1-7"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host 7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://höst-7.org/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org\\@evil/v1"),
    ("LLAMA_PROVIDER_BASE_URL", "https://host-7.org/v1/../x"),
    ("LLAMA_PROVIDER_MODELS", ","),
    ("LLAMA_PROVIDER_MODELS", "m-7,m-7"),
    ("LLAMA_PROVIDER_MODELS", "small=m-7,small=m-8"),
    ("LLAMA_PROVIDER_MODELS", "small="),
    ("LLAMA_PROVIDER_MODELS", "m 7"),
    ("LLAMA_PROVIDER_MODELS", "klein é=m-7"),
    ("LLAMA_PROVIDER_MODELS", "../m-7"),
    ("LLAMA_PROVIDER_MODELS", "@cf/../../m-7"),
    ("LLAMA_PROVIDER_MODELS", "@cf/./m-7"),
    ("LLAMA_PROVIDER_MODELS", "@cf//m-7"),
    ("LLAMA_PROVIDER_MODELS", "/m-7"),
    ("LLAMA_PROVIDER_MODELS", "m-7/"),
    ("LLAMA_PROVIDER_MODELS", "@cf/%2e%2e/m-7"),
    ("LLAMA_PROVIDER_MODELS", "m-7?x"),
    ("LLAMA_PROVIDER_MODELS", "m-7#x"),
    ("LLAMA_PROVIDER_MODELS", "alias=../m-7"),
    ("LLAMA_PROVIDER_MODELS", "https://evil-7.org/m"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{n}={v[:30]!a}" for n, v in BAD])
def test_a_value_that_makes_no_sense_is_one_line_without_the_value(name: str, value: str) -> None:
    config = Settings({**NEEDED, name: value})
    (problem,) = config.problems
    assert problem.variable == name
    line = str(problem)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    if len(value) > 3:  # "0" stands in many a sentence
        assert value not in line


def test_an_openai_provider_takes_models_that_workers_ai_would_refuse() -> None:
    config = Settings({**OPENAI, "LLAMA_PROVIDER_MODELS": "org/model:7b?latest"})
    assert config.problems == ()


# --- tier 1 -----------------------------------------------------------------------------------


def test_keys_by_name_beside_the_master_key() -> None:
    digest = hashlib.sha256(b"carols own key, 123").hexdigest()
    keys = f"alice:alice-key-12345678:=x , bob:b0b-key-123456789,carol:sha256:{digest.upper()},"
    config = Settings({**NEEDED, "WORKER_ACCESS_KEYS": keys})
    assert config.problems == ()
    assert owner(config, KEY) == "master"
    assert owner(config, "alice-key-12345678:=x") == "alice"  # the name ends at the first colon
    assert owner(config, "b0b-key-123456789") == "bob"
    assert owner(config, "carols own key, 123") == "carol"
    for wrong in ("", "alice", digest, digest.upper(), f"sha256:{digest}", PROVIDER_KEY, KEY[:-1]):
        assert owner(config, wrong) is None


def test_named_keys_alone_are_enough() -> None:
    env = {**NEEDED, "WORKER_ACCESS_KEY": "", "WORKER_ACCESS_KEYS": "ci:a-long-key-of-the-ci"}
    config = Settings(env)
    assert config.problems == ()
    assert owner(config, "a-long-key-of-the-ci") == "ci"
    assert owner(config, "") is None


def test_a_key_is_rotated_by_listing_the_new_one_beside_the_old() -> None:
    old, new = "old-key-1234567890", "new-key-1234567890"
    keys = {"WORKER_ACCESS_KEYS": f"alice-1:{old},alice-2:{new}"}
    both = Settings({**NEEDED, **keys})
    assert [owner(both, key) for key in (old, new)] == ["alice-1", "alice-2"]
    dropped = Settings({**NEEDED, "WORKER_ACCESS_KEYS": f"alice-2:{new}"})
    assert [owner(dropped, key) for key in (old, new)] == [None, "alice-2"]


BAD_KEYS = {
    "no name": "just-a-key-0123456789",
    "empty name": ":just-a-key-0123456789",
    "empty key": "alice:",
    "name with a blank": "al ice:a-key-0123456789ab",
    "non-ASCII name": "älice:a-key-0123456789ab",
    "reserved name": "master:a-key-0123456789ab",
    "doubled name": "al:a-key-0123456789ab,al:b-key-0123456789ab",
    "doubled name, same key": "al:a-key-0123456789ab,al:a-key-0123456789ab",
    "short digest": "al:sha256:abcdef0123456789",
    "no hexadecimal": "al:sha256:" + "g" * 64,
    "empty digest": "al:sha256:",
    "non-ASCII key": "al:a-kéy-0123456789ab",
    "blank before the key": "al: a-key-0123456789ab",
    "line break in the key": "al:a-key-\n0123456789ab",
}


@pytest.mark.parametrize("keys", BAD_KEYS.values(), ids=BAD_KEYS)
def test_named_keys_that_make_no_sense_are_one_line_without_the_value(keys: str) -> None:
    config = Settings({**NEEDED, "WORKER_ACCESS_KEYS": keys})
    (problem,) = config.problems
    assert problem.variable == "WORKER_ACCESS_KEYS"
    assert not any(key in str(problem) for key in keys.replace(",", ":").split(":") if len(key) > 8)
    assert owner(config, KEY) == "master"


BAD_MASTER_KEYS = {
    "non-ASCII": "kéy-0123456789abcdef",
    "blank before": " key-0123456789abcdef",
    "blank after": "key-0123456789abcdef ",
    "line break after": "key-0123456789abcdef\n",
    "NUL": "key-0123456789\0abcdef",
    "no-break space": "key-0123456789abcdef\u00a0",
    "zero-width space": "key-0123456789abcdef\u200b",
    "lone surrogate": "key-0123456789\ud800abcdef",
    "curly quotes": "“key-0123456789abcdef”",
}


@pytest.mark.parametrize("key", BAD_MASTER_KEYS.values(), ids=BAD_MASTER_KEYS)
def test_a_key_that_http_cannot_carry_is_one_line_without_the_value(key: str) -> None:
    config = Settings({**NEEDED, "WORKER_ACCESS_KEY": key})
    (problem,) = config.problems
    assert problem.variable == "WORKER_ACCESS_KEY"
    assert key.strip() not in str(problem)
    assert not config.keys


@pytest.mark.parametrize(
    "key",
    [
        "a b  c-0123456789ab",
        "$HOME-${HOME}-0123456",
        "a=b,c:d;e\"'\\-0123456",
        "~!@#%^&*()_+-=[]{}",
    ],
)
def test_a_key_is_taken_letter_for_letter(key: str) -> None:
    config = Settings({**NEEDED, "WORKER_ACCESS_KEY": key})
    assert config.problems == ()
    assert owner(config, key) == "master"


# --- what is doubtful, and serves -------------------------------------------------------------

DIGEST_OF_TIER_2 = hashlib.sha256(PROVIDER_KEY.encode()).hexdigest()
DOUBTFUL = {
    "short key": ({"WORKER_ACCESS_KEY": "tooshort"}, "WORKER_ACCESS_KEY"),
    "short named key": ({"WORKER_ACCESS_KEYS": "al:tooshort"}, "WORKER_ACCESS_KEYS"),
    "short provider key": ({"LLAMA_PROVIDER_API_KEY": "tooshort"}, "LLAMA_PROVIDER_API_KEY"),
    "placeholder": ({"WORKER_ACCESS_KEY": "your-access-key-goes-here"}, "WORKER_ACCESS_KEY"),
    "Bearer in a key": ({"WORKER_ACCESS_KEY": "Bearer 7Qm4xV9cT2hLw8Z"}, "WORKER_ACCESS_KEY"),
    "a header as a named key": (
        {"WORKER_ACCESS_KEYS": "al:authorization: 7Qm4xV9cT2hLw8"},
        "WORKER_ACCESS_KEYS",
    ),
    "quotes round a key": ({"WORKER_ACCESS_KEY": '"7Qm4xV9cT2hLw8Z"'}, "WORKER_ACCESS_KEY"),
    "quotes round a provider's key": (
        {"LLAMA_PROVIDER_API_KEY": "'7Qm4xV9cT2hLw8Z'"},
        "LLAMA_PROVIDER_API_KEY",
    ),
    "a placeholder for the account": (
        {"CLOUDFLARE_ACCOUNT_ID": "your-account-id"},
        "CLOUDFLARE_ACCOUNT_ID",
    ),
    "change me": ({"WORKER_ACCESS_KEY": "ChangeMeChangeMeChangeMe"}, "WORKER_ACCESS_KEY"),
    "same key on both tiers": ({"LLAMA_PROVIDER_API_KEY": KEY}, "LLAMA_PROVIDER_API_KEY"),
    "a named key is the same on both tiers": (
        {"WORKER_ACCESS_KEYS": f"al:{PROVIDER_KEY}"},
        "LLAMA_PROVIDER_API_KEY",
    ),
    "a digest is of the same key on both tiers": (
        {"WORKER_ACCESS_KEYS": f"al:sha256:{DIGEST_OF_TIER_2}"},
        "LLAMA_PROVIDER_API_KEY",
    ),
    **{
        url: ({"LLAMA_PROVIDER_BASE_URL": url}, "LLAMA_PROVIDER_BASE_URL")
        for url in (
            "http://api.example.org/run",
            "HTTP://api.example.org/run",
            "http://192.168.1.7:8080/run",
            "http://localhost.example.org/run",
            "http://127.0.0.1.example.org/run",
        )
    },
}


@pytest.mark.parametrize(("more", "name"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_is_doubtful_is_a_warning_and_serves(more: dict[str, str], name: str) -> None:
    config = Settings({**NEEDED, **more})
    assert config.problems == ()
    assert config.provider is not None
    (warning,) = config.warnings
    assert warning.variable == name
    assert not any(value.split(":")[-1] in str(warning) for value in more.values())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/v1",
        "http://localhost/v1",
        "http://[::1]:9/v1",
        "http://127.9.9.9/v1",
        "https://api.example.org/v1",
    ],
)
def test_http_to_this_machine_and_https_are_not_doubtful(url: str) -> None:
    assert Settings({**OPENAI, "LLAMA_PROVIDER_BASE_URL": url}).warnings == ()


# --- tier 2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", "  ", None], ids=["empty", "blanks", "absent"])
def test_cloudflares_own_name_for_the_token_is_read_where_ours_is_not_set(
    blank: str | None,
) -> None:
    env = {**NEEDED, "CLOUDFLARE_API_TOKEN": "cf-t0ken-3456789012"}
    assert sent(Settings(env))[1] == f"Bearer {PROVIDER_KEY}"
    del env["LLAMA_PROVIDER_API_KEY"]
    if blank is not None:
        env["LLAMA_PROVIDER_API_KEY"] = blank
    assert sent(Settings(env))[1] == "Bearer cf-t0ken-3456789012"


def test_cloudflares_token_never_goes_to_another_provider() -> None:
    config = Settings({**OPENAI, "CLOUDFLARE_API_TOKEN": "cf-t0ken-3456789012"})
    assert config.problems == ()
    assert sent(config) == ("https://api.example.org/v1/chat/completions", None)


def test_an_openai_provider_with_a_key_sends_it() -> None:
    config = Settings({**OPENAI, "LLAMA_PROVIDER_API_KEY": PROVIDER_KEY})
    assert sent(config)[1] == f"Bearer {PROVIDER_KEY}"


URLS = [
    ("https://gateway.ai.cloudflare.com/v1/acc/gw/workers-ai", None),
    ("https://gateway.ai.cloudflare.com/v1/acc/gw/workers-ai/", None),
    ("https://gateway.ai.cloudflare.com/v1/acc/gw/workers-ai///", None),
    (
        " https://host.example.org:8443/x/{account}/y \n",
        f"https://host.example.org:8443/x/{ACCOUNT}/y",
    ),
    ("http://[::1]:8080", None),
]


@pytest.mark.parametrize(("url", "base"), URLS, ids=[url for url, _ in URLS])
def test_the_model_is_appended_to_the_base_url(url: str, base: str | None) -> None:
    config = Settings({**NEEDED, "LLAMA_PROVIDER_BASE_URL": url})
    assert config.problems == ()
    assert sent(config)[0] == f"{base or url.rstrip('/')}/{MODEL}"


def test_the_account_is_needed_only_where_the_url_holds_it() -> None:
    env = {**NEEDED, "CLOUDFLARE_ACCOUNT_ID": ""}
    assert variables(Settings(env)) == ["CLOUDFLARE_ACCOUNT_ID"]
    env["LLAMA_PROVIDER_BASE_URL"] = "https://gateway.example.org/v1"
    assert Settings(env).problems == ()
    compatible = {**OPENAI, "LLAMA_PROVIDER_BASE_URL": "https://h.example.org/{account}/ai/v1"}
    assert variables(Settings(compatible)) == ["CLOUDFLARE_ACCOUNT_ID"]


def test_models_the_first_is_the_default_and_an_alias_hides_the_name_behind_it() -> None:
    models = " small = @cf/meta/a-1b , @cf/meta/b-2b,big=@cf/meta/a-1b,"
    config = Settings({**NEEDED, "LLAMA_PROVIDER_MODELS": models})
    assert config.problems == ()
    assert config.provider is not None
    assert list(config.provider.models) == ["small", "@cf/meta/b-2b", "big"]
    assert sent(config)[0].endswith("/ai/run/@cf/meta/a-1b")
    assert sent(config, "@cf/meta/b-2b")[0].endswith("/ai/run/@cf/meta/b-2b")
    assert sent(config, "big")[0].endswith("/ai/run/@cf/meta/a-1b")


# --- secrets, and strangers' input ------------------------------------------------------------


def test_no_repr_shows_a_key() -> None:
    named = "alice-key-123456789"
    for more in (
        {},
        {"LLAMA_PROVIDER": "openai", "LLAMA_PROVIDER_BASE_URL": "https://h.example.org"},
    ):
        more["LLAMA_PROVIDER_MODELS"] = "m"
        config = Settings({**NEEDED, "WORKER_ACCESS_KEYS": f"alice:{named}", **more})
        assert config.provider is not None
        shown = f"{config!r} {config} {config.provider!r} {config.keys!r} {vars(config)}"
        assert not any(secret in shown for secret in (KEY, PROVIDER_KEY, named))


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=":,=@/.{}[]?#\\%-_ \n\tahtpsx109é\ud800", max_size=30),
    st.from_regex(r"https?://[\[\]a-z0-9.:@{}/?#-]{0,20}", fullmatch=True),
    st.from_regex(r"([a-z]{0,3}:(sha256:)?[0-9a-f]{0,3},){0,3}", fullmatch=True),
    st.sampled_from([*NEEDED.values(), "openai", "workers-ai", MODEL, "1", "debug"]),
)


@quick
@given(st.dictionaries(st.sampled_from(sorted(BLANK)), TEXTS))
def test_reading_is_total(env: dict[str, str]) -> None:
    """Whatever the mapping holds, the outcome is a Settings, whose lines are lines."""
    config = Settings(env)
    assert (config.provider is None) <= bool(config.problems)
    for line in (*config.problems, *config.warnings):
        assert line.variable in BLANK
        assert str(line).isprintable()


@quick
@given(st.text(min_size=12), st.sampled_from(sorted(BLANK)))
def test_no_line_shows_a_value(value: str, name: str) -> None:
    config = Settings({**NEEDED, name: value})
    lines = "\n".join(str(line) for line in (*config.problems, *config.warnings))
    assert value not in lines


# --- what people paste by mistake -------------------------------------------------------------

WORKERS, COMPATIBLE = NEEDED, OPENAI
RUN = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/ai/run"
GATEWAY = "https://gateway.ai.cloudflare.com/v1/acc/gw"

MISTAKES = {
    "a model in Workers AI's URL": (WORKERS, "LLAMA_PROVIDER_BASE_URL", f"{RUN}/{MODEL}"),
    "a gateway's URL with a model": (
        *(WORKERS, "LLAMA_PROVIDER_BASE_URL"),
        f"{GATEWAY}/workers-ai/{MODEL}",
    ),
    "OpenAI's form with workers-ai": (
        *(WORKERS, "LLAMA_PROVIDER_BASE_URL"),
        RUN.replace("/run", "/v1"),
    ),
    "its endpoint with workers-ai": (
        *(WORKERS, "LLAMA_PROVIDER_BASE_URL"),
        f"{GATEWAY}/compat/chat/completions",
    ),
    "half of Workers AI's URL": (WORKERS, "LLAMA_PROVIDER_BASE_URL", RUN.removesuffix("/run")),
    "Cloudflare's name for the account": (
        *(WORKERS, "LLAMA_PROVIDER_BASE_URL"),
        RUN.replace(ACCOUNT, "{account_id}"),
    ),
    "a variable, which is not expanded": (
        *(WORKERS, "LLAMA_PROVIDER_BASE_URL"),
        RUN.replace(ACCOUNT, "$CLOUDFLARE_ACCOUNT_ID"),
    ),
    **{
        f"…{path} with openai": (
            *(COMPATIBLE, "LLAMA_PROVIDER_BASE_URL"),
            f"https://api.example.org{path}",
        )
        for path in (
            *("/v1/chat/completions", "/v1/chat/completions/", "/chat/completions"),
            *("/v1/completions", "/openai/V1/Chat/Completions", "/v1/models", "/v1/messages"),
            *("/v1/responses", "/v1beta/embeddings", "/v1/chat", "/ai/run", f"/ai/run/{MODEL}"),
        )
    },
    "Ollama's own form": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "http://127.0.0.1:11434/api/chat"),
    "a placeholder in a URL": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "https://<resource>.ai/v1"),
    "quotes round a URL": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", '"https://api.example.org/v1"'),
    "quotes round a model": (COMPATIBLE, "LLAMA_PROVIDER_MODELS", "'gpt-5-mini'"),
    "quotes round each model": (COMPATIBLE, "LLAMA_PROVIDER_MODELS", '"gpt-5","gpt-5-mini"'),
    "a placeholder for a model": (COMPATIBLE, "LLAMA_PROVIDER_MODELS", "<your model>"),
    "quotes round an account": (WORKERS, "CLOUDFLARE_ACCOUNT_ID", f"'{ACCOUNT}'"),
    "quotes round a number": (WORKERS, "LLAMA_PROVIDER_TIMEOUT", '"30"'),
    **{
        f"{scheme!r} before the provider's key": (
            *(WORKERS, "LLAMA_PROVIDER_API_KEY"),
            scheme + PROVIDER_KEY,
        )
        for scheme in ("Bearer ", "bearer  ", "BEARER\t", "Authorization: Bearer ", " Bearer ")
    },
    "Bearer before Cloudflare's token": (
        {**WORKERS, "LLAMA_PROVIDER_API_KEY": ""},
        *("CLOUDFLARE_API_TOKEN", f"Bearer {PROVIDER_KEY}"),
    ),
}


@pytest.mark.parametrize(("env", "name", "value"), MISTAKES.values(), ids=MISTAKES)
def test_what_was_pasted_by_mistake_is_one_problem(
    env: dict[str, str], name: str, value: str
) -> None:
    settings = Settings({**env, name: value})
    (problem,) = settings.problems
    assert problem.variable == name
    assert settings.warnings == ()
    assert value not in str(problem)
    assert ("remove the quotes" in str(problem)) == (value[0] in "\"'")


NO_MISTAKES = {
    "Azure's models": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "https://r.ai.azure.com/models"),
    "chat in a name": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "https://chat.example.org/chat/v1"),
    "completions within": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "https://h.org/completions/v1"),
    "Hugging Face": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", "https://h.co/models/org/m/v1"),
    "Workers AI's compatible form": (
        *(COMPATIBLE, "LLAMA_PROVIDER_BASE_URL"),
        RUN.replace("/run", "/v1"),
    ),
    "a gateway's compatible form": (COMPATIBLE, "LLAMA_PROVIDER_BASE_URL", f"{GATEWAY}/compat"),
    "a gateway": (WORKERS, "LLAMA_PROVIDER_BASE_URL", f"{GATEWAY}/workers-ai"),
    "another host's /v1": (WORKERS, "LLAMA_PROVIDER_BASE_URL", "https://ai.example.org/v1"),
    "another way to /ai/run": (WORKERS, "LLAMA_PROVIDER_BASE_URL", f"{RUN}/"),
    "a tier-1 key about bearers": (WORKERS, "WORKER_ACCESS_KEY", "bearer-of-good-news-7Q"),
    "a provider's key about bearers": (WORKERS, "LLAMA_PROVIDER_API_KEY", "bearer_7Qm4xV9cT2hLw8"),
    "a quote within a key": (WORKERS, "WORKER_ACCESS_KEY", "\"it's-7Qm4xV9cT2hLw8"),
    "an account in hexadecimal": (WORKERS, "CLOUDFLARE_ACCOUNT_ID", "0123456789abcdef" * 2),
    "the old name as an alias": (
        *(WORKERS, "LLAMA_PROVIDER_MODELS"),
        f"@cf/meta/llama-3-8b-instruct={MODEL}",
    ),
    "names near to a withdrawn one": (
        *(WORKERS, "LLAMA_PROVIDER_MODELS"),
        "@cf/meta/llama-3.1-8b-instruct-fast,@cf/meta/llama-3.1-8b-instruct-fp8,"
        "@cf/google/gemma-7b-it-lora,@cf/mistral/mistral-7b-instruct-v0.2-lora",
    ),
    "another proxy's alias": (COMPATIBLE, "LLAMA_PROVIDER_MODELS", "@cf/meta/llama-3-8b-instruct"),
}


@pytest.mark.parametrize(("env", "name", "value"), NO_MISTAKES.values(), ids=NO_MISTAKES)
def test_what_only_looks_like_a_mistake_is_neither_problem_nor_warning(
    env: dict[str, str], name: str, value: str
) -> None:
    settings = Settings({**env, name: value})
    assert (settings.problems, settings.warnings) == ((), ())


@pytest.mark.parametrize(
    ("env", "models", "withdrawn"),
    [
        (WORKERS, "@cf/meta/llama-3-8b-instruct", ["llama-3-8b-instruct"]),
        (WORKERS, f"{MODEL},chat=@cf/meta/llama-3-8b-instruct", ["llama-3-8b-instruct"]),
        (WORKERS, f"a={MODEL}|@hf/google/gemma-7b-it,b=@hf/google/gemma-7b-it", ["gemma-7b-it"]),
        (
            {**COMPATIBLE, "LLAMA_PROVIDER_BASE_URL": f"{GATEWAY}/compat"},
            "workers-ai/@cf/meta/llama-3.1-8b-instruct-awq",
            ["llama-3.1-8b-instruct-awq"],
        ),
    ],
    ids=["alone", "behind an alias", "as a fallback, twice", "through a gateway"],
)
def test_a_withdrawn_model_is_a_warning(
    env: dict[str, str], models: str, withdrawn: list[str]
) -> None:
    settings = Settings({**env, "LLAMA_PROVIDER_MODELS": models})
    assert settings.problems == ()
    assert [str(warning) for warning in settings.warnings] == [
        f"LLAMA_PROVIDER_MODELS: Cloudflare withdrew {name} on 2026-05-30; choose another"
        for name in withdrawn
    ]


# --- fallbacks --------------------------------------------------------------------------------


def test_fallbacks_are_listed_in_the_order_asked() -> None:
    models = f"chat = @cf/a | @cf/b|{MODEL}, @cf/a"
    settings = Settings({**NEEDED, "LLAMA_PROVIDER_MODELS": models})
    assert settings.problems == ()
    assert settings.provider is not None
    assert settings.provider.models == {"chat": ("@cf/a", "@cf/b", MODEL), "@cf/a": ("@cf/a",)}


FORM = "must be names or public=name, separated by commas; public=a|b has a fallback"
TWICE = "must not have a model twice among one public name's fallbacks"
BAD_FALLBACKS = {
    "a|b": "fallbacks need a public name: public=a|b",
    "c,a|b": "fallbacks need a public name: public=a|b",
    "chat=a|b|a": TWICE,
    "chat=a|a": TWICE,
    "chat=a||b": FORM,
    "chat=|a": FORM,
    "chat=a|": FORM,
    "chat=|": FORM,
    "=a|b": FORM,
    "=a": FORM,
    "x|y=a": FORM,
    "chat=a|../b": FORM,
    "chat=a|b?c": FORM,
    "chat=a|b,chat=c": "must not have a public name twice",
}


@pytest.mark.parametrize(("models", "text"), BAD_FALLBACKS.items(), ids=BAD_FALLBACKS)
def test_fallbacks_that_make_no_sense_are_one_problem(models: str, text: str) -> None:
    settings = Settings({**NEEDED, "LLAMA_PROVIDER_MODELS": models})
    assert list(map(str, settings.problems)) == [f"LLAMA_PROVIDER_MODELS: {text}"]
