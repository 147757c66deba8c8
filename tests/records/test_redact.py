"""Secrets are planted wherever one can stand, and looked for in every file that is written."""

import json
import os
import time

import pytest

from harness.records import redact

SECRETS = {
    "WANDB_API_KEY": "wandbkey0123456789abcdef",
    "HF_TOKEN": "hf_0123456789abcdefghijABCDEFGHIJ",
    "OPENAI_API_KEY": "sk-planted-0123456789abcdef",
    "MY_SECRET": 'with "quotes" and \\ and \u00e9',
    "DATABASE_PASSWORD": "planted-password-1",
}


@pytest.fixture
def planted(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_a_value_of_the_environment_is_removed_wherever_it_stands(planted):
    for value in SECRETS.values():
        assert value not in redact.text(f"before {value} after")
        assert json.dumps(value)[1:-1] not in redact.text(json.dumps({"reason": f"got {value}"}))
        assert value not in str(redact.anything({"a": [value, (f"x{value}",)], value: 1}))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("python -m x +api_key=planted1 seed=1", "python -m x +api_key=<removed> seed=1"),
        ("train.HUB_TOKEN='planted1'", "train.HUB_TOKEN='<removed>'"),
        ("--url https://user:planted1@host/v1 -n 3", "--url https://<removed>@host/v1 -n 3"),
        ("token hf_planted1planted1planted1", "token <removed>"),
        ("+hub={api_key:planted1,n:3}", "+hub={api_key:<removed>,n:3}"),
        ('said {"hub_token": "planted1", "n": 3}', 'said {"hub_token": "<removed>", "n": 3}'),
        ("my.password: 'planted1'", "my.password: '<removed>'"),
    ],
)
def test_what_shows_that_it_is_a_secret_is_removed(written, kept):
    assert redact.text(written) == kept


S = "Planted7Secret"  # stands for the secret in every form below; no part of it may stay
FORMS = [
    # URLs
    f"https://store.example/x.jsonl?sv=2024&sig={S}", f"/data/x.jsonl?sig={S}", f"az://c/x?sig={S}&se=2026",
    f"https://s3.example/x?X-Amz-Signature={S}&X-Amz-Date=1", f"https://h/x?Signature={S}", f"https://h/x?auth={S}",
    f"https://h/x?code={S}", f"https://h/x?pwd={S}", f"https://h/x?pass={S}", f"https://h/x#access_token={S}",
    f"https://u:a/{S}@h/x", f"https://u:p@{S}@h/x", f"https://{S}@h", f"https://u:{S}@h:8080/x@1", f"https://h/?q={S}",
    f"redis://:{S}@h:6379/0", f"postgresql://u:{S}@h/db", f"https://h/x?token%3D{S}", f"https://h/x;sig={S}",
    f"git+https://oauth2:{S}@gitlab.example/x.git", f"https://h/x?a=1&amp;key={S}",
    # headers
    f"Authorization: Bearer {S}", f"Authorization: Basic {S}", f"authorization: token {S}", f"Cookie: a=b; session={S}",
    f"Set-Cookie: sid={S}; Path=/", f"X-Api-Key: {S}", f"x-auth-token: {S}", f"Proxy-Authorization: Basic {S}",
    f"curl -H 'Authorization: Bearer {S}' https://h", f'{{"Authorization": "Bearer {S}"}}', f"Bearer {S}",
    f"bearer {S}",
    f'"headers": {{"cookie": "a={S}"}}', f"Basic {S}=",
    # command lines and settings
    f"password = {S}", f"password={S}", f"password:{S}", f"--password {S}", f"--token={S}", f"--api-key {S}",
    f"--hub-token '{S}'", f"password {S}", f"+x.password={S}", f"Pwd={S}", f"MYSQL_PWD={S}", f"pass={S}",
    f"AccountKey={S}==", f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={S};EndpointSuffix=x",
    f"SharedAccessKey={S}", f"connection_string={S}", f"apiKey={S}", f"secretAccessKey: {S}", f"client_secret={S}",
    f"passphrase={S}", f"api_key='a,{S}'", f"api_key=a,{S}", f"api_key=a]{S}", f"password='a {S}'", f'password="a {S}"',
    f"password=a\\{S}", f'password=a"{S}', f"password='a\"{S}'", f"+hub={{api_key:{S},n:3}}", f"token%3D{S}",
    f"password=a\\ {S}", f"x.api_key=[a,{S}]", f"db.password: 'a b {S}'", f'{{"password": "a b {S}"}}',
    # files
    f"machine h login me password {S}", f"machine h\n  login me\n  password {S}", f"default login {S} password x",
    f"-----BEGIN RSA PRIVATE KEY-----\nMII{S}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\\nb3{S}\\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{S}",
    # tokens by their form
    "AKIAPLANTED7SECRET", "ASIAPLANTED7SECRET", f"xoxb-12-{S}", f"xoxp-{S}", f"github_pat_{S}", f"ghp_{S}",
    f"glpat-{S}",
    f"AIza{S}", f"eyJhbGciOi{S}.eyJzdWIi{S}.{S}", f"wandb_v1_{S}", f"hf_{S}", "hf_Planted7", "sk-Planted7",
    f"sk-proj-{S}",
    f"sk-ant-{S}", f"sk_live_{S}", f"npm_{S}", f"pypi-{S}", f"dckr_pat_{S}", f"nvapi-{S}", f"gsk_{S}", f"ya29.{S}",
    f"hvs.{S}", "dapi0123456789abcdef0123456789abcdef", f"dop_v1_{S}", f"tgp_v1_{S}",
    # assignments of other languages
    f"password := {S}", f'password := "{S}"', f"password => {S}", f':password => "{S}"', f"'password' => '{S}'",
    f"<password>{S}</password>", f"<x:api_key>a {S}</x:api_key>",
    f"password: !!str {S}",
    # clients
    f"curl -u me:{S} https://h", f"curl -s --user 'me:{S}' https://h", f"sshpass -p {S} ssh h", f"sshpass -p{S} ssh h",
    f"mysql -h h -p{S} db", f"docker login -u me -p {S} h", f"podman login h -p '{S}'",
    # URLs that are the secret themselves
    f"https://hooks.slack.com/services/T0/B0/{S}", f"https://discord.com/api/webhooks/12/{S}",
    f"https://api.telegram.org/bot12:{S}/send", f"https://x.webhook.office.com/webhookb2/{S}@{S}/IncomingWebhook/1",
]  # fmt: skip
PARTS = ("Planted7", "PLANTED7", "dapi01234567")
NAMES = (
    "AWS_SESSION", "AWS_SESSION_TOKEN", "DB_PASS", "MYSQL_PWD", "GITLAB_PAT", "BLOB_SAS",
    "AZURE_STORAGE_CONNECTION_STRING",
    "BEARER", "AUTHORIZATION", "COOKIE", "PASSPHRASE", "SSH_PRIVATEKEY", "MY_PRIVATE_KEY", "REGISTRY_AUTH", "NETRC",
    "TOKENS",
    "KEY", "HF_TOKEN_BASE64", "HF_TOKEN_PATH", "SECRETS", "API_KEYS", "OPENAI_APIKEY", "GOOGLE_APPLICATION_CREDENTIALS",
    "JWT", "PGPASSWORD", "DATABASE_URL_PASSWORD", "CLIENT_SECRET_1", "ACCESSKEY", "SIGNATURE", "MY_DB_URL",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_of_any_form_is_removed_and_leaves_no_part(form):
    for written in (form, f"before {form} after", json.dumps(form), f"cannot read {form}: 404", repr(form)):
        left = redact.text(written)
        assert not [part for part in PARTS if part in left], left
    assert not [part for part in PARTS if part in str(redact.anything({"a": [form], form: 1}))]


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_in_a_long_log_is_removed_as_well(form):
    log = "".join(f"step {i}: loss 0.5 at /home/u/runs\n" for i in range(900))
    left = redact.text(f"{log}before {form} after\n{log}")
    assert not [part for part in PARTS if part in left]
    assert left.startswith(log)
    assert left.endswith(log) or ("BEGIN" in form and "END" not in form), (
        "what follows a key that breaks off may go too"
    )


@pytest.mark.parametrize("piece", ["A", "x_", "x-", "a.", "=", "key", "a://", "\\", "'", '"', "token ", "@", "<", "1 "])
def test_a_text_of_any_shape_is_looked_through_in_no_time(piece):
    """No expression goes back over what it has read: ten times the text takes about ten times as long."""
    times = []
    for size in (20_000, 200_000):
        began = time.process_time()
        redact.text(piece * (size // len(piece)))
        times.append(time.process_time() - began)
    assert times[1] < 40 * max(times[0], 0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["Planted7 value, with ] signs", "Pl7nt", "https://h/Planted7?x"])
def test_a_variable_whose_name_says_so_is_removed_from_any_text(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    for written in (f"before {value} after", json.dumps(value), f"<{value}>"):
        assert value not in redact.text(written) and json.dumps(value)[1:-1] not in redact.text(written)


@pytest.mark.parametrize(
    "key", ["password", "db.password", "apiKey", "hub_token", "AccountKey", "client-secret", "Cookie"]
)
def test_the_value_of_a_key_is_removed_whatever_it_is(key):
    assert redact.anything({key: "ab c"}) == {key: redact.REMOVED}
    assert redact.anything({"x": [{key: f"a,]\"'{S}"}]}) == {"x": [{key: redact.REMOVED}]}


def test_a_password_that_is_a_number_is_removed_and_a_token_that_is_one_stays():
    assert redact.anything({"password": 12345, "token": 5, "key": "loss"}) == {
        "password": redact.REMOVED, "token": 5, "key": "loss",
    }  # fmt: skip


@pytest.mark.parametrize(
    "harmless",
    ["The password is wrong", "a password for the Hub", "the secret of success", "Basic research", "basic arithmetic",
     "exit code=2", "https://h/x?page=2&limit=10", "https://h:8080/x@1.2", "HF_HOME=/cache", "passes=3",
     "compass=north",
     "forward_pass: 3", "author=me", "signal=9", "patience=3", "next token prediction", "token ids: 1 2 3",
     "hf_transfer",
     "method.projection_prng_key=7", "sk-learn", "monkey=1", "turkey: 12345678", "eos_token='</s>'",
     "image_token=<image>", "tokens=2048",
     "keyboard=us",
     "lora_alpha=16", "data.train.0.prompt='{{prompt}}'", "sha256:0123456789abcdef", "bitfit", "pad_token: <|im_end|>",
     "basic_tokenizer: WordPieceTokenizer", "unexpected key(s) in state_dict: model.layers.0.bias",
     "docker run -p 8080:80 x", "curl -u me https://h", "a => b", "the hook of the model", "login -p",
     "<token>a</token>",
     "Missing key: model.layers.0.self_attn.q_proj", "KeyError: 'train_loss'"],
)  # fmt: skip
def test_prose_and_settings_stay(harmless):
    assert redact.text(harmless) == harmless


@pytest.mark.parametrize(
    "harmless",
    [
        "method.num_virtual_tokens=8", "eval.batch_tokens=4096", "tokens_per_second=3", "hub:a/b@0123", "https://a/b@c",
        "unexpected token: all that follows", "eos_token: <|endoftext|>", "data_key: loss", "a_key: {a_long_name: 1}",
        "target_modules=[k_proj]", '{"trained_tokens": [4]}', "key=loss",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(harmless, monkeypatch):
    monkeypatch.setenv("SHORT_KEY", "loss")
    assert redact.text(harmless) == harmless


def test_a_log_loses_its_secrets_and_nothing_else(planted, tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"caf\xe9 " + SECRETS["HF_TOKEN"].encode() + b" end\n")
    redact.file(log)
    assert log.read_bytes() == b"caf\xe9 <removed> end\n"
    redact.file(tmp_path / "nothing")


def test_secrets_reach_no_file_of_a_run(harness, tiny_overrides, tmp_path):
    """A run that fails with them in its message, and one that is mirrored; then every byte below is searched."""
    done = harness(
        "-m", *tiny_overrides, "method=lora", "tracking=wandb", "train.max_steps=1",
        "data.train.0.prompt='{{prompt}} https://me:urlpassword@host/'", **SECRETS,
    )  # fmt: skip
    assert done.code == 0, done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert any(path.suffix == ".wandb" for path in files)
    planted = [value.encode() for value in (*SECRETS.values(), "urlpassword")]
    assert [path for path in files for value in planted if value in path.read_bytes()] == []
    assert os.environ.get("MY_SECRET") is None


PLANTED = (
    f"Bearer {S} ; password {S} ; https://u:a/{S}@h/x ; https://h/x?sig={S}&q={S} ; AccountKey={S}== ; ghp_{S} ; "
    f"Authorization: Basic {S} ; --password {S} ; token%3D{S} ; Cookie: a={S} ; AKIAPLANTED7SECRET ; hf_{S} ; "
    f"machine h login me password {S}"
)


def test_secrets_of_every_form_reach_no_file(harness, tiny_overrides, letters_file, tmp_path):
    """A run, its mirror, its card, its report and the check of its data, with secrets in the data's path and prompt."""
    data = tmp_path / f"letters?sig={S}.jsonl"
    data.write_bytes(letters_file.read_bytes())
    environment = {"MYSQL_PWD": "Planted7-pwd", "X_SAS": "Planted7&sas", "WANDB_API_KEY": "wandb_v1_Planted7Planted7"}
    words = [
        *(word for word in tiny_overrides if not word.startswith("data.file=")), f'data.file="{data}"',
        "tracking=wandb", "method=lora", "train.max_steps=1", f"data.train.0.prompt='{{{{prompt}}}} {PLANTED}'",
    ]  # fmt: skip
    done = harness("-m", *words, cwd=tmp_path, **environment)
    assert done.code == 0, done.err
    checked = harness("data", "check", *words, cwd=tmp_path, **environment)
    broken = harness("-m", *words, f"model.path=/nothing?sig={S}", cwd=tmp_path, **environment)
    assert broken.code == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != data]
    kinds = {path.suffix for path in files} | {path.name for path in files}
    assert {".wandb", "record.json", "sweep.json", "README.md", "index.html", "report.md", "log.txt"} <= kinds
    signs = [part.encode() for part in ("Planted7", "PLANTED7")]
    assert [path for path in files for sign in signs if sign in path.read_bytes()] == []
    assert [path for path in files if "Planted7" in path.name] == []
    for one in (done, checked, broken):
        assert "Planted7" not in one.out + one.err


def test_a_tokenizers_own_tokens_are_no_secrets():
    known = {"pad_token": "<|im_end|>", "tokenizer.eos_token": "<|endoftext|>", "my_eos_token_key": "abcdefghij"}
    assert redact.anything(known) == {**known, "my_eos_token_key": redact.REMOVED}
    assert (
        redact.text("pad_token=<|im_end|> hub_token=abcdefghij") == f"pad_token=<|im_end|> hub_token={redact.REMOVED}"
    )
