"""Script: `loupe predict RUN FOLDER --to OUT/ --cluster ADDRESS` in small units."""

import sys

from loupe.bulk.models import bulk_model
from loupe.bulk.opening import source_of
from loupe.bulk.output import output_of
from loupe.bulk.plan import asked_of
from loupe.bulk.predict import predict_bulk
from loupe.cli.predict_table import settings_of
from loupe.cluster.connection import connected
from loupe.cluster.predictions import ClusterPredictions, ModelPlace
from loupe.data.sources.read_options import ReadOptions
from loupe.rundir import open_run
from loupe.runs.run import Run

UNIT_IMAGES = 8

if __name__ == "__main__":
    run, images, to, address = sys.argv[1:]
    opened, options, output = Run(open_run(run), device="cpu"), ReadOptions.of(), output_of(to)
    source = source_of([images], None, options)
    asked = asked_of(source, options, settings_of(opened, threshold=0.0, top=1, tta=None))
    with connected(address) as cluster:
        runner = ClusterPredictions(cluster, ModelPlace(opened.path.absolute(), False, "cpu", None))
        predict_bulk(output, source, asked, bulk_model(opened), unit_images=UNIT_IMAGES, runner=runner)
