"""Submission files of competitions: an identifier and the predicted class, or probabilities, of each image."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loupe import csv_files
from loupe.errors import ConfigError, DataError, DiskError, unknown_name
from loupe.runs.classify import Labels

ALL_CLASSES = "*"
WITH_EXTENSION = ("path", "file", "image", "img")  # words in the names of columns of whole file names


@dataclass(frozen=True)
class Submission:
    """Columns of a submission.

    Attributes:
        id_name: header of the identifiers.
        columns: header of each other column, and the class whose probability it has; None for the predicted class.
    """

    id_name: str
    columns: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, text: str, classes: Sequence[str]) -> "Submission":
        """Submission from text: `id,label` has the predicted class; `id,cat,dog` and `id,*` probabilities of classes,
        and `id,label=dog` that of one class under another header.

        Raises:
            ConfigError: there is no column beside the identifier, or a class is unknown.
        """
        id_name, *others = (part.strip() for part in text.split(","))
        if not id_name or not others or not all(others):
            raise ConfigError(f"--submission {text!r}: expected two or more column names, for example id,label.")
        columns: list[tuple[str, str | None]] = []
        for part in others:
            header, equals, name = part.partition("=")
            if part == ALL_CLASSES:
                columns += [(known, known) for known in classes]
            elif part in classes:
                columns.append((part, part))
            elif equals and name in classes:
                columns.append((header, name))
            elif equals or len(others) > 1:
                raise unknown_name("class", name if equals else part, classes)
            else:
                columns.append((part, None))
        return cls(id_name, tuple(columns))

    @property
    def header(self) -> tuple[str, ...]:
        return (self.id_name, *(header for header, _ in self.columns))

    def check_path(self, path: Path, source: Path | None) -> None:
        """Check, before anything is predicted, that the file can be written and is no other than an earlier submission.

        Args:
            path: file to write.
            source: list of the images, which may have the same columns.

        Raises:
            ConfigError: it cannot.
        """
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise ConfigError(f"--to {path} is not a file in a folder that exists. Choose another.")
        if source is not None and path.resolve() == source.resolve():
            raise ConfigError(f"--to {path} is the list of the images. Choose another file.")
        if path.is_file() and path.stat().st_size:
            with path.open(encoding="utf-8", errors="replace") as file:
                header = file.readline().rstrip("\r\n")
            if header != ",".join(self.header):
                raise ConfigError(f"{path} exists and has other columns. Choose another file with --to.")

    def check_names(self, paths: Sequence[str]) -> None:
        """Check, before anything is predicted, that files have identifiers of their own, where no list has them.

        Raises:
            DataError: several files would have one identifier.
        """
        repeated = [name for name, count in Counter(map(self._from_file, paths)).items() if count > 1]
        if repeated:
            raise DataError(
                f"several files are called {repeated[0]}. Give a list of the images with their {self.id_name}."
            )

    def write(self, path: Path, parts: Iterable[Labels], ids: Mapping[str, str]) -> None:
        """Write a row for each image, in the order of the predictions and as they come.

        Identifiers from the user's list are written as they are, because a competition compares them; names of classes
        and of files that a spreadsheet would run as formulas are neutralised.

        Args:
            path: file to write.
            parts: predictions.
            ids: identifier of each image by its path; empty for identifiers from the names of the files.

        Raises:
            DiskError: the file cannot be written.
        """
        rows = (row for part in parts for row in self._rows(part, ids))
        try:
            csv_files.write(path, self.header, rows, as_given=(0,) if ids else ())
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}. Choose another file with --to.") from None

    def _rows(self, labels: Labels, ids: Mapping[str, str]) -> Iterator[list[str]]:
        index = {name: k for k, name in enumerate(labels.predictions.classes)}
        for i, (path, label) in enumerate(zip(labels.predictions.path, labels.label, strict=True)):
            values = (
                label if name is None else f"{labels.probability_NK[i, index[name]]:.6f}" for _, name in self.columns
            )
            yield [ids[path] if ids else self._from_file(path), *values]

    def _from_file(self, path: str) -> str:
        """Identifier from a file name: without the extension, unless the header speaks of files or images."""
        text = self.id_name.casefold()
        whole = not text.endswith("id") and any(word in text for word in WITH_EXTENSION)
        return PurePosixPath(path).name if whole else PurePosixPath(path).stem
