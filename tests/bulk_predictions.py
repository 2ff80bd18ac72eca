"""A tiny stored classifier, and predictions in bulk with it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loupe.bulk.models import bulk_model
from loupe.bulk.opening import source_of
from loupe.bulk.output import Output
from loupe.bulk.plan import Settings, asked_of
from loupe.bulk.predict import BulkResult, predict_bulk
from loupe.config.network import CnnSpec
from loupe.config.recipe import Preprocessing
from loupe.data.sources.read_options import ReadOptions
from loupe.models import bundle
from loupe.models.cnn import cnn
from loupe.runs.predictor import Predictor

COUNT, BATCH, UNIT = 23, 4, 8


def stored_model(folder: Path, classes: tuple[str, ...]) -> Predictor:
    spec = CnnSpec(name="tiny", blocks=())
    bundle.save(folder, cnn(spec, Preprocessing(size_px=8, load_px=8), classes, seed=0), spec, "fp32")
    return Predictor(folder, device="cpu")


def settings_for(predictor: Predictor, **changes) -> Settings:
    model = bulk_model(predictor)
    values = {"model": model.hash, "classes": model.classes, "temperature": model.temperature}
    return Settings(**{**values, "threshold": 0.0, "top": 1, "tta": None, **changes})


def bulk(
    predictor: Predictor,
    source: Path | list[str],
    to: Path,
    *,
    folder: bool = False,
    options=None,
    unit=UNIT,
    **changes,
) -> BulkResult:
    """Predict a folder, or a list where the path has its suffix, in units of eight images."""
    options = ReadOptions.of() if options is None else options
    paths = source if isinstance(source, list) else [str(source)]
    is_list = isinstance(source, Path) and source.suffix in {".csv", ".jsonl", ".parquet"}
    opened = source_of(paths, source if is_list else None, options)
    asked = asked_of(opened, options, settings_for(predictor, **changes))
    return predict_bulk(Output(to, folder), opened, asked, bulk_model(predictor), unit_images=unit)


def rows(path: Path) -> pa.Table:
    """Rows of a file, or of all parts in a folder, without metadata."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file).replace_schema_metadata() for file in files])


def names(folder: Path) -> list[str]:
    """Sorted names in a folder."""
    return sorted(path.name for path in folder.iterdir())
