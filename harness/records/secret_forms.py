"""Names and forms by which a secret is recognized in a text."""

from __future__ import annotations

import re

REMOVED = "<removed>"

# Words that end the name of a secret. STRONG ones say it of any value; WEAK ones are words of other things as well.
_STRONG = (
    r"tokens?|secrets?|password|passwd|passphrase|passcode|credentials?|api_?keys?|access_?keys?|secret_?keys?|"
    r"private_?keys?|account_?keys?|shared_?keys?|encryption_?keys?|signing_?keys?|subscription_?keys?|auth_?keys?|"
    r"client_?secrets?|connection_?strings?|authorization|bearer|cookies?|jwt"
)
_WEAK = r"key|pass|pwd|pw|pat|sas|auth|sig|signature|netrc"
_TOKENIZERS = r"(?:pad|eos|bos|unk|sep|cls|mask|image|audio|extra_special|additional_special)_tokens?"
_NUMBERS_OF_TOKENS = r"(?:tokens)"  # in settings the plural counts tokens: max_new_tokens, batch_tokens

# --- names of environment variables and keys of a table ---
_ENVIRONMENT = re.compile(
    rf"(?:.*[_.-])?(?:{_STRONG}|{_WEAK}|passwords|apikey\w*|dsn)(?:[_.-](?:base64|b64|path|file|json|value|id|old|new|\d+))*"
    r"|(?:.*[a-z])?(?:privatekey|accesskey|secretkey|apikey)|.*(?:password|passwd|passphrase|secret|token)"
    r"|aws_session.*|.*_(?:session_token|webhook|webhook_url|database_url|db_url|conn_str)",
    re.IGNORECASE,
)
_PUBLIC = {"PWD", "OLDPWD", "GPG_KEY", "SSH_AUTH_SOCK", "XAUTHORITY"}  # places, and a key that is published
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TABLE_STRONG = re.compile(rf"(?:.*[_.-])?(?:{_STRONG})", re.IGNORECASE)
_TABLE_WEAK = re.compile(rf"(?:.*[_.-])?(?:{_WEAK})", re.IGNORECASE)
_IS_TOKENIZERS = re.compile(rf"(?:.*[_.-])?(?:{_TOKENIZERS})", re.IGNORECASE)
_COUNTS = re.compile(rf".*[_.-]?{_NUMBERS_OF_TOKENS}", re.IGNORECASE)
_SHORTEST = 8  # of a value behind a weak name

# --- NAME=value, NAME: value, --NAME value ---
_BEFORE = r"(?<![A-Za-z0-9_.-])"
_OF_A_TOKENIZER = rf"(?![A-Za-z0-9_.-]*{_TOKENIZERS}(?![A-Za-z0-9_.-]))"
_WHOLE_STRONG = (
    r"(?:[A-Za-z0-9_.-]*?(?:token|secret|password|passwd|passphrase|passcode|credentials?|"
    r"(?:api|access|secret|private|account|shared|shared_?access|encryption|signing|subscription|auth)[_-]?key|"
    r"connection_?string|authorization|bearer|cookie|jwt))"
)
_WHOLE_WEAK = r"(?:(?:[A-Za-z0-9_.-]*[_.-])?(?:pass|pwd|pw|pat|sas|auth|sig|signature)|[A-Za-z0-9_.-]*[_.-]key)"
_QUOTED = r"(?P<q>\\*[\"'])(?:(?!(?P=q)).)*(?P=q)?"
_BARE = r"(?:\\+.|[^\s\"'\\]|[\"'](?=[^\s,;:)\]}>\"']))+"
_IS = r"(?:\s?:=\s?|[\"']?\s?=>\s?|\s?=\s|=|%3D)"
_ASSIGNED = re.compile(
    rf"{_BEFORE}([+~]*{_OF_A_TOKENIZER}(?:{_WHOLE_STRONG}|{_WHOLE_WEAK}){_IS})(?:{_QUOTED}|{_BARE})",
    re.IGNORECASE | re.DOTALL,
)
# a colon also occurs in prose, where a token is a word of a language: `unexpected token: nothing`
_BEFORE_COLON = (
    r"(?:[A-Za-z0-9_.-]+[_.-](?:token|key)|[A-Za-z0-9_.-]*(?:secret|password|passwd|passphrase|api_?key|accesskey|"
    r"privatekey|accountkey|connection_?string))"
)
_AFTER_COLON = rf"{_BEFORE}({_OF_A_TOKENIZER}{_BEFORE_COLON}\\*[\"']?\s*:\s*(?:!!\w+\s+)?)"
_SAID = re.compile(
    rf"{_AFTER_COLON}(?:(?P<q>\\*[\"'])(?=(?:(?!(?P=q)).){{4,}})(?:(?!(?P=q)).)*(?P=q)?|"
    rf"[^\s\"'\\,()\[\]{{}}]{{{_SHORTEST},}})",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"{_BEFORE}(--?(?:{_WHOLE_STRONG}|{_WHOLE_WEAK}|pass)\s+)(?!--?[A-Za-z])(?:{_QUOTED}|{_BARE})", re.IGNORECASE
)
_ELEMENT = re.compile(rf"(<(?:\w+:)?{_BEFORE_COLON}>)[^<]+(?=</)", re.IGNORECASE)
# clients whose options for a password have no telling name
_CLIENT = re.compile(
    r"\b((?:curl|wget)\s[^\n]{0,200}?(?:-u|--user)[\s=]?[\"']?[^\s:\"']{1,100}:|"
    r"sshpass\s+-p\s?|mysql\w*\s[^\n]{0,200}?\s?-p(?=\S)|(?:docker|podman|registry)\s+login\s[^\n]{0,200}?-p\s?)"
    rf"(?:{_QUOTED}|{_BARE})"
)
# `password X` in a message, where X is not a word of prose
_RANDOM = r"(?=[^\s\"']*[0-9A-Z!#$%^&*+/=@_])[^\s\"',;]{5,}"
_SPOKEN = re.compile(rf"\b((?i:password|passwd|passphrase|secret|api[ _-]?key)\s+){_RANDOM}")
_NETRC_PASSWORD = re.compile(r"(\blogin\s+)\S+(\s+password\s+)\S+")

# --- headers ---
_HEADER = re.compile(
    r"(?<![A-Za-z0-9-])((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]*(?:key|token|auth|secret)[a-z-]*)"
    r"(\\*[\"']?\s*[:=]\s*\\*[\"']?)[^\r\n\"'\\]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b([Bb]earer|BEARER)\s+[A-Za-z0-9._~+/=-]{4,}")
_BASIC = re.compile(r"\b([Bb]asic)\s+(?=[A-Za-z0-9+/]*[0-9A-Z])[A-Za-z0-9+/]{6,}={0,2}")

# --- URLs ---
_USER_INFO = re.compile(  # no longer than any real one, so that a text of many `://` takes no time
    r"(?<=://)(?:[^\s/\"'\\<>]{0,500}@|[^\s/:@\"'\\<>]{0,200}:(?!\d{1,5}(?:[/?#]|$))[^\s\"'\\<>]{0,500}@)"
)
_QUERY = re.compile(r"(?<=[?&;])([A-Za-z0-9_.\[\]%-]+)(=|%3D)([^&#\s\"'\\<>]+)", re.IGNORECASE)
_URL = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'<>]+")
_WEBHOOK = re.compile(
    r"((?:hooks\.slack\.com/\w+|discord(?:app)?\.com/api/webhooks|webhook\.office\.com/webhookb2)/|api\.telegram\.org/bot)"
    r"[^\s\"'<>\\]+"
)
_HARMLESS = {
    "branch", "config", "dl", "download", "end", "format", "lang", "length", "limit", "name", "offset", "page", "raw",
    "ref", "rev", "revision", "se", "size", "sort", "sp", "split", "sr", "st", "start", "subset", "sv", "type", "v",
    "version",
}  # fmt: skip

# --- every text with a secret of these forms holds one of these, so that other text is not looked through ---
_LONG = 20_000  # characters
_TRIGGER = re.compile(
    r"://|token|secret|pass|pwd|pw|pat|sas|auth|sig|cred|key|connection|cookie|jwt|bearer|basic|hf_|[sprk]k[_-]|gh[pousr]_|"
    r"gl[a-z]+-|aiza|ya29|a[a-z]{2}a[a-z0-9]{8}|xox|xapp|eyj|wandb_v|npm_|pypi-|sg\.|shp|nvapi|gsk_|xai-|r8_|dapi|hvs|"
    r"age-|sq0|eaa|curl|wget|mysql|login|hook|telegram|[dt][og]p_v",
    re.IGNORECASE,
)

# --- tokens of services ---
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY-----|(?:\\+n|[\sA-Za-z0-9+/=])*)",
    re.DOTALL,
)
_WITH_SIGN = r"(?=[A-Za-z0-9_-]*[0-9A-Z])"
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    rf"hf_{_WITH_SIGN}[A-Za-z0-9]{{4,}}|sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{{6,}}|[spr]k_(?:live|test)_\w{{6,}}|"
    r"gh[pousr]_[A-Za-z0-9]{6,}|github_pat_\w{6,}|gl[a-z]{2,6}-[A-Za-z0-9_-]{8,}|AIza[A-Za-z0-9_-]{10,}|"
    r"ya29\.[A-Za-z0-9_-]{6,}|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{8,}|xox[a-z]-[A-Za-z0-9-]{6,}|xapp-[A-Za-z0-9-]{6,}|"
    r"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?|wandb_v\d+_\w{4,}|npm_[A-Za-z0-9]{10,}|"
    r"pypi-[A-Za-z0-9_-]{10,}|dckr_pat_[A-Za-z0-9_-]{6,}|SG\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}|"
    r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{8,}|nvapi-[A-Za-z0-9_-]{8,}|gsk_[A-Za-z0-9]{8,}|xai-[A-Za-z0-9]{8,}|"
    r"r8_[A-Za-z0-9]{8,}|dapi[a-f0-9]{16,}|hvs\.[A-Za-z0-9_-]{8,}|AGE-SECRET-KEY-[A-Z0-9]+|"
    r"(?:sq0|EAA)[A-Za-z0-9_-]{16,}|(?:dop|tgp)_v\d+_\w{6,})"
)


def without(text: str) -> str:
    """Return the text with every secret that a name or a form marks removed. A long text is looked through by lines."""
    text = _PEM.sub(REMOVED, text) if "PRIVATE KEY" in text else text
    text = _NETRC_PASSWORD.sub(rf"\1{REMOVED}\2{REMOVED}", text) if "login" in text else text
    if len(text) <= _LONG:
        return _without(text) if _TRIGGER.search(text) else text
    lines = text.splitlines(keepends=True)
    return "".join(_without(line) if _TRIGGER.search(line) else line for line in lines)


def _without(text: str) -> str:
    text = _USER_INFO.sub(f"{REMOVED}@", text)
    text = _URL.sub(lambda url: _QUERY.sub(_in_query, url[0]), text)
    text = _WEBHOOK.sub(rf"\1{REMOVED}", text)
    text = _HEADER.sub(rf"\1\2{REMOVED}", text)
    text = _BASIC.sub(rf"\1 {REMOVED}", _SCHEME.sub(rf"\1 {REMOVED}", text))
    text = _ASSIGNED.sub(_kept_quote, text)
    text = _SAID.sub(_kept_quote, text)
    text = _OPTION.sub(_kept_quote, text)
    text = _ELEMENT.sub(rf"\1{REMOVED}", _CLIENT.sub(_kept_quote, text))
    text = _SPOKEN.sub(rf"\1{REMOVED}", text)
    return _TOKEN.sub(REMOVED, text)


def marks(name: str, value: str, is_text: bool) -> bool:
    """Return whether the key of a table marks its value as a secret."""
    name = _CAMEL.sub("_", name)
    if not value or _IS_TOKENIZERS.fullmatch(name) or _COUNTS.fullmatch(name):
        return False
    if _TABLE_STRONG.fullmatch(name):
        return is_text or bool(re.search("passw|secret|passphrase|passcode", name, re.IGNORECASE))
    return is_text and len(value) >= _SHORTEST and bool(_TABLE_WEAK.fullmatch(name)) and name.lower() != "key"


def of_environment(name: str) -> bool:
    """Return whether an environment variable holds a secret, by its name."""
    return name not in _PUBLIC and bool(_ENVIRONMENT.fullmatch(name))


def is_random(value: str) -> bool:
    """Return whether a short value is no word or number: it holds a letter and a digit or sign."""
    return len(value) >= 4 and bool(re.search("[A-Za-z]", value) and re.search(r"[^A-Za-z\s/.-]", value))


def _in_query(match: re.Match[str]) -> str:
    return match[0] if match[1].lower() in _HARMLESS else f"{match[1]}{match[2]}{REMOVED}"


def _kept_quote(match: re.Match[str]) -> str:
    """Return the name with its value removed between the quotes it had. A small number stays, except as a password."""
    value = match[0][len(match[1]) :]
    if re.fullmatch(r"\d{1,5}(\.\d+)?", value) and not re.search("(?i)pass|pwd|secret", match[1]):
        return match[0]
    quote = match["q"] or ""
    return f"{match[1]}{quote}{REMOVED}{quote}"
