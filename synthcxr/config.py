"""Configuration: frozen models, read from YAML plus `key.path=value` overrides, and written back resolved.

A command is a `Config` beside a `run(config)`. What a run folder keeps (`dump_config`) is itself a valid input, and
every mistake ends as one line that names the file, the field, the rule and, where a name is nearly right, the name.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from synthcxr.errors import ConfigError, UserError, did_you_mean, shown


class Config(BaseModel):
    """Base of every configuration and record: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a `cls` from a YAML file, from overrides, or from both; overrides win.

    Args:
        path: a YAML file holding only what differs from the defaults; None for none.
        overrides: `key.path=value` each; the value is parsed as YAML, a number in the path indexes a list.
    Raises:
        ConfigError: one line: the file, the field, its value, the rule.
    """
    data = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply_override(data, override)
    where = f"{shown(path)}: " if path is not None else ""
    try:
        return cls.model_validate(_with_nested_defaults(cls, data))
    except ValidationError as error:
        raise ConfigError(where + explain(error, cls, data)) from None
    except UserError as error:  # raised by a field's own validator, which knows the rule but not the file
        raise type(error)(f"{where}{error}") from None


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, every default written out; `load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def config_hash(config: BaseModel) -> str:
    """sha256 (64 hex digits) of the configuration's canonical JSON: keys sorted, no blanks, ASCII."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def explain(error: ValidationError, cls: type[BaseModel], data: Any) -> str:
    """One line for a pydantic error: `optimizer.learning_rate = -0.1 must be > 0`.

    Args:
        error: what `cls.model_validate(data)` raised.
        data: what was validated; the field's path is read off it, so that union branches don't show up in it.
    """
    # A misspelt key is also a missing one: the spelling is what the user has to see.
    items = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    problems = [(_dotted(item, data), item) for item in items]
    first, item = problems[0]
    if item["type"] == "extra_forbidden":
        line = f"{first} is no known key{_key_remedy(cls, item['loc'])}"
    elif item["type"] == "missing":
        line = f"{first} is missing; give it as {first}=VALUE or in the YAML file"
    else:
        # A field that may be one of several types yields one problem a type: they belong in one sentence.
        rules = dict.fromkeys(_rule(other) for name, other in problems if name == first)
        line = f"{first} = {_short(item['input'])} {' or '.join(rules)}" if first else " or ".join(rules)
    more = len({name for name, _ in problems}) - 1
    return line + (f" (and {more} more)" if more else "")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error: the first one would be dropped silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key '{key_node.value}' is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str) -> Any:
    """Raises ConfigError with YAML's own account of what is wrong and on which line."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"is no valid YAML: {error.problem or error.context}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"is no valid YAML: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{shown(path)}: there is no such file{did_you_mean(path.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it must be UTF-8 text"
        raise ConfigError(f"{shown(path)}: can't be read: {reason}") from None
    try:
        data = _parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{shown(path)}: must hold `key: value` lines, not {_short(data)}")
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` inside `data`, making the mappings on the way."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"'{override}' must be written key.path=value")
    try:
        value = _parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"the value of '{override}' {error}; quote it") from None
    node: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        key: Any = part
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                rule = f"is a list of {len(node)}; '{part}' must be a number below {len(node)}"
                raise ConfigError(f"'{override}': {'.'.join(parts[:depth])} {rule}")
            key = int(part)
        elif node.get(part) is None and not last:
            node[part] = {}
        if last:
            node[key] = value
        elif not isinstance(node[key], dict | list):
            raise ConfigError(f"'{override}': {'.'.join(parts[: depth + 1])} is {_short(node[key])} and has no keys")
        else:
            node = node[key]


def _with_nested_defaults(cls: type[BaseModel], data: Any) -> Any:
    """Fill a partly given nested configuration from the outer field's default, not from its own class's.

    `optimizer.beta=0.9` must not reset the learning rate of `optimizer: Optimizer = Optimizer(learning_rate=3)`.
    """
    if not isinstance(data, dict):
        return data
    filled = dict(data)
    for name, field in cls.model_fields.items():
        given, inner = filled.get(name), field.annotation
        if isinstance(given, dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, inner):
                given = _merge(default.model_dump(mode="json", exclude_unset=True), given)
            filled[name] = _with_nested_defaults(inner, given)
    return filled


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _dotted(item: Mapping[str, Any], data: Any) -> str:
    """`a.b.0` for a pydantic location, without the parts that name union branches and validators."""
    parts, node = [], data
    for depth, part in enumerate(item["loc"]):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif not (item["type"] == "missing" and depth == len(item["loc"]) - 1):
            continue
        parts.append(str(part))
    return ".".join(parts)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every configuration class named inside a type: `dict[str, Arm] | None` gives [Arm]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _key_remedy(cls: type[BaseModel], loc: tuple[Any, ...]) -> str:
    models = [cls]
    for part in loc[:-1]:
        inner = [m for model in models if part in model.model_fields
                 for m in _models_in(model.model_fields[part].annotation)]  # fmt: skip
        models = inner or [model for model in models if model.__name__ == part] or models
    known = list(dict.fromkeys(name for model in models for name in model.model_fields))
    return did_you_mean(str(loc[-1]), known) or (f"; the keys here are {', '.join(known)}" if known else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_RULES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda c: f"must be > {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be >= {c['ge']:g}",
    "less_than": lambda c: f"must be < {c['lt']:g}",
    "less_than_equal": lambda c: f"must be <= {c['le']:g}",
    "multiple_of": lambda c: f"must be a multiple of {c['multiple_of']:g}",
    "literal_error": lambda c: f"must be {c['expected']}",
    "enum": lambda c: f"must be {c['expected']}",
    "too_short": lambda c: f"must have at least {c['min_length']} entries",
    "too_long": lambda c: f"must have at most {c['max_length']} entries",
    "string_too_short": lambda c: f"must have at least {c['min_length']} characters",
    "string_too_long": lambda c: f"must have at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: f"must match {c['pattern']}",
    "value_error": lambda c: str(c["error"]),
}
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "path": "a path",
    "list": "a list", "tuple": "a list", "dict": "a mapping of keys to values", "model": "a mapping of keys to values",
    "finite": "a finite number",
}  # fmt: skip


def _rule(item: Mapping[str, Any]) -> str:
    """ "must be > 0" for one pydantic problem; pydantic's own sentence where we have no better one."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _RULES:
        meant = ""
        if kind in ("literal_error", "enum"):
            meant = did_you_mean(str(item["input"]), [word.strip("'") for word in _choices(context["expected"])])
        return _RULES[kind](context) + meant
    family = kind.split("_")[0]
    if family in _KINDS and kind.endswith(("_type", "_parsing", "_from_float", "_number")):
        return f"must be {_KINDS[family]}"
    return item["msg"][:1].lower() + item["msg"][1:]


def _choices(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")
