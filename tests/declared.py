"""Every command with declared options: those, its public function and its name."""

import geoseg
from geoseg.accuracy.options import CompareOptions, EvaluateOptions, SampleOptions
from geoseg.inference.options import PlanOptions, PreviewOptions, SegmentOptions
from geoseg.maps.options import ClassesOptions, ExportOptions, VerifyOptions
from geoseg.pipeline.options import RunOptions
from geoseg.rasters.options import ComposeOptions
from geoseg.rasters.search_options import SearchOptions
from geoseg.training.options import TrainOptions
from geoseg.vector.options import VectorizeOptions
from geoseg.viz.options import ReportOptions, ViewOptions

DECLARED = {
    PlanOptions: (geoseg.make_plan, "plan"),
    SegmentOptions: (geoseg.segment, "segment"),
    VectorizeOptions: (geoseg.vectorize, "vectorize"),
    ClassesOptions: (geoseg.name_classes, "classes"),
    ExportOptions: (geoseg.export, "export"),
    VerifyOptions: (geoseg.verify, "verify"),
    ReportOptions: (geoseg.report, "report"),
    ViewOptions: (geoseg.view, "view"),
    EvaluateOptions: (geoseg.evaluate, "evaluate"),
    SampleOptions: (geoseg.sample, "sample"),
    CompareOptions: (geoseg.compare, "compare"),
    ComposeOptions: (geoseg.compose, "compose"),
    TrainOptions: (geoseg.train, "train"),
    RunOptions: (geoseg.run, "run"),
    SearchOptions: (geoseg.search, "search"),
}

# What a command has beyond its function: `plan` takes a command of `segment` as it is.
TYPED = {**{o: name for o, (_, name) in DECLARED.items()}, PreviewOptions: "plan"}
del TYPED[PlanOptions]
