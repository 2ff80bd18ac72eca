"""Patterns of paths: wildcards within one name, and `**` for any number of folders."""

from fnmatch import fnmatchcase


def fixed_folder(pattern: str, wildcards: str = "*?[") -> str:
    """Folder in which all matches of a pattern lie: the parts before the first wildcard, with a slash at the end."""
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts) if any(w in part for w in wildcards)), len(parts) - 1)
    return "".join(f"{part}/" for part in parts[:fixed])


def is_flat(pattern: str, wildcards: str = "*?[") -> bool:
    """True if only the last name of a pattern has wildcards, so that one folder holds all matches."""
    return "**" not in pattern and fixed_folder(pattern, wildcards) == pattern[: pattern.rfind("/") + 1]


def matches(pattern: str, path: str) -> bool:
    """True if a path matches a pattern, name by name."""
    return _match(pattern.split("/"), path.split("/"))


def _match(pattern: list[str], path: list[str]) -> bool:
    if not pattern or not path:
        return not path and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _match(pattern[1:], path) or _match(pattern, path[1:])
    return fnmatchcase(path[0], pattern[0]) and _match(pattern[1:], path[1:])
