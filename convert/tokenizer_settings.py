"""Special and added tokens of a checkpoint, from the files of its tokenizer, as transformers 5 reads them.

`tokenizer_config.json` names the special tokens; where it lists no `added_tokens_decoder`, `special_tokens_map.json`
and `added_tokens.json` of older versions count too, and the map goes before. What is named and absent from the
vocabulary is added behind it. Where nothing is named, the tokenizer's class has a say. `add_bos_token` and
`add_eos_token` have no effect beside a `tokenizer.json`, whose own post-processor decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.config import AddedTokenConfig
from rave_mlx.errors import ConfigError

_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_END = "<|endoftext|>"
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "Qwen2Tokenizer": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GPT2Tokenizer": {"unk_token": _END, "bos_token": _END, "eos_token": _END},
}
"""Special tokens of transformers' tokenizer classes, used for those that no file mentions."""
_QWEN = ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe")
_CLASSES = dict.fromkeys((*_QWEN, "internvl"), "Qwen2Tokenizer")
"""Tokenizer classes of model types."""
_GENERAL = ("llava", "llava_next", "mistral", "phi3", "smolvlm")
"""Model types whose tokenizer is the general class whatever the files name; it has no special tokens of its own."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The tokens of a checkpoint that mean something.

    Attributes:
        named: special tokens by the name under which a chat template knows them.
        added: tokens to add to `tokenizer.json`, in order.
        ids: ids of the named tokens that the vocabulary has, by their text.
    """

    named: dict[str, str]
    added: tuple[AddedTokenConfig, ...]
    ids: dict[str, int] = field(repr=False)

    def id(self, name: str) -> int | None:
        """Id of a named special token; None where there is none."""
        return self.ids.get(self.named.get(name, ""))


def read_tokenizer_settings(folder: Path, config: Mapping[str, Any]) -> TokenizerSettings:
    """Read the special and added tokens of a checkpoint folder.

    Args:
        folder: the checkpoint.
        config: its config.json.

    Raises:
        ConfigError: for a file that is malformed, or a token that is none.
    """
    tokenizer = directory.read_json(folder / directory.TOKENIZER)
    files = _Files(folder, _optional(folder / "tokenizer_config.json"))
    known = {token.content: token for _, token in _tokens(tokenizer.get("added_tokens"), folder / directory.TOKENIZER)}
    if "added_tokens_decoder" in files.settings:
        listed = files.decoder()
    else:
        files.merge_map()
        # Those of tokenizer.json go before the list of older versions.
        listed = [token for _, token in files.added_tokens() if token.content not in known] + list(known.values())
    cls = _class(files.settings, config, tokenizer)
    named = files.named({token.content: token for token in listed}, _DEFAULTS.get(cls, {}), tokenizer)
    extra = files.extra()
    added = _merge(listed, named.values(), extra, known)
    if cls == "Qwen2Tokenizer":
        # That class adds its special tokens once more, as plain ones.
        added += [AddedTokenConfig(token.content) for token in (*named.values(), *extra)]
    wanted = {name: token.content for name, token in named.items()}
    return TokenizerSettings(wanted, _changes(added, known), _ids(set(wanted.values()), added, tokenizer))


@dataclass
class _Files:
    """Settings of a tokenizer while they are read: those of `tokenizer_config.json`, with others merged into it."""

    folder: Path
    settings: dict[str, Any]

    @property
    def where(self) -> Path:
        return self.folder / "tokenizer_config.json"

    def decoder(self) -> list[AddedTokenConfig]:
        """`added_tokens_decoder`, by id."""
        decoder = self.settings["added_tokens_decoder"]
        if not isinstance(decoder, Mapping) or not all(str(index).isdecimal() for index in decoder):
            raise ConfigError(f"{self.where}: added_tokens_decoder should map ids to tokens")
        return [_token(decoder[index], self.where, special=False) for index in sorted(decoder, key=int)]

    def merge_map(self) -> None:
        """`special_tokens_map.json`, which goes before `tokenizer_config.json`."""
        file = self.folder / "special_tokens_map.json"
        for name, value in _optional(file).items():
            if name == "extra_special_tokens":
                before = self.settings.get(name) or []
                self.settings[name] = [*before, *value] if isinstance(value, list) else value
            else:
                token = isinstance(value, Mapping)
                self.settings[name] = replace(_token(value, file), special=True) if token else value

    def added_tokens(self) -> list[tuple[int, AddedTokenConfig]]:
        """`added_tokens.json`, by id: a token is special if it is named."""
        file = self.folder / "added_tokens.json"
        named = {_token(v, file).content for v in self._special().values()} | {t.content for t in self.extra()}
        found = _optional(file)
        if not all(isinstance(index, int) for index in found.values()):
            raise ConfigError(f"{file}: should map tokens to ids")
        tokens = [(i, AddedTokenConfig(t, normalized=t not in named, special=t in named)) for t, i in found.items()]
        return sorted(tokens, key=lambda item: item[0])

    def _special(self) -> dict[str, Any]:
        """The named special tokens as they are written; a name that is null is none."""
        names = [name for name in _STANDARD if self.settings.get(name) is not None]
        others = [n for n, v in self.settings.items() if n.endswith("_token") and n not in _STANDARD and _is_token(v)]
        extra = self.settings.get("extra_special_tokens")
        return {n: self.settings[n] for n in (*names, *others)} | (extra if isinstance(extra, dict) else {})

    def named(
        self, listed: Mapping[str, AddedTokenConfig], defaults: Mapping[str, str], tokenizer: Mapping[str, Any]
    ) -> dict[str, AddedTokenConfig]:
        """The named special tokens.

        Args:
            listed: added tokens by their text, which say how a token is looked for.
            defaults: tokens of the tokenizer's class.
            tokenizer: tokenizer.json, whose padding has a token.
        """
        padding = tokenizer.get("padding")
        if isinstance(padding, Mapping) and isinstance(padding.get("pad_token"), str):
            defaults = {"pad_token": padding["pad_token"], **defaults}
        missing = {name: token for name, token in defaults.items() if name not in self.settings}
        found = {name: _token(value, self.where) for name, value in self._special().items()}
        found |= {name: AddedTokenConfig(token) for name, token in missing.items()}
        order = [name for name in _STANDARD if name in found] + [name for name in found if name not in _STANDARD]
        return {name: listed.get(found[name].content, found[name]) for name in order}

    def extra(self) -> list[AddedTokenConfig]:
        """Special tokens without a name of their own."""
        extra = self.settings.get("extra_special_tokens") or self.settings.get("additional_special_tokens")
        if extra is not None and not isinstance(extra, (list, dict)):
            raise ConfigError(f"{self.where}: extra_special_tokens should be a list or an object, found {extra!r}")
        return [_token(value, self.where) for value in extra] if isinstance(extra, list) else []


def _optional(file: Path) -> dict[str, Any]:
    return directory.read_json(file) if file.is_file() else {}


def _is_token(value: object) -> bool:
    return isinstance(value, (str, AddedTokenConfig)) or (isinstance(value, Mapping) and "content" in value)


def _token(value: object, where: Path, special: bool = True) -> AddedTokenConfig:
    """A token as files write it: its text, or an object.

    Args:
        value: what the file has.
        where: the file, for errors.
        special: whether it is special where the object does not say so.
    """
    if isinstance(value, AddedTokenConfig):
        return value
    if isinstance(value, str):
        return AddedTokenConfig(value, special=special, normalized=not special)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise ConfigError(f"{where}: {str(value)[:60]!r} is no token; it should be a text, or an object with content")
    given = {name: v for name, v in value.items() if name not in ("__type", "id")}
    given.setdefault("special", special)
    given.setdefault("normalized", not given["special"])
    return AddedTokenConfig.from_dict(given, f"{where}: token {value['content']!r}")


def _tokens(listed: object, where: Path) -> list[tuple[int, AddedTokenConfig]]:
    """`added_tokens` of tokenizer.json."""
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(t, Mapping) and isinstance(t.get("id"), int) for t in listed):
        raise ConfigError(f"{where}: added_tokens should be a list of tokens with ids; download it again")
    return [(token["id"], _token(token, where, special=False)) for token in listed]


def _class(settings: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    """The tokenizer class that transformers' AutoTokenizer takes; "" for the general one."""
    kind = str(config.get("model_type", ""))
    given = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or "").removesuffix("Fast")
    usual = _CLASSES.get(kind, "")
    if kind == "qwen2" or not given:
        return usual
    # Llama 3 has byte-level tokens and names the class of Llama 2, which has not.
    misnamed = given == "LlamaTokenizer" and "'ByteLevel'" in str(tokenizer.get("pre_tokenizer"))
    return "" if kind in _GENERAL or misnamed else given


def _merge(
    listed: Iterable[AddedTokenConfig],
    named: Iterable[AddedTokenConfig],
    extra: Iterable[AddedTokenConfig],
    known: Mapping[str, AddedTokenConfig],
) -> list[AddedTokenConfig]:
    """All tokens that transformers adds to those of tokenizer.json, in its order: listed, named, extra."""
    named = list(named)
    added = list(listed)
    present = {*known, *(token.content for token in added)}
    for token in (*named, *extra):
        if token.content not in present:
            present.add(token.content)
            added.append(token)
    names = {token.content for token in named}
    return [replace(token, special=True) if token.content in names else token for token in added]


def _changes(added: Iterable[AddedTokenConfig], known: Mapping[str, AddedTokenConfig]) -> tuple[AddedTokenConfig, ...]:
    """Those that tokenizer.json does not have already, in this form."""
    current, changes = dict(known), []
    for token in added:
        if token.content and current.get(token.content) != token:
            current[token.content] = token
            changes.append(token)
    return tuple(changes)


def _ids(wanted: set[str], added: Iterable[AddedTokenConfig], tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Ids of some tokens, by their text."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):
        vocabulary = {piece[0]: i for i, piece in enumerate(vocabulary) if isinstance(piece, list) and piece}
    ids: dict[str, int] = {t: i for t, i in vocabulary.items() if t in wanted} if isinstance(vocabulary, dict) else {}
    listed = {t["content"]: t["id"] for t in tokenizer.get("added_tokens") or ()}
    following = max((len(vocabulary or ()), *(i + 1 for i in listed.values())))
    for token in added:
        if token.content not in listed and token.content not in (vocabulary or ()):
            listed[token.content] = following
            following += 1
    return {t: i for t, i in listed.items() if t in wanted} | ids
