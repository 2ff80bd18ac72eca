"""Names of columns: aliases of each role that cannot mislead, and words that tell what a column might be.

An alias is taken by itself only if a wrong guess shows: names of files must exist, classes are printed, images of one
patient stay together, a column of splits holds nothing but split words.
"""

import re
from collections.abc import Sequence

# Names in small letters, without spaces, punctuation and the s of a plural; the first one that a table has is taken.
ALIASES = {
    "path": (
        *("path", "filepath", "filename", "file", "imagepath", "imagefile", "imagefilename", "imagename", "imgpath"),
        *("imgfile", "imgname", "image", "img", "imageid", "imgid"),
    ),
    "label": ("label", "finelabel", "class", "category", "target", "classname", "labelname", "classlabel"),
    "split": ("split", "subset", "set", "partition", "dataset", "datasplit", "phase", "usage", "fold"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid"),
    "id": ("id", "imageid", "imgid"),
}
FLAGS = ("isvalid", "isval", "isvalidation", "istest")  # columns of true and false that are splits
TRUE, FALSE = frozenset({"true", "1", "1.0", "yes", "t", "y"}), frozenset({"false", "0", "0.0", "no", "f", "n"})
ONE, ZERO = TRUE - {"yes", "t", "y"}, FALSE - {"no", "f", "n"}

# Words in the names of columns that may have a role, in which nobody but their owner can tell.
HINTS = {
    "group": (
        *("patient", "subject", "person", "participant", "lesion", "case", "study", "animal", "individual", "video"),
        *("sequence", "session", "burst", "site", "hospital", "center", "centre", "scanner", "camera", "device"),
        *("slide", "specimen", "series", "user", "author", "group", "plate", "well"),
    ),
    "split": ("split", "fold", "subset", "partition", "train", "training", "valid", "val", "test", "phase", "usage"),
    "label": (
        *("label", "class", "category", "target", "diagnosis", "dx", "finding", "disease", "grade", "species", "breed"),
        *("genus", "type", "kind", "name", "code", "level", "tag", "y"),
    ),
    "path": ("path", "file", "filename", "image", "img", "picture", "photo", "url", "uri", "id", "name"),
}
INDEX = re.compile(r"|unnamed:? *\d+(_level_\d+)?|__index_level_\d+__", re.IGNORECASE)  # of a table that pandas wrote


def squashed(name: str) -> str:
    """Name as aliases are compared: small letters, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def known(name: str) -> bool:
    """True for a name that is an alias of a role."""
    return any(rank(name, aliases) is not None for aliases in (*ALIASES.values(), FLAGS))


def guesses(name: str) -> list[str]:
    """Roles that a column might have, by the words in its name."""
    words = set(re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())) | {squashed(name)}
    return [role for role, hints in HINTS.items() if words & set(hints)]


def rank(name: str, aliases: Sequence[str]) -> int | None:
    """Position of a name, or of its singular, among aliases."""
    text = squashed(name)
    return next((aliases.index(form) for form in (text, text.removesuffix("s")) if form in aliases), None)
