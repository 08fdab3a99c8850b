"""A reader of JSON Schemas, of the words that ours uses: type, required, properties, items, const."""

from __future__ import annotations

from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, rule: dict[str, Any], place: str = "") -> list[str]:
    """What a JSON value breaks of a schema."""
    wanted = rule.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    allowed = tuple(kind for name in wanted for kind in KINDS[name])
    if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
        return [f"{place}: {value!r} is no {wanted}"]
    if "const" in rule and value != rule["const"]:
        return [f"{place}: {value!r}"]
    found = [f"{place}: no {key}" for key in rule.get("required", ()) if key not in value]
    if isinstance(value, dict):
        known = rule.get("properties", {})
        found += [f for k, v in value.items() if k in known for f in faults(v, known[k], f"{place}.{k}")]
    if isinstance(value, list) and "items" in rule:
        found += [f for i, v in enumerate(value) for f in faults(v, rule["items"], f"{place}[{i}]")]
    return found
