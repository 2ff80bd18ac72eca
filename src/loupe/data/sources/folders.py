"""Image files on disk: a folder of class folders, or paths for prediction."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from loupe.data.class_names import are_numbers, form_notes, index_of, same_form, sorted_classes
from loupe.data.find_file import existing
from loupe.data.formats import image_suffixes
from loupe.data.remote.redaction import redacted_word
from loupe.data.sources.boundary import Boundary, links_error
from loupe.data.sources.folder_layout import Assignment, Layout, classes_in_order, lone_split, read_layout
from loupe.data.sources.in_memory import local_path
from loupe.data.sources.split_folders import EXPECTED, Parts
from loupe.data.table import ImageTable, describe, make_rows, text_name
from loupe.data.unread import UnreadFiles, grouped, sentences_on, unread_format
from loupe.errors import DataError, counted, enumerated, sentences

METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})  # of the Hugging Face ImageFolder layout
NOT_DATA = frozenset({"__MACOSX", "__pycache__", "lost+found"})


@dataclass
class Tree:
    """Contents of a folder: image files as sorted names relative to it, and skipped files and folders."""

    images: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)  # Parquet files, as sorted relative names
    tars: list[str] = field(default_factory=list)  # as sorted relative names; also counted in `others`
    metadata: list[str] = field(default_factory=list)  # files of METADATA, which may list the images
    others: Counter[str] = field(default_factory=Counter)  # other files, by suffix
    unread: list[tuple[str, str]] = field(default_factory=list)  # images that cannot be read: relative name, format
    empty: list[str] = field(default_factory=list)  # folders without images
    hidden: int = 0  # hidden folders, which are skipped
    loops: list[str] = field(default_factory=list)  # links to folders that are in the tree already
    system: list[str] = field(default_factory=list)  # folders of the system, as /proc, which are not read
    outside: dict[str, str] = field(default_factory=dict)  # target of each image that is a link out of the folder

    def notes(self) -> list[str]:
        """Sentences about skipped files and folders."""
        notes = []
        if self.others:
            kinds = enumerated([suffix or "no suffix" for suffix, _ in self.others.most_common()], most=5)
            notes.append(f"Skipped {counted(self.others.total(), 'file')} without an image suffix ({kinds}).")
        if self.empty:
            notes.append(
                f"Skipped {counted(len(self.empty), 'folder')} without images ({enumerated(self.empty, most=5)})."
            )
        if self.hidden:
            notes.append(f"Skipped {counted(self.hidden, 'hidden folder')}.")
        if self.system:
            notes.append(f"Skipped {counted(len(self.system), 'folder')} of the system ({enumerated(self.system)}).")
        if self.loops:
            notes.append(
                f"Skipped {counted(len(self.loops), 'link')} to a folder that is read already "
                f"({enumerated(self.loops, most=5)})."
            )
        return notes


def scan(folder: Path, *, follow_links: bool = False, most_entries: int | None = None) -> Tree:
    """List the contents of a folder. Links are followed, and each folder is listed once: first without links.

    Args:
        folder: folder to list.
        follow_links: follow links out of the folder, too.
        most_entries: number of files and folders from which the folder is refused as too large; None for no limit.

    Raises:
        DataError: a folder cannot be read; a link leads to a folder outside, or all images are links to files outside;
            there are more than `most_entries`.
    """
    tree = Tree()
    walk = _Walk(tree, Boundary(folder, follow_links=follow_links), most_entries)
    walk.links.append((os.fspath(folder), ""))
    while walk.links:
        links, walk.links = sorted(walk.links, key=itemgetter(1)), []
        for path, prefix in links:
            walk.enter(path, prefix)
    if walk.leaving:
        raise links_error(folder, dict(sorted(walk.leaving.items())))
    if tree.outside and len(tree.outside) == len(tree.images):
        raise links_error(folder, dict(sorted(tree.outside.items())))
    tree.empty = walk.empty()
    for names in (tree.images, tree.shards, tree.tars, tree.metadata, tree.empty):
        names.sort()
    tree.unread.sort()
    return tree


def open_folder(folder: Path, tree: Tree) -> ImageTable:
    """Table of a scanned folder of class folders; the name of the class folder is the label at any depth below it.

    Folders with split words above the class folders are the splits, as `folder_layout` says. A single top-level
    folder, as in many archives, is entered.

    Raises:
        DataError: the layout is not supported; the message shows the supported ones.
    """
    if not tree.images:
        raise DataError(f"{folder}: {_no_images(tree)}; {EXPECTED}")
    found = labelled_by_folders(tree.images, str(folder))
    layout, inner = found.layout, found.inner
    rows = make_rows(
        n=len(found.used),
        path=[tree.images[i] for i in found.used],
        label=found.labels,
        split=[split for split, _ in found.assigned],
    )
    notes = [describe(rows, found.classes), *found.notes]
    unread = grouped((layout.class_of(name.removeprefix(inner).split("/")), kind, name) for name, kind in tree.unread)
    name, root = text_name(folder.resolve().name), folder.resolve()
    notes += tree.notes()
    uses, outside = tuple(layout.uses), tree.outside
    return ImageTable(rows, found.classes, name, root, tuple(notes), unread, layout=uses, outside=outside)


@dataclass(frozen=True)
class FolderLabels:
    """Labels of images by the folders in their names.

    Attributes:
        used: positions of the images that have a label.
        assigned: split and class of each of them.
        labels: index of the class of each of them.
        classes: class names.
        layout: use of each folder below `inner`, the path of single folders above all of them.
        notes: sentences about the layout and the names of the classes.
    """

    used: list[int]
    assigned: list[Assignment]
    labels: list[int]
    classes: tuple[str, ...]
    layout: Layout
    inner: str
    notes: list[str]


def labelled_by_folders(names: Sequence[str], where: str) -> FolderLabels:
    """Labels of images by the folders in their relative names, as `folder_layout` says.

    Raises:
        DataError: the layout is not supported.
    """
    inner = _inner(names)
    layout = read_layout(_folders_of(names, inner), where)
    pairs = [(i, pair) for i, pair in enumerate(layout.assignments) if pair is not None]
    assigned = [pair for _, pair in pairs]
    classes, class_notes = classes_in_order(assigned)
    if are_numbers(classes):
        classes = list(sorted_classes(classes))
    index = index_of(classes)
    labels = {label for _, label in {*assigned}}
    number = {label: index[same_form(label)] for label in labels}
    notes = [*([f"The images are in {inner}."] if inner else []), *layout.notes, *class_notes, *form_notes(labels)]
    numbers = [number[label] for _, label in assigned]
    return FolderLabels([i for i, _ in pairs], assigned, numbers, tuple(classes), layout, inner, notes)


def classes_before_numbers(table: ImageTable) -> tuple[str, ...]:
    """Classes in the order of runs that did not record it: in those, folders named by numbers were sorted as text."""
    is_folder = bool(table.layout) and table.layout[0].source.endswith("/")
    if not is_folder or not are_numbers(table.classes):
        return table.classes
    labelled = zip(table.splits, table.labels.tolist(), strict=True)
    return tuple(classes_in_order([(split, table.classes[label]) for split, label in labelled])[0])


def from_paths(
    paths: str | Path | Iterable[str | Path], *, unique: bool = True, follow_links: bool = False
) -> ImageTable:
    """Table of unlabelled images for prediction from files, folders (recursively) and globs, in the order given.

    Args:
        paths: one path or several.
        unique: take an image matched by several paths once; otherwise once for each of them.
        follow_links: follow links out of these folders. A file that is named, or matches a glob, is always read.

    Raises:
        DataError: a path matches nothing, or a folder cannot be read.
    """
    path_list = [paths] if isinstance(paths, str | Path) else list(paths)
    if not path_list:
        raise DataError("no paths given; name image files, folders or globs such as 'photos/*.jpg'.")
    tree = Tree()
    names = [name for path in path_list for name in dict.fromkeys(_expand(path, tree, follow_links))]
    names = list(dict.fromkeys(names)) if unique else names
    rows = make_rows(n=len(names), path=names, label=None)
    notes = (f"{counted(len(names), 'image')}.", *tree.notes())
    return ImageTable(rows, (), "paths", Path.cwd(), notes, _without_class(tree), outside=tree.outside)


def _folders_of(names: Sequence[str], inner: str) -> list[Parts]:
    """Folders below `inner` of each image, of which there are few: one object for all images of a folder."""
    folders = [name.rpartition("/")[0] for name in names]
    parts = {folder: (*f"{folder}/".removeprefix(inner).split("/"),) for folder in {*folders} - {""}}
    parts[""] = ("",)
    return [parts[folder] for folder in folders]


def _no_images(tree: Tree) -> str:
    unread = " ".join(_unread(tree)).rstrip(".")
    return f"there are no images in it that can be read. {unread}" if unread else "there are no images in it"


def _unread(tree: Tree) -> list[str]:
    return sentences_on(_without_class(tree), {})


def _without_class(tree: Tree) -> tuple[UnreadFiles, ...]:
    return grouped((None, kind, name) for name, kind in tree.unread)


class _Walk:
    """Walk through folders, each once by its device and inode. Links to folders wait until all others are listed."""

    def __init__(self, tree: Tree, boundary: Boundary, most_entries: int | None = None) -> None:
        self.tree = tree
        self.most_entries, self._entries = most_entries, 0
        self.boundary = boundary
        self.links: list[tuple[str, str]] = []  # path and prefix
        self.leaving: dict[str, str] = {}  # target of each link out of the folder to what is no image
        self._seen: set[tuple[int, int]] = set()
        self._system = system_devices()
        self._folders: list[str] = []  # prefixes
        self._used: set[str] = {""}  # prefixes of folders with images below them

    def enter(self, folder: str, prefix: str) -> None:
        """Add the contents of a folder and of those in it to the tree."""
        below = [(folder, prefix)]
        while below:  # not by recursion, whose depth a stranger would choose
            below += reversed([*self._list(*below.pop())])

    def _list(self, folder: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Add the files of a folder to the tree. Paths and prefixes of the folders in it that are no links."""
        here, entries = _entries(folder)
        if here[0] in self._system:
            if not prefix:
                raise DataError(
                    f"{text_name(folder)}: a folder of the system, which has no images. Give another folder."
                )
            self.tree.system.append(prefix.rstrip("/"))
            return
        if here in self._seen:
            self.tree.loops.append(prefix.rstrip("/"))
            self._use(prefix)
            return
        self._seen.add(here)
        self._entries += len(entries)
        if self.most_entries is not None and self._entries > self.most_entries:
            raise DataError(
                f"{self.boundary.folder}: it has more than {self.most_entries:,} files and folders, too many to search "
                "for the names of images. Name the folder of the images."
            )
        self._folders.append(prefix)
        for entry in entries:
            name = prefix + text_name(entry.name)
            if not is_folder(entry):
                self._add_file(entry, name, prefix)
            elif entry.name.startswith(".") or entry.name in NOT_DATA:
                self.tree.hidden += 1
            elif not entry.is_symlink():
                yield entry.path, name + "/"
            elif target := self.boundary.outside(entry.path):
                self.leaving[name] = target
            else:
                self.links.append((entry.path, name + "/"))

    def empty(self) -> list[str]:
        """Folders without images, but not those below them."""
        unused = (prefix for prefix in self._folders if prefix not in self._used)
        return [prefix[:-1] for prefix in unused if _above(prefix) in self._used]

    def _add_file(self, entry: os.DirEntry[str], name: str, prefix: str) -> None:
        if entry.name.startswith("."):
            return
        suffix = suffix_of(entry.name)
        target = self.boundary.outside(entry.path) if entry.is_symlink() else None
        # A broken link with an image's name is kept, so that it is reported as a damaged image.
        if suffix in image_suffixes() and (entry.is_symlink() or entry.is_file()):
            self.tree.images.append(name)
            self._use(prefix)
            if target:
                self.tree.outside[name] = target
        elif target and (suffix in {".parquet", ".tar"} or entry.name in METADATA):
            self.leaving[name] = target
        elif suffix == ".parquet":
            self.tree.shards.append(name)
        elif suffix == ".tar":
            self.tree.tars.append(name)
            self.tree.others[suffix] += 1
        elif target:
            self.tree.others[suffix] += 1
        elif kind := unread_format(suffix, Path(entry.path)):
            self.tree.unread.append((name, kind))
        else:
            self.tree.others[suffix] += 1
        if entry.name in METADATA and entry.is_file():
            self.tree.metadata.append(name)

    def _use(self, prefix: str) -> None:
        while prefix not in self._used:
            self._used.add(prefix)
            prefix = _above(prefix)


def _above(prefix: str) -> str:
    return prefix[: prefix.rfind("/", 0, -1) + 1]


def _entries(folder: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """Device and inode of a folder, and its entries."""
    try:
        identity = Path(folder).stat()
        with os.scandir(folder) as entries:
            return (identity.st_dev, identity.st_ino), list(entries)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        remedy = (
            "It was removed while the data was read: start again" if gone else "Change its permissions, or move it away"
        )
        raise DataError(f"{text_name(folder)}: this folder cannot be read: {error.strerror}. {remedy}.") from None


def system_devices() -> frozenset[int]:
    """Devices of file systems in which the system shows itself, and of which no list has an end."""
    found = (folder for folder in ("/proc", "/sys", "/dev") if os.path.ismount(folder))  # absent on Windows
    return frozenset(Path(folder).stat().st_dev for folder in found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder, and for a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _inner(names: Sequence[str]) -> str:
    """Path of single folders, without other folders or images beside them, down to the class folders."""
    inner = ""
    while True:
        heads = {name.removeprefix(inner).partition("/")[0] for name in names}
        deeper = f"{inner}{next(iter(heads))}/"
        is_lone = len(heads) == 1 and all(name.startswith(deeper) for name in names)
        if not is_lone or lone_split(deeper[:-1].rpartition("/")[2]):
            return inner
        # A folder with images directly in it is a class folder.
        if any("/" not in name.removeprefix(deeper) for name in names):
            return inner
        inner = deeper


def _expand(path: str | Path, tree: Tree, follow_links: bool) -> Iterator[str]:
    """Image files of one path, folder or glob; skipped files are added to the tree."""
    # pathlib's functions raise for an unknown user and for a name that is too long.
    text = existing(Path(), os.path.expanduser(local_path(os.fspath(path))))  # noqa: PTH111
    if os.path.isfile(text):  # noqa: PTH113
        yield _posix(text)
    elif os.path.isdir(text):  # noqa: PTH112
        names = [*_below(text, tree, follow_links)]
        yield from _nonempty(names, f"{text_name(text)}: {_no_images(tree)}.")
    else:
        # Path.glob takes no absolute patterns.
        try:
            matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []  # noqa: PTH207
        except RecursionError:
            raise DataError(f"{text_name(text)}: the folders are nested too deeply for **. Give the folder.") from None
        if not matches:
            elsewhere = " Images elsewhere are classified with: loupe predict RUN ADDRESS --to OUT.parquet"
            hint = elsewhere if "://" in text else ""
            raise DataError(f"{text_name(redacted_word(text))}: no such file or folder, and no match as a glob.{hint}")
        names = [name for match in matches for name in _matched(match, tree, follow_links)]
        found = enumerated([text_name(match) for match in matches], most=5)
        yield from _nonempty(names, sentences(f"{text_name(text)}: it matches {found}, but no image", *_unread(tree)))


def _nonempty(names: list[str], message: str) -> list[str]:
    if not names:
        raise DataError(message)
    return names


def _matched(match: str, tree: Tree, follow_links: bool) -> Iterator[str]:
    suffix = Path(match).suffix.lower()
    if os.path.isdir(match):  # noqa: PTH112 - pathlib's raises without permission
        yield from _below(match, tree, follow_links)
    elif suffix in image_suffixes():
        yield _posix(match)
    elif kind := unread_format(suffix, Path(match)):
        tree.unread.append((_posix(match), kind))
    else:
        tree.others[suffix] += 1


def _below(folder: str, tree: Tree, follow_links: bool) -> Iterator[str]:
    below = scan(Path(folder), follow_links=follow_links)
    tree.others += below.others
    tree.unread += below.unread
    tree.empty += below.empty
    tree.hidden += below.hidden
    tree.loops += below.loops
    tree.system += below.system
    head = "" if (name := _posix(folder)) == "." else f"{name.rstrip('/')}/"
    tree.outside |= {head + name: target for name, target in below.outside.items()}
    yield from (head + name for name in below.images)


def suffix_of(name: str) -> str:
    """Suffix as in `image_suffixes()`; faster than pathlib for a hundred thousand names."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _posix(name: str) -> str:
    return text_name(Path(name).as_posix())
