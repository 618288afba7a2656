"""Which parts of a value are shown: the one place that decides it for plans, results, diffs, exports and errors."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

HIDDEN = "********"

Path = tuple[str, ...]

SECRET_WORDS = re.compile(
    """auth|authentication|authorization|bearer|cookies?|credentials?|creds|dsn|jwt|pass|passcode|passphrase|passw(?:or)?ds?
    |passwort|pat|pin|pw|pwd|sas|secrets?|signature|tokens?|webhooks?
    |.*(?:password|passwd|secret|token|apikey|accesskey|privatekey|secretkey)""",
    re.VERBOSE,
)
SECRET_PAIRS = re.compile(
    """(?:access|account|api|app|application|auth|bot|client|connection|deploy|encryption|integration|license|master
    |private|routing|secret|service|session|shared|signing|ssh|storage|subscription|webhook)\\s(?:keys?|string)
    |session\\sid""",
    re.VERBOSE,
)
"""Words, and pairs of adjacent words, that mark a key as that of a credential: `api_key`, `accessKeyId`."""

OPEN_KEYS = re.compile(
    """allowed|artifact|authorized|bucketing|business|cache|column|composite|concurrency|dedup(?:lication)?|deployment|dict
    |dynamic|event|field|foreign|group|header|idempotency|index|instance|item|join|json|label|lock|lookup|map|message
    |natural|object|order|parameter|partition|path|pause|primary|pub|public|range|required|row|search|shard|sort|state
    |surrogate|tag|task|topology|unique""",
    re.VERBOSE,
)
"""Words before a last word `key` or `keys` that is not a credential: `cache_key`, `primaryKey`, `task_keys`."""

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

SECRET_TEXT = re.compile(
    r"""
    \b(?!(?:git\+)?ssh://git@)[a-z][a-z0-9+.-]*://
      (?:[^\s/?\#@]+ | [^\s/@]*:(?!\d+/)[^\s@]+)@                  # userinfo of a URL, even where it is not encoded
    | \b(?:hooks|webhooks?)\.[a-z0-9.-]+\.[a-z]{2,}\b               # hooks.slack.com, hooks.zapier.com
    | \.webhook\.office\.com\b | \blogic\.azure\.com\b
    | \bdiscord(?:app)?\.com/api/webhooks | \bapi\.telegram\.org/bot | \bchat\.googleapis\.com/v1/spaces
    | \bmaker\.ifttt\.com/ | \bevents\.pagerduty\.com/ | \bapi\.opsgenie\.com/
    | ://[^\s?\#]*/(?:web)?hooks?/                                  # the path of a webhook
    | [?&;](?:[\w.-]*(?:token|key|secret|sig|signature|password|pwd|auth)|code)=[^&\s]
    | -----BEGIN\ [A-Z0-9\ ]*PRIVATE\ KEY-----
    | \b(?:bearer|basic)\s+[a-z0-9._~+/=-]{8,}
    | \b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|xapp-|sk_live_|rk_live_|sk-|pn[ub]_|npm_|pypi-|hvs\.|dop_v1_)
      [a-z0-9_-]{8,}
    | \b(?:curl|https?|xh)\s(?:[^|;&\n]*\s)?(?:-[a-z]*[ua]|--(?:proxy-)?user|--auth)[\s=]*["']?
      (?!\d+:\d+\b)[^\s"':{$]+:[^\s"'{$]                             # curl -u user:password
    | \b(?:mysql|mariadb)[\w-]*\s(?:[^|;&\n]*\s)?(?-i:-p)["']?[^\s"'{$]
    | \bsshpass\s(?:[^|;&\n]*\s)?(?-i:-p)\s*["']?[^\s"'{$]
    | \bredis-cli\s(?:[^|;&\n]*\s)?(?-i:-a)\s*["']?[^\s"'{$]
    | \bAKIA[0-9A-Z]{16}\b | \beyJ[a-z0-9_-]{10,}\.[a-z0-9_-]{10,}\.
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Texts that contain a credential wherever they occur."""

ASSIGNMENT = re.compile(r"""(?P<name>[A-Za-z_][\w.-]*)(?:["']?\s*=\s*|["']\s*:\s*|:\s+)["']?(?=[^\s"'{$])""")
FLAG = re.compile(r"--(?P<name>[A-Za-z][\w-]*)\s+(?=[^\s{$-])")
"""`NAME=value` and `--name value` in a text, if the value is not a reference."""

RANDOM = re.compile(r"(?=\S*[a-z])(?=\S*[A-Z])(?=\S*\d)[A-Za-z0-9_+=-]{20,}")

REFERENCE = re.compile(r"""\s*\{\{[^{}"']*\}\}\s*""")
"""A text that is only a reference to a block, a variable or the environment."""

HARMLESS = re.compile(
    """active|allow_private_urls|base_?path|block_type|bucket(?:_folder|_name|_path)?|cluster(?:_name)?|cpu|database
    |database_name|db|dialect|driver|enabled|host(?:name)?|image|include_git_objects|interval|kind|location|memory|mode
    |namespace|networks?|notify_type|pool|port|project|protocol|queue|reference|region(?:_name)?|role|schema
    |service_account_name|smtp_(?:port|server|type)|ssl|stream_output|timeout(?:_seconds)?|timezone|tls|type|verify
    |verify_ssl|version|warehouse|work_(?:pool|queue)|zone""",
    re.VERBOSE,
)
"""Fields that hold no secret in any known block type: all other fields of a block are hidden."""

HEADERS = re.compile(r"HEADERS?(?:_|$)")
"""Names of settings with HTTP headers, most of which are set for a credential: PREFECT_CLIENT_CUSTOM_HEADERS."""

SURE = 6
"""Minimum length of a secret that is searched for inside other texts: a shorter one occurs in many by chance."""

SCHEMA_VALUES = frozenset({"const", "default", "enum", "example", "examples"})
"""The keys of a JSON schema that hold values; the others describe them."""


HARMLESS_NAMES = frozenset({"secret_fields"})
"""Keys that look like those of credentials but hold names of fields."""


def is_secret_name(name: str) -> bool:
    """Return whether a key looks like that of a credential: `API_TOKEN`, `dbPassword`, `aws_access_key_id`."""
    if name in HARMLESS_NAMES:
        return False
    words = [word.lower() for word in WORD.findall(name)]
    if any(SECRET_WORDS.fullmatch(word) for word in (*words, "".join(words))):
        return True
    if any(SECRET_PAIRS.fullmatch(f"{first} {second}") for first, second in itertools.pairwise(words)):
        return True
    *before, last = [word for word in words if not word.isdigit()] or [""]
    return last in ("key", "keys") and bool(before) and not OPEN_KEYS.fullmatch(before[-1])


def is_secret_text(text: str) -> bool:
    """Return whether a text contains a credential, whatever its key: in a URL, a webhook, `NAME=value`, a key."""
    if SECRET_TEXT.search(text) or RANDOM.fullmatch(text):
        return True
    named = [*ASSIGNMENT.finditer(text), *FLAG.finditer(text)]
    return any(is_secret_name(match["name"]) for match in named)


def without_userinfo(text: str) -> str:
    """Return a text with the userinfo of the URLs in it replaced."""
    return re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#@]+@", rf"\1{HIDDEN}@", text, flags=re.IGNORECASE)


def userinfo(text: str) -> set[str]:
    """Return the userinfo of the URLs in a text, whole and the password alone."""
    found = set(re.findall(r"\b[a-z][a-z0-9+.-]*://([^\s/?#@]+)@", text, flags=re.IGNORECASE))
    return found | {password for each in found if (password := each.partition(":")[2])}


def secrets_in(settings: Mapping[str, str]) -> set[str]:
    """Return the texts in settings or an environment that no output may show, each of them as a whole and in parts.

    Parts are the values of JSON, the password of a URL, and that of `user:password`.
    """
    found: set[str] = set()
    for name, text in settings.items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if not isinstance(value, (Mapping, list)):
            value = text
        shown = Mask().fields({name: value}, secret=bool(HEADERS.search(name)))
        found.update(hidden_texts({name: value}, shown))
    parts = {part for text in found for part in userinfo(text)}
    parts |= {password for text in found if "://" not in text and (password := text.partition(":")[2])}
    return {text for part in found | parts for text in (part, unquote(part)) if len(text) >= SURE}


def reference_to(value: Any) -> str | None:
    """Return the id or name of the block that a value refers to, or None if it is not a reference."""
    if not isinstance(value, Mapping) or set(value) != {"$ref"}:
        return None
    target = value["$ref"]
    if isinstance(target, Mapping):
        target = target.get("block_document") or target.get("block_document_id")
    return target if isinstance(target, str) else None


def texts(value: Any) -> Iterator[str]:
    """Yield the texts and numbers in a value, except for references to other blocks."""
    if reference_to(value) is not None:
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif value not in (None, "") and not isinstance(value, bool):
        yield str(value)


@dataclass(frozen=True)
class Mask:
    """What to hide from the user who runs a play.

    `known` are texts that are secret wherever they occur: those that ansible-vault decrypted. `show` hides nothing.
    """

    known: tuple[str, ...] = ()
    show: bool = False

    def fields(self, values: Mapping[str, Any], *, secret: bool = False) -> dict[str, Any]:
        """Return fields of an object that are safe to show to a user; with `secret`, all their values are hidden."""
        return {name: self._value(str(name), value, secret=secret) for name, value in values.items()}

    def block(self, data: Mapping[str, Any], secret_paths: Iterable[Path], *, sure: bool = False) -> dict[str, Any]:
        """Return the fields of a block, with everything hidden that is not known to be harmless.

        `secret_paths` are those that the block's schema marks, with `*` for any key. With `sure`, only what is known to
        be a secret is hidden.
        """
        return {
            name: self._of_block(str(name), value, below(secret_paths, str(name)), sure=sure)
            for name, value in data.items()
        }

    def _value(self, name: str, value: Any, *, secret: bool = False) -> Any:
        if self.show or isinstance(value, bool) or value in (None, "", [], {}) or reference_to(value) is not None:
            return value
        secret = secret or is_secret_name(name)
        if isinstance(value, Mapping):
            return {key: self._inner(name, str(key), value, secret=secret) for key in value}
        if isinstance(value, list):
            return [self._value("", each, secret=secret) for each in value]
        if isinstance(value, str) and REFERENCE.fullmatch(value) and not self._is_known(value):
            return value
        return HIDDEN if secret or self._is_known(value) or is_secret_text(str(value)) else value

    def _inner(self, name: str, key: str, values: Mapping[str, Any], *, secret: bool) -> Any:
        """Return the value of a key in a mapping that is named `name`."""
        value = values[key]
        if name == "properties" and isinstance(value, Mapping):
            # The schema of a parameter: its name tells whether its default is a secret, but not whether its title is.
            hidden = secret or is_secret_name(key)
            return {
                word: self._value(word, each, secret=hidden and word in SCHEMA_VALUES) for word, each in value.items()
            }
        if key == "value" and isinstance(values.get("name"), str):
            secret = secret or is_secret_name(values["name"])
        return self._value(key, value, secret=secret)

    def _of_block(self, name: str, value: Any, hidden: set[Path], *, sure: bool, secret: bool = False) -> Any:
        if self.show or isinstance(value, bool) or value in (None, "", [], {}) or reference_to(value) is not None:
            return value
        if () in hidden:
            return HIDDEN
        secret = secret or is_secret_name(name)
        if isinstance(value, Mapping):
            return {
                key: self._of_block(str(key), each, below(hidden, str(key)), sure=sure, secret=secret)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._of_block(name, each, hidden, sure=sure, secret=secret) for each in value]
        unknown = not sure and not HARMLESS.fullmatch(name.lower())
        if secret or unknown or self._is_known(value) or is_secret_text(str(value)):
            return HIDDEN
        return value

    def _is_known(self, value: Any) -> bool:
        return any(text == str(value) or (len(text) >= SURE and text in str(value)) for text in self.known)


def below(paths: Iterable[Path], name: str) -> set[Path]:
    """Return the rest of the paths that apply to a key."""
    return {path[1:] for path in paths if path and path[0] in {name, "*"}}


def hidden_texts(value: Any, shown: Any) -> Iterator[str]:
    """Yield the texts in `value` that are hidden in `shown`."""
    if isinstance(shown, str) and shown.startswith(HIDDEN):
        yield from texts(value)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from hidden_texts(each, shown[name])
    elif isinstance(value, list):
        for each, other in zip(value, shown, strict=True):
            yield from hidden_texts(each, other)


def marked(old: Any, new: Any, before: Any, after: Any) -> Any:
    """Return `new`, the shown form of `after`, with each hidden value marked that differs from the one before."""
    if isinstance(new, Mapping) and isinstance(after, Mapping):
        return {
            name: marked(part(old, name), value, part(before, name), after[name]) if name in after else value
            for name, value in new.items()
        }
    if isinstance(new, list) and isinstance(after, list):
        return [marked(part(old, index), value, part(before, index), after[index]) for index, value in enumerate(new)]
    is_new = new == HIDDEN and after != HIDDEN and (type(before) is not type(after) or before != after)
    return f"{HIDDEN} (new)" if is_new else new


def masked_diff(diff: Mapping[str, str], mask: Mask) -> dict[str, str]:
    """Return a diff of two JSON objects with the secrets in it hidden, and those that change marked."""
    before, after = (json.loads(diff[side]) for side in ("before", "after"))
    shown = {"before": mask.fields(before), "after": mask.fields(after)}
    shown["after"] = marked(shown["before"], shown["after"], before, after)
    return {side: json.dumps(values, indent=1, sort_keys=True) + "\n" for side, values in shown.items()}


def part(value: Any, place: Any) -> Any:
    """Return the item at a key or an index, or None if there is none."""
    if isinstance(value, list) and isinstance(place, int):
        return value[place] if place < len(value) else None
    return value.get(place) if isinstance(value, Mapping) else None
